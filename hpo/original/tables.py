"""The original report's tables and figures, rebuilt from a study's trials, beside the numbers it prints."""

import functools
import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from hpo.analysis import intervals, records, sections
from hpo.analysis.records import TrialRecord
from hpo.analysis.sections import Plot, Section
from hpo.original import facts, match
from hpo.original.facts import ReportPoint
from hpo.original.match import MatchedPoint

MATCHED_BY = "model, optimizer, learning rate, momentum, batch size and site"


def original_section(matched: Mapping[int, MatchedPoint], images: int | None, measure: str) -> Section:
    """Return the section that rebuilds the report's parts 4.1 to 4.4.

    Parts 4.2 to 4.4 are left out if none of their points has a trial, the times of 4.4 also if none has
    recorded hardware.

    Args:
        matched: The original's points by number, each with the study's trials (``match.match_trials``); at
            least one has a trial.
        images: The number of images that accuracy was measured on; None if unknown.
        measure: What this study's accuracy is called: ``accuracy`` or ``test accuracy``.
    """
    used = [each for each in matched.values() if each.trials]
    plots = functools.partial(_option_plots, matched, measure, images)
    parts = [
        _model_plot(matched, images, measure),
        *plots(facts.LEARNING_RATE_POINTS, "lr", "learning rate", "4.2", "0.001, 0.00001, 0.1"),
        *plots(facts.MOMENTUM_POINTS, "momentum", "momentum", "4.3", "0.9, then 0.45 and 0.0"),
        *plots(facts.BATCH_SIZE_POINTS, "batch_size", "batch size", "4.4", "16, 8, 32, 64"),
        _batch_time_plot(matched),
    ]
    return Section(
        name="original",
        title="The original report, rebuilt",
        text=_section_text(used, measure),
        parts=tuple(part for part in parts if part is not None),
    )


def _section_text(used: Sequence[MatchedPoint], measure: str) -> tuple[str, ...]:
    """Say how trials were matched, and how their conditions differ from the original's."""
    trials = sum(len(each.trials) for each in used)
    text = [
        f"{trials} complete trial{'s are' if trials != 1 else ' is'} matched to {len(used)} of the "
        f"original's 14 points by {MATCHED_BY}. The original's numbers are shown as printed; each comes "
        "from one run."
    ]
    differences = match.describe_differences(used)
    if differences:
        text.append(
            f"These trials did not run under the original's conditions: {'; '.join(differences)}. "
            "Their numbers stand beside the original's for orientation only; they neither confirm nor "
            "contradict them."
        )
    if measure == "accuracy":
        text.append(
            "Accuracy here is on the validation split; in the original, presumably on the test images."
        )
    point = facts.POINTS[9]
    rates = {trial.setting["lr"] for trial in _trials_of_point(used, 9)}
    reading = "its text's 0.00001" if point.lr in rates else "its table's 0.0001"
    if rates:
        text.append(f"The report gives point 9's learning rate in two ways; here it is {reading}.")
    return tuple(text)


def _trials_of_point(used: Iterable[MatchedPoint], number: int) -> list[TrialRecord]:
    return [trial for each in used if each.point.number == number for trial in each.trials]


def _model_plot(matched: Mapping[int, MatchedPoint], images: int | None, measure: str) -> Plot:
    """Rebuild 4.1: accuracy and seconds per epoch by model and optimizer; accuracy is drawn."""
    numbers = range(1, 7)
    hardware = _hardware_kinds(matched, numbers)
    rows, names = [], []
    for number in numbers:
        each = matched[number]
        model, optimizer = facts.MODELS[each.point.model], facts.OPTIMIZERS[each.point.optimizer]
        names.append(f"{model}, {optimizer}")
        accuracies = [each.point.accuracy, format_accuracy(each, images)]
        seconds = [format_epoch_seconds(each, kind) for kind in hardware]
        rows.append([model, optimizer, *accuracies, each.point.epoch_seconds, *seconds])
    columns = ("model", "optimizer", "accuracy there", f"{measure} here", "s/epoch there")
    points = [matched[number] for number in numbers]
    here = [(name, each.accuracies) for name, each in zip(names, points, strict=True) if each.accuracies]
    bars = [_bars_here(here, images)] if here else []
    return Plot(
        name="original-4.1",
        title="4.1 Best accuracy and mean seconds per epoch, by model and optimizer",
        figure=_beside_printed(names, [each.point.accuracy for each in points], bars, measure),
        table=sections.make_table((*columns, *_seconds_columns(hardware)), rows),
        caption="Learning rate 0.001, batch 16; SGD with momentum 0.9; the original's on Google Colab, one "
        f"run each.{_seeds_note(points)}",
        is_listed=True,
    )


def _bars_here(named: Sequence[tuple[str, Sequence[float]]], images: int | None) -> go.Bar:
    """Draw this study's accuracies: the mean of each point's seeds, with its interval if there is one."""
    return go.Bar(
        x=[name for name, _ in named],
        y=[statistics.fmean(accuracies) for _, accuracies in named],
        error_y=_error_bars([accuracies for _, accuracies in named], images),
        name="here",
        marker={"color": sections.COLORS[0]},
    )


def _beside_printed(
    names: Sequence[str], printed: Iterable[str | None], here: Iterable[go.Bar], what: str
) -> go.Figure:
    """Draw the numbers that the report prints, and beside each of them what this study has."""
    there = [float(text or "nan") for text in printed]
    bars = go.Bar(x=names, y=there, name="original report", marker={"color": sections.GREY})
    made = sections.make_figure([bars, *here], x={"type": "category"}, y=what, height=320)
    return made.update_layout(barmode="group")


def _hardware_kinds(matched: Mapping[int, MatchedPoint], numbers: Iterable[int]) -> list[str]:
    return records.hardware_kinds(trial for number in numbers for trial in matched[number].trials)


def _seconds_columns(hardware: Iterable[str]) -> list[str]:
    return [f"s/epoch here, {kind}" for kind in hardware]


def format_accuracy(matched: MatchedPoint, images: int | None) -> str | None:
    """Return a point's accuracy in this study; for several seeds their mean, with an interval if known.

    Args:
        matched: The point with its trials.
        images: The number of images that accuracy was measured on; None if unknown.

    Returns:
        The text, or None if the point has no complete trial.
    """
    accuracies = matched.accuracies
    if len(accuracies) < 2:
        return f"{accuracies[0]:.4f}" if accuracies else None
    known = intervals.seeds_interval(accuracies, intervals.accuracy_step(images), intervals.FRACTION)
    limits = f"{known.low:.4f} to {known.high:.4f}, " if known else ""
    return f"{statistics.fmean(accuracies):.4f} ({limits}{len(accuracies)} seeds)"


def format_epoch_seconds(matched: MatchedPoint, hardware: str) -> str | None:
    """Return a point's mean seconds per epoch on one kind of hardware; None if it did not run there."""
    runs = matched.epoch_seconds(hardware)
    return f"{statistics.fmean(map(statistics.fmean, runs)):.4g}" if runs else None


def _option_plots(
    matched: Mapping[int, MatchedPoint],
    measure: str,
    images: int | None,
    numbers: Sequence[int],
    key: str,
    name: str,
    part: str,
    order: str,
) -> list[Plot]:
    """Rebuild one of 4.2 to 4.4: the curves of the points that differ in one option.

    Args:
        matched: The original's points by number.
        measure: What this study's accuracy is called.
        images: The number of images that accuracy was measured on; None if unknown.
        numbers: The points to draw.
        key: The option in which they differ.
        name: The option's name in prose.
        part: The part's number in the report.
        order: The order of the option's values in the report's figure, best first.

    Returns:
        One plot; none if no point has a trial.
    """

    def option_text(point: ReportPoint) -> str:
        return f"{name} {getattr(point, key):g}"

    rows = [
        (number, trial.number, getattr(matched[number].point, key), epoch, accuracy)
        for number in numbers
        for trial in matched[number].trials
        for epoch, accuracy in trial.curve.items()
    ]
    if not rows:
        return []
    points = [matched[number] for number in numbers]
    plot = Plot(
        name=f"original-{part}",
        title=f"{part} {measure.capitalize()} after each epoch, by {name}",
        figure=_curves_figure(points, option_text, measure, images, max(row[3] for row in rows)),
        table=sections.make_table(("point", "trial", key, "epoch", "accuracy"), rows),
        caption=f"Best {measure} here: {_describe_accuracies(points, option_text)}. The numbers of the "
        f"original's figure are lost; its order was {order}.{_seeds_note(points)}",
    )
    return [plot]


def _seeds_note(points: Iterable[MatchedPoint]) -> str:
    """Say how several seeds of a point are drawn; empty if no point has several."""
    if all(len(each.accuracies) < 2 for each in points):
        return ""
    return (
        f" Several seeds of a point are drawn as their mean; {intervals.MIN_RUNS} or more, with the mean's "
        "95 % interval."
    )


def _curves_figure(
    points: Sequence[MatchedPoint],
    option_text: Callable[[ReportPoint], str],
    measure: str,
    images: int | None,
    most: int,
) -> go.Figure:
    """Draw the points' accuracy after each of ``most`` epochs; after a single epoch, draw bars."""
    if most == 1:
        run = [each for each in points if each.accuracies]
        heights = [statistics.fmean(each.accuracies) for each in run]
        bars = go.Bar(
            x=[option_text(each.point) for each in run],
            y=heights,
            error_y=_error_bars([each.accuracies for each in run], images),
            marker={"color": sections.COLORS[0]},
            width=0.5,
        )
        return sections.make_figure([bars], y=measure, height=300)
    traces = [
        _curve_trace(each, option_text(each.point), color, images)
        for each, color in zip(points, sections.COLORS, strict=False)
        if each.trials
    ]
    # Without limits, Plotly gives flat curves an axis that goes below 0 and above 1.
    shares = {"title": {"text": measure}, "autorangeoptions": {"minallowed": 0, "maxallowed": 1}}
    return sections.make_figure(traces, x=sections.epoch_axis(most), y=shares)


def _curve_trace(matched: MatchedPoint, name: str, color: str, images: int | None) -> go.Scatter:
    """Draw the mean over a point's seeds after each epoch that all of them reported."""
    first, *others = matched.curves
    epochs = [epoch for epoch in first if all(epoch in curve for curve in others)]
    by_epoch = [[curve[epoch] for curve in (first, *others)] for epoch in epochs]
    return go.Scatter(
        x=epochs,
        y=[statistics.fmean(accuracies) for accuracies in by_epoch],
        error_y=_error_bars(by_epoch, images),
        mode="lines+markers",
        name=name,
        line={"color": color, "width": 2},
        marker={"size": 6},
    )


def _error_bars(groups: Iterable[Sequence[float]], images: int | None) -> dict[str, Any] | None:
    """Return Plotly's error bars for the means of groups; None if no group has an interval."""
    known = [
        intervals.seeds_interval(accuracies, intervals.accuracy_step(images), intervals.FRACTION)
        for accuracies in groups
    ]
    if not any(known):
        return None
    above = [each.high - each.value if each else 0.0 for each in known]
    below = [each.value - each.low if each else 0.0 for each in known]
    return {"type": "data", "array": above, "arrayminus": below, "thickness": 1.2, "width": 3}


def _describe_accuracies(points: Iterable[MatchedPoint], option_text: Callable[[ReportPoint], str]) -> str:
    texts = []
    for each in points:
        mean = f"{statistics.fmean(each.accuracies):.4f}" if each.accuracies else "not run"
        texts.append(f"{mean} at {option_text(each.point)}")
    return ", ".join(texts)


def _batch_time_plot(matched: Mapping[int, MatchedPoint]) -> Plot | None:
    """Rebuild 4.4's times: mean seconds per epoch by batch size; None if no trial has times."""
    hardware = _hardware_kinds(matched, facts.BATCH_SIZE_POINTS)
    if not hardware:
        return None
    rows = []
    points = [matched[number] for number in facts.BATCH_SIZE_POINTS]
    for each in points:
        seconds = [format_epoch_seconds(each, kind) for kind in hardware]
        rows.append([each.point.batch_size, each.point.epoch_seconds, *seconds])
    names = [f"batch size {each.point.batch_size}" for each in points]
    bars = [
        go.Bar(
            x=names,
            y=[float(format_epoch_seconds(each, kind) or "nan") for each in points],
            name=f"here, {sections.wrap_figure_text(kind)}",
            marker={"color": color},
        )
        for kind, color in zip(hardware, itertools.cycle(sections.COLORS), strict=False)
    ]
    printed = [each.point.epoch_seconds for each in points]
    return Plot(
        name="original-4.4-times",
        title="4.4 Mean seconds per epoch, by batch size",
        figure=_beside_printed(names, printed, bars, "seconds per epoch"),
        is_listed=True,
        table=sections.make_table(("batch size", "s/epoch there", *_seconds_columns(hardware)), rows),
        caption="ResNet18, SGD at 0.001 with momentum 0.9; the original's on an RTX 3070.",
    )
