"""Replicates: one setting trained with several seeds and counted once, by the mean of their values.

With ``[search] replicates = S`` the first trial of a setting is followed, once it is complete, by S - 1
replicates that differ from it in the seed alone. Their rules:

* The transaction that ends the first trial creates them (``plan`` in the store). Workers claim them before
  any new setting. A study that prunes creates them only for a setting in the better half of those that are
  complete; points that no pruner may end always get them.
* They run to their last epoch and no pruner sees them: a mean over those seeds that did well would say
  nothing.
* To a sampler the first trial stands for all of them, with the mean of their values.
* A setting of which a seed diverged ranks behind all others. A sampler sees it as a pruned trial.
"""

import copy
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from hpo.search import pareto
from hpo.search.objectives import Objectives
from hpo.training.metric import Metric

REPLICATE_OF = "hpo:repeats"  # system attribute of a replicate: the number of its setting's first trial


@dataclass(frozen=True, kw_only=True)
class ReplicatedSetting:
    """The complete trials of one setting, one per seed; without replicates, one trial."""

    metric: Metric
    trials: tuple[int, ...]  # numbers, the best trial first
    values: tuple[float, ...]  # of each trial
    diverged: int = 0  # number of replicates that diverged
    place: int = 0  # with several objectives: its place in the order of ``rank_by_dominance``
    is_on_front: bool = True  # whether no other setting is better in every objective

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return statistics.fmean(self.values)

    @property
    def rank(self) -> tuple[bool, int, bool, float]:
        """What settings are ranked by, the best having the least; see ``rank_settings``."""
        return self.diverged > 0, self.place, len(self.trials) == 1, -self.metric.score(self.mean)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How much trials of one setting differ by their seeds alone."""

    deviation: float  # standard deviation of single trials, pooled over the settings
    settings: int  # number of settings with more than one complete trial
    freedom: int  # degrees of freedom: the trials of these settings, less one of each

    def __str__(self) -> str:
        one = self.settings == 1
        return (
            f"seeds of one setting differ by {self.deviation:.4f} (standard deviation, of "
            f"{self.freedom + self.settings} trials of {self.settings} setting{'' if one else 's'})"
        )


def first_trial_numbers(trials: Iterable[FrozenTrial]) -> dict[int, int]:
    """Return, by the number of each replicate, the number of the first trial of its setting."""
    return {t.number: t.system_attrs[REPLICATE_OF] for t in trials if REPLICATE_OF in t.system_attrs}


def rank_settings(
    metric: Metric,
    values: Mapping[int, float],
    first_of: Mapping[int, int],
    pruned: Iterable[int] = (),
) -> list[ReplicatedSetting]:
    """Rank settings by the mean of their values, the best first; of equal ones the earlier is ahead.

    A setting with a pruned replicate ranks behind all others: only divergence ends a replicate early. Among
    the rest, one that ran with one seed alone ranks behind all that ran with more: it was not worth
    replicating, or its replicates are still to come. A setting without a complete trial is left out.

    Args:
        metric: What the values are of.
        values: By number, the values of the complete trials.
        first_of: What ``first_trial_numbers`` returns.
        pruned: Numbers of the pruned trials; those that are no replicates do not matter.
    """
    diverged = Counter(first_of[number] for number in pruned if number in first_of)
    groups: dict[int, list[int]] = defaultdict(list)
    for number in values:
        groups[first_of.get(number, number)].append(number)
    found = []
    for first, numbers in groups.items():
        order = sorted(numbers, key=lambda number: (-metric.score(values[number]), number))
        found.append(
            ReplicatedSetting(
                metric=metric,
                trials=tuple(order),
                values=tuple(values[number] for number in order),
                diverged=diverged[first],
            )
        )
    return sorted(found, key=lambda each: (each.rank, min(each.trials)))


def rank_by_dominance(
    objectives: Sequence[Metric],
    metric: Metric,
    values: Mapping[int, Sequence[float]],
    first_of: Mapping[int, int],
    pruned: Iterable[int] = (),
) -> list[ReplicatedSetting]:
    """Rank settings by several objectives: front by front, and within a front so that the first cover it.

    With a single objective it is ``rank_settings``. The objectives of a setting are the means over its
    complete trials. A setting of which a seed diverged ranks behind all others, and is on no front.

    Args:
        objectives: What trials are compared by.
        metric: The first metric among them; a setting's values are of it.
        values: By number, the values of the complete trials, one for each objective.
        first_of: What ``first_trial_numbers`` returns.
        pruned: Numbers of the pruned trials; those that are no replicates do not matter.
    """
    own = objectives.index(metric)
    found = rank_settings(metric, {n: each[own] for n, each in values.items()}, first_of, pruned)
    if not found or len(objectives) == 1:
        return found
    means = [mean_values([values[number] for number in each.trials]) for each in found]
    losses_NK = np.array([Objectives(tuple(objectives)).losses_of(each) for each in means])
    losses_NK[[each.diverged > 0 for each in found]] = np.inf
    places = {index: place for place, index in enumerate(pareto.pareto_order(losses_NK))}
    fronts = pareto.front_numbers(losses_NK)
    placed = [
        replace(each, place=places[index], is_on_front=fronts[index] == 0 and not each.diverged)
        for index, each in enumerate(found)
    ]
    return sorted(placed, key=lambda each: each.rank)


def find_knee(
    objectives: Sequence[Metric],
    values: Mapping[int, Sequence[float]],
    ranked: Sequence[ReplicatedSetting],
) -> ReplicatedSetting | None:
    """Return the knee of the Pareto front (``pareto.knee``); None with one objective, or without a front.

    Args:
        objectives: What trials are compared by.
        values: By number, the values of the complete trials, one for each objective.
        ranked: The settings, as ``rank_by_dominance`` returns them.
    """
    front = [each for each in ranked if each.is_on_front]
    if len(objectives) == 1 or not front:
        return None
    means = [mean_values([values[number] for number in each.trials]) for each in front]
    return front[pareto.knee(np.array([Objectives(tuple(objectives)).losses_of(each) for each in means]))]


def mean_values(values: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean of each objective over trials, each of which has a value for every objective."""
    return [statistics.fmean(column) for column in zip(*values, strict=True)]


def estimate_noise(settings: Sequence[ReplicatedSetting]) -> Noise | None:
    """Estimate how much the seed changes the value, as a pooled standard deviation.

    Args:
        settings: The settings; those with one complete trial do not count.

    Returns:
        The estimate, or None if no setting has two complete trials.
    """
    several = [each.values for each in settings if len(each.values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    if not freedom:
        return None
    squares = sum(statistics.variance(values) * (len(values) - 1) for values in several)
    return Noise(deviation=(squares / freedom) ** 0.5, settings=len(several), freedom=freedom)


def merge_replicates(trials: list[FrozenTrial], first_of: Mapping[int, int]) -> list[FrozenTrial]:
    """Return one trial for each setting: its first, with the mean value of those that have ended.

    Only a complete first trial changes. The mean also counts the last value of a pruned replicate,
    which makes the merged trial a pruned one. Replicates that are unfinished, failed or without a value do
    not count.

    Args:
        trials: Trials of a study.
        first_of: What ``first_trial_numbers`` returns for them.

    Returns:
        The first trials in the order of ``trials``; changed ones are copies. ``trials`` itself if there are
        no replicates.
    """
    if not first_of:
        return trials
    others: dict[int, list[FrozenTrial]] = defaultdict(list)
    for trial in trials:
        if trial.number in first_of and trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            others[first_of[trial.number]].append(trial)
    return [_with_mean(trial, others[trial.number]) for trial in trials if trial.number not in first_of]


def _with_mean(trial: FrozenTrial, replicates: Sequence[FrozenTrial]) -> FrozenTrial:
    if trial.state != TrialState.COMPLETE or not replicates:
        return trial
    merged = copy.copy(trial)
    merged.values = mean_values([each.values for each in (trial, *replicates) if each.values])
    if any(each.state == TrialState.PRUNED for each in replicates):
        merged.state = TrialState.PRUNED
    return merged
