"""The result of a final evaluation (``finish``): which setting is best, and how sure that is.

This file reads it. ``finish_text`` puts it into words.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from hpo.analysis import finish, intervals, records, results
from hpo.analysis.finish import ChosenSetting, FinishPlan
from hpo.analysis.formatting import end_reason, short_repr
from hpo.analysis.intervals import Interval
from hpo.analysis.records import TrialRecord
from hpo.errors import StoreError
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

    def __repr__(self) -> str:
        return short_repr(self, "setting", "values", "interval")

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

    def __repr__(self) -> str:
        return short_repr(self, "measure", "winner", "difference", "is_decided")

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

    @property
    def is_decided(self) -> bool:
        """Whether the first setting is surely better than the second."""
        return self.difference is not None and self.difference.sign > 0

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
