"""A study's status and results as records. Nothing here changes the store."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from hpo.search import asha, replicates
from hpo.search.replicates import Noise, ReplicatedSetting
from hpo.store import control, plan, queue, rows, studies, study_rows
from hpo.store.budgets import Budget, read_budgets
from hpo.store.failures import EarlyEnd, find_early_ends
from hpo.store.lease_info import LeaseInfo, read_leases
from hpo.store.storage import Storage, retrying
from hpo.study.definition import Definition
from hpo.training import config

STATE_NAMES = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True, kw_only=True)
class BestTrial:
    """A study's best trial.

    Attributes:
        study: The study's name.
        trial: The trial's number.
        accuracy: Its accuracy, 0 to 1; -1 if another tool completed it without a value.
        best_epoch: The epoch, from 1, that had this accuracy; None if it is not known.
        epochs: The epochs that it trained; None if it is not known.
        params: Its parameters, by name.
        wall_time_seconds: The time of training and evaluation; None if it is not known.
        hardware: The hardware that it ran on, as the worker recorded it; None if it is not known.
        weights: Name of its weights in the artifacts; None if they were not kept.
        replicates: The trials of its setting; None if the study does not repeat settings.
        noise: How much accuracies of the study differ by the seed alone; None if it is not known.
    """

    study: str
    trial: int
    accuracy: float
    best_epoch: int | None
    epochs: int | None
    params: Mapping[str, Any]
    wall_time_seconds: float | None
    hardware: Mapping[str, Any] | None
    weights: str | None
    replicates: ReplicatedSetting | None
    noise: Noise | None


@dataclass(frozen=True, kw_only=True)
class Status:
    """A study at one moment.

    Attributes:
        study: The study's name.
        state: ``complete`` if no trial is open; else ``paused`` or ``stopped`` if there is such an order,
            even while workers still run; else ``running`` if a lease has not expired, or ``idle``.
        trials: Number of trials by the names of ``STATE_NAMES``, all of them.
        budget: Number of trials as far as it is known: of replicates only those already made.
        budgets: The budgets that are set besides the number of trials.
        best: The best complete trial; None if there is none.
        early_ends: The trials that failed and those that were pruned, with the commonest reasons.
        workers: The leases of the running trials, also expired ones.
        selection: The split that accuracy is measured on; None for a custom objective.
        waits: A phrase for everything that waits, saying what it waits for.
        seconds_left: An estimate; None if no trial has ended yet, or no lease is alive.
    """

    study: str
    state: str
    trials: Mapping[str, int]
    budget: int
    budgets: tuple[Budget, ...]
    best: BestTrial | None
    early_ends: tuple[EarlyEnd, ...]
    workers: tuple[LeaseInfo, ...]
    selection: str | None
    waits: tuple[str, ...]
    seconds_left: float | None

    @property
    def used_up_budget(self) -> Budget | None:
        """The first used-up budget; None if there is none, or the study is complete anyway."""
        found = (each for each in self.budgets if each.is_used_up and self.state != "complete")
        return next(found, None)


def read_trials(storage: Storage, name: str) -> list[FrozenTrial]:
    """Return a study's trials by number.

    Args:
        storage: The storage that the study is in.
        name: The study's name.

    Returns:
        All trials, also those that wait. They are the storage's own objects: do not change them.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: There is no such study, or the database refuses the request.
    """
    study_id = studies.find_study_id(storage, name)
    return sorted(storage.get_all_trials(study_id, deepcopy=False), key=lambda trial: trial.number)


def read_status(storage: Storage, name: str) -> Status:
    """Read a study's status.

    Args:
        storage: The storage that the study is in.
        name: The study's name.

    Returns:
        The status, as of several reads in a row; a study shown as complete is not changed between them.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: There is no such study, another tool made it, or the database refuses the request.
        DefinitionError: Another version of hpo made the study.
    """
    study_id = studies.find_study_id(storage, name)
    definition = studies.read_definition(storage, name)
    is_open = queue.has_open_trials(storage, study_id)  # read first: a complete study no longer changes
    trials = read_trials(storage, name)
    workers = read_leases(storage, study_id)
    counts = Counter(STATE_NAMES[trial.state] for trial in trials)
    ranked = _rank_trials(definition, trials)
    alive = sum(worker.is_alive for worker in workers)
    order = control.read_order(storage, study_id)
    budgets = read_budgets(storage, study_id, definition.search.budget_limits)
    used_up = next((each for each in budgets if each.is_used_up), None)
    return Status(
        study=name,
        state=(order or ("running" if alive else "idle")) if is_open else "complete",
        trials={state: counts[state] for state in STATE_NAMES.values()},
        budget=definition.setting_count + len(replicates.first_trial_numbers(trials)),
        budgets=budgets,
        best=ranked[0] if ranked else None,
        early_ends=find_early_ends(trials),
        workers=tuple(workers),
        selection=selection_of(definition),
        waits=tuple(_describe_waits(name, trials, workers, order, used_up)),
        seconds_left=_estimate_seconds_left(trials, alive),
    )


def _describe_waits(
    name: str,
    trials: list[FrozenTrial],
    workers: list[LeaseInfo],
    order: str | None,
    used_up: Budget | None,
) -> Iterator[str]:
    """Yield a phrase for everything that waits, saying what it waits for."""
    alive = [worker for worker in workers if worker.is_alive]
    if (order or used_up) and alive:
        yield f"{_counted(len(alive), 'worker')} will save at the next epoch"
    paused = sum(asha.paused_rung(trial) is not None for trial in trials)
    waiting = sum(trial.state == TrialState.WAITING for trial in trials) - paused
    if paused:
        yield f"{_counted(paused, 'trial')} at a rung, to be promoted or to end there"
    if waiting and order is not None:
        then = f", then 'hpo launch {name}'" if order == plan.ORDER_STOPPED else ""
        yield f"{_counted(waiting, 'trial')} for 'hpo resume {name}'{then}"
    elif waiting and used_up:
        yield f"{_counted(waiting, 'trial')} for a larger budget: {used_up.advice}"
    elif waiting and alive:
        yield f"{_counted(waiting, 'trial')} for a worker to be free"
    elif waiting:
        yield f"{_counted(waiting, 'trial')} for workers: 'hpo launch {name}' starts some"
    for worker in workers:
        silent = f"{worker.owner} has been silent for {worker.silent_seconds:.0f} s"
        if not worker.is_alive:
            yield f"trial {worker.trial} for another worker: {worker.owner} is gone, or silent for too long"
        elif worker.silent_seconds > worker.expires_in_seconds:
            yield f"trial {worker.trial} for {worker.expires_in_seconds:.0f} s more: {silent}"
    for trial in foreign_trials(trials, workers):
        yield f"trial {trial} for the other tool that runs it"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def foreign_trials(trials: Iterable[FrozenTrial], leases: Iterable[LeaseInfo]) -> list[int]:
    """Return the numbers of the trials that run without a lease: another tool's, which hpo leaves alone.

    Args:
        trials: All trials of a study.
        leases: The leases of its running trials.

    Returns:
        The numbers, in the order of ``trials``.
    """
    ours = {lease.trial for lease in leases}
    return [t.number for t in trials if t.state == TrialState.RUNNING and t.number not in ours]


def _estimate_seconds_left(trials: list[FrozenTrial], workers: int) -> float | None:
    """Estimate how long a study still takes: its open trials, at the mean time of those that ended.

    It assumes that open settings get as many replicates, on average, as those that ended.
    """
    ended = [_wall_time_seconds(trial) for trial in trials if trial.state.is_finished()]
    if not ended or not workers:
        return None
    mean = sum(ended) / len(ended)
    repeated = replicates.first_trial_numbers(trials)
    firsts = [trial for trial in trials if trial.number not in repeated]
    replicates_each = len(repeated) / max(sum(trial.state.is_finished() for trial in firsts), 1)
    waiting = [t for t in trials if t.state == TrialState.WAITING and asha.paused_rung(t) is None]
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    more = replicates_each * sum(trial.number not in repeated for trial in [*waiting, *running])
    rest_of_running = sum(max(mean - _wall_time_seconds(trial), 0.0) for trial in running)
    return ((len(waiting) + more) * mean + rest_of_running) / workers


def _wall_time_seconds(trial: FrozenTrial) -> float:
    return float(trial.user_attrs.get("wall_time_seconds", 0.0))


def selection_of(definition: Definition) -> str | None:
    """Return the split that a study's accuracy is measured on.

    Returns:
        ``valid``, ``test`` or ``final``, which is the test split as ``hpo finish`` measures it: once, after
        the last epoch. None for a custom objective, which decides by itself.
    """
    selection = definition.train.get("selection")
    return None if definition.option_table is config.CUSTOM_OPTIONS else str(selection)


def metric_name(definition: Definition) -> str:
    """Return the name of what a study measures: ``accuracy``, or ``test accuracy`` on the test split.

    It is ``accuracy`` for a custom objective, too.
    """
    return "test accuracy" if selection_of(definition) in ("test", "final") else "accuracy"


@retrying(reads=True)
def count_waiting(storage: Storage, name: str) -> int:
    """Return how many trials of a study wait, without reading them.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: There is no such study, another tool made it, or the database refuses the request.
        DefinitionError: Another version of hpo made the study.
    """
    with storage.transaction() as session:
        study = rows.trials.c.study_id == study_rows.own_study_id(session, name)
        waiting = study & (rows.trials.c.state == TrialState.WAITING)
        return int(session.execute(sa.select(sa.func.count()).where(waiting)).scalar_one())


def best_trials(storage: Storage, name: str, count: int) -> list[BestTrial]:
    """Return the best complete trials of a study, best first; of equal ones the earlier comes first.

    If the study repeats settings, they are ranked as ``replicates.rank_settings`` does, by their means but
    those without replicates behind and diverged ones last. The best trial of a setting represents it.

    Args:
        storage: The storage that the study is in.
        name: The study's name.
        count: How many to return at most.

    Returns:
        The best trials, one for each setting; empty if no trial is complete.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: There is no such study, another tool made it, or the database refuses the request.
        DefinitionError: Another version of hpo made the study.
    """
    return _rank_trials(studies.read_definition(storage, name), read_trials(storage, name))[:count]


def no_complete_trial_message(name: str, trials: Iterable[FrozenTrial]) -> str:
    """Return a message that a study has no complete trial, and how to export the best of the others.

    The best is the one with the highest accuracy among those with weights. If there is none, the message
    names the command that lists the trials.

    Args:
        name: The study's name.
        trials: Its trials, none of them complete.

    Returns:
        One line.
    """
    reached = [
        (max(filter(math.isfinite, trial.intermediate_values.values()), default=0.0), trial)
        for trial in trials
        if "weights" in trial.user_attrs
    ]
    if not reached:
        return f"study '{name}' has no complete trial yet; 'hpo trials {name}' lists the others"
    accuracy, trial = max(reached, key=lambda each: each[0])
    return (
        f"study '{name}' has no complete trial yet; 'hpo export {name} --trial {trial.number}' takes "
        f"the best so far, which is {STATE_NAMES[trial.state]} (accuracy {accuracy:.4f})"
    )


def _rank_trials(definition: Definition, trials: list[FrozenTrial]) -> list[BestTrial]:
    by_number = {trial.number: trial for trial in trials}
    settings = replicates.rank_trials(trials)
    noise = replicates.estimate_noise(settings)
    return [_best(definition, by_number[each.trials[0]], each, noise) for each in settings]


def _best(
    definition: Definition, trial: FrozenTrial, setting: ReplicatedSetting, noise: Noise | None
) -> BestTrial:
    attributes = trial.user_attrs
    return BestTrial(
        study=definition.name,
        trial=trial.number,
        accuracy=setting.accuracies[0],
        best_epoch=attributes.get("best_epoch"),
        epochs=attributes.get("epochs"),
        params=trial.params,
        wall_time_seconds=attributes.get("wall_time_seconds"),
        hardware=attributes.get("hardware"),
        weights=attributes.get("weights"),
        replicates=setting if definition.search.replicates > 1 else None,
        noise=noise,
    )


def planned_epochs(definition: Definition, trials: list[FrozenTrial]) -> dict[int, int]:
    """Return the planned epochs of trials, by number.

    Args:
        definition: The study's definition.
        trials: Trials of the study. A trial's own ``epochs``, a parameter or an option of its point, counts
            before the study's.

    Returns:
        The planned epochs by trial number; 0 if neither the trial nor the study has the option.
    """
    planned = {}
    for trial in trials:
        setting = trial.params | trial.system_attrs.get(plan.RUN_OPTIONS, {})
        planned[trial.number] = int(setting.get("epochs", definition.train.get("epochs", 0)))
    return planned


def study_names(storage: Storage) -> list[str]:
    """Return the names of the studies that hpo made, without those of other tools.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    return [
        study.study_name for study in storage.get_all_studies() if plan.DEFINITION in study.system_attrs
    ]
