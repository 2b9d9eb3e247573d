"""The Gaussian process over learning curves, compared with textbook formulas."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hpo.search.curve_model import (
    BOUND,
    JITTER,
    LENGTH_PRIOR,
    NEW_TRIAL,
    PRIORS,
    WEIGHT_PRIOR,
    CurveModel,
    Observations,
)

IS_CHOICE = [False, False, True]
TERMS = len(PRIORS)


def observe(trials: int, epochs: int, seed: int = 0) -> Observations:
    """Return values of trials after each epoch, which depend on the first range and on the list."""
    rng = np.random.default_rng(seed)
    settings = np.column_stack([rng.random(trials), rng.random(trials), rng.integers(0, 3, trials)])
    trials_N = np.repeat(np.arange(trials), epochs)
    times_N = np.tile(np.linspace(0, 1, epochs), trials)
    rows_NP = settings[trials_N]
    values_N = np.sin(4 * rows_NP[:, 0]) + times_N + 0.5 * (rows_NP[:, 2] == 1)
    values_N = values_N + rng.normal(0, 0.05, len(values_N))
    return Observations(rows_NP, times_N, trials_N, values_N - values_N.mean())


def rises(rows: np.ndarray) -> np.ndarray:
    """Return what one earlier study says of settings."""
    return 2 * rows[:, 1] - 1


def has_waves(rows: np.ndarray) -> np.ndarray:
    """Return what another one says."""
    return np.sin(9 * rows[:, 0])


EARLIER = ([], [rises], [rises, has_waves])


def priors_of(earlier: list) -> np.ndarray:
    return np.array([LENGTH_PRIOR] * 3 + list(PRIORS.values()) + [WEIGHT_PRIOR] * len(earlier))


def hyperparameters(seed: int, earlier: list) -> np.ndarray:
    """Draw the logarithms of three length scales, of the terms and of the weights from their priors."""
    rng = np.random.default_rng(seed)
    priors = priors_of(earlier)
    return rng.normal(priors[:, 0], priors[:, 1] / 2)


def covariance(theta: np.ndarray, one: tuple, other: tuple, earlier: list) -> float:
    """Return the covariance of two values without noise; each is a setting, a time and a trial."""
    lengths, term = np.exp(theta[:3]), dict(zip(PRIORS, np.exp(theta[3 : 3 + TERMS]), strict=True))
    (row, time, trial), (other_row, other_time, other_trial) = one, other
    distances = [
        float(a != b) if is_choice else a - b
        for a, b, is_choice in zip(row, other_row, IS_CHOICE, strict=True)
    ]
    r = math.sqrt(5) * np.linalg.norm(np.array(distances) / lengths)
    matern = (1 + r + r**2 / 3) * math.exp(-r)
    over_time = math.exp(-((time - other_time) ** 2) / (2 * term["time"] ** 2))
    found = term["trend"] ** 2 * over_time + term["quality"] ** 2 * matern
    for weight, say in zip(np.exp(theta[3 + TERMS :]), earlier, strict=True):
        found += weight**2 * say(row[None])[0] * say(other_row[None])[0]
    return found + term["shape"] ** 2 * matern * over_time + term["run"] ** 2 * (trial == other_trial)


def places(seen: Observations) -> list[tuple]:
    return list(zip(seen.rows_NP, seen.times_N, seen.trials_N, strict=True))


def covariances(theta: np.ndarray, ones: list[tuple], others: list[tuple], earlier: list) -> np.ndarray:
    return np.array([[covariance(theta, one, other, earlier) for other in others] for one in ones])


def covariance_of_values(theta: np.ndarray, seen: Observations, earlier: list) -> np.ndarray:
    noise = math.exp(theta[3 + list(PRIORS).index("noise")]) ** 2 + JITTER
    return covariances(theta, places(seen), places(seen), earlier) + noise * np.eye(len(seen.values_N))


@pytest.mark.parametrize("earlier", EARLIER)
@pytest.mark.parametrize("seed", range(3))
def test_predictions_are_those_of_the_textbook(seed, earlier):
    """Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", equations 2.23 and 2.24."""
    seen, theta = observe(5, 3, seed), hyperparameters(seed, earlier)
    rows = np.vstack([seen.rows_NP[:4], [[0.2, 0.9, 2.0], [0.2, 0.9, -1.0]]])
    times, trials = np.array([1.0, 0.3, 1.0, 1.0, 1.0, 0.5]), np.array([0, 0, 0, 1, -1, -1])
    model = CurveModel(IS_CHOICE, seen, theta, fit=False, priors=earlier)
    means, deviations = model.predict(rows, times, trials)
    asked = list(zip(rows, times, trials, strict=True))
    cross = covariances(theta, places(seen), asked, earlier)
    inverse = np.linalg.inv(covariance_of_values(theta, seen, earlier))
    of_runs = np.where(trials == NEW_TRIAL, math.exp(2 * theta[3 + list(PRIORS).index("run")]), 0)
    variances = np.diag(covariances(theta, asked, asked, earlier) - cross.T @ inverse @ cross) - of_runs
    assert means == pytest.approx(cross.T @ inverse @ seen.values_N)
    assert deviations == pytest.approx(np.sqrt(variances), rel=1e-4)


@pytest.mark.parametrize("earlier", EARLIER)
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_density_of_the_values_and_of_the_priors(seed, earlier):
    seen, theta = observe(4, 3, seed), hyperparameters(seed, earlier)
    model = CurveModel(IS_CHOICE, seen, theta, fit=False, priors=earlier)
    priors, cov = priors_of(earlier), covariance_of_values(theta, seen, earlier)
    expected = -stats.multivariate_normal(cov=cov).logpdf(seen.values_N)
    expected -= len(seen.values_N) / 2 * math.log(2 * math.pi)
    expected += (((theta - priors[:, 0]) / priors[:, 1]) ** 2).sum() / 2
    assert model.loss_and_gradient(theta)[0] == pytest.approx(expected)


@pytest.mark.parametrize("earlier", EARLIER)
@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_that_of_finite_differences(seed, earlier):
    seen, theta = observe(6, 4, seed), hyperparameters(seed, earlier)
    model = CurveModel(IS_CHOICE, seen, theta, fit=False, priors=earlier)
    expected = [
        (model.loss_and_gradient(theta + step)[0] - model.loss_and_gradient(theta - step)[0]) / 2e-5
        for step in 1e-5 * np.eye(len(theta))
    ]
    assert model.loss_and_gradient(theta)[1] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_fit_finds_the_most_probable_hyperparameters():
    seen = observe(15, 4)
    start = CurveModel(IS_CHOICE, seen, fit=False)
    fitted = CurveModel(IS_CHOICE, seen)
    loss, gradient = fitted.loss_and_gradient(fitted.hyperparameters)
    assert loss < start.loss_and_gradient(start.hyperparameters)[0] - 5
    assert np.abs(gradient).max() < 0.5
    rng = np.random.default_rng(0)
    for _ in range(30):
        moved = fitted.hyperparameters + rng.normal(0, 0.3, len(gradient))
        assert fitted.loss_and_gradient(moved)[0] > loss
    priors = np.array([LENGTH_PRIOR] * 3 + list(PRIORS.values()))
    assert np.all(np.abs(fitted.hyperparameters - priors[:, 0]) <= BOUND * priors[:, 1] + 1e-9)
    assert fitted.hyperparameters[1] > max(fitted.hyperparameters[[0, 2]]), "the second range has no effect"


def test_a_fit_starts_from_the_given_hyperparameters():
    seen = observe(10, 3)
    first = CurveModel(IS_CHOICE, seen).hyperparameters
    assert CurveModel(IS_CHOICE, seen, first, fit=False).hyperparameters is first
    again = CurveModel(IS_CHOICE, seen, first)
    assert again.loss_and_gradient(again.hyperparameters)[0] <= again.loss_and_gradient(first)[0]


def test_predictions_at_observed_places_are_near_the_values():
    seen = observe(8, 3)
    model = CurveModel(IS_CHOICE, seen)
    means, deviations = model.predict(seen.rows_NP, seen.times_N, seen.trials_N)
    assert np.abs(means - seen.values_N).max() < 0.2
    others, far = model.predict(seen.rows_NP + 100, seen.times_N + 100, np.full(24, -1))
    terms = np.exp(model.hyperparameters[-TERMS:])
    assert others == pytest.approx(0, abs=1e-6)
    assert far == pytest.approx(math.sqrt((terms[:3] ** 2).sum()))  # all but its run
    assert deviations.max() < far.min() / 3


def test_a_trial_is_predicted_by_its_own_run_and_a_repeated_setting_less_surely():
    seen = observe(8, 3)
    model = CurveModel(IS_CHOICE, seen)
    rows, times = seen.rows_NP[[0, 0]], np.ones(2)
    _, (own, repeated) = model.predict(rows, times, np.array([0, -1]))
    assert own < repeated


def test_any_two_choices_are_equally_far_apart():
    seen = observe(8, 2)
    model = CurveModel(IS_CHOICE, replace(seen, rows_NP=seen.rows_NP * [1, 1, 0]))
    rows = np.array([[0.5, 0.5, choice] for choice in (1.0, 2.0, -1.0, 0.0)])
    means, deviations = model.predict(rows, np.ones(4), np.full(4, -1))
    assert means[:3].tolist() == [means[0]] * 3
    assert deviations[:3].tolist() == [deviations[0]] * 3
    assert deviations[3] < deviations[0]


def test_an_early_value_tells_the_last_one_as_far_as_other_curves_say_so():
    """All trials rise by the same amount in the one case, and by a random one in the other."""
    rng = np.random.default_rng(0)
    rows, starts = rng.random((20, 3)) * [1, 1, 0], rng.normal(0, 1, 20)
    found = []
    for rise in (np.full(20, 0.5), rng.normal(0.5, 1.0, 20)):
        values = np.concatenate([starts, (starts + rise)[:-1]])
        trials_N = np.concatenate([np.arange(20), np.arange(19)])
        seen = Observations(rows[trials_N], np.repeat([0.3, 1.0], [20, 19]), trials_N, values)
        means, deviations = CurveModel(IS_CHOICE, seen).predict(rows[19:], np.ones(1), np.array([19]))
        found.append((means[0], deviations[0]))
    (mean, deviation), (_, unsure) = found
    assert mean == pytest.approx(starts[19] + 0.5, abs=0.25)
    assert deviation < unsure / 2
