"""A study in short: the best trial, how certain it is and what to do next, and a table of all trials."""

import functools
import shlex
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpo.analysis import finish_text, intervals, records, results, sections
from hpo.analysis.finish_result import FinishResult
from hpo.analysis.formatting import describe_split, format_objective, format_seconds
from hpo.analysis.records import TrialRecord
from hpo.analysis.results import SettingResult
from hpo.analysis.sections import Listing, Section
from hpo.errors import join_names
from hpo.study.points import ALIASES


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The first section of the page."""

    value: str  # of the setting that stands for the study
    title: str  # what the value is
    split: str  # a phrase on what it was measured on
    facts: tuple[tuple[str, str], ...]  # labels and texts; what is unknown is left out
    uncertainty: tuple[str, ...]  # sentences
    next_steps: tuple[tuple[str, str], ...]  # commands, and what each is for


def _value(each: TrialRecord) -> float:
    assert each.value is not None, "of complete trials only"
    return each.value


def summarize(
    name: str,
    found: Sequence[TrialRecord],
    ranked: Sequence[SettingResult],
    state: str,
    finished: FinishResult | None = None,
    function: str = "",
) -> Summary:
    """Summarize a study that has a complete trial.

    Args:
        name: The study.
        found: All trials of the study.
        ranked: Its settings, best first.
        state: The state of the study.
        finished: What its final evaluation found; None if there is none.
        function: The name of an objective that only its own script or notebook can run; else empty.
    """
    best = results.choose_one(ranked) or ranked[0]
    winner = best.trial
    counts = Counter(each.state for each in found)
    state_counts = ", ".join(f"{counts[state]} {state}" for state in sections.STATE_COLORS if counts[state])
    facts = {
        "trial": str(winner.number),
        "final evaluation": "" if finished is None else finish_text.winner_text(finished),
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
        uncertainty=tuple(_uncertainty(best, len(ranked), found, finished)),
        next_steps=tuple(
            _next_steps(shlex.quote(name), best, state, function, is_finished=finished is not None)
        ),
    )


def _next_steps(
    name: str, best: SettingResult, state: str, function: str, *, is_finished: bool
) -> Iterator[tuple[str, str]]:
    if state in ("paused", "stopped"):
        yield f"hpo resume {name}", f"let the study continue: it is {state}"
    if state == "idle":
        start = f"study.run(objective={function})" if function else f"hpo launch {name}"
        yield start, "run what is left: no worker runs now"
    if best.selection not in ("final", "test") and len(best.runs) == 1 and not is_finished:
        where = ", and measure it on the test split" if best.selection else ""
        call = f"study.finish(top=3, seeds=5, objective={function})"
        yield (
            call if function else f"hpo finish {name} --top 3 --seeds 5",
            f"find out which of the best settings is best over several seeds{where}",
        )
    if best.weights is not None and best.selection:  # what a custom objective keeps is no image model
        yield f"hpo export {name} --to winner", "get the model as a folder, with its card"
        yield "hpo predict winner IMAGE...", "classify images with it"


def _other_objectives(found: SettingResult) -> dict[str, str]:
    """Return the other objectives of a setting in words, with their values as text."""
    named = zip(found.goals, found.objectives, strict=True)
    return {goal.label: format_objective(goal.name, value) for goal, value in named if goal != found.metric}


def _uncertainty(
    best: SettingResult, settings: int, found: Sequence[TrialRecord], finished: FinishResult | None
) -> list[str]:
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
    text.append(_seeds_note(winner, done, best.least_step, finished))
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


def _seeds_note(
    winner: TrialRecord, done: Sequence[TrialRecord], least: float, finished: FinishResult | None
) -> str:
    """Say what other seeds of the best setting reached."""
    same = {
        each.setting.get("seed"): each for each in reversed(done) if each.setting_key == winner.setting_key
    }
    if len(same) < 2 and finished is not None:
        return finish_text.seeds_sentence(finished, winner.number)
    if len(same) < 2:
        return "Its setting ran with one seed only. Other seeds give other values; the spread is unknown."
    values = [_value(each) for each in same.values()]
    found = intervals.seeds_interval(values, least, winner.metric.limits)
    limits = f"({found.low:.4f} to {found.high:.4f}, 95 %)" if found else "(two seeds give no interval)"
    mean = f"{statistics.fmean(values):.4f}"
    return f"Over {len(same)} seeds, its setting reaches {mean} on average {limits}."


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
    first = ("trial", "point", "state", metric.name, *others)
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
            *(each.number, each.point, each.state, each.value),
            *(each.reached.get(name) for name in others),
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
        "point": lambda each: each.point,
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
