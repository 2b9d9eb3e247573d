"""Parameter importance: where an evaluator cannot tell, it says so instead of equal shares."""

from collections.abc import Sequence

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, create_trial

from hpo import axes, importance, outcome, pairs, studyfile
from hpo.errors import StoreError


def trials(values: Sequence[float]) -> list[FrozenTrial]:
    """Give complete trials of two parameters that came to these accuracies."""
    distributions = {"lr": FloatDistribution(0, 1), "momentum": FloatDistribution(0, 1)}
    made = []
    for number, value in enumerate(values):
        params = {"lr": number / 10, "momentum": number * 7 % 10 / 10}
        made.append(create_trial(value=value, params=params, distributions=distributions))
        made[-1].number = number
    return made


@pytest.mark.parametrize("evaluator", importance.EVALUATORS)
def test_equal_accuracies_tell_nothing_of_any_parameter(evaluator):
    with pytest.raises(StoreError, match=f"{evaluator} over 4 trials: all came to the same"):
        importance.over(trials([0.5] * 4), evaluator)


def test_ped_anova_cannot_tell_the_best_apart_where_all_others_are_equal():
    tied = trials([0.9, 0.5, 0.5, 0.5])
    with pytest.raises(StoreError, match=r"ped-anova over 4 trials: .* cannot tell the best apart"):
        importance.over(tied, "ped-anova")
    assert importance.over(tied, "fanova").trials == 4


def test_the_report_says_which_evaluator_cannot_tell(tmp_path):
    (tmp_path / "s.toml").write_text(
        "[space]\nlr = { low = 0.001, high = 1.0 }\nmomentum = { low = 0.0, high = 0.95 }\n"
    )
    tied = trials([0.9, 0.5, 0.5, 0.5])
    done = outcome.outcomes(studyfile.load(tmp_path / "s.toml"), tied)
    section, _ = pairs.importances(tied, axes.axes(done))
    (note,) = section.text
    assert note.startswith("ped-anova cannot say: ")
    (plot,) = section.parts
    assert {row[0] for row in plot.table.rows} == {"fanova", "mdi"}
