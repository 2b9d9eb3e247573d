"""The verb that shows what happened to a study in time: events."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.api.locations import Locations
from hpo.cli.options import STORE, Json, StoreUrl, StudyName
from hpo.cli.verbs import WATCH, verb

if TYPE_CHECKING:
    from rich.table import Table

    from hpo.analysis.timeline import TimelineEntry

app = typer.Typer()


@verb(app, "events", WATCH, "hpo events my-study", "hpo events my-study --trial 3")
def show_events(
    name: StudyName,
    trial: Annotated[
        int | None, typer.Option("--trial", metavar="N", help="Show what happened to one trial.")
    ] = None,
    as_json: Json = False,
    store_url: StoreUrl = STORE,
) -> None:
    """Show what happened to a study: who ran which trial, from when until when, why it ended, and orders.

    An attempt that died is told once another worker claims its trial, as of its last sign of life.
    """
    from hpo.api.study import open_study
    from hpo.cli import console
    from hpo.cli.results import print_json

    found = open_study(name, Locations(store=store_url)).events(trial)
    if as_json:
        print_json([entry.document() for entry in found])
    elif found:
        console.print_table(events_table(found))
    else:
        print("nothing is recorded: it happened before the store had the tables for it")


def events_table(found: Iterable["TimelineEntry"]) -> "Table":
    """Return what happened to a study as a table, with times of this machine's zone."""
    from rich.table import Table

    table = Table("time", "trial", "attempt", "event", "epoch", "by", "device", "reason", box=None)
    table.padding = (0, 1)
    for entry in found:
        table.add_row(
            entry.time.astimezone().isoformat(sep=" ", timespec="seconds"),
            "" if entry.trial is None else str(entry.trial),
            "" if entry.attempt is None else str(entry.attempt),
            entry.event,
            "" if entry.epochs is None else str(entry.epochs),
            entry.by,
            entry.device,
            entry.reason,
        )
    return table
