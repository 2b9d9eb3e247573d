"""The result of a final evaluation (``finish``): which setting is best, and how sure that is."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from hpo.analysis import finish, intervals, records, results
from hpo.analysis.finish import ChosenSetting, FinishPlan
from hpo.analysis.formatting import end_reason, format_objective, format_params
from hpo.analysis.intervals import Interval
from hpo.analysis.records import TrialRecord
from hpo.errors import StoreError, join_names
from hpo.search import pareto, replicates
from hpo.search.objectives import Objectives
from hpo.store import rows, status, studies
from hpo.store.storage import Storage
from hpo.study.definition import Definition, Point
from hpo.training import option_tables
from hpo.training.metric import Metric


@dataclass(frozen=True, kw_only=True)
class SettingRuns:
    """The complete runs of one setting."""

    setting: ChosenSetting
    values: Mapping[int, float]  # of the complete runs, by seed
    trials: Mapping[int, int]  # their numbers in the plan's study, by seed
    objectives: tuple[float, ...]  # the mean of each objective; empty without a complete run
    interval: Interval | None  # of their mean; None below three runs

    @property
    def mean(self) -> float | None:
        """The mean of the values; None if no run is complete."""
        return statistics.fmean(self.values.values()) if self.values else None


@dataclass(frozen=True, kw_only=True)
class FinishResult:
    """The runs of all settings of a plan.

    Settings are ranked by ``results.rank_settings``, as in every other place, best first; those without a
    complete run come last. ``difference`` says by how much the first is better; it is negative if the
    second is better by the seeds that both have.
    """

    plan: FinishPlan
    metric: Metric
    goals: tuple[Metric, ...]  # what settings are compared by: several objectives, or the one metric
    measure: str  # the name of what is measured, such as test accuracy
    is_test: bool  # measured on the test split; else as a custom objective measures it
    runs: tuple[SettingRuns, ...]
    difference: Interval | None  # of the first two, by seed; None below two common seeds, or several goals
    missing: tuple[str, ...]  # a sentence for each run that is not complete
    images: int | None = None  # that each run was scored on; None if unknown
    baseline: float | None = None  # the value that guessing gives

    @property
    def front(self) -> tuple[SettingRuns, ...]:
        """With several objectives, the settings on the Pareto front of their means, best first."""
        if len(self.goals) == 1:
            return ()
        complete = [each for each in self.runs if each.objectives]
        numbers = pareto.front_numbers(self._losses(complete))
        return tuple(each for each, number in zip(complete, numbers, strict=True) if number == 0)

    @property
    def winner(self) -> SettingRuns:
        """The first setting, or with several objectives the knee of the front; it has a complete run."""
        return self.front[pareto.knee(self._losses(self.front))] if self.front else self.runs[0]

    def _losses(self, runs: Sequence[SettingRuns]) -> pareto.Losses:
        return np.array([Objectives(self.goals).losses_of(each.objectives) for each in runs])


def read_result(storage: Storage, plan: FinishPlan) -> FinishResult:
    """Read the runs of a plan.

    Args:
        storage: Where its study is stored.
        plan: The settings and seeds, whose study ``finish.create_finish_study`` has stored.

    Raises:
        StoreError: No run is complete, or the study no longer exists.
        StoreUnavailable: The database cannot be reached.
    """
    definition = studies.read_definition(storage, plan.name)
    trials = status.read_trials(storage, plan.name)
    is_test = definition.option_table is not option_tables.CUSTOM_OPTIONS
    metric = definition.metric
    found = records.trial_records(definition, trials)
    images = records.count_images(found)
    least = intervals.least_step(metric, images)
    points = ((definition.point_at(trial.system_attrs.get("grid_id")), trial) for trial in trials)
    by_point = {_point_key(point): trial for point, trial in points if point is not None}
    runs, missing = [], []
    planned: set[int] = set()
    for setting in plan.settings:
        keys = {seed: _point_key(setting.point(seed)) for seed in plan.seeds}
        by_seed = {seed: by_point[key] for seed, key in keys.items() if key in by_point}
        planned |= {trial.number for trial in by_seed.values()}
        runs.append(_setting_runs(setting, by_seed, least, definition))
        missing += [
            _describe_missing(plan, setting, seed, trial)
            for seed, trial in by_seed.items()
            if trial.state != TrialState.COMPLETE
        ]
    if not any(each.values for each in runs):
        raise StoreError(f"study '{plan.name}' has no complete trial; 'hpo trials {plan.name}' says why")
    ranked = _rank(definition, runs, [each for each in found if each.number in planned])
    return FinishResult(
        plan=plan,
        metric=metric,
        goals=definition.objectives,
        measure=status.metric_name(definition),
        is_test=is_test,
        runs=ranked,
        difference=_difference(ranked, least, metric) if len(definition.objectives) == 1 else None,
        missing=tuple(missing),
        images=images,
        baseline=next((each.baseline for each in found if each.baseline is not None), None),
    )


def stored_result(storage: Storage, study: str) -> FinishResult | None:
    """Read what ``hpo finish`` has found so far about a study; None if no run of it is complete.

    Args:
        storage: Where both studies are stored.
        study: The name of the study whose settings were run again.

    Raises:
        StoreError: There is no such study, or another tool made it.
        StoreUnavailable: The database cannot be reached.
        DefinitionError: Another version of hpo made one of the two.
    """
    name = finish.finish_name(study)
    if name not in studies.study_names(storage):
        return None
    definition = studies.read_definition(storage, name)
    if definition.finishes != study:
        return None
    source = studies.read_definition(storage, study)
    plan = FinishPlan(
        study=study,
        name=name,
        settings=tuple(finish.listed_settings(definition, source, status.read_trials(storage, study))),
        seeds=tuple(dict.fromkeys(int(str(point.setting["seed"])) for point in definition.points)),
        notes=(),
    )
    complete = any(trial.state == TrialState.COMPLETE for trial in status.read_trials(storage, name))
    return read_result(storage, plan) if complete and plan.settings else None


def winner_text(found: FinishResult) -> str:
    """Return a phrase on which setting the final evaluation ranks first, and on what grounds."""
    if front := found.front:
        knee = f"; the knee is trial {found.winner.setting.trial}'s" if len(front) > 1 else ""
        return f"'hpo finish {found.plan.study}' puts {_name_settings(front)} on the Pareto front{knee}"
    first = found.runs[0]
    mean, seeds = first.mean, len(first.values)
    text = (
        f"'hpo finish {found.plan.study}' ranks trial {first.setting.trial}'s setting first: "
        f"{found.measure} {mean:.4f}, the mean of {seeds} seed{'s' * (seeds != 1)}"
    )
    if first.interval is not None:
        text += f" (95 % interval {first.interval.low:.4f} to {first.interval.high:.4f})"
    is_open = len(found.runs) > 1 and not _is_decided(found)
    return f"{text}; its lead is not decided" if is_open else text


def _is_decided(found: FinishResult) -> bool:
    """Return whether the first setting is surely better than the second."""
    return found.difference is not None and found.difference.sign > 0


def _point_key(point: Point) -> str:
    return repr(sorted(point.setting.items()))


def _setting_runs(
    setting: ChosenSetting, by_seed: Mapping[int, FrozenTrial], least: float, definition: Definition
) -> SettingRuns:
    own = definition.objectives.index(definition.metric)
    complete = {seed: trial for seed, trial in by_seed.items() if trial.state == TrialState.COMPLETE}
    measured = {seed: trial.values for seed, trial in complete.items() if trial.values is not None}
    values = {seed: each[own] for seed, each in measured.items()}
    return SettingRuns(
        setting=setting,
        values=values,
        trials={seed: by_seed[seed].number for seed in values},
        objectives=tuple(replicates.mean_values(list(measured.values()))),
        interval=intervals.seeds_interval(list(values.values()), least, definition.metric.limits),
    )


def _describe_missing(plan: FinishPlan, setting: ChosenSetting, seed: int, trial: FrozenTrial) -> str:
    """Say why a run is not complete, and what to do about a failed one."""
    state, reason = rows.STATE_NAMES[trial.state], end_reason(trial)
    retry = f"; 'hpo retry {plan.name} --failed' tries again" if trial.state == TrialState.FAIL else ""
    because = f" ({reason})" if reason else ""
    return f"trial {setting.trial}'s setting lacks seed {seed}: its run is {state}{because}{retry}"


def _rank(
    definition: Definition, runs: Sequence[SettingRuns], found: Sequence[TrialRecord]
) -> tuple[SettingRuns, ...]:
    """Rank settings as every other place ranks those of a study; ``found`` are the runs of the plan."""
    ranked = results.rank_settings(definition, found)
    places = {number: place for place, each in enumerate(ranked) for number in each.trials}
    return tuple(
        sorted(runs, key=lambda each: min((places[n] for n in each.trials.values()), default=len(places)))
    )


def _difference(ranked: Sequence[SettingRuns], least: float, metric: Metric) -> Interval | None:
    """Return by how much the first setting is better than the second, by the seeds that both have.

    Returns:
        The difference; None if they have fewer than two seeds in common.
    """
    if len(ranked) < 2:
        return None
    first, second = (each.values for each in ranked[:2])
    paired = [(metric.score(first[seed]), metric.score(second[seed])) for seed in first if seed in second]
    return intervals.paired_difference(paired, least, metric.limits) if len(paired) > 1 else None


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
        "decided": _is_decided(found),
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


def summary_lines(found: FinishResult) -> Iterator[str]:
    """Yield lines of text: which setting is best, how it was measured, and each run that is missing."""
    yield conclusion(found)
    yield from _baseline_note(found)
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


def _baseline_note(found: FinishResult) -> Iterator[str]:
    """Yield a sentence on the settings that are no better than guessing, if there are any."""
    if found.baseline is None:
        return
    metric, means = found.metric, [(each, each.mean) for each in found.runs]
    guess = metric.score(found.baseline)
    no_better = [each for each, mean in means if mean is not None and metric.score(mean) <= guess]
    if no_better:
        named = join_names([f"trial {each.setting.trial}'s setting" for each in no_better])
        beyond = "below" if metric.is_minimized else "above"
        yield f"Not {beyond} {results.describe_guessing(metric, found.baseline)}: {named}."


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
