"""Samplers and pruners, built anew for each trial from the study's definition.

Optuna keeps neither in the database, so every worker has to build the same ones. A sampler's seed is
derived from the study's seed and the trial's number: two workers that start with one seed would
propose the same settings in the start-up rounds. QMC is the exception, since all trials of a study
take their points from one sequence, whose seed therefore is shared.

What a proposal costs grows with the trials that its sampler looks at. So it is shown the ``BEST`` and the
``NEWEST``, and what runs. To TPE that is nearly the same: it takes the best tenth, at most 25 trials, for
good, by the order of ``standing``, and lets the others count the less the older they are.
"""

import contextlib
import copy
import functools
import hashlib
import itertools
import logging
import math
import warnings
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import optuna
from optuna import pruners, samplers
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.study.definition import Definition
from hpo.study.space import Value

BEST_TRIALS = NEWEST_TRIALS = 150  # trials that a sampler is shown of those that have come to something


def derive_seed(seed: int, number: int) -> int:
    """Derive a trial's sampler seed, below 2**32, from the study's seed and the trial's number."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")


def build_sampler(definition: Definition, number: int) -> samplers.BaseSampler:
    """Build the sampler that proposes the setting of trial ``number``."""
    name, seed = definition.search.sampler.name, definition.search.sampler.seed
    own = derive_seed(seed, number)
    if name == "tpe":
        # What is quick reaches its rungs first, and would have the sampler propose nothing else: one trial
        # in three is random, as in BOHB (Falkner et al. 2018).
        if definition.search.pruner.name == "asha" and own % 3 == 0:
            return samplers.RandomSampler(seed=own)
        # Each parameter by itself: a joint model leaves out those that only some trials have (momentum),
        # and on recorded curves needed a third more epochs.
        return samplers.TPESampler(seed=own, multivariate=False)
    # Conditional parameters are ours to offer; GP and QMC leave them to a sampler of their own, and warn.
    if name == "gp":
        return PrunedAwareGPSampler(seed=own, warn_independent_sampling=False)
    if name == "random":
        return samplers.RandomSampler(seed=own)
    if name == "qmc":
        logging.getLogger("optuna.samplers._qmc").setLevel(logging.ERROR)
        with _ignore_experimental_warnings():
            return samplers.QMCSampler(
                scramble=True,
                seed=seed,
                independent_sampler=samplers.RandomSampler(seed=own),
                warn_independent_sampling=False,
            )
    return PointSampler([definition.complete_hyperparameters(point) for point in definition.points])


def is_informative(trial: FrozenTrial) -> bool:
    """Tell whether a sampler can learn from how a trial did."""
    return trial.state not in (TrialState.RUNNING, TrialState.FAIL)


def rank_key(trial: FrozenTrial) -> tuple[float, float]:
    """Give what ranks trials as TPE does, best highest: whole ones, then by epochs, then by accuracy."""
    step = trial.last_step or 0
    if trial.state == TrialState.COMPLETE:
        return math.inf, trial.values[0]
    return step, trial.intermediate_values.get(step, 0.0)


def select_trials(
    trials: list[FrozenTrial], ranked: Iterable[FrozenTrial] | None = None
) -> list[FrozenTrial]:
    """Give those of a study's trials, which come by number, that a sampler is to see.

    ``ranked`` are those that have come to something, by ``standing``, if whoever asks knows that.
    """
    if len(trials) <= BEST_TRIALS + NEWEST_TRIALS:
        return trials
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    if ranked is None:
        ranked = sorted(filter(is_informative, trials), key=rank_key, reverse=True)
    newest = list(itertools.islice(filter(is_informative, reversed(trials)), NEWEST_TRIALS))
    seen = set(map(id, newest))
    older = (trial for trial in ranked if id(trial) not in seen)
    return sorted(
        [*itertools.islice(older, BEST_TRIALS), *newest, *running], key=lambda trial: trial.number
    )


def build_pruner(definition: Definition) -> pruners.BasePruner:
    """Build the study's pruner; one that could never act before a trial's last epoch prunes nothing."""
    settings, longest = definition.search.pruner, definition.max_epochs()
    if settings.name in ("none", "asha") or settings.min_epochs >= longest:
        return pruners.NopPruner()  # asha is ours: hpo.rungs
    if settings.name == "hyperband":
        return CachedHyperbandPruner(
            min_resource=settings.min_epochs,
            max_resource=longest,
            reduction_factor=settings.reduction_factor,
        )
    if settings.name == "patient":
        with _ignore_experimental_warnings():
            return pruners.PatientPruner(_MinEpochsPruner(settings.min_epochs), patience=settings.patience)
    return pruners.PercentilePruner(
        50.0 if settings.name == "median" else settings.percentile,
        n_startup_trials=settings.startup_trials,
        n_warmup_steps=settings.min_epochs,
    )


@contextlib.contextmanager
def _ignore_experimental_warnings() -> Iterator[None]:
    """Silence Optuna's notice that a class may change: pyproject.toml keeps its version narrow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


class _MinEpochsPruner(pruners.BasePruner):
    """Agrees to prune once a trial has had so many epochs; ``patient`` asks for its consent."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return (trial.last_step or 0) >= self.epochs


class CachedHyperbandPruner(pruners.HyperbandPruner):
    """Optuna's, but which bracket a trial is in, which its number decides, it works out just once.

    At 10,000 trials this, and to ask each of them, was two thirds of what a verdict took.
    """

    def _get_bracket_id(self, study: Study, trial: FrozenTrial) -> int:
        if not self._pruners:  # as long as no verdict was asked for, Optuna has but one bracket
            return super()._get_bracket_id(study, trial)
        return self.brackets(study, trial.number + 1)[trial.number]

    def brackets(self, study: Study, count: int) -> bytearray:
        """Give the brackets of a study's first ``count`` trials, and perhaps of more."""
        known = _known_brackets(study.study_name, tuple(self._trial_allocation_budgets))
        for number in range(len(known), count):
            numbered: Any = SimpleNamespace(number=number)
            known.append(super()._get_bracket_id(study, numbered))
        return known

    def _create_bracket_study(self, study: Study, bracket_id: int) -> Study:
        return _BracketStudy(study, self, bracket_id)


@functools.lru_cache(maxsize=16)
def _known_brackets(study_name: str, budgets: tuple[int, ...]) -> bytearray:
    """Give the brackets known so far of a study's trials, by number, for all its pruners to share."""
    return bytearray()


class _BracketStudy(Study):
    """A study with the trials of one bracket alone."""

    def __init__(self, study: Study, hyperband: CachedHyperbandPruner, bracket: int) -> None:
        super().__init__(study.study_name, study._storage, sampler=study.sampler, pruner=hyperband)
        self._hyperband, self._bracket = hyperband, bracket

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Give the bracket's trials, which come by number."""
        found = super().get_trials(deepcopy=deepcopy, states=states)
        if not found:
            return []
        brackets = self._hyperband.brackets(self, found[-1].number + 1)
        if found[-1].number == len(found) - 1:  # none is missing
            ours = brackets.translate(bytes(each == self._bracket for each in range(256)))
            return list(itertools.compress(found, ours))
        return [trial for trial in found if brackets[trial.number] == self._bracket]


class PrunedAwareGPSampler(samplers.GPSampler):
    """Optuna's Gaussian process, to which a trial that was pruned is one that ended with what it had.

    Optuna's own learns from complete trials alone: of a study whose pruner lets one in sixteen run to its
    end it would know next to nothing, and propose at random.
    """

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Give the parameters that all trials have."""
        return super().infer_relative_search_space(_PrunedAsCompleteStudy(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose values for the parameters that all trials have."""
        return super().sample_relative(_PrunedAsCompleteStudy(study), trial, search_space)


class _PrunedAsCompleteStudy(Study):
    """A study in which every trial that was pruned is complete."""

    def __init__(self, study: Study) -> None:
        super().__init__(study.study_name, study._storage, sampler=study.sampler, pruner=study.pruner)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = map(_as_complete, super()._get_trials(deepcopy=False))
        return [trial for trial in found if states is None or trial.state in states]


def _as_complete(trial: FrozenTrial) -> FrozenTrial:
    if trial.state != TrialState.PRUNED:
        return trial
    whole = copy.copy(trial)
    whole.state, whole.value = TrialState.COMPLETE, 0.0 if trial.value is None else trial.value
    return whole


class PointSampler(samplers.GridSampler):
    """A grid that is a list of points rather than a product of lists, each point run exactly once.

    Optuna's GridSampler runs points twice at the tail when several workers share a study, and never
    goes back to a failed one. Here each point is a trial made in advance, WAITING, that carries the
    point's index as ``grid_id``; which worker runs it, and how often it is tried, is the lease's
    matter. What is left for the sampler is to give the point's values under their own names, so that
    importance and plots see real hyperparameters. An Adam point simply has no momentum.
    """

    def __init__(self, points: Sequence[Mapping[str, Value]]) -> None:
        super().__init__({})  # the product of no lists; the points take its place
        self._points = list(points)
        self._n_min_trials = len(points)

    @staticmethod
    def point_attributes(index: int) -> dict[str, Any]:
        """Give the system attributes by which a trial is point ``index``, counted from 0."""
        return {"grid_id": index, "search_space": {}}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Prune a trial that nobody planned, where Optuna would run some point a second time."""
        if not {"grid_id", "fixed_params"} & trial.system_attrs.keys():
            raise optuna.TrialPruned("not one of the study's points")

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Give the value that the trial's point has for a parameter."""
        if "grid_id" not in trial.system_attrs:
            raise ValueError(f"{param_name}: a setting queued in a grid study must name every parameter")
        return self._points[trial.system_attrs["grid_id"]][param_name]

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Do nothing: the study is complete when no planned trial is left, which the lease knows."""
