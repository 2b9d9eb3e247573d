"""A study in short: the best trial and how certain it is, use of device time, and a table of all trials."""

import functools
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from hpo.analysis import intervals, records, results, sections
from hpo.analysis.formatting import describe_split, format_objective, format_seconds
from hpo.analysis.records import TrialRecord
from hpo.analysis.results import SettingResult
from hpo.analysis.sections import Listing, Plot, Section
from hpo.errors import join_names
from hpo.study.points import ALIASES

LOST_USE = "repeated or waited for, at most"
SAVED_USE = "saved by pruning, estimated"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The first section of the page."""

    value: str  # of the setting that stands for the study
    title: str  # what the value is
    split: str  # a phrase on what it was measured on
    facts: tuple[tuple[str, str], ...]  # labels and texts; what is unknown is left out
    uncertainty: tuple[str, ...]  # sentences


def _value(each: TrialRecord) -> float:
    assert each.value is not None, "of complete trials only"
    return each.value


def summarize(found: Sequence[TrialRecord], ranked: Sequence[SettingResult], state: str) -> Summary:
    """Summarize a study that has a complete trial.

    Args:
        found: All trials of the study.
        ranked: Its settings, best first.
        state: The state of the study.
    """
    best = results.choose_one(ranked) or ranked[0]
    winner = best.trial
    counts = Counter(each.state for each in found)
    state_counts = ", ".join(f"{counts[state]} {state}" for state in sections.STATE_COLORS if counts[state])
    facts = {
        "trial": str(winner.number),
        **_other_objectives(best),
        **dict(results.caveats(best)),
        "settings": sections.format_setting(winner.params),
        "epoch": f"{winner.best_epoch} of {winner.epochs}" if winner.curve else "",
        "time": f"{format_seconds(winner.wall_seconds)} of training and evaluation",
        "hardware": winner.hardware or "",
        "study": f"{state}: {state_counts}",
    }
    return Summary(
        value=f"{best.value:.4f}",
        title=f"{best.metric.label} of the knee of the Pareto front"
        if results.name_place(best) == "knee"
        else f"best {best.metric.label}",
        split=f"{f'mean of {len(best.runs)} seeds ' if len(best.runs) > 1 else ''}"
        f"{describe_split(best.selection)}",
        facts=tuple((name, value) for name, value in facts.items() if value),
        uncertainty=tuple(_uncertainty(best, len(ranked), found)),
    )


def _other_objectives(found: SettingResult) -> dict[str, str]:
    """Return the other objectives of a setting in words, with their values as text."""
    named = zip(found.goals, found.objectives, strict=True)
    return {goal.label: format_objective(goal.name, value) for goal, value in named if goal != found.metric}


def _uncertainty(best: SettingResult, settings: int, found: Sequence[TrialRecord]) -> list[str]:
    winner, images, selection, metric = best.trial, best.images, best.selection, best.metric
    value, done = _value(winner), records.complete_records(found)
    text = []
    extreme, worse = ("lowest", "more") if metric.is_minimized else ("highest", "less")
    if len(best.runs) > 1:
        text.append("The intervals of a mean say what other seeds would give, not what other images would.")
    elif selection and not metric.counts_images:
        text.append(
            f"How much the {metric.label} of a single run would differ on other images is not known."
        )
    elif images is None:
        who = "The store does not record" if selection else "A custom objective does not say"
        text.append(f"{who} how many images {metric.label} was measured on, so there is no interval.")
    else:
        between = intervals.fraction_interval(value, images)
        text.append(
            f"On {images} images, {value:.4f} has the 95 % interval "
            f"{between.low:.4f} to {between.high:.4f} (Wilson)."
        )
        text += [] if best.has_several_goals else [_close_trials_note(winner, done, images)]
    text.append(_seeds_note(winner, done, best.least_step))
    if (noise := best.noise) is not None:
        gap = intervals.seed_noise_bound(noise.deviation, noise.freedom)
        known = noise.freedom > 1 and gap < metric.limits[1] - metric.limits[0]
        text.append(
            f"In this study {noise}: a difference below {gap:.4f} between two single trials may come from "
            "their seeds alone (95 %)."
            if known
            else f"In this study {noise}: too few seeds to say which differences come from seeds alone."
        )
    if best.has_several_goals:
        text.append(
            f"The Pareto front is that of {settings} settings, chosen on the "
            f"{'images' if selection else 'data'} they were measured on: expect somewhat worse values."
        )
    elif len(best.runs) > 1 and settings > 1:
        text.append(f"It is the {extreme} of the means of {settings} settings: expect somewhat {worse}.")
    elif len(done) > 1 and selection == "final":
        text.append(f"It is the {extreme} of {len(done)} complete trials: expect somewhat {worse}.")
    elif len(done) > 1:
        also = ", and the split is the test split" if selection == "test" else ""
        what = "images" if selection else "data"
        text.append(
            f"It is the {extreme} of {len(done)} complete trials and of its epochs, chosen on the {what} "
            f"it was measured on{also}: expect {worse} on new {what}."
        )
    return text


def _close_trials_note(winner: TrialRecord, done: Sequence[TrialRecord], images: int) -> str:
    """Say which trials are too close to the best one to be distinguished from it."""

    def is_close(each: TrialRecord) -> bool:
        gap = _value(winner) - _value(each)
        return gap <= intervals.image_noise_bound(_value(winner), _value(each), images)

    others = [each for each in done if each is not winner]
    close = sorted(filter(is_close, others), key=lambda each: (-_value(each), each.number))
    if not others:
        return "There is no other complete trial to compare with."
    if not close:
        return f"No other trial is so close that single runs on {images} images cannot distinguish the two."
    numbers = join_names([str(each.number) for each in close], records.MAX_NAMED_TRIALS)
    return (
        f"{len(close)} of {len(others)} other complete trials {'is' if len(close) == 1 else 'are'} too "
        f"close to be distinguished from it by single runs on {images} images: "
        f"trial{'s' * (len(close) > 1)} {numbers}."
    )


def _seeds_note(winner: TrialRecord, done: Sequence[TrialRecord], least: float) -> str:
    """Say what other seeds of the best setting reached."""
    same = {
        each.setting.get("seed"): each for each in reversed(done) if each.setting_key == winner.setting_key
    }
    if len(same) < 2:
        return "Its setting ran with one seed only. Other seeds give other values; the spread is unknown."
    values = [_value(each) for each in same.values()]
    found = intervals.seeds_interval(values, least, winner.metric.limits)
    limits = f"({found.low:.4f} to {found.high:.4f}, 95 %)" if found else "(two seeds give no interval)"
    mean = f"{statistics.fmean(values):.4f}"
    return f"Over {len(same)} seeds, its setting reaches {mean} on average {limits}."


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


def trials_section(found: Sequence[TrialRecord], measure: str) -> Section:
    """Return the section that lists every trial that has started, also those that wait at a rung.

    The page shows all parameters of a trial in one column, and leaves out columns that are the same in all
    trials. The CSV has all columns, and one for each parameter.

    Args:
        found: All trials of the study.
        measure: The name of the metric.
    """
    begun = [each for each in found if each.state != "waiting" or each.started or each.curve]
    names = list(dict.fromkeys(name for each in begun for name in each.params))
    metric = found[0].metric
    others = records.other_objectives(begun)
    first = ("trial", "state", metric.name, *others)
    given = dict.fromkeys(name for each in begun for name in each.attributes)
    attributes = list(dict.fromkeys((*ALIASES, *given)))  # an alias has its column in every study
    last = (
        f"best {metric.label}",
        "best epoch",
        "epochs",
        "wall_time_seconds",
        "s/epoch",
        "attempts",
        *attributes,
        "hardware",
    )
    rows = [
        (
            *(each.number, each.state, each.value, *(each.reached.get(name) for name in others)),
            *(each.params.get(name) for name in names),
            *(each.best_value, each.best_epoch, each.epochs, each.wall_seconds, each.seconds_per_epoch),
            each.attempts,
            *(each.attributes.get(name) for name in attributes),
            *(each.hardware, each.end_reason),
        )
        for each in begun
    ]
    listing = Listing(
        name="trials",
        title="Every trial that has started",
        table=sections.make_table((*first, *names, *last, "why it ended early"), rows),
        shown=_page_table(begun, measure, given),
    )
    return Section(name="trials", title="Trials", parts=(listing,))


def _page_table(begun: Sequence[TrialRecord], measure: str, attributes: Iterable[str]) -> sections.Table:
    """Return the table of trials without columns that tell nothing: mostly those that are all the same."""
    best = f"best {begun[0].metric.label}" if begun else "best"
    columns: dict[str, Callable[[TrialRecord], Any]] = {
        "trial": lambda each: each.number,
        "state": lambda each: each.state,
        measure: lambda each: each.value,
        **{name: functools.partial(_reached, name) for name in records.other_objectives(begun)},
        "settings": lambda each: sections.format_setting(each.params),
        **{name: functools.partial(_attribute, name) for name in attributes},
        best: lambda each: each.best_value,
        "best epoch": lambda each: f"{each.best_epoch} of {each.epochs}" if each.curve else "",
        "seconds": lambda each: each.wall_seconds,
        "attempts": lambda each: each.attempts,
        "hardware": lambda each: each.hardware or "",
        "why it ended early": lambda each: each.end_reason,
    }
    always = {"trial", "state", measure, "settings", "best epoch", "seconds"}
    values = {name: [value(each) for each in begun] for name, value in columns.items()}
    always |= {"why it ended early"} if any(values["why it ended early"]) else set()
    kept = {name: column for name, column in values.items() if name in always or len(set(column)) > 1}
    if kept.get(best) == kept[measure]:
        del kept[best]
    return sections.make_table(kept, zip(*kept.values(), strict=True))


def _reached(name: str, each: TrialRecord) -> str | None:
    value = each.reached.get(name)
    return None if value is None else format_objective(name, value).replace(",", "")


def _attribute(name: str, each: TrialRecord) -> Any:
    return each.attributes.get(name, "")


def fixed_options(train: Mapping[str, Any], found: Sequence[TrialRecord]) -> list[tuple[str, str]]:
    """Return the ``[train]`` options that trials used and none of them changed, with their values as text.

    Options without a value are left out.

    Args:
        train: The [train] options of the study.
        found: All trials of the study.
    """
    searched = {name for each in found for name in each.params}
    used = {name for each in found for name in each.setting}
    differ = {name for each in found for name, value in each.setting.items() if train.get(name) != value}
    wanted = used - searched - differ
    alike = {name: value for name, value in train.items() if name in wanted and value is not None}
    return [(name, sections.format_value(value)) for name, value in alike.items()]
