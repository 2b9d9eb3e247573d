"""What came of a trial, as a record: all that a report says about it, read once from the store."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from hpo.search.replicates import REPLICATE_OF
from hpo.store import plan, status
from hpo.study.definition import Definition
from hpo.study.option_checks import is_used
from hpo.training import config

MAX_IMAGES = 10_000_000  # a split of more is none; its accuracies are no fractions of images


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial of a study."""

    number: int
    replicate_of: int | None  # of a replicate: the number of the first trial of its setting
    state: str  # one of status.STATES
    accuracy: float | None  # the trial's value
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]  # of the parameters
    setting: Mapping[str, Any]  # the parameters and every other option that its training used
    attributes: Mapping[str, Any]  # of its point, free facts such as where the original ran it
    curve: Mapping[int, float]  # accuracy after each epoch, from 1; of ``hpo finish`` after the last alone
    epoch_seconds: tuple[float, ...]  # training and evaluation
    wall_seconds: float  # training and evaluation, an unfinished epoch included
    hardware: str | None  # of hardware; times of two kinds say nothing about each other
    attempts: int
    started: datetime | None  # UTC
    ended: datetime | None  # UTC
    planned_epochs: int  # epochs
    end_reason: str  # why it ended early

    @property
    def seconds_per_epoch(self) -> float | None:
        """The mean over the epochs; None before the first is over."""
        return sum(self.epoch_seconds) / len(self.epoch_seconds) if self.epoch_seconds else None

    @property
    def elapsed_seconds(self) -> float | None:
        """From the start of the first attempt to the end; None before it."""
        return (self.ended - self.started).total_seconds() if self.started and self.ended else None

    @property
    def best_epoch(self) -> int | None:
        """The first epoch with the trial's accuracy, or the highest so far; None without a report."""
        if self.state == "complete" and self.accuracy in self.curve.values():
            return next(epoch for epoch, accuracy in self.curve.items() if accuracy == self.accuracy)
        return max(self.curve, key=lambda epoch: (self.curve[epoch], -epoch)) if self.curve else None

    @property
    def epochs(self) -> int:
        """How many epochs it has run, as far as it has reported."""
        return max(self.curve, default=0)


def trial_records(definition: Definition, trials: Iterable[FrozenTrial]) -> list[TrialRecord]:
    """Give what came of each trial."""
    return [_trial_record(definition, trial) for trial in trials]


def _trial_record(definition: Definition, trial: FrozenTrial) -> TrialRecord:
    seen, setting = trial.user_attrs, definition.train | trial.params
    setting |= trial.system_attrs.get(plan.RUN_OPTIONS, {})
    failure = seen.get("failure") or {}
    return TrialRecord(
        number=trial.number,
        replicate_of=trial.system_attrs.get(REPLICATE_OF),
        state=status.STATE_NAMES[trial.state],
        accuracy=trial.value,
        params=trial.params,
        distributions=trial.distributions,
        setting={n: value for n, value in setting.items() if is_used(n, setting, definition.option_table)},
        attributes={name: seen[name] for name in definition.attribute_names if name in seen},
        curve=dict(sorted(trial.intermediate_values.items())),
        epoch_seconds=tuple(seen.get("epoch_seconds", ())),
        wall_seconds=float(seen.get("wall_time_seconds", 0.0)),
        hardware=_hardware_kind(seen.get("hardware")),
        attempts=int(seen.get("attempts", 0)),
        started=_to_utc(trial.datetime_start),
        ended=_to_utc(trial.datetime_complete),
        planned_epochs=int(setting.get("epochs", 0)),
        end_reason=str(seen.get("pruned") or failure.get("message", "")).partition("\n")[0],
    )


def _to_utc(moment: datetime | None) -> datetime | None:
    """Give a moment in UTC without saying so; Optuna reads what it stored so as naive local time."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment else None


def _hardware_kind(hardware: Mapping[str, Any] | None) -> str | None:
    """Name a kind of hardware: the device; of a processor, also how many of its cores were used."""
    if not hardware:
        return None
    if hardware.get("precision") == "tf32":  # a GPU's alone, whose times hang little on the host's cores
        return f"{hardware['device']}, TF32"
    threads = hardware.get("threads", 1)
    return f"{hardware['device']}, {threads} thread{'s' * (threads != 1)}"


def hardware_kinds(found: Iterable[TrialRecord]) -> list[str]:
    """Give the kinds of hardware in order of appearance."""
    return list(dict.fromkeys(each.hardware for each in found if each.hardware is not None))


def complete_records(found: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Give the trials that ran to their end, by number."""
    return [each for each in found if each.state == "complete" and each.accuracy is not None]


def count_images(definition: Definition, found: Iterable[TrialRecord]) -> int | None:
    """Give how many images accuracy was measured on, at least, as far as the accuracies tell.

    An accuracy is so many images of all, so every one is a multiple of 1/N; the least common
    denominator is N, or a divisor of it while there are few accuracies. None for a person's own
    objective, whose accuracy may be any number, and before the first epoch.
    """
    values = {value for each in found for value in each.curve.values()}
    if definition.option_table is config.CUSTOM_OPTIONS or not values:
        return None
    common = 1
    for value in values:
        common = math.lcm(common, Fraction(value).limit_denominator(100_000).denominator)
        if common > MAX_IMAGES:
            return None
    return common if common > 1 else None
