"""The pruner and the sampler ``freeze_thaw``: how a study begins and ends, and what continues between."""

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from hpo.search import asha, freeze_thaw, samplers
from hpo.search.asha import PAUSED_AT_RUNG, PROMOTED_PAST_RUNG
from hpo.search.freeze_thaw import RANDOM_TRIALS, CurveTable, build_table
from hpo.search.replicates import REPLICATE_OF
from hpo.study.definition import Definition
from tests.support.searched_study import maximizing, study_of

EPOCHS = 9
DROPOUT = optuna.distributions.FloatDistribution(0.0, 0.9)
WAITING, RUNNING, COMPLETE, PRUNED, FAIL = (
    getattr(TrialState, name) for name in ("WAITING", "RUNNING", "COMPLETE", "PRUNED", "FAIL")
)


def definition(trials: int) -> Definition:
    return study_of(
        space={"dropout": {"low": 0.0, "high": 0.9}},
        epochs=EPOCHS,
        train={"schedule": "constant"},
        trials=trials,
        sampler={"name": "freeze_thaw"},
        pruner={"name": "freeze_thaw", "min_epochs": 2},
    )


def table_of(found: list[FrozenTrial], most: int = 100) -> CurveTable:
    rungs = asha.rungs_of(definition(most))
    assert rungs.epochs == (2, 3, 4, 7)
    table = build_table(rungs, found)
    assert isinstance(table, CurveTable)
    return table


def trial(number: int, dropout: float, epochs: int, state: TrialState = RUNNING, **marks) -> FrozenTrial:
    """Return a trial whose values rise with the epochs and with the dropout; a WAITING one is paused."""
    created = optuna.trial.create_trial(
        state=state,
        value=0.0 if state == COMPLETE else None,
        params={"dropout": dropout},
        distributions={"dropout": DROPOUT},
        intermediate_values={e: 0.8 * dropout + 0.2 - 0.2 / e for e in range(1, epochs + 1)},
        system_attrs=({PAUSED_AT_RUNG: epochs} if state == WAITING else {}) | marks,
    )
    created.number = number
    return created


def paused(count: int, epochs: int = 2) -> list[FrozenTrial]:
    """Return paused trials, the later the better."""
    return [trial(number, 0.8 * number / count, epochs, WAITING) for number in range(count)]


# How a study begins


def test_all_trials_pause_until_enough_have_begun():
    table = table_of([])
    for number in range(RANDOM_TRIALS):
        own = trial(number, 0.05 * number, 2)
        table.prepare(own)
        decision = table.decide(own)
        assert ("to begin first" in decision.reason) == (number < RANDOM_TRIALS - 1)
        assert decision.kind == "paused"
        table.update(trial(number, 0.05 * number, 2, WAITING))
        table.prepare()
        assert table.next_promotion() is None


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_best_of_a_few_trials_is_run_to_its_end_and_the_others_are_ended(count):
    table, best = table_of(paused(count), most=count), count - 1
    for rung, epochs in ((2, 3), (3, 4), (4, 7), (7, EPOCHS)):
        table.prepare()
        assert table.next_promotion(last=True) == (best, rung)
        table.update(trial(best, 0.8 * best / count, epochs, WAITING if epochs < EPOCHS else COMPLETE))
    table.prepare()
    left = set(range(best))
    while (promotion := table.next_promotion(last=True)) is not None:  # still a chance
        left.discard(promotion[0])
        table.update(trial(promotion[0], 0.0, EPOCHS, COMPLETE))
        table.prepare()
    assert table.first_paused() == min(left, default=None)


def test_a_trial_that_failed_before_it_had_a_setting_is_not_waited_for():
    """No other trial is left, so the model need not wait for more."""
    lost = optuna.trial.create_trial(state=FAIL)
    lost.number = 3
    table = table_of([*paused(3), lost], most=4)
    table.prepare()
    assert table.next_promotion() == (2, 2)


def test_replicates_do_not_count_as_trials_that_are_still_to_come():
    replicate = trial(3, 0.1, 2, RUNNING, **{REPLICATE_OF: 0})
    table = table_of([*paused(3), replicate], most=4)
    table.prepare()
    assert table.next_promotion() is None


# What continues


def test_the_most_promising_trial_continues_and_those_that_others_take_are_passed_over():
    table = table_of(paused(20), most=20)
    table.prepare()
    assert table.next_promotion() == (19, 2)
    assert table.next_promotion(taken={19}) == (18, 2)
    others = set(range(18))
    assert table.next_promotion(taken={18, 19, *others}, last=True) is None


def test_a_trial_that_goes_on_by_now_does_not_continue_twice():
    table = table_of(paused(20), most=20)
    table.prepare()
    table.update(trial(19, 0.76, 2))
    assert table.next_promotion() == (18, 2)


def test_a_forecast_of_an_earlier_epoch_does_not_end_a_trial():
    """Another worker continued the trial meanwhile, and now it is the best one."""
    done = [trial(number, 0.02 * number, EPOCHS, COMPLETE) for number in range(15)]
    table = table_of([*done, trial(15, 0.0, 2, WAITING)], most=16)
    table.prepare()
    assert table.first_paused() == 15
    table.update(trial(15, 0.0, 2))
    table.update(trial(15, 0.9, 4, WAITING))
    assert table.first_paused() is None
    table.prepare()
    assert table.next_promotion(last=True) == (15, 4)


def test_the_best_trial_is_continued_when_a_better_one_has_failed_since_the_forecast(monkeypatch):
    monkeypatch.setattr(freeze_thaw, "LEAST_CHANCE", 1.1)  # only the best one is worth its epochs
    done = [trial(number, 0.02 * number, EPOCHS, COMPLETE) for number in range(15)]
    table = table_of([*done, trial(15, 0.5, 4, WAITING), trial(16, 0.9, 4)], most=17)
    table.prepare()
    assert table.next_promotion(last=True) is None
    table.update(trial(16, 0.9, 4, FAIL))
    assert table.next_promotion(last=True) == (15, 4)


def test_a_trial_that_went_on_from_a_rung_before_goes_on_again():
    """Its worker crashed after the rung, so it reports the same epoch again."""
    for marks, kind in (
        ({}, "paused"),
        ({PROMOTED_PAST_RUNG: 2}, "paused"),
        ({PROMOTED_PAST_RUNG: 3}, "promoted"),
    ):
        own = trial(20, 0.0, 3, RUNNING, **marks)
        table = table_of([*paused(20), own])
        table.prepare(own)
        assert table.decide(own).kind == kind


def test_one_trial_in_eight_is_whole_in_the_end_however_sure_the_model_is(monkeypatch):
    monkeypatch.setattr(freeze_thaw, "LEAST_CHANCE", 1.1)
    table = table_of([trial(0, 0.9, EPOCHS, COMPLETE), *paused(20)[1:]], most=20)
    continued = []
    while True:
        table.prepare()
        promotion = table.next_promotion(last=True)
        if promotion is None:
            break
        continued.append(promotion[0])
        table.update(trial(promotion[0], 0.8 * promotion[0] / 20, EPOCHS, COMPLETE))
    assert sorted(continued) == [18, 19], "with the first one, three of 20"


def test_a_trial_that_waits_at_a_rung_without_a_setting_is_ended_too():
    """Another tool may have deleted its parameters and reports."""
    emptied = trial(0, 0.0, 2, WAITING)
    emptied.params, emptied.distributions, emptied.intermediate_values = {}, {}, {}
    done = [trial(number, 0.02 * number, EPOCHS, COMPLETE) for number in range(1, 20)]
    table = table_of([emptied, *done], most=20)
    table.prepare()
    promotion = table.next_promotion(last=True)
    assert (promotion, table.first_paused()) == ((0, 2), 0)


def test_without_a_model_trials_continue_in_order_when_nothing_else_is_left():
    """No value is finite."""
    trials = paused(20)
    for each in trials:
        each.intermediate_values = {1: float("nan"), 2: float("inf")}
    table = table_of(trials)
    table.prepare()
    assert table.next_promotion() is None
    assert table.next_promotion(last=True) == (0, 2)
    assert table.next_promotion(last=True, taken={0, 1}) == (2, 2)


# New settings


def study_with(found: list[FrozenTrial]) -> optuna.Study:
    study = maximizing()
    study.add_trials(found)
    return study


def ended(count: int) -> list[FrozenTrial]:
    return [trial(number, 0.8 * number / count, EPOCHS, COMPLETE) for number in range(count)]


def test_the_first_settings_are_random_and_later_ones_are_near_the_best():
    study = study_with(ended(RANDOM_TRIALS - 1))
    found = []
    for number in range(10):
        study.sampler = samplers.build_sampler(definition(100), number)
        found.append(study.sampler.sample_relative(study, trial(99, 0.0, 0), {}))
    assert found == [{}] * 10
    study.add_trial(trial(RANDOM_TRIALS - 1, 0.8, 2, PRUNED))
    found = []
    for number in range(40):
        study.sampler = samplers.build_sampler(definition(100), number)
        found.append(study.sampler.sample_relative(study, trial(99, 0.0, 0), {}))
    proposed = [setting for setting in found if setting]
    assert all(setting["dropout"] > 0.7 for setting in proposed)
    assert 20 < len(proposed) < 40  # the others are random


def test_a_proposal_depends_on_the_seed_of_the_trial_alone():
    def propose(number: int) -> float:
        found = ended(20)
        for each in found:
            each.intermediate_values = {EPOCHS: 0.9 - (each.params["dropout"] - 0.4) ** 2}
        study = study_with(found)
        study.sampler = samplers.build_sampler(definition(100), number)
        return study.ask().suggest_float("dropout", 0.0, 0.9)

    found = [propose(number) for number in (1, 2, 1)]
    assert found[0] == found[2] != found[1]


def test_trials_without_a_finite_value_leave_settings_random():
    found = ended(20)
    for each in found:
        each.intermediate_values, each.state, each.values = {}, FAIL, None
    study = study_with(found)
    values = []
    for number in range(8):
        study.sampler = samplers.build_sampler(definition(100), number)
        values.append(study.ask().suggest_float("dropout", 0.0, 0.9))
    assert np.std(values) > 0.1
