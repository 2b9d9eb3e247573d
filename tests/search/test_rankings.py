"""Rankings of the trials at a rung, as trials come, change and go."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hpo.search import pareto
from hpo.search.rankings import DominanceRanking, LossRanking

LOSSES = st.sampled_from([0.0, 1.0, 2.0, 3.0])  # few, so that there are ties
TRIALS = st.dictionaries(st.integers(0, 9), st.tuples(st.tuples(LOSSES), st.booleans()))
POINTS = st.lists(st.tuples(LOSSES, LOSSES), min_size=1, max_size=10)


def put_all(ranking, trials):
    for number, (losses, waits) in trials.items():
        ranking.put(number, losses, waits=waits)


@given(trials=TRIALS, gone=st.sets(st.integers(0, 9)))
def test_with_one_objective_dominance_ranks_by_the_loss(trials, gone):
    by_loss, by_dominance = LossRanking(), DominanceRanking()
    for ranking in (by_loss, by_dominance):
        put_all(ranking, trials)
        assert list(ranking.waiting()) == sorted(
            (number for number in trials if trials[number][1]), key=lambda n: (trials[n][0], n)
        )
        for number in gone:
            ranking.remove(number)
    assert len(by_loss) == len(by_dominance) == len(trials.keys() - gone)
    assert list(by_loss.waiting()) == list(by_dominance.waiting())
    for number in trials.keys() - gone:
        assert by_loss.place(number) == by_dominance.place(number)
        assert by_loss.always_ahead(number) >= by_dominance.always_ahead(number)


@given(points=POINTS, data=st.data())
def test_a_place_is_that_of_the_pareto_order_whatever_came_first(points, data):
    ranking = DominanceRanking()
    for number in data.draw(st.permutations(range(len(points)))):
        ranking.put(number, (9.0, 9.0), waits=True)
        assert ranking.place(number) >= 0  # sorts what is there
        ranking.remove(number)
        ranking.put(number, points[number], waits=False)
    order = pareto.pareto_order(np.array(points))
    assert [ranking.place(number) for number in order] == list(range(len(points)))
    assert list(ranking.waiting()) == []


@given(points=POINTS, later=POINTS)
def test_trials_that_are_always_ahead_stay_ahead(points, later):
    ranking = DominanceRanking()
    for number, losses in enumerate(points):
        ranking.put(number, losses, waits=False)
    before = [ranking.always_ahead(number) for number in range(len(points))]
    for number, losses in enumerate(later, len(points)):
        ranking.put(number, losses, waits=False)
    for number, ahead in enumerate(before):
        assert ranking.place(number) >= ahead
