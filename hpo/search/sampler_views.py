"""What a sampler sees of a study in which most trials end early.

Optuna's samplers learn from complete trials; only TPE with one objective learns from pruned ones too. In a
study whose pruner lets one trial in sixteen run to its last epoch they would know next to nothing, and
propose at random. So a ``ViewingSampler`` shows pruned trials to another sampler as complete ones, with the
values that they had.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from typing import Any

import numpy as np
from optuna import samplers
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.search import pareto
from hpo.search.objectives import Objectives

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class ViewingSampler(samplers.BaseSampler):
    """A sampler to which pruned trials look complete (``pruned_as_complete``).

    Args:
        inner: The sampler.
        objectives: The study's objectives.
    """

    def __init__(self, inner: samplers.BaseSampler, objectives: Objectives) -> None:
        self.inner, self.objectives = inner, objectives
        self._seen: tuple[int, Study] | None = None  # a trial's number, and what was seen for it

    def _view_of(self, study: Study, trial: FrozenTrial) -> Study:
        """Return what is seen for a trial: the same for each of its parameters."""
        if self._seen is None or self._seen[0] != trial.number:
            shown = pruned_as_complete(self.objectives, study._get_trials(deepcopy=False))
            self._seen = trial.number, _ViewedStudy(study, shown)
        return self._seen[1]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are proposed together."""
        self._seen = None
        return self.inner.infer_relative_search_space(self._view_of(study, trial), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose values for parameters together."""
        return self.inner.sample_relative(self._view_of(study, trial), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Propose a value for one parameter."""
        seen = self._view_of(study, trial)
        return self.inner.sample_independent(seen, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Take another seed."""
        self.inner.reseed_rng()


class _ViewedStudy(Study):
    """A study with other trials."""

    def __init__(self, study: Study, shown: list[FrozenTrial]) -> None:
        super().__init__(study.study_name, study._storage, sampler=study.sampler, pruner=study.pruner)
        self._shown = shown

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self._shown if states is None or trial.state in states]


def pruned_as_complete(objectives: Objectives, trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return trials of which the pruned ones are complete, with the values that they had.

    An unknown value counts as the worst one that any of the trials has.

    Args:
        objectives: The study's objectives.
        trials: The study's trials.
    """
    ended = [trial for trial in trials if trial.state in ENDED]
    if not ended:
        return trials
    losses_NK = _losses(objectives, ended)
    known = np.isfinite(losses_NK)
    worst_K = np.max(losses_NK, axis=0, where=known, initial=-np.inf)
    filled_NK = np.where(known, losses_NK, np.where(np.isfinite(worst_K), worst_K, 0.0))
    complete = {}
    for trial, losses in zip(ended, filled_NK.tolist(), strict=True):
        if trial.state == TrialState.PRUNED:
            complete[id(trial)] = shown = copy.copy(trial)
            shown.state, shown.values = TrialState.COMPLETE, objectives.values(losses)
    return [complete.get(id(trial), trial) for trial in trials]


def best_first(objectives: Objectives, trials: list[FrozenTrial]) -> Iterator[FrozenTrial]:
    """Yield the trials of a study with several objectives, the best first.

    Complete trials come first, then those that had the most epochs; those that ran as long are ordered by
    dominance.

    Args:
        objectives: The study's objectives.
        trials: The trials; those that have neither completed nor reported are left out.
    """
    groups: dict[float, list[FrozenTrial]] = defaultdict(list)
    for trial in trials:
        if trial.state == TrialState.COMPLETE or trial.intermediate_values:
            groups[math.inf if trial.state == TrialState.COMPLETE else trial.last_step or 0].append(trial)
    for epochs in sorted(groups, reverse=True):
        group = groups[epochs]
        yield from (group[index] for index in pareto.pareto_order(_losses(objectives, group)))


def _losses(objectives: Objectives, trials: Sequence[FrozenTrial]) -> pareto.Losses:
    """Return the losses of trials as rows; infinite where one is not known."""
    unknown = (np.inf,) * len(objectives.metrics)
    found = []
    for trial in trials:
        if trial.values is not None and len(trial.values) == len(unknown):
            found.append(objectives.losses_of(trial.values))
        elif len(unknown) == 1:
            found.append(unknown)
        else:
            found.append(objectives.losses(trial, trial.last_step or 0) or unknown)
    losses_NK: pareto.Losses = np.array(found, dtype=float)
    losses_NK[~np.isfinite(losses_NK)] = np.inf
    return losses_NK
