"""A Gaussian process over learning curves: the value that any setting has reached after any epoch.

The value of trial i after epoch t is modelled as

    trend(t) + quality(x_i) + shape(x_i, t) + weights . prior(x_i) + run_i + noise

where x is the setting and t the logarithm of the epoch. Each term is a Gaussian process: ``trend`` over t,
``quality`` over x, ``shape`` with the product of both kernels, ``run`` a constant of the trial. ``prior``
is what earlier studies say of a setting, a number for each; its weights are normal. This is the
idea of freeze-thaw Bayesian optimization (Swersky et al. 2014, arXiv 1406.3896) with the kernel over
settings and epochs of DyHPO (Wistuba et al. 2022, arXiv 2202.09774), without its network. So a value at
epoch 2 informs about the last epoch as much as other curves say that it does.

Kernels over settings are Matern 5/2 with a length scale for each parameter; two choices of a list differ by
a distance of 1. The hyperparameters maximise the posterior density (gradients by hand, L-BFGS from SciPy).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are first used
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

Prior = Callable[[Array], Array]  # settings as rows, M x P, to what an earlier study says of each, M

JITTER = 1e-6
NEW_TRIAL = -1  # the index of a trial that has not begun
# Logarithms of the standard deviations of the terms, of the length scale over time and of the noise: the
# mean and the deviation of their prior. The values of the trials have a deviation of about 1.
PRIORS = {
    "trend": (math.log(0.5), 1.0),
    "quality": (math.log(0.8), 0.7),
    "shape": (math.log(0.4), 0.7),
    "run": (math.log(0.3), 0.5),
    "noise": (math.log(0.05), 0.8),
    "time": (math.log(0.6), 0.5),
}
LENGTH_PRIOR = (math.log(0.7), 0.9)  # of each parameter's length scale
WEIGHT_PRIOR = (math.log(0.5), 1.0)  # of the standard deviation of each earlier study's weight
BOUND = 3.0  # a hyperparameter stays within so many deviations of its prior's mean


@dataclass(frozen=True)
class Observations:
    """Values of trials after some of their epochs; N in all, of settings with P parameters."""

    rows_NP: Array
    times_N: Array  # logarithms of the epochs, as a share of that of the last one
    trials_N: Indices
    values_N: Array


class CurveModel:
    """The posterior of the process.

    Attributes:
        hyperparameters: Logarithms of the P length scales, then of what ``PRIORS`` names, then of the
            deviation of each earlier study's weight.

    Args:
        is_choice: For each parameter, whether it is a list of choices.
        seen: What it learns from, at least one observation.
        start: Hyperparameters to start the fit from; None for the means of their priors.
        fit: Whether to fit the hyperparameters; otherwise those of ``start`` are taken.
        priors: What earlier studies say: each gives a number for each of some settings.
    """

    def __init__(
        self,
        is_choice: list[bool],
        seen: Observations,
        start: Array | None = None,
        *,
        fit: bool = True,
        priors: Sequence[Prior] = (),
    ) -> None:
        self._is_choice, self._seen, self._priors = is_choice, seen, priors
        known = [*[LENGTH_PRIOR] * len(is_choice), *PRIORS.values(), *[WEIGHT_PRIOR] * len(priors)]
        self._means, self._deviations = np.array(known).T
        self._said_SN = [prior(seen.rows_NP) for prior in priors]
        self._squares = self._square_distances(seen.rows_NP)
        self._time_squares = (seen.times_N[:, None] - seen.times_N[None, :]) ** 2
        self._same = (seen.trials_N[:, None] == seen.trials_N[None, :]).astype(float)
        self.hyperparameters = self._means.copy() if start is None else start
        if fit:
            self.hyperparameters = self._fit()
        kernel, _ = self._kernel_of_seen(self.hyperparameters)
        self._factor: Array = scipy.linalg.cholesky(kernel, lower=True)
        self._weights_N = scipy.linalg.cho_solve((self._factor, True), seen.values_N)

    def _square_distances(self, rows: Array) -> Array:
        """Return the squared distances to the seen rows by parameter, P x N x len(rows)."""
        seen = self._seen.rows_NP
        return np.stack(
            [
                (seen[:, [column]] != rows[:, column]).astype(float)
                if is_choice
                else (seen[:, [column]] - rows[:, column]) ** 2
                for column, is_choice in enumerate(self._is_choice)
            ]
        )

    def _kernel_of_seen(self, theta: Array) -> tuple[Array, dict[str, Array]]:
        """Return the covariance of the observations, and the parts that its gradient is made of."""
        count = len(self._is_choice)
        trend, quality, shape, run, noise, time = theta[count : count + len(PRIORS)]
        inverse_P = np.exp(-2 * theta[:count])
        x_NN, slope_NN = _matern(np.tensordot(inverse_P, self._squares, axes=1))
        t_NN = np.exp(-0.5 * self._time_squares * math.exp(-2 * time))
        parts = {
            "trend": math.exp(2 * trend) * t_NN,
            "quality": math.exp(2 * quality) * x_NN,
            "shape": math.exp(2 * shape) * x_NN * t_NN,
            "run": math.exp(2 * run) * self._same,
        }
        for index, (weight, said_N) in enumerate(
            zip(theta[count + len(PRIORS) :], self._said_SN, strict=True)
        ):
            parts[f"prior {index}"] = math.exp(2 * weight) * np.outer(said_N, said_N)
        kernel = sum(parts.values()) + (math.exp(2 * noise) + JITTER) * np.eye(len(x_NN))
        parts["slope"] = slope_NN * (math.exp(2 * quality) + math.exp(2 * shape) * t_NN)
        return kernel, parts

    def loss_and_gradient(self, theta: Array) -> tuple[float, Array]:
        """Return the negative logarithm of the posterior density of hyperparameters, and its gradient.

        The density is that of the values and of the prior, without constant factors.

        Args:
            theta: As ``hyperparameters``.
        """
        kernel, parts = self._kernel_of_seen(theta)
        try:
            factor = scipy.linalg.cholesky(kernel, lower=True, check_finite=False)
        except scipy.linalg.LinAlgError:
            return 1e10, np.zeros_like(theta)
        values, count = self._seen.values_N, len(self._is_choice)
        inverse = scipy.linalg.lapack.dpotri(factor, lower=1)[0]
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        weights = inverse @ values
        deviation = (theta - self._means) / self._deviations
        loss = 0.5 * values @ weights + np.log(np.diag(factor)).sum() + 0.5 * deviation @ deviation
        residual = 0.5 * (inverse - np.outer(weights, weights))  # gradient by the kernel's entries
        gradient = np.empty_like(theta)
        by_square = residual * parts["slope"]
        inverse_P = np.exp(-2 * theta[:count])
        gradient[:count] = np.tensordot(self._squares, by_square, axes=2) * -2 * inverse_P
        for index, name in enumerate(("trend", "quality", "shape", "run"), count):
            gradient[index] = 2 * (residual * parts[name]).sum()
        gradient[count + 4] = 2 * math.exp(2 * theta[count + 4]) * np.trace(residual)
        for index in range(len(self._priors)):
            gradient[count + len(PRIORS) + index] = 2 * (residual * parts[f"prior {index}"]).sum()
        timed = (parts["trend"] + parts["shape"]) * self._time_squares * math.exp(-2 * theta[count + 5])
        gradient[count + 5] = (residual * timed).sum()
        return float(loss), gradient + deviation / self._deviations

    def _fit(self) -> Array:
        bounds = list(
            zip(self._means - BOUND * self._deviations, self._means + BOUND * self._deviations, strict=True)
        )
        found = scipy.optimize.minimize(
            self.loss_and_gradient,
            self.hyperparameters,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": 30},
        )
        return np.asarray(found.x)

    def predict(self, rows: Array, times: Array, trials: Indices) -> tuple[Array, Array]:
        """Return the mean and the deviation of the values (without noise) of trials at times.

        Args:
            rows: The settings, M x P.
            times: The times, M.
            trials: The trials, M; ``NEW_TRIAL`` for a new one. It is taken for an average run of its
                setting: a lucky one would make any copy of the best setting look better than the best.
        """
        count = len(self._is_choice)
        theta = self.hyperparameters
        trend, quality, shape, run, _, time = theta[count : count + len(PRIORS)]
        x, _ = _matern(np.tensordot(np.exp(-2 * theta[:count]), self._square_distances(rows), axes=1))
        t = np.exp(-0.5 * (self._seen.times_N[:, None] - times) ** 2 * math.exp(-2 * time))
        cross = math.exp(2 * trend) * t + x * (math.exp(2 * quality) + math.exp(2 * shape) * t)
        cross += math.exp(2 * run) * (self._seen.trials_N[:, None] == trials)
        prior = np.where(trials == NEW_TRIAL, 0.0, math.exp(2 * run))
        prior += sum(math.exp(2 * each) for each in (trend, quality, shape))
        for weight, said_N, say in zip(
            theta[count + len(PRIORS) :], self._said_SN, self._priors, strict=True
        ):
            said_M = say(rows)
            cross += math.exp(2 * weight) * np.outer(said_N, said_M)
            prior += math.exp(2 * weight) * said_M**2
        mean = cross.T @ self._weights_N
        solved = scipy.linalg.solve_triangular(self._factor, cross, lower=True, check_finite=False)
        variance = np.maximum(prior - (solved**2).sum(axis=0), 1e-10)
        return mean, np.sqrt(variance)


def _matern(squares: Array) -> tuple[Array, Array]:
    """Return the Matern 5/2 kernel of scaled squared distances, and its derivative by them."""
    root = np.sqrt(5 * squares)
    decay = np.exp(-root)
    return (1 + root + root**2 / 3) * decay, -5 / 6 * (1 + root) * decay
