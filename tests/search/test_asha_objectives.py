"""Rungs at which trials with several objectives are compared by dominance."""

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from hpo.search import pareto
from hpo.search.asha import PAUSED_AT_RUNG, Rungs, RungTable
from hpo.search.objectives import Objectives
from hpo.training.metric import COSTS, METRICS

OBJECTIVES = Objectives((METRICS["accuracy"], COSTS["epoch_seconds"]))
VALUES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])  # few, so that there are ties
POINTS = st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12)


def rungs(factor: int = 4, max_trials: int = 100) -> Rungs:
    return Rungs(
        epochs=(2,), factor=factor, max_trials=max_trials, includes_points=False, objectives=OBJECTIVES
    )


def trial(number: int, accuracy: float, seconds: float, *, paused: bool = False) -> FrozenTrial:
    """Return a trial that is at rung 2."""
    attributes = {"epoch_seconds": [seconds, seconds]}
    created = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=attributes)
    created.number, created.intermediate_values = number, {1: 0.0, 2: accuracy}
    if paused:
        created.state, created.system_attrs = TrialState.WAITING, {PAUSED_AT_RUNG: 2}
    return created


def trials(points: list[tuple[float, float]], **state: bool) -> list[FrozenTrial]:
    return [trial(number, *point, **state) for number, point in enumerate(points)]


def expected_order(points: list[tuple[float, float]]) -> list[int]:
    return pareto.pareto_order(np.array([(-accuracy, seconds) for accuracy, seconds in points]))


@given(points=POINTS, factor=st.integers(2, 4), data=st.data())
def test_a_decision_has_the_rank_of_the_pareto_order_and_promotes_the_best(points, factor, data):
    own = data.draw(st.integers(0, len(points) - 1))
    found = RungTable(rungs(factor), trials(points)).decide(trial(own, *points[own]))
    rank = 1 + expected_order(points).index(own)
    assert (found.rung, found.rank, found.trials) == (2, rank, len(points))
    assert (found.kind == "promoted") == (rank <= len(points) // factor)


@given(points=POINTS, factor=st.integers(2, 4))
def test_the_paused_trial_that_continues_is_the_first_of_the_pareto_order(points, factor):
    found = RungTable(rungs(factor), trials(points, paused=True)).next_promotion()
    first = expected_order(points)[0]
    assert found == ((first, 2) if len(points) >= factor else None)


@given(points=POINTS, later=POINTS)
def test_a_pruned_trial_would_never_have_been_promoted(points, later):
    compared = rungs(4, max_trials=len(points) + len(later))
    table = RungTable(compared, trials(points))
    pruned = [each.number for each in trials(points) if table.decide(each).kind == "pruned"]
    for number, point in enumerate(later, len(points)):
        table.update(trial(number, *point))
    assert {table.decide(trial(each, *points[each])).kind for each in pruned} <= {"pruned"}


@given(points=POINTS, data=st.data())
def test_a_table_does_not_depend_on_the_order_of_its_updates(points, data):
    table = RungTable(rungs())
    for number in data.draw(st.permutations(range(len(points)))):
        table.update(trial(number, *data.draw(st.tuples(VALUES, VALUES))))
        table.update(trial(number, *points[number]))
    at_once = RungTable(rungs(), trials(points))
    for each in trials(points):
        assert table.decide(each) == at_once.decide(each)


@pytest.mark.parametrize("known", [True, False])
def test_a_trial_whose_costs_are_unknown_ranks_behind_one_as_accurate(known):
    other = trial(1, 0.5, 9.0)
    own = trial(0, 0.5, 9.0)
    if not known:
        own.user_attrs = {}
    assert RungTable(rungs(2), [other]).decide(own).rank == (1 if known else 2)
