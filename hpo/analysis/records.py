"""Records of trials: all that a report needs to know of a trial, read once from the store."""

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from hpo.analysis.formatting import describe_device, end_reason
from hpo.errors import join_names
from hpo.search import asha
from hpo.search.objectives import Objectives
from hpo.search.replicates import REPLICATE_OF
from hpo.store import plan, rows
from hpo.store.attributes import is_count, is_scalar
from hpo.study.definition import Definition
from hpo.study.option_checks import is_used
from hpo.training import config, option_tables
from hpo.training.metric import Metric
from hpo.training.shapes import known_shape

MAX_NAMED_TRIALS = 10  # that a sentence lists


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial of a study.

    ``reached`` is empty in a study with one objective. With several it has what the trial has reached in
    each of them, by name: before it ends, what is known after its last epoch, else None.
    """

    number: int
    replicate_of: int | None  # the number of the first trial of its setting; None if it is the first
    state: str  # one of rows.STATE_NAMES
    metric: Metric  # what its values are of
    value: float | None  # None before it ends, if it failed or reported none
    values: tuple[float, ...]  # one for each objective; empty before it ends, or where there is none
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]  # of the parameters
    setting: Mapping[str, Any]  # the parameters and every other option that its training used
    point: int | None = None  # the number of its listed point, from 1; None if it is none
    attributes: Mapping[str, Any]  # of its point: free facts from the study file, such as a site
    images: int | None  # that it is measured on; None if unknown, or if a custom objective does not say
    baseline: float | None  # the value that guessing gives; None if unknown
    curve: Mapping[int, float]  # value after each epoch, from 1; in ``hpo finish`` only after the last
    epoch_seconds: tuple[float, ...]  # training and evaluation
    wall_seconds: float  # training and evaluation, an unfinished epoch included
    hardware: str | None  # the kind of hardware; times of two kinds cannot be compared; see ran_on_several
    hardware_facts: Mapping[str, Any] | None = None  # as the worker stored them
    weights: str | None = None  # their name in the artifacts; None if they were not kept
    paused_rung: int | None = None  # the rung at which it waits to be promoted
    decisions: tuple[asha.StoredDecision, ...] = ()  # of a model of the curves, in the order of its rungs
    attempts: int
    started: datetime | None  # UTC, without a time zone
    ended: datetime | None  # UTC, without a time zone
    reached: Mapping[str, float | None] = field(default_factory=dict)
    planned_epochs: int  # 0 if unknown
    end_reason: str  # why it was pruned, failed or stopped early, or at which rung it waits; else empty

    @property
    def ran_on_several(self) -> bool:
        """Whether its attempts ran on several kinds of hardware: its time is then of no single one."""
        return bool((self.hardware_facts or {}).get("earlier_devices"))

    @property
    def seconds_per_epoch(self) -> float | None:
        """The mean over the epochs whose time was recorded; None if there is none."""
        return sum(self.epoch_seconds) / len(self.epoch_seconds) if self.epoch_seconds else None

    @property
    def elapsed_seconds(self) -> float | None:
        """From the start of the first attempt to the end of the trial, with waits; None before it ends."""
        return (self.ended - self.started).total_seconds() if self.started and self.ended else None

    @property
    def best_epoch(self) -> int | None:
        """The first epoch with a complete trial's value, else the best so far; None without a report."""
        if self.state == "complete" and self.value in self.curve.values():
            return next(epoch for epoch, value in self.curve.items() if value == self.value)
        scores = ((epoch, self.metric.score(value)) for epoch, value in self.curve.items())
        reported = {epoch: score for epoch, score in scores if not math.isnan(score)}
        return max(reported, key=lambda epoch: (reported[epoch], -epoch), default=None)

    @property
    def best_value(self) -> float | None:
        """The value of a complete trial, else the best that it has reported."""
        if self.state == "complete" or self.best_epoch is None:
            return self.value
        return self.curve[self.best_epoch]

    @property
    def last_value(self) -> float | None:
        """The value that it reported last; None without a report."""
        return self.curve.get(self.epochs)

    @property
    def value_text(self) -> str:
        """Its value or, before it has one, the last one reported; with the best one where that differs."""
        shown, best = self.last_value if self.value is None else self.value, self.best_value
        if shown is None:
            return ""
        differs = best is not None and f"{best:.4f}" != f"{shown:.4f}"
        return f"{shown:.4f}{f' (best {best:.4f}, epoch {self.best_epoch})' if differs else ''}"

    @functools.cached_property
    def setting_key(self) -> str:
        """A text that trials of one setting share, whatever their seed."""
        return repr(sorted((name, repr(value)) for name, value in self.setting.items() if name != "seed"))

    @property
    def epochs(self) -> int:
        """The last epoch that it has reported; 0 without a report."""
        return max(self.curve, default=0)


MadeRecords = dict[int, tuple[FrozenTrial, "TrialRecord"]]  # by id: a trial and its record


def trial_records(
    definition: Definition, trials: Iterable[FrozenTrial], made: MadeRecords | None = None
) -> list[TrialRecord]:
    """Return a record of each of a study's trials, in the same order.

    Args:
        definition: The study's definition; it says which options of a setting training used.
        trials: Trials of that study.
        made: The records that an earlier call made. Those of the same objects are taken over, and the
            others are added.
    """
    images = _known_images(definition)
    if made is None:
        found = [_trial_record(definition, trial, images) for trial in trials]
    else:
        found = []
        for trial in trials:
            if (known := made.get(trial._trial_id)) is None or known[0] is not trial:
                made[trial._trial_id] = known = trial, _trial_record(definition, trial, images)
            found.append(known[1])
    return found if definition.finishes is None else _with_seeds_joined(found)


def _trial_record(definition: Definition, trial: FrozenTrial, known_images: int | None) -> TrialRecord:
    stored, setting = trial.user_attrs, definition.train | trial.params
    setting |= trial.system_attrs.get(plan.RUN_OPTIONS, {})
    epochs, values = setting.get("epochs", 0), tuple(trial.values or ())
    return TrialRecord(
        number=trial.number,
        replicate_of=trial.system_attrs.get(REPLICATE_OF),
        state=rows.STATE_NAMES[trial.state],
        metric=definition.metric,
        value=values[definition.objectives.index(definition.metric)] if values else None,
        values=values,
        reached=_reached(definition, trial),
        params=trial.params,
        distributions=trial.distributions,
        setting={n: value for n, value in setting.items() if is_used(n, setting, definition.option_table)},
        point=stored.get("point"),
        attributes={n: stored[n] for n in definition.attribute_names if is_scalar(stored.get(n, ()))},
        images=stored.get("images", known_images),
        baseline=stored.get("baseline"),
        curve=dict(sorted(trial.intermediate_values.items())),
        epoch_seconds=tuple(stored.get("epoch_seconds", ())),
        wall_seconds=float(stored.get("wall_time_seconds", 0.0)),
        hardware=hardware_kind(stored.get("hardware")),
        hardware_facts=stored.get("hardware"),
        weights=stored.get("weights"),
        paused_rung=asha.paused_rung(trial),
        decisions=asha.stored_decisions(trial),
        attempts=int(stored.get("attempts", 0)),
        started=_to_utc(trial.datetime_start),
        ended=_to_utc(trial.datetime_complete),
        planned_epochs=epochs if is_count(epochs) else 0,
        end_reason=end_reason(trial),
    )


def _reached(definition: Definition, trial: FrozenTrial) -> dict[str, float | None]:
    """Return what a trial has reached in each of several objectives, by name; see ``TrialRecord``."""
    goals = definition.objectives
    if len(goals) == 1:
        return {}
    values = trial.values
    if not values:
        every = Objectives(goals)
        losses = every.losses(trial, max(trial.intermediate_values, default=0))
        values = [math.inf] * len(goals) if losses is None else every.values(losses)
    named = zip(goals, values, strict=True)
    return {goal.name: value if math.isfinite(value) else None for goal, value in named}


def _with_seeds_joined(found: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the runs of ``hpo finish`` as replicates: they run each setting with several seeds."""
    firsts: dict[str, int] = {}
    joined = []
    for each in found:
        first = firsts.setdefault(each.setting_key, each.number)
        joined.append(replace(each, replicate_of=None if first == each.number else first))
    return joined


def _to_utc(moment: datetime | None) -> datetime | None:
    """Return a moment in UTC without its time zone. Optuna reads times as naive local ones."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment else None


def hardware_kind(hardware: Mapping[str, Any] | None) -> str | None:
    """Name a kind of hardware: the device, and of a CPU also how many threads were used."""
    if not hardware:
        return None
    if hardware.get("precision") == "tf32":  # only GPUs; the host's cores hardly change their times
        return f"{describe_device(hardware)}, TF32"
    threads = hardware.get("threads", 1)
    return f"{describe_device(hardware)}, {threads} thread{'s' * (threads != 1)}"


def hardware_kinds(found: Iterable[TrialRecord]) -> list[str]:
    """Return the kinds of hardware that trials ran on, each once, in order of appearance.

    Trials that ran on several are left out; ``mixed_hardware_note`` says so.
    """
    single = (each.hardware for each in found if not each.ran_on_several)
    return list(dict.fromkeys(kind for kind in single if kind is not None))


def mixed_hardware_note(found: Iterable[TrialRecord]) -> str:
    """Return a sentence on the trials that a comparison of hardware leaves out; "" if there is none."""
    mixed = [str(each.number) for each in found if each.ran_on_several]
    if not mixed:
        return ""
    whose = "Trial" if len(mixed) == 1 else "Trials"
    return (
        f"{whose} {join_names(mixed, MAX_NAMED_TRIALS)} ran on several kinds of hardware, one after the "
        "other, and cannot be compared by time: left out."
    )


def complete_records(found: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the complete trials that have a value, in the same order."""
    return [each for each in found if each.state == "complete" and each.value is not None]


def other_objectives(found: Iterable[TrialRecord]) -> list[str]:
    """Return the names of a study's objectives besides the metric that its trials report.

    Args:
        found: Trials of the study.
    """
    return list(dict.fromkeys(name for e in found for name in e.reached if name != e.metric.name))


def _known_images(definition: Definition) -> int | None:
    """Return how many images a study measures its trials on, for trials that did not store it.

    Older versions of hpo did not. The number is known then for data sets that hpo knows by name.
    """
    if definition.option_table is option_tables.CUSTOM_OPTIONS:
        return None
    settings = definition.trial_config({})
    shape = known_shape(settings) if isinstance(settings, config.Config) else None
    return None if shape is None else shape.selection


def count_images(found: Iterable[TrialRecord]) -> int | None:
    """Return how many images all of these trials were measured on; the least if they differ.

    Args:
        found: Trials of a study.

    Returns:
        The number of images; None if no trial tells it.
    """
    return min((each.images for each in found if each.images is not None), default=None)
