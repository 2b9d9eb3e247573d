"""A study as one HTML page that needs no network: Plotly is included once, packed. The store is only read.

The template escapes everything that comes from the store (names, values, messages); in figures,
``hpo.analysis.sections`` does. The JSON of a figure contains no ``<``, so nothing in it can end its script
element.
"""

import base64
import contextlib
import functools
import gzip
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
from optuna.trial import FrozenTrial

from hpo.analysis import by_class, class_tables, finish_result, records, results
from hpo.analysis.records import TrialRecord
from hpo.analysis.results import SettingResult
from hpo.analysis.sections import Listing, Section, format_value, make_table, write_csv_files
from hpo.artifacts import durable
from hpo.artifacts.folders import Artifacts
from hpo.errors import ArtifactError, NoCompleteTrial, join_names
from hpo.original import claims, match, tables
from hpo.original.claims import ReportClaim
from hpo.report import (
    class_section,
    data_section,
    device_time,
    forecast_section,
    front_section,
    parameter_axis,
    parameter_plots,
    study_plots,
    summary,
)
from hpo.store import failures, folders, status, studies
from hpo.store.attempts import Attempt, read_attempts
from hpo.store.storage import Storage
from hpo.study.definition import Definition
from hpo.training import option_tables
from hpo.training.metric import METRICS, Metric

TEMPLATE = Path(__file__).with_name("page.html.j2")
CLAIM_RULES = (
    "A conclusion is confirmed if all its comparisons are confirmed, and contradicted if one of them is "
    "contradicted. A small gap decides nothing. Between single runs, a gap in accuracy is small below 1.96 "
    "standard errors of the difference between two fractions of that many images. A gap in time is small "
    "below 5 % or twice the spread of single epochs, because the speed of a machine drifts by as much. "
    "Between several seeds, the 95 % interval (Welch) must lie on one side of zero."
)
MAX_PAGE_ROWS = 200  # that the page shows of a table; the CSV has all of them


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of the page.

    The sections on the original report come first. Only a study of which a trial matches one of its points
    has them.
    """

    study: str  # its name
    metric: Metric
    measure: str  # its name in words, such as test accuracy
    summary: summary.Summary
    early_ends: Sequence[str]  # lines on the trials that failed or were pruned
    fixed: Sequence[tuple[str, str]]  # options that are the same in all trials, with their values
    claims: Sequence[ReportClaim]  # the original's; none if no trial matches one of its points
    sections: Sequence[Section]  # in the order of the page


def read_report(storage: Storage, name: str, artifacts: Artifacts) -> Report:
    """Read the content of a study's report from the store.

    Args:
        storage: The store.
        name: The study.
        artifacts: Where the study's files are; what is missing there is missing on the page.

    Raises:
        NoCompleteTrial: No trial of it is complete.
        StoreError: There is no such study, or it is another tool's.
        StoreUnavailable: The database cannot be reached.
    """
    trials = status.read_trials(storage, name)
    definition = studies.read_definition(storage, name)
    found = records.trial_records(definition, trials)
    settings = results.all_settings(definition, found)
    if not settings:
        raise NoCompleteTrial(results.no_complete_trial_message(definition, found))
    measure = status.metric_name(definition)
    judged, original = _original_sections(definition, found, measure)
    ordered = results.best_settings(definition, found)
    shown = results.choose_one(ordered) or ordered[0]
    attempts = read_attempts(storage, studies.find_study_id(storage, name))
    has_images = definition.option_table is not option_tables.CUSTOM_OPTIONS
    sections = (
        *original,
        *(_image_sections(storage, definition, shown, artifacts) if has_images else ()),
        *_search_sections(trials, found, settings, definition, attempts),
    )
    now = status.read_status(storage, name)
    finished = finish_result.stored_result(storage, name)
    return Report(
        study=name,
        metric=definition.metric,
        measure=measure,
        summary=summary.summarize(name, found, ordered, now.state, finished, definition.script_function),
        early_ends=tuple(failures.advice_lines(name, now.early_ends, None)),
        fixed=summary.fixed_options(definition.train, found),
        claims=judged,
        sections=sections,
    )


def _search_sections(
    trials: list[FrozenTrial],
    found: Sequence[TrialRecord],
    settings: Sequence[SettingResult],
    definition: Definition,
    attempts: Sequence[Attempt],
) -> tuple[Section, ...]:
    """Return the sections on what the search found, from parameter importance to the table of trials."""
    measure = status.metric_name(definition)
    parameters = parameter_axis.varying_parameters([each.trial for each in settings])
    mattered, ranked = parameter_plots.importance_section(trials, parameters, definition)
    return (
        *((front_section.front_section(settings),) if len(definition.objectives) > 1 else ()),
        mattered,
        study_plots.history_section(found, settings, measure),
        study_plots.curve_section(found, settings, measure),
        *filter(None, (forecast_section.forecast_section(found, measure),)),
        study_plots.parallel_section(settings, parameters, measure),
        parameter_plots.slice_section(settings, parameters, measure),
        parameter_plots.contour_section(settings, parameters, ranked, measure),
        parameter_plots.rank_section(settings, parameters, ranked),
        study_plots.timeline_section(found),
        study_plots.pareto_section(settings, measure),
        device_time.device_time_section(found, attempts),
        summary.trials_section(found, measure),
    )


def _image_sections(
    storage: Storage, definition: Definition, best: SettingResult, artifacts: Artifacts
) -> tuple[Section, Section]:
    """Return the sections on the images, and on the classes of the trial whose weights are exported."""
    folder = folders.stored_folder(storage, studies.find_study_id(storage, definition.name))
    trial, weights = best.runs[0].number, best.weights
    return (
        data_section.data_section(
            "The study has no folder in the artifacts, so nothing is known about its images."
            if folder is None
            else by_class.read_data_facts(artifacts, folder),
            definition,
        ),
        class_section.class_section(
            trial,
            f"Trial {trial} has no weights that were kept, so how it answered each class is not known."
            if weights is None
            else by_class.read_confusion(artifacts, weights),
        ),
    )


def _original_sections(
    definition: Definition, found: Sequence[TrialRecord], measure: str
) -> tuple[list[ReportClaim], list[Section]]:
    """Return the original's conclusions and the sections on it; none if no trial is one of its points.

    A study with another metric than the accuracy of images has none either, as a custom objective.
    """
    replayed = match.match_trials(found)
    if definition.metric != METRICS["accuracy"] or not any(each.trials for each in replayed.values()):
        return [], []
    images = records.count_images(found)
    judged = claims.check_claims(replayed, images)
    return judged, [tables.original_section(replayed, images, measure), _claims_section(judged)]


def _claims_section(judged: Sequence[ReportClaim]) -> Section:
    rows: list[tuple[Any, ...]] = []
    for claim in judged:
        head = (claim.number, claim.text, claim.verdict, claim.reason)
        rows += [(*head, part.statement, part.verdict, part.numbers) for part in claim.parts] or [
            (*head, None, None, None)
        ]
    columns = ("claim", "conclusion", "verdict", "reason", "comparison", "its verdict", "numbers")
    listing = Listing(name="claims", title="The original's conclusions", table=make_table(columns, rows))
    text = (CLAIM_RULES, *_reason_lines(judged))
    return Section(name="claims", title="The original's seven conclusions", text=text, parts=(listing,))


def _reason_lines(judged: Sequence[ReportClaim]) -> Iterator[str]:
    """Yield why nobody can tell, once for all conclusions that have the same reason."""
    for reason in dict.fromkeys(claim.reason for claim in judged if claim.reason):
        numbers = [str(claim.number) for claim in judged if claim.reason == reason]
        which = f"Conclusion{'s' * (len(numbers) > 1)} {join_names(numbers, len(numbers))}"
        yield f"{which} cannot be judged: {reason}."


def write_report(report: Report, path: Path, csv_folder: Path | None) -> list[str]:
    """Write the page, and optionally one CSV file for each figure and table.

    Files that exist are replaced. If a CSV file cannot be written, the page and the files before it stay.

    Args:
        report: The content of the page.
        path: The HTML file to write. Its folder is created if missing.
        csv_folder: The folder for CSV files, created if missing; None writes none.

    Returns:
        The names of the CSV files, within the folder.

    Raises:
        ArtifactError: A file cannot be written.
    """
    content = render_html(report).encode()
    with _convert_write_errors("-o", path, "a file"):
        durable.write_file(path, content)
    if csv_folder is None:
        return []
    with _convert_write_errors("--csv", csv_folder, "a folder"):
        return write_csv_files(csv_folder, report.sections)


@contextlib.contextmanager
def _convert_write_errors(flag: str, place: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ArtifactError(f"{flag} {place}: {reason}; want {what} that is writable") from error


def render_html(report: Report) -> str:
    """Return the page as HTML, with the present time and Optuna's version.

    Args:
        report: The content of the page.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    own = (report.metric.name, report.metric.label, "accuracy")
    names = ("best so far", "best value", "expected", "came", *own)
    cell = functools.partial(_format_cell, precise=(*names, *class_tables.FRACTIONS))
    environment.filters |= {"cell": cell, "json": _figure_json, "slug": _element_id}
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    environment.globals |= {"numeric": _is_numeric}
    return environment.from_string(TEMPLATE.read_text()).render(
        report=report,
        rows=MAX_PAGE_ROWS,
        plotly=_packed_plotly(),
        optuna=importlib.metadata.version("optuna"),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


@functools.cache
def _packed_plotly() -> str:
    """Return Plotly's JavaScript, packed with gzip, in base64. Packing takes some tenths of a second."""
    packed = gzip.compress(plotly.offline.get_plotlyjs().encode(), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode()


def _format_cell(value: Any, column: str, precise: Sequence[str]) -> str:
    """Return a table's value as text: values of a metric with four decimal places, seconds with one.

    The seconds of an epoch may be few: they have four digits.

    Args:
        value: The value.
        column: The name of its column.
        precise: What is in the names of columns that hold values of a metric.
    """
    if isinstance(value, float) and any(part in column for part in precise):
        return f"{value:.4f}"
    if isinstance(value, float) and "seconds" in column and column != "epoch_seconds":
        return f"{value:.1f}"
    if isinstance(value, bool):
        return "yes" if value else ""
    return format_value(value)


def _is_numeric(value: Any) -> bool:
    """Return whether a table's value is aligned right: a number, or a text that is one."""
    return isinstance(value, int | float) or bool(re.fullmatch(r"[\d.]+", str(value)))


def _figure_json(figure: go.Figure) -> markupsafe.Markup:
    """Return a figure as JSON that is safe in a script element: Plotly escapes every ``<``."""
    return markupsafe.Markup(figure.to_json())


def _element_id(name: str) -> str:
    return f"plot-{name.replace('.', '-')}"
