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

import optuna
from optuna import pruners
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.study.definition import Definition


def build_pruner(definition: Definition) -> pruners.BasePruner:
    """Build the pruner of a study.

    Returns:
        The pruner. It prunes nothing if the study's is ``asha`` (see ``RungTable``) or ``none``, or could
        not act before the last epoch of a searched trial.
    """
    settings, last_epoch = definition.search.pruner, definition.max_epochs()
    if settings.name in ("none", "asha") or settings.min_epochs >= last_epoch:
        return pruners.NopPruner()
    if settings.name == "hyperband":
        return CachedHyperbandPruner(
            min_resource=settings.min_epochs,
            max_resource=last_epoch,
            reduction_factor=settings.reduction_factor,
        )
    if settings.name == "patient":
        with ignore_experimental_warnings():
            return pruners.PatientPruner(_MinEpochsPruner(settings.min_epochs), patience=settings.patience)
    return pruners.PercentilePruner(
        50.0 if settings.name == "median" else settings.percentile,
        n_startup_trials=settings.startup_trials,
        n_warmup_steps=settings.min_epochs,
    )


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
