"""How long an epoch of a setting takes, from those of other settings.

The logarithm of the seconds is a linear function of the setting: the model that is trained, the batch size
and the like each multiply the seconds by a factor. It is fitted by ridge regression.
"""

from collections.abc import Sequence

import numpy as np

from hpo.search.curve_model import Array

PENALTY = 0.1  # of the squared weights; a factor that a single trial suggests counts little
LEAST_SECONDS = 1e-6  # an epoch takes at least so long; keeps logarithms finite


class SecondsModel:
    """Forecasts the seconds of an epoch.

    Args:
        is_choice: For each parameter, whether it is a list of choices.
        rows_NP: Settings, as ``SpaceEncoder`` encodes them.
        seconds_N: Of an epoch of each; maybe none.
    """

    def __init__(self, is_choice: Sequence[bool], rows_NP: Array, seconds_N: Array) -> None:
        self._is_choice = is_choice
        self._choices = [
            np.unique(rows_NP[:, column]) if choice and len(rows_NP) else np.empty(0)
            for column, choice in enumerate(is_choice)
        ]
        logarithms = np.log(np.maximum(seconds_N, LEAST_SECONDS))
        self._mean = float(logarithms.mean()) if len(logarithms) else 0.0
        features = self._features(rows_NP)
        self._center = features.mean(axis=0) if len(features) else np.zeros(features.shape[1])
        centered = features - self._center
        squares = centered.T @ centered + PENALTY * np.eye(features.shape[1])
        self._weights = np.linalg.solve(squares, centered.T @ (logarithms - self._mean))

    def log_seconds(self, rows: Array) -> Array:
        """Return the logarithms of the seconds of an epoch; 0 if nothing is known of any setting."""
        return np.asarray(self._mean + (self._features(rows) - self._center) @ self._weights)

    def _features(self, rows: Array) -> Array:
        """Return a column for each range, and one for each choice that was seen."""
        columns = [
            (rows[:, [column]] == self._choices[column]).astype(float)
            if choice
            else rows[:, [column]].astype(float)
            for column, choice in enumerate(self._is_choice)
        ]
        return np.hstack(columns)
