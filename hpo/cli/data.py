"""The verb data: what the images of a study are."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.api.images import scan_progress
from hpo.cli.options import DATA, DataRoot, Json, Sets, StudyFile, tell_new_folder
from hpo.cli.results import print_json
from hpo.cli.verbs import START, verb
from hpo.errors import ArtifactError, DefinitionError, escape_surrogates, join_names

if TYPE_CHECKING:
    from hpo.training.config import Config
    from hpo.training.data_facts import DataFacts
    from hpo.training.drawn_images import DrawnImages
    from hpo.training.folder_scan import FolderScan

app = typer.Typer()


def _scan(settings: "Config", root: Path) -> "tuple[DrawnImages, FolderScan]":
    from hpo.training import drawn_images
    from hpo.training.used_files import ContentHashes

    with scan_progress() as tell:
        drawn = drawn_images.draw_images(settings, root, tell)
        return drawn, drawn.scan(ContentHashes(), tell)


@verb(app, "data", START, "hpo data quickstart", "hpo data my-study.toml -o pictures.png")
def show_data(
    study: StudyFile,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.png",
            help="Also draw some pictures as the model sees them.",
            callback=tell_new_folder,
        ),
    ] = None,
    sets: Sets = None,
    as_json: Json = False,
    data: DataRoot = DATA,
) -> None:
    """Show what a study's images are: how many each class has, and what is odd about them.

    Of image files it reads the headers, and compares files of the same size.
    A published data set is downloaded if there is no copy.
    """
    from hpo.study import file
    from hpo.training.config import Config, reads_files

    definition = file.load_study_file(file.find_study_file(study), sets or [], None)
    settings = definition.trial_config({})
    if not isinstance(settings, Config):
        raise DefinitionError(f"study '{definition.name}': its custom objective reads data of its own")
    drawn, scan = _scan(settings, data) if reads_files(settings.dataset) else (None, None)
    if drawn is None or scan is None or output is not None:
        facts = _decode(settings, data)
    else:
        facts = _count(settings, drawn, scan)
    if output is not None:
        _draw(facts, output)
    if as_json:
        images = {name: dict(zip(facts.classes, each, strict=True)) for name, each in facts.images.items()}
        document = {"dataset": settings.dataset, "images": images, "scan": scan and scan.document()}
        print_json(json.loads(escape_surrogates(json.dumps(document, ensure_ascii=False))))
        return
    _print_facts(settings, facts, scan)
    if output is not None:
        print(f"{facts.describe_samples()} {output}")


def _decode(settings: "Config", root: Path) -> "DataFacts":
    """Return the counts by class and split, with samples."""
    from hpo.training import datasets, samples

    readable = settings.model_copy(update={"corrupt": "skip"})  # the scan tells what is left out
    with scan_progress() as tell:
        dataset = datasets.load_dataset(readable, root, progress=tell)
    for note in dataset.notes:
        print(escape_surrogates(note), file=sys.stderr)
    return samples.describe_images(dataset, settings)


def _count(settings: "Config", drawn: "DrawnImages", scan: "FolderScan") -> "DataFacts":
    """Return the counts by class and split of files, without decoding them."""
    from hpo.training.data_facts import DataFacts

    return DataFacts(
        classes=tuple(map(escape_surrogates, scan.classes)),
        images=scan.readable_images(),
        selection="valid" if "valid" in scan.images else "test",
        available=drawn.source.count_images(),
        skipped=len(scan.unreadable),
        image_size=settings.image_size,
        augmentation=settings.augmentation,
        samples=(),
    )


def _draw(facts: "DataFacts", output: Path) -> None:
    from hpo.artifacts import durable
    from hpo.export import sheet

    try:
        durable.write_file(output, sheet.draw_sheet(facts))
    except OSError as error:
        raise ArtifactError(f"-o {output}: {error.strerror or error}") from error


def _print_facts(settings: "Config", facts: "DataFacts", scan: "FolderScan | None") -> None:
    from rich.table import Table

    from hpo.analysis.class_tables import count_table
    from hpo.cli import console
    from hpo.training.data_facts import describe_share

    found = count_table(facts)
    table = Table(box=None, padding=(0, 1))
    for index, column in enumerate(found.columns):
        table.add_column(column, justify="right" if index else "left")
    for row in found.rows:
        table.add_row(*map(str, row))
    table.add_row("all", *(str(sum(numbers)) for numbers in list(zip(*found.rows, strict=True))[1:]))
    used = describe_share(sum(map(sum, facts.images.values())), facts.available)
    print(f"data set {escape_surrogates(settings.dataset)}: {used}")
    console.print_table(table)
    for name, text in _scan_lines(scan) if scan else ():
        print(escape_surrogates(f"  {name:<12} {text}"))
    for note in scan.notes() if scan else ():
        print(escape_surrogates(note))


def _scan_lines(scan: "FolderScan") -> Iterator[tuple[str, str]]:
    """Yield what a scan found, as names and texts."""
    readable = sum(scan.formats.values())

    def files(paths: tuple[Path, ...]) -> str:
        if len(paths) == readable:
            return f"all {readable}"
        return f"{len(paths)}: {join_names(map(str, paths))}"

    yield "formats", ", ".join(f"{count} {name}" for name, count in scan.formats.items())
    yield "modes", ", ".join(f"{count} {name}" for name, count in scan.modes.items())
    if scan.sizes:
        smallest, median, largest = (f"{width} x {height}" for width, height in scan.sizes)
        yield "pixels", f"{smallest} smallest, {median} median, {largest} largest"
    if scan.transparent:
        yield "transparent", files(scan.transparent)
    if scan.animated:
        yield "animated", files(scan.animated)
    if scan.unreadable:
        named = [f"{each.path} ({each.reason})" for each in scan.unreadable]
        yield "unreadable", f"{len(named)}: {join_names(named)}"
