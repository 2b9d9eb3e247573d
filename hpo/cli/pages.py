"""The verbs that share and use results: report, export, predict and dashboard."""

import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.api.locations import Locations
from hpo.cli.completion import complete_trial
from hpo.cli.options import ARTIFACTS, STORE, ArtifactRoot, Json, StoreUrl, StudyName, tell_new_folder
from hpo.cli.results import print_json
from hpo.cli.verbs import DONE_OR_NOT, RESULTS, STOPPABLE, WATCH, verb

if TYPE_CHECKING:
    from hpo.export.predict import Predictor

app = typer.Typer()


@verb(
    app,
    "report",
    RESULTS,
    "hpo report my-study -o report.html",
    "hpo report my-study -o report.html --csv tables",
)
def write_report(
    name: StudyName,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.html",
            help="The HTML file to write.",
            callback=tell_new_folder,
        ),
    ],
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            metavar="FOLDER",
            help="Also write each figure and table as a CSV file to this folder.",
            callback=tell_new_folder,
        ),
    ] = None,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
) -> None:
    """Write a report of a study: one HTML page with every table and plot, readable offline."""
    from hpo.artifacts.folders import Artifacts
    from hpo.report import page
    from hpo.store import studies

    storage = studies.open_storage(store_url, create=False)
    found = page.read_report(storage, name, Artifacts(artifacts))
    tables = page.write_report(found, output, csv)
    print(f"report of study {name}: {output}")
    if csv is not None:
        print(f"{len(tables)} tables as CSV: {csv}")


@verb(
    app,
    "export",
    RESULTS,
    "hpo export my-study --to my-model",
    "hpo export my-study --trial 3 --to my-model",
)
def export_model(
    name: StudyName,
    folder: Annotated[
        Path,
        typer.Option(
            "--to",
            metavar="FOLDER",
            help="The folder to write: a new or an empty one.",
            callback=tell_new_folder,
        ),
    ],
    trial: Annotated[
        int | None,
        typer.Option(
            "--trial",
            metavar="N",
            help="The trial to export; the winner if left out.",
            autocompletion=complete_trial,
        ),
    ] = None,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
) -> None:
    """Export a trial's model: weights, settings, metrics, model card and labels.

    The winner is the best trial of the search.
    After 'hpo finish', it is a run of the setting that this ranks first.
    """
    from hpo.api.study import open_study
    from hpo.export import card

    found = open_study(name, Locations(store=store_url, artifacts=artifacts)).export(folder, trial)
    print(f"trial {found.trial} of study {found.study} is in {folder}")
    print(f"  chosen     {found.chosen}")
    print(f"  {found.label:<10} {found.value:.4f} {found.note}")
    if doubt := card.baseline_doubt(found):
        print(f"  baseline   {doubt}")
    print(f"  use it     hpo predict {shlex.quote(str(folder))} IMAGE...")


@verb(
    app,
    "predict",
    RESULTS,
    "hpo predict my-model photo.jpg --top 5",
    "hpo predict my-model my-images/test",
    exit_codes={**DONE_OR_NOT, 1: "an error, or an image that cannot be read"},
)
def predict_classes(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder written by 'hpo export'.")],
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", help="Images to classify, or folders with images."),
    ],
    top: Annotated[
        int, typer.Option("--top", metavar="K", min=1, help="How many classes to show per image.")
    ] = 3,
    as_json: Json = False,
) -> None:
    """Classify images with an exported model and print the most probable classes.

    Of a folder, all images below it are classified. If it has class folders, the answers are also scored.
    An image that cannot be read is reported, and the others are classified.
    """
    from hpo.export.predict import Predictor

    predictor = Predictor(folder)
    documents: list[dict[str, Any]] = []
    for image in images:
        for document in _predict_given(predictor, image, top):
            documents.append(document)
            if "error" in document:
                print(f"hpo: {document['error']}", file=sys.stderr)
            elif not as_json:
                shown = ", ".join(f"{each.label} {each.probability:.3f}" for each in document["classes"])
                name = document["image"].encode(errors="replace").decode()  # it need not be valid text
                print(f"{name}: {shown}", flush=True)
    if as_json:
        print_json(documents)
    else:
        _print_score(documents, predictor.labels)
    if any("error" in document for document in documents):
        raise typer.Exit(1)


def _predict_given(predictor: "Predictor", given: Path, top: int) -> Iterator[dict[str, Any]]:
    """Yield the document of each image at a path; one with an error for what cannot be read."""
    from hpo.errors import DataError
    from hpo.export import scoring

    try:
        found = scoring.find_images(given, predictor.labels)
    except DataError as error:
        yield {"image": str(given), "error": str(error)}
        return
    if line := scoring.unscored_line(given, found):
        print(f"hpo: {line}", file=sys.stderr)
    for each in found:
        label = {} if each.label is None else {"label": each.label}
        try:
            yield {"image": str(each.path), **label, "classes": predictor.predict(each.path, top)}
        except DataError as error:
            yield {"image": str(each.path), **label, "error": str(error)}


def _print_score(documents: Iterable[dict[str, Any]], labels: Sequence[str]) -> None:
    from rich.table import Table

    from hpo.cli import console
    from hpo.export import scoring

    answers = [
        (each["label"], each["classes"][0].label if "classes" in each else None)
        for each in documents
        if "label" in each
    ]
    score = scoring.score_answers(answers, labels)
    if score is None:
        return
    print(f"\n{score.summary()}")
    table = Table(*score.classes.columns, box=None, padding=(0, 1))
    for row in score.classes.rows:
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row))
    console.print_table(table)


@verb(app, "dashboard", WATCH, "hpo dashboard", "hpo dashboard --port 0 --read-write", exit_codes=STOPPABLE)
def serve_dashboard(
    host: Annotated[str, typer.Option("--host", metavar="H", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port", metavar="P", min=0, max=65535, help="Port to listen on; 0 takes any free port."
        ),
    ] = 8080,
    read_write: Annotated[
        bool,
        typer.Option(
            "--read-write",
            help="Let everyone who has the link also edit notes, add and remove files and delete studies.",
        ),
    ] = False,
    behind_tls: Annotated[
        str | None,
        typer.Option("--behind-tls", metavar="URL", help="Public https URL, if a TLS proxy is in front."),
    ] = None,
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
) -> None:
    """Serve optuna-dashboard on the store until Ctrl-C.

    The first line printed is the link to open.
    """
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
