"""What a table of curves decides: which trial continues, which pauses and why, and which may be ended."""

import re

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from hpo.search import asha, freeze_thaw
from hpo.search.asha import PAUSED_AT_RUNG
from hpo.search.freeze_thaw import CurveTable
from hpo.study import file

X = optuna.distributions.FloatDistribution(0.0, 0.9)


def table_of(trials: list[FrozenTrial], most: int = 16) -> CurveTable:
    document = {
        "name": "s",
        "train": {"epochs": 9, "schedule": "constant"},
        "space": {"dropout": {"low": 0.0, "high": 0.9}},
        "search": {
            "trials": most,
            "sampler": "freeze_thaw",
            "pruner": {"name": "freeze_thaw", "min_epochs": 2},
        },
    }
    rungs = asha.rungs_of(file.parse_document(document, "s.toml"))
    assert rungs.epochs == (2, 3, 4, 7)
    table = freeze_thaw.build_table(rungs, trials)
    assert isinstance(table, CurveTable)
    return table


def trial(number: int, *values: float, state: TrialState = TrialState.RUNNING) -> FrozenTrial:
    x = (number * 0.37) % 0.9
    created = optuna.trial.create_trial(
        state=state,
        value=values[-1] if state == TrialState.COMPLETE else None,
        params={"dropout": x},
        distributions={"dropout": X},
    )
    created.number, created._trial_id = number, number
    created.intermediate_values = dict(enumerate(values, start=1))
    return created


def paused(number: int, *values: float) -> FrozenTrial:
    created = trial(number, *values, state=TrialState.WAITING)
    created.system_attrs = {PAUSED_AT_RUNG: len(values)}
    return created


def poor(count: int) -> list[FrozenTrial]:
    """Return paused trials of low values."""
    return [paused(number, 0.1, 0.1 + number / 1000) for number in range(count)]


def flat(count: int) -> list[FrozenTrial]:
    """Return complete trials from which a model learns that values stay as they are."""
    return [trial(number, *[0.1 + number / 100] * 9, state=TrialState.COMPLETE) for number in range(count)]


def test_the_best_trial_so_far_continues_though_others_were_ahead_at_the_first_rung():
    late = paused(15, 0.05, 0.08, 0.5, 0.9)
    ended = trial(16, 0.9, 0.95, state=TrialState.FAIL)  # cannot continue
    table = table_of([*flat(15), late, ended], most=17)
    table.prepare()
    assert table.next_promotion(last=True) == (15, 4)


def test_a_trial_goes_on_where_a_claim_would_continue_it():
    """Others promise more, since fewer epochs are left to them, but only the best one may continue."""
    ended = trial(14, *[0.9] * 4, state=TrialState.FAIL)
    others = [*flat(8), *(paused(number, *[0.2] * 7) for number in range(8, 14)), ended]
    own = trial(15, *[0.3] * 4)
    table = table_of([*others, own])
    table.prepare(own)
    assert table.decide(own).kind == "promoted"
    table.update(paused(15, *[0.3] * 4))
    table.prepare()
    assert table.next_promotion() == (15, 4)


def test_no_trial_is_ended_before_one_that_paused_since_is_forecast():
    table = table_of([*poor(15), trial(15, *[0.9] * 9, state=TrialState.COMPLETE)])
    table.update(trial(0))  # another worker has it
    table.prepare()
    assert table.first_paused() == 1
    table.update(paused(0, 0.1, 0.1, 0.1))
    assert table.first_paused() is None
    table.prepare()
    assert table.first_paused() == 0


@pytest.mark.parametrize(
    ("others", "most", "reason"),
    [
        (13, 30, r"15 settings are to begin first"),
        (2, 6, r"6 settings are to begin first"),
        (
            15,
            16,
            r"its chance to become the best is [0-4]\.\d %; accuracy after epoch 9 .*",
        ),
        (15, 30, r"a new setting promises more; accuracy after epoch 9 expected at 0\.\d{4} \(.* to .*\)"),
    ],
)
def test_a_pause_says_why(others, most, reason):
    own = trial(15, 0.1, 0.05)
    table = table_of([*flat(others), own], most)
    table.prepare(own)
    assert re.fullmatch(f"after epoch 2: {reason}", str(table.decide(own)))


def test_a_pause_names_the_trial_that_promises_more():
    mine = trial(14, 0.1, 0.05)
    table = table_of([*poor(14), mine, paused(15, 0.8, 0.9)])
    table.prepare(mine)
    assert str(table.decide(mine)).startswith(
        "after epoch 2: trial 15 promises more; accuracy after epoch 9"
    )


def test_the_model_is_not_fitted_again_while_nothing_has_changed(monkeypatch):
    fits: list[int] = []
    fit = freeze_thaw.CurveForecaster.fit

    def counting(self, trials, **options):
        fits.append(len(trials))
        return fit(self, trials, **options)

    monkeypatch.setattr(freeze_thaw.CurveForecaster, "fit", counting)
    table = table_of(poor(15))
    table.prepare()
    table.prepare()
    assert fits == [15]
    table.update(paused(15, 0.3, 0.4))
    table.prepare()
    assert fits == [15, 16]


def test_listed_points_without_a_space_are_compared_by_what_they_set():
    points = [{}, *({"dropout": number / 20} for number in range(15))]
    document = {
        "name": "s",
        "train": {"epochs": 9, "schedule": "constant"},
        "search": {"sampler": "grid", "pruner": "freeze_thaw", "prune_points": True},
        "points": points,
    }
    rungs = asha.rungs_of(file.parse_document(document, "s.toml"))
    trials = [paused(number, 0.1, 0.1 + number / 100) for number in range(16)]
    for each, point in zip(trials, points, strict=True):
        each.params = point
    table = freeze_thaw.build_table(rungs, trials)
    table.prepare()
    assert table.next_promotion(last=True) == (15, 2)
    assert table.first_paused() == 0


def test_a_single_point_without_options_of_its_own_is_ranked_without_a_model():
    search = {"sampler": "grid", "pruner": "freeze_thaw", "prune_points": True}
    document = {"name": "s", "train": {"epochs": 9}, "search": search, "points": [{}]}
    rungs = asha.rungs_of(file.parse_document(document, "s.toml"))
    only = paused(0, 0.1, 0.1)
    only.params = {}
    assert freeze_thaw.build_table(rungs, [only]).next_promotion(last=True) == (0, 2)
