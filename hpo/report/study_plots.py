"""Figures of a whole study: history, curves, parallel coordinates, timeline, metric against time."""

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go

from hpo.analysis import records, sections
from hpo.analysis.records import TrialRecord
from hpo.analysis.results import SettingResult
from hpo.analysis.sections import Plot, Section
from hpo.report import setting_marks
from hpo.report.parameter_axis import ParameterAxis

HIGHLIGHTED = 5  # number of curves that are highlighted
FIFTHS = ("worst fifth", "fourth fifth", "middle fifth", "second fifth", "best fifth")


def history_section(
    found: Sequence[TrialRecord], settings: Sequence[SettingResult], measure: str
) -> Section:
    """Return the section that shows the values of settings and pruned trials, and the best so far.

    The best so far is what ``hpo best`` would show of the settings up to there. A pruned trial is shown
    with its last value and does not count for it; pruned replicates are left out.

    Args:
        found: All trials of the study.
        settings: Its settings, by number.
        measure: The name of the metric.
    """
    section = Section(name="history", title="History")
    best = list(itertools.accumulate(settings, _better))
    pruned = [e for e in found if e.state == "pruned" and e.value is not None and e.replicate_of is None]
    numbers = [each.trial.number for each in settings]
    traces = [_setting_dots(settings, numbers, "complete", sections.STATE_COLORS["complete"])]
    traces += [_pruned_dots(pruned)] if pruned else []
    line = {"shape": "hv", "color": sections.COLORS[0]}
    values = [each.value for each in best]
    traces.append(go.Scatter(x=numbers, y=values, mode="lines", name="best so far", line=line))
    repeated = setting_marks.noun(settings) == "setting"
    rows = [
        (each.trial.number, "complete", each.value, so_far, *([len(each.runs)] * repeated))
        for each, so_far in zip(settings, values, strict=True)
    ]
    rows += [(each.number, each.state, each.value, None, *([1] * repeated)) for each in pruned]
    columns = ("trial", "state", settings[0].metric.name, "best so far", *(["seeds"] * repeated))
    caption = _PRUNED_CAPTION if pruned else ""
    plot = Plot(
        name="history",
        title=f"{measure.capitalize()} by {setting_marks.noun(settings)}",
        figure=sections.make_figure(traces, x=_trial_number_axis(found), y=measure),
        table=sections.make_table(columns, sorted(rows, key=lambda row: row[0])),
        caption=setting_marks.seeds_note(settings, f"{_RANKS_CAPTION} {caption}" if repeated else caption),
    )
    return _with_plot(section, plot)


def _better(a: SettingResult, b: SettingResult) -> SettingResult:
    return b if b.rank < a.rank else a


_PRUNED_CAPTION = "A pruned trial is shown with its last value; it does not count for the best so far."
_RANKS_CAPTION = (
    "The best so far is chosen as by hpo best: settings that ran with several seeds come first."
)


def _trial_number_axis(found: Sequence[TrialRecord]) -> dict[str, Any]:
    """Return the settings of an axis of trial numbers, without ticks between two numbers."""
    few = {"dtick": 1} if len(found) <= 10 else {}
    return {"title": {"text": "trial"}, "tickformat": "d", **few}


def _setting_dots(
    settings: Sequence[SettingResult], x: Sequence[float], name: str, color: str
) -> go.Scatter:
    return _dots(x, [each.value for each in settings], map(setting_marks.hover_text, settings), name, color)


def _pruned_dots(pruned: Sequence[TrialRecord]) -> go.Scatter:
    numbers, values = [each.number for each in pruned], [each.value for each in pruned]
    return _dots(numbers, values, map(_hover_text, pruned), "pruned", sections.STATE_COLORS["pruned"])


def _dots(
    x: Sequence[float], y: Sequence[float | None], texts: Iterable[str], name: str, color: str
) -> go.Scatter:
    marker = {"color": color, "size": 8}
    return go.Scatter(x=x, y=y, mode="markers", name=name, marker=marker, text=[*texts], hoverinfo="text")


def _hover_text(each: TrialRecord) -> str:
    """Return the hover text of a trial: escaped, one parameter per line."""
    value = "" if each.value is None else f": {each.value:.4f}"
    return setting_marks.mark_text(f"trial {each.number}, {each.state}{value}", each.params)


def curve_section(found: Sequence[TrialRecord], settings: Sequence[SettingResult], measure: str) -> Section:
    """Return the section that shows the metric after each epoch; the best settings are highlighted.

    Each trial is a curve, also each seed of a setting. If no trial has reported two epochs, there is a
    sentence instead.

    Args:
        found: All trials of the study.
        settings: Its settings, by number.
        measure: The name of the metric.
    """
    section = Section(name="curves", title="Curves")
    reported = [each for each in found if each.curve]
    most = max((len(each.curve) for each in reported), default=0)
    if most < 2:
        reason = "No trial has reported two epochs, so there are no curves. History shows the final values."
        return _with_text(section, reason)
    ranked = [each.trial for each in sorted(settings, key=lambda each: each.rank) if each.trial.curve]
    best = ranked[:HIGHLIGHTED]
    rest = [each for each in records.complete_records(reported) if each not in best]
    groups = [("other complete trials", rest, sections.GREY, "solid")]
    for state in ("pruned", "failed", "running", "waiting"):
        these = [each for each in reported if each.state == state]
        groups.append((f"{state} trials", these, sections.STATE_COLORS[state], "dot"))
    traces = [_joined_curves(name, these, color, dash) for name, these, color, dash in groups if these]
    traces += [
        _joined_curves(f"trial {each.number}", [each], color, "solid", 2.5)
        for each, color in zip(best, sections.COLORS, strict=False)
    ]
    rows = [(e.number, e.state, epoch, value) for e in reported for epoch, value in e.curve.items()]
    plot = Plot(
        name="curves",
        title=f"{measure.capitalize()} after each epoch",
        figure=sections.make_figure(traces, x=sections.epoch_axis(most), y=measure, height=440),
        table=sections.make_table(("trial", "state", "epoch", settings[0].metric.name), rows),
        caption="Each curve is a trial with one seed. The first trials of the best settings are colored."
        if setting_marks.noun(settings) == "setting"
        else "",
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
    settings: Sequence[SettingResult], parameters: Sequence[ParameterAxis], measure: str
) -> Section:
    """Return the section that shows all varying parameters of the settings, one line per setting.

    Lines are colored by the fifth of the ranking that a setting is in. If no parameter varies, there is a
    sentence instead.

    Args:
        settings: The study's settings, by number.
        parameters: The parameters that vary among them.
        measure: The name of the metric.
    """
    section = Section(name="parallel", title="Parallel coordinates")
    if not parameters:
        return _with_text(section, "No parameter has two values among the complete trials.")
    values = ParameterAxis.of_numbers(measure, [each.value for each in settings])
    count = len(settings)
    fifths = [math.ceil(5 * (count + 1 - each.rank) / count) - 1 for each in settings]
    traces = []
    for index, name in enumerate(FIFTHS):
        these = [each for each, fifth in zip(settings, fifths, strict=True) if fifth == index]
        color = ("#d5dce3", "#b3c4d8", "#7ea3cc", "#3f74ae", "#0b2f5c")[index]
        traces.append(_parallel_lines(these, [*parameters, values], name, color))
    columns = ("trial", *(each.name for each in parameters), settings[0].metric.name)
    rows = [
        (e, (e.trial.number, *(e.trial.params.get(a.name) for a in parameters), e.value)) for e in settings
    ]
    made = sections.make_figure([trace for trace in traces if trace.x], height=440)
    _draw_parallel_frame(made, [*parameters, values])
    noun = setting_marks.noun(settings)
    caption = f"Each line is a {noun}. The darker the line, the better its rank."
    if any(axis.name not in each.trial.params for axis in parameters for each in settings):
        caption += f" {noun.capitalize()}s without a parameter pass below its axis."
    plot = Plot(
        name="parallel",
        title=f"Every complete {noun} across all parameters",
        figure=made,
        table=setting_marks.setting_table(columns, rows),
        caption=setting_marks.seeds_note(settings, caption),
    )
    return _with_plot(section, plot)


def _parallel_lines(
    settings: Iterable[SettingResult], parameters: Sequence[ParameterAxis], name: str, color: str
) -> go.Scatter:
    x: list[int | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    for each in settings:
        values = [*(each.trial.params.get(axis.name) for axis in parameters[:-1]), each.value]
        x += [*range(len(parameters)), None]
        y += [axis.relative_position(value) for axis, value in zip(parameters, values, strict=True)] + [
            None
        ]
        texts += [setting_marks.hover_text(each)] * (len(parameters) + 1)
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


def pareto_section(settings: Sequence[SettingResult], measure: str) -> Section:
    """Return the section that shows the metric against wall time, with a Pareto front for each hardware.

    It shows settings whose hardware is recorded; a sentence if there is none. A setting's time is the mean
    over its seeds on that hardware.

    Args:
        settings: The study's settings, by number.
        measure: The name of the metric.
    """
    section = Section(name="pareto", title=f"{measure.capitalize()} against wall time")
    runs = [run for each in settings for run in each.runs]
    kinds, mixed = records.hardware_kinds(runs), records.mixed_hardware_note(runs)
    if not kinds:
        reason = "No complete trial has recorded its hardware, so wall times cannot be compared."
        return _with_text(section, mixed or reason)
    traces, rows = [], []
    metric = settings[0].metric
    for index, kind in enumerate(kinds):
        timed = [(seconds, metric.score(e.value), e) for seconds, e in _timed_settings(settings, kind)]
        timed.sort(key=lambda each: (each[0], -each[1]))
        is_best = pareto_front([(seconds, score) for seconds, score, _ in timed])
        these = [(seconds, each) for seconds, _, each in timed]
        ends = [place for place, best in zip(these, is_best, strict=True) if best]
        color = sections.COLORS[index % len(sections.COLORS)]
        name = sections.wrap_figure_text(kind)
        dots = _setting_dots([each for _, each in these], [seconds for seconds, _ in these], name, color)
        x, y = [seconds for seconds, _ in ends], [each.value for _, each in ends]
        line = {"shape": "hv", "color": color}
        traces += [dots, go.Scatter(x=x, y=y, mode="lines", name="Pareto front", line=line)]
        rows += [
            (each, (each.trial.number, kind, seconds, each.value, best))
            for (seconds, each), best in zip(these, is_best, strict=True)
        ]
    columns = ("trial", "hardware", "wall_time_seconds", metric.name, "on the front")
    noun = setting_marks.noun(settings)
    caption = (
        f"A {noun} is on the Pareto front if no other {noun} on the same kind of hardware is at least as "
        f"fast and as good, and better in one of the two. {mixed}"
    )
    if noun == "setting":
        caption = f"A setting's time is the mean over its seeds. {caption}"
    plot = Plot(
        name="pareto",
        title=f"{measure.capitalize()} against seconds of training and evaluation",
        figure=sections.make_figure(traces, x="wall time in s", y=measure),
        table=setting_marks.setting_table(columns, rows),
        caption=setting_marks.seeds_note(settings, caption.strip()),
    )
    return _with_plot(section, plot)


def _timed_settings(settings: Iterable[SettingResult], kind: str) -> Iterator[tuple[float, SettingResult]]:
    """Yield the settings that ran on a kind of hardware, each with the mean seconds of its runs there."""
    for each in settings:
        if seconds := [run.wall_seconds for run in each.runs if run.hardware == kind]:
            yield statistics.fmean(seconds), each


def pareto_front(ordered: Sequence[tuple[float, float]]) -> list[bool]:
    """Return which pairs are on the Pareto front; equal ones all are.

    Args:
        ordered: Seconds and scores, by ascending seconds; of equally fast ones the best first.
    """
    found: list[bool] = []
    last: tuple[float, float] | None = None
    for seconds, score in ordered:
        found.append(last is None or score > last[1] or (seconds, score) == last)
        last = (seconds, score) if found[-1] else last
    return found


def _with_text(section: Section, reason: str) -> Section:
    return replace(section, text=(reason,))


def _with_plot(section: Section, plot: Plot) -> Section:
    return replace(section, parts=(plot,))
