"""What a trial has reached in several objectives, from its reports and user attributes."""

import math

import optuna
import pytest

from hpo.search.objectives import Objectives
from hpo.training.metric import COSTS, METRICS

F1, LOSS = METRICS["f1"], METRICS["loss"]
ALL = Objectives((F1, LOSS, *COSTS.values()))  # the costs: epoch_seconds, parameters, latency_ms
FACTS = {
    "metrics": {"loss": [0.9, 0.8, 0.7, 0.6], "accuracy": [0.1, 0.2, 0.3, 0.4]},
    "epoch_seconds": [4.0, 2.0, 3.0, 1.0],
    "parameters": 1000,
    "latency_ms": 2.5,
}


def trial(*reports: float, **facts: object) -> optuna.trial.FrozenTrial:
    created = optuna.trial.create_trial(values=[0.0] * 5, user_attrs=facts)
    created.intermediate_values = dict(enumerate(reports, start=1))
    return created


def test_metrics_are_those_of_the_best_epoch_and_costs_are_means_or_known():
    own = trial(0.5, 0.7, 0.6, 0.9, **FACTS)
    assert ALL.losses(own, 1) == (-0.5, 0.9, 4.0, 1000, 2.5)
    assert ALL.losses(own, 3) == (-0.7, 0.8, 3.0, 1000, 2.5)
    assert ALL.losses(own, 4) == (-0.9, 0.6, 2.5, 1000, 2.5)


def test_of_equal_epochs_the_first_is_the_best():
    assert ALL.losses(trial(0.5, 0.5, **FACTS), 2)[1] == 0.9


def test_the_first_metric_may_be_minimized_and_need_not_be_the_first_objective():
    own = trial(0.9, 0.6, 0.8, metrics={"f1": [0.1, 0.2, 0.3]}, parameters=7)
    found = Objectives((COSTS["parameters"], LOSS, F1))
    assert found.first_metric is LOSS
    assert found.losses(own, 3) == (7, 0.6, -0.2)


def test_values_are_losses_with_their_own_sign():
    assert ALL.values((-0.7, 0.8, 3.0, 1000, 2.5)) == [0.7, 0.8, 3.0, 1000, 2.5]
    assert ALL.losses_of([0.7, 0.8, 3.0, 1000, 2.5]) == (-0.7, 0.8, 3.0, 1000, 2.5)


@pytest.mark.parametrize("facts", [{}, {"metrics": {"loss": [None]}}, {"metrics": {}, "epoch_seconds": []}])
def test_what_is_unknown_is_the_worst(facts):
    assert ALL.losses(trial(0.5, **facts), 1) == (-0.5, *[math.inf] * 4)
    assert ALL.losses(trial(math.nan, **FACTS), 1) == (math.inf, 0.9, 4.0, 1000, 2.5)


def test_a_trial_without_a_report_has_reached_nothing():
    assert ALL.losses(trial(**FACTS), 5) is None
