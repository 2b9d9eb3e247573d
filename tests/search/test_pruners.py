"""Pruners: what they prune, and when."""

import math

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from hpo.search import pareto, pruners
from hpo.search.objectives import Objectives
from hpo.study.search_options import Pruner
from hpo.training.metric import COSTS, METRICS
from tests.support.searched_study import maximizing, run, study_of

pytestmark = pytest.mark.usefixtures("optuna_warnings")

PRUNERS = ("hyperband", "median", "percentile", "patient", "none")


def test_all_allowed_pruners_are_tested():
    assert set(Pruner.model_json_schema()["properties"]["name"]["enum"]) == {
        *PRUNERS,
        "asha",
        "freeze_thaw",
    }


@pytest.mark.parametrize(
    ("sampler", "pruner", "epochs"),
    [
        ("tpe", {"name": "hyperband", "min_epochs": 2, "reduction_factor": 2}, (2, 4, 8)),
        ("gp", {"name": "hyperband", "min_epochs": 2, "reduction_factor": 2}, None),
        ("random", {"name": "median"}, ()),
        ("tpe", {"name": "none"}, ()),
        ("qmc", {"name": "none"}, None),
    ],
)
def test_running_trials_matter_where_the_pruner_compares(sampler, pruner, epochs):
    definition = study_of(sampler=sampler, pruner=pruner)
    definition = definition.model_copy(update={"train": {**definition.train, "epochs": 16}})
    assert pruners.epochs_of_interest(definition) == epochs


@pytest.mark.parametrize("name", PRUNERS)
def test_a_pruner_prunes_trials_but_none_before_min_epochs(name):
    definition = study_of(
        sampler="random", pruner={"name": name, "min_epochs": 2, "startup_trials": 2, "patience": 1}
    )
    study = maximizing()
    run(definition, study, 24)
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert bool(pruned) == (name != "none")
    assert all(len(trial.intermediate_values) >= 2 for trial in pruned)
    assert any(trial.state == TrialState.COMPLETE for trial in study.trials)


@pytest.mark.parametrize("min_epochs", [9, 10])
@pytest.mark.parametrize("name", PRUNERS)
def test_a_pruner_that_starts_at_the_last_epoch_or_later_prunes_nothing(name, min_epochs):
    definition = study_of(
        sampler="random", pruner={"name": name, "min_epochs": min_epochs, "startup_trials": 0}
    )
    study = maximizing()
    run(definition, study, 8)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert isinstance(study.pruner, optuna.pruners.NopPruner)


def test_the_median_is_the_50th_percentile():
    decisions = []
    for pruner in ({"name": "median"}, {"name": "percentile", "percentile": 50.0}):
        study = maximizing()
        run(study_of(sampler="random", pruner=pruner), study, 20)
        decisions.append([(t.state, len(t.intermediate_values)) for t in study.trials])
    assert decisions[0] == decisions[1]
    assert TrialState.PRUNED in {state for state, _ in decisions[0]}


def test_the_percentile_is_the_share_of_trials_that_continue():
    stopped = []
    for percentile in (10.0, 90.0):
        study = maximizing()
        pruner = {"name": "percentile", "percentile": percentile, "startup_trials": 2}
        run(study_of(sampler="random", pruner=pruner), study, 24)
        stopped.append(sum(t.state == TrialState.PRUNED for t in study.trials))
    assert stopped[0] > stopped[1]


def test_the_patient_pruner_waits_for_min_epochs():
    study = maximizing()
    study.pruner = pruners.build_pruner(
        study_of(pruner={"name": "patient", "patience": 1, "min_epochs": 5})
    )
    trial = study.ask()
    for epoch in range(1, 6):
        trial.report(1 / epoch, epoch)
        assert trial.should_prune() == (epoch == 5)


def test_patience_is_how_many_epochs_in_a_row_may_be_worse():
    study = maximizing()
    study.pruner = pruners.build_pruner(study_of(pruner={"name": "patient", "patience": 2}))
    trial = study.ask()
    decisions = []
    for epoch, value in enumerate([0.5, 0.4, 0.5, 0.4, 0.4, 0.4], 1):
        trial.report(value, epoch)
        decisions.append(trial.should_prune())
    assert decisions == [False, False, False, False, False, True]


@pytest.mark.parametrize(
    ("searched", "longest"),
    [
        ({"lr": [0.1, 0.2]}, 9),
        ({"epochs": [3, 27, 9]}, 27),
        ({"epochs": {"low": 3, "high": 30}}, 30),
        # Epochs that are not searched have the value in [train], or 20.
        ({"epochs": {"choices": [3, 5], "when": {"optimizer": "sgd"}}, "optimizer": ["sgd", "adam"]}, 20),
    ],
)
def test_hyperband_has_brackets_up_to_the_longest_trial(searched, longest):
    pruner = {"name": "hyperband", "min_epochs": 1, "reduction_factor": 3}
    definition = study_of(space=searched, epochs=None if "epochs" in searched else 9, pruner=pruner)
    study = maximizing()
    pruner = pruners.build_pruner(definition)
    assert isinstance(pruner, optuna.pruners.HyperbandPruner)
    trial = study.ask()
    trial.report(0.5, 1)
    pruner.prune(study, study.trials[0])
    # With factor 3 there are as many brackets as powers of 3 up to the longest trial.
    assert len(pruner._pruners) == 1 + int(math.log(longest, 3))


def test_hyperband_ranks_by_dominance_within_each_bracket_if_there_are_several_objectives():
    objectives = Objectives((METRICS["accuracy"], COSTS["parameters"]))
    pruner = pruners.DominanceHyperbandPruner(objectives, 2, 18, 3)
    study = optuna.create_study(directions=["maximize", "minimize"], study_name="several")
    pruned = []
    for number in range(60):
        size, accuracy = number * 7 % 10, number * 3 % 10
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.RUNNING,
                intermediate_values=dict.fromkeys(range(1, 7), accuracy / 10),
                user_attrs={"parameters": float(size)},
            )
        )
        if pruner.prune(study, study.trials[number]):
            pruned.append(number)
    brackets = pruner.brackets(study, 60)
    for number in range(60):
        # Epoch 6 is a rung of the brackets that begin at epoch 2 and at epoch 6, not of that at 18.
        if brackets[number] == 2:
            assert number not in pruned
            continue
        reached = [t for t in study.trials[: number + 1] if brackets[t.number] == brackets[number]]
        losses = np.array([objectives.losses(trial, 6) for trial in reached])
        place = pareto.pareto_order(losses).index(len(reached) - 1)
        assert (number in pruned) == (place >= max(len(reached) // 3, 1))
    assert pruned
    assert {brackets[number] for number in range(60)} == {0, 1, 2}
