"""Replicates: one setting run with several seeds, which count as one, by their mean.

With ``[search] replicates = S`` the first trial of a setting is followed, once it is complete, by S - 1
others that differ from it in the seed alone. They are trials like any other, made by the transaction that
ends the first (``plan.repeat``), claimed before anything new begins, and run to their end: a mean of those
seeds that did well would say nothing. To a sampler the first stands for all of them, with their mean; no
pruner sees the others. A setting of which a seed diverged stands behind all that are sound, and a sampler
takes it for one that was pruned.
"""

import copy
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

REPLICATE_OF = (
    "hpo:repeats"  # system attribute of a replicate: the number of the first trial of its setting
)


@dataclass(frozen=True, kw_only=True)
class ReplicatedSetting:
    """A setting's complete trials, one per seed."""

    trials: tuple[int, ...]  # numbers, most accurate first
    accuracies: tuple[float, ...]  # of each
    diverged: int = 0  # how many of its seeds did

    @property
    def mean(self) -> float:
        """The mean accuracy."""
        return statistics.fmean(self.accuracies)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How far trials of one setting lie apart by their seeds alone."""

    deviation: float  # standard deviation of single trials, pooled over the settings
    settings: int  # with more than one complete trial
    freedom: int  # degrees of freedom: their trials, less one of each

    def __str__(self) -> str:
        one = self.settings == 1
        return (
            f"seeds of one setting differ by {self.deviation:.4f} (standard deviation, of "
            f"{self.freedom + self.settings} trials of {self.settings} setting{'' if one else 's'})"
        )


def first_trial_numbers(trials: Iterable[FrozenTrial]) -> dict[int, int]:
    """Give the number of each replicate with that of the first trial of its setting."""
    return {t.number: t.system_attrs[REPLICATE_OF] for t in trials if REPLICATE_OF in t.system_attrs}


def rank_settings(
    accuracies: Mapping[int, float], repeats: Mapping[int, int], pruned: Iterable[int] = ()
) -> list[ReplicatedSetting]:
    """Rank settings by their mean, of equal ones the earlier first; by the numbers of complete trials.

    A setting that has run with one seed alone comes after all that ran with more: it was not worth
    repeating, or is still to be. Last come those with a replicate among the ``pruned``: it diverged, since
    nothing else ends one.
    """
    diverged = Counter(repeats[number] for number in pruned if number in repeats)
    groups: dict[int, list[int]] = defaultdict(list)
    for number in accuracies:
        groups[repeats.get(number, number)].append(number)
    found = []
    for first, numbers in groups.items():
        order = sorted(numbers, key=lambda number: (-accuracies[number], number))
        values = tuple(accuracies[number] for number in order)
        found.append(ReplicatedSetting(trials=tuple(order), accuracies=values, diverged=diverged[first]))
    return sorted(
        found, key=lambda each: (each.diverged > 0, len(each.trials) == 1, -each.mean, min(each.trials))
    )


def rank_trials(trials: Sequence[FrozenTrial]) -> list[ReplicatedSetting]:
    """Rank the settings of a study's trials, as ``ranked`` does; a complete one without a value is last."""
    complete = (trial for trial in trials if trial.state == TrialState.COMPLETE)
    accuracies = {trial.number: -1.0 if trial.value is None else trial.value for trial in complete}
    pruned = (trial.number for trial in trials if trial.state == TrialState.PRUNED)
    return rank_settings(accuracies, first_trial_numbers(trials), pruned)


def estimate_noise(settings: Sequence[ReplicatedSetting]) -> Noise | None:
    """Estimate what seeds do to an accuracy; None where no setting has two complete trials."""
    several = [each.accuracies for each in settings if len(each.accuracies) > 1]
    freedom = sum(len(values) - 1 for values in several)
    if not freedom:
        return None
    squares = sum(statistics.variance(values) * (len(values) - 1) for values in several)
    return Noise(deviation=(squares / freedom) ** 0.5, settings=len(several), freedom=freedom)


def merge_replicates(trials: list[FrozenTrial], of: Mapping[int, int]) -> list[FrozenTrial]:
    """Give one trial for each setting, in their order: the first, with the mean of what has ended.

    ``of`` is what ``repeats`` gives.
    """
    if not of:
        return trials
    others: dict[int, list[FrozenTrial]] = defaultdict(list)
    for trial in trials:
        if trial.number in of and trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            others[of[trial.number]].append(trial)
    return [_with_mean(trial, others[trial.number]) for trial in trials if trial.number not in of]


def _with_mean(trial: FrozenTrial, others: Sequence[FrozenTrial]) -> FrozenTrial:
    if trial.state != TrialState.COMPLETE or not others:
        return trial
    made = copy.copy(trial)
    made.value = statistics.fmean(each.value for each in (trial, *others) if each.value is not None)
    if any(each.state == TrialState.PRUNED for each in others):
        made.state = TrialState.PRUNED
    return made
