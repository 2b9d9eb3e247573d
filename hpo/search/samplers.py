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

import hashlib
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna import samplers
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.search.asha import LISTED_ATTRIBUTES
from hpo.search.curve_model import Prior
from hpo.search.freeze_thaw import FreezeThawSampler
from hpo.search.genetic import SteadyNSGAIISampler
from hpo.search.objectives import Objectives
from hpo.search.pruners import ignore_experimental_warnings
from hpo.search.sampler_views import ViewingSampler
from hpo.study.definition import Definition
from hpo.study.space import Value
from hpo.training.metric import Metric

BEST_TRIALS = 150  # of the informative trials, so many of the best are shown to a sampler
NEWEST_TRIALS = 150  # and so many of the newest
POPULATION = 10  # of NSGA-II: so many random settings come first, and so many of the best have children


def derive_seed(seed: int, number: int) -> int:
    """Return the seed of a trial's sampler, below 2**32: the start of a SHA-256.

    Args:
        seed: The study's seed.
        number: The trial's number.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")


def build_sampler(
    definition: Definition, number: int, priors: tuple[Prior, ...] = ()
) -> samplers.BaseSampler:
    """Build the sampler that proposes the setting of a trial.

    With TPE and the pruner ``asha``, one trial in three gets a random sampler.

    Args:
        definition: The study.
        number: The trial's number.
        priors: What studies of other data sets say of the settings, for the sampler ``freeze_thaw``.
    """
    name, study_seed = definition.search.sampler.name, definition.search.sampler.seed
    seed, objectives = derive_seed(study_seed, number), Objectives(definition.objectives)
    if name == "tpe":
        # Fast trials reach their rungs first, and TPE would propose nothing else. So one trial in three is
        # random, as in BOHB (Falkner et al. 2018, arXiv 1807.01774).
        if definition.search.pruner.name == "asha" and seed % 3 == 0:
            return samplers.RandomSampler(seed=seed)
        # Each parameter by itself: a joint model leaves out those that only some trials have (momentum),
        # and on recorded curves needed a third more epochs.
        tpe = samplers.TPESampler(seed=seed, multivariate=False)
        if len(objectives.metrics) == 1:
            return tpe
        return ViewingSampler(tpe, objectives)
    if name == "nsgaii":
        nsgaii = SteadyNSGAIISampler(population_size=POPULATION, seed=seed)
        return ViewingSampler(nsgaii, objectives)
    # We offer conditional parameters ourselves. GP and QMC hand them to an independent sampler, and warn.
    if name == "gp":
        gp = samplers.GPSampler(seed=seed, warn_independent_sampling=False)
        return ViewingSampler(gp, objectives)
    if name == "freeze_thaw":
        return FreezeThawSampler(definition, seed, priors)
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
    trials: list[FrozenTrial],
    metric: Metric,
    ranked: Iterable[FrozenTrial] | None = None,
    is_informative: Callable[[FrozenTrial], bool] = is_informative,
) -> list[FrozenTrial]:
    """Return the trials that a sampler sees: the best, the newest and the running ones.

    Args:
        trials: A study's trials, by number.
        metric: What their values are of.
        ranked: The informative ones of them, by descending ``rank_key``; sorted here if None.
        is_informative: Which trials are informative; running ones may be, too.

    Returns:
        The ``NEWEST_TRIALS`` informative trials, the ``BEST_TRIALS`` among the older, and those running
        that are not informative, by number. If there are no more than these two numbers together,
        ``trials`` itself, with failed ones.
    """
    if len(trials) <= BEST_TRIALS + NEWEST_TRIALS:
        return trials
    if ranked is None:
        ranked = sorted(
            filter(is_informative, trials), key=lambda each: rank_key(each, metric), reverse=True
        )
    newest = list(itertools.islice(filter(is_informative, reversed(trials)), NEWEST_TRIALS))
    selected = set(map(id, newest))
    older = (trial for trial in ranked if id(trial) not in selected)
    running = (each for each in trials if each.state == TrialState.RUNNING and not is_informative(each))
    return sorted(
        [*itertools.islice(older, BEST_TRIALS), *newest, *running], key=lambda trial: trial.number
    )


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
