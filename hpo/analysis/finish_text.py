"""The result of a final evaluation in words, as a table for the terminal, and as a JSON document."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from hpo.analysis import guessing
from hpo.analysis.finish_result import FinishResult, SettingRuns
from hpo.analysis.formatting import format_objective, format_params
from hpo.errors import join_names


def conclusion(found: FinishResult) -> str:
    """Return a sentence on which of the first two settings is better, and how sure that is.

    It says so, too, if there is one setting only, or if the two have fewer than two seeds in common. With
    several objectives it says which settings are on the Pareto front.
    """
    if found.front:
        return _front_conclusion(found)
    if len(found.runs) < 2:
        return "There is one setting, and nothing to compare it with."
    first, second = (f"trial {each.setting.trial}'s setting" for each in found.runs[:2])
    gap = found.difference
    if gap is None:
        lack = "one run each" if len(found.plan.seeds) == 1 else "fewer than two complete seeds of both"
        return f"Which is better, {first} or {second}, is not decided: {lack} cannot tell; raise --seeds."
    limits = f"({gap.low:+.4f} to {gap.high:+.4f}, {gap.how})"
    better, worse = ("lower", "higher") if found.metric.is_minimized else ("higher", "lower")
    if gap.sign > 0:
        return f"The best is {first}: {gap.value:.4f} {better} than {second} {limits}."
    undecided = f"The order of {first} and {second} is not decided:"
    if gap.value < 0:
        return (
            f"{undecided} the first has the {better} mean, but by the seeds that both have it is "
            f"{-gap.value:.4f} {worse} {limits}; complete the missing runs."
        )
    lead = f"the first is {gap.value:.4f} {better}, but" if gap.value else "both have the same mean, and"
    if not gap.is_known:
        return f"{undecided} {lead} {gap.how}; raise --seeds."
    return f"{undecided} {lead} the interval contains 0 {limits}; more --seeds may tell."


def _front_conclusion(found: FinishResult) -> str:
    """Return a sentence on which settings are on the Pareto front of their means."""
    count, complete = len(found.front), sum(bool(each.objectives) for each in found.runs)
    names = ", ".join(goal.name for goal in found.goals)
    knee = f" Its knee is trial {found.winner.setting.trial}'s setting." if count > 1 else ""
    return (
        f"By the means of {names}, {count} of {complete} settings {'is' if count == 1 else 'are'} on the "
        f"Pareto front: {_name_settings(found.front)}.{knee}"
    )


def _name_settings(runs: Sequence[SettingRuns]) -> str:
    numbers = [str(each.setting.trial) for each in runs]
    return (
        f"trial {numbers[0]}'s setting"
        if len(runs) == 1
        else f"the settings of trials {join_names(numbers, len(numbers))}"
    )


def winner_text(found: FinishResult) -> str:
    """Return a phrase on which setting the final evaluation ranks first, and on what grounds."""
    doubt = _baseline_doubt(found, found.winner)
    doubted = f"; it is {doubt}" if doubt else ""
    if front := found.front:
        knee = f"; the knee is trial {found.winner.setting.trial}'s" if len(front) > 1 else ""
        place = f"{_name_settings(front)} on the Pareto front"
        return f"'hpo finish {found.plan.study}' puts {place}{knee}{doubted}"
    first = found.runs[0]
    mean, seeds = first.mean, len(first.values)
    text = (
        f"'hpo finish {found.plan.study}' ranks trial {first.setting.trial}'s setting first: "
        f"{found.measure} {mean:.4f}, the mean of {seeds} seed{'s' * (seeds != 1)}"
    )
    if first.interval is not None:
        text += f" (95 % interval {first.interval.low:.4f} to {first.interval.high:.4f})"
    if found.missing:
        runs = len(found.plan.settings) * len(found.plan.seeds)
        verb = "is" if len(found.missing) == 1 else "are"
        text += f"; {len(found.missing)} of {runs} runs {verb} not complete"
    is_open = len(found.runs) > 1 and not found.is_decided
    return f"{text}{'; its lead is not decided' if is_open else ''}{doubted}"


def seeds_sentence(found: FinishResult, trial: int) -> str:
    """Return what the final evaluation adds to a setting of which the search ran one seed.

    Args:
        found: The final evaluation.
        trial: The number of the setting's trial in the search.
    """
    lead = "In the search its setting ran with one seed only;"
    runs = next((each for each in found.runs if each.setting.trial == trial), None)
    if runs is None:
        return f"{lead} it is not among the settings of the final evaluation."
    if runs.mean is None:
        return f"{lead} none of its runs in the final evaluation is complete."
    seeds = len(runs.values)
    over = f"over {seeds} seeds its mean" if seeds > 1 else "with one seed its value"
    return f"{lead} in the final evaluation, {over} is {runs.mean:.4f} ({found.measure})."


def summary_lines(found: FinishResult) -> Iterator[str]:
    """Yield lines of text: which setting is best, how it was measured, and each run that is missing."""
    yield conclusion(found)
    yield from _baseline_notes(found)
    if found.is_test:
        count = "" if found.images is None else f"{found.images} "
        yield (
            f"Each run was trained on the train and validation images together, and scored on the {count}"
            "test images once, after its last epoch."
        )
    else:
        yield (
            f"{found.measure.capitalize()} is as the study's own objective measures it, after each run's "
            "last epoch; hpo knows no test split of it."
        )
    if found.difference is not None:
        yield "Intervals say what other seeds would give, not what other images would."
    yield from found.missing


def _baseline_notes(found: FinishResult) -> Iterator[str]:
    """Yield a sentence on the settings that do not beat guessing, and one on those that may not."""
    named: dict[str, list[str]] = {}
    for runs in found.runs:
        if doubt := _baseline_doubt(found, runs):
            named.setdefault(doubt, []).append(f"trial {runs.setting.trial}'s setting")
    for doubt, settings in named.items():
        yield f"{doubt.capitalize()}: {join_names(settings)}."


def _baseline_doubt(found: FinishResult, runs: SettingRuns) -> str:
    """Return a phrase if a setting's mean does not clearly beat guessing; else ""."""
    if runs.mean is None:
        return ""
    return guessing.compare_baseline(found.metric, runs.mean, found.baseline, found.images, runs.interval)


def make_table(found: FinishResult) -> Table:
    """Return the settings as a table for the terminal, best first."""
    table = Table(box=None, padding=(0, 1))
    others = [index for index, goal in enumerate(found.goals) if goal != found.metric]
    names = [found.goals[index].name for index in others]
    several = [*names, "front"] if found.front else []
    for column in ("setting of", found.measure, "95 % interval", *several, "runs", "chosen by", "epochs"):
        table.add_column(column, no_wrap=True)
    table.add_column("settings")
    for runs in found.runs:
        limits = f"{runs.interval.low:.4f} to {runs.interval.high:.4f}" if runs.interval else "not known"
        table.add_row(
            f"trial {runs.setting.trial}",
            "" if runs.mean is None else f"{runs.mean:.4f}",
            limits,
            *(_objective_text(found, runs, index) for index in others),
            *([_place_text(found, runs)] if found.front else []),
            str(len(runs.values)),
            f"{runs.setting.value:.4f}",
            str(runs.setting.options["epochs"]),
            format_params(runs.setting.params),
        )
    return table


def _objective_text(found: FinishResult, runs: SettingRuns, index: int) -> str:
    return format_objective(found.goals[index].name, runs.objectives[index]) if runs.objectives else ""


def _place_text(found: FinishResult, runs: SettingRuns) -> str:
    return "knee" if runs is found.winner else "on it" if runs in found.front else ""


def document(found: FinishResult) -> dict[str, Any]:
    """Return a result as its JSON document.

    ``split`` is null for a custom objective. ``difference`` says by how much the first setting is better
    than the second, and ``decided`` whether its interval lies above zero. A setting's ``values`` by seed
    are also its ``accuracies`` where that is the metric. With several objectives a setting has the mean of
    each (``objectives``) and says whether it is on the front, and its knee.
    """
    gap = found.difference
    return {
        "study": found.plan.study,
        "finish": found.plan.name,
        "split": "test" if found.is_test else None,
        "seeds": list(found.plan.seeds),
        "metric": found.metric.name,
        **({"directions": {goal.name: goal.direction for goal in found.goals}} if found.front else {}),
        "settings": [_runs_document(found, each) for each in found.runs],
        "difference": gap and {"mean": gap.value, "low": gap.low, "high": gap.high},
        "decided": found.is_decided,
        "conclusion": conclusion(found),
        "images": found.images,
        "baseline": found.baseline,
        "missing": list(found.missing),
        "notes": list(found.plan.notes),
    }


def _runs_document(found: FinishResult, runs: SettingRuns) -> dict[str, Any]:
    by_seed = {str(seed): value for seed, value in runs.values.items()}
    names = [goal.name for goal in found.goals]
    several = {
        "objectives": dict(zip(names, runs.objectives, strict=True)) if runs.objectives else {},
        "on_front": runs in found.front,
        "knee": runs is found.winner,
    }
    return {
        "trial": runs.setting.trial,
        "params": dict(runs.setting.params),
        "epochs": runs.setting.options["epochs"],
        "chosen_by": runs.setting.value,
        "values": by_seed,
        **(several if found.front else {}),
        **({"accuracies": by_seed} if found.metric.name == "accuracy" else {}),
        "mean": runs.mean,
        "low": runs.interval and runs.interval.low,
        "high": runs.interval and runs.interval.high,
    }
