"""What is forecast of trials and settings, from trials that report, fail, run or come from elsewhere."""

import math
from collections.abc import Sequence

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from hpo.search.curve_forecast import (
    MAX_OBSERVATIONS,
    CurveForecaster,
    RankWarp,
    TrialCurve,
    curve_space,
    observe_curves,
)
from hpo.search.early_stopping import STOPPED_EARLY
from hpo.study.definition import Definition
from hpo.training.metric import METRICS
from tests.support.searched_study import study_of

DROPOUT = {"dropout": {"low": 0.0, "high": 0.99}}
EPOCHS = 8
WAITING, RUNNING, COMPLETE, PRUNED, FAIL = (
    getattr(TrialState, name) for name in ("WAITING", "RUNNING", "COMPLETE", "PRUNED", "FAIL")
)


def definition(space=DROPOUT, **options) -> Definition:
    return study_of(
        space=space, epochs=0 if "epochs" in space else EPOCHS, sampler="freeze_thaw", **options
    )


def trial(
    number: int, dropout: float, values: Sequence[float] = (), state: TrialState = WAITING, **params
) -> FrozenTrial:
    """Return a trial with values after epoch 1, 2, ..."""
    params = {"dropout": dropout, **params}
    created = optuna.trial.create_trial(
        state=state,
        value=values[-1] if state == COMPLETE else None,
        params=params,
        distributions={name: optuna.distributions.FloatDistribution(0, 99) for name in params},
    )
    created.number, created.params = number, params
    created.intermediate_values = dict(enumerate(values, start=1))
    return created


def curve(dropout: float, epochs: int = EPOCHS) -> list[float]:
    """Return values that rise with the epochs and with the dropout."""
    return [0.8 * dropout + 0.2 - 0.2 / epoch for epoch in range(1, epochs + 1)]


def whole(count: int, most: float = 0.9) -> list[FrozenTrial]:
    dropouts = np.linspace(0, most, count)
    return [trial(number, x, curve(x), COMPLETE) for number, x in enumerate(dropouts.tolist())]


def forecaster(**options) -> CurveForecaster:
    return CurveForecaster(curve_space(definition(**options)))


# Scores as normal quantiles


@given(st.lists(st.sampled_from([-2.0, 0.0, 0.5, 0.501, 0.9, 30.0]), min_size=1, max_size=40))
def test_scores_become_the_mean_quantiles_of_their_ranks(scores):
    warp = RankWarp(np.array(scores))
    found = warp(np.array(scores))
    assert found.mean() == pytest.approx(0, abs=1e-9)
    for score, quantile in zip(scores, found, strict=True):
        assert quantile == found[scores.index(score)]
        assert warp.inverse(quantile) == pytest.approx(score)
        assert sum(other < quantile for other in found) == sum(other < score for other in scores)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.floats(-1e7, 1e7))
def test_scores_beyond_the_best_rise_further(scores, other):
    warp = RankWarp(np.array(scores))
    low, high = warp(np.array([max(scores), max(scores) + 1.0])).tolist()
    assert low < high < math.inf
    assert warp.inverse(high) >= max(scores)
    assert math.isfinite(warp(np.array(other)))


@pytest.mark.parametrize("scores", [[0.7], [0.7, 0.7, 0.7]])
def test_a_single_score_is_the_median(scores):
    warp = RankWarp(np.array(scores))
    assert warp(np.array([0.7, 0.2, 1.0])) == pytest.approx([0, 0, 0.3])
    assert [warp.inverse(quantile) for quantile in (-1.0, 0.0, 0.5)] == pytest.approx([0.7, 0.7, 1.2])


def test_scores_next_to_each_other_do_not_overflow():
    scores = np.array([0.0, 5e-324])
    warp = RankWarp(scores)
    assert np.isfinite(warp(np.array([0.0, 5e-324, 1.0]))).all()
    assert math.isfinite(warp.inverse(3.0))


# What the model learns from


def observed_values(trials: list[FrozenTrial], **options) -> tuple[list[int], list[float]]:
    """Return the trial of each observation by its place in the list, and the score that it stands for."""
    space = curve_space(definition(**options))
    seen, warp = observe_curves([TrialCurve.of_trial(each, space) for each in trials], space)
    assert seen is not None
    return seen.trials_N.tolist(), [warp.inverse(value) for value in seen.values_N]


def test_of_each_trial_some_epochs_and_the_last_one_are_observed():
    values = [0.1, 0.4, 0.2, 0.5, 0.3, 0.6, 0.7]
    space = curve_space(definition())
    seen, _ = observe_curves([TrialCurve.of_trial(trial(0, 0.5, values), space)], space)
    assert seen.times_N == pytest.approx(np.log([1, 2, 4, 7]) / math.log(EPOCHS))
    assert observed_values([trial(0, 0.5, values)])[1] == pytest.approx([0.1, 0.4, 0.5, 0.7])


def test_values_that_are_not_finite_count_as_the_worst_until_there_is_a_better_one():
    values = [math.nan, -math.inf, math.inf, 0.5, math.nan, math.nan, math.nan, math.nan]
    trials = [trial(0, 0.2, [0.3, 0.6]), trial(1, 0.5, values)]
    assert observed_values(trials)[1] == pytest.approx([0.3, 0.6, 0.3, 0.3, 0.5, 0.5])


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_a_trial_that_failed_diverged_or_ended_before_its_first_report_counts_as_the_worst(metric):
    trials = [
        trial(0, 0.1, [0.3, 0.6]),
        trial(1, 0.2, [0.9, 0.9], FAIL),
        trial(2, 0.3, (), PRUNED),
        trial(3, 0.4, (), RUNNING),
        trial(4, 0.5, (), WAITING),
        trial(5, 0.6, [0.4], PRUNED),
        trial(6, 0.7, [0.9, 0.1], PRUNED),
    ]
    trials[6].user_attrs = {"failure": {"class": "diverged", "message": ""}}
    numbers, scores = observed_values(trials, train={"metric": metric})
    assert numbers == [0, 0, 1, 2, 5, 6]
    expected = [0.3, 0.6, 0.3, 0.3, 0.4, 0.3] if metric == "accuracy" else [-0.3, -0.3, *[-0.4] * 4]
    assert scores == pytest.approx(expected)


def test_without_a_finite_value_there_is_no_model():
    trials = [trial(0, 0.1, (), FAIL), trial(1, 0.2, [math.nan], RUNNING), trial(2, 0.3)]
    assert forecaster().fit(trials) is None
    assert forecaster().fit([]) is None


def test_of_many_trials_the_best_and_the_newest_are_observed():
    """Trial 0 to 99 are the best."""
    rng = np.random.default_rng(0)
    trials = [
        trial(number, rng.random(), curve(0.9 if number < 100 else 0.1 + number / 1e5, 4))
        for number in range(2000)
    ]
    numbers, _ = observed_values(trials)
    assert len(numbers) == MAX_OBSERVATIONS
    assert set(numbers) >= {*range(100), *range(1900, 2000)}
    few, _ = observed_values(trials[:120])
    assert len(few) == MAX_OBSERVATIONS
    assert set(few) == set(range(120)), "the last epoch of each comes before earlier ones"


# Forecasts


def test_a_forecast_is_near_what_like_curves_reached():
    paused = trial(20, 0.45, curve(0.45, 2))
    fitted = forecaster().fit([*whole(20), paused])
    (found,) = fitted.forecast([20])
    assert found.value == pytest.approx(curve(0.45)[-1], abs=0.05)
    assert found.low < found.value < found.high
    assert found.chance < 0.05
    assert fitted.forecast([]) == []


def test_a_trial_is_not_expected_to_reach_less_than_it_has():
    reached = curve(0.95, 6)
    (found,) = forecaster().fit([*whole(20), trial(20, 0.95, reached)]).forecast([20])
    assert found.high >= found.value >= found.low >= reached[-1]


def test_a_forecast_stays_within_the_limits_of_the_metric():
    trials = [*whole(20, most=0.97), trial(20, 0.99, curve(0.99, 2))]
    for each in trials:
        each.intermediate_values = {step: 1.04 * value for step, value in each.intermediate_values.items()}
    (found,) = forecaster().fit(trials).forecast([20])
    assert 0.95 < found.value <= found.high == 1.0


def test_of_trials_that_improve_alike_the_one_with_fewer_epochs_left_promises_more():
    """Values do not depend on the epochs; the promise falls with the square root of those that are left."""
    space = DROPOUT | {"epochs": {"low": 2, "high": 8}}
    values = np.random.default_rng(0).random(30).tolist()
    done = [
        trial(number, 0.03 * number, [value] * epochs, COMPLETE, epochs=epochs)
        for number, (value, epochs) in enumerate(zip(values, [2, 5, 8] * 10, strict=True))
    ]
    asked = [trial(30, 0.5, epochs=2), trial(31, 0.5, epochs=8)]
    short, long = forecaster(space=space).fit([*done, *asked]).forecast([30, 31])
    assert short.chance == pytest.approx(long.chance, abs=0.02)
    assert short.promise - long.promise == pytest.approx(math.log(9 / 3) / 2, abs=0.2)


def test_a_loss_is_forecast_like_an_accuracy_with_the_other_sign():
    paused = trial(20, 0.45, curve(0.45, 2))
    trials = [*whole(20), paused]
    (accuracy,) = forecaster().fit(trials).forecast([20])
    for each in trials:
        each.intermediate_values = {step: 1 - value for step, value in each.intermediate_values.items()}
    (loss,) = forecaster(train={"metric": "loss"}).fit(trials).forecast([20])
    assert METRICS["loss"].is_minimized
    assert (loss.promise, loss.chance) == pytest.approx((accuracy.promise, accuracy.chance), rel=1e-3)
    assert loss.value == pytest.approx(1 - accuracy.value, abs=1e-4)
    assert loss.low > loss.value > loss.high


def test_trials_of_other_studies_and_replicates_do_not_hide_a_trial():
    """Trials of other studies all have the number -1. A replicate has the setting of another trial."""
    others = [trial(-1, x, curve(x), COMPLETE) for x in (0.0, 0.1, 0.8, 0.9)]
    replicate = trial(2, 0.9, curve(0.85), RUNNING)
    trials = [*others, trial(0, 0.85, curve(0.85, 4)), trial(1, 0.05, curve(0.05, 4)), replicate]
    good, bad = forecaster().fit(trials).forecast([0, 1])
    assert good.value == pytest.approx(curve(0.85)[-1], abs=0.1)
    assert bad.value == pytest.approx(curve(0.05)[-1], abs=0.1)


def test_trials_of_other_studies_may_be_longer_and_lie_outside_of_the_space():
    other = trial(-1, 50.0, [0.5] * 3 * EPOCHS, COMPLETE, unknown=7.0)
    other.intermediate_values[0] = 0.1  # another tool's epochs begin with 0
    fitted = forecaster().fit([other, *whole(5)])
    setting, promise = fitted.propose(np.random.default_rng(0))
    assert setting.keys() == {"dropout"}
    assert math.isfinite(promise)


@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_short_training_is_forecast_at_its_last_epoch(last):
    """Of many equal trials, the forecast is what they had."""
    space = curve_space(study_of(space=DROPOUT, epochs=last, sampler="freeze_thaw", pruner="none"))
    trials = [trial(number, number / 20, curve(number / 20, last), COMPLETE) for number in range(20)]
    (found,) = CurveForecaster(space).fit([*trials[:10], *trials[11:], trials[10]]).forecast([10])
    assert found.value == pytest.approx(curve(0.5, last)[-1], abs=0.02)


def test_where_epochs_are_searched_a_trial_is_forecast_at_its_own_last_epoch():
    """Values rise with the epochs alone: short trainings end at 0.5 at most."""
    space = DROPOUT | {"epochs": {"low": 2, "high": 8}}

    def rising(number: int, epochs: int, reported: int, state: TrialState = COMPLETE) -> FrozenTrial:
        values = [0.25 * epoch**0.5 for epoch in range(1, reported + 1)]
        return trial(number, 0.07 * (number % 12), values, state, epochs=epochs)

    done = [rising(number, epochs, epochs) for number, epochs in enumerate([2, 4, 8] * 6)]
    fitted = forecaster(space=space).fit([*done, rising(18, 4, 2, WAITING), rising(19, 8, 2, WAITING)])
    short, long = fitted.forecast([18, 19])
    assert short.value == pytest.approx(0.5, abs=0.05)
    assert long.value == pytest.approx(0.25 * 8**0.5, abs=0.05)
    setting, _ = fitted.propose(np.random.default_rng(0))
    assert setting["epochs"] >= 6


# Proposals


def proposals(trials: list[FrozenTrial], count: int = 5) -> list[float]:
    fitted = forecaster().fit(trials)
    return [fitted.propose(np.random.default_rng(seed))[0]["dropout"] for seed in range(count)]


def test_a_new_setting_is_where_values_are_best():
    assert min(proposals(whole(20))) > 0.8


def test_a_new_setting_has_no_trial_yet():
    """The only one that is left of a list is not where the values are best."""
    tried = [x / 20 for x in range(20)]
    listed = {"dropout": [0.99, *tried]}

    def propose(trials: list[FrozenTrial]) -> float:
        return forecaster(space=listed).fit(trials).propose(np.random.default_rng(0))[0]["dropout"]

    trials = [trial(number, x, curve(x), COMPLETE) for number, x in enumerate(tried)]
    assert propose(trials) == 0.99
    lost = trial(20, 0.99, (), FAIL)
    assert propose([*trials, lost]) >= 0.8, "none is left"
    others = [trial(-1, x, curve(x), COMPLETE) for x in tried]
    assert propose([*others, lost]) >= 0.8, "those of other studies may be tried again"


def test_a_new_setting_avoids_those_that_failed_or_diverged_before_their_first_report():
    """The values rise up to 0.5; all beyond fails."""
    good = whole(12, most=0.5)
    assert min(proposals(good)) > 0.55
    lost = [trial(12 + number, 0.52 + number / 18, (), [FAIL, PRUNED][number % 2]) for number in range(9)]
    assert max(proposals([*good, *lost])) < 0.55


def test_a_new_setting_is_not_near_those_that_run():
    """Both ends are equally good, and one of them runs."""
    both = [
        trial(number, x, [0.9 - x * (1 - x)] * EPOCHS, COMPLETE)
        for number, x in enumerate(np.linspace(0.15, 0.85, 16).tolist())
    ]
    running = [trial(16 + number, 0.9 + number / 50, (), RUNNING) for number in range(5)]
    assert max(proposals([*both, *running])) < 0.5


def test_the_trial_to_forecast_is_not_taken_for_one_that_runs():
    """How far values rise is random. Of a running trial it would be known."""
    rises = np.random.default_rng(0).random(20).tolist()
    done = [trial(number, 0.4, [0.1, 0.1, rise], COMPLETE) for number, rise in enumerate(rises)]
    own = trial(20, 0.4, [0.1, 0.1], RUNNING)
    (as_own,) = forecaster().fit([*done, own], skipped=[20]).forecast([20])
    (as_other,) = forecaster().fit([*done, own]).forecast([20])
    assert as_own.chance > 5 * as_other.chance


def test_a_trial_that_stopped_early_keeps_its_value_to_the_end():
    curves = curve_space(definition())
    found = trial(0, 0.5, [0.1, 0.4, 0.3, 0.2], COMPLETE)
    plain = TrialCurve.of_trial(found, curves)
    found.system_attrs[STOPPED_EARLY] = 2
    stopped = TrialCurve.of_trial(found, curves)
    assert (stopped.epochs, stopped.scores) == ([1, 2, 3, 4, EPOCHS], [0.1, 0.4, 0.4, 0.4, 0.4])
    assert (plain.epochs, plain.scores) == ([1, 2, 3, 4], [0.1, 0.4, 0.4, 0.4])
