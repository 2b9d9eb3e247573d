"""What a model of a study's curves forecasts: how good paused trials and new settings will be.

A forecast is of a trial's best value after its last epoch. What a use of the next epochs promises is its
expected improvement, by how much that value is expected to exceed the best so far, divided by the square
root of the seconds that are left to the trial. The square root is a compromise: without the division too
many trials would begin, with a whole division those that are nearly done would always win. Seconds per
epoch are forecast, too (``seconds_model``).

The model (``curve_model``) learns from values at the epochs at which they were measured. They are replaced
by the normal quantiles of their ranks (Salinas et al. 2020, "A Quantile-based Approach for Hyperparameter
Transfer Learning", arXiv 1909.13595): most settings are far below the best, and the process would take
their distances for important. Running trials count with the final values that the model predicts for them,
so that other workers try something else. A trial that failed or diverged, or was ended before its first
report, counts as one that ended with the worst value of all: the like would only fail again.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are first used
from optuna.trial import FrozenTrial, TrialState

from hpo.search.curve_model import NEW_TRIAL, Array, CurveModel, Indices, Observations, Prior
from hpo.search.early_stopping import has_stopped_early
from hpo.search.encoding import SpaceEncoder
from hpo.search.seconds_model import SecondsModel
from hpo.study.definition import Definition
from hpo.study.space import Choices, Parameter, Setting, Value
from hpo.training.metric import Metric

CANDIDATES = 600  # new settings that are compared; half of them random, the others near good ones
GOOD_TRIALS = 10  # of which settings nearby are tried
MUTATIONS = ((0.03, 0.3), (0.1, 0.3), (0.3, 0.5))  # how far a value moves, and which share of the values
MAX_OBSERVATIONS = 300
MIN_GROWTH = 1.15  # hyperparameters are fitted again once there are so many times the reported epochs
COST_POWER = 0.5  # of the seconds that are left to a trial, by which an improvement is divided
LEAST_IMPROVEMENT = 1e-12  # keeps logarithms finite
UNCERTAINTY = 1.5  # the model's deviations are multiplied by this: fitted processes are too sure


@dataclass(frozen=True, kw_only=True)
class CurveSpace:
    """What a study's curves are about."""

    encoder: SpaceEncoder
    metric: Metric
    last_epoch: int  # of the longest trial
    seed: int
    priors: tuple[Prior, ...] = ()  # what earlier studies say of settings

    def end_epoch(self, setting: Setting) -> int:
        """Return the last epoch of a trial with a setting; the epochs may be searched."""
        epochs = setting.get("epochs", self.encoder.fallback.get("epochs"))
        return epochs if isinstance(epochs, int) else self.last_epoch

    def end_epochs(self, rows: Array) -> Array:
        """Return the same for encoded settings."""
        if not any(each.name == "epochs" for each in self.encoder.parameters):
            return np.full(len(rows), float(self.end_epoch({})))
        return np.array([self.end_epoch(self.encoder.decode(row)) for row in rows.tolist()], dtype=float)

    def time(self, epochs: Array) -> Array:
        """Return epochs as the model takes them: logarithms, as a share of that of the last epoch."""
        return np.asarray(np.log(np.maximum(epochs, 1)) / max(math.log(self.last_epoch), math.log(2)))


def curve_space(definition: Definition, priors: tuple[Prior, ...] = ()) -> CurveSpace:
    """Return what the curves of a study with one objective are about.

    Args:
        definition: The study.
        priors: What earlier studies say of its settings.
    """
    return CurveSpace(
        encoder=SpaceEncoder(definition.space or _listed_parameters(definition), definition.train),
        metric=definition.metric,
        last_epoch=definition.max_epochs(),
        seed=definition.search.sampler.seed,
        priors=priors,
    )


def _listed_parameters(definition: Definition) -> tuple[Parameter, ...]:
    """Return the options that the listed points of a study without a space give, as lists of choices."""
    settings = [point.setting for point in definition.listed_points]
    values: dict[str, dict[Value, None]] = {}
    for name, value in (each for setting in settings for each in setting.items()):
        values.setdefault(name, {})[value] = None
    return tuple(
        Parameter(name=name, kind="choice", values=Choices(choices=tuple(found)))
        for name, found in values.items()
    )


def has_begun(trial: FrozenTrial) -> bool:
    """Return whether a trial's setting is known; a listed point may have no parameters."""
    return bool(trial.params or trial.intermediate_values)


@dataclass(frozen=True)
class TrialCurve:
    """The epochs of a trial and its best values up to each; scores, so that higher is better.

    A score is minus infinity as long as no value is finite. It then counts as the worst one of all trials.
    """

    row: list[float]
    epochs: list[int]
    scores: list[float]
    end: int  # its last epoch, if nothing ends it before
    is_running: bool
    epoch_seconds: float | None  # mean; None if unknown

    @classmethod
    def of_trial(cls, trial: FrozenTrial, space: CurveSpace) -> "TrialCurve":
        """Return the curve of a trial, which must have its setting."""
        end, values = space.end_epoch(trial.params), trial.intermediate_values
        has_failed = trial.state == TrialState.FAIL or "failure" in trial.user_attrs
        if has_failed or (trial.state == TrialState.PRUNED and not values):
            values = {end: math.nan}
        if values and has_stopped_early(trial):
            values = values | {max(end, *values): values[max(values)]}
        epochs = sorted(values)
        scores, best = [], -math.inf
        for epoch in epochs:
            score = space.metric.score(values[epoch])
            best = max(best, score) if math.isfinite(score) else best
            scores.append(best)
        seconds = trial.user_attrs.get("epoch_seconds")
        return cls(
            row=space.encoder.encode(trial.params),
            epochs=epochs,
            scores=scores,
            end=max([end, *epochs]),
            is_running=trial.state == TrialState.RUNNING,
            epoch_seconds=sum(seconds) / len(seconds) if seconds else None,
        )

    @property
    def best(self) -> float:
        """The best score; minus infinity if there is none."""
        return self.scores[-1] if self.scores else -math.inf


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What the model believes of a trial's best value after its last epoch."""

    promise: float  # the logarithm of its expected improvement by cost
    chance: float  # of becoming the best
    low: float  # the value that is exceeded with a probability of 90 %
    value: float  # the median
    high: float  # the value that is exceeded with a probability of 10 %

    @property
    def interval(self) -> tuple[float, float, float]:
        """The lower end, the median and the upper end of where the value comes with 80 %."""
        return min(self.low, self.high), self.value, max(self.low, self.high)


class CurveForecaster:
    """Fits the model to a study's trials, and tells what paused trials and new settings promise.

    It keeps the hyperparameters, so that it need not fit them for each question.

    Args:
        space: What the curves are about.
    """

    def __init__(self, space: CurveSpace) -> None:
        self.space = space
        self._hyperparameters: Array | None = None
        self._fitted_count = 0  # epochs reported by the last fit

    def fit(self, trials: Sequence[FrozenTrial], skipped: Collection[int] = ()) -> "FittedCurves | None":
        """Fit the model; None if no trial has a finite value yet.

        Args:
            trials: The study's trials that have begun.
            skipped: Numbers of running trials that are to be forecast, and not to count as done.
        """
        curves = [TrialCurve.of_trial(trial, self.space) for trial in trials]
        seen, warp = observe_curves(curves, self.space)
        if seen is None:
            return None
        count = sum(len(curve.epochs) for curve in curves)
        is_due = self._hyperparameters is None or count > MIN_GROWTH * self._fitted_count + 1
        is_choice, priors = self.space.encoder.is_choice, self.space.priors
        model = CurveModel(is_choice, seen, self._hyperparameters, fit=is_due, priors=priors)
        if is_due:
            self._hyperparameters, self._fitted_count = model.hyperparameters, count
        running = [
            index
            for index, (curve, trial) in enumerate(zip(curves, trials, strict=True))
            if curve.is_running and trial.number not in skipped
        ]
        if running:
            rows = np.array([curves[index].row for index in running])
            ends, indices = _ends([curves[index] for index in running], self.space), np.array(running)
            means, _ = model.predict(rows, ends, indices)
            seen = Observations(
                np.vstack([seen.rows_NP, rows]),
                np.concatenate([seen.times_N, ends]),
                np.concatenate([seen.trials_N, indices]),
                np.concatenate([seen.values_N, means]),
            )
            model = CurveModel(is_choice, seen, self._hyperparameters, fit=False, priors=priors)
        positions = {trial.number: index for index, trial in enumerate(trials)}
        return FittedCurves(self.space, curves, positions, model, warp)


class RankWarp:
    """Replaces scores by normal quantiles of their ranks, and back; linear above the best score.

    Args:
        scores: The scores seen.
    """

    def __init__(self, scores: Array) -> None:
        ordered = np.sort(scores)
        quantiles = scipy.special.ndtri((np.arange(len(ordered)) + 0.5) / len(ordered))
        self._scores, first, counts = np.unique(ordered, return_index=True, return_counts=True)
        self._quantiles = np.add.reduceat(quantiles, first) / counts
        back = max(len(self._scores) - 4, 0)
        rise = self._quantiles[-1] - self._quantiles[back]
        distance = max(self._scores[-1] - self._scores[back], 1e-30)
        self._slope = rise / distance if len(self._scores) > 1 else 1.0

    def __call__(self, scores: Array) -> Array:
        """Return the quantiles of scores."""
        inside = np.interp(scores, self._scores, self._quantiles)
        return np.asarray(inside + np.maximum(scores - self._scores[-1], 0.0) * self._slope)

    def inverse(self, quantile: float) -> float:
        """Return the score of a quantile."""
        beyond = max(quantile - self._quantiles[-1], 0.0) / self._slope
        return float(np.interp(quantile, self._quantiles, self._scores) + beyond)


def observe_curves(curves: Sequence[TrialCurve], space: CurveSpace) -> tuple[Observations | None, RankWarp]:
    """Return what the model learns from: of each trial its last epoch, and some of those before it.

    Of more than ``MAX_OBSERVATIONS`` it takes the last epochs of the best and of the newest trials, half of
    each, before the earlier ones of the best.
    """
    kept = {2**power for power in range(32)}
    found = [
        (epoch == curve.epochs[-1], curve.best, index, epoch, score)
        for index, curve in enumerate(curves)
        for epoch, score in zip(curve.epochs, curve.scores, strict=True)
        if epoch in kept or epoch == curve.epochs[-1]
    ]
    if len(found) > MAX_OBSERVATIONS:
        found.sort(key=lambda each: each[:3], reverse=True)
        best, others = found[: MAX_OBSERVATIONS // 2], found[MAX_OBSERVATIONS // 2 :]
        others.sort(key=lambda each: (each[0], each[2] if each[0] else each[1]), reverse=True)
        found = best + others[: MAX_OBSERVATIONS - len(best)]
    scores = np.array([each[4] for each in found])
    if not np.isfinite(scores).any():
        return None, RankWarp(np.zeros(1))
    scores = np.maximum(scores, scores[np.isfinite(scores)].min())
    warp = RankWarp(scores)
    return Observations(
        np.array([curves[each[2]].row for each in found]),
        space.time(np.array([each[3] for each in found])),
        np.array([each[2] for each in found]),
        warp(scores),
    ), warp


def _ends(curves: Sequence[TrialCurve], space: CurveSpace) -> Array:
    return space.time(np.array([curve.end for curve in curves]))


class FittedCurves:
    """The fitted model of a study's trials."""

    def __init__(
        self,
        space: CurveSpace,
        curves: list[TrialCurve],
        positions: dict[int, int],
        model: CurveModel,
        warp: RankWarp,
    ) -> None:
        self._space, self._curves, self._positions = space, curves, positions
        self._model, self._warp = model, warp
        timed = [curve for curve in curves if curve.epoch_seconds is not None]
        self._seconds = SecondsModel(
            space.encoder.is_choice,
            np.array([curve.row for curve in timed]).reshape(-1, len(space.encoder.parameters)),
            np.array([curve.epoch_seconds for curve in timed], dtype=float),
        )
        self._best = max(curve.best for curve in curves)

    def forecast(self, numbers: Sequence[int]) -> list[Forecast]:
        """Return what the model believes of trials."""
        if not numbers:
            return []
        indices = np.array([self._positions[number] for number in numbers])
        curves = [self._curves[index] for index in indices]
        rows = np.array([curve.row for curve in curves])
        left = np.array([curve.end - max([0, *curve.epochs]) for curve in curves])
        means, deviations, promises = self._predict(rows, _ends(curves, self._space), indices, left)
        best, (lowest, highest) = float(self._warp(np.array(self._best))), self._space.metric.limits

        def value_at(quantile: float, curve: TrialCurve) -> float:
            """Return the value of a quantile: no worse than the trial's, and within the metric's limits."""
            value = self._space.metric.score(max(self._warp.inverse(quantile), curve.best))
            return min(max(value, lowest), highest)

        return [
            Forecast(
                promise=float(promise),
                chance=float(scipy.special.ndtr((mean - best) / deviation)),
                low=value_at(mean - 1.2816 * deviation, curve),
                value=value_at(mean, curve),
                high=value_at(mean + 1.2816 * deviation, curve),
            )
            for curve, mean, deviation, promise in zip(curves, means, deviations, promises, strict=True)
        ]

    def final_quantiles(self, rows: Array) -> Array:
        """Return the normal quantiles that settings are expected to end at among the values seen."""
        times = self._space.time(self._space.end_epochs(rows))
        return self._model.predict(rows, times, np.full(len(rows), NEW_TRIAL))[0]

    def propose(self, rng: np.random.Generator) -> tuple[dict[str, Value], float]:
        """Return the most promising of ``CANDIDATES`` settings, and what it promises.

        It has no trial of this study yet, unless all candidates have one.
        """
        encoder = self._space.encoder
        ranked = sorted((curve for curve in self._curves if curve.best > -math.inf), key=lambda c: -c.best)
        good = np.array([curve.row for curve in ranked[:GOOD_TRIALS]])
        parts = [encoder.random_rows(CANDIDATES // 2, rng)]
        for scale, share in MUTATIONS:
            parents = good[rng.integers(len(good), size=CANDIDATES // (2 * len(MUTATIONS)))]
            parts.append(encoder.mutate_rows(parents, rng, scale=scale, share=share))
        rows = np.vstack(parts)
        ends = self._space.end_epochs(rows)
        _, _, promises = self._predict(rows, self._space.time(ends), np.full(len(rows), NEW_TRIAL), ends)
        own = [index for number, index in self._positions.items() if number >= 0]
        tried = {frozenset(encoder.decode(self._curves[index].row).items()) for index in own}
        order = np.argsort(-promises)
        settings = ((index, encoder.decode(rows[index].tolist())) for index in order)
        untried = (each for each in settings if frozenset(each[1].items()) not in tried)
        best, setting = next(untried, (order[0], encoder.decode(rows[order[0]].tolist())))
        return setting, float(promises[best])

    def _predict(
        self, rows: Array, times: Array, indices: Indices, left: Array
    ) -> tuple[Array, Array, Array]:
        """Return means and deviations at the ends of trials, and what the trials promise.

        Args:
            rows: Their settings.
            times: Their ends.
            indices: Of their curves; ``NEW_TRIAL`` for new ones.
            left: Their epochs that are left.
        """
        means, deviations = self._model.predict(rows, times, indices)
        deviations = deviations * UNCERTAINTY
        above = (means - float(self._warp(np.array(self._best)))) / deviations
        density = np.exp(-(above**2) / 2) / math.sqrt(2 * math.pi)
        improvements = deviations * (above * scipy.special.ndtr(above) + density)
        seconds = np.log(left + 1) + self._seconds.log_seconds(rows)
        return means, deviations, np.log(improvements + LEAST_IMPROVEMENT) - COST_POWER * seconds
