"""The original report's tables and figures, rebuilt from a study's trials beside what was printed there."""

import functools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import plotly.graph_objects as go

from hpo.analysis import intervals, records, sections
from hpo.analysis.records import TrialRecord
from hpo.analysis.sections import Listing, Plot, Section
from hpo.original import facts, match
from hpo.original.facts import ReportPoint
from hpo.original.match import MatchedPoint

MATCHED_BY = "model, optimizer, learning rate, momentum, batch size and site"


def original_section(replayed: Mapping[int, MatchedPoint], images: int | None, measure: str) -> Section:
    """Rebuild 4.1 to 4.4; ``measure`` names the accuracy of this study."""
    used = [each for each in replayed.values() if each.trials]
    made = Section(name="original", title="The original report, rebuilt")
    if not used:
        reason = (
            "No complete trial of this study is one of the original report's 14 points "
            f"(same {MATCHED_BY}), so its tables cannot be rebuilt."
        )
        return replace(made, text=(reason,))
    series = functools.partial(_option_plots, replayed, measure)
    parts = [
        _model_table(replayed, images, measure),
        *series(facts.LEARNING_RATE_POINTS, "lr", "learning rate", "4.2", "0.001, 0.00001, 0.1"),
        *series(facts.MOMENTUM_POINTS, "momentum", "momentum", "4.3", "0.9, then 0.45 and 0.0"),
        *series(facts.BATCH_SIZE_POINTS, "batch_size", "batch size", "4.4", "16, 8, 32, 64"),
        _batch_time_table(replayed),
    ]
    return replace(
        made, text=_section_text(used, measure), parts=tuple(part for part in parts if part is not None)
    )


def _section_text(used: Sequence[MatchedPoint], measure: str) -> tuple[str, ...]:
    """Say how trials were matched, and in what they differ from the original's."""
    trials = sum(len(each.trials) for each in used)
    text = [
        f"{trials} complete trial{'s are' if trials != 1 else ' is'} matched to {len(used)} of the "
        f"original's 14 points by {MATCHED_BY}. Its figures stand as printed; each was one run."
    ]
    other = match.describe_differences(used)
    if other:
        text.append(
            f"These trials did not run under the original's conditions: {'; '.join(other)}. "
            "Their figures stand beside its own for orientation, and say nothing about them."
        )
    if measure == "accuracy":
        text.append("Accuracy here is on the validation split; there, presumably, on the test images.")
    point = facts.POINTS[9]
    tried = {each.setting["lr"] for each in _trials_of_point(used, 9)}
    reading = "its text's 0.00001" if point.lr in tried else "its table's 0.0001"
    if tried:
        text.append(f"Point 9's learning rate, which the report gives in two ways, is {reading} here.")
    return tuple(text)


def _trials_of_point(used: Iterable[MatchedPoint], number: int) -> list[TrialRecord]:
    """Give the trials of one point."""
    return [trial for each in used if each.point.number == number for trial in each.trials]


def _model_table(replayed: Mapping[int, MatchedPoint], images: int | None, measure: str) -> Listing:
    """Rebuild 4.1: accuracy and seconds per epoch by model and optimizer."""
    numbers = range(1, 7)
    kinds = _hardware_kinds(replayed, numbers)
    rows = []
    for number in numbers:
        each = replayed[number]
        model, optimizer = facts.MODELS[each.point.model], facts.OPTIMIZERS[each.point.optimizer]
        row = [
            model,
            optimizer,
            each.point.accuracy,
            format_accuracy(each, images),
            each.point.epoch_seconds,
        ]
        rows.append([*row, *(format_epoch_seconds(each, kind) for kind in kinds)])
    columns = ("model", "optimizer", "accuracy there", f"{measure} here", "s/epoch there")
    return Listing(
        name="original-4.1",
        title="4.1 Best accuracy and mean seconds per epoch, by model and optimizer",
        table=sections.make_table((*columns, *_seconds_columns(kinds)), rows),
        caption="Learning rate 0.001, batch 16; SGD with momentum 0.9; the original's on Google Colab.",
    )


def _hardware_kinds(replayed: Mapping[int, MatchedPoint], numbers: Iterable[int]) -> list[str]:
    return records.hardware_kinds(trial for number in numbers for trial in replayed[number].trials)


def _seconds_columns(kinds: Iterable[str]) -> list[str]:
    return [f"s/epoch here, {kind}" for kind in kinds]


def format_accuracy(each: MatchedPoint, images: int | None) -> str | None:
    """Give a point's accuracy in this study, of several seeds with the interval of their mean."""
    found = each.accuracies
    if len(found) < 2:
        return f"{found[0]:.4f}" if found else None
    mean = intervals.accuracy_interval(found, images)
    return f"{mean.value:.4f} ({mean.low:.4f} to {mean.high:.4f}, {len(found)} seeds)"


def format_epoch_seconds(each: MatchedPoint, kind: str) -> str | None:
    """Give a point's mean seconds per epoch on one kind of hardware."""
    runs = each.epoch_seconds(kind)
    return f"{statistics.fmean(map(statistics.fmean, runs)):.4g}" if runs else None


def _option_plots(
    replayed: Mapping[int, MatchedPoint],
    measure: str,
    numbers: Sequence[int],
    key: str,
    name: str,
    part: str,
    order: str,
) -> list[Plot]:
    """Rebuild one of 4.2 to 4.4: the curves of the points that differ in one option."""

    def value(point: ReportPoint) -> str:
        return f"{name} {getattr(point, key):g}"

    rows = [
        (number, trial.number, getattr(replayed[number].point, key), epoch, reached)
        for number in numbers
        for trial in replayed[number].trials
        for epoch, reached in trial.curve.items()
    ]
    if not rows:
        return []
    points = [replayed[number] for number in numbers]
    plot = Plot(
        name=f"original-{part}",
        title=f"{part} {measure.capitalize()} after each epoch, by {name}",
        figure=_curves_figure(points, value, measure, most=max(row[3] for row in rows)),
        table=sections.make_table(("point", "trial", key, "epoch", "accuracy"), rows),
        caption=f"Best {measure} here: {_describe_accuracies(points, value)}. The original's figure has lost its "
        f"numbers; its order was {order}.",
    )
    return [plot]


def _curves_figure(
    points: Sequence[MatchedPoint], value: Callable[[ReportPoint], str], measure: str, most: int
) -> go.Figure:
    """Draw the points' curves; after a single epoch, bars."""
    if most == 1:
        trials = [(value(each.point), trial) for each in points for trial in each.trials]
        names, heights = [name for name, _ in trials], [trial.accuracy for _, trial in trials]
        bars = go.Bar(x=names, y=heights, marker={"color": sections.COLORS[0]}, width=0.5)
        return sections.make_figure([bars], y=measure, height=300)
    traces = [
        _curve_trace(trial, value(each.point), color, first=index == 0)
        for each, color in zip(points, sections.COLORS, strict=False)
        for index, trial in enumerate(each.trials)
    ]
    # Curves that do not rise would else get an axis from below 0 to above 1.
    shares = {"title": {"text": measure}, "autorangeoptions": {"minallowed": 0, "maxallowed": 1}}
    return sections.make_figure(traces, x=sections.epoch_axis(most), y=shares)


def _curve_trace(trial: TrialRecord, name: str, color: str, *, first: bool) -> go.Scatter:
    return go.Scatter(
        x=list(trial.curve),
        y=list(trial.curve.values()),
        mode="lines+markers",
        name=name,
        legendgroup=name,
        showlegend=first,
        line={"color": color, "width": 2},
        marker={"size": 6},
    )


def _describe_accuracies(points: Iterable[MatchedPoint], value: Callable[[ReportPoint], str]) -> str:
    said = []
    for each in points:
        reached = statistics.fmean(each.accuracies) if each.accuracies else None
        said.append(f"{'not run' if reached is None else f'{reached:.4f}'} at {value(each.point)}")
    return ", ".join(said)


def _batch_time_table(replayed: Mapping[int, MatchedPoint]) -> Listing | None:
    """Rebuild 4.4's times: mean seconds per epoch by batch size."""
    kinds = _hardware_kinds(replayed, facts.BATCH_SIZE_POINTS)
    if not kinds:
        return None
    rows = []
    for number in facts.BATCH_SIZE_POINTS:
        each = replayed[number]
        rows.append(
            [
                each.point.batch_size,
                each.point.epoch_seconds,
                *(format_epoch_seconds(each, kind) for kind in kinds),
            ]
        )
    return Listing(
        name="original-4.4-times",
        title="4.4 Mean seconds per epoch, by batch size",
        table=sections.make_table(("batch size", "s/epoch there", *_seconds_columns(kinds)), rows),
        caption="ResNet18, SGD at 0.001 with momentum 0.9; the original's on an RTX 3070.",
    )
