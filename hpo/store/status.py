"""What goes on in a study and what came out of it, as records; reads the store and changes nothing."""

import csv as csvs
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from hpo.search import asha, replicates
from hpo.search.replicates import Noise, ReplicatedSetting
from hpo.store import budgets as budget
from hpo.store import control, plan, queue, studies
from hpo.store.budgets import Budget
from hpo.store.storage import Storage
from hpo.store.studies import LeaseInfo
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
    """A study's best trial."""

    study: str
    trial: int
    accuracy: float
    best_epoch: int | None
    epochs: int | None
    params: Mapping[str, Any]
    wall_time_seconds: float | None
    hardware: Mapping[str, Any] | None
    weights: str | None  # name in the artifacts
    replicates: ReplicatedSetting | None  # the setting's trials, where the study repeats settings
    noise: Noise | None  # of the study, by what seeds do


@dataclass(frozen=True, kw_only=True)
class Status:
    """A study at one moment."""

    study: str
    state: str  # running, idle; paused or stopped by an order; complete
    trials: Mapping[str, int]  # by state
    budget: int  # trials, as far as known: of replicates those that are made
    budgets: tuple[Budget, ...]  # those besides trials that are set
    best: BestTrial | None
    workers: tuple[LeaseInfo, ...]
    selection: str | None  # the split that accuracy was measured on; None: an objective of one's own
    waits: tuple[str, ...]  # a sentence for whatever waits, and what for
    seconds_left: float | None  # an estimate; None: nothing has ended yet, or nobody works

    @property
    def used_up_budget(self) -> Budget | None:
        """The budget that keeps the study from going on, if one does."""
        found = (each for each in self.budgets if each.is_used_up and self.state != "complete")
        return next(found, None)


def read_trials(storage: Storage, name: str) -> list[FrozenTrial]:
    """Give a study's trials by number; raises StoreError if there is no such study."""
    study_id = studies.find_study_id(storage, name)
    return sorted(storage.get_all_trials(study_id, deepcopy=False), key=lambda trial: trial.number)


def read_status(storage: Storage, name: str) -> Status:
    """Give a study's status; raises StoreError if there is no such study."""
    study_id = studies.find_study_id(storage, name)
    definition = studies.read_definition(storage, name)  # which another tool's study has not, nor leases
    is_open = queue.has_open_trials(
        storage, study_id
    )  # then: of a study that is complete nothing changes after
    trials = read_trials(storage, name)
    held = studies.read_leases(storage, study_id)
    counts = Counter(STATE_NAMES[trial.state] for trial in trials)
    ranked = _rank_trials(definition, trials)
    alive = sum(worker.is_alive for worker in held)
    order = control.read_order(storage, study_id)
    budgets = budget.read_budgets(storage, study_id, definition.search.budget_limits)
    used_up = next((each for each in budgets if each.is_used_up), None)
    return Status(
        study=name,
        state=(order or ("running" if alive else "idle")) if is_open else "complete",
        trials={state: counts[state] for state in STATE_NAMES.values()},
        budget=definition.setting_count + len(replicates.first_trial_numbers(trials)),
        budgets=budgets,
        best=ranked[0] if ranked else None,
        workers=tuple(held),
        selection=selection_of(definition),
        waits=tuple(_describe_waits(name, trials, held, order, used_up)),
        seconds_left=_estimate_seconds_left(trials, alive),
    )


def _describe_waits(
    name: str, trials: list[FrozenTrial], held: list[LeaseInfo], order: str | None, used_up: Budget | None
) -> Iterator[str]:
    """Say what waits, and what for."""
    alive = [worker for worker in held if worker.is_alive]
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
    for worker in held:
        silent = f"{worker.owner} has been silent for {worker.silent_seconds:.0f} s"
        if not worker.is_alive:
            yield f"trial {worker.trial} for another worker: {worker.owner} is gone, or silent for too long"
        elif worker.silent_seconds > worker.expires_in_seconds:
            yield f"trial {worker.trial} for {worker.expires_in_seconds:.0f} s more: {silent}"
    for trial in foreign_trials(trials, held):
        yield f"trial {trial} for the other tool that runs it"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def foreign_trials(trials: Iterable[FrozenTrial], held: Iterable[LeaseInfo]) -> list[int]:
    """Give the numbers of the trials that run without a lease: another tool's, which hpo leaves alone."""
    ours = {worker.trial for worker in held}
    return [t.number for t in trials if t.state == TrialState.RUNNING and t.number not in ours]


def _estimate_seconds_left(trials: list[FrozenTrial], workers: int) -> float | None:
    """Estimate the seconds a study still takes: what is open, at the mean of the trials that ended.

    To each setting that is open come as many replicates as to those that ended.
    """
    ended = [_wall_time_seconds(trial) for trial in trials if trial.state.is_finished()]
    if not ended or not workers:
        return None
    mean = sum(ended) / len(ended)
    again = replicates.first_trial_numbers(trials)
    firsts = [trial for trial in trials if trial.number not in again]
    coming = len(again) / max(sum(trial.state.is_finished() for trial in firsts), 1)
    open_ = [t for t in trials if t.state == TrialState.WAITING and asha.paused_rung(t) is None]
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    more = coming * sum(trial.number not in again for trial in [*open_, *running])
    left = (len(open_) + more) * mean + sum(max(mean - _wall_time_seconds(trial), 0.0) for trial in running)
    return left / workers


def _wall_time_seconds(trial: FrozenTrial) -> float:
    return float(trial.user_attrs.get("wall_time_seconds", 0.0))


def selection_of(definition: Definition) -> str | None:
    """Give the split that a study's accuracy is measured on; None where its own objective decides.

    "final" is the test split as ``hpo finish`` looks at it: once, after the last epoch.
    """
    selection = definition.train.get("selection")
    return None if definition.option_table is config.CUSTOM_OPTIONS else str(selection)


def metric_name(definition: Definition) -> str:
    """Name what a study measures: accuracy, or test accuracy where that is the split."""
    return "test accuracy" if selection_of(definition) in ("test", "final") else "accuracy"


def best_trials(storage: Storage, name: str, count: int) -> list[BestTrial]:
    """Give the best complete trials of a study, best first; of equal ones the earlier.

    Where settings are repeated they are ranked by their means, and each by its best trial stands for it.
    """
    return _rank_trials(studies.read_definition(storage, name), read_trials(storage, name))[:count]


def no_complete_trial_message(name: str, trials: Iterable[FrozenTrial]) -> str:
    """Say that a study has no complete trial, and how the best of the others can be had."""
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
    seen = trial.user_attrs
    return BestTrial(
        study=definition.name,
        trial=trial.number,
        accuracy=setting.accuracies[0],
        best_epoch=seen.get("best_epoch"),
        epochs=seen.get("epochs"),
        params=trial.params,
        wall_time_seconds=seen.get("wall_time_seconds"),
        hardware=seen.get("hardware"),
        weights=seen.get("weights"),
        replicates=setting if definition.search.replicates > 1 else None,
        noise=noise,
    )


def best_trial_document(found: BestTrial) -> dict[str, Any]:
    """Give a best trial as its JSON document, with its setting's seeds where settings are repeated."""
    document = dict(vars(found))
    several, noise = document.pop("replicates"), document.pop("noise")
    if several is None:
        return document
    return document | {
        "replicates": {
            "trials": list(several.trials),
            "accuracies": list(several.accuracies),
            "diverged": several.diverged,
            "mean": several.mean,
            "noise": noise and noise.deviation,
        }
    }


def planned_epochs(definition: Definition, trials: list[FrozenTrial]) -> dict[int, int]:
    """Give the planned epochs of the trials that have their setting, by number."""
    planned = {}
    for trial in trials:
        setting = trial.params | trial.system_attrs.get(plan.RUN_OPTIONS, {})
        planned[trial.number] = int(setting.get("epochs", definition.train.get("epochs", 0)))
    return planned


def status_document(found: Status) -> dict[str, Any]:
    """Give a status as its JSON document."""
    return {
        "study": found.study,
        "state": found.state,
        "trials": dict(found.trials),
        "budget": found.budget,
        "best": None if found.best is None else best_trial_document(found.best),
        "workers": [
            {
                "owner": worker.owner,
                "host": worker.host,
                "device": worker.device,
                "trial": worker.trial,
                "attempt": worker.attempt,
                "epoch": worker.epoch,
                "expires_in_seconds": worker.expires_in_seconds,
                "silent_seconds": worker.silent_seconds,
            }
            for worker in found.workers
        ],
        "waits": list(found.waits),
        "seconds_left": None if found.seconds_left is None else round(found.seconds_left, 1),
        "budgets": {each.name: each.document() for each in found.budgets},
    }


def trial_document(trial: FrozenTrial) -> dict[str, Any]:
    """Give a trial as its JSON document."""
    return {
        "number": trial.number,
        "state": STATE_NAMES[trial.state],
        "value": trial.value,
        "params": trial.params,
        "user_attrs": trial.user_attrs,
        "intermediate_values": trial.intermediate_values,
    }


def trials_csv(trials: list[FrozenTrial], attributes: Iterable[str] = ()) -> str:
    """Return trials as CSV: one row each, one column per parameter and per attribute of points."""
    parameters = sorted({name for trial in trials for name in trial.params})
    seen = ("epochs", "best_epoch", "wall_time_seconds", "attempts", "point", *attributes)
    text = io.StringIO()
    writer = csvs.writer(text, lineterminator="\n")
    writer.writerow(["number", "state", "value", *parameters, *seen])
    for trial in trials:
        row = [trial.number, STATE_NAMES[trial.state], trial.value]
        row += [trial.params.get(name) for name in parameters]
        writer.writerow(row + [trial.user_attrs.get(name) for name in seen])
    return text.getvalue()


def study_names(storage: Storage) -> list[str]:
    """Give the names of the store's studies that hpo made."""
    return [
        study.study_name for study in storage.get_all_studies() if plan.DEFINITION in study.system_attrs
    ]
