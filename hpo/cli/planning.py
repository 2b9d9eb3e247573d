"""The verbs to use before a study runs: plan, simulate, doctor and schema."""

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hpo import logs
from hpo.api.images import check_images
from hpo.cli.completion import complete_study_name
from hpo.cli.options import (
    ARTIFACTS,
    DATA,
    STORE,
    ArtifactRoot,
    DataRoot,
    Devices,
    Json,
    NewName,
    Sets,
    StoreUrl,
    StudyFile,
)
from hpo.cli.results import print_json
from hpo.cli.verbs import DONE_OR_NOT, MANAGE, RESULTS, START, verb

if TYPE_CHECKING:
    from hpo.analysis.recorded_curves import RecordedCurves

app = typer.Typer()


@verb(
    app,
    "plan",
    START,
    "hpo plan quickstart",
    "hpo plan my-study.toml --devices cuda:0,cuda:1",
    "hpo plan my-study.toml --set train.image_size=128 --json",
)
def plan_study(
    study: StudyFile,
    devices: Devices = "auto",
    sets: Sets = None,
    name: NewName = None,
    as_json: Json = False,
    data: DataRoot = DATA,
) -> None:
    """Estimate the time, memory and disk space of a study on this machine, without storing anything.

    Runs a few training steps for each kind of training in the study.
    Where steps are slow, it runs them with few images, and computes what larger batches take.
    Runs a custom objective for one epoch.
    Takes seconds on a GPU or with small images, and a minute or two on a CPU with several large models.
    """
    from hpo.analysis import cost_text
    from hpo.api import planning
    from hpo.api.live_view import open_stderr_console
    from hpo.cli import console
    from hpo.study import file

    definition = file.load_study_file(file.find_study_file(study), sets or [], name)
    images = check_images(definition, data, needed_here=True)
    scan = images.scan if images else None
    where = open_stderr_console()
    # Drawn on a terminal only, and seldom: drawing takes time from the measurement.
    with where.status("measuring", refresh_per_second=2) as shown:
        tell = shown.update if where.is_terminal else logs.write_line
        found = planning.plan_study(definition, devices, data, scan, tell)
    if as_json:
        print_json(found.document())
        return
    console.print_table(cost_text.make_table(found))
    print("\n".join(cost_text.summary_lines(found)))


@verb(
    app,
    "simulate",
    RESULTS,
    "hpo simulate my-study --repeats 50",
    "hpo simulate --curves curves.csv --workers 8",
)
def simulate_strategies(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A study whose trials ran all their epochs.",
            autocompletion=complete_study_name,
        ),
    ] = None,
    curves: Annotated[
        Path | None,
        typer.Option("--curves", metavar="FILE.csv", help="Recorded curves, instead of a study."),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="Sampler to simulate, as in a study file; the study's if left out.")
    ] = None,
    pruner: Annotated[
        str | None, typer.Option(help="Pruner to simulate, as in a study file; the study's if left out.")
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Number of simulated workers.")] = 1,
    repeats: Annotated[
        int, typer.Option(metavar="R", min=2, help="Number of simulated studies per strategy.")
    ] = 20,
    as_json: Json = False,
    store_url: StoreUrl = STORE,
) -> None:
    """Compare search strategies on recorded curves, in virtual time, and recommend one.

    Takes the curves from the trials of the study NAME, or from a CSV file.
    """
    from hpo.analysis import strategies
    from hpo.analysis.surrogate import Surrogate
    from hpo.cli import console

    recorded = _read_curves(name, curves, store_url)
    chosen, known = strategies.choose_strategies(recorded, sampler, pruner), Surrogate(recorded)
    found = strategies.compare_strategies(
        known, chosen, workers=workers, repeats=repeats, tell=logs.write_line
    )
    if as_json:
        print_json(found)
        return
    print("\n".join(strategies.describe_simulation(known, workers=workers, repeats=repeats)))
    console.print_table(strategies.make_table(found.strategies, found.budget))
    print(found.advice)


def _read_curves(name: str | None, curves: Path | None, store_url: str) -> "RecordedCurves":
    """Return the curves of a study or of a CSV file; exactly one of the two must be given."""
    from hpo.analysis.recorded_curves import curves_of_study, read_curves
    from hpo.store import studies

    if curves is not None and name is None:
        return read_curves(curves)
    if name is not None and curves is None:
        return curves_of_study(studies.open_storage(store_url, create=False), name)
    raise typer.BadParameter("want the NAME of a study, or --curves FILE.csv")


@verb(
    app,
    "doctor",
    MANAGE,
    "hpo doctor",
    "hpo doctor --clear-cache",
    "hpo doctor --sql roles | psql -d my-database",
    exit_codes={**DONE_OR_NOT, 1: "something is broken, or an error"},
)
def check_machine(
    store_url: StoreUrl = STORE,
    artifacts: ArtifactRoot = ARTIFACTS,
    data: DataRoot = DATA,
    clear_cache: Annotated[
        bool,
        typer.Option("--clear-cache", help="First remove the decoded images that no worker uses."),
    ] = False,
    sql: Annotated[
        Literal["roles", "grants"] | None,
        typer.Option(
            help="Check nothing, and print SQL for a Postgres that several people share: its roles, "
            "or what they may do with its tables."
        ),
    ] = None,
) -> None:
    """Check devices, store, artifacts, data sets and weights, and say how to fix what is wrong."""
    from hpo.cli import console, doctor

    if sql:
        print(resources.files("hpo.store").joinpath(f"{sql}.sql").read_text(), end="")
        return
    if clear_cache:
        print(doctor.clear_cache(artifacts))
    found = doctor.run_checks(store_url, artifacts, data)
    console.print_view(console.findings_table(found))
    if any(finding.state == "broken" for finding in found):
        raise typer.Exit(1)


@verb(app, "schema", MANAGE, "hpo schema > study.schema.json")
def print_schema() -> None:
    """Print the JSON Schema of study files, for editors that complete and check TOML."""
    from hpo.study.schema import study_file_schema

    print_json(study_file_schema())
