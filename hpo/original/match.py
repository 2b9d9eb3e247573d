"""A study's trials beside the original's 14 points: which trial is which point's, and what differs.

A trial is a point's if model, optimizer, learning rate, momentum, batch size and site are the point's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpo.analysis import records
from hpo.analysis.records import Outcome
from hpo.errors import shown
from hpo.original import facts
from hpo.original.facts import Point

KEYS = ("model", "optimizer", "lr", "momentum", "batch_size")
NAMES = {"dataset": "data set", "image_size": "image size"}


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """One of the original's points with this study's complete trials of it."""

    point: Point
    trials: tuple[Outcome, ...]

    @property
    def accuracies(self) -> list[float]:
        """Each seed's best accuracy; several trials of one seed are one run, repeated: the first counts."""
        return [each.accuracy for each in self._by_seed() if each.accuracy is not None]

    @property
    def first_accuracies(self) -> list[float]:
        """Each seed's accuracy after the first epoch."""
        return [each.curve[1] for each in self._by_seed() if 1 in each.curve]

    def _by_seed(self) -> list[Outcome]:
        found: dict[Any, Outcome] = {}
        for each in self.trials:
            found.setdefault(each.setting.get("seed"), each)
        return list(found.values())

    def seconds(self, kind: str) -> list[tuple[float, ...]]:
        """Give the epochs' seconds of each trial on one kind of hardware."""
        return [each.epoch_seconds for each in self.trials if each.kind == kind and each.epoch_seconds]

    @property
    def kinds(self) -> list[str]:
        """The kinds of hardware it ran on."""
        return records.kinds(each for each in self.trials if each.epoch_seconds)


def replay(found: Iterable[Outcome]) -> dict[int, Replayed]:
    """Give the original's points by number, each with its trials, if any."""
    done = records.complete(found)
    return {n: Replayed(point=point, trials=_trials(point, done)) for n, point in facts.POINTS.items()}


def _trials(point: Point, done: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """Give a point's trials, of the other reading of its learning rate if there is none of the first."""
    wanted = {key: getattr(point, key) for key in KEYS}
    for lr in (point.lr, point.also_lr):
        wanted["lr"] = lr
        same = [each for each in done if each.site == point.site and _has(each, wanted)]
        if same:
            return tuple(same)
    return ()


def _has(each: Outcome, wanted: Mapping[str, Any]) -> bool:
    return all(each.setting.get(key) == value for key, value in wanted.items())


def differences(replayed: Iterable[Replayed]) -> list[str]:
    """Say in what the trials differ from the original's conditions, each difference once."""
    return list(dict.fromkeys(text for each in replayed for text in _differences(each)))


def _differences(replayed: Replayed) -> Iterable[str]:
    for each in replayed.trials:
        for key, value in facts.CONDITIONS.items():
            if key in each.setting and each.setting[key] != value:
                yield _said(key, each.setting[key], value)
        if each.planned != replayed.point.epochs:
            yield f"epochs {each.planned}, not {replayed.point.epochs} (site {replayed.point.site})"


def _said(key: str, here: Any, there: Any) -> str:
    name = NAMES.get(key, key)
    if key == "limit":
        return f"at most {here} training images, not all"
    if key == "dropout":
        return f"dropout {here}, not the models' own"
    return f"{name} {shown(here)}, not {shown(there)}"
