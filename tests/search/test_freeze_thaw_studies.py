"""Whole studies of the pruner and the sampler ``freeze_thaw``, whatever the curves are like."""

import itertools
import math
import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.analysis.recorded_curves import Curve, RecordedCurves
from hpo.analysis.simulation import Simulation, study_strategy
from hpo.analysis.surrogate import Surrogate
from hpo.search import asha
from hpo.search.asha import PAUSED_AT_RUNG, PROMOTED_PAST_RUNG, paused_rung
from hpo.search.curve_forecast import curve_space
from hpo.search.freeze_thaw import CurveTable
from hpo.study.search_options import Pruner, Sampler
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
@settings(max_examples=6)
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


class Workers:
    """Three workers that run the trials of one study, fail some, and act on old forecasts now and then."""

    def __init__(self, count: int, rng: random.Random) -> None:
        definition = study_of(
            space={"dropout": {"low": 0.0, "high": 0.9}},
            epochs=EPOCHS,
            trials=count,
            sampler="freeze_thaw",
            pruner={"name": "freeze_thaw", "min_epochs": 1},
        )
        self.count, self.rng = count, rng
        self.table = CurveTable(asha.rungs_of(definition), curve_space(definition))
        self.trials: list[FrozenTrial] = []

    def running(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if trial.state == TrialState.RUNNING]

    def claim(self) -> bool:
        """Let a free worker continue, begin or end a trial; return whether there was one."""
        is_left = len(self.trials) < self.count
        last = not is_left and not self.running()
        if (promotion := self.table.next_promotion(last=last)) is not None:
            number, rung = promotion
            assert self.trials[number].last_step == rung
            self.change(number, TrialState.RUNNING, {PAUSED_AT_RUNG: None, PROMOTED_PAST_RUNG: rung})
        elif is_left:
            begun = create_trial(
                state=TrialState.RUNNING,
                params={"dropout": self.rng.uniform(0.0, 0.9)},
                distributions={"dropout": FloatDistribution(0.0, 0.9)},
            )
            begun.number = len(self.trials)
            self.trials.append(begun)
            self.change(begun.number, TrialState.RUNNING, {})
        elif last and (paused := self.table.first_paused()) is not None:
            assert paused != self.best(), "the best one is ended"
            self.change(paused, TrialState.PRUNED, {})
        else:
            return False
        return True

    def train(self, trial: FrozenTrial) -> None:
        """Run an epoch of a trial, which may fail, and decide on the trial at a rung."""
        epoch = (trial.last_step or 0) + 1
        if self.rng.random() < 0.05:
            return self.change(trial.number, TrialState.FAIL, {})
        trial.intermediate_values[epoch] = self.rng.choice([0.1, 0.5, 0.9, self.rng.random()])
        if epoch == EPOCHS:
            return self.change(trial.number, TrialState.COMPLETE, {})
        if not self.table.rungs.is_at_rung(trial):
            return None
        if self.rng.random() < 0.7:
            self.table.prepare(trial)
        if self.table.decide(trial).kind == "promoted":
            return self.change(trial.number, TrialState.RUNNING, {PROMOTED_PAST_RUNG: epoch})
        return self.change(trial.number, TrialState.WAITING, {PAUSED_AT_RUNG: epoch})

    def change(self, number: int, state: TrialState, attributes: dict[str, int | None]) -> None:
        trial = self.trials[number]
        assert not trial.state.is_finished()
        trial.state = state
        trial.system_attrs |= attributes
        self.table.update(trial)

    def best(self) -> int:
        """Return the number of the best trial that has not ended early."""
        ended = (TrialState.FAIL, TrialState.PRUNED)
        left = [each for each in self.trials if each.state not in ended and each.intermediate_values]
        return min(left, key=lambda each: (-max(each.intermediate_values.values()), each.number)).number


@given(count=st.sampled_from([1, 4, 17]), seed=st.integers(0, 10**6))
@settings(max_examples=12)
def test_a_study_ends_though_trials_fail_and_forecasts_are_old(count, seed):
    workers, idle = Workers(count, random.Random(seed)), 0
    while len(workers.trials) < count or not all(each.state.is_finished() for each in workers.trials):
        if idle or workers.rng.random() < 0.5:
            workers.table.prepare()
        running = workers.running()
        claimed = len(running) < 3 and workers.claim()
        if running:
            workers.train(workers.rng.choice(running))
        idle = 0 if running or claimed else idle + 1
        assert idle < 2, "nothing is left to do, but the study has not ended"
    states = [trial.state for trial in workers.trials]
    assert TrialState.COMPLETE in states or set(states) == {TrialState.FAIL}
