"""A worker: claims one trial after another, until nothing is left to do or it is asked to stop."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from hpo import log_records
from hpo.artifacts.folders import LOGS, Artifacts
from hpo.errors import (
    ArtifactError,
    CacheUnusable,
    DataError,
    HpoError,
    ImagesChanged,
    ImagesUnreadable,
    StopRequested,
)
from hpo.retry import MAX_WAIT_SECONDS
from hpo.search.freeze_thaw import CurveTable
from hpo.store import (
    budgets,
    control,
    failures,
    folders,
    lease,
    plan,
    process,
    queue,
    restarts,
    studies,
    tables,
    warm_start,
)
from hpo.store.history import History
from hpo.store.process import Owner
from hpo.store.storage import Storage
from hpo.store.waiting_workers import Presence, tell_presence
from hpo.store.wakeups import ChangeWatch
from hpo.study.definition import Definition
from hpo.training import devices, precision
from hpo.training.custom import Objective
from hpo.training.events import TrialEvent
from hpo.workers import tracking
from hpo.workers.cache import WorkerCache
from hpo.workers.context import WorkerContext
from hpo.workers.hardware import find_device, program_versions
from hpo.workers.pruning import Promotions
from hpo.workers.trackers import check_installed
from hpo.workers.tracking import TrackerProcess
from hpo.workers.trial import run_trial

MAX_FAILURES = 3  # in a row that are no trial's fault, before a worker gives up
_WITHOUT_RETRY = (ImagesUnreadable, ImagesChanged, CacheUnusable)

log = logging.getLogger("hpo")


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The settings of a worker."""

    artifacts: Artifacts
    data: Path  # folder of the published data sets
    device: str  # as this process knows it: cpu or cuda:N
    shown_as: str  # as people know it, where the process sees only its own device
    lease_seconds: float  # from one renewal of a lease to its expiry
    cache_gb: float = devices.DEFAULT_CACHE_GB  # that decoded images may take on this machine's disk
    objective: Objective | None = None  # of this process; None: trials import the one that they name
    # Set, before ``stop`` of ``run_worker``, when that is because the supervisor is gone.
    supervisor_gone: threading.Event = field(default_factory=threading.Event)


def run_worker(
    storage: Storage, name: str, settings: WorkerSettings, stop: threading.Event
) -> Iterator[TrialEvent]:
    """Run trials of a study one by one until nothing is left to do.

    That is when the study is complete or stopped, a budget is used up, or ``stop`` is set. While the study
    is paused, or others run its last trials, it waits: one of these may become free.

    Args:
        storage: The database.
        name: The name of the study.
        settings: The settings of the worker.
        stop: Asks the worker to save, release its trial and return, with waits for storage cut short.

    Yields:
        The events of the trials.

    Raises:
        StoreError: If there is no such study, or the database stays unavailable or refuses a write.
        DefinitionError: If another version of hpo made the study, or it copies one; no such objective; or
            the package of the study's tracker is not installed.
        DeviceError: If the device is missing, lost, or without the study's precision or compiling.
        ArtifactError: If the artifacts fail at the start, or ``MAX_FAILURES`` trials in a row.
        DataError: If images are unreadable, or changed, or ``MAX_FAILURES`` trials fail for the data.
        WeightsError: If a trial's initial weights cannot be loaded.
    """
    _open_places(storage, settings, stop)
    study_id, device = studies.find_study_id(storage, name), find_device(settings.device)
    owner = process.current_owner(settings.shown_as, devices.device_name(device), program_versions())
    with tell_presence(storage, study_id, owner, settings.lease_seconds) as presence:
        context = _set_up(storage, name, study_id, settings, device, stop)
        with tracking.open_tracker(context) as tracker:
            yield from _run_trials(storage, context, settings, tracker, presence)


def _run_trials(
    storage: Storage,
    context: WorkerContext,
    settings: WorkerSettings,
    tracker: TrackerProcess | None,
    presence: Presence,
) -> Iterator[TrialEvent]:
    """Claim and run trials, as ``run_worker`` describes."""
    name, stop, seconds = context.definition.name, context.stop, settings.lease_seconds
    reasons: list[str] = []  # of trials in a row that failed without a fault of their own
    while (claim := _claim_or_wait(storage, context, presence, seconds)) is not None:
        # Read again: the study may have been extended since, and the trial created by that.
        context = replace(context, definition=studies.read_definition(storage, name))
        with log_records.trial_context(claim.number):
            try:
                yield from tracking.track_trial(run_trial(claim, context), claim, context, tracker)
                reasons.clear()
            except StopRequested:  # before the trial's first step
                return
            except (ArtifactError, DataError) as error:
                if len(reasons) == MAX_FAILURES - 1 or isinstance(error, _WITHOUT_RETRY):
                    raise
                _wait_after_failure(claim, error, reasons, stop)


def _claim_or_wait(
    storage: Storage, context: WorkerContext, presence: Presence, lease_seconds: float
) -> lease.Claim | None:
    """Claim the next trial, once there is one; None if the study is over, or after a request to stop."""
    history, stop = context.history, context.stop
    with ChangeWatch(storage, history.study_id) as watch:
        while not stop.is_set():
            definition = studies.read_definition(storage, context.definition.name)
            context.cache.prepare_study(storage, history.study_id, definition)  # fails before a claim
            history.follow(definition)
            claim = claim_next(storage, history, presence.owner, lease_seconds, definition)
            if claim is not None or _is_over(storage, history.study_id, definition):
                return claim
            watch.wait(stop, presence.renew, () if history.rungs is None else history.rungs.epochs)
    return None


def _wait_after_failure(
    claim: lease.Claim, error: HpoError, reasons: list[str], stop: threading.Event
) -> None:
    """Log why a trial was released, unless that has been told, and wait before the next one."""
    if str(error) not in reasons:
        again = "" if stop.is_set() else "; trying again"
        log.warning("trial %d released: %s%s", claim.number, error, again)
    reasons.append(str(error))
    stop.wait(2.0 ** len(reasons))


def _open_places(storage: Storage, settings: WorkerSettings, stop: threading.Event) -> None:
    """Upgrade the store if need be, and check that the artifacts can be written."""
    storage.stop, storage.max_wait_seconds = stop, MAX_WAIT_SECONDS
    tables.upgrade_store(storage)
    settings.artifacts.stop, settings.artifacts.retry_seconds = stop, MAX_WAIT_SECONDS
    settings.artifacts.check_access()  # now, rather than after a trial's first epoch


def _set_up(
    storage: Storage,
    name: str,
    study_id: int,
    settings: WorkerSettings,
    device: torch.device,
    stop: threading.Event,
) -> WorkerContext:
    """Check that the study can run here, and return what the worker's trials share."""
    definition = studies.read_definition(storage, name)
    check_installed(definition.search.track)
    history = History(storage, study_id, name, definition.metric, definition.objectives)
    if device.type == "cpu":
        precision.keep_freed_memory()
    cache = WorkerCache(settings.data, settings.artifacts, device, settings.cache_gb)
    cache.prepare_study(storage, history.study_id, definition)  # first: a warm start compares the images
    warm_start.teach(history, definition)
    study_folder = folders.own_folder(storage, name)
    _warn_if_files_are_elsewhere(history, settings.artifacts, study_folder)
    return WorkerContext(
        definition=definition,
        history=history,
        study_folder=study_folder,
        artifacts=settings.artifacts,
        cache=cache,
        device=device,
        stop=stop,
        supervisor_gone=settings.supervisor_gone,
        objective=settings.objective,
    )


def _warn_if_files_are_elsewhere(history: History, artifacts: Artifacts, folder: str) -> None:
    """Log that the artifacts lack all files, but for logs, of a study whose trials have run."""
    try:
        has_files = {*artifacts.list_names(folder)} - {LOGS}
    except OSError:  # the first trial says what is wrong with the folder
        return
    if not has_files and restarts.has_progress(history.storage, history.study_id):
        log.warning(
            "trials of the study have run, but %s has no files of theirs, so they will start again from "
            "their first epoch; if the files are elsewhere, stop and pass their location with --artifacts "
            "or HPO_ARTIFACTS",
            artifacts.path(folder),
        )


def claim_next(
    storage: Storage, history: History, owner: Owner, lease_seconds: float, definition: Definition
) -> lease.Claim | None:
    """Claim the next trial of a study and set it RUNNING: a paused one that is promoted, or one that waits.

    Args:
        storage: The database.
        history: The trials of the study, and its rungs.
        owner: This worker.
        lease_seconds: From one renewal of the lease to its expiry.
        definition: The study.

    Returns:
        The claim, or None if no trial can be claimed now, the study is paused or stopped, or a budget
        leaves no room.

    Raises:
        StoreError: If the database stays unavailable, or refuses the write.
    """
    table = history.rung_table
    history.leave_own_trial()
    if isinstance(table, CurveTable):
        history.read_again()
        table.prepare()
    return queue.claim_trial(
        storage,
        history.study_id,
        owner,
        lease_seconds=lease_seconds,
        max_attempts=definition.search.max_attempts,
        max_failures=definition.search.max_failures,
        limits=definition.budget_limits,
        promote=None if table is None else Promotions(history, table).lock_next_trial,
        rungs=() if table is None else table.rungs.epochs,
    )


def _is_over(storage: Storage, study_id: int, definition: Definition) -> bool:
    """Return whether there is nothing left to wait for."""
    limits = definition.budget_limits
    return (
        control.read_order(storage, study_id) == plan.ORDER_STOPPED
        or not queue.has_open_trials(storage, study_id)
        or any(budget.is_used_up for budget in budgets.read_budgets(storage, study_id, limits))
        or failures.have_stopped_study(storage, study_id, definition.search.max_failures)
    )
