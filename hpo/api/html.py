"""A study as HTML for notebooks: its state, its best setting and its history, as one small SVG.

Text and lines have the colour of the page around them, so that light and dark themes can both be read.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from hpo.analysis import records, results
from hpo.analysis.formatting import describe_split, format_params, format_seconds
from hpo.analysis.health import Problem
from hpo.analysis.records import TrialRecord
from hpo.analysis.results import SettingResult
from hpo.store.status import Snapshot, Status

WIDTH, HEIGHT, MARGIN = 480, 120, 8  # pixels of the plot
BEST_COLOR = "#1f9e89"  # readable on white and on black
_STATES = ("complete", "running", "waiting", "pruned", "failed")


def study_html(read: Snapshot, problems: Iterable[Problem]) -> str:
    """Return a study as an HTML fragment.

    Args:
        read: The study with its trials.
        problems: What is wrong with it, which comes first.
    """
    found = records.trial_records(read.definition, read.trials)
    best = results.best_setting(read.definition, found)
    wrong = [f"<div><b>problem:</b> {escape(str(each))}</div>" for each in problems]
    parts = [*wrong, _headline(read.status), *_best_rows(read.status, best), history_svg(found)]
    return f'<div style="font-family: sans-serif; line-height: 1.5">{"".join(parts)}</div>'


def _headline(now: Status) -> str:
    counts = ", ".join(f"{now.trials[state]} {state}" for state in _STATES if now.trials[state])
    left = f"; about {format_seconds(now.seconds_left)} left" if now.seconds_left else ""
    return (
        f"<div><b>{escape(now.study)}</b> is <b>{escape(now.state)}</b>: {counts or 'no trials'} of "
        f"{now.budget}{left}</div>"
    )


def _best_rows(now: Status, best: SettingResult | None) -> Iterator[str]:
    """Yield the best setting with its interval, what guessing gives and the other caveats, a line each."""
    if best is None:
        yield "<div>no trial is complete yet</div>"
        return
    label = "" if best.has_several_goals else f"{best.metric.label} "
    place, value = results.name_place(best), results.describe_value(best)
    split = describe_split(now.selection)
    yield f"<div>{place}: trial {best.trial.number}, {escape(label)}<b>{escape(value)}</b> {split}</div>"
    lines = {"settings": format_params(best.trial.params), **dict(results.caveats(best))}
    for name, text in lines.items():
        yield f'<div style="opacity: 0.8; font-size: 90%">{escape(name)}: {escape(text)}</div>'


def history_svg(found: Sequence[TrialRecord]) -> str:
    """Return the values of the trials that ended, by number, with the best so far; "" if there is none.

    Args:
        found: The trials of a study.
    """
    ended = [each for each in found if each.state in ("complete", "pruned")]
    shown = [(each, each.best_value) for each in ended if each.best_value is not None]
    points = [(each, value) for each, value in shown if math.isfinite(value)]
    if not points:
        return ""
    values = [value for _, value in points]
    low, high, last = min(values), max(values), max(each.number for each, _ in points)

    def place(number: int, value: float) -> str:
        x = MARGIN + (WIDTH - 2 * MARGIN) * number / max(last, 1)
        y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * ((value - low) / (high - low) if high > low else 0.5)
        return f"{x:.1f},{y:.1f}"

    dots = "".join(_dot(each, place(each.number, value)) for each, value in points)
    line = " ".join(place(number, value) for number, value in _best_so_far(points))
    metric = points[0][0].metric
    caption = f"{metric.label} of each trial, {low:.4f} to {high:.4f}; line: the best so far"
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(caption)}" '
        f'style="display: block; border-left: 1px solid; border-bottom: 1px solid">'
        f'<polyline points="{line}" fill="none" stroke="{BEST_COLOR}" stroke-width="2"/>{dots}</svg>'
        f'<div style="opacity: 0.8; font-size: 90%">{escape(caption)}</div>'
    )


def _dot(each: TrialRecord, place: str) -> str:
    x, y = place.split(",")
    filled = "currentColor" if each.state == "complete" else "none"
    title = escape(f"trial {each.number}, {each.state}, {each.value_text}: {format_params(each.params)}")
    return (
        f'<circle cx="{x}" cy="{y}" r="3" fill="{filled}" stroke="currentColor" opacity="0.7">'
        f"<title>{title}</title></circle>"
    )


def _best_so_far(points: Sequence[tuple[TrialRecord, float]]) -> Iterator[tuple[int, float]]:
    """Yield the corners of a line that steps up at each complete trial that is the best so far."""
    best: float | None = None
    for each, value in points:
        if each.state == "complete" and (
            best is None or each.metric.score(value) > each.metric.score(best)
        ):
            if best is not None:
                yield each.number, best
            best = value
            yield each.number, best
    if best is not None:
        yield points[-1][0].number, best
