"""A study's trials beside the original's 14 points: which trial is which point's, and what differs.

A trial is a point's if model, optimizer, learning rate, momentum, batch size and site are the point's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpo.analysis import records
from hpo.analysis.records import TrialRecord
from hpo.errors import quote_value
from hpo.original import facts
from hpo.original.facts import ReportPoint

MATCHED_OPTIONS = ("model", "optimizer", "lr", "momentum", "batch_size")
OPTION_NAMES = {"dataset": "data set", "image_size": "image size"}


@dataclass(frozen=True, kw_only=True)
class MatchedPoint:
    """One of the original's points with this study's complete trials of it."""

    point: ReportPoint
    trials: tuple[TrialRecord, ...]

    @property
    def accuracies(self) -> list[float]:
        """Each seed's best accuracy; several trials of one seed are one run, repeated: the first counts."""
        return [each.accuracy for each in self._first_of_each_seed() if each.accuracy is not None]

    @property
    def first_accuracies(self) -> list[float]:
        """Each seed's accuracy after the first epoch."""
        return [each.curve[1] for each in self._first_of_each_seed() if 1 in each.curve]

    def _first_of_each_seed(self) -> list[TrialRecord]:
        found: dict[Any, TrialRecord] = {}
        for each in self.trials:
            found.setdefault(each.setting.get("seed"), each)
        return list(found.values())

    def epoch_seconds(self, kind: str) -> list[tuple[float, ...]]:
        """Give the epochs' seconds of each trial on one kind of hardware."""
        return [each.epoch_seconds for each in self.trials if each.hardware == kind and each.epoch_seconds]

    @property
    def hardware_kinds(self) -> list[str]:
        """The kinds of hardware it ran on."""
        return records.hardware_kinds(each for each in self.trials if each.epoch_seconds)


def match_trials(found: Iterable[TrialRecord]) -> dict[int, MatchedPoint]:
    """Give the original's points by number, each with its trials, if any."""
    done = records.complete_records(found)
    return {
        n: MatchedPoint(point=point, trials=_matching_trials(point, done))
        for n, point in facts.POINTS.items()
    }


def _matching_trials(point: ReportPoint, done: Sequence[TrialRecord]) -> tuple[TrialRecord, ...]:
    """Give a point's trials, of the other reading of its learning rate if there is none of the first."""
    wanted = {key: getattr(point, key) for key in MATCHED_OPTIONS}
    for lr in (point.lr, point.also_lr):
        wanted["lr"] = lr
        same = [
            each
            for each in done
            if each.attributes.get("site") == point.site and _has_options(each, wanted)
        ]
        if same:
            return tuple(same)
    return ()


def _has_options(each: TrialRecord, wanted: Mapping[str, Any]) -> bool:
    return all(each.setting.get(key) == value for key, value in wanted.items())


def describe_differences(replayed: Iterable[MatchedPoint]) -> list[str]:
    """Say in what the trials differ from the original's conditions, each difference once."""
    return list(dict.fromkeys(text for each in replayed for text in _point_differences(each)))


def _point_differences(replayed: MatchedPoint) -> Iterable[str]:
    for each in replayed.trials:
        for key, value in facts.CONDITIONS.items():
            if key in each.setting and each.setting[key] != value:
                yield _describe_difference(key, each.setting[key], value)
        if each.planned_epochs != replayed.point.epochs:
            yield f"epochs {each.planned_epochs}, not {replayed.point.epochs} (site {replayed.point.site})"


def _describe_difference(key: str, here: Any, there: Any) -> str:
    name = OPTION_NAMES.get(key, key)
    if key == "limit":
        return f"at most {here} training images, not all"
    if key == "dropout":
        return f"dropout {here}, not the models' own"
    return f"{name} {quote_value(here)}, not {quote_value(there)}"
