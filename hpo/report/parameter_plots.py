"""Figures of one parameter and of two: importance, slices, contours and ranks."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, create_trial

from hpo.analysis import importance, sections
from hpo.analysis.importance import Importance
from hpo.analysis.results import SettingResult
from hpo.analysis.sections import Plot, Section, Table
from hpo.errors import StoreError
from hpo.report import setting_marks
from hpo.report.parameter_axis import ParameterAxis
from hpo.study.definition import Definition
from hpo.training.metric import Metric

MAX_COMBINED = 3  # every two of so many parameters are shown together


def importance_section(
    all_trials: list[FrozenTrial],
    parameters: Sequence[ParameterAxis],
    definition: Definition,
) -> tuple[Section, list[str]]:
    """Return the section on parameter importance by every evaluator.

    An evaluator that fails has a sentence instead of bars, and so have all where the trials cannot tell.

    Args:
        all_trials: All trials of the study.
        parameters: The parameters that vary among the complete trials.
        definition: The study; with several objectives the importance is for the first metric.

    Returns:
        The section, and the names of the parameters: most important first by the mean over the evaluators,
        or in the given order if none has a result.
    """
    metric, maximize = definition.metric, not definition.metric.is_minimized
    trials = importance.complete_settings(all_trials, definition.objectives.index(metric))
    repeated = importance.first_of_seeds(all_trials)
    noun = "settings, each with the mean of its seeds" if repeated else "complete trials"
    section = Section(name="importance", title="Parameter importance")
    names = [axis.name for axis in parameters]
    if len(trials) < 2 or not names:
        enough = "Importance needs two complete trials that differ in a parameter"
        few = f"{enough}; {_trial_count_text(len(trials))}."
        return replace(section, text=(few,)), names
    if doubt := importance.explain_doubt(trials, maximize=maximize):
        text = (f"Parameter importance cannot be told: {doubt}.", importance.DASHBOARD_DIFFERS)
        return replace(section, text=text), names
    notes: list[str] = []
    found: list[tuple[Importance, Mapping[str, tuple[float, float]]]] = []
    for evaluator in importance.EVALUATORS:
        try:
            over = importance.importance_of_trials(trials, evaluator, maximize=maximize)
        except StoreError as error:
            notes.append(f"{evaluator} gives no result: {error}.")
            continue
        found.append((over, importance.bootstrap_intervals(trials, evaluator, maximize=maximize)))
    if not found:
        return replace(section, text=tuple(notes)), names
    shares = {name: fmean(each.importances.get(name, 0.0) for each, _ in found) for name in names}
    ranked = sorted(names, key=lambda name: -shares[name])
    parts = (_importance_plot(found, ranked, noun, metric),)
    return replace(section, text=(*notes, importance.DASHBOARD_DIFFERS), parts=parts), ranked


def _trial_count_text(trials: int) -> str:
    return f"{trials} complete trial{' has' if trials == 1 else 's have'} run"


def _importance_plot(
    found: Sequence[tuple[Importance, Mapping[str, tuple[float, float]]]],
    ranked: Sequence[str],
    noun: str,
    metric: Metric,
) -> Plot:
    traces, rows = [], []
    for index, (each, intervals) in enumerate(found):
        # Evaluators rate every parameter; those with a single value are not shown.
        shown = [name for name in reversed(ranked) if name in each.importances]
        limits = [intervals.get(name, (each.importances[name],) * 2) for name in shown]
        shares = [each.importances[name] for name in shown]
        error = {
            "type": "data",
            "array": [max(high - s, 0.0) for (_, high), s in zip(limits, shares, strict=True)],
            "arrayminus": [max(s - low, 0.0) for (low, _), s in zip(limits, shares, strict=True)],
            "thickness": 1.2,
            "width": 3,
        }
        bar = {"orientation": "h", "marker": {"color": sections.COLORS[index]}, "error_x": error}
        places = [len(ranked) - 1 - ranked.index(name) for name in shown]
        traces.append(go.Bar(y=places, x=shares, name=each.evaluator, **bar))
        rows += [
            (each.evaluator, name, share, *limit, each.trials)
            for name, share, limit in zip(shown[::-1], shares[::-1], limits[::-1], strict=True)
        ]
    names = [sections.figure_text(name) for name in reversed(ranked)]
    marks = {"tickvals": list(range(len(ranked))), "ticktext": names}
    made = sections.make_figure(traces, x="share of importance", y=marks, height=150 + 62 * len(ranked))
    made.update_layout(barmode="group", legend={"traceorder": "reversed"})
    made.update_xaxes(rangemode="tozero")
    count = found[0][0].trials
    caption = (
        f"Over {count} {noun}. Bars use all of them. Whiskers cover the middle 90 % of "
        f"{importance.resample_count(count)} bootstrap samples of {count}, drawn with replacement."
    )
    left_out = [name for name in ranked if any(name in each.left_out for each, _ in found)]
    silent = [each.evaluator for each, _ in found if each.left_out]
    if left_out:
        caption += (
            f" Left out by {' and '.join(silent)} because not every trial has it: {', '.join(left_out)}."
        )
    columns = ("evaluator", "parameter", "importance", "low", "high", "trials")
    return Plot(
        name="importance",
        title=f"How strongly each parameter influences the {metric.label}",
        figure=made,
        table=sections.make_table(columns, rows),
        caption=caption,
    )


def slice_section(
    settings: Sequence[SettingResult], parameters: Sequence[ParameterAxis], measure: str
) -> Section:
    """Return the section that plots the metric against each parameter; a sentence if none varies.

    Args:
        settings: The study's settings, by number.
        parameters: The parameters that vary among them.
        measure: The name of the metric.
    """
    section = Section(name="slices", title="Slices", narrow=True)
    if not parameters:
        return replace(section, text=("No parameter has two values among the complete trials.",))
    return replace(
        section,
        text=_seeds_text(settings),
        parts=tuple(_slice_plot(settings, axis, i, measure) for i, axis in enumerate(parameters, 1)),
    )


def _seeds_text(settings: Sequence[SettingResult], *more: str) -> tuple[str, ...]:
    """Return the sentences above the figures: what a setting with several seeds is drawn as, and more."""
    return tuple(filter(None, (setting_marks.seeds_note(settings), *more)))


def _slice_plot(settings: Sequence[SettingResult], axis: ParameterAxis, index: int, measure: str) -> Plot:
    having = [each for each in settings if axis.name in each.trial.params]
    values = [each.trial.params[axis.name] for each in having]
    dots = go.Scatter(
        x=[axis.coordinate(value) for value in values],
        y=[each.value for each in having],
        mode="markers",
        marker={"size": 8, "color": sections.COLORS[0], "opacity": 0.7},
        text=[
            f"trial {each.trial.number}: {sections.figure_text(value)}"
            for each, value in zip(having, values, strict=True)
        ],
        hoverinfo="text+y",
    )
    rows = [
        (each, (each.trial.number, value, each.value)) for each, value in zip(having, values, strict=True)
    ]
    return Plot(
        name=f"slice-{index}-{file_slug(axis.name)}",
        title=f"{measure.capitalize()} by {axis.name}",
        figure=sections.make_figure([dots], x=axis.layout(), y=measure, height=300),
        table=setting_marks.setting_table(("trial", axis.name, settings[0].metric.name), rows),
    )


def file_slug(name: str) -> str:
    """Return any name as a part of a file name: ASCII letters, digits and underscores, at most 40.

    Two names may become the same.
    """
    return re.sub(r"[^A-Za-z0-9_]+", "_", name)[:40]


def rank_section(
    settings: Sequence[SettingResult], parameters: Sequence[ParameterAxis], ranked: Sequence[str]
) -> Section:
    """Return the section with the ranks of settings over every two of the three most important parameters.

    It has a plot for every two that vary together, with rank 1 for the setting that ``hpo best`` shows;
    equal ones share the mean of their ranks. It has a sentence if no two do.

    Args:
        settings: The study's settings, by number.
        parameters: The parameters that vary among them.
        ranked: Names of the parameters, most important first.
    """
    section = Section(name="ranks", title="Rank", narrow=True)
    combined = _combined_parameters(settings, parameters, ranked)
    if not combined:
        return replace(section, text=(NO_COMBINATION,))
    parts = [_rank_plot(pair, len(settings), index) for index, pair in enumerate(combined, 1)]
    behind = "Settings that ran with several seeds come first, those of which a seed diverged last."
    text = _seeds_text(settings, behind * (setting_marks.noun(settings) == "setting"))
    return replace(section, text=text, parts=tuple(parts))


NO_COMBINATION = "No two parameters vary together over three or more of the complete trials' settings."
MIN_CONTOUR_DOTS = 8
NO_CONTOUR = (
    "No two of the most important numeric parameters vary together over "
    f"{MIN_CONTOUR_DOTS} or more settings."
)
ParameterPair = tuple[ParameterAxis, ParameterAxis, list[SettingResult]]


def _combined_parameters(
    settings: Sequence[SettingResult], parameters: Sequence[ParameterAxis], ranked: Sequence[str]
) -> list[ParameterPair]:
    """Return every two important parameters that vary together, with the settings that have both.

    The settings must have at least three different combinations of the two values.
    """
    by_name = {axis.name: axis for axis in parameters}
    found = []
    for a, b in combinations([by_name[name] for name in ranked if name in by_name][:MAX_COMBINED], 2):
        having = [each for each in settings if {a.name, b.name} <= each.trial.params.keys()]
        places = {(repr(e.trial.params[a.name]), repr(e.trial.params[b.name])) for e in having}
        # Each of the two must vary among the settings that have both.
        if len(places) > 2 and all(len({place[i] for place in places}) > 1 for i in (0, 1)):
            found.append((a, b, having))
    return found


def _rank_plot(pair: ParameterPair, count: int, index: int) -> Plot:
    a, b, having = pair
    dots = go.Scatter(
        x=[a.coordinate(each.trial.params[a.name]) for each in having],
        y=[b.coordinate(each.trial.params[b.name]) for each in having],
        mode="markers",
        marker={
            "size": 11,
            "color": [each.rank for each in having],
            "colorscale": sections.COLOR_SCALE,
            "reversescale": True,
            "showscale": True,
            "colorbar": {"title": {"text": "rank"}, "thickness": 10, "dtick": max(1, count // 6)},
            "line": {"width": 1, "color": "#5b6770"},
        },
        text=[f"trial {each.trial.number}: rank {each.rank:g} of {count}" for each in having],
        hoverinfo="text",
    )
    return Plot(
        name=f"rank-{index}-{file_slug(a.name)}-{file_slug(b.name)}",
        title=f"Rank by {a.name} and {b.name}",
        figure=sections.make_figure([dots], x=a.layout(), y=b.layout(), height=340),
        table=_pair_table(pair, ("rank", lambda each: each.rank)),
    )


def _pair_table(pair: ParameterPair, *more: tuple[str, Callable[[SettingResult], Any]]) -> Table:
    """Return the table of two parameters: their values, the metric, and more columns."""
    a, b, having = pair
    rows = [
        (
            e,
            (
                e.trial.number,
                e.trial.params[a.name],
                e.trial.params[b.name],
                e.value,
                *(f(e) for _, f in more),
            ),
        )
        for e in having
    ]
    columns = ("trial", a.name, b.name, having[0].metric.name, *(name for name, _ in more))
    return setting_marks.setting_table(columns, rows)


def contour_section(
    settings: Sequence[SettingResult],
    parameters: Sequence[ParameterAxis],
    ranked: Sequence[str],
    measure: str,
) -> Section:
    """Return the section with the metric over every two of the three most important parameters.

    It has a plot for every two numbers that vary together, interpolated by Optuna; a sentence if no two do.
    Between choices there is no surface, and between a few dots there is none to speak of.

    Args:
        settings: The study's settings, by number.
        parameters: The parameters that vary among them.
        ranked: Names of the parameters, most important first.
        measure: The name of the metric.
    """
    section = Section(name="contours", title="Contours", narrow=True)
    combined = _combined_parameters(settings, [each for each in parameters if each.numeric], ranked)
    combined = [pair for pair in combined if len(pair[2]) >= MIN_CONTOUR_DOTS]
    if not combined:
        return replace(section, text=(NO_CONTOUR,))
    parts = [_contour_plot(pair, index, measure) for index, pair in enumerate(combined, 1)]
    text = (
        f"The dots are {setting_marks.noun(settings)}s. The surface between them is interpolated; far from "
        "any dot it means little."
    )
    return replace(section, text=_seeds_text(settings, text), parts=tuple(parts))


def _contour_plot(pair: ParameterPair, index: int, measure: str) -> Plot:
    a, b, _ = pair
    drawn = optuna.visualization.plot_contour(_numeric_study(pair), params=["x", "y"])
    made = sections.make_figure(drawn.data, x=a.layout() | _axis_range(drawn.layout.xaxis), height=340)
    made.update_layout(yaxis=sections.style_axis(b.layout() | _axis_range(drawn.layout.yaxis)))
    bar = {"thickness": 10, "title": {"text": ""}}
    surface = {
        "colorscale": sections.COLOR_SCALE,
        "reversescale": pair[2][0].metric.is_minimized,
        "colorbar": bar,
    }
    made.update_traces(surface, selector={"type": "contour"})
    made.update_traces(showlegend=False, hoverinfo="x+y", selector={"type": "scatter"})
    return Plot(
        name=f"contour-{index}-{file_slug(a.name)}-{file_slug(b.name)}",
        title=f"{measure.capitalize()} over {a.name} and {b.name}",
        figure=made,
        table=_pair_table(pair),
    )


def _axis_range(axis: Any) -> dict[str, Any]:
    """Return the range of an axis that Optuna drew, without its title and ticks, which we replace."""
    return {"range": list(axis.range), "type": axis.type or "linear"}


def _numeric_study(pair: ParameterPair) -> optuna.Study:
    """Return the settings of two parameters as an in-memory study; a choice is replaced by its index.

    Optuna does not escape what it puts into a figure, so it gets numbers only.
    """
    named = {"x": pair[0], "y": pair[1]}
    trials = []
    for each in pair[2]:
        params = {key: axis.coordinate(each.trial.params[axis.name]) for key, axis in named.items()}
        distributions: dict[str, BaseDistribution] = {
            key: FloatDistribution(
                axis.coordinate(axis.values[0]), axis.coordinate(axis.values[-1]), log=axis.log
            )
            for key, axis in named.items()
        }
        trials.append(create_trial(value=each.value, params=params, distributions=distributions))
    return importance.in_memory_study(trials, maximize=not pair[2][0].metric.is_minimized)
