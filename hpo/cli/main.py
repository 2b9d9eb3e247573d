"""The command ``hpo``: one function a verb, which reads its settings, calls the module that does it, and
shows what came out. Results go to stdout, progress and errors to stderr.

Everything heavy is imported inside the verbs, so that ``hpo --help`` answers at once.
"""

import gc
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import hpo
from hpo.cli import results
from hpo.cli.options import (
    ARTIFACTS,
    DATA,
    LEASE,
    STORE,
    ArtifactRoot,
    DataRoot,
    Devices,
    Engine,
    Json,
    Lease,
    NewName,
    Options,
    Print,
    Sets,
    StoreUrl,
    StudyFile,
    StudyName,
    Workers,
)
from hpo.errors import ArtifactsUnavailable, DeviceLost, HpoError, StoreError, StoreUnavailable

if TYPE_CHECKING:
    from hpo.store.storage import Storage
    from hpo.study.definition import Definition

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(results.app)


def main() -> None:
    """Run the command; an HpoError becomes one line on stderr and exit code 1."""
    # A reader that has seen enough (| head) ends us quietly; work sets this back (watch.Stop).
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # Looking for garbage at every 700 objects costs a worker an eighth of its start, which makes few.
    gc.set_threshold(10_000)
    try:
        app()
    except HpoError as error:
        print(f"hpo: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _version(asked: bool) -> None:
    if asked:
        print(f"hpo {hpo.__version__}")
        raise typer.Exit


@app.callback()
def general(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Hyperparameter optimization for people who fine-tune vision models."""


@app.command()
def run(
    study: StudyFile,
    devices: Devices = "auto",
    sets: Sets = None,
    name: NewName = None,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
    data: DataRoot = DATA,
    lease_seconds: Lease = LEASE,
) -> None:
    """Run a study here until it is complete, or a budget is used up, and print its best trial."""
    from hpo.cli import progress
    from hpo.store import status, studies
    from hpo.study import file
    from hpo.training.devices import worker_devices

    stop = progress.StopSignal()
    worker_devices(devices, 1, 1)  # refused before anything is stored
    definition = file.load_study_file(file.find_study_file(study), sets or [], name)
    _check_images(definition)
    opened = studies.open_storage(store_url, create=True)
    _report_warm_start(opened, definition)
    new = studies.create_study(opened, definition, file.annotated_source(study, sets or [], name))
    before = status.read_status(opened, definition.name)
    if before.state == "complete":
        progress.print_stderr(
            f"hpo: study '{definition.name}' is complete, all {before.budget} trials have run; "
            "nothing to do"
        )
        results.print_best(opened, definition.name, artifacts, store_url)
        return
    if not new:
        progress.print_stderr(
            f"hpo: study '{definition.name}' goes on: {before.trials['waiting']} trials wait"
        )
    settings = _worker_environment(store_url, artifacts, data, lease_seconds)
    progress.run_workers(opened, definition.name, devices, 1, settings, stop)
    if stop.event.is_set():
        raise typer.Exit(stop.exit_code())
    now = status.read_status(opened, definition.name)
    if now.state != "stopped" and (now.best or not now.used_up_budget):
        results.print_best(opened, definition.name, artifacts, store_url)


def _check_images(definition: "Definition") -> None:
    """Look for a person's own images: a study with a mistyped folder could only be deleted again."""
    from hpo.training.config import Config

    settings = definition.trial_config({})
    if isinstance(settings, Config) and settings.dataset.startswith("folder:"):
        from hpo.training import datasets

        datasets.check_folder(settings)


def _report_warm_start(storage: "Storage", definition: "Definition") -> None:
    """Say what the sampler of a new study learns from; one that is there keeps what it began with."""
    from hpo.cli import progress
    from hpo.store import status, warm_start

    if definition.search.start_from and definition.name not in status.study_names(storage):
        for found in warm_start.find_warm_starts(storage, definition):
            progress.print_stderr(f"hpo: {found}")


def _worker_environment(store_url: str, artifacts: str, data: Path, lease_seconds: float) -> dict[str, str]:
    """Give the settings of worker processes; in their environment, where no password shows."""
    return {
        "HPO_STORE": store_url,
        "HPO_ARTIFACTS": artifacts,
        "HPO_DATA": str(data),
        "HPO_LEASE_SECONDS": str(lease_seconds),
    }


@app.command()
def finish(
    name: StudyName,
    top: Annotated[int, typer.Option("--top", metavar="K", min=1, help="The K best settings.")] = 3,
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="S", min=1, help="Runs of each, with S seeds.")
    ] = 5,
    devices: Devices = "auto",
    as_json: Json = False,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
    data: DataRoot = DATA,
    lease_seconds: Lease = LEASE,
) -> None:
    """Run a study's best settings over several seeds, score each run once on the test split, compare."""
    from hpo.analysis import finish as finishes
    from hpo.cli import progress
    from hpo.store import status, studies
    from hpo.training.devices import worker_devices

    stop = progress.StopSignal()
    worker_devices(devices, 1, 1)
    opened = studies.open_storage(store_url, create=False)
    plan = finishes.plan_finish(opened, name, top, seeds)
    finishes.create_finish_study(opened, plan)
    for note in plan.notes:
        progress.print_stderr(f"hpo: {note}")
    if status.read_status(opened, plan.name).state != "complete":
        settings = _worker_environment(store_url, artifacts, data, lease_seconds)
        progress.run_workers(opened, plan.name, devices, 1, settings, stop)
    if stop.event.is_set():
        raise typer.Exit(stop.exit_code())
    results.print_finish(finishes.read_result(opened, plan), as_json)


@app.command()
def create(study: StudyFile, sets: Sets = None, name: NewName = None, store_url: StoreUrl = STORE) -> None:
    """Store a study, or extend it with more trials, budget or points, for workers to run."""
    from hpo.store import status, studies
    from hpo.study import file

    definition = file.load_study_file(file.find_study_file(study), sets or [], name)
    opened = studies.open_storage(store_url, create=True)
    _report_warm_start(opened, definition)
    new = studies.create_study(opened, definition, file.annotated_source(study, sets or [], name))
    waiting = status.read_status(opened, definition.name).trials["waiting"]
    print(f"study {definition.name} {'created' if new else 'is there'}: {waiting} trials wait")


@app.command()
def enqueue(
    name: StudyName,
    settings: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="The setting to run.")],
    store_url: StoreUrl = STORE,
) -> None:
    """Queue one setting by hand, to run before what is searched."""
    from hpo.analysis.formatting import format_params
    from hpo.store import studies
    from hpo.study import file

    opened = studies.open_storage(store_url, create=False)
    definition = studies.read_definition(opened, name)
    point = file.point_from_texts(definition, settings)
    number = studies.enqueue_setting(opened, name, point)
    print(
        f"trial {number} of study {name} waits: {format_params(definition.complete_hyperparameters(point))}"
    )


@app.command()
def delete(
    name: StudyName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
) -> None:
    """Delete a study with its artifacts, after asking."""
    from hpo.artifacts.folders import Artifacts
    from hpo.store import status, studies

    opened = studies.open_storage(store_url, create=False)
    now = status.read_status(opened, name)
    if alive := [worker.owner for worker in now.workers if worker.is_alive]:
        first = (
            "they save and leave, then try again" if now.state == "stopped" else f"'hpo stop {name}' first"
        )
        raise StoreError(f"study '{name}' has workers ({', '.join(alive)}); {first}")
    folder = studies.artifacts_folder(opened, name)
    place = Artifacts(artifacts)
    if not yes:
        ended = sum(now.trials[state] for state in ("complete", "pruned", "failed"))
        typer.confirm(
            f"Delete study {name}, {ended} finished trials, and {place.path(folder)}?", abort=True, err=True
        )
    place.check_access()  # lest the study goes, and its files stay
    studies.delete_study(opened, name)
    place.delete_folder(folder)
    print(f"study {name} deleted")


@app.command()
def pause(name: StudyName, store_url: StoreUrl = STORE) -> None:
    """Let a study's workers save and wait, on every host, from their next epoch on."""
    from hpo.store import plan

    if _give_order(name, store_url, plan.ORDER_PAUSED, "pause"):
        print(f"study {name} is paused: workers save at their next epoch, and wait for 'hpo resume {name}'")


@app.command()
def resume(name: StudyName, store_url: StoreUrl = STORE) -> None:
    """Let a study that was paused or stopped go on."""
    if _give_order(name, store_url, None, "resume"):
        print(f"study {name} may go on; workers that were stopped want 'hpo launch {name}'")


@app.command()
def stop(name: StudyName, store_url: StoreUrl = STORE) -> None:
    """Let a study's workers save and leave, on every host, from their next epoch on."""
    from hpo.store import plan

    if _give_order(name, store_url, plan.ORDER_STOPPED, "stop"):
        print(f"study {name} is stopped: workers save at their next epoch, and leave")


def _give_order(name: str, store_url: str, order: str | None, verb: str) -> bool:
    """Put a study under an order, or lift it, and tell whether there is anything left to do."""
    from hpo.store import control, status, studies

    opened = studies.open_storage(store_url, create=False)
    if status.read_status(opened, name).state == "complete":
        print(f"study {name} is complete; there is nothing to {verb}")
        return False
    control.set_order(opened, name, order)
    return True


@app.command()
def retry(
    name: StudyName,
    trial: Annotated[list[int] | None, typer.Option("--trial", metavar="N", help="May repeat.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Every trial that failed.")] = False,
    store_url: StoreUrl = STORE,
) -> None:
    """Put failed trials back, to go on from their checkpoints."""
    from hpo.store import control, studies

    if bool(trial) == failed:
        raise typer.BadParameter("want --trial N (which repeats), or --failed")
    numbers = control.retry_trials(
        studies.open_storage(store_url, create=False), name, None if failed else trial
    )
    if not numbers:
        raise StoreError(f"study '{name}' has no failed trial")
    plural = "s" * (len(numbers) > 1)
    print(f"trial{plural} {', '.join(map(str, numbers))} of study {name} will be tried again")


def _worker_exit(error: HpoError) -> typer.Exit:
    """Say why a worker leaves; its exit code tells a supervisor whether to start it again."""
    from hpo.cli import progress
    from hpo.workers import supervisor

    progress.print_stderr(f"hpo: {error}")
    return typer.Exit(
        1
        if isinstance(error, StoreUnavailable | ArtifactsUnavailable | DeviceLost)
        else supervisor.EXIT_FATAL
    )


@app.command("launch")
def launch_(
    name: StudyName,
    devices: Devices = "auto",
    workers_per_device: Annotated[
        int, typer.Option("--workers-per-device", metavar="K", min=1, help="Workers that share a device.")
    ] = 1,
    engine: Engine = "local",
    workers: Workers = None,
    options: Options = None,
    show: Print = False,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
    data: DataRoot = DATA,
    lease_seconds: Lease = LEASE,
) -> None:
    """Start workers, here or by a scheduler, and keep them going until the study is complete."""
    from hpo.cli import engines, progress
    from hpo.store import studies

    stop = progress.StopSignal()
    try:
        opened = studies.open_storage(store_url, create=False)
        settings = _worker_environment(store_url, artifacts, data, lease_seconds)
        asked = engines.LaunchRequest(
            engine=engine,
            devices=devices,
            workers_per_device=workers_per_device,
            workers=workers,
            options=options or [],
            print_script=show,
        )
        engines.launch_workers(opened, name, asked, settings, stop)
    except HpoError as error:
        raise _worker_exit(error) from error
    if stop.event.is_set():
        raise typer.Exit(stop.exit_code())


@app.command()
def worker(
    name: StudyName,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda:0.")] = "cpu",
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
    data: DataRoot = DATA,
    lease_seconds: Lease = LEASE,
    supervised: Annotated[
        str | None, typer.Option(hidden=True, help="The device's name to the supervisor, which reads us.")
    ] = None,
) -> None:
    """Run one worker in this process until the study is complete or it is told to stop."""
    from hpo.artifacts.folders import Artifacts
    from hpo.cli import progress
    from hpo.store import status, studies
    from hpo.workers import worker as workers

    stop = progress.StopSignal()
    if supervised is not None:
        threading.Thread(target=_stop_at_end_of_input, args=(stop.event,), daemon=True).start()
    try:
        opened = studies.open_storage(store_url, create=False)
        if supervised is None:
            progress.explain_idle(status.read_status(opened, name))
        settings = workers.WorkerSettings(
            artifacts=Artifacts(artifacts),
            data=data.expanduser(),
            device=device,
            shown_as=supervised or device,
            lease_seconds=lease_seconds,
        )
        progress.follow_events(workers.run_worker(opened, name, settings, stop.event))
    except HpoError as error:
        raise _worker_exit(error) from error
    if stop.event.is_set():
        raise typer.Exit(stop.exit_code())
    progress.explain_used_up(status.read_status(opened, name))


def _stop_at_end_of_input(event: threading.Event) -> None:
    """Stop the worker when its supervisor is gone, of which the end of standard input is the sign."""
    sys.stdin.read()
    event.set()
