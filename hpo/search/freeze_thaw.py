"""Freeze-thaw search: begin a new setting, or continue a paused trial, whichever promises more.

The pruner ``freeze_thaw`` pauses trials at rungs, as ASHA does, but its rungs are dense
(``DENSE_RUNGS``), and a model of all curves decides what continues (``curve_forecast``), not the ranks
within a rung. The sampler ``freeze_thaw`` proposes new settings by the same model. The idea is freeze-thaw
Bayesian optimization (Swersky et al. 2014, arXiv 1406.3896). Since a paused trial is resumed exactly, a
pause costs no more than a checkpoint.

The first ``RANDOM_TRIALS`` settings are random. Until they have begun, every trial pauses at the first
rung. Of the later settings one in ``RANDOM_SHARE`` is random, too: so a model that is wrong about a part of
the space finds out. When no new setting is left, paused trials continue while their chance to become the
best is at least ``LEAST_CHANCE``. The best trial so far continues in any case: the winner has to be a whole
training. So do the most promising ones until one trial in ``WHOLE_SHARE`` is whole: with few images the
first epochs say little, and the model is too sure of itself.

Fitting the model takes some tenths of a second. So it is fitted before the transaction that acts on it
(``CurveTable.prepare``), and the transaction compares what the model said with the trials as they are then.
"""

import math
from collections.abc import Collection, Iterable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from optuna import samplers
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.search.asha import PROMOTED_PAST_RUNG, RungDecision, Rungs, RungTable, paused_rung
from hpo.search.curve_forecast import CurveForecaster, CurveSpace, Forecast, curve_space, has_begun
from hpo.search.curve_model import Prior
from hpo.search.rank_prior import propose_by_priors
from hpo.study.definition import Definition

RANDOM_TRIALS = 15
PRIOR_SHARE = 4  # of the first settings one in so many is what earlier studies like best
RANDOM_SHARE = 4  # later on, one new setting in so many is random
LEAST_CHANCE = 0.05
WHOLE_SHARE = 8  # one trial in so many runs to its last epoch


def build_table(rungs: Rungs, trials: Iterable[FrozenTrial] = ()) -> "RungTable | CurveTable":
    """Return what decides at a study's rungs: a model of its curves if it has one, else the ranks.

    Args:
        rungs: The rungs of the study.
        trials: The trials known at the beginning.
    """
    if rungs.curves is None:
        return RungTable(rungs, trials)
    return CurveTable(rungs, rungs.curves, trials)


class CurveTable:
    """A study's trials, and what the model says of them; it answers what ``RungTable`` answers.

    Call ``update`` for every trial that is new or has changed, and ``prepare`` before a question.

    Args:
        rungs: The rungs of the study.
        space: What its curves are about.
        trials: The trials known at the beginning.
    """

    def __init__(self, rungs: Rungs, space: CurveSpace, trials: Iterable[FrozenTrial] = ()) -> None:
        self.rungs, self._space = rungs, space
        self._forecaster = CurveForecaster(space)
        self._trials: dict[int, FrozenTrial] = {}
        self._paused: dict[int, int] = {}  # the rung at which a trial waits, by number
        self._forecasts: dict[int, Forecast] = {}  # of paused trials and the own one, the best first
        self._finalists: set[int] = set()  # that run to the end whatever their chance, as of ``prepare``
        self._promise_of_new: float | None = None  # of the best new setting; None if none is left
        self._best: int | None = None  # number of the trial with the best value; None until it is asked for
        self._has_model = False
        self._max_trials_prepared: int | None = None  # None: a trial has changed since ``prepare``
        for trial in trials:
            self.update(trial)

    def update(self, trial: FrozenTrial) -> None:
        """Take in the present state of a trial."""
        self._trials[trial.number] = trial
        self._max_trials_prepared = self._best = None
        before, rung = self._paused.pop(trial.number, None), paused_rung(trial)
        if rung is not None and rung in self.rungs.epochs and self.rungs.is_compared(trial):
            self._paused[trial.number] = rung
        if self._paused.get(trial.number) != before:
            self._forecasts.pop(trial.number, None)  # it was of an earlier epoch

    def prepare(self, own: FrozenTrial | None = None) -> None:
        """Fit the model, and forecast the paused trials, unless nothing has changed since.

        Args:
            own: The worker's own trial, which has just reported at a rung; None if it has none.
        """
        if own is not None:
            self.update(own)
        elif self._max_trials_prepared == self.rungs.max_trials:
            return
        self._max_trials_prepared = self.rungs.max_trials if own is None else None
        # Another tool may have a trial wait at a rung that has not even a setting.
        known = sorted(self._trials.items())
        begun = [trial for number, trial in known if has_begun(trial) or number in self._paused]
        compared = sum(map(self.rungs.is_compared, self._trials.values()))
        self._forecasts, self._promise_of_new, self._has_model = {}, None, False
        self._finalists = set()
        if len(begun) < RANDOM_TRIALS and compared < self.rungs.max_trials:
            return
        numbers = [*self._paused, *([] if own is None else [own.number])]
        fitted = self._forecaster.fit(begun, skipped=numbers)
        if fitted is None:
            return
        self._has_model = True
        forecasts = dict(zip(numbers, fitted.forecast(numbers), strict=True))
        ranked = sorted(forecasts, key=lambda number: (-forecasts[number].promise, number))
        self._forecasts = {number: forecasts[number] for number in ranked}
        self._finalists = self._choose_finalists(compared)
        if compared < self.rungs.max_trials:
            _, self._promise_of_new = fitted.propose(np.random.default_rng([self._space.seed, len(begun)]))

    def decide(self, own: FrozenTrial) -> RungDecision:
        """Return what happens to a trial that has just reported at a rung: it goes on, or pauses.

        It goes on if no other use of the next epochs promises more, by the model as ``prepare`` fitted it
        for this report; or if it had gone on from this rung before.
        """
        self.update(own)
        rung = own.last_step
        assert rung is not None
        order = [number for number in self._forecasts if number in self._paused or number == own.number]
        rank = 1 + order.index(own.number) if own.number in order else len(order) + 1
        next_use = next((number for number in order if self._is_worth(number)), None)
        forecast = self._forecasts.get(own.number)
        goes_on = next_use == own.number or own.system_attrs.get(PROMOTED_PAST_RUNG, 0) >= rung
        return RungDecision(
            kind="promoted" if goes_on else "paused",
            rung=rung,
            rank=rank,
            trials=max(len(order), rank),
            reason="" if goes_on else self._pause_reason(own.number, next_use),
            expected=None if forecast is None else forecast.interval,
        )

    def _pause_reason(self, number: int, next_use: int | None) -> str:
        """Return why a trial pauses: what promises more, or that it promises too little itself."""
        if number not in self._forecasts:
            return f"{min(RANDOM_TRIALS, self.rungs.max_trials)} settings are to begin first"
        forecast = self._forecasts[number]
        expected = _describe_forecast(forecast, self._space)
        if next_use is not None:
            return f"trial {next_use} promises more; {expected}"
        if self._promise_of_new is not None:
            return f"a new setting promises more; {expected}"
        return f"its chance to become the best is {100 * forecast.chance:.1f} %; {expected}"

    def _is_worth(self, number: int, *, is_new_left: bool = True) -> bool:
        """Return whether to continue a trial rather than to begin a new one or to end it."""
        forecast = self._forecasts[number]
        if is_new_left and self._promise_of_new is not None:
            return forecast.promise >= self._promise_of_new
        is_certain = number in self._finalists or number == self._best_number()
        return is_certain or forecast.chance >= LEAST_CHANCE

    def _choose_finalists(self, compared: int) -> set[int]:
        """Return the trials of which most is expected, as many as lack to one whole one in ``WHOLE_SHARE``.

        Args:
            compared: The number of trials that are compared.
        """
        whole = sum(
            trial.state == TrialState.COMPLETE and self.rungs.is_compared(trial)
            for trial in self._trials.values()
        )
        expected = {
            number: self._space.metric.score(each.value) for number, each in self._forecasts.items()
        }
        ranked = sorted(expected, key=lambda number: (-expected[number], number))
        return set(ranked[: max(math.ceil(compared / WHOLE_SHARE) - whole, 0)])

    def _best_number(self) -> int | None:
        """Return the number of the trial with the best value by now; of equal ones the first.

        Trials that ended without completing cannot be continued, so they do not count.
        """
        if self._best is not None:
            return self._best
        ended = (TrialState.FAIL, TrialState.PRUNED)
        found = {
            number: losses
            for number, trial in self._trials.items()
            if trial.state not in ended
            and (losses := self.rungs.losses(trial.last_step or 0, trial)) is not None
        }
        self._best = min(found, key=lambda number: (found[number], number), default=None)
        return self._best

    def next_promotion(self, *, taken: Collection[int] = (), last: bool = False) -> tuple[int, int] | None:
        """Return which paused trial continues next, by the model as ``prepare`` fitted it.

        Args:
            taken: Numbers of trials that other workers are continuing right now; they are passed over.
            last: Whether nothing but paused trials is left.

        Returns:
            The number of the trial and its rung, or None if no trial is to continue.
        """
        for number in self._forecasts:
            if (
                number in self._paused
                and number not in taken
                and self._is_worth(number, is_new_left=not last)
            ):
                return number, self._paused[number]
        if last and not self._has_model:  # without a model, in the order in which they began
            free = (number for number in sorted(self._paused) if number not in taken)
            return next(((number, self._paused[number]) for number in free), None)
        return None

    def first_paused(self) -> int | None:
        """Return the lowest number of a trial that waits at a rung; None if no trial does.

        Also None if one has paused since ``prepare``: it may be the best, and none is ended before a whole
        training has won.
        """
        return min(self._paused, default=None) if self._paused.keys() <= self._forecasts.keys() else None


def _describe_forecast(forecast: Forecast, space: CurveSpace) -> str:
    low, value, high = forecast.interval
    return (
        f"{space.metric.label} after epoch {space.last_epoch} expected at {value:.4f} "
        f"({low:.4f} to {high:.4f})"
    )


# The forecasters of samplers, by the storage of their study: each keeps its hyperparameters.
_FORECASTERS: WeakKeyDictionary[Any, CurveForecaster] = WeakKeyDictionary()


class FreezeThawSampler(samplers.BaseSampler):
    """Proposes the most promising new setting by a model of the study's curves.

    Args:
        definition: The study.
        seed: Of the trial.
        priors: What earlier studies say of settings.
    """

    def __init__(self, definition: Definition, seed: int, priors: tuple[Prior, ...] = ()) -> None:
        self._definition, self._seed, self._priors = definition, seed, priors
        self._random = samplers.RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return all parameters: they are proposed together, also those that not every trial has."""
        return {each.name: each.distribution() for each in self._definition.space}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose a setting; nothing, and thus a random one, for the first trials and some later ones."""
        if self._seed % RANDOM_SHARE == 0:
            return {}
        others = list(filter(has_begun, study._get_trials(deepcopy=False)))
        others = [each for each in others if each.number != trial.number]
        rng = np.random.default_rng(self._seed)
        if len(others) < RANDOM_TRIALS:
            if not self._priors or self._seed % PRIOR_SHARE != 1:
                return {}
            return propose_by_priors(self._priors, curve_space(self._definition).encoder, rng)
        if study._storage not in _FORECASTERS:
            _FORECASTERS[study._storage] = CurveForecaster(curve_space(self._definition, self._priors))
        fitted = _FORECASTERS[study._storage].fit(others)
        return {} if fitted is None else fitted.propose(rng)[0]

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Propose a random value."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)
