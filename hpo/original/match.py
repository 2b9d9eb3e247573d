"""Which trials of a study repeat which of the original report's 14 points, and how their conditions differ.

A trial matches a point if model, optimizer, learning rate, momentum, batch size and site are the same.
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
    """One of the original's points, with the study's complete trials that match it."""

    point: ReportPoint
    trials: tuple[TrialRecord, ...]

    @property
    def accuracies(self) -> list[float]:
        """Each seed's accuracy.

        Several trials with one seed are one run, repeated: only the first counts.
        """
        return [each.value for each in self._first_of_each_seed() if each.value is not None]

    @property
    def curves(self) -> list[Mapping[int, float]]:
        """Each seed's accuracies by epoch."""
        return [each.curve for each in self._first_of_each_seed()]

    @property
    def first_accuracies(self) -> list[float]:
        """Each seed's accuracy after the first epoch, without seeds that did not report it."""
        return [each.curve[1] for each in self._first_of_each_seed() if 1 in each.curve]

    def _first_of_each_seed(self) -> list[TrialRecord]:
        found: dict[Any, TrialRecord] = {}
        for each in self.trials:
            found.setdefault(each.setting.get("seed"), each)
        return list(found.values())

    def epoch_seconds(self, hardware: str) -> list[tuple[float, ...]]:
        """Return the seconds of each epoch, for each trial that recorded them on this kind of hardware."""
        return [t.epoch_seconds for t in self.trials if t.hardware == hardware and t.epoch_seconds]

    @property
    def hardware_kinds(self) -> list[str]:
        """The kinds of hardware on which its trials recorded epoch times, in order of appearance."""
        return records.hardware_kinds(each for each in self.trials if each.epoch_seconds)


def match_trials(found: Iterable[TrialRecord]) -> dict[int, MatchedPoint]:
    """Return all of the original's points by their number, each with its complete trials, if any.

    The report gives point 9 two learning rates; trials with the second count only if none has the first.
    """
    done = records.complete_records(found)
    return {
        number: MatchedPoint(point=point, trials=_matching_trials(point, done))
        for number, point in facts.POINTS.items()
    }


def _matching_trials(point: ReportPoint, done: Sequence[TrialRecord]) -> tuple[TrialRecord, ...]:
    """Return the trials of a point.

    The report gives one learning rate in two ways. The second counts only where no trial has the first.
    """
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


def _has_options(record: TrialRecord, wanted: Mapping[str, Any]) -> bool:
    return all(record.setting.get(key) == value for key, value in wanted.items())


def describe_differences(matched: Iterable[MatchedPoint]) -> list[str]:
    """Return how the trials' conditions differ from the original's, each difference once.

    Conditions are those of ``facts.CONDITIONS`` that a trial's training used, and the planned epochs.
    """
    return list(dict.fromkeys(text for each in matched for text in _point_differences(each)))


def _point_differences(matched: MatchedPoint) -> Iterable[str]:
    for trial in matched.trials:
        for key, value in facts.CONDITIONS.items():
            if key in trial.setting and trial.setting[key] != value:
                yield _describe_difference(key, trial.setting[key], value)
        if trial.planned_epochs != matched.point.epochs:
            yield f"epochs {trial.planned_epochs}, not {matched.point.epochs} (site {matched.point.site})"


def _describe_difference(key: str, here: Any, there: Any) -> str:
    """Say how one option differs: its value ``here`` in the trial, and ``there`` in the original."""
    if key == "limit":
        return f"at most {here} training images, not all"
    if key == "dropout":
        return f"dropout {here}, not the models' own"
    return f"{OPTION_NAMES.get(key, key)} {quote_value(here)}, not {quote_value(there)}"
