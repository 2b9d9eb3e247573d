"""Pruners: Optuna's, built anew for each trial from the study's definition. ASHA is our own, see ``asha``.

Optuna stores no pruner in the database, so every worker has to build the same one.
"""

import contextlib
import functools
import itertools
import warnings
from collections.abc import Container, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna import pruners
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.search import pareto
from hpo.search.objectives import Objectives
from hpo.study.definition import Definition


def build_pruner(definition: Definition) -> pruners.BasePruner:
    """Build the pruner of a study.

    Returns:
        The pruner. It prunes nothing if the study's is ``asha`` or ``freeze_thaw`` (see ``build_table``) or
        ``none``, or could not act before the last epoch of a searched trial.
    """
    settings, last_epoch = definition.search.pruner, definition.max_epochs()
    if settings.name in ("none", "asha", "freeze_thaw") or settings.min_epochs >= last_epoch:
        return pruners.NopPruner()
    if settings.name == "hyperband":
        options = (settings.min_epochs, last_epoch, settings.reduction_factor)
        if len(definition.objectives) > 1:
            return DominanceHyperbandPruner(Objectives(definition.objectives), *options)
        return CachedHyperbandPruner(*options)
    if settings.name == "patient":
        with ignore_experimental_warnings():
            return pruners.PatientPruner(_MinEpochsPruner(settings.min_epochs), patience=settings.patience)
    return pruners.PercentilePruner(
        50.0 if settings.name == "median" else settings.percentile,
        n_startup_trials=settings.startup_trials,
        n_warmup_steps=settings.min_epochs,
    )


def epochs_of_interest(definition: Definition) -> tuple[int, ...] | None:
    """Return after which epochs of a running trial others learn from it, in a study without ``Rungs``.

    Returns:
        The epochs of Hyperband's rungs, ascending; none if only ended trials count; None if every epoch
        does, since the sampler uses running trials too.
    """
    settings = definition.search.pruner
    if definition.search.sampler.name not in ("tpe", "random", "grid"):
        return None
    if settings.name != "hyperband":
        return ()  # these pruners compare with complete trials, or with none
    last_epoch = definition.max_epochs()
    powers = (settings.min_epochs * settings.reduction_factor**power for power in itertools.count())
    return tuple(itertools.takewhile(lambda epoch: epoch < last_epoch, powers))


@contextlib.contextmanager
def ignore_experimental_warnings() -> Iterator[None]:
    """Within the block, silence Optuna's warning that a class may change.

    pyproject.toml keeps Optuna's version narrow, so that no change comes unnoticed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


class _MinEpochsPruner(pruners.BasePruner):
    """Agrees to prune once a trial has had ``epochs`` epochs; PatientPruner asks for its consent."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return (trial.last_step or 0) >= self.epochs


class CachedHyperbandPruner(pruners.HyperbandPruner):
    """Optuna's Hyperband pruner, but it computes the bracket of each trial number only once.

    At 10,000 trials, computing the brackets and asking each trial for its own took two thirds of a
    decision.
    """

    def _get_bracket_id(self, study: Study, trial: FrozenTrial) -> int:
        if not self._pruners:  # before the first decision Optuna has only one bracket
            return super()._get_bracket_id(study, trial)
        return self.brackets(study, trial.number + 1)[trial.number]

    def brackets(self, study: Study, count: int) -> bytearray:
        """Return the brackets of a study's first trials.

        Args:
            study: The study, whose name decides the brackets.
            count: The least number of trials to return.

        Returns:
            The index of the bracket, by trial number; perhaps of more trials than ``count``.
        """
        known = _known_brackets(study.study_name, tuple(self._trial_allocation_budgets))
        for number in range(len(known), count):
            numbered: Any = SimpleNamespace(number=number)
            known.append(super()._get_bracket_id(study, numbered))
        return known

    def _create_bracket_study(self, study: Study, bracket_id: int) -> Study:
        return _BracketStudy(study, self, bracket_id)


class DominanceHyperbandPruner(CachedHyperbandPruner):
    """Hyperband for several objectives: in each bracket, a rung ranks by dominance (``pareto_order``).

    The brackets and their rungs are those of Optuna's pruner. At a rung, a trial goes on if it is among the
    best 1/``reduction_factor`` of the bracket's trials that have reached it, or is the best of them.

    Args:
        objectives: What trials are compared by.
        min_resource: The epoch of the first rung of the first bracket.
        max_resource: The last epoch.
        reduction_factor: The ratio between two rungs, and the share of trials that goes on.
    """

    def __init__(
        self, objectives: Objectives, min_resource: int, max_resource: int, reduction_factor: int
    ) -> None:
        super().__init__(min_resource, max_resource, reduction_factor)
        self._objectives, self._first_epoch, self._factor = objectives, min_resource, reduction_factor

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether a trial that has just reported ends at a rung."""
        if not self._pruners:
            self._try_initialization(study)
        epoch, bracket = trial.last_step or 0, self._get_bracket_id(study, trial)
        rung = self._first_epoch * self._factor**bracket
        while rung < epoch:
            rung *= self._factor
        if rung != epoch:
            return False
        others = self._create_bracket_study(study, bracket).get_trials(deepcopy=False)
        reached = {t.number: t for t in others if (t.last_step or 0) >= epoch} | {trial.number: trial}
        losses = {number: self._objectives.losses(each, epoch) for number, each in reached.items()}
        known = {number: each for number, each in sorted(losses.items()) if each is not None}
        order = [list(known)[index] for index in pareto.pareto_order(np.array(list(known.values())))]
        return order.index(trial.number) >= max(len(order) // self._factor, 1)


@functools.lru_cache(maxsize=16)
def _known_brackets(study_name: str, budgets: tuple[int, ...]) -> bytearray:
    """Return the brackets known so far, by trial number; a study's pruners share and extend them."""
    return bytearray()


class _BracketStudy(Study):
    """A view of a study with the trials of one bracket alone."""

    def __init__(self, study: Study, hyperband: CachedHyperbandPruner, bracket: int) -> None:
        super().__init__(study.study_name, study._storage, sampler=study.sampler, pruner=hyperband)
        self._hyperband, self._bracket = hyperband, bracket

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials of the bracket, by number."""
        found = super().get_trials(deepcopy=deepcopy, states=states)
        if not found:
            return []
        brackets = self._hyperband.brackets(self, found[-1].number + 1)
        if found[-1].number == len(found) - 1:  # none is missing
            mask = brackets.translate(bytes(each == self._bracket for each in range(256)))
            return list(itertools.compress(found, mask))
        return [trial for trial in found if brackets[trial.number] == self._bracket]
