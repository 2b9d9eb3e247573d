"""The verbs that look at studies or take models of them away, and change nothing: results go to stdout."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hpo.cli.options import (
    ARTIFACTS,
    DATA,
    STORE,
    ArtifactRoot,
    DataRoot,
    Devices,
    Json,
    Sets,
    StoreUrl,
    StudyFile,
    StudyName,
)

if TYPE_CHECKING:
    from hpo.analysis.finish import FinishResult
    from hpo.artifacts.folders import Artifacts
    from hpo.store.status import BestTrial
    from hpo.store.storage import Storage

app = typer.Typer()


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, default=vars))


def print_best(storage: "Storage", name: str, artifacts: str, store_url: str) -> None:
    """Print a study's best trial; raises StoreError if there is none."""
    from hpo.artifacts.folders import Artifacts
    from hpo.cli import console
    from hpo.errors import StoreError
    from hpo.store import status
    from hpo.store import studies as store

    found = status.best_trials(storage, name, 1)
    if not found:
        raise StoreError(f"study '{name}' has no complete trial; 'hpo trials {name}' says why each ended")
    selection = status.selection_of(store.read_definition(storage, name))
    print(
        console.best_trial_text(
            found[0], selection, _locations(found[0], storage, Artifacts(artifacts), store_url)
        )
    )


def print_finish(found: "FinishResult", as_json: bool) -> None:
    """Print what came of a study's best settings."""
    from hpo.analysis import finish
    from hpo.cli import console

    if as_json:
        _print_json(finish.document(found))
        return
    console.open_console().print(finish.make_table(found))
    print("\n".join(finish.summary_lines(found)))


def _locations(
    best: "BestTrial", storage: "Storage", artifacts: "Artifacts", store_url: str
) -> dict[str, str]:
    """Say where a trial's weights, curves and store are."""
    from hpo.store import database
    from hpo.store import studies as store

    folder = f"{store.artifacts_folder(storage, best.study)}/{best.trial:04d}"
    weights = {"weights": artifacts.path(best.weights)} if best.weights else {}
    return weights | {
        "curves": artifacts.path(f"{folder}/epochs.csv"),
        "store": database.hide_password(database.parse_url(store_url)),
    }


@app.command()
def studies(as_json: Json = False, store_url: StoreUrl = STORE) -> None:
    """List the studies in the store."""
    from hpo.cli import console
    from hpo.store import documents, status
    from hpo.store import studies as store

    opened = store.open_storage(store_url, create=False)
    found = [status.read_status(opened, name) for name in status.study_names(opened)]
    if as_json:
        _print_json([documents.status_document(each) for each in found])
        return
    console.open_console().print(console.studies_table(found))


@app.command("status")
def status_(
    name: StudyName,
    as_json: Json = False,
    follow: Annotated[bool, typer.Option("--watch", help="Keep showing it, until it is complete.")] = False,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
) -> None:
    """Show what goes on in a study."""
    from hpo.artifacts.folders import Artifacts
    from hpo.cli import console, progress
    from hpo.store import documents, status
    from hpo.store import studies as store

    opened = store.open_storage(store_url, create=False)
    if follow and as_json:
        raise typer.BadParameter("want --watch or --json, not both")
    if follow:
        progress.watch_study(opened, name)
        return
    now = status.read_status(opened, name)
    logs = Artifacts(artifacts).logs_folder(store.artifacts_folder(opened, name))
    if as_json:
        _print_json(documents.status_document(now) | {"logs": str(logs) if logs.is_dir() else None})
        return
    console.open_console().print(console.status_view(now))
    if logs.is_dir():
        print(f"logs: {logs}")


@app.command()
def trials(
    name: StudyName,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    trial: Annotated[int | None, typer.Option("--trial", metavar="N", help="One trial alone.")] = None,
    store_url: StoreUrl = STORE,
) -> None:
    """List a study's trials."""
    from hpo.cli import console
    from hpo.errors import StoreError
    from hpo.store import documents, status
    from hpo.store import studies as store

    opened = store.open_storage(store_url, create=False)
    found = status.read_trials(opened, name)
    definition = store.read_definition(opened, name)
    measure = status.metric_name(definition)
    if trial is not None:
        found = [each for each in found if each.number == trial]
        if not found:
            raise StoreError(f"study '{name}' has no trial {trial}")
    if as_json and as_csv:
        raise typer.BadParameter("want --json or --csv, not both")
    if as_json:
        _print_json([documents.trial_document(each) for each in found])
    elif as_csv:
        sys.stdout.write(documents.trials_csv(found, definition.attribute_names))
    elif trial is not None:
        console.open_console().print(console.trial_table(found[0], measure))
    else:
        console.open_console().print(console.trials_table(found, measure, definition.attribute_names))


@app.command()
def best(
    name: StudyName,
    count: Annotated[int, typer.Option("-n", metavar="K", min=1, help="The K best.")] = 1,
    as_json: Json = False,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
) -> None:
    """Show the best trial of a study, or the K best."""
    from hpo.artifacts.folders import Artifacts
    from hpo.cli import console
    from hpo.errors import StoreError
    from hpo.store import documents, status
    from hpo.store import studies as store

    opened = store.open_storage(store_url, create=False)
    found = status.best_trials(opened, name, count)
    if not found:
        raise StoreError(status.no_complete_trial_message(name, status.read_trials(opened, name)))
    if as_json:
        selected = [documents.best_trial_document(each) for each in found]
        _print_json(selected[0] if count == 1 else selected)
        return
    selection = status.selection_of(store.read_definition(opened, name))
    place = Artifacts(artifacts)
    for each in found:
        print(console.best_trial_text(each, selection, _locations(each, opened, place, store_url)))
    if found[0].noise is not None:
        print(found[0].noise)


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
    from hpo.analysis import importance as importances
    from hpo.cli import console
    from hpo.store import studies as store

    opened = store.open_storage(store_url, create=False)
    found = importances.study_importance(opened, name, evaluator)
    if as_json:
        fields = ("evaluator", "trials", "importances")
        _print_json({name: getattr(found, name) for name in fields})
        if found.doubt:
            print(f"hpo: these shares say nothing: {found.doubt}", file=sys.stderr)
        return
    console.open_console().print(console.importance_view(found))


@app.command("dashboard")
def dashboard_(
    host: Annotated[str, typer.Option("--host", metavar="H", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="P", min=0, max=65535, help="0 takes any that is free.")
    ] = 8080,
    read_write: Annotated[
        bool, typer.Option("--read-write", help="Let whoever has the link also change and delete.")
    ] = False,
    behind_tls: Annotated[
        str | None,
        typer.Option("--behind-tls", metavar="URL", help="Where a server with TLS in front shows it."),
    ] = None,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
) -> None:
    """Serve optuna-dashboard on the store; the first line is the link that lets you in."""
    from hpo.dashboard import server

    settings = server.Settings(
        store=store_url,
        artifacts=artifacts,
        host=host,
        port=port,
        behind_tls=behind_tls,
        read_only=not read_write,
    )
    raise typer.Exit(server.serve(settings))


@app.command()
def export(
    name: StudyName,
    folder: Annotated[
        Path, typer.Option("--to", metavar="FOLDER", help="Where it goes: a new folder, or an empty one.")
    ],
    trial: Annotated[
        int | None, typer.Option("--trial", metavar="N", help="This one, instead of the best.")
    ] = None,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
) -> None:
    """Take the best trial's model away: weights, settings, metrics, model card, labels."""
    from hpo.artifacts.folders import Artifacts
    from hpo.export import folder as exports
    from hpo.store import studies as store

    opened = store.open_storage(store_url, create=False)
    found = exports.export_trial(opened, name, trial, Artifacts(artifacts), folder)
    print(f"trial {found.trial} of study {name} is in {folder}")
    print(f"  accuracy   {found.accuracy:.4f} {found.note}")
    print(f"  use it     hpo predict {shlex.quote(str(folder))} IMAGE...")


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What 'hpo export' made.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    top: Annotated[int, typer.Option("--top", metavar="K", min=1, help="Classes to show.")] = 3,
    as_json: Json = False,
) -> None:
    """Say which classes an exported model sees in images, and how probable it holds them."""
    from hpo.errors import DataError
    from hpo.export import predict as predicts

    predictor = predicts.Predictor(folder)
    documents: list[dict[str, Any]] = []
    for image in images:
        try:
            guesses = predictor.predict(image, top)
            documents.append({"image": str(image), "classes": guesses})
        except DataError as error:
            print(f"hpo: {error}", file=sys.stderr)
            documents.append({"image": str(image), "error": str(error)})
            continue
        if not as_json:
            shown = ", ".join(f"{guess.label} {guess.probability:.3f}" for guess in guesses)
            name = str(image).encode(errors="replace").decode()  # it may be no text at all
            print(f"{name}: {shown}", flush=True)
    if as_json:
        _print_json(documents)
    if any("error" in document for document in documents):
        raise typer.Exit(1)


@app.command()
def report(
    name: StudyName,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.html", help="The page to write.")],
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FOLDER", help="Also write every figure and table here.")
    ] = None,
    store_url: StoreUrl = STORE,
) -> None:
    """Write a study's report: one HTML page with every table and plot, which opens anywhere."""
    from hpo.report import page as reports
    from hpo.store import studies as store

    opened = store.open_storage(store_url, create=False)
    tables = reports.write_report(reports.read_report(opened, name), output, csv)
    print(f"report of study {name}: {output}")
    if csv is not None:
        print(f"{len(tables)} tables as CSV: {csv}")


@app.command()
def doctor(store_url: StoreUrl = STORE, artifacts: ArtifactRoot = ARTIFACTS, data: DataRoot = DATA) -> None:
    """Check devices, store, artifacts, data and weights: what works, what does not, what to do."""
    from hpo.cli import console
    from hpo.cli import doctor as doctors

    found = doctors.run_checks(store_url, artifacts, data.expanduser())
    console.open_console().print(console.findings_table(found))
    if any(finding.state == "broken" for finding in found):
        raise typer.Exit(1)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a study file, for editors."""
    from hpo.study.schema import study_file_schema

    _print_json(study_file_schema())


@app.command("plan")
def plan_(
    study: StudyFile,
    devices: Devices = "auto",
    sets: Sets = None,
    as_json: Json = False,
    data: DataRoot = DATA,
) -> None:
    """Say what a study will cost here, after a few steps of each kind of training; nothing is stored."""
    from rich.console import Console

    from hpo.analysis import cost
    from hpo.cli import console
    from hpo.original import prices
    from hpo.study import file
    from hpo.training.devices import worker_devices
    from hpo.workers import worker

    definition = file.load_study_file(file.find_study_file(study), sets or [], None)
    crew = worker_devices(devices, 1, definition.setting_count)
    device = worker.find_device(crew[0].name)
    # Shown on a terminal alone, and seldom: what it draws is taken from what is measured.
    with Console(stderr=True).status("measuring", refresh_per_second=2) as shown:
        found = cost.forecast_cost(
            definition, crew, device, data.expanduser(), shown.update, prices.known_cost
        )
    if as_json:
        _print_json(found.document())
        return
    console.open_console().print(cost.make_table(found))
    print("\n".join(cost.summary_lines(found)))


@app.command()
def simulate(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A study with whole curves.")] = None,
    curves: Annotated[
        Path | None, typer.Option("--curves", metavar="FILE.csv", help="Recorded curves instead.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="As in a study file; left out: the study's.")] = None,
    pruner: Annotated[str | None, typer.Option(help="As in a study file; left out: the study's.")] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Workers of a simulated study.")] = 1,
    repeats: Annotated[int, typer.Option(metavar="R", min=2, help="Simulated studies per strategy.")] = 20,
    as_json: Json = False,
    store_url: StoreUrl = STORE,
) -> None:
    """Try search strategies on recorded curves, in virtual time, and say which to take next."""
    from hpo.analysis import strategies, surrogate
    from hpo.cli import console, progress
    from hpo.store import studies as store

    if (name is None) == (curves is None):
        raise typer.BadParameter("want the NAME of a study, or --curves FILE.csv")
    if curves is not None:
        recorded = surrogate.read_curves(curves)
    else:
        recorded = surrogate.curves_of_study(store.open_storage(store_url, create=False), str(name))
    asked = strategies.choose_strategies(recorded, sampler, pruner)
    known, searches = surrogate.Surrogate(recorded), recorded.definition.searches
    tried = []
    for strategy in asked:
        progress.print_stderr(f"{strategy.name}, {repeats} times")
        tried.append(strategies.simulate_strategy(known, strategy, workers=workers, seeds=range(repeats)))
    found = (
        strategies.compare_searches(tried, known)
        if searches
        else strategies.compare_pruners(tried, recorded)
    )
    if as_json:
        _print_json(strategies.document(found, known, workers=workers, repeats=repeats))
        return
    print("\n".join(strategies.describe_simulation(known, workers=workers, repeats=repeats)))
    console.open_console().print(strategies.make_table(found, strategies.epoch_budget(recorded)))
    print(strategies.advice(found))
