"""A worker: claims one trial after another until the study is complete or it is told to stop."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from hpo.artifacts.folders import Artifacts
from hpo.errors import ArtifactError, DataError, DeviceError
from hpo.retry import PATIENCE
from hpo.search import asha, samplers
from hpo.store import budgets, control, lease, queue, studies, warm_start
from hpo.store.history import History
from hpo.store.process import Owner
from hpo.store.studies import Store
from hpo.study.definition import Definition, Search
from hpo.training import precision
from hpo.training.events import Event
from hpo.workers import trial
from hpo.workers.cache import Warm
from hpo.workers.pruning import Promotions
from hpo.workers.trial import Place

FAILURES = 3  # in a row that no trial is to blame for, after which a worker gives up
IDLE_SECONDS = 0.5  # between two looks at a study in which others run what is left


log = logging.getLogger("hpo")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a worker is told besides its study."""

    artifacts: Artifacts
    data: Path
    device: str
    shown_as: str  # the device as people know it, where the worker sees but its own
    lease_seconds: float


def device(name: str) -> torch.device:
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


def work(opened: Store, name: str, settings: Settings, stop: threading.Event) -> Iterator[Event]:
    """Run the study's trials one by one, giving what happens, until nothing is left to do.

    That is when the study is complete or stopped, a budget of it is used up, or ``stop`` is set. While
    others run the last trials it waits: one of theirs may come free.
    """
    opened.stop = stop  # told to stop, it waits no longer for a database that is away
    settings.artifacts.stop, settings.artifacts.patience = stop, PATIENCE
    settings.artifacts.check()  # rather than after a trial's first epoch
    study_id = studies.study_id(opened, name)
    who = lease.owner(settings.shown_as)
    history = History(opened, study_id, name)
    history.precedents = samplers.shown(warm_start.shown(opened, studies.definition_of(opened, name)))
    where = device(settings.device)
    if where.type == "cpu":
        precision.keep_memory()
    warm = Warm(settings.data, settings.artifacts, where)
    folder = studies.folder_of(opened, name)
    failures = 0  # in a row that no trial is to blame for
    while not stop.is_set():
        definition = studies.definition_of(opened, name)
        warm.prepare(opened, study_id, definition)  # what every trial needs is missed before one is claimed
        history.ladder = asha.of(definition)
        claim = _claim(opened, history, who, settings.lease_seconds, definition.search)
        if claim is None:
            if _is_over(opened, study_id, definition):
                return
            stop.wait(IDLE_SECONDS)
            continue
        place = Place(
            study_id=study_id,
            # Read again: an extension, which leaves alone what was prepared, may have made the trial since.
            definition=studies.definition_of(opened, name),
            storage=history,
            folder=folder,
            artifacts=settings.artifacts,
            warm=warm,
            device=where,
            stop=stop,
        )
        try:
            yield from trial.run(claim, place)
            failures = 0
        except (ArtifactError, DataError) as error:
            failures += 1
            if failures == FAILURES:
                raise
            again = "" if stop.is_set() else "; trying again"
            log.warning("trial %d given back: %s%s", claim.number, error, again)
            stop.wait(2.0**failures)


def _claim(
    opened: Store, history: History, who: Owner, seconds: float, search: Search
) -> lease.Claim | None:
    """Claim the next trial of the study that the history is of."""
    return queue.claim(
        opened,
        history.study_id,
        who,
        seconds=seconds,
        max_attempts=search.max_attempts,
        limits=search.limits,
        promote=None if history.board is None else Promotions(history, history.board).next,
    )


def _is_over(opened: Store, study_id: int, definition: Definition) -> bool:
    """Tell whether nothing is left to wait for."""
    return (
        control.order(opened, study_id) == control.STOPPED
        or not queue.is_open(opened, study_id)
        or any(each.is_used_up for each in budgets.of(opened, study_id, definition.search.limits))
    )
