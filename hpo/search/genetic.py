"""NSGA-II without generations, so that nothing but the study's trials decides about a proposal."""

from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import NSGAIISampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class SteadyNSGAIISampler(NSGAIISampler):
    """NSGA-II whose parents are the best of all complete trials, rather than of one generation before.

    Optuna's waits until a generation is complete before it selects parents, and notes them in the study.
    Workers that train asynchronously would fill a generation with children of old parents. This is the
    steady-state variant of Durillo et al. 2009, "On the Effect of the Steady-State Selection Scheme in
    Multi-Objective Genetic Algorithms". The first ``population_size`` settings are random.
    """

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of a child of two parents; none while there are too few."""
        found = study._get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(found) < (self.population_size or 0):
            return {}
        parents = self._elite_population_selection_strategy(study, found)
        return self._child_generation_strategy(study, search_space, parents)
