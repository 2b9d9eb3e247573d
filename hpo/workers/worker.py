"""A worker: claims one trial after another until the study is complete or it is told to stop."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from hpo.artifacts.folders import Artifacts
from hpo.errors import ArtifactError, DataError, DeviceError
from hpo.retry import MAX_WAIT_SECONDS
from hpo.search import asha, samplers
from hpo.store import budgets, control, lease, plan, process, queue, studies, warm_start
from hpo.store.history import History
from hpo.store.process import Owner
from hpo.store.storage import Storage
from hpo.study.definition import Definition, Search
from hpo.training import precision
from hpo.training.events import TrialEvent
from hpo.workers import trial
from hpo.workers.cache import WorkerCache
from hpo.workers.pruning import Promotions
from hpo.workers.trial import WorkerContext

MAX_FAILURES = 3  # in a row that no trial is to blame for, after which a worker gives up
IDLE_SECONDS = 0.5  # between two looks at a study in which others run what is left


log = logging.getLogger("hpo")


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What a worker is told besides its study."""

    artifacts: Artifacts
    data: Path
    device: str
    shown_as: str  # the device as people know it, where the worker sees but its own
    lease_seconds: float


def find_device(name: str) -> torch.device:
    """Give a device by name (cpu, cuda:0); raises DeviceError if it is not there."""
    try:
        found = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"--device {name}: want cpu or cuda:N") from error
    if found.type == "cuda":
        count = torch.cuda.device_count()
        if (found.index or 0) >= count:
            there = f"there are {count} GPUs" if count else "this machine shows no GPU"
            raise DeviceError(f"--device {name}: {there}; 'hpo doctor' says more, --device cpu works")
    elif found.type != "cpu" or found.index is not None:
        raise DeviceError(f"--device {name}: want cpu or cuda:N")
    return found


def run_worker(
    storage: Storage, name: str, settings: WorkerSettings, stop: threading.Event
) -> Iterator[TrialEvent]:
    """Run the study's trials one by one, giving what happens, until nothing is left to do.

    That is when the study is complete or stopped, a budget of it is used up, or ``stop`` is set. While
    others run the last trials it waits: one of theirs may come free.
    """
    storage.stop = stop  # told to stop, it waits no longer for a database that is away
    settings.artifacts.stop, settings.artifacts.retry_seconds = stop, MAX_WAIT_SECONDS
    settings.artifacts.check_access()  # rather than after a trial's first epoch
    study_id = studies.find_study_id(storage, name)
    who = process.current_owner(settings.shown_as)
    history = History(storage, study_id, name)
    history.warm_start_trials = samplers.select_trials(
        warm_start.usable_trials(storage, studies.read_definition(storage, name))
    )
    where = find_device(settings.device)
    if where.type == "cpu":
        precision.keep_freed_memory()
    warm = WorkerCache(settings.data, settings.artifacts, where)
    folder = studies.artifacts_folder(storage, name)
    failures = 0  # in a row that no trial is to blame for
    while not stop.is_set():
        definition = studies.read_definition(storage, name)
        warm.prepare_study(
            storage, study_id, definition
        )  # what every trial needs is missed before one is claimed
        history.rungs = asha.rungs_of(definition)
        claim = _claim_next(storage, history, who, settings.lease_seconds, definition.search)
        if claim is None:
            if _is_over(storage, study_id, definition):
                return
            stop.wait(IDLE_SECONDS)
            continue
        place = WorkerContext(
            study_id=study_id,
            # Read again: an extension, which leaves alone what was prepared, may have made the trial since.
            definition=studies.read_definition(storage, name),
            history=history,
            study_folder=folder,
            artifacts=settings.artifacts,
            cache=warm,
            device=where,
            stop=stop,
        )
        try:
            yield from trial.run_trial(claim, place)
            failures = 0
        except (ArtifactError, DataError) as error:
            failures += 1
            if failures == MAX_FAILURES:
                raise
            again = "" if stop.is_set() else "; trying again"
            log.warning("trial %d given back: %s%s", claim.number, error, again)
            stop.wait(2.0**failures)


def _claim_next(
    storage: Storage, history: History, who: Owner, seconds: float, search: Search
) -> lease.Claim | None:
    """Claim the next trial of the study that the history is of."""
    return queue.claim_trial(
        storage,
        history.study_id,
        who,
        lease_seconds=seconds,
        max_attempts=search.max_attempts,
        limits=search.budget_limits,
        promote=None
        if history.rung_table is None
        else Promotions(history, history.rung_table).lock_next_trial,
    )


def _is_over(storage: Storage, study_id: int, definition: Definition) -> bool:
    """Tell whether nothing is left to wait for."""
    return (
        control.read_order(storage, study_id) == plan.ORDER_STOPPED
        or not queue.has_open_trials(storage, study_id)
        or any(
            each.is_used_up
            for each in budgets.read_budgets(storage, study_id, definition.search.budget_limits)
        )
    )
