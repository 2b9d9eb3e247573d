"""Running a study from Python: by worker processes, or in this process if its objective lives here."""

import contextlib
import logging
import math
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hpo import logs
from hpo.analysis import finish
from hpo.analysis.finish import FinishPlan
from hpo.api import progress, worker_events
from hpo.api.locations import LEASE_SECONDS, Locations, worker_environment
from hpo.api.stop_signal import StopSignal
from hpo.artifacts.folders import Artifacts
from hpo.errors import DefinitionError, HpoError, StoreError, join_names
from hpo.store import failures, status, studies
from hpo.store.storage import Storage
from hpo.study.definition import Definition
from hpo.training import custom, devices, objective_code
from hpo.workers.supervisor import Supervision

if TYPE_CHECKING:
    from hpo.training.custom import Objective

_AGAIN = "call run() again"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a worker may be silent, and how much of the disk it may use."""

    lease_seconds: float
    cache_gb: float


def find_limits(lease_seconds: float | None, cache_gb: float | None) -> Limits:
    """Return the limits that are given, or else those of the environment, or else the defaults.

    Raises:
        HpoError: One of them is no number, or out of range.
    """
    return Limits(
        lease_seconds=_number("lease_seconds", lease_seconds, LEASE_SECONDS, 1, 86_400),
        cache_gb=_number("cache_gb", cache_gb, devices.DEFAULT_CACHE_GB, 0, 1_000_000),
    )


def _number(name: str, given: float | None, default: float, least: float, most: float) -> float:
    variable = f"HPO_{name.upper()}"
    found: Any = os.environ.get(variable) or default if given is None else given
    with contextlib.suppress(ValueError, TypeError):
        if least <= (value := float(found)) <= most and not math.isnan(value):
            return value
    where = variable if given is None and variable in os.environ else name
    raise HpoError(f"{where}: want a number from {least} to {most:,}, found {found!r}")


def run_processes(
    name: str,
    places: Locations,
    spec: str,
    limits: Limits,
    supervision: Supervision,
    shows_progress: bool,
) -> None:
    """Run a study by worker processes on this machine, as ``Study.run`` describes.

    Args:
        name: The study.
        places: Where it is.
        spec: Devices, as ``--devices`` takes them.
        limits: Of each worker.
        supervision: How long the supervisor waits for the workers.
        shows_progress: Whether to show the trials while they run.

    Raises:
        HpoError: As ``Study.run`` raises it.
        KeyboardInterrupt: The user has interrupted it.
    """
    devices.worker_devices(spec, 1, 1)  # fails before anything is started
    workers = progress.LocalWorkers(
        devices=spec,
        settings=worker_environment(places, limits.lease_seconds, limits.cache_gb, logs.find_log_options()),
        supervision=supervision,
    )
    display = progress.Display(shows_progress=shows_progress, again=_AGAIN)
    _run(
        name,
        places,
        lambda storage, stop: progress.run_workers(storage, name, workers, stop, display),
    )


def run_here(
    name: str,
    places: Locations,
    spec: str,
    limits: Limits,
    objective: "Objective",
    shows_progress: bool,
) -> None:
    """Run a study with a custom objective in this process, as ``Study.run`` describes.

    Args:
        name: The study.
        places: Where it is.
        spec: Devices, as ``--devices`` takes them; the first one is used.
        limits: Of the worker.
        objective: The function.
        shows_progress: Whether to show the trials while they run.

    Raises:
        HpoError: As ``Study.run`` raises it, or the study has no custom objective, or one of another name.
        KeyboardInterrupt: The user has interrupted it.
    """
    from hpo.workers import worker

    device = devices.worker_devices(spec, 1, 1)[0].name
    settings = worker.WorkerSettings(
        artifacts=Artifacts(places.artifacts),
        data=places.data,
        device=device,
        shown_as=device,
        lease_seconds=limits.lease_seconds,
        cache_gb=limits.cache_gb,
        objective=objective,
    )
    display = progress.Display(shows_progress=shows_progress, again=_AGAIN)

    def start_worker(storage: Storage, stop: StopSignal) -> None:
        _warn_of_edits(storage, name, objective)
        events = worker.run_worker(storage, name, settings, stop.event)
        worker_events.follow_worker(storage, name, events, stop, display)

    _run(name, places, start_worker, objective)


def _warn_of_edits(storage: Storage, name: str, objective: "Objective") -> None:
    """Warn if trials have reported values of a function that has been edited since."""
    now = objective_code.fingerprint(objective)
    trials = status.read_trials(storage, name)
    earlier = [t for t in trials if now is not None and t.user_attrs.get("objective_code", now) != now]
    if not earlier:
        return
    open_ones = sum(not trial.state.is_finished() for trial in earlier)
    resumed = f"; {open_ones} of them will continue from its states" if open_ones else ""
    numbers = join_names((str(trial.number) for trial in earlier), most=10)
    logs.tell(
        f"study '{name}': '{objective.__name__}' has been edited since trial{'s' * (len(earlier) > 1)} "
        f"{numbers} ran{resumed}; for values that can be compared, create the study under a new name",
        logging.WARNING,
    )


def prepare_finish(
    storage: Storage, name: str, top: int, seeds: int, objective: "Objective | None" = None
) -> FinishPlan:
    """Store the study that runs a study's best settings again, and print what the user may not expect.

    Args:
        storage: Where the study is stored.
        name: The study.
        top: How many of its best settings to run.
        seeds: How many seeds to run each with.
        objective: The function that ``Study.finish`` is given.

    Raises:
        StoreError: As ``finish.plan_finish`` raises it, or the database refuses the write.
        DefinitionError: The stored runs are of other settings and have begun, or there are runs to do and
            the function is not the study's objective, or is missing.
    """
    plan = finish.plan_finish(storage, name, top, seeds)
    if not finish.has_run(storage, plan):
        call = f"study.finish(top={top}, seeds={seeds}, objective={{}})"
        _check_objective(studies.read_definition(storage, name), objective, call)
    finish.create_finish_study(storage, plan)
    for note in plan.notes:
        logs.tell(note)
    return plan


def _run(
    name: str,
    places: Locations,
    start_workers: Callable[[Storage, StopSignal], None],
    objective: "Objective | None" = None,
) -> None:
    """Run the workers of a study if there is work, and do what comes before and after them.

    They get a connection of their own, since a request to stop ends all that goes on with it.
    """
    storage = studies.open_storage(places.store, create=False)
    try:
        _check_objective(studies.read_definition(storage, name), objective, "study.run(objective={})")
        with _open_stop_signal() as stop:
            if progress.has_work(status.read_status(storage, name)):
                start_workers(storage, stop)
            if stop.event.is_set():
                raise KeyboardInterrupt
        _tell_early_ends(storage, name, places)
    finally:
        storage.engine.dispose()


def _open_stop_signal() -> StopSignal:
    """Return what a Ctrl-C sets; signals reach the main thread alone."""
    if threading.current_thread() is threading.main_thread():
        return StopSignal((signal.SIGINT,))
    logs.tell("Ctrl-C cannot stop what another thread than the main one runs; stop() can")
    return StopSignal(())


def _check_objective(definition: Definition, objective: "Objective | None", call: str) -> None:
    """Refuse a function that is not the study's objective, and an objective that no process can import.

    Args:
        definition: The study.
        objective: The function that is given.
        call: What to call with one, with ``{}`` in place of its name.
    """
    name, named = definition.name, str(definition.train.get("objective", ""))
    if objective is None and (function := definition.script_function):
        raise DefinitionError(
            f"study '{name}' has the objective '{named}', a function of a script or a notebook, which "
            f"workers cannot import; define it in that script or notebook, if that has not been done, and "
            f"call {call.format(function)} there"
        )
    if objective is None:
        return
    if not named:
        raise DefinitionError(
            f"study '{name}' has no train.objective, so hpo trains its models itself; leave out objective="
        )
    custom.check_function(objective)
    found = getattr(objective, "__name__", None)
    if found is not None and found != named.partition(":")[2]:
        raise DefinitionError(
            f"study '{name}' has the objective '{named}', found a function named '{found}'; give the one "
            "of the study, or create another study"
        )


def _tell_early_ends(storage: Storage, name: str, places: Locations) -> None:
    """Print how many trials failed or were pruned, and why; raise a StoreError if all that ran did."""
    now = status.read_status(storage, name)
    files = Artifacts(places.artifacts).path(studies.artifacts_folder(storage, name))
    describe = failures.traceback_lines if now.failure_stop else partial(failures.advice_lines, name)
    for line in describe(now.early_ends, files):
        logs.tell(line)
    if now.failure_stop:
        raise StoreError(f"study '{name}' {now.failure_stop}")
    if now.state == "complete" and now.budget and not now.trials["complete"]:
        raise StoreError(f"study '{name}' has no complete trial; 'hpo trials {name}' says why each ended")
