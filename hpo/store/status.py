"""A study's status and results as records. Nothing here changes the store."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from hpo.search import asha, replicates
from hpo.store import control, folders, plan, queue, rows, studies, study_rows
from hpo.store.attributes import check_trial
from hpo.store.budgets import Budget, read_budgets
from hpo.store.failures import EarlyEnd, find_early_ends
from hpo.store.lease_info import LeaseInfo, read_leases
from hpo.store.storage import Storage, retrying
from hpo.store.trial_cache import TrialCache
from hpo.store.trial_numbers import separate_numbers
from hpo.study.definition import Definition
from hpo.training import option_tables


@dataclass(frozen=True, kw_only=True)
class Status:
    """A study at one moment.

    Attributes:
        study: The study's name.
        state: ``complete`` if no trial is open; else ``paused`` or ``stopped`` if there is such an order,
            even while workers still run; else ``running`` if a lease has not expired, or ``idle``.
        trials: Number of trials by the names of ``rows.STATE_NAMES``, all of them.
        budget: Number of trials as far as it is known: of replicates only those already made.
        budgets: The budgets that are set besides the number of trials.
        early_ends: The trials that failed and those that were pruned, with the commonest reasons.
        workers: The leases of the running trials, also expired ones.
        selection: The split that trials are measured on; None for a custom objective.
        waits: A phrase for everything that waits, saying what it waits for.
        seconds_left: An estimate; None if no trial has ended yet, or no lease is alive.
        left_out_trials: The number of searched trials that were removed: every setting has a trial.
    """

    study: str
    state: str
    trials: Mapping[str, int]
    budget: int
    budgets: tuple[Budget, ...]
    early_ends: tuple[EarlyEnd, ...]
    workers: tuple[LeaseInfo, ...]
    selection: str | None
    waits: tuple[str, ...]
    seconds_left: float | None
    left_out_trials: int = 0

    @property
    def ended(self) -> int:
        """The number of trials that have ended, however they did."""
        return sum(self.trials[state] for state in ("complete", "pruned", "failed"))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the counts should know: a sentence each."""
        if not self.left_out_trials:
            return ()
        left_out = _counted(self.left_out_trials, "planned trial")
        return (
            f"every setting of [space] has a trial; {left_out} would have repeated one and are left out",
        )

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
        All trials, also those that wait, with checked attributes (see ``attributes``).

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: There is no such study, or the database refuses the request.
    """
    study_id = studies.find_study_id(storage, name)
    folder = folders.stored_folder(storage, study_id)
    trials = _read_all(storage, study_id, len(storage.get_study_directions(study_id)))
    return [check_trial(trial, folder) for trial in separate_numbers(trials)]


@retrying(reads=True)
def _read_all(storage: Storage, study_id: int, objectives: int) -> list[FrozenTrial]:
    """Read all trials of a study; Optuna's own reader takes six times as long."""
    with storage.transaction() as session:
        return rows.read_study(session, study_id, objectives)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A study with its trials at one moment."""

    status: Status
    definition: Definition
    trials: list[FrozenTrial]  # as ``read_trials`` returns them


def read_status(storage: Storage, name: str) -> Status:
    """Read a study's status; see ``read_snapshot``."""
    return read_snapshot(storage, name).status


def read_snapshot(storage: Storage, name: str, cache: TrialCache | None = None) -> Snapshot:
    """Read a study's status together with the trials that it was read from.

    Args:
        storage: The storage that the study is in.
        name: The study's name.
        cache: Keeps the trials from one read to the next, so that only changes are read.

    Returns:
        The study, as of several reads in a row; one shown as complete is not changed between them.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: There is no such study, another tool made it, or the database refuses the request.
        DefinitionError: Another version of hpo made the study.
    """
    study_id = studies.find_study_id(storage, name)
    definition = studies.read_definition(storage, name)
    is_open = queue.has_open_trials(storage, study_id)  # read first: a complete study no longer changes
    if cache is None:
        trials = read_trials(storage, name)
    else:
        trials = cache.read(storage, study_id, definition, folders.stored_folder(storage, study_id))
    workers = read_leases(storage, study_id)
    counts = Counter(rows.STATE_NAMES[trial.state] for trial in trials)
    alive = sum(worker.is_alive for worker in workers)
    order = control.read_order(storage, study_id)
    budgets = read_budgets(storage, study_id, definition.budget_limits)
    used_up = next((each for each in budgets if each.is_used_up), None)
    now = Status(
        study=name,
        state=(order or ("running" if alive else "idle")) if is_open else "complete",
        trials={state: counts[state] for state in rows.STATE_NAMES.values()},
        budget=definition.setting_count + len(replicates.first_trial_numbers(trials)),
        budgets=budgets,
        early_ends=find_early_ends(trials),
        workers=tuple(workers),
        selection=selection_of(definition),
        waits=tuple(
            _describe_waits(name, trials, workers, order, used_up, _function_of_script(definition))
        ),
        seconds_left=_estimate_seconds_left(trials, alive),
        left_out_trials=definition.left_out_trials,
    )
    return Snapshot(status=now, definition=definition, trials=trials)


def _describe_waits(
    name: str,
    trials: list[FrozenTrial],
    workers: list[LeaseInfo],
    order: str | None,
    used_up: Budget | None,
    function: str,
) -> Iterator[str]:
    """Yield a phrase for everything that waits, saying what it waits for.

    ``function`` is the name of an objective that only its own script or notebook can run; else empty.
    """
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
        how = (
            f"study.run(objective={function}) runs them" if function else f"'hpo launch {name}' starts some"
        )
        yield f"{_counted(waiting, 'trial')} for workers: {how}"
    for worker in workers:
        silent = f"{worker.owner} has been silent for {worker.silent_seconds:.0f} s"
        if not worker.is_alive:
            yield f"trial {worker.trial} for another worker: {worker.owner} is gone, or silent for too long"
        elif worker.silent_seconds > worker.expires_in_seconds:
            yield f"trial {worker.trial} for {worker.expires_in_seconds:.0f} s more: {silent}"
    for trial in foreign_trials(trials, workers):
        yield f"trial {trial} for the other tool that runs it"


def _function_of_script(definition: Definition) -> str:
    module, _, function = str(definition.train.get("objective", "")).partition(":")
    return function if module == "__main__" else ""


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
    """Return the split that a study's trials are measured on.

    Returns:
        ``valid``, ``test`` or ``final``, which is the test split as ``hpo finish`` measures it: once, after
        the last epoch. None for a custom objective, which decides by itself.
    """
    selection = definition.train.get("selection")
    return None if definition.option_table is option_tables.CUSTOM_OPTIONS else str(selection)


def metric_name(definition: Definition) -> str:
    """Return the name of what a study's trials are compared by, in words.

    On the test split it begins with ``test``. A loss names its split in any case, since there is one of the
    training images, too.
    """
    name, split = definition.metric.label, selection_of(definition)
    if split in ("test", "final"):
        return f"test {name}"
    return f"validation {name}" if split is not None and name == "loss" else name


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
