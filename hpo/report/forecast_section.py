"""The section on pauses and forecasts: why trials paused, and what the model expected against what came."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from hpo.analysis import sections
from hpo.analysis.records import TrialRecord
from hpo.analysis.sections import Listing, Plot, Section, Table
from hpo.search.asha import StoredDecision

COLUMNS = ("trial", "epoch", "decision", "why", "expected low", "expected", "expected high", "came")
CAPTION = (
    "Each dot is a forecast for a trial that later ran to its end; on the line it was right. Bars are 80 % "
    "intervals."
)


@dataclass(frozen=True)
class _Judged:
    """A forecast for a trial that ran to its end."""

    trial: int
    epoch: int  # after which the forecast was made
    expected: tuple[float, float, float]  # lower end, median, upper end
    came: float  # the best value of the trial

    def __str__(self) -> str:
        low, median, high = self.expected
        return (
            f"trial {self.trial} after epoch {self.epoch}: expected {median:.4f} ({low:.4f} to "
            f"{high:.4f}), came {self.came:.4f}"
        )


def forecast_section(found: Sequence[TrialRecord], measure: str) -> Section | None:
    """Return the section on the decisions of a model of the curves; None if no model decided anything.

    Args:
        found: All trials of the study.
        measure: The name of the metric.
    """
    table = sections.make_table(COLUMNS, (row for each in found for row in _rows(each)))
    if not table.rows:
        return None
    judged = [forecast for each in found for forecast in _judged(each)]
    listing = Listing(
        name="decisions",
        title="What was decided at the rungs",
        table=table,
        caption="What came is the best value of a trial that ran to its end.",
    )
    return Section(
        name="forecasts",
        title="Pauses and forecasts",
        text=(_describe_pauses(found), _describe_forecasts(judged)),
        parts=(*((_plot(judged, table, measure),) if judged else ()), listing),
    )


def _came(each: TrialRecord) -> float | None:
    """Return the best value of a trial that ran to its end; None for another one."""
    finite = filter(math.isfinite, each.curve.values())
    return each.metric.best(finite) if each.state == "complete" else None


def _rows(each: TrialRecord) -> Iterator[tuple[Any, ...]]:
    """Yield a row for each decision on a trial, by epoch."""
    for made in each.decisions:
        kind = "paused, then resumed" if _was_resumed(each, made) else made.kind
        kind = "continued" if kind == "promoted" else kind
        yield each.number, made.rung, kind, made.reason, *(made.expected or (None,) * 3), _came(each)


def _was_resumed(each: TrialRecord, made: StoredDecision) -> bool:
    return made.kind == "paused" and made.rung < max(each.curve, default=0)


def _judged(each: TrialRecord) -> Iterator[_Judged]:
    came = _came(each)
    for made in each.decisions:
        if made.expected is not None and came is not None:
            yield _Judged(each.number, made.rung, made.expected, came)


def _describe_pauses(found: Sequence[TrialRecord]) -> str:
    paused = sum(any(made.kind == "paused" for made in each.decisions) for each in found)
    resumed = sum(any(_was_resumed(each, made) for made in each.decisions) for each in found)
    return (
        f"Of {len(found)} trials {paused} paused at least once, since another use of the time "
        f"promised more. Of these {resumed} were resumed."
    )


def _describe_forecasts(judged: Sequence[_Judged]) -> str:
    if not judged:
        return "No trial with a forecast ran to its end, so there is nothing to judge forecasts by."
    within = sum(each.expected[0] <= each.came <= each.expected[2] for each in judged)
    trials = len({each.trial for each in judged})
    return (
        f"There are {len(judged)} forecasts for {trials} trial{'s' * (trials > 1)} that ran to the end. "
        f"The value that came lies within the 80 % interval of {within} of them."
    )


def _plot(judged: Sequence[_Judged], table: Table, measure: str) -> Plot:
    """Return the figure of what came against what was expected."""
    lows, medians, highs = zip(*(each.expected for each in judged), strict=True)
    came = [each.came for each in judged]
    ends = [min(*medians, *came), max(*medians, *came)]
    bars = {
        "type": "data",
        "symmetric": False,
        "array": [high - median for high, median in zip(highs, medians, strict=True)],
        "arrayminus": [median - low for low, median in zip(lows, medians, strict=True)],
        "color": sections.GREY,
        "thickness": 1,
    }
    marker = {
        "color": [each.epoch for each in judged],
        "colorscale": sections.COLOR_SCALE,
        "showscale": True,
        "colorbar": {"title": {"text": "after epoch"}},
        "line": {"width": 1, "color": sections.COLORS[0]},
    }
    dots = go.Scatter(
        x=medians,
        y=came,
        mode="markers",
        name="forecast",
        error_x=bars,
        marker=marker,
        text=list(map(str, judged)),
        hoverinfo="text",
    )
    line = go.Scatter(x=ends, y=ends, mode="lines", name="as expected", line={"color": sections.GREY})
    return Plot(
        name="forecasts",
        title=f"{measure.capitalize()} that came, against the forecast",
        figure=sections.make_figure([line, dots], x="expected", y="came"),
        table=Table(columns=table.columns, rows=tuple(row for row in table.rows if None not in row[5:])),
        caption=CAPTION,
    )
