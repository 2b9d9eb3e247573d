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


def test_the_report_names_an_evaluator_without_a_reliable_result(tmp_path):
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
