"""Parameter importance: an unreliable result is reported as such."""

from collections.abc import Sequence

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, create_trial
from rich.console import Console

from hpo.analysis import importance, records
from hpo.cli.console import importance_view
from hpo.report import parameter_axis, parameter_plots
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


@pytest.mark.parametrize("evaluator", ["ped-anova", "mdi"])  # fANOVA raises
def test_equal_accuracies_give_no_reliable_importance(evaluator):
    assert importance.importance_of_trials(create_trials([0.5] * 4), evaluator).doubt == importance.ALL_SAME


def test_ped_anova_is_unreliable_if_all_trials_but_the_best_are_equal():
    tied = create_trials([0.9, 0.5, 0.5, 0.5])
    found = importance.importance_of_trials(tied, "ped-anova")
    assert set(found.importances.values()) == {0.5}
    console = Console(record=True, width=200)
    console.print(importance_view(found))
    assert "these shares are not reliable: too many came to the same" in console.export_text()
    assert importance.importance_of_trials(tied, "fanova").doubt == ""


def test_fewer_bootstrap_samples_are_drawn_of_many_trials_but_at_least_20():
    assert [importance.resample_count(trials) for trials in (2, 30, 50, 5000)] == [100, 100, 60, 20]


def test_an_interval_is_the_central_90_percent_of_100_small_forests(monkeypatch):
    counted: list[int] = []

    def importance_of_trials(trials, evaluator, trees=importance.TREES):
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


def test_the_report_names_an_evaluator_without_a_reliable_result(tmp_path, monkeypatch):
    monkeypatch.setattr(importance, "resample_count", lambda trials: 5)
    (tmp_path / "s.toml").write_text(
        "[space]\nlr = { low = 0.001, high = 1.0 }\nmomentum = { low = 0.0, high = 0.95 }\n"
    )
    tied = create_trials([0.9, 0.5, 0.5, 0.5])
    done = records.trial_records(file.load_study_file(tmp_path / "s.toml"), tied)
    section, _ = parameter_plots.importance_section(tied, parameter_axis.varying_parameters(done))
    (note,) = section.text
    assert note.startswith("ped-anova gives no reliable result: ")
    (plot,) = section.parts
    assert {row[0] for row in plot.table.rows} == {"fanova", "mdi"}
