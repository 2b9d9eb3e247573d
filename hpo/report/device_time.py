"""What device time was used for, by kind of hardware, and what pruning saved."""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from hpo.analysis import records, sections
from hpo.analysis.records import TrialRecord
from hpo.analysis.sections import Plot, Section

LOST_USE = "repeated or waited for, at most"
SAVED_USE = "saved by pruning, estimated"


@dataclass(frozen=True, kw_only=True)
class DeviceTimeUse:
    """Device time spent on one use, on one kind of hardware.

    The use is a state of trials, ``LOST_USE`` or ``SAVED_USE``. Of ``LOST_USE`` the seconds are an upper
    bound, and the epochs are 0, as they are unknown. Of ``SAVED_USE``, epochs and seconds were not spent.
    """

    kind: str
    use: str
    trials: int
    epochs: int
    seconds: float


def device_time_uses(found: Sequence[TrialRecord]) -> list[DeviceTimeUse]:
    """Return what device time was used for, by kind of hardware.

    Args:
        found: All trials of the study.

    Returns:
        A record for each hardware and each use that occurred there; trials without recorded hardware, or
        with several kinds, are left out.
    """
    rows = []
    for kind in records.hardware_kinds(found):
        these = [each for each in found if each.hardware == kind]
        for state in sections.STATE_COLORS:
            group = [each for each in these if each.state == state]
            rows += (
                [_device_time_use(kind, state, group, [each.wall_seconds for each in group])]
                if group
                else []
            )
        again = [each for each in these if each.attempts > 1 and each.elapsed_seconds is not None]
        rows += (
            [
                _device_time_use(
                    kind, LOST_USE, again, [(e.elapsed_seconds or 0.0) - e.wall_seconds for e in again]
                )
            ]
            if again
            else []
        )
        pruned = [each for each in these if each.state == "pruned" and each.epoch_seconds]
        saved = [(e.planned_epochs - len(e.epoch_seconds)) * (e.seconds_per_epoch or 0.0) for e in pruned]
        rows += [_device_time_use(kind, SAVED_USE, pruned, saved)] if pruned else []
    return rows


def _device_time_use(
    kind: str, use: str, group: Sequence[TrialRecord], seconds: Sequence[float]
) -> DeviceTimeUse:
    run = sum(len(each.epoch_seconds) for each in group)
    epochs = (
        sum(each.planned_epochs for each in group) - run
        if use == SAVED_USE
        else 0
        if use == LOST_USE
        else run
    )
    total = sum(max(each, 0.0) for each in seconds)
    return DeviceTimeUse(kind=kind, use=use, trials=len(group), epochs=epochs, seconds=total)


def device_time_section(found: Sequence[TrialRecord]) -> Section:
    """Return the section that shows what device time was used for, and what pruning saved.

    If no trial has recorded its hardware, there is a sentence instead.

    Args:
        found: All trials of the study.
    """
    rows = device_time_uses(found)
    section = Section(name="time", title="Use of device time")
    if not rows:
        reason = "No trial has recorded its hardware, so the use of device time is unknown."
        mixed = records.mixed_hardware_note(found)
        return Section(name=section.name, title=section.title, text=(mixed or reason,))
    colors = sections.STATE_COLORS | {LOST_USE: "#6b4fa0", SAVED_USE: "#ffffff"}
    traces = [
        go.Bar(
            y=[sections.wrap_figure_text(row.kind) for row in rows if row.use == use],
            x=[row.seconds for row in rows if row.use == use],
            name=use,
            orientation="h",
            marker={"color": color, "line": {"color": "#5b6770", "width": 1}},
        )
        for use, color in colors.items()
        if any(row.use == use for row in rows)
    ]
    count = len(records.hardware_kinds(found))
    made = sections.make_figure(traces, x="seconds", height=170 + 60 * count)
    made.update_layout(barmode="stack", legend={"traceorder": "normal"})
    columns = ("hardware", "use", "trials", "epochs", "seconds")
    plot = Plot(
        name="device-time",
        title="Seconds of training and evaluation, by the final state of the trial",
        figure=made,
        table=sections.make_table(columns, [(r.kind, r.use, r.trials, r.epochs, r.seconds) for r in rows]),
        is_listed=True,
    )
    return Section(
        name=section.name, title=section.title, text=_device_time_notes(found, rows), parts=(plot,)
    )


def _device_time_notes(found: Sequence[TrialRecord], rows: Sequence[DeviceTimeUse]) -> tuple[str, ...]:
    """Explain the uses of device time, including those that did not occur."""
    text = []
    if any(row.use == SAVED_USE for row in rows):
        text.append(
            "Pruning saved the epochs that pruned trials did not run, each at the trial's mean epoch time."
        )
    elif any(each.state == "pruned" for each in found):
        text.append(
            "The pruned trials ended within their first epoch, so what that saved cannot be estimated."
        )
    else:
        text.append("No trial was pruned, so pruning saved nothing.")
    if any(row.use == LOST_USE for row in rows):
        text.append(
            "The work lost by workers that died is not recorded. For each trial with several attempts it "
            "is at most the time from start to end, less the time that counted. That includes waiting."
        )
    elif all(each.attempts < 2 for each in found):
        text.append("Every trial ran in one attempt, so nothing was repeated.")
    text.append(records.mixed_hardware_note(found))
    silent = sum(each.hardware is None and each.state != "waiting" for each in found)
    if silent:
        whose = "1 trial has" if silent == 1 else f"{silent} trials have"
        text.append(f"{whose} not reported an epoch, so their hardware and time are unknown.")
    return tuple(filter(None, text))
