"""A study as one page of HTML that opens anywhere, with Plotly in it once. Reads the store only.

What comes from the store (names, values, messages) is escaped by the template, and in figures by ``chart``;
the figures' JSON holds no ``<``, so that nothing in it ends its script element.
"""

import contextlib
import importlib.metadata
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import plotly.graph_objects as go
import plotly.offline

from hpo.analysis import records
from hpo.analysis import sections as chart
from hpo.analysis.sections import Listing, Section
from hpo.artifacts import durable
from hpo.errors import ArtifactError, StoreError
from hpo.original import claims, match, tables
from hpo.original.claims import Claim
from hpo.report import parameter_axis, parameter_plots, study_plots, summary
from hpo.store import status, studies
from hpo.store.studies import Store
from hpo.training import config

TEMPLATE = Path(__file__).with_name("page.html.j2")
JUDGING = (
    "A conclusion is confirmed if each of its comparisons is, and contradicted if one is. A gap that is "
    "small cannot tell. Between single runs an accuracy's gap is small below 1.96 standard errors of the "
    "difference of two fractions of so many images, and a time's below 5 % or twice the spread of single "
    "epochs, since a machine's speed drifts by as much. Between several seeds the 95 % interval (Welch) "
    "has to lie on one side of zero."
)
ROWS = 200  # of a table that the page shows; its CSV has them all


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a page says."""

    study: str
    measure: str
    summary: summary.Summary
    fixed: Sequence[tuple[str, str]]
    claims: Sequence[Claim]
    sections: Sequence[Section]


def read(opened: Store, name: str) -> Report:
    """Read a study's report; raises StoreError if there is no such study, or no complete trial in it."""
    trials = status.trials_of(opened, name)
    definition = studies.definition_of(opened, name)
    found = records.outcomes(definition, trials)
    done = records.complete(found)
    if not done:
        raise StoreError(status.none_complete(name, trials))
    measure, images = status.measure(definition), records.images(definition, found)
    replayed = match.replay(found)
    own = definition.vocabulary is config.OWN  # of which the original can have no point
    judged = [] if own else claims.claims(replayed, images)
    original = [] if own else [tables.section(replayed, images, measure), _claims(judged)]
    mirrors = any(each.trials for each in replayed.values())
    parameters = parameter_axis.axes(done)
    mattered, ranked = parameter_plots.importances(trials, parameters)
    sections = (
        *(original if mirrors else ()),
        mattered,
        study_plots.history(found, measure),
        study_plots.curves(found, measure),
        study_plots.parallel(found, parameters, measure),
        parameter_plots.slices(done, parameters, measure),
        parameter_plots.contours(done, parameters, ranked, measure),
        parameter_plots.ranks(done, parameters, ranked),
        study_plots.timeline(found),
        study_plots.pareto(found, measure),
        summary.device_time(found),
        summary.trials(found, measure),
        *(() if mirrors else original),
    )
    state = status.status(opened, name).state
    return Report(
        study=name,
        measure=measure,
        summary=summary.summary(found, status.selection_of(definition), images, state),
        fixed=summary.fixed(definition.train, found),
        claims=judged,
        sections=sections,
    )


def _claims(judged: Sequence[Claim]) -> Section:
    rows: list[tuple[Any, ...]] = []
    for claim in judged:
        head = (claim.number, claim.text, claim.verdict, claim.reason)
        rows += [(*head, part.statement, part.verdict, part.numbers) for part in claim.parts] or [
            (*head, None, None, None)
        ]
    columns = ("claim", "conclusion", "verdict", "reason", "comparison", "its verdict", "numbers")
    listing = Listing(name="claims", title="The original's conclusions", table=chart.table(columns, rows))
    return Section(
        name="claims", title="The original's seven conclusions", text=(JUDGING,), parts=(listing,)
    )


def write(report: Report, path: Path, folder: Path | None) -> list[str]:
    """Write the page, and with ``folder`` a CSV file per figure and table; give the latter's names.

    Raises ArtifactError for a file that cannot be written.
    """
    content = html(report).encode()
    with _writing("-o", path, "a file"):
        durable.write(path, content)
    if folder is None:
        return []
    with _writing("--csv", folder, "a folder"):
        return chart.write(folder, report.sections)


@contextlib.contextmanager
def _writing(flag: str, place: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ArtifactError(f"{flag} {place}: {reason}; want {what} that can be written") from error


def html(report: Report) -> str:
    """Give the page."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cell": _cell, "json": _json, "slug": _slug}
    environment.globals |= {"numeric": _is_numeric}
    return environment.from_string(TEMPLATE.read_text()).render(
        report=report,
        rows=ROWS,
        script=markupsafe.Markup(plotly.offline.get_plotlyjs()),
        optuna=importlib.metadata.version("optuna"),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _cell(value: Any, column: str) -> str:
    """Give a table's value as text: accuracies to four places, seconds to one."""
    if isinstance(value, float) and ("accuracy" in column or column == "best so far"):
        return f"{value:.4f}"
    if isinstance(value, float) and "seconds" in column:
        return f"{value:.1f}"
    if isinstance(value, bool):
        return "yes" if value else ""
    return chart.format_(value)


def _is_numeric(value: Any) -> bool:
    """Tell whether a table's value is set flush right: a number, or one as it was printed."""
    return isinstance(value, int | float) or bool(re.fullmatch(r"[\d.]+", str(value)))


def _json(figure: go.Figure) -> markupsafe.Markup:
    """Give a figure as JSON to stand in a script element: Plotly writes ``<`` as ``\\u003c``."""
    return markupsafe.Markup(figure.to_json())


def _slug(name: str) -> str:
    return f"plot-{name.replace('.', '-')}"
