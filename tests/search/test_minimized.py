"""A study that minimizes decides what one decides that maximizes the same values with the other sign."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.analysis import finish, importance, intervals, records, results, strategies
from hpo.analysis.recorded_curves import Curve, RecordedCurves
from hpo.analysis.simulation import Simulation, study_strategy
from hpo.analysis.surrogate import Surrogate
from hpo.search import asha, replicates, samplers
from hpo.search.asha import PAUSED_AT_RUNG, Rungs, RungTable
from hpo.search.objectives import Objectives
from hpo.search.replicates import REPLICATE_OF
from hpo.store import process, queue, status, studies
from hpo.store.history import History
from hpo.study import file
from hpo.study.search_options import Pruner, Sampler
from hpo.training.metric import METRICS, Metric, custom_metric
from hpo.workers import retention
from hpo.workers.pruning import TrialPrunedByRule, TrialPruner
from hpo.workers.setting import choose_setting
from hpo.workers.trial_end import complete_trial
from tests.support import lease_worker
from tests.support.databases import closed_engines
from tests.support.lease_worker import NAME

DIRECTIONS = ("maximize", "minimize")
EPOCHS = 9
RUNGS = (2, 4, 8)
# Few values, so that there are ties; losses are not between 0 and 1.
VALUES = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 3.0])
CURVES = st.lists(st.lists(VALUES, min_size=1, max_size=8), min_size=1, max_size=20)


def metric_of(direction: str) -> Metric:
    return custom_metric("own", direction)


def mirrored(direction: str, value: float) -> float:
    return -value if direction == "minimize" else value


def rung_table(direction: str, curves: list[list[float]], waiting: list[bool], factor: int) -> RungTable:
    rungs = Rungs(
        objectives=Objectives((metric_of(direction),)),
        epochs=RUNGS,
        factor=factor,
        max_trials=len(curves) + 3,
        includes_points=False,
    )
    return RungTable(
        rungs, [trial(direction, *each) for each in zip(range(len(curves)), curves, waiting, strict=True)]
    )


def trial(direction: str, number: int, curve: list[float], waits: bool = False) -> FrozenTrial:
    found = create_trial(state=TrialState.WAITING if waits else TrialState.RUNNING)
    found.number = number
    found.intermediate_values = {e: mirrored(direction, value) for e, value in enumerate(curve, 1)}
    found.system_attrs = {PAUSED_AT_RUNG: len(curve)} if waits else {}
    return found


@given(curves=CURVES, factor=st.integers(2, 4), data=st.data())
def test_rungs_promote_pause_and_prune_the_same_trials(curves, factor, data):
    waiting = [len(curve) in RUNGS and data.draw(st.booleans()) for curve in curves]
    higher, lower = (rung_table(direction, curves, waiting, factor) for direction in DIRECTIONS)
    taken: list[int] = []
    for _ in curves:
        found = higher.next_promotion(taken=taken, last=True)
        assert lower.next_promotion(taken=taken, last=True) == found
        taken += [] if found is None else [found[0]]
    for number, curve in enumerate(curves):
        if len(curve) in RUNGS:
            decided = higher.decide(trial("maximize", number, curve))
            assert lower.decide(trial("minimize", number, curve)) == decided


@given(values=st.lists(VALUES, min_size=1, max_size=12), data=st.data())
def test_settings_have_the_same_ranks(values, data):
    first_of = {
        n: data.draw(st.integers(0, n - 1)) for n in range(1, len(values)) if data.draw(st.booleans())
    }
    first_of = {number: first for number, first in first_of.items() if first not in first_of}
    pruned = data.draw(st.sets(st.sampled_from(range(len(values)))))
    ranked = [
        replicates.rank_settings(
            metric_of(direction),
            {n: mirrored(direction, value) for n, value in enumerate(values) if n not in pruned},
            first_of,
            pruned,
        )
        for direction in DIRECTIONS
    ]
    higher, lower = ([(each.trials, each.diverged) for each in found] for found in ranked)
    assert higher == lower
    assert [each.mean for each in ranked[0]] == [-each.mean for each in ranked[1]]


@given(values=st.lists(VALUES, min_size=2, max_size=400), seed=st.integers(0, 9))
def test_a_sampler_is_shown_the_same_trials(values, seed):
    chance = random.Random(seed)
    states = [chance.choice([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]) for _ in values]

    def trials(direction: str) -> list[FrozenTrial]:
        found = []
        for number, (value, state) in enumerate(zip(values, states, strict=True)):
            own = mirrored(direction, value)
            made = create_trial(
                state=state,
                value=own if state == TrialState.COMPLETE else None,
                intermediate_values={1: own},
            )
            made.number = number
            found.append(made)
        return found

    higher, lower = (
        [each.number for each in samplers.select_trials(trials(direction), metric_of(direction))]
        for direction in DIRECTIONS
    )
    assert higher == lower


class Worker:
    """A worker of a study with made-up curves, whose sign is that of its metric."""

    def __init__(self, path: Path, direction: str, **search: Any) -> None:
        definition = lease_worker.definition()
        changed = {"trials": 16, "sampler": Sampler(name="random")} | search
        metric = "loss" if direction == "minimize" else "accuracy"
        self.definition = definition.model_copy(
            update={
                "train": {**definition.train, "epochs": EPOCHS, "metric": metric},
                "search": definition.search.model_copy(update=changed),
            }
        )
        self.direction = direction
        self.storage = studies.open_storage(f"sqlite:///{path}/{direction}.db", create=True)
        studies.create_study(self.storage, self.definition, "text")
        self.study_id = studies.find_study_id(self.storage, NAME)
        self.history = History(self.storage, self.study_id, NAME, self.definition.metric)
        self.history.rungs = asha.rungs_of(self.definition)

    def run(self) -> None:
        """Run two trials at a time until none is left, each an epoch in turn."""
        running: list[Any] = []
        while True:
            while len(running) < 2 and (started := self._start()) is not None:
                running.append(started)
            if not running:
                return
            running = [each for each in running if next(each, None) is not None]

    def _start(self) -> Any:
        owner = process.current_owner("cpu")
        claim = queue.claim_trial(self.storage, self.study_id, owner, lease_seconds=60, max_attempts=1)
        return claim and self._epochs(claim)

    def _epochs(self, claim: Any) -> Any:
        history = History(self.storage, self.study_id, NAME, self.definition.metric)
        history.rungs = self.history.rungs
        trial, config, study = choose_setting(claim, history, self.definition)
        pruner = TrialPruner(study, history, self.definition)
        chance = random.Random(f"{trial.params['lr']}/{config.seed}")
        level, values = chance.random(), []
        for epoch in range(1, EPOCHS + 1):
            values.append(mirrored(self.direction, level + epoch / 30 + chance.random() / 3))
            pruner.note_report(epoch, values[-1])
            last = epoch == EPOCHS
            claim.commit(
                report=(epoch, values[-1]),
                user_attributes={"best_epoch": 1 + values.index(self.definition.metric.best(values))},
                ask_pruner=None if last else pruner.decide,
            )
            try:
                pruner.raise_if_pruned()
            except TrialPrunedByRule as pruned:
                claim.end(TrialState.PRUNED, value=values[-1], system_attributes=pruned.attributes)
                return
            yield epoch
        complete_trial(claim, history, self.definition, self.definition.metric.best(values))

    def decisions(self) -> list[Any]:
        """Return what was decided about each trial, with its values as those of a maximized study."""
        return [
            (
                each.number,
                each.state,
                each.params,
                [mirrored(self.direction, value) for value in each.intermediate_values.values()],
                each.system_attrs.get(REPLICATE_OF),
            )
            for each in status.read_trials(self.storage, NAME)
        ]


@pytest.fixture
def pair(tmp_path):
    """Return a function that runs a study in either direction, and returns the two workers."""

    def run(**search: Any) -> list[Worker]:
        workers = [Worker(tmp_path, direction, **search) for direction in DIRECTIONS]
        for worker in workers:
            worker.run()
        return workers

    with closed_engines():
        yield run


@pytest.mark.parametrize(
    ("pruner", "sampler"),
    [
        ("asha", "random"),
        ("hyperband", "random"),
        ("median", "tpe"),
        ("percentile", "random"),
        ("patient", "random"),
    ],
)
def test_workers_propose_and_prune_the_same(pair, pruner, sampler):
    settings = Pruner(name=pruner, min_epochs=1, reduction_factor=3, startup_trials=2, patience=1)
    higher, lower = pair(pruner=settings, sampler=Sampler(name=sampler))
    assert higher.decisions() == lower.decisions()
    states = [state for _, state, *_ in higher.decisions()]
    assert TrialState.PRUNED in states
    assert TrialState.COMPLETE in states


def test_the_same_settings_are_replicated_kept_finished_and_important(pair):
    pruner = Pruner(name="asha", min_epochs=1, reduction_factor=2)
    higher, lower = pair(trials=12, replicates=2, pruner=pruner)
    assert higher.decisions() == lower.decisions()
    assert any(repeated is not None for *_, repeated in higher.decisions())
    found = []
    for worker in (higher, lower):
        trials = status.read_trials(worker.storage, NAME)
        ranked = results.best_settings(worker.definition, records.trial_records(worker.definition, trials))
        with worker.storage.transaction() as session:
            kept = retention.trials_to_keep(session, worker.study_id, 2, worker.definition)
        plan = finish.plan_finish(worker.storage, NAME, 2, 2)
        shares = [importance.study_importance(worker.storage, NAME, each) for each in ("ped-anova", "mdi")]
        found.append(
            (
                [(each.trial.number, each.rank, mirrored(worker.direction, each.value)) for each in ranked],
                kept,
                [each.trial for each in plan.settings],
                [(each.importances, each.doubt) for each in shares],
            )
        )
    assert found[0] == found[1]
    values = [value for *_, value in found[0][0]]
    assert len(values) > 2


def recorded_curves(direction: str) -> RecordedCurves:
    document = {
        "name": "s",
        "train": {"objective": "a:b", "epochs": EPOCHS},
        "space": {"x": {"low": 0.0, "high": 1.0}, "kind": ["a", "b"]},
        "search": {"direction": direction, "metric_name": "own"},
    }
    chance = random.Random(0)
    settings = [{"x": chance.random(), "kind": chance.choice("ab")} for _ in range(40)]
    curves = [
        [5 - (s["x"] - 0.7) ** 2 - 0.3 * (s["kind"] == "a") - 1 / epoch for epoch in range(1, EPOCHS + 1)]
        for s in settings
    ]
    return RecordedCurves(
        definition=file.parse_document(document, "s.toml"),
        settings=tuple(settings),
        curves=tuple(
            Curve(values=tuple(mirrored(direction, value) for value in curve), total_seconds=9.0)
            for curve in curves
        ),
    )


def test_simulated_studies_are_the_same_and_reach_their_target():
    histories, compared = [], []
    for direction in DIRECTIONS:
        known = Surrogate(recorded_curves(direction))
        definition = known.recorded.definition
        pruner = Pruner(name="asha", min_epochs=1, reduction_factor=3)
        tried = [study_strategy(definition, Sampler(name=name), pruner) for name in ("random", "tpe")]
        simulated = Simulation(known, tried[1], seed=1, workers=3, max_epochs=60)
        best = [mirrored(direction, each.value) for each in simulated.run()]
        assert best == sorted(best)
        trials = simulated.stored_trials()
        histories.append((best, [(each.params, each.state, each.last_step) for each in trials]))
        runs = [strategies.simulate_strategy(known, each, workers=2, seeds=range(2)) for each in tried]
        compared.append(strategies.compare_searches(runs, known))
        assert min(interval.low for each in compared[-1] for interval in each.regrets) >= 0
        assert mirrored(direction, known.best_value) >= best[-1]
    assert histories[0] == histories[1]
    assert compared[0] == compared[1]
    assert compared[0][0].epochs.value < strategies.epoch_budget(recorded_curves("minimize"))


def test_a_model_of_curves_continues_the_same_trials():
    found = []
    for direction in DIRECTIONS:
        known = Surrogate(recorded_curves(direction))
        pruner = Pruner(name="freeze_thaw", min_epochs=1)
        strategy = study_strategy(known.recorded.definition, Sampler(name="freeze_thaw"), pruner)
        simulated = Simulation(known, strategy, seed=1, workers=2, max_epochs=45)
        best = [mirrored(direction, each.value) for each in simulated.run()]
        found.append((best, [(each.params, each.last_step) for each in simulated.stored_trials()]))
    assert found[0] == found[1]
    assert len({epochs for _, epochs in found[0][1]}) > 2, "trials continued after several rungs"


def test_a_loss_of_seeds_has_an_interval_that_does_not_go_below_zero():
    found = intervals.seeds_interval([0.01, 0.5, 0.02], 0.0, METRICS["loss"].limits)
    assert found is not None
    assert (found.low, found.high > 0.5) == (0.0, True)
