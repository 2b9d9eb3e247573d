"""What people see in a terminal."""

from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.cli import console


def waiting(number: int, **seen: str) -> FrozenTrial:
    fixed = {"fixed_params": {"model": "resnet18", "lr": 0.001}}
    trial = create_trial(state=TrialState.WAITING, system_attrs=fixed, user_attrs=seen)
    trial.number = number
    return trial


def test_trials_that_differ_only_in_their_site_are_shown_apart():
    trials = [waiting(0, site="C"), waiting(1, site="L"), waiting(2)]
    told = console.trials_table(trials, "accuracy", ["site"])
    (sites,) = [list(column.cells) for column in told.columns if column.header == "site"]
    assert sites == ["C", "L", ""]


def test_a_study_without_sites_has_no_column_for_them():
    told = console.trials_table([waiting(0)], "accuracy")
    assert "site" not in [column.header for column in told.columns]
