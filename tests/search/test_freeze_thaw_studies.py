"""Whole studies of the pruner and the sampler ``freeze_thaw``, whatever the curves are like."""

import itertools
import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from hpo.analysis.recorded_curves import Curve, RecordedCurves
from hpo.analysis.simulation import Simulation, study_strategy
from hpo.analysis.surrogate import Surrogate
from hpo.search.asha import paused_rung
from hpo.search.freeze_thaw import CurveTable
from hpo.study.definition import Pruner, Sampler
from tests.support.searched_study import study_of

EPOCHS = 5
LEARNING_RATES = (1e-4, 1e-3, 1e-2)
VALUES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, math.nan])  # few, so that there are ties
CURVE = st.lists(VALUES, min_size=EPOCHS, max_size=EPOCHS)
CURVES = st.lists(CURVE, min_size=1, max_size=12) | st.lists(CURVE, min_size=18, max_size=24)


def simulation(curves: list[list[float]], workers: int, *, is_end_known: bool) -> Simulation:
    """Return a study in which there is one setting for each curve, and each setting is to run."""
    rates = LEARNING_RATES[: len(curves)]
    labels = [0.01 * label for label in range(math.ceil(len(curves) / len(rates)))]
    found = [{"lr": lr, "label_smoothing": label} for label, lr in itertools.product(labels, rates)]
    curves = [*curves, *curves[: len(found) - len(curves)]]
    definition = study_of(
        space={"lr": list(rates), "label_smoothing": labels}, epochs=EPOCHS, sampler="freeze_thaw"
    )
    known = RecordedCurves(
        definition=definition,
        settings=tuple(found),
        curves=tuple(Curve(values=tuple(curve), total_seconds=1.0) for curve in curves),
    )
    strategy = study_strategy(
        definition, Sampler(name="freeze_thaw"), Pruner(name="freeze_thaw", min_epochs=1)
    )
    if is_end_known:
        strategy = replace(strategy, rungs=replace(strategy.rungs, max_trials=len(found)))
    return Simulation(
        Surrogate(known), strategy, seed=0, workers=workers, max_epochs=len(found) * EPOCHS + 1
    )


@given(curves=CURVES, workers=st.sampled_from([1, 3]), is_end_known=st.booleans())
@settings(max_examples=10)
def test_every_trial_ends_and_the_best_one_is_complete(curves, workers, is_end_known):
    played = simulation(curves, workers, is_end_known=is_end_known)
    ends = [(end.trial, end.epoch) for end in played.epoch_ends()]
    assert len(set(ends)) == len(ends)
    trials, table = played.stored_trials(), played.rung_table
    assert len(trials) == played.planned
    assert isinstance(table, CurveTable)
    best = {
        trial.number: max(value for value in trial.intermediate_values.values() if math.isfinite(value))
        for trial in trials
        if any(map(math.isfinite, trial.intermediate_values.values()))
    }
    winner = min(best, key=lambda number: (-best[number], number), default=None)
    assert winner is None or trials[winner].state == TrialState.COMPLETE
    assert TrialState.COMPLETE in {trial.state for trial in trials}
    while (number := table.first_paused()) is not None:
        table.prepare()
        assert table.next_promotion(last=True) is None, "it would have continued"
        assert paused_rung(trials[number]) == trials[number].last_step
        trials[number].state = TrialState.PRUNED
        table.update(trials[number])
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
