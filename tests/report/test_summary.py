"""The report's tables: seeds, hardware, trials that reported nothing."""

from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from hpo.analysis import records
from hpo.original import match
from hpo.original.tables import original_section
from hpo.report import device_time
from hpo.store import plan
from tests.support.reported_studies import GPU, IMAGES, grid_definition, make_trial, store_grid


def test_mixed_hardware_has_a_column_of_seconds_per_kind(reported):
    definition, trials = grid_definition(), reported(store_grid).study.trials
    params = {"model": "alexnet", "optimizer": "sgd", "lr": 1e-3, "momentum": 0.9, "batch_size": 16}
    more = make_trial(definition, params, [0.5, 0.75], 20, site="C", point=1, hardware=GPU, seconds=0.5)
    found = match.match_trials(records.trial_records(definition, [*trials, more]))
    models = original_section(found, IMAGES, "test accuracy").parts[0].table
    assert models.columns[-2:] == ("s/epoch here, Xeon, 2 threads", "s/epoch here, NVIDIA H100, TF32")
    seconds = trials[0].user_attrs["epoch_seconds"]
    assert models.rows[0][-2:] == (f"{sum(seconds) / len(seconds):.4g}", "0.505")
    assert models.rows[1][-1] is None


def test_points_of_one_epoch_are_bars_rather_than_single_dots(reported):
    definition, trials = grid_definition(), reported(store_grid).study.trials
    short = [
        make_trial(definition, t.params, [t.value], t.number, site=t.user_attrs["site"]) for t in trials
    ]
    found = match.match_trials(records.trial_records(definition, short))
    rates = original_section(found, IMAGES, "test accuracy").parts[1]
    assert rates.title == "4.2 Test accuracy after each epoch, by learning rate"
    (bars,) = rates.figure.data
    assert (bars.type, list(bars.y)) == ("bar", [short[number - 1].value for number in (7, 8, 9)])
    assert [row[-1] for row in rates.table.rows] == list(bars.y)


@pytest.mark.parametrize("curve", [[0.1], [0.05, 0.1]])
def test_several_seeds_of_a_point_are_one_mean_with_its_interval(reported, curve):
    definition, trials = grid_definition(), reported(store_grid).study.trials
    seeds = [(-0.01, 0), (0.0, 1), (0.01, 2)]
    again = [
        make_trial(definition, t.params, [a + gap for a in curve], 3 * t.number + seed, **facts_of(t))
        for t in trials
        for gap, seed in seeds
    ]
    for number, trial in enumerate(again):
        trial.system_attrs = {plan.RUN_OPTIONS: {"seed": number % 3}}
    found = match.match_trials(records.trial_records(definition, again))
    section = original_section(found, IMAGES, "test accuracy")
    half = 4.302653 * 0.01 / 3**0.5  # Student's 0.975 quantile at 2 degrees of freedom
    for part in section.parts[1:4]:
        for trace in part.figure.data:
            assert list(trace.y) == pytest.approx([0.1] * len(trace.y) if len(curve) == 1 else curve)
            for errors in (trace.error_y.array, trace.error_y.arrayminus):
                assert list(errors) == pytest.approx([half] * len(trace.y), rel=1e-4)
        places = [place for trace in part.figure.data for place in zip(trace.x, trace.y, strict=True)]
        assert len(places) == len(set(places)) or len(curve) > 1, "one bar for each point"
        assert "drawn as their mean" in part.caption


def facts_of(trial: FrozenTrial) -> dict[str, Any]:
    return {"site": trial.user_attrs["site"], "point": trial.user_attrs["point"]}


def test_trials_without_a_report_are_counted_in_the_section_on_device_time(reported):
    definition, trials = grid_definition(), reported(store_grid).study.trials
    trial = make_trial(definition, trials[0].params, [], 14, state=TrialState.FAIL)
    trial.user_attrs.pop("hardware")
    found = records.trial_records(definition, [*trials, trial, trial])
    assert any(
        "2 trials have not reported an epoch" in text
        for text in device_time.device_time_section(found).text
    )
    assert not any("have not reported" in text for text in device_time.device_time_section(found[:-2]).text)


def test_savings_by_pruning_are_right_for_trials_that_diverged_in_their_first_epoch(reported):
    definition, trials = grid_definition(), reported(store_grid).study.trials
    assert "No trial was pruned" in reported(store_grid).page.text
    trial = make_trial(definition, trials[0].params, [0.1], 14, state=TrialState.PRUNED, epoch_seconds=[])
    (sentence, *_) = device_time.device_time_section(
        records.trial_records(definition, [*trials, trial])
    ).text
    assert sentence.startswith("The pruned trials ended within their first epoch")
