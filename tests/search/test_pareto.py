"""Pareto fronts: dominance, the order within a front, hypervolume and knee, compared with definitions."""

import itertools
import math

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.search import pareto

COARSE = st.integers(0, 4).map(float)  # few values, so that there are ties and repeated points
FINE = st.floats(-1e6, 1e6, allow_nan=False)
UNKNOWN = st.just(math.inf)


@st.composite
def points(draw, least: int = 1, values=COARSE | FINE, objectives=None):
    width = draw(st.integers(1, 4)) if objectives is None else objectives
    rows = draw(st.lists(st.lists(values, min_size=width, max_size=width), min_size=least, max_size=12))
    return np.array(rows, dtype=float).reshape(-1, width)


def dominates(better, worse) -> bool:
    pairs = list(zip(better, worse, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def fronts_by_definition(losses) -> list[int]:
    """Peel off the points that no other one dominates, again and again."""
    left, found, number = set(range(len(losses))), [-1] * len(losses), 0
    while left:
        front = {i for i in left if not any(dominates(losses[j], losses[i]) for j in left)}
        for each in front:
            found[each] = number
        left, number = left - front, number + 1
    return found


@given(losses=points(values=COARSE | FINE | UNKNOWN))
def test_fronts_are_what_is_left_when_better_fronts_are_taken_away(losses):
    assert list(pareto.front_numbers(losses)) == fronts_by_definition(losses)


@given(losses=points(values=COARSE | FINE | UNKNOWN))
def test_the_dominators_of_a_point_are_counted(losses):
    for own in range(len(losses)):
        expected = sum(dominates(other, losses[own]) for other in losses)
        assert pareto.dominator_counts(losses, own) == expected


@given(losses=points(objectives=2))
def test_front_0_is_what_plain_optuna_calls_best_trials(losses):
    study = optuna.create_study(directions=["minimize", "minimize"])
    study.add_trials([optuna.trial.create_trial(values=list(row)) for row in losses])
    first = [number for number, front in enumerate(pareto.front_numbers(losses)) if front == 0]
    assert first == [trial.number for trial in study.best_trials]


@given(losses=points(values=COARSE | FINE | UNKNOWN))
def test_the_order_goes_front_by_front_and_has_each_point_once(losses):
    order = pareto.pareto_order(losses)
    fronts = fronts_by_definition(losses)
    assert sorted(order) == list(range(len(losses)))
    assert [fronts[each] for each in order] == sorted(fronts)


@given(losses=points(values=COARSE))
def test_the_next_point_of_a_front_is_the_farthest_from_all_before_it(losses):
    order = pareto.spread_order(losses)
    scaled = pareto.scale_to_range(losses)
    assert losses[order[0], 0] == losses[:, 0].min()
    for count in range(1, len(order)):
        away = {
            each: min(np.linalg.norm(scaled[each] - scaled[taken]) for taken in order[:count])
            for each in order[count:]
        }
        farthest = max(away.values())
        assert order[count] == min(each for each in away if away[each] == farthest)


@given(losses=points(values=st.integers(-8, 8).map(float)), data=st.data())
def test_the_unit_of_an_objective_does_not_matter(losses, data):
    units = [2.0 ** data.draw(st.integers(-10, 10)) for _ in range(losses.shape[1])]  # exact in binary
    assert pareto.pareto_order(losses * units) == pareto.pareto_order(losses)
    assert pareto.knee(losses * units) == pareto.knee(losses)


def test_a_front_is_covered_from_its_ends_inwards():
    losses = np.array([[0.0, 4.0], [1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [4.0, 0.0], [2.0, 2.0]])
    assert pareto.spread_order(losses) == [0, 4, 2, 1, 3, 5]


def test_points_with_an_unknown_value_come_last_in_their_objective():
    losses = np.array([[0.5, math.inf], [0.5, 3.0], [0.1, math.inf]])
    assert pareto.pareto_order(losses) == [2, 1, 0]


def test_no_points_have_no_order():
    assert pareto.pareto_order(np.empty((0, 2))) == []
    assert pareto.hypervolume(np.empty((0, 2)), np.ones(2)) == 0.0


@given(losses=points(values=st.integers(0, 5).map(float)))
def test_the_hypervolume_counts_the_unit_cubes_that_some_point_dominates(losses):
    width = losses.shape[1]
    cubes = itertools.product(range(4), repeat=width)
    dominated = sum(any(all(row <= cube) for row in losses) for cube in cubes)
    assert pareto.hypervolume(losses, np.full(width, 4.0)) == pytest.approx(dominated)


def test_points_beyond_the_reference_add_nothing():
    inside, beyond = [0.25, 0.5], [-10.0, 1.5]
    assert pareto.hypervolume(np.array([inside, beyond]), np.ones(2)) == pytest.approx(0.375)


@given(losses=points(objectives=2, least=3))
def test_the_knee_is_the_farthest_beyond_the_line_through_the_ends(losses):
    front = losses[pareto.front_numbers(losses) == 0]
    scaled = pareto.scale_to_range(front)
    beyond = [(1.0 - x - y) / math.sqrt(2) for x, y in scaled]
    assert beyond[pareto.knee(front)] == pytest.approx(max(beyond))


def test_the_knee_of_a_bent_front_is_at_its_bend():
    assert pareto.knee(np.array([[0.0, 100.0], [0.1, 20.0], [0.2, 18.0], [0.9, 0.0]])) == 1
