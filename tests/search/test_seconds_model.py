"""How long an epoch of a setting takes, forecast from other settings."""

import numpy as np
import pytest

from hpo.search.seconds_model import SecondsModel

IS_CHOICE = [True, False]


def seconds_of(rows):
    """Return seconds that a choice and a range multiply: the truth that the model is to find."""
    return 3.0 * np.array([1.0, 5.0, 20.0])[rows[:, 0].astype(int)] * 2.0 ** rows[:, 1]


def random_rows(count, seed):
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.integers(3, size=count), rng.random(count)]).astype(float)


def test_factors_of_a_choice_and_of_a_range_are_found():
    known, other = random_rows(60, 0), random_rows(20, 1)
    model = SecondsModel(IS_CHOICE, known, seconds_of(known))
    assert np.exp(model.log_seconds(other)) == pytest.approx(seconds_of(other), rel=0.1)


def test_a_few_trials_give_at_least_the_order():
    known = np.array([[0.0, 0.5], [2.0, 0.5], [1.0, 0.5]])
    slow, fast = SecondsModel(IS_CHOICE, known, seconds_of(known)).log_seconds(known[[1, 0]])
    assert slow > fast


def test_a_choice_that_no_trial_had_takes_about_the_mean():
    known = random_rows(30, 0)
    known = known[known[:, 0] < 2]
    seconds = seconds_of(known)
    found = SecondsModel(IS_CHOICE, known, seconds).log_seconds(np.array([[2.0, 0.5]]))
    assert np.log(seconds.min()) < found[0] < np.log(seconds.max())


def test_without_any_times_all_settings_take_the_same():
    model = SecondsModel(IS_CHOICE, np.empty((0, 2)), np.empty(0))
    assert model.log_seconds(random_rows(5, 0)).tolist() == [0.0] * 5


def test_an_epoch_of_no_seconds_is_no_error():
    known = random_rows(5, 0)
    assert np.isfinite(SecondsModel(IS_CHOICE, known, np.zeros(5)).log_seconds(known)).all()
