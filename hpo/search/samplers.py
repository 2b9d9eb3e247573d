"""Samplers: what a study tries next. Each is built anew for each trial, from the study's definition.

Optuna stores no sampler in the database, so every worker has to build the same one. A sampler's seed is
derived from the study's seed and the trial's number: two workers with the same seed would propose the same
settings in the start-up rounds. QMC is the exception: all trials of a study take their points from one
sequence, so they share its seed.

The cost of a proposal grows with the number of trials that the sampler sees. So it sees the
``BEST_TRIALS``, the ``NEWEST_TRIALS``, and those that are running. For TPE this is nearly the same: it
takes the best tenth, at most 25 trials by the order of ``rank_key``, as good ones, and gives the others
less weight the older they are.
"""

import copy
import hashlib
import itertools
import logging
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna import samplers
from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.search.asha import LISTED_ATTRIBUTES
from hpo.search.pruners import ignore_experimental_warnings
from hpo.study.definition import Definition
from hpo.study.space import Value
from hpo.training.metric import Metric

BEST_TRIALS = 150  # of the informative trials, so many of the best are shown to a sampler
NEWEST_TRIALS = 150  # and so many of the newest


def derive_seed(seed: int, number: int) -> int:
    """Return the seed of a trial's sampler, below 2**32: the start of a SHA-256.

    Args:
        seed: The study's seed.
        number: The trial's number.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")


def build_sampler(definition: Definition, number: int) -> samplers.BaseSampler:
    """Build the sampler that proposes the setting of a trial.

    With TPE and the pruner ``asha``, one trial in three gets a random sampler.

    Args:
        definition: The study.
        number: The trial's number.
    """
    name, study_seed = definition.search.sampler.name, definition.search.sampler.seed
    seed = derive_seed(study_seed, number)
    if name == "tpe":
        # Fast trials reach their rungs first, and TPE would propose nothing else. So one trial in three is
        # random, as in BOHB (Falkner et al. 2018, arXiv 1807.01774).
        if definition.search.pruner.name == "asha" and seed % 3 == 0:
            return samplers.RandomSampler(seed=seed)
        # Each parameter by itself: a joint model leaves out those that only some trials have (momentum),
        # and on recorded curves needed a third more epochs.
        return samplers.TPESampler(seed=seed, multivariate=False)
    # We offer conditional parameters ourselves. GP and QMC hand them to an independent sampler, and warn.
    if name == "gp":
        return PrunedAwareGPSampler(seed=seed, warn_independent_sampling=False)
    if name == "random":
        return samplers.RandomSampler(seed=seed)
    if name == "qmc":
        logging.getLogger("optuna.samplers._qmc").setLevel(logging.ERROR)
        with ignore_experimental_warnings():
            return samplers.QMCSampler(
                scramble=True,
                seed=study_seed,
                independent_sampler=samplers.RandomSampler(seed=seed),
                warn_independent_sampling=False,
            )
    return PointSampler([definition.complete_hyperparameters(point) for point in definition.points])


def is_informative(trial: FrozenTrial) -> bool:
    """Return whether a sampler can learn from a trial: it is neither running nor failed.

    A trial that waits counts too: it may be paused at a rung, with reports.
    """
    return trial.state not in (TrialState.RUNNING, TrialState.FAIL)


def rank_key(trial: FrozenTrial, metric: Metric) -> tuple[float, float]:
    """Return the key by which TPE ranks trials, the best highest.

    Args:
        trial: The trial.
        metric: What its values are of.

    Returns:
        For a complete trial infinity and the score of its value; for others the number of epochs and the
        score of the last value, each 0 if nothing was reported.
    """
    step = trial.last_step or 0
    if trial.state == TrialState.COMPLETE:
        return math.inf, metric.score(trial.values[0])
    return step, metric.score(trial.intermediate_values.get(step, 0.0))


def select_trials(
    trials: list[FrozenTrial], metric: Metric, ranked: Iterable[FrozenTrial] | None = None
) -> list[FrozenTrial]:
    """Return the trials that a sampler sees: the best, the newest and the running ones.

    Args:
        trials: A study's trials, by number.
        metric: What their values are of.
        ranked: The informative ones of them, by descending ``rank_key``; sorted here if None.

    Returns:
        The running trials, the ``NEWEST_TRIALS`` informative ones and the ``BEST_TRIALS`` among the older,
        by number. If there are no more than these two numbers together, ``trials`` itself, with failed
        ones.
    """
    if len(trials) <= BEST_TRIALS + NEWEST_TRIALS:
        return trials
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    if ranked is None:
        ranked = sorted(
            filter(is_informative, trials), key=lambda each: rank_key(each, metric), reverse=True
        )
    newest = list(itertools.islice(filter(is_informative, reversed(trials)), NEWEST_TRIALS))
    selected = set(map(id, newest))
    older = (trial for trial in ranked if id(trial) not in selected)
    return sorted(
        [*itertools.islice(older, BEST_TRIALS), *newest, *running], key=lambda trial: trial.number
    )


class PrunedAwareGPSampler(samplers.GPSampler):
    """Optuna's Gaussian process sampler, but pruned trials count as complete, with their last value.

    One that reported none counts with the worst. Optuna's own learns from complete trials alone. In a study
    whose pruner lets one trial in sixteen run to its last epoch it would know next to nothing, and propose
    at random.
    """

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that all complete and pruned trials have."""
        return super().infer_relative_search_space(_PrunedAsCompleteStudy(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose values for the parameters that all complete and pruned trials have."""
        return super().sample_relative(_PrunedAsCompleteStudy(study), trial, search_space)


class _PrunedAsCompleteStudy(Study):
    """A view of a study in which every pruned trial is complete."""

    def __init__(self, study: Study) -> None:
        super().__init__(study.study_name, study._storage, sampler=study.sampler, pruner=study.pruner)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = super()._get_trials(deepcopy=False)
        worst = max if self.direction == StudyDirection.MINIMIZE else min
        value = worst((trial.value for trial in found if trial.value is not None), default=0.0)
        shown = (_as_complete(trial, value) for trial in found)
        return [trial for trial in shown if states is None or trial.state in states]


def _as_complete(trial: FrozenTrial, worst: float) -> FrozenTrial:
    if trial.state != TrialState.PRUNED:
        return trial
    complete = copy.copy(trial)
    complete.state, complete.value = TrialState.COMPLETE, worst if trial.value is None else trial.value
    return complete


class PointSampler(samplers.GridSampler):
    """A grid that is a list of points rather than a product of lists; each point runs exactly once.

    Optuna's GridSampler runs points twice at the end when several workers share a study, and never returns
    to a failed one. Here each point is a WAITING trial that was created in advance and carries the point's
    index as ``grid_id``. Which worker runs it, and how often it is tried, is decided by the lease. This
    sampler only provides the point's values under their own names, so that importance and plots see real
    hyperparameters. A point with Adam simply has no momentum.

    Args:
        points: By the point's index, the values of its hyperparameters, by name.
    """

    def __init__(self, points: Sequence[Mapping[str, Value]]) -> None:
        super().__init__({})  # the product of no lists; the points replace it
        self._points = list(points)
        self._n_min_trials = len(points)

    @staticmethod
    def point_attributes(index: int) -> dict[str, Any]:
        """Return the system attributes of the trial of a point.

        Args:
            index: The index of the point, from 0.
        """
        return {"grid_id": index, "search_space": {}}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Refuse a trial that was not created in advance.

        Optuna's GridSampler would run some point a second time.

        Raises:
            TrialPruned: If the trial is neither a point nor a queued setting.
        """
        if not LISTED_ATTRIBUTES & trial.system_attrs.keys():
            raise optuna.TrialPruned("not one of the study's points")

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the value that the trial's point has for a parameter.

        Raises:
            ValueError: If the trial is a queued setting, which has to name every parameter itself.
            KeyError: If the point does not name the parameter.
        """
        if "grid_id" not in trial.system_attrs:
            raise ValueError(f"{param_name}: a setting queued in a grid study must name every parameter")
        return self._points[trial.system_attrs["grid_id"]][param_name]

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Do nothing; Optuna's GridSampler would stop the study after its last point.

        The study is complete when no planned trial is left, which the queue knows.
        """
