"""Parameter importance: an unreliable result is reported as such."""

import math
import warnings
from collections.abc import Sequence

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

from hpo.analysis import importance, records, results
from hpo.cli.console import importance_view
from hpo.dashboard import notes
from hpo.report import parameter_axis, parameter_plots
from hpo.store.attributes import RUN_OPTIONS
from hpo.study import file


def create_trials(values: Sequence[float]) -> list[FrozenTrial]:
    """Return complete trials with two parameters and these accuracies."""
    distributions = {"lr": FloatDistribution(0, 1), "momentum": FloatDistribution(0, 1)}
    created = []
    for number, value in enumerate(values):
        params = {"lr": number / 10, "momentum": number * 7 % 10 / 10}
        created.append(create_trial(value=value, params=params, distributions=distributions))
        created[-1].number = number
    return created


HUGE = 1.797e308


@pytest.mark.parametrize("evaluator", importance.EVALUATORS)
@pytest.mark.parametrize(
    ("values", "doubt"),
    [
        ([0.5] * 4, importance.ALL_SAME),
        ([0.9, 0.5, 0.5, 0.5], importance.MOST_SAME),
        ([-HUGE, 0.5, 0.6, 0.7, 0.8], importance.TOO_FAR),
        ([HUGE, -HUGE, 0.6, 0.7, 0.8], importance.TOO_FAR),
        ([math.inf, 0.5, 0.6, 0.7, 0.8], importance.TOO_FAR),
        (
            [0.5, 0.6, 0.7],
            "3 trials cannot tell 2 parameters apart: run more, or prune none (search.pruner = 'none'), "
            "since only complete trials count",
        ),
    ],
)
def test_every_evaluator_has_the_same_doubt_and_then_no_shares(evaluator, values, doubt):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = importance.importance_of_trials(create_trials(values), evaluator)
    assert (found.doubt, found.importances) == (doubt, {})
    console = Console(record=True, width=200)
    console.print(importance_view(found))
    line, *more = console.export_text().splitlines()
    assert " ".join(" ".join(more).split()) == importance.DASHBOARD_DIFFERS
    assert line.rstrip().endswith(f"over {len(values)} complete trials, cannot be told: {doubt}")


@pytest.mark.parametrize("params", [{}, {"lr": 0.1}])
@pytest.mark.parametrize("values", [(0.5, 0.5), (0.2, 0.5, 0.9)])
def test_parameters_with_one_value_have_no_shares_and_that_is_said(params, values):
    known = {name: FloatDistribution(0, 1) for name in params}
    trials = [create_trial(value=value, params=params, distributions=known) for value in values]
    found = importance.importance_of_trials(trials, "ped-anova")
    assert (found.doubt, found.importances) == (importance.NONE_VARIES, {})


def test_the_best_of_a_study_that_minimizes_are_the_lowest():
    values = [number * 3 % 10 / 10 for number in range(10)]
    lower = importance.importance_of_trials(create_trials(values), "ped-anova", maximize=False)
    mirrored = importance.importance_of_trials(create_trials([-v for v in values]), "ped-anova")
    assert lower.importances == mirrored.importances
    assert (
        lower.importances != importance.importance_of_trials(create_trials(values), "ped-anova").importances
    )


def test_fewer_bootstrap_samples_are_drawn_of_many_trials_but_at_least_20():
    assert [importance.resample_count(trials) for trials in (2, 30, 50, 5000)] == [100, 100, 60, 20]


def test_an_interval_is_the_central_90_percent_of_100_small_forests(monkeypatch):
    counted: list[int] = []

    def importance_of_trials(trials, evaluator, trees=importance.TREES, *, maximize=True):
        counted.append(trees)
        shares = {"lr": len(counted) / 1000, "momentum": 1 - len(counted) / 1000}
        return importance.Importance(
            evaluator=evaluator, trials=10, importances=shares, left_out=(), doubt=""
        )

    monkeypatch.setattr(importance, "importance_of_trials", importance_of_trials)
    intervals = importance.bootstrap_intervals(create_trials([0.5] * 10), "fanova")
    assert counted == [importance.BOOTSTRAP_TREES] * 100
    # The central 90 % of 0.001, 0.002, ..., 0.1.
    assert intervals["lr"] == pytest.approx((0.00595, 0.09505))


def test_the_report_and_the_dashboard_show_the_doubt_of_the_command(tmp_path):
    (tmp_path / "s.toml").write_text(
        "[space]\nlr = { low = 0.001, high = 1.0 }\nmomentum = { low = 0.0, high = 0.95 }\n"
    )
    tied = create_trials([0.9, 0.5, 0.5, 0.5])
    definition = file.load_study_file(tmp_path / "s.toml")
    done = records.trial_records(definition, tied)
    section, _ = parameter_plots.importance_section(
        tied, parameter_axis.varying_parameters(done), definition
    )
    said = f"Parameter importance cannot be told: {importance.MOST_SAME}."
    assert (section.text, section.parts) == ((said, importance.DASHBOARD_DIFFERS), ())
    note = notes.study_note(definition, "", None, importance.explain_doubt(tied))
    assert said in note
    best = results.best_setting(definition, done)
    without_doubt = notes.study_note(definition, "", best, "")
    assert "cannot be told" not in without_doubt
    assert importance.DASHBOARD_DIFFERS in without_doubt
    assert "importance" not in notes.study_note(definition, "", None, "")


def test_the_seeds_of_a_setting_are_one_trial_with_their_mean():
    trials = create_trials([0.5, 0.7, 0.6, 0.8, 0.9, 0.1])
    for number, seed in enumerate((1, 2, 3, 1, 2, 3)):  # as in a study of hpo finish
        trials[number].params = {"lr": 0.1 if number < 3 else 0.2, "momentum": 0.9}
        trials[number].system_attrs = {RUN_OPTIONS: {"seed": seed, "epochs": 4}}
    trials[0].state = TrialState.FAIL
    trials[5].system_attrs = {RUN_OPTIONS: {"seed": 3, "epochs": 5}}  # another setting
    found = importance.complete_settings(trials)
    assert [(t.number, t.value) for t in found] == [
        (1, pytest.approx(0.65)),
        (3, pytest.approx(0.85)),
        (5, 0.1),
    ]
