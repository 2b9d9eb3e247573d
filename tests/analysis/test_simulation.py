"""Strategies simulated on recorded curves: files of curves, the surrogate, virtual time, results."""

import dataclasses
import json
import random
import tomllib

import pytest
from optuna.trial import TrialState

from hpo.analysis import intervals, simulation, strategies
from hpo.analysis.recorded_curves import Curve, RecordedCurves
from hpo.analysis.simulation import Simulation, Strategy
from hpo.analysis.surrogate import Surrogate
from hpo.errors import DefinitionError
from hpo.study import file
from hpo.study.definition import Definition, Point
from hpo.study.search_options import Pruner, Sampler, Search
from tests.support.curve_file import EPOCHS, write_curve_file
from tests.support.databases import plain_sql

OWN = """
def climb(config, state):
    for epoch in range(1, config.epochs + 1):
        yield 0.9 - (config.x - 0.3) ** 2 - 0.3 / epoch, None
"""


def simulate(surrogate: Surrogate, strategy: Strategy, seed: int = 0, workers: int = 1, most: int = 200):
    return list(Simulation(surrogate, strategy, seed=seed, workers=workers, max_epochs=most).run())


def hpo_strategy(surrogate: Surrogate, pruner: str, sampler: str = "random") -> Strategy:
    definition = surrogate.recorded.definition
    rungs = Pruner(name=pruner, min_epochs=1, reduction_factor=3)
    return simulation.study_strategy(definition, Sampler(name=sampler), rungs)


# Virtual time


def test_one_worker_runs_whole_trainings_in_sequence(surrogate):
    found = simulate(surrogate, hpo_strategy(surrogate, "none"), most=40)
    assert [each.epochs for each in found] == list(range(1, 41))
    assert [each.seconds for each in found] == pytest.approx([2.0 * epoch for epoch in range(1, 41)])
    best = [each.value for each in found]
    assert best == sorted(best)


def test_more_workers_take_less_time_for_the_same_epochs(surrogate):
    for workers in (1, 2, 8):
        found = simulate(surrogate, hpo_strategy(surrogate, "none"), workers=workers, most=144)
        assert found[-1].seconds == pytest.approx(144 / workers * 2.0)


@pytest.mark.parametrize("workers", [1, 3])
def test_asha_continues_one_trial_in_three(surrogate, workers):
    simulated = Simulation(
        surrogate, hpo_strategy(surrogate, "asha"), seed=1, workers=workers, max_epochs=300
    )
    list(simulated.run())
    trials = simulated.stored_trials()
    reached = [sum((trial.last_step or 0) > rung for trial in trials) for rung in (0, 1, 3)]
    assert reached[0] > 60  # 300 epochs are only 33 whole trainings
    assert reached[1] == pytest.approx(reached[0] / 3, abs=workers + reached[0] / 10)
    assert reached[2] < reached[1]


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii"])
def test_with_two_objectives_asha_continues_the_trials_of_the_front(surrogate, sampler):
    """An epoch of any setting takes two seconds, so the most accurate trial is the front."""
    recorded = surrogate.recorded
    search = recorded.definition.search.model_copy(update={"objectives": ("accuracy", "epoch_seconds")})
    definition = recorded.definition.model_copy(update={"search": search})
    known = Surrogate(dataclasses.replace(recorded, definition=definition))
    simulated = Simulation(known, hpo_strategy(known, "asha", sampler), seed=1, workers=3, max_epochs=200)
    ends = list(simulated.epoch_ends())
    assert [end.epochs for end in ends] == list(range(1, 201))
    trials = simulated.stored_trials()
    reached = [sum((trial.last_step or 0) > rung for trial in trials) for rung in (0, 1, 3)]
    assert reached[0] > 40
    assert reached[2] < reached[1] < reached[0] / 2
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert complete
    for trial in complete:
        assert trial.values == pytest.approx([max(trial.intermediate_values.values()), 2.0])
        assert simulated.reached(trial.number) == pytest.approx((-trial.values[0], 2.0))


@pytest.mark.parametrize("pruner", ["asha", "hyperband"])
def test_the_same_seed_repeats_a_simulation_and_another_one_does_not(surrogate, pruner):
    first, second, third = (
        simulate(surrogate, hpo_strategy(surrogate, pruner, "tpe"), seed=seed) for seed in (1, 1, 2)
    )
    assert first == second
    assert first != third


def test_screening_runs_all_for_one_epoch_and_the_best_three_to_the_end(surrogate):
    strategy = next(
        each
        for each in simulation.reference_strategies(surrogate.recorded.definition, EPOCHS)
        if each.screening_epochs
    )
    simulated = Simulation(surrogate, strategy, seed=0, workers=4, max_epochs=100)
    found = list(simulated.run())
    lengths = sorted((trial.last_step for trial in simulated.stored_trials()), reverse=True)
    assert lengths == [EPOCHS] * 3 + [1] * (100 - 3 * (EPOCHS - 1) - 3)
    assert found[-1].epochs == 100


def test_the_pruners_of_optuna_prune(surrogate):
    references = {
        each.name: each for each in simulation.reference_strategies(surrogate.recorded.definition, EPOCHS)
    }
    for name in ("Optuna: random, median", "Optuna: TPE, halving", "Optuna: TPE, hyperband"):
        simulated = Simulation(surrogate, references[name], seed=0, workers=2, max_epochs=150)
        list(simulated.run())
        assert any(trial.state.name == "PRUNED" for trial in simulated.stored_trials()), name


def small_space(worst: float) -> RecordedCurves:
    """Return the curves of a space of twelve settings; ``worst`` is the accuracy of the worst one."""
    text = '[train]\nobjective = "own:climb"\nepochs = 3\n[space]\na = ["x", "y", "z"]\nb = [1, 2, 3, 4]'
    definition = file.parse_document({"name": "study", **tomllib.loads(text)}, "f.toml")
    settings = tuple({"a": a, "b": b} for a in "xyz" for b in (1, 2, 3, 4))
    curves = tuple(
        Curve(values=tuple(worst + place / 100 - 0.1 / e for e in (1, 2, 3)), total_seconds=3.0)
        for place in range(len(settings))
    )
    return RecordedCurves(definition=definition, settings=settings, curves=curves)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("worst", [0.5, -2.0])
def test_hpo_runs_each_setting_of_a_small_space_once(sampler, worst):
    surrogate = Surrogate(small_space(worst))
    assert strategies.epoch_budget(surrogate.recorded) == 12 * 3
    strategy = simulation.study_strategy(
        surrogate.recorded.definition, Sampler(name=sampler), Pruner(name="none")
    )
    simulated = Simulation(surrogate, strategy, seed=0, workers=2, max_epochs=100)
    found = list(simulated.run())
    params = [trial.params for trial in simulated.stored_trials()]
    assert sorted(params, key=str) == sorted(surrogate.recorded.settings, key=str)
    assert len(found) == 12 * 3, "no trial is left, though the budget is larger"
    values = [max(curve.values) for curve in surrogate.recorded.curves]
    assert [trial.value for trial in simulated.stored_trials()] == [
        values[surrogate.recorded.settings.index(each)] for each in params
    ]
    assert (found[-1].value, surrogate.best_value) == (max(values), max(values))
    assert found[0].value in [curve.values[0] for curve in surrogate.recorded.curves]


# Results of strategies


def test_regret_falls_with_the_epochs_and_the_better_strategy_needs_fewer(surrogate, monkeypatch):
    monkeypatch.setattr(strategies, "FULL_TRAININGS", 12)
    chosen = [
        next(simulation.reference_strategies(surrogate.recorded.definition, EPOCHS)),
        hpo_strategy(surrogate, "asha", "tpe"),
    ]
    results = [strategies.simulate_strategy(surrogate, each, workers=1, seeds=range(10)) for each in chosen]
    random_, asha = strategies.compare_searches(results, surrogate)
    for each in (random_, asha):
        values = [interval.value for interval in each.regrets]
        assert values == sorted(values, reverse=True)
        assert each.epochs.low <= each.epochs.value <= each.epochs.high
    assert random_.ratio == 1.0
    assert asha.ratio < 0.7
    assert asha.p < 0.05 < random_.p


def test_the_best_of_many_strategies_needs_a_smaller_p_value_than_one(surrogate):
    chosen = [next(simulation.reference_strategies(surrogate.recorded.definition, EPOCHS))]
    (found,) = strategies.compare_searches(
        [strategies.simulate_strategy(surrogate, chosen[0], workers=1, seeds=range(3))], surrogate
    )
    sooner = dataclasses.replace(found.epochs, value=found.epochs.value - 1)
    best = dataclasses.replace(found, strategy="best", epochs=sooner, p=0.02)
    assert strategies.advice([found, best]).startswith("best reached")
    assert strategies.advice([found, best, *[found] * 3]).startswith("no strategy needed surely fewer")


@pytest.mark.parametrize("count", [5, 20, 50])
def test_the_interval_of_a_median_has_its_nominal_coverage(count):
    rng = random.Random(count)
    hits = 0
    for _ in range(400):
        found = intervals.median_interval([rng.gauss(0, 1) for _ in range(count)])
        hits += found.low <= 0 <= found.high
    assert hits / 400 > 0.92


def grid(*finals: float) -> RecordedCurves:
    """Return a grid whose points reach these accuracies after 9 epochs, in the same order in all epochs."""
    curves = tuple(
        Curve(values=tuple(best - 0.3 / epoch for epoch in range(1, EPOCHS + 1)), total_seconds=9.0)
        for best in finals
    )
    settings = tuple({"x": float(index)} for index in range(len(finals)))
    return RecordedCurves(
        definition=Definition(
            name="grid",
            train={"objective": "a:b", "epochs": EPOCHS, "seed": 0},
            search=Search(sampler=Sampler(name="grid"), pruner=Pruner(name="asha", reduction_factor=3)),
            points=tuple(Point(setting=setting) for setting in settings),
        ),
        settings=settings,
        curves=curves,
    )


def test_a_grid_replayed_with_pruning_reports_savings_and_whether_its_winner_is_kept():
    surrogate = Surrogate(grid(*(0.5 + number / 100 for number in range(14))))
    chosen = strategies.choose_strategies(surrogate.recorded, None, None)
    results = [strategies.simulate_strategy(surrogate, each, workers=2, seeds=range(5)) for each in chosen]
    found = {each.strategy: each for each in strategies.compare_pruners(results, surrogate.recorded)}
    whole, pruned = found["no pruner"], found["hpo: asha from epoch 2 by 3"]
    assert (whole.share, whole.kept) == (1.0, 5)
    assert pruned.kept == 5
    assert pruned.share < 0.5
    assert pruned.lost.value == 0


def test_a_sampler_is_refused_for_a_study_that_lists_its_points():
    with pytest.raises(DefinitionError, match="--sampler random: this study runs its listed points"):
        strategies.choose_strategies(grid(0.5, 0.6), "random", None)


def test_a_winner_that_rises_late_is_lost_to_pruning_and_reported():
    complete = grid(*(0.5 + number / 100 for number in range(14)))
    late = Curve(values=(*[0.0] * (EPOCHS - 1), 0.99), total_seconds=9.0)
    surrogate = Surrogate(
        RecordedCurves(
            definition=complete.definition, settings=complete.settings, curves=(*complete.curves[:-1], late)
        )
    )
    chosen = strategies.choose_strategies(surrogate.recorded, None, "asha")[-1:]
    results = [strategies.simulate_strategy(surrogate, each, workers=1, seeds=range(4)) for each in chosen]
    (found,) = strategies.compare_pruners(results, surrogate.recorded)
    assert found.kept == 0
    assert found.lost.value > 0.3
    assert strategies.advice([found]).startswith("no pruner would have kept the winner")
    whole = dataclasses.replace(found, kept=found.repeats, share=1.0)
    assert strategies.advice([found, whole]).endswith("would have spared an epoch")


# The command

STUDY = """
[train]
objective = "own:climb"
epochs = 6
[space]
x = { low = 0.0, high = 1.0 }
[search]
trials = 12
sampler = "random"
pruner = "none"
"""


def test_a_study_of_a_custom_objective_is_simulated(place):
    place.here("create", place.study(STUDY))
    place.here("worker", "small")
    done = place.here("simulate", "small", "--pruner", "asha", "--repeats", "2", "--json")
    found = json.loads(done.out)
    assert (found["curves"], found["epochs"], found["workers"], found["repeats"]) == (12, 6, 1, 2)
    assert found["surrogate"] == "random forest"
    names = [each["strategy"] for each in found["strategies"]]
    assert names[0] == "random"
    assert names[-1] == "hpo: random, asha from epoch 2 by 4"
    assert "Optuna: TPE, median" in names
    assert "several kinds of hardware" not in place.here("simulate", "small", "--repeats", "2").out
    sql = plain_sql(f"sqlite:///{place.path}/storage/hpo.db")
    sql(
        "UPDATE trial_user_attributes SET value_json = :changed WHERE key = 'hardware' AND trial_id = 2",
        changed='{"device": "Abacus", "threads": 1}',
    )
    text = place.here("simulate", "small", "--sampler", "tpe", "--pruner", "asha", "--repeats", "2").out
    assert "12 whole curves of 6 epochs, searched 2 times with 1 worker" in text
    assert "epochs to target" in text
    assert "times are of several kinds of hardware, so hours mean little: " in text
    assert "Abacus, 1 thread" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small", "--pruner", "ashes"], "--pruner: pruner.name: found 'ashes'; did you mean 'asha'?"),
        (["small", "--pruner", "{ name = 'asha', min_epoch = 2 }"], "did you mean 'min_epochs'"),
        (["--curves", "none.csv"], "none.csv: No such file"),
        (
            ["small", "--sampler", "grid"],
            "--sampler grid: runs listed points only; want tpe, freeze_thaw, gp, nsgaii, qmc or",
        ),
        (["smal"], "no study 'smal' in the store; did you mean 'small'?"),
    ],
)
def test_a_wrong_argument_is_reported_in_one_line(place, arguments, message):
    place.here("create", place.study(STUDY))
    if arguments[0] == "small":
        write_curve_file(place.path / "curves.csv")
        arguments = ["--curves", "curves.csv", *arguments[1:]]
    done = place.here("simulate", *arguments, code=1)
    assert message in done.err
    assert done.err.count("\n") == 1


def test_a_study_without_whole_curves_is_refused_with_the_number_needed(place):
    place.here("create", place.study(STUDY))
    done = place.here("simulate", "small", code=1)
    assert "has 0 whole curves; want 10: trials that no pruner ended early" in done.err
