"""Figures of a whole study: history, curves, parallel coordinates, timeline and Pareto front."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
from scipy import stats

from hpo.analysis import records, sections
from hpo.analysis.records import TrialRecord
from hpo.analysis.sections import Plot, Section
from hpo.report.parameter_axis import ParameterAxis

HIGHLIGHTED = 5  # number of curves that are highlighted
FIFTHS = ("worst fifth", "fourth fifth", "middle fifth", "second fifth", "best fifth")


def history_section(found: Sequence[TrialRecord], measure: str) -> Section:
    """Return the section that shows the accuracy of complete and pruned trials, and the best so far.

    A pruned trial is shown with its last accuracy and does not count for the best. Trials without an
    accuracy are left out.

    Args:
        found: All trials of the study.
        measure: The name of the metric.
    """
    done = records.complete_records(found)
    section = Section(name="history", title="History")
    best = list(itertools.accumulate((each.accuracy or 0.0 for each in done), max))
    pruned = [each for each in found if each.state == "pruned" and each.accuracy is not None]
    traces = [_trial_dots(done, "complete", lambda each: each.number)]
    if pruned:
        traces.append(_trial_dots(pruned, "pruned", lambda each: each.number))
    numbers = [each.number for each in done]
    line = {"shape": "hv", "color": sections.COLORS[0]}
    traces.append(go.Scatter(x=numbers, y=best, mode="lines", name="best so far", line=line))
    so_far = dict(zip(numbers, best, strict=True))
    rows = [(e.number, e.state, e.accuracy, so_far.get(e.number)) for e in found if e.accuracy is not None]
    plot = Plot(
        name="history",
        title=f"{measure.capitalize()} by trial",
        figure=sections.make_figure(traces, x=_trial_number_axis(found), y=measure),
        table=sections.make_table(("trial", "state", "accuracy", "best so far"), rows),
        caption="A pruned trial is shown with its last accuracy; it does not count for the best so far."
        if pruned
        else "",
    )
    return _with_plot(section, plot)


def _trial_number_axis(found: Sequence[TrialRecord]) -> dict[str, Any]:
    """Return the settings of an axis of trial numbers, without ticks between two numbers."""
    few = {"dtick": 1} if len(found) <= 10 else {}
    return {"title": {"text": "trial"}, "tickformat": "d", **few}


def _trial_dots(
    trials: Sequence[TrialRecord], state: str, x: Callable[[TrialRecord], Any], **more: Any
) -> go.Scatter:
    return go.Scatter(
        x=[x(each) for each in trials],
        y=[each.accuracy for each in trials],
        mode="markers",
        name=state,
        marker={"color": sections.STATE_COLORS[state], "size": 8, **more},
        text=[_hover_text(each) for each in trials],
        hoverinfo="text",
    )


def _hover_text(each: TrialRecord) -> str:
    """Return the hover text of a trial: escaped, one parameter per line."""
    accuracy = "" if each.accuracy is None else f": {each.accuracy:.4f}"
    lines = [f"trial {each.number}, {each.state}{accuracy}"]
    lines += [
        f"{sections.figure_text(name)} {sections.figure_text(value)}" for name, value in each.params.items()
    ]
    return "<br>".join(lines)


def curve_section(found: Sequence[TrialRecord], measure: str) -> Section:
    """Return the section that shows accuracy after each epoch; the best trials are highlighted.

    If no trial has reported two epochs, there is a sentence instead.

    Args:
        found: All trials of the study.
        measure: The name of the metric.
    """
    section = Section(name="curves", title="Curves")
    reported = [each for each in found if each.curve]
    most = max((len(each.curve) for each in reported), default=0)
    if most < 2:
        reason = (
            "No trial has reported two epochs, so there are no curves. History shows the final accuracies."
        )
        return _with_text(section, reason)
    done = sorted(
        records.complete_records(reported), key=lambda each: (-(each.accuracy or 0.0), each.number)
    )
    best, rest = done[:HIGHLIGHTED], done[HIGHLIGHTED:]
    groups = [("other complete trials", rest, sections.GREY, "solid")]
    for state in ("pruned", "failed", "running", "waiting"):
        these = [each for each in reported if each.state == state]
        groups.append((f"{state} trials", these, sections.STATE_COLORS[state], "dot"))
    traces = [_joined_curves(name, these, color, dash) for name, these, color, dash in groups if these]
    traces += [
        _joined_curves(f"trial {each.number}", [each], color, "solid", 2.5)
        for each, color in zip(best, sections.COLORS, strict=False)
    ]
    rows = [(e.number, e.state, epoch, accuracy) for e in reported for epoch, accuracy in e.curve.items()]
    plot = Plot(
        name="curves",
        title=f"{measure.capitalize()} after each epoch",
        figure=sections.make_figure(traces, x=sections.epoch_axis(most), y=measure, height=440),
        table=sections.make_table(("trial", "state", "epoch", "accuracy"), rows),
    )
    return _with_plot(section, plot)


def _joined_curves(
    name: str, trials: Iterable[TrialRecord], color: str, dash: str, width: float = 1.2
) -> go.Scatter:
    """Return several curves as one trace, with gaps between them."""
    x: list[int | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    for each in trials:
        x += [*each.curve, None]
        y += [*each.curve.values(), None]
        texts += [f"trial {each.number}"] * (len(each.curve) + 1)
    line = {"color": color, "dash": dash, "width": width}
    return go.Scatter(x=x, y=y, mode="lines+markers", name=name, line=line, marker={"size": 5}, text=texts)


def parallel_section(
    found: Sequence[TrialRecord], parameters: Sequence[ParameterAxis], measure: str
) -> Section:
    """Return the section that shows all varying parameters of the complete trials, one line per trial.

    Lines are colored by the fifth of the ranking that a trial is in. If no parameter varies, there is a
    sentence instead.

    Args:
        found: All trials of the study.
        parameters: The parameters that vary among the complete trials.
        measure: The name of the metric.
    """
    section = Section(name="parallel", title="Parallel coordinates")
    done = records.complete_records(found)
    if not parameters:
        return _with_text(section, "No parameter has two values among the complete trials.")
    accuracies = ParameterAxis.of_numbers(
        measure, [each.accuracy for each in done if each.accuracy is not None]
    )
    ranks = stats.rankdata([each.accuracy or 0.0 for each in done])  # equal accuracies share a mean rank
    fifths = [math.ceil(5 * rank / len(done)) - 1 for rank in ranks]
    traces = []
    for index, name in enumerate(FIFTHS):
        these = [each for each, fifth in zip(done, fifths, strict=True) if fifth == index]
        color = ("#d5dce3", "#b3c4d8", "#7ea3cc", "#3f74ae", "#0b2f5c")[index]
        traces.append(_parallel_lines(these, [*parameters, accuracies], name, color))
    columns = ("trial", *(each.name for each in parameters), "accuracy")
    rows = [(e.number, *(e.params.get(a.name) for a in parameters), e.accuracy) for e in done]
    made = sections.make_figure([trace for trace in traces if trace.x], height=440)
    _draw_parallel_frame(made, [*parameters, accuracies])
    caption = f"Each line is a trial. The darker the line, the higher its {measure}."
    if any(axis.name not in each.params for axis in parameters for each in done):
        caption += " Trials without a parameter pass below its axis."
    plot = Plot(
        name="parallel",
        title="Every complete trial across all parameters",
        figure=made,
        table=sections.make_table(columns, rows),
        caption=caption,
    )
    return _with_plot(section, plot)


def _parallel_lines(
    trials: Iterable[TrialRecord], parameters: Sequence[ParameterAxis], name: str, color: str
) -> go.Scatter:
    x: list[int | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    for each in trials:
        values = [*(each.params.get(axis.name) for axis in parameters[:-1]), each.accuracy]
        x += [*range(len(parameters)), None]
        y += [axis.relative_position(value) for axis, value in zip(parameters, values, strict=True)] + [
            None
        ]
        texts += [_hover_text(each)] * (len(parameters) + 1)
    line = {"color": color, "width": 1.6}
    return go.Scatter(x=x, y=y, mode="lines", name=name, line=line, text=texts, hoverinfo="text")


def _draw_parallel_frame(made: go.Figure, parameters: Sequence[ParameterAxis]) -> None:
    """Draw each axis of the parallel coordinates: a line, its ticks, and its name below."""
    for index, axis in enumerate(parameters):
        line = {"color": "#5b6770", "width": 1}
        made.add_shape(type="line", x0=index, x1=index, y0=0, y1=1, line=line)
        for place, mark in axis.ticks():
            made.add_annotation(
                x=index,
                y=place,
                text=mark,
                showarrow=False,
                xanchor="right" if index == len(parameters) - 1 else "left",
                font={"size": 10},
                bgcolor="rgba(255,255,255,0.75)",
                borderpad=1,
            )
    made.update_xaxes(
        tickvals=list(range(len(parameters))),
        ticktext=[sections.figure_text(axis.name) for axis in parameters],
        tickangle=-35,
        range=[-0.15, len(parameters) - 0.85],
        showgrid=False,
    )
    made.update_yaxes(visible=False, range=[-0.2, 1.06])


def timeline_section(found: Sequence[TrialRecord]) -> Section:
    """Return the section that shows when each trial ran, from its first start to its end.

    Trials that never started are left out. One that has not ended is drawn up to the last time that the
    study knows.

    Args:
        found: All trials of the study, at least one.
    """
    section = Section(name="timeline", title="Timeline")
    begun = [each for each in found if each.started is not None]
    # A running trial has no end yet. It is drawn up to the last time that the study knows.
    moments = [moment for each in begun for moment in (each.started, each.ended) if moment is not None]
    traces = []
    for state, color in sections.STATE_COLORS.items():
        these = [each for each in begun if each.state == state]
        x = [m for each in these for m in (each.started, each.ended or max(moments), None)]
        y = [m for each in these for m in (each.number, each.number, None)]
        texts = [_hover_text(each) for each in these for _ in range(3)]
        width = max(2, min(12, 260 // len(found)))
        line = {"color": color, "width": width}
        trace = go.Scatter(x=x, y=y, mode="lines", name=state, line=line, text=texts, hoverinfo="text")
        traces += [trace] if these else []
    columns = ("trial", "state", "started", "ended", "attempts")
    rows = [(e.number, e.state, e.started, e.ended, e.attempts) for e in begun]
    plot = Plot(
        name="timeline",
        title="When each trial ran, in UTC",
        figure=sections.make_figure(traces, y=_trial_number_axis(found)),
        table=sections.make_table(columns, rows),
        caption="From the first start to the end, including the time between two attempts.",
    )
    return _with_plot(section, plot)


def pareto_section(found: Sequence[TrialRecord], measure: str) -> Section:
    """Return the section that shows accuracy against wall time, with a Pareto front for each hardware.

    It shows complete trials whose hardware is recorded; a sentence if there is none.

    Args:
        found: All trials of the study.
        measure: The name of the metric.
    """
    section = Section(name="pareto", title="Accuracy against wall time")
    done = [each for each in records.complete_records(found) if each.hardware is not None]
    if not done:
        reason = "No complete trial has recorded its hardware, so wall times cannot be compared."
        return _with_text(section, reason)
    traces, rows = [], []
    for index, kind in enumerate(records.hardware_kinds(done)):
        these = sorted(
            (e for e in done if e.hardware == kind), key=lambda e: (e.wall_seconds, -(e.accuracy or 0))
        )
        best = pareto_front(these)
        color = sections.COLORS[index % len(sections.COLORS)]
        dots = _trial_dots(these, "complete", lambda each: each.wall_seconds, color=color)
        dots.name = sections.wrap_figure_text(kind)
        ends = [each.wall_seconds for each in best], [each.accuracy for each in best]
        line = {"shape": "hv", "color": color}
        step = go.Scatter(x=ends[0], y=ends[1], mode="lines", name="Pareto front", line=line)
        traces += [dots, step]
        rows += [(e.number, kind, e.wall_seconds, e.accuracy, e in best) for e in these]
    plot = Plot(
        name="pareto",
        title=f"{measure.capitalize()} against seconds of training and evaluation",
        figure=sections.make_figure(traces, x="wall time in s", y=measure),
        table=sections.make_table(
            ("trial", "hardware", "wall_time_seconds", "accuracy", "on the front"), rows
        ),
        caption="A trial is on the Pareto front if no other trial on the same kind of hardware is at least "
        "as fast and as accurate, and better in one of the two.",
    )
    return _with_plot(section, plot)


def pareto_front(ordered: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the Pareto front of trials; those with the same time and accuracy are all on it.

    Args:
        ordered: Complete trials by wall time, ascending; of equally fast ones the most accurate first.
    """
    best: list[TrialRecord] = []
    for each in ordered:
        last = best[-1] if best else None
        if (
            last is None
            or (each.accuracy or 0.0) > (last.accuracy or 0.0)
            or (each.wall_seconds, each.accuracy) == (last.wall_seconds, last.accuracy)
        ):
            best.append(each)
    return best


def _with_text(section: Section, reason: str) -> Section:
    return replace(section, text=(reason,))


def _with_plot(section: Section, plot: Plot) -> Section:
    return replace(section, parts=(plot,))
