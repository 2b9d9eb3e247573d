"""The verbs that store a study and run its trials: run, create, launch, worker and finish."""

import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from hpo import log_records, logs
from hpo.api.locations import Locations, worker_environment
from hpo.cli import supervised_input
from hpo.cli.options import (
    ARTIFACTS,
    BACKOFF,
    CACHE_GB,
    DATA,
    GRACE,
    LEASE,
    LOG,
    STORE,
    ArtifactRoot,
    Backoff,
    CacheSize,
    DataRoot,
    Device,
    Devices,
    Engine,
    Grace,
    Json,
    Lease,
    LogFormat,
    LogLevel,
    NewName,
    Options,
    Print,
    Sets,
    StoreUrl,
    StudyFile,
    StudyName,
    Track,
    Workers,
    with_track,
)
from hpo.cli.results import (
    exit_after_failures,
    exit_if_ended,
    print_best,
    print_early_ends,
    print_finish,
)
from hpo.cli.verbs import NO_RESTART, NO_SUCCESS, RESULTS, START, STOPPABLE, verb
from hpo.errors import (
    ArtifactsUnavailable,
    DeviceLost,
    HpoError,
    StoreUnavailable,
    WorkerStartError,
)
from hpo.workers.supervisor import Supervision

if TYPE_CHECKING:
    from hpo.api.creation import CreatedStudy
    from hpo.api.progress import LocalWorkers
    from hpo.api.stop_signal import StopSignal
    from hpo.store.status import Status
    from hpo.store.storage import Storage

app = typer.Typer()


@verb(
    app,
    "run",
    START,
    "hpo run quickstart --set search.trials=8",
    "hpo run my-study.toml --devices cuda:0,cuda:1",
    "hpo run own-images --set train.dataset=folder:my-images --name flowers",
    exit_codes={**STOPPABLE, **NO_SUCCESS},
)
def run_study(
    study: StudyFile,
    devices: Devices = "auto",
    sets: Sets = None,
    name: NewName = None,
    track: Track = None,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
    data: DataRoot = DATA,
    lease_seconds: Lease = LEASE,
    cache_gb: CacheSize = CACHE_GB,
    grace_seconds: Grace = GRACE,
    backoff_seconds: Backoff = BACKOFF,
    log_level: LogLevel = LOG.level,
    log_format: LogFormat = LOG.form,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask before a study that will take days.")
    ] = False,
) -> None:
    """Run a study on this machine, then print its best trial.

    Ends when the study is complete or a budget is used up.
    After an interruption, the same command continues the study.
    For a study that is complete, paused or stopped it starts no worker, which is no error.
    On a terminal, it asks before it starts a study that will take more than a day.
    """
    from hpo.api import creation, progress, stop_signal
    from hpo.cli import long_runs
    from hpo.store import status, studies
    from hpo.training.devices import worker_devices

    logging = _start_logging(log_level, log_format)
    stop = stop_signal.StopSignal()
    worker_devices(devices, 1, 1)  # fails before anything is stored
    places = Locations(store=store_url, artifacts=artifacts, data=data)
    created = creation.create_study(study, with_track(sets, track), name, places, images_needed_here=True)
    log_records.set_study(created.study.name)
    if created.result == studies.Stored.EXTENDED:
        logs.tell(f"study '{created.study.name}' {created.describe_result()}")
    before = status.read_status(created.study.storage, created.study.name)
    if progress.has_work(before):
        if not yes:
            long_runs.ask_before_long_run(created, before, study, sets or [], devices, data)
        workers = progress.LocalWorkers(
            devices=devices,
            settings=worker_environment(places, lease_seconds, cache_gb, logging),
            supervision=Supervision(grace_seconds=grace_seconds, backoff_seconds=backoff_seconds),
        )
        _run_workers(created, before, workers, stop)
    _print_outcome(created.study.storage, before, artifacts, store_url)


def _start_logging(
    level: logs.Level, form: logs.Format, study: str = "", *, is_supervised: bool = False
) -> logs.LogOptions:
    """Let this process log, and return what its workers need for that."""
    options = logs.LogOptions(level=level, form=form)
    logs.set_up(options, study, is_supervised=is_supervised)
    return options


def _run_workers(
    created: "CreatedStudy", before: "Status", workers: "LocalWorkers", stop: "StopSignal"
) -> None:
    from hpo.api import progress
    from hpo.store import studies

    name = created.study.name
    if created.result in (studies.Stored.KEPT, studies.Stored.EXTENDED):
        logs.tell(f"study '{name}' continues: {before.trials['waiting']} trials waiting")
    progress.run_workers(created.study.storage, name, workers, stop)
    _exit_if_stopped(stop)


def _exit_if_stopped(stop: "StopSignal", *, tells: bool = False) -> None:
    if stop.event.is_set():
        if tells and stop.signal is not None:
            logs.tell(f"this worker ends: {signal.Signals(stop.signal).name} has asked it to stop")
        raise typer.Exit(stop.exit_code())


def _print_outcome(storage: "Storage", before: "Status", artifacts: str, store_url: str) -> None:
    """Print the best trial of a study that has ended, or how its trials failed; ``before`` this run."""
    from hpo.store import status

    now = status.read_status(storage, before.study)
    if now.state == "complete" or (now.trials["complete"] and now.used_up_budget):
        print_best(storage, now.study, artifacts, store_url)
    elif now.failure_stop:
        exit_after_failures(storage, now, artifacts)
    elif before.state not in ("paused", "stopped"):
        print_early_ends(storage, now.study, artifacts)


@verb(app, "create", START, "hpo create my-study.toml", "hpo create my-study.toml --set search.trials=100")
def create_study(
    study: StudyFile,
    sets: Sets = None,
    name: NewName = None,
    track: Track = None,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
    data: DataRoot = DATA,
) -> None:
    """Store a study without running it, or extend a stored study.

    More trials, a larger budget or more points can be added.
    Any other change, also of the images in its folder, is refused once a trial runs or was queued by hand.
    Before that, it replaces the stored study.
    Run the trials with 'hpo launch'.
    """
    from hpo.api import creation
    from hpo.store import control, status, studies

    places = Locations(store=store_url, artifacts=artifacts, data=data)
    created = creation.create_study(study, with_track(sets, track), name, places)
    name, storage = created.study.name, created.study.storage
    waiting = status.count_waiting(storage, name)
    order = control.read_order(storage, studies.find_study_id(storage, name))
    held = f"; the study is {order}, 'hpo resume {name}' lets it continue" if order else ""
    print(f"study {name} {created.describe_result()}: {waiting} trials waiting{held}")


@verb(
    app,
    "launch",
    START,
    "hpo launch my-study --devices cpu:4",
    "hpo launch my-study --engine slurm --workers 4 --option partition=gpu",
    exit_codes={**STOPPABLE, **NO_SUCCESS, **NO_RESTART},
)
def launch_workers(
    name: StudyName,
    devices: Devices = "auto",
    workers_per_device: Annotated[
        int,
        typer.Option("--workers-per-device", metavar="K", min=1, help="Number of workers on each device."),
    ] = 1,
    engine: Engine = "local",
    workers: Workers = None,
    options: Options = None,
    print_script: Print = False,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
    data: DataRoot = DATA,
    lease_seconds: Lease = LEASE,
    cache_gb: CacheSize = CACHE_GB,
    grace_seconds: Grace = GRACE,
    backoff_seconds: Backoff = BACKOFF,
    log_level: LogLevel = LOG.level,
    log_format: LogFormat = LOG.form,
) -> None:
    """Start workers for a stored study and restart those that die.

    Follows local and Ray workers until the study ends or a budget is used up.
    Submits Slurm workers as a job, without waiting for it.
    """
    from hpo.api import stop_signal
    from hpo.cli import engines
    from hpo.store import studies

    logging = _start_logging(log_level, log_format, name)
    stop = stop_signal.StopSignal()
    try:
        storage = studies.open_storage(store_url, create=False)
        places = Locations(store=store_url, artifacts=artifacts, data=data)
        settings = worker_environment(places, lease_seconds, cache_gb, logging)
        request = engines.LaunchRequest(
            engine=engine,
            devices=devices,
            workers_per_device=workers_per_device,
            workers=workers,
            options=options or [],
            print_script=print_script,
            supervision=Supervision(grace_seconds=grace_seconds, backoff_seconds=backoff_seconds),
        )
        engines.launch_workers(storage, name, request, settings, stop)
    except HpoError as error:
        raise _worker_exit(error) from error
    _exit_if_stopped(stop)
    exit_if_ended(storage, name, artifacts)


@verb(app, "worker", START, "hpo worker my-study --device cuda:0", exit_codes={**STOPPABLE, **NO_RESTART})
def run_one_worker(
    name: StudyName,
    device: Device = None,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
    data: DataRoot = DATA,
    lease_seconds: Lease = LEASE,
    cache_gb: CacheSize = CACHE_GB,
    log_level: LogLevel = LOG.level,
    log_format: LogFormat = LOG.form,
    supervised: Annotated[
        str | None, typer.Option(hidden=True, help="Device name for a supervisor that reads our output.")
    ] = None,
) -> None:
    """Run one worker in this process until the study is complete.

    It also ends when a budget is used up or the study is stopped.
    'hpo launch' starts several workers and restarts those that die.
    Use this command under a supervisor of your own.
    """
    from hpo.api import progress, stop_signal, worker_events
    from hpo.artifacts.folders import Artifacts
    from hpo.store import status, studies
    from hpo.training.devices import worker_devices
    from hpo.workers import worker

    _start_logging(log_level, log_format, name, is_supervised=supervised is not None)
    stop = stop_signal.StopSignal()
    gone = threading.Event() if supervised is None else supervised_input.stop_at_end(stop.event)
    try:
        storage = studies.open_storage(store_url, create=False)
        # A worker that a supervisor restarts waits while its study is paused.
        if supervised is None and not progress.has_work(status.read_status(storage, name)):
            return
        device = device or worker_devices("auto", 1, 1)[0].name
        settings = worker.WorkerSettings(
            artifacts=Artifacts(artifacts),
            data=data,
            device=device,
            shown_as=supervised or device,
            lease_seconds=lease_seconds,
            cache_gb=cache_gb,
            supervisor_gone=gone,
        )
        worker_events.follow_events(worker.run_worker(storage, name, settings, stop.event))
    except HpoError as error:
        raise _worker_exit(error) from error
    _exit_if_stopped(stop, tells=supervised is None)
    if supervised is None:  # else the supervisor says it
        progress.explain_end(status.read_status(storage, name))


def _worker_exit(error: HpoError) -> typer.Exit:
    """Print why a worker exits; its exit code tells a supervisor whether a restart can help."""
    from hpo.workers import supervisor

    logs.tell_exit(str(error))
    return typer.Exit(
        1
        if isinstance(error, StoreUnavailable | ArtifactsUnavailable | DeviceLost | WorkerStartError)
        else supervisor.EXIT_FATAL
    )


@verb(app, "finish", RESULTS, "hpo finish my-study --top 3 --seeds 5", exit_codes=STOPPABLE)
def finish_study(
    name: StudyName,
    top: Annotated[
        int, typer.Option("--top", metavar="K", min=1, help="How many of the best settings to rerun.")
    ] = 3,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", metavar="S", min=1, help="How many runs of each setting, with different seeds."
        ),
    ] = 5,
    devices: Devices = "auto",
    as_json: Json = False,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
    data: DataRoot = DATA,
    lease_seconds: Lease = LEASE,
    cache_gb: CacheSize = CACHE_GB,
    log_level: LogLevel = LOG.level,
    log_format: LogFormat = LOG.form,
) -> None:
    """Rerun the best settings of a study with several seeds and compare them.

    Each run trains on the training and the validation images.
    It is scored once, on the test split, after its last epoch.
    A custom objective measures these runs as it measured the study's.
    One of a script or a notebook runs there: study.finish(objective=function).
    The runs are stored as a study of their own, named NAME-finish.
    """
    from hpo.analysis.finish_result import read_result
    from hpo.api import progress, running, stop_signal
    from hpo.store import status, studies
    from hpo.training.devices import worker_devices

    logging = _start_logging(log_level, log_format, name)
    stop = stop_signal.StopSignal()
    worker_devices(devices, 1, 1)
    places = Locations(store=store_url, artifacts=artifacts, data=data)
    storage = studies.open_storage(store_url, create=False)
    plan = running.prepare_finish(storage, name, top, seeds)
    log_records.set_study(plan.name)
    now = status.read_status(storage, plan.name)
    if now.state != "complete":
        if not progress.has_work(now):
            raise typer.Exit(1)
        settings = worker_environment(places, lease_seconds, cache_gb, logging)
        workers = progress.LocalWorkers(devices=devices, settings=settings)
        progress.run_workers(storage, plan.name, workers, stop)
    _exit_if_stopped(stop)
    print_finish(read_result(storage, plan), as_json)
