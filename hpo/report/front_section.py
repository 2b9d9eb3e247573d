"""The section on the Pareto front of a study with several objectives: figures and a table."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from hpo.analysis import sections
from hpo.analysis.formatting import format_objective
from hpo.analysis.results import SettingResult
from hpo.analysis.sections import Listing, Plot, Section
from hpo.report import setting_marks
from hpo.training.metric import COSTS, Metric

WIDE_RANGE = 20  # ratio of the largest value to the least from which an axis is logarithmic
CAPTION = (
    "No other {noun} is better than one on the front in one objective and at least as good in all others. "
    "The knee is the farthest one from the line or plane through the ends of the front."
)
BARS_CAPTION = (
    "Bars are 95 % intervals: with one seed they say what other images would give, with three or more what "
    "other seeds would. Where there is no bar, the interval is not known."
)
SEEN_CAPTION = (
    "With more than two objectives, one on the front may look dominated in a figure of two of them."
)


def front_section(settings: Sequence[SettingResult]) -> Section:
    """Return the section on the Pareto front.

    There is a figure of the metric that trials report against each other objective, and a table of the
    settings on the front with all objectives. Its CSV has all settings.

    Args:
        settings: The study's settings, at least one, by number; the study has several objectives.
    """
    first = settings[0].goals.index(settings[0].metric)
    others = [index for index in range(len(settings[0].goals)) if index != first]
    plots = [_front_plot(settings, index, first, number) for number, index in enumerate(others, 1)]
    return Section(name="front", title="Pareto front", parts=(_listing(settings), *plots))


def _listing(settings: Sequence[SettingResult]) -> Listing:
    """Return the table of the front, best first in the first objective; its CSV has all settings."""
    goals = settings[0].goals
    columns = [name for goal in goals for name in (goal.name, f"{goal.name} low", f"{goal.name} high")]
    rows = [(each, (*_facts(each), *_limits(each), _params(each))) for each in settings]
    on_it = [each for each in settings if each.is_on_front]
    on_it.sort(key=lambda each: -goals[0].score(each.objectives[0]))
    shown = setting_marks.setting_table(
        ("trial", "knee", *(_title(goal) for goal in goals), "settings"),
        [(each, (each.trial.number, each.is_knee, *_texts(each), _params(each))) for each in on_it],
    )
    noun = setting_marks.noun(settings)
    return Listing(
        name="front",
        title=f"The {noun}s on the Pareto front",
        table=setting_marks.setting_table(("trial", "on the front", "knee", *columns, "settings"), rows),
        shown=shown,
        caption=setting_marks.seeds_note(settings, CAPTION.format(noun=noun)),
    )


def _facts(each: SettingResult) -> tuple[Any, ...]:
    return each.trial.number, each.is_on_front, each.is_knee


def _limits(each: SettingResult) -> list[float | None]:
    """Return each objective's value with the limits of its interval."""
    found: list[float | None] = []
    for index, value in enumerate(each.objectives):
        interval = each.objective_interval(index)
        found += [value, *((interval.low, interval.high) if interval else (None, None))]
    return found


def _texts(each: SettingResult) -> list[str]:
    """Return each objective's value as the command line shows it, but with all digits together."""
    named = zip(each.goals, each.objectives, strict=True)
    return [format_objective(goal.name, value).replace(",", "") for goal, value in named]


def _params(each: SettingResult) -> str:
    return sections.format_setting(each.trial.params)


def _title(goal: Metric) -> str:
    return f"{goal.label} ({goal.direction}d)"


def _front_plot(settings: Sequence[SettingResult], x: int, y: int, number: int) -> Plot:
    """Return the figure of two objectives: settings beside the front grey, those on it joined, the knee.

    Args:
        settings: The settings.
        x: The place of the objective on the horizontal axis.
        y: The place of the one on the vertical axis.
        number: The number of the figure, from 1.
    """
    goals = settings[0].goals
    front = sorted((each for each in settings if each.is_on_front), key=lambda each: each.objectives[x])
    groups = (
        ("not on the front", [each for each in settings if not each.is_on_front], sections.GREY, "circle"),
        ("on the front", [each for each in front if not each.is_knee], sections.COLORS[0], "circle"),
        ("knee", [each for each in front if each.is_knee], sections.COLORS[1], "diamond"),
    )
    traces = [_marks(these, x, y, name, *style) for name, these, *style in groups if these]
    if len(goals) == 2 and len(front) > 1:
        traces.insert(0, _front_line(front, x, y))
    columns = ("trial", "on the front", "knee", goals[x].name, goals[y].name)
    rows = [(each, (*_facts(each), each.objectives[x], each.objectives[y])) for each in settings]
    has_bars = any(each.objective_interval(index) for each in settings for index in (x, y))
    captions = (SEEN_CAPTION * (len(goals) > 2), BARS_CAPTION * has_bars)
    return Plot(
        name=f"front-{number}-{goals[x].name}",
        title=f"{goals[y].label.capitalize()} against {goals[x].label}",
        figure=sections.make_figure(traces, x=_axis(settings, x), y=_axis(settings, y), height=440),
        table=setting_marks.setting_table(columns, rows),
        caption=setting_marks.seeds_note(settings, " ".join(filter(None, captions))),
    )


def _marks(
    settings: Sequence[SettingResult], x: int, y: int, name: str, color: str, symbol: str
) -> go.Scatter:
    size = 12 if symbol == "diamond" else 8
    return go.Scatter(
        x=[each.objectives[x] for each in settings],
        y=[each.objectives[y] for each in settings],
        error_x=_error_bars(settings, x, color),
        error_y=_error_bars(settings, y, color),
        mode="markers",
        name=name,
        marker={"color": color, "size": size, "symbol": symbol},
        text=[setting_marks.hover_text(each) for each in settings],
        hoverinfo="text",
    )


def _error_bars(settings: Sequence[SettingResult], index: int, color: str) -> dict[str, Any]:
    """Return Plotly's error bars of an objective; where the interval is unknown they have no length."""
    found = [(each.objectives[index], each.objective_interval(index)) for each in settings]
    return {
        "type": "data",
        "symmetric": False,
        "array": [interval.high - value if interval else 0.0 for value, interval in found],
        "arrayminus": [value - interval.low if interval else 0.0 for value, interval in found],
        "color": color,
        "thickness": 1,
        "width": 3,
        "visible": any(interval for _, interval in found),
    }


def _front_line(front: Sequence[SettingResult], x: int, y: int) -> go.Scatter:
    """Return the line through the front: what is reached at some value stays so until the next setting."""
    return go.Scatter(
        x=[each.objectives[x] for each in front],
        y=[each.objectives[y] for each in front],
        mode="lines",
        name="Pareto front",
        line={"color": sections.COLORS[0], "width": 1.5, "shape": _step(front[0].goals[x])},
        hoverinfo="skip",
    )


def _step(horizontal: Metric) -> str:
    """Return the shape of a line that bounds what the front dominates, as Plotly names it."""
    return "hv" if horizontal.is_minimized else "vh"


def _axis(settings: Sequence[SettingResult], index: int) -> dict[str, Any]:
    """Return the axis of an objective: its name and direction; logarithmic where costs differ widely."""
    goal, values = settings[0].goals[index], [each.objectives[index] for each in settings]
    is_wide = goal.name in COSTS and min(values) > 0 and max(values) > WIDE_RANGE * min(values)
    return {
        "title": {"text": sections.figure_text(_title(goal))},
        **({"type": "log"} if is_wide else {}),
    }
