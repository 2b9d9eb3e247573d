"""A study in short: its best trial and how sure that is, where device time went, every trial in a table."""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from hpo.analysis import intervals, records, sections
from hpo.analysis.formatting import describe_split, format_seconds
from hpo.analysis.records import TrialRecord
from hpo.analysis.sections import Listing, Plot, Section
from hpo.search import replicates
from hpo.search.replicates import ReplicatedSetting

MAX_NAMED_TRIALS = 10  # trials that a sentence names
LOST_USE = "repeated or waited for, at most"
SAVED_USE = "saved by pruning, estimated"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the page says first."""

    accuracy: str
    split: str
    facts: tuple[tuple[str, str], ...]
    sure: tuple[str, ...]  # sentences


def _ranked_settings(found: Sequence[TrialRecord]) -> list[ReplicatedSetting]:
    """Rank the settings of the complete trials, as ``hpo best`` does."""
    accuracies = {each.number: _accuracy(each) for each in records.complete_records(found)}
    pruned = [each.number for each in found if each.state == "pruned"]
    repeats = {each.number: each.replicate_of for each in found if each.replicate_of is not None}
    return replicates.rank_settings(accuracies, repeats, pruned)


def best_trial(found: Sequence[TrialRecord]) -> TrialRecord:
    """Give the most accurate of the complete trials; of repeated settings, the best of the best one."""
    number = _ranked_settings(found)[0].trials[0]
    return next(each for each in found if each.number == number)


def _accuracy(each: TrialRecord) -> float:
    assert each.accuracy is not None, "of complete trials only"
    return each.accuracy


def summarize(
    found: Sequence[TrialRecord], selection: str | None, images: int | None, state: str
) -> Summary:
    """Sum up a study that has a complete trial."""
    winner = best_trial(found)
    counts = Counter(each.state for each in found)
    said = ", ".join(f"{counts[state]} {state}" for state in sections.STATE_COLORS if counts[state])
    facts = {
        "trial": str(winner.number),
        "settings": sections.format_setting(winner.params),
        "epoch": f"{winner.best_epoch} of {winner.epochs}" if winner.curve else "",
        "time": f"{format_seconds(winner.wall_seconds)} of training and evaluation",
        "hardware": winner.hardware or "",
        "study": f"{state}: {said}",
    }
    return Summary(
        accuracy=f"{_accuracy(winner):.4f}",
        split=describe_split(selection),
        facts=tuple((name, value) for name, value in facts.items() if value),
        sure=tuple(_uncertainty(winner, found, images, selection)),
    )


def _uncertainty(
    winner: TrialRecord, found: Sequence[TrialRecord], images: int | None, selection: str | None
) -> list[str]:
    accuracy, done = _accuracy(winner), records.complete_records(found)
    text = []
    if images is None:
        text.append(
            "The store does not tell on how many images accuracy was measured, so there is no interval."
        )
    else:
        between = intervals.fraction_interval(accuracy, images)
        text.append(
            f"On {images} images (so many at least, by the accuracies) {accuracy:.4f} stands for "
            f"{between.low:.4f} to {between.high:.4f} (95 %, Wilson)."
        )
        text.append(_close_trials_note(winner, done, images))
    text.append(_seeds_note(winner, done, images))
    if (noise := replicates.estimate_noise(_ranked_settings(found))) is not None:
        gap = intervals.seed_noise_bound(noise.deviation, noise.freedom)
        text.append(
            f"In this study {noise}: two single trials that lie less than {gap:.4f} apart may differ "
            "by their seeds alone (95 %)."
        )
    if len(done) > 1 and selection == "final":
        text.append(
            f"It is the highest of {len(done)} complete trials, which flatters it: the mean over its "
            "setting's seeds is what to expect."
        )
    elif len(done) > 1:
        also = ", and the split is the test split" if selection == "test" else ""
        text.append(
            f"It is the highest of {len(done)} complete trials and of its epochs, chosen on the images "
            f"that it was measured on{also}: expect less on new ones."
        )
    return text


def _close_trials_note(winner: TrialRecord, done: Sequence[TrialRecord], images: int) -> str:
    """Say which trials are too close to the best to be told apart."""

    def is_close(each: TrialRecord) -> bool:
        gap = _accuracy(winner) - _accuracy(each)
        return gap <= intervals.image_noise_bound(_accuracy(winner), _accuracy(each), images)

    others = [each for each in done if each is not winner]
    close = sorted(filter(is_close, others), key=lambda each: (-_accuracy(each), each.number))
    if not others:
        return "There is no other complete trial to compare it with."
    if not close:
        return (
            f"No other trial comes so close that one run each on {images} images could not tell them apart."
        )
    numbers = ", ".join(str(each.number) for each in close[:MAX_NAMED_TRIALS])
    more = f" and {len(close) - MAX_NAMED_TRIALS} more" if len(close) > MAX_NAMED_TRIALS else ""
    return (
        f"{len(close)} of {len(others)} other complete trials are too close to tell apart by one run each "
        f"on {images} images: trial{'s' * (len(close) > 1)} {numbers}{more}."
    )


def _seeds_note(winner: TrialRecord, done: Sequence[TrialRecord], images: int | None) -> str:
    """Say what other seeds of the best setting gave."""
    same = {
        each.setting.get("seed"): each
        for each in reversed(done)
        if _setting_key(each) == _setting_key(winner)
    }
    if len(same) < 2:
        return "Its setting ran with one seed; another gives another figure, how far off is not known."
    found = intervals.accuracy_interval([_accuracy(each) for each in same.values()], images)
    return (
        f"Over {len(same)} seeds its setting reaches {found.value:.4f} on average "
        f"({found.low:.4f} to {found.high:.4f}, 95 %)."
    )


def _setting_key(each: TrialRecord) -> list[tuple[str, str]]:
    return sorted((name, repr(value)) for name, value in each.setting.items() if name != "seed")


@dataclass(frozen=True, kw_only=True)
class DeviceTimeUse:
    """Device time of one use on one kind of hardware."""

    kind: str
    use: str
    trials: int
    epochs: int
    seconds: float


def device_time_uses(found: Sequence[TrialRecord]) -> list[DeviceTimeUse]:
    """Give where device time went, by kind of hardware."""
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
    """Show where device time went and what pruning saved."""
    rows = device_time_uses(found)
    section = Section(name="time", title="Where the device time went")
    if not rows:
        reason = "No trial says what hardware it ran on, so there is no device time to divide."
        return Section(name=section.name, title=section.title, text=(reason,))
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
        title="Seconds of training and evaluation, by what became of the trial",
        figure=made,
        table=sections.make_table(columns, [(r.kind, r.use, r.trials, r.epochs, r.seconds) for r in rows]),
        is_listed=True,
    )
    return Section(
        name=section.name, title=section.title, text=_device_time_notes(found, rows), parts=(plot,)
    )


def _device_time_notes(found: Sequence[TrialRecord], rows: Sequence[DeviceTimeUse]) -> tuple[str, ...]:
    """Say what the uses mean, and those that there is nothing of."""
    text = []
    if any(row.use == SAVED_USE for row in rows):
        text.append(
            "What pruning saved is the epochs that pruned trials did not run, at each trial's own mean."
        )
    elif any(each.state == "pruned" for each in found):
        text.append("The pruned trials ended within their first epoch; what that saved cannot be told.")
    else:
        text.append("No trial was pruned, so pruning saved nothing.")
    if any(row.use == LOST_USE for row in rows):
        text.append(
            "What dying workers lost is not recorded. It is at most the time from the start of a trial "
            "with several attempts to its end, less what counted; waits are in it, too."
        )
    elif all(each.attempts < 2 for each in found):
        text.append("Every trial ran in one attempt, so that nothing was repeated.")
    silent = sum(each.hardware is None and each.state != "waiting" for each in found)
    if silent:
        whose = "1 trial has" if silent == 1 else f"{silent} trials have"
        text.append(f"{whose} not reported an epoch, so that the store knows neither hardware nor time.")
    return tuple(text)


def trials_section(found: Sequence[TrialRecord], measure: str) -> Section:
    """List every trial that has begun; the page shows its setting in one column."""
    begun = [each for each in found if each.state != "waiting"]
    names = list(dict.fromkeys(name for each in begun for name in each.params))
    first = ("trial", "state", "accuracy")
    attributes = list(dict.fromkeys(name for each in begun for name in each.attributes))
    last = ("best epoch", "epochs", "wall_time_seconds", "s/epoch", "attempts", *attributes, "hardware")
    rows = [
        (
            *(each.number, each.state, each.accuracy),
            *(each.params.get(name) for name in names),
            *(each.best_epoch, each.epochs, each.wall_seconds, each.seconds_per_epoch),
            each.attempts,
            *(each.attributes.get(name) for name in attributes),
            *(each.hardware, each.end_reason),
        )
        for each in begun
    ]
    listing = Listing(
        name="trials",
        title="Every trial that has begun",
        table=sections.make_table((*first, *names, *last, "why it ended early"), rows),
        shown=_page_table(begun, measure),
    )
    return Section(name="trials", title="Trials", parts=(listing,))


def _page_table(begun: Sequence[TrialRecord], measure: str) -> sections.Table:
    """Give the trials' table without what is alike or empty in all of them."""
    attributes = dict.fromkeys(name for each in begun for name in each.attributes)
    columns: dict[str, Callable[[TrialRecord], Any]] = {
        "trial": lambda each: each.number,
        "state": lambda each: each.state,
        measure: lambda each: each.accuracy,
        "settings": lambda each: sections.format_setting(each.params),
        **{name: functools.partial(_attribute, name) for name in attributes},
        "best epoch": lambda each: f"{each.best_epoch} of {each.epochs}" if each.curve else "",
        "seconds": lambda each: each.wall_seconds,
        "attempts": lambda each: each.attempts,
        "hardware": lambda each: each.hardware or "",
        "why it ended early": lambda each: each.end_reason,
    }
    always = ("trial", "state", measure, "settings", "best epoch", "seconds")
    values = {name: [value(each) for each in begun] for name, value in columns.items()}
    kept = {name: column for name, column in values.items() if name in always or len(set(column)) > 1}
    return sections.make_table(kept, zip(*kept.values(), strict=True))


def _attribute(name: str, each: TrialRecord) -> Any:
    return each.attributes.get(name, "")


def fixed_options(train: Mapping[str, Any], found: Sequence[TrialRecord]) -> list[tuple[str, str]]:
    """Give the options that are alike in all trials, with their values as text."""
    searched = {name for each in found for name in each.params}
    used = {name for each in found for name in each.setting}
    differ = {name for each in found for name, value in each.setting.items() if train.get(name) != value}
    wanted = used - searched - differ
    alike = {name: value for name, value in train.items() if name in wanted and value is not None}
    return [(name, sections.format_value(value)) for name, value in alike.items()]
