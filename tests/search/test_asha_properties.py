"""Properties of ASHA that hold whatever trials report, in any order."""

import optuna
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from hpo.search.asha import PAUSED_AT_RUNG, Rungs, RungTable
from hpo.search.objectives import Objectives
from hpo.training.metric import METRICS

ACCURACY = Objectives((METRICS["accuracy"],))
RUNGS = (2, 4, 8)
ACCURACIES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])  # few, so that there are ties
CURVES = st.lists(st.lists(ACCURACIES, min_size=1, max_size=8), min_size=1, max_size=20)
FACTORS = st.integers(2, 4)


def rungs(factor: int, max_trials: int = 100) -> Rungs:
    return Rungs(
        objectives=ACCURACY,
        epochs=RUNGS,
        factor=factor,
        max_trials=max_trials,
        includes_points=False,
    )


def trial(number: int, curve: list[float], *, paused: bool = False) -> FrozenTrial:
    created = optuna.trial.create_trial(state=TrialState.RUNNING)
    created.number, created.intermediate_values = number, dict(enumerate(curve, start=1))
    if paused:
        created.state, created.system_attrs = TrialState.WAITING, {PAUSED_AT_RUNG: len(curve)}
    return created


def trials(curves: list[list[float]]) -> list[FrozenTrial]:
    return [trial(number, curve) for number, curve in enumerate(curves)]


def expected_rank(curves: list[list[float]], number: int, rung: int) -> tuple[int, int]:
    """Return the rank of a trial at a rung, from 1, and how many trials reached it, by plain sorting."""
    best = [(-max(curve[:rung]), each) for each, curve in enumerate(curves) if len(curve) >= rung]
    return 1 + sorted(best).index((-max(curves[number][:rung]), number)), len(best)


@given(curves=CURVES, factor=FACTORS, data=st.data())
def test_a_decision_has_the_rank_that_sorting_gives_and_promotes_the_best(curves, factor, data):
    own, rung = data.draw(st.integers(0, len(curves) - 1)), data.draw(st.sampled_from(RUNGS))
    curves = [
        *curves[:own],
        data.draw(st.lists(ACCURACIES, min_size=rung, max_size=rung)),
        *curves[own + 1 :],
    ]
    found = RungTable(rungs(factor), trials(curves)).decide(trial(own, curves[own]))
    rank, reached = expected_rank(curves, own, rung)
    assert (found.rung, found.rank, found.trials) == (rung, rank, reached)
    assert (found.kind == "promoted") == (rank <= reached // factor)
    assert (found.kind == "pruned") == (rank > 100 // factor)


@given(curves=CURVES, factor=FACTORS, data=st.data())
def test_a_table_does_not_depend_on_the_order_of_its_updates(curves, factor, data):
    table = RungTable(rungs(factor))
    for number in data.draw(st.permutations(range(len(curves)))):
        for epochs in data.draw(st.lists(st.integers(1, len(curves[number])), max_size=3)):
            table.update(trial(number, curves[number][:epochs]))
        table.update(trial(number, curves[number]))
    at_once = RungTable(rungs(factor), trials(curves))
    for number, curve in enumerate(curves):
        if len(curve) in RUNGS:
            assert table.decide(trial(number, curve)) == at_once.decide(trial(number, curve))


@given(curves=CURVES, factor=FACTORS, data=st.data())
def test_at_most_one_trial_in_factor_is_promoted_and_always_the_best_paused_one(curves, factor, data):
    waiting = [len(curve) in RUNGS and data.draw(st.booleans()) for curve in curves]
    table = RungTable(
        rungs(factor), [trial(n, c, paused=p) for n, (c, p) in enumerate(zip(curves, waiting, strict=True))]
    )
    found = table.next_promotion()
    promotable = {
        (number, rung)
        for rung in RUNGS
        for number, curve in enumerate(curves)
        if waiting[number] and len(curve) == rung
        for rank, reached in [expected_rank(curves, number, rung)]
        if rank <= reached // factor
    }
    assert (found is None) == (not promotable)
    if found is not None:
        number, rung = found
        assert rung == max(rung for _, rung in promotable)
        ranks = {each: expected_rank(curves, each, rung)[0] for each, r in promotable if r == rung}
        assert ranks[number] == min(ranks.values())


@given(curves=CURVES, factor=FACTORS, max_trials=st.integers(1, 30))
def test_a_pruned_trial_could_not_be_promoted_even_after_all_others(curves, factor, max_trials):
    max_trials = max(max_trials, len(curves))
    table = RungTable(rungs(factor, max_trials), trials(curves))
    for number, curve in enumerate(curves):
        if len(curve) in RUNGS:
            found = table.decide(trial(number, curve))
            if found.kind == "pruned":
                assert found.rank > max(max_trials // factor, 1)
