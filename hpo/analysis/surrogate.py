"""The curve of any setting, from curves recorded earlier: a study's complete trials, or a file.

A recorded setting has its own curve. For settings in between, a random forest predicts the value after
each epoch and the seconds of the whole training. Eggensperger et al. (2015, "Efficient Benchmarking of
Hyperparameter Optimizers via Surrogates") found such surrogates to be the best. How far the prediction can
be trusted is measured by cross-validation (``Surrogate.explained_variance``).
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna

from hpo.analysis.recorded_curves import Curve, RecordedCurves
from hpo.study import space
from hpo.study.space import Choices, Setting

TREES = 50
FOLDS = 10  # of the cross-validation
SAMPLED_SETTINGS = 1000  # random settings among which the best value is looked for
SURROGATE_NAME = "random forest"


class Surrogate:
    """Predicts the curve of any setting in a space.

    It sets the verbosity of Optuna's log to warnings, in the whole process.

    Args:
        recorded: The curves to learn from.
    """

    def __init__(self, recorded: RecordedCurves) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # Optuna logs each simulated study
        self.recorded = recorded
        self.space = list(recorded.definition.parameters().values())
        self._known_curves = {
            _setting_key(setting): curve
            for setting, curve in zip(recorded.settings, recorded.curves, strict=True)
        }
        self._targets = np.array([[*curve.values, curve.total_seconds] for curve in recorded.curves])

    def predict_curve(self, setting: Setting) -> Curve:
        """Return the recorded curve of a setting, or the forest's prediction if none is recorded."""
        known = self._known_curves.get(_setting_key(setting))
        if known is not None:
            return known
        # For a single setting, the forest's own predict takes ten times as long.
        features = np.array([self._encode(setting)], dtype=np.float32)
        predictions = [tree.tree_.predict(features)[0, :, 0] for tree in self._forest.estimators_]
        *values, seconds = np.mean(predictions, axis=0)
        return Curve(values=tuple(map(float, values)), total_seconds=float(seconds))

    @functools.cached_property
    def best_value(self) -> float:
        """The best value known.

        It is the best of the recorded settings; of a search, also of ``SAMPLED_SETTINGS`` random ones.
        """
        metric = self.recorded.metric
        best = max((value for curve in self.recorded.curves for value in curve.values), key=metric.score)
        if not self.recorded.definition.searches:
            return best
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        known = self.recorded.definition
        asked = (study.ask() for _ in range(SAMPLED_SETTINGS))
        settings = (space.suggest_setting(trial, known.space, known.train) for trial in asked)
        predicted = self._forest.predict(np.array([self._encode(setting) for setting in settings]))
        return max([best, *map(float, predicted[:, :-1].flat)], key=metric.score)

    @functools.cached_property
    def explained_variance(self) -> float:
        """The share of the variance of best values that it explains for settings it has not seen.

        This is the coefficient of determination R^2 in a cross-validation with ``FOLDS`` folds. It is
        negative where the mean would predict better.
        """
        from sklearn.metrics import r2_score
        from sklearn.model_selection import KFold, cross_val_predict

        best_of = np.min if self.recorded.metric.is_minimized else np.max
        best = best_of(self._targets[:, :-1], axis=1)
        folds = KFold(min(FOLDS, len(best)), shuffle=True, random_state=0)
        predicted = cross_val_predict(self._new_forest(), self._features, self._targets, cv=folds)
        return float(r2_score(best, best_of(predicted[:, :-1], axis=1)))

    @functools.cached_property
    def _features(self) -> Any:
        """The recorded settings as an array of settings by features."""
        return np.array([self._encode(setting) for setting in self.recorded.settings])

    @functools.cached_property
    def _forest(self) -> Any:
        return self._new_forest().fit(self._features, self._targets)

    def _new_forest(self) -> Any:
        from sklearn.ensemble import RandomForestRegressor

        return RandomForestRegressor(TREES, random_state=0)

    def _encode(self, setting: Setting) -> list[float]:
        """Return a setting as features.

        A parameter with choices gives a 0 or 1 for each choice. A range gives the position in it, from 0 to
        1, or -1 if the setting does not have the parameter.
        """
        features: list[float] = []
        for parameter in self.space:
            value, values = setting.get(parameter.name), parameter.values
            if isinstance(values, Choices):
                features += [float(value == choice) for choice in values.choices]
            elif isinstance(value, int | float):
                scale = math.log if values.log else float
                low, high = scale(values.low), scale(values.high)
                features.append((scale(value) - low) / ((high - low) or 1.0))
            else:
                features.append(-1.0)
        return features


def _setting_key(setting: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(setting.items()))
