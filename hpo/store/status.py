"""A study's status and results as records. Nothing here changes the store."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from hpo.search import asha, replicates
from hpo.store import control, folders, queue, rows, studies, study_rows
from hpo.store.attributes import check_trial
from hpo.store.budgets import Budget, read_budgets
from hpo.store.failures import EarlyEnd, find_early_ends, have_stopped_study
from hpo.store.lease_info import LeaseInfo, read_leases
from hpo.store.storage import Storage, retrying
from hpo.store.trial_cache import TrialCache
from hpo.store.trial_numbers import separate_numbers
from hpo.store.vitals import Vitals, read_vitals
from hpo.store.waiting_workers import WaitingWorker, read_waiting_workers
from hpo.store.waits import Situation, counted
from hpo.study.definition import Definition
from hpo.training import option_tables


@dataclass(frozen=True, kw_only=True)
class Status:
    """A study at one moment.

    Attributes:
        study: The study's name.
        state: ``complete`` if no trial is open; else ``paused`` or ``stopped`` if there is such an order,
            even while workers still run; else ``running`` if a lease has not expired, or ``idle``.
        trials: Number of trials by the names of ``rows.STATE_NAMES``, all of them. Under an order, one
            whose worker is gone counts as waiting: nobody runs it or takes it over.
        budget: Number of trials as far as it is known: of replicates only those already made.
        budgets: The budgets that are set besides the number of trials.
        early_ends: The trials that failed and those that were pruned, with the commonest reasons.
        workers: The leases of the running trials, also expired ones.
        selection: The split that trials are measured on; None for a custom objective.
        waits: A phrase for everything that waits, saying what it waits for.
        seconds_left: An estimate; None if no trial has ended yet, no lease is alive, or there is an order.
        left_out_trials: The number of searched trials that were removed: every setting has a trial.
        waiting_workers: The living workers that have no trial.
        vitals: Further signs of life.
        how_to_start: How to start workers, as a clause.
        stopped_after_failures: Whether ``search.max_failures`` ends it, as its first trials all failed.
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
    waiting_workers: tuple[WaitingWorker, ...] = ()
    vitals: Vitals = field(default_factory=Vitals)
    how_to_start: str = ""
    stopped_after_failures: bool = False

    @property
    def ended(self) -> int:
        """The number of trials that have ended, however they did."""
        return sum(self.trials[state] for state in ("complete", "pruned", "failed"))

    @property
    def holders(self) -> tuple[LeaseInfo, ...]:
        """The workers that hold a trial; under an order only those that live."""
        is_ordered = self.state in ("paused", "stopped")
        return tuple(each for each in self.workers if each.is_alive or not is_ordered)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the counts should know: a sentence each."""
        if not self.left_out_trials:
            return ()
        left_out = counted(self.left_out_trials, "planned trial")
        verb = "is" if self.left_out_trials == 1 else "are"
        return (
            f"every setting of [space] has a trial; {left_out} would have repeated one and {verb} left out",
        )

    @property
    def failure_stop(self) -> str | None:
        """Why its first failures ended the study, and what to do; None if they did not."""
        if not self.stopped_after_failures:
            return None
        return next(
            f"has stopped (search.max_failures): {failed}; once the cause is gone, run "
            f"'hpo retry {self.study} --failed' and start it again"
            for failed in self.early_ends
            if failed.state == "failed"
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
    folder: str | None  # its own in the artifacts; None if it names none that hpo made


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
    folder = folders.stored_folder(storage, study_id)
    if cache is None:
        trials = read_trials(storage, name)
    else:
        trials = cache.read(storage, study_id, definition, folder)
    workers = read_leases(storage, study_id)
    budgets = read_budgets(storage, study_id, definition.budget_limits)
    now = Situation(
        name=name,
        trials=trials,
        leases=workers,
        waiting_workers=_without_trial(read_waiting_workers(storage, study_id), workers),
        order=control.read_order(storage, study_id),
        used_up=next((each for each in budgets if each.is_used_up), None),
        is_failing=is_open and have_stopped_study(storage, study_id, definition.search.max_failures),
        function=definition.script_function,
    )
    found = _status(now, definition, is_open, budgets, read_vitals(storage, study_id))
    return Snapshot(status=found, definition=definition, trials=trials, folder=folder)


def _without_trial(waiting: list[WaitingWorker], leases: list[LeaseInfo]) -> list[WaitingWorker]:
    """Leave out the workers that hold a lease: they may have told of themselves before they claimed."""
    busy = {lease.owner for lease in leases if lease.is_alive}
    return [worker for worker in waiting if worker.owner not in busy]


def _status(
    now: Situation, definition: Definition, is_open: bool, budgets: tuple[Budget, ...], vitals: Vitals
) -> Status:
    state = (now.order or ("running" if now.living else "idle")) if is_open else "complete"
    counts = Counter(rows.STATE_NAMES[trial.state] for trial in now.trials)
    counts.update(waiting=len(now.interrupted), running=-len(now.interrupted))
    return Status(
        study=now.name,
        state=state,
        trials={state: counts[state] for state in rows.STATE_NAMES.values()},
        budget=definition.setting_count + len(replicates.first_trial_numbers(now.trials)),
        budgets=budgets,
        early_ends=find_early_ends(now.trials),
        workers=tuple(now.leases),
        selection=selection_of(definition),
        waits=tuple(now.describe_waits()),
        seconds_left=None if now.order else _estimate_seconds_left(now.trials, now.living),
        left_out_trials=definition.left_out_trials,
        waiting_workers=tuple(now.waiting_workers),
        vitals=vitals,
        how_to_start=now.how_to_start(),
        stopped_after_failures=now.is_failing,
    )


def _estimate_seconds_left(trials: Sequence[FrozenTrial], workers: int) -> float | None:
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
