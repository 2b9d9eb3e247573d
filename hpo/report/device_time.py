"""What device time was used for, by kind of hardware, and what pruning saved."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from hpo.analysis import hardware_time, records, sections
from hpo.analysis.hardware_time import HardwareShare
from hpo.analysis.records import TrialRecord
from hpo.analysis.sections import Plot, Section
from hpo.store.attempts import Attempt

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


def device_time_uses(shares: Sequence[HardwareShare]) -> list[DeviceTimeUse]:
    """Return what device time was used for, by kind of hardware.

    Args:
        shares: What the trials of the study spent on each kind.

    Returns:
        A record for each hardware and each use that occurred there.
    """
    return [
        use
        for kind in dict.fromkeys(share.kind for share in shares)
        for use in _uses_of([share for share in shares if share.kind == kind])
    ]


def _uses_of(shares: Sequence[HardwareShare]) -> Iterator[DeviceTimeUse]:
    """Yield what one kind of hardware was used for."""
    for state in sections.STATE_COLORS:
        group = [share for share in shares if share.trial.state == state]
        yield from _use(state, group, [share.seconds for share in group], [s.epochs for s in group])
    again = [share for share in shares if share.lost_seconds is not None]
    yield from _use(LOST_USE, again, [share.lost_seconds or 0.0 for share in again])
    pruned = [s for s in shares if s.trial.state == "pruned" and s.is_last]
    pruned = [share for share in pruned if share.trial.epoch_seconds]
    saved = [s.trial.planned_epochs - len(s.trial.epoch_seconds) for s in pruned]
    means = [share.trial.seconds_per_epoch or 0.0 for share in pruned]
    seconds = [max(epochs, 0) * mean for epochs, mean in zip(saved, means, strict=True)]
    yield from _use(SAVED_USE, pruned, seconds, saved)


def _use(
    use: str, group: Sequence[HardwareShare], seconds: Sequence[float], epochs: Sequence[int] = ()
) -> Iterator[DeviceTimeUse]:
    if group:
        yield DeviceTimeUse(
            kind=group[0].kind, use=use, trials=len(group), epochs=sum(epochs), seconds=sum(seconds)
        )


def device_time_section(found: Sequence[TrialRecord], attempts: Iterable[Attempt] = ()) -> Section:
    """Return the section that shows what device time was used for, and what pruning saved.

    If no trial has recorded its hardware, there is a sentence instead.

    Args:
        found: All trials of the study.
        attempts: The attempts at them, as far as the store has them.
    """
    shares = hardware_time.hardware_shares(found, attempts)
    rows = device_time_uses(shares)
    undivided = _undivided(found, shares)
    section = Section(name="time", title="Use of device time")
    if not rows:
        reason = "No trial has recorded its hardware, so the use of device time is unknown."
        mixed = records.mixed_hardware_note(undivided)
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
    count = len({row.kind for row in rows})
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
        name=section.name,
        title=section.title,
        text=_device_time_notes(found, rows, undivided),
        parts=(plot,),
    )


def _undivided(found: Iterable[TrialRecord], shares: Iterable[HardwareShare]) -> list[TrialRecord]:
    """Return the trials whose time the store cannot divide among the kinds of hardware that they ran on."""
    divided = {share.trial.number for share in shares}
    return [each for each in found if each.ran_on_several and each.number not in divided]


def _device_time_notes(
    found: Sequence[TrialRecord], rows: Sequence[DeviceTimeUse], undivided: Sequence[TrialRecord]
) -> tuple[str, ...]:
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
            "is at most the time of these, or where they are not recorded the time from start to end, less "
            "the time that counted. That includes loading and waiting."
        )
    elif all(each.attempts < 2 for each in found):
        text.append("Every trial ran in one attempt, so nothing was repeated.")
    text.append(records.mixed_hardware_note(undivided))
    silent = sum(each.hardware is None and each.state != "waiting" for each in found)
    if silent:
        whose = "1 trial has" if silent == 1 else f"{silent} trials have"
        text.append(f"{whose} not reported an epoch, so their hardware and time are unknown.")
    return tuple(filter(None, text))
