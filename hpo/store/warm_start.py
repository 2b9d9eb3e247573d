"""Trials of studies that have ended, from which a new study's sampler learns: ``[search] start_from``.

Their accuracies have to compare with the new study's, so what decides that has to be the same. Of their
trials those are shown whose settings the new study might try itself: what it fixes is as it fixes it, and
what it searches lies within its ranges, whether the old study searched it, listed it, or had it fixed.

A worker reads them once. They are copies under the new study's own distributions, all with the number -1:
below every trial's own, and at that number Optuna's search space of what all trials have in common still
counts them (from -2 down it stops).
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import DefinitionError, HpoError, StoreError
from hpo.errors import quote_value as quoted
from hpo.search import replicates
from hpo.store import plan, status, studies
from hpo.store.storage import Storage
from hpo.study import space
from hpo.study.definition import Definition

MAX_REASONS = 3  # why trials are left out, that a line names

log = logging.getLogger("hpo")


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What a sampler learns from one study."""

    study: str
    trials: tuple[FrozenTrial, ...]
    left_out: Mapping[str, int]  # how many trials, by the reason

    def __str__(self) -> str:
        count = len(self.trials)
        text = f"the sampler starts from {count} trial{'s' * (count != 1)} of study '{self.study}'"
        return f"{text}; left out: {self.reasons}" if self.left_out else text

    @property
    def reasons(self) -> str:
        """The most frequent reasons, each with its number of trials."""
        ranked = Counter(self.left_out).most_common()
        more = [f"{sum(count for _, count in ranked[MAX_REASONS:])} for other reasons"]
        said = [f"{count} ({reason})" for reason, count in ranked[:MAX_REASONS]]
        return ", ".join(said + (more if len(ranked) > MAX_REASONS else []))


def find_warm_starts(storage: Storage, definition: Definition) -> list[WarmStart]:
    """Give what a study's sampler learns from, by study.

    Raises StoreError if there is no such study, DefinitionError if one is still running, does not compare,
    or has no trial that fits.
    """
    return [
        _check_and_read(storage, definition, name) for name in dict.fromkeys(definition.search.start_from)
    ]


def usable_trials(storage: Storage, definition: Definition) -> list[FrozenTrial]:
    """Give the trials that a study's sampler is shown besides its own.

    A study that was deleted since, or added to so that it does not fit, is left out, and named in the log.
    """
    trials: list[FrozenTrial] = []
    for name in dict.fromkeys(definition.search.start_from):
        try:
            trials += _read_warm_start(
                storage, definition, name, studies.read_definition(storage, name)
            ).trials
        except HpoError as error:
            log.warning("search.start_from: %s; the sampler goes on without it", error)
    return trials


def _check_and_read(storage: Storage, definition: Definition, name: str) -> WarmStart:
    option = f"study '{definition.name}': search.start_from"
    where = f"{option}: study '{name}'"
    try:
        old = studies.read_definition(storage, name)
    except StoreError as error:
        raise DefinitionError(f"{option}: {error}") from error
    if status.read_status(storage, name).state == "running":
        raise DefinitionError(f"{where} is running; wait until it is complete, or 'hpo stop {name}'")
    if differences := list(_differences(definition, old, _chosen_precision(storage, name))):
        raise DefinitionError(
            f"{where} does not compare ({'; '.join(differences)}); make them the same, or leave it out"
        )
    found = _read_warm_start(storage, definition, name, old)
    if not found.trials:
        why = f"no trial of it is one that this study might try: {found.reasons}"
        raise DefinitionError(f"{where}: {why if found.left_out else 'it has no trial that ended'}")
    return found


def _chosen_precision(storage: Storage, name: str) -> str | None:
    """Give the precision that a study with ``auto`` computed in, once its first worker has chosen it."""
    attributes = storage.get_study_system_attrs(studies.find_study_id(storage, name))
    return attributes.get(plan.PRECISION)


def _differences(new: Definition, old: Definition, precision: str | None) -> Iterator[str]:
    for option in dict.fromkeys(("objective", *new.option_table.study_wide)):
        before, now = old.train.get(option), new.train.get(option)
        settled = option == "precision" and precision == now
        if before != now and not settled:
            yield f"{option} is {quoted(before)} there and {quoted(now)} here"


def _read_warm_start(storage: Storage, new: Definition, name: str, old: Definition) -> WarmStart:
    """Give the trials of an old study that the new one might run itself."""
    listed = [new.complete_hyperparameters(point) for point in new.listed_points]
    trials: list[FrozenTrial] = []
    left_out: Counter[str] = Counter()
    there = status.read_trials(storage, name)
    for trial in replicates.merge_replicates(there, replicates.first_trial_numbers(there)):
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            continue
        if trial.state == TrialState.COMPLETE and trial.value is None:
            continue  # another tool's; of a pruned one it says that it diverged at once
        setting = old.trial_config(trial.params | trial.system_attrs.get(plan.RUN_OPTIONS, {})).model_dump()
        active = {p.name: p for p in new.space if space.is_active(p, setting)}
        why = _why_unusable(new, setting, active)
        params = {parameter: setting[parameter] for parameter in active if why is None}
        if why is None and params in listed:
            why = "listed here too"
        if why is not None:
            left_out[why] += 1
            continue
        trials.append(
            optuna.trial.create_trial(
                state=trial.state,
                value=trial.value,
                params=params,
                distributions={name: each.distribution() for name, each in active.items()},
                intermediate_values=trial.intermediate_values,
            )
        )
    return WarmStart(study=name, trials=tuple(trials), left_out=left_out)


def _why_unusable(
    new: Definition, setting: Mapping[str, Any], active: Mapping[str, space.Parameter]
) -> str | None:
    """Say why a setting is none of a study's; None if it is one."""
    searched = {parameter.name for parameter in new.space}
    for name, value in new.train.items():
        other, users = new.option_table.used_by.get(name, ("", ()))
        is_unused = bool(other) and setting.get(other) not in users
        # The precision of one of the two may be what "auto" came to; a seed is no part of a setting.
        if name in searched or name in ("seed", "precision") or is_unused:
            continue
        if setting.get(name) != value:
            return f"{name} {quoted(setting.get(name))}, where this study has {quoted(value)}"
    for name, parameter in active.items():
        if name not in setting:
            return f"without {name}"
        if not parameter.contains(setting[name]):
            return f"{name} outside of {parameter.values}"
    unknown = setting.keys() - new.train.keys() - searched
    return f"with {min(unknown)}, which this study does not know" if unknown else None
