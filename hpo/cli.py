"""The command ``hpo``: one function a verb, which reads its settings, calls the module that does it, and
shows what came out. Results go to stdout, progress and errors to stderr.

Everything heavy is imported inside the verbs, so that ``hpo --help`` answers at once.
"""

import json
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hpo.errors import HpoError, StoreAway
from hpo.flags import (
    ARTIFACTS,
    DATA,
    LEASE,
    STORE,
    ArtifactRoot,
    DataRoot,
    Devices,
    Json,
    Lease,
    NewName,
    Sets,
    StoreUrl,
    StudyFile,
    StudyName,
)

if TYPE_CHECKING:
    from hpo.artifacts import Artifacts
    from hpo.status import Best
    from hpo.store import Store

app = typer.Typer(
    help="Hyperparameter optimization for people who fine-tune vision models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command; an HpoError becomes one line on stderr and exit code 1."""
    # A reader that has seen enough (| head) ends us quietly; work sets this back (watch.Stop).
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        app()
    except HpoError as error:
        print(f"hpo: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, default=vars))


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
    """Run a study here until it is complete, and print its best trial."""
    from hpo import status, store, studyfile, watch
    from hpo.devices import slots

    stop = watch.Stop()
    slots(devices, 1, 1)  # refused before anything is stored
    definition = studyfile.load(studyfile.find(study), sets or [], name)
    opened = store.open_(store_url, create=True)
    new = store.create(opened, definition, studyfile.source(study, sets or []))
    before = status.status(opened, definition.name)
    if before.state == "complete":
        watch.say(
            f"hpo: study '{definition.name}' is complete, all {before.budget} trials have run; "
            "nothing to do"
        )
        _print_best(opened, definition.name, artifacts, store_url)
        return
    if not new:
        watch.say(f"hpo: study '{definition.name}' goes on: {before.trials['waiting']} trials wait")
    settings = _settings(store_url, artifacts, data, lease_seconds)
    watch.workers(opened, definition.name, devices, 1, settings, stop)
    if stop.event.is_set():
        raise typer.Exit(stop.exit_code())
    _print_best(opened, definition.name, artifacts, store_url)


def _settings(store_url: str, artifacts: str, data: Path, lease_seconds: float) -> dict[str, str]:
    """Give the settings of worker processes; in their environment, where no password shows."""
    return {
        "HPO_STORE": store_url,
        "HPO_ARTIFACTS": artifacts,
        "HPO_DATA": str(data),
        "HPO_LEASE_SECONDS": str(lease_seconds),
    }


def _print_best(opened: "Store", name: str, artifacts: str, store_url: str) -> None:
    from hpo import show, status, store
    from hpo.artifacts import Artifacts
    from hpo.errors import StoreError

    found = status.best(opened, name, 1)
    if not found:
        raise StoreError(f"study '{name}' has no complete trial; 'hpo trials {name}' says why each ended")
    selection = status.selection_of(store.definition_of(opened, name))
    print(show.best(found[0], selection, _places(found[0], opened, Artifacts(artifacts), store_url)))


def _places(best: "Best", opened: "Store", artifacts: "Artifacts", store_url: str) -> dict[str, str]:
    """Say where a trial's weights, curves and store are."""
    from hpo import store

    folder = f"{store.folder_of(opened, best.study)}/{best.trial:04d}"
    weights = {"weights": artifacts.path(best.weights)} if best.weights else {}
    return weights | {
        "curves": artifacts.path(f"{folder}/epochs.csv"),
        "store": store.shown(store.parse_url(store_url)),
    }


@app.command()
def create(study: StudyFile, sets: Sets = None, name: NewName = None, store_url: StoreUrl = STORE) -> None:
    """Store a study, or extend it with more trials or points, for workers to run."""
    from hpo import status, store, studyfile

    definition = studyfile.load(studyfile.find(study), sets or [], name)
    opened = store.open_(store_url, create=True)
    new = store.create(opened, definition, studyfile.source(study, sets or []))
    waiting = status.status(opened, definition.name).trials["waiting"]
    print(f"study {definition.name} {'created' if new else 'is there'}: {waiting} trials wait")


@app.command()
def enqueue(
    name: StudyName,
    settings: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="The setting to run.")],
    store_url: StoreUrl = STORE,
) -> None:
    """Queue one setting by hand, to run before what is searched."""
    from hpo import store, studyfile

    opened = store.open_(store_url, create=False)
    point = studyfile.by_hand(store.definition_of(opened, name), settings)
    print(f"trial {store.enqueue(opened, name, point)} of study {name} waits")


@app.command()
def delete(
    name: StudyName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
) -> None:
    """Delete a study with its artifacts, after asking."""
    from hpo import status, store
    from hpo.artifacts import Artifacts
    from hpo.errors import StoreError

    opened = store.open_(store_url, create=False)
    now = status.status(opened, name)
    if now.state == "running":
        owners = ", ".join(worker.owner for worker in now.workers)
        raise StoreError(f"study '{name}' has workers ({owners}); stop them first")
    folder = store.folder_of(opened, name)
    place = Artifacts(artifacts)
    if not yes:
        ended = sum(now.trials[state] for state in ("complete", "pruned", "failed"))
        typer.confirm(
            f"Delete study {name}, {ended} finished trials, and {place.path(folder)}?", abort=True, err=True
        )
    store.delete(opened, name)
    place.delete(folder)
    print(f"study {name} deleted")


@app.command("launch")
def launch_(
    name: StudyName,
    devices: Devices = "auto",
    workers_per_device: Annotated[
        int, typer.Option("--workers-per-device", metavar="K", min=1, help="Workers that share a device.")
    ] = 1,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
    data: DataRoot = DATA,
    lease_seconds: Lease = LEASE,
) -> None:
    """Start workers on this machine's devices, and keep them going until the study is complete."""
    from hpo import launch, status, store, watch

    stop = watch.Stop()
    try:
        opened = store.open_(store_url, create=False)
        if status.status(opened, name).state == "complete":
            watch.say(f"hpo: study '{name}' is complete; nothing to do")
            return
        settings = _settings(store_url, artifacts, data, lease_seconds)
        watch.workers(opened, name, devices, workers_per_device, settings, stop)
    except HpoError as error:
        watch.say(f"hpo: {error}")
        raise typer.Exit(1 if isinstance(error, StoreAway) else launch.FATAL) from error
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
    from hpo import launch, store, watch
    from hpo import worker as workers
    from hpo.artifacts import Artifacts

    stop = watch.Stop()
    if supervised is not None:
        threading.Thread(target=_end_of_input, args=(stop.event,), daemon=True).start()
    try:
        opened = store.open_(store_url, create=False)
        settings = workers.Settings(
            artifacts=Artifacts(artifacts),
            data=data.expanduser(),
            device=device,
            shown_as=supervised or device,
            lease_seconds=lease_seconds,
        )
        watch.events(workers.work(opened, name, settings, stop.event))
    except HpoError as error:
        watch.say(f"hpo: {error}")
        raise typer.Exit(1 if isinstance(error, StoreAway) else launch.FATAL) from error
    if stop.event.is_set():
        raise typer.Exit(stop.exit_code())


def _end_of_input(event: threading.Event) -> None:
    """Stop the worker when its supervisor is gone, of which the end of standard input is the sign."""
    sys.stdin.read()
    event.set()


@app.command()
def studies(as_json: Json = False, store_url: StoreUrl = STORE) -> None:
    """List the studies in the store."""
    from hpo import show, status, store

    opened = store.open_(store_url, create=False)
    found = [status.status(opened, name) for name in status.names(opened)]
    if as_json:
        _print_json([status.document(each) for each in found])
        return
    show.console().print(show.studies(found))


@app.command("status")
def status_(name: StudyName, as_json: Json = False, store_url: StoreUrl = STORE) -> None:
    """Show what goes on in a study."""
    from hpo import show, status, store

    opened = store.open_(store_url, create=False)
    now = status.status(opened, name)
    if as_json:
        _print_json(status.document(now))
        return
    show.console().print(show.status(now))


@app.command()
def trials(
    name: StudyName,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    trial: Annotated[int | None, typer.Option("--trial", metavar="N", help="One trial alone.")] = None,
    store_url: StoreUrl = STORE,
) -> None:
    """List a study's trials."""
    from hpo import show, status, store
    from hpo.errors import StoreError

    opened = store.open_(store_url, create=False)
    found = status.trials_of(opened, name)
    measure = status.measure(store.definition_of(opened, name))
    if trial is not None:
        found = [each for each in found if each.number == trial]
        if not found:
            raise StoreError(f"study '{name}' has no trial {trial}")
    if as_json:
        _print_json([status.trial_document(each) for each in found])
    elif as_csv:
        sys.stdout.write(status.csv(found))
    elif trial is not None:
        show.console().print(show.trial(found[0], measure))
    else:
        show.console().print(show.trials_table(found, measure))


@app.command()
def best(
    name: StudyName,
    count: Annotated[int, typer.Option("-n", metavar="K", min=1, help="The K best.")] = 1,
    as_json: Json = False,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
) -> None:
    """Show the best trial of a study, or the K best."""
    from hpo import show, status, store
    from hpo.artifacts import Artifacts
    from hpo.errors import StoreError

    opened = store.open_(store_url, create=False)
    found = status.best(opened, name, count)
    if not found:
        raise StoreError(f"study '{name}' has no complete trial yet; 'hpo status {name}' says what it does")
    if as_json:
        documents = [vars(each) for each in found]
        _print_json(documents[0] if count == 1 else documents)
        return
    selection = status.selection_of(store.definition_of(opened, name))
    place = Artifacts(artifacts)
    for each in found:
        print(show.best(each, selection, _places(each, opened, place, store_url)))


@app.command()
def importance(
    name: StudyName,
    evaluator: Annotated[
        Literal["ped-anova", "fanova", "mdi"],
        typer.Option("--evaluator", help="How importance is told from the trials."),
    ] = "ped-anova",
    as_json: Json = False,
    store_url: StoreUrl = STORE,
) -> None:
    """Show how much each parameter mattered, and how many trials say so."""
    from hpo import show, status, store

    opened = store.open_(store_url, create=False)
    found = status.importance(opened, name, evaluator)
    if as_json:
        fields = ("evaluator", "trials", "importances")
        _print_json({name: getattr(found, name) for name in fields})
        return
    show.console().print(show.importance(found))


@app.command()
def doctor(store_url: StoreUrl = STORE, artifacts: ArtifactRoot = ARTIFACTS, data: DataRoot = DATA) -> None:
    """Check devices, store, artifacts, data and weights: what works, what does not, what to do."""
    from hpo import doctor as doctors
    from hpo import show

    found = doctors.examine(store_url, artifacts, data.expanduser())
    show.console().print(show.findings(found))
    if any(finding.verdict == "broken" for finding in found):
        raise typer.Exit(1)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a study file, for editors."""
    from hpo import schema as schemas

    _print_json(schemas.study_file())
