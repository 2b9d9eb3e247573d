"""Samplers in studies with several objectives, of which most trials end early."""

import random

import numpy as np
import optuna
import pytest
from optuna.testing.pytest_samplers import MultiObjectiveSamplerTestCase
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.search import pareto, sampler_views, samplers
from hpo.search.genetic import SteadyNSGAIISampler
from hpo.search.objectives import Objectives
from hpo.search.sampler_views import ViewingSampler
from hpo.training.metric import COSTS, METRICS
from tests.support.searched_study import study_of

pytestmark = pytest.mark.usefixtures("optuna_warnings")

OBJECTIVES = Objectives((METRICS["accuracy"], COSTS["epoch_seconds"]))
RANGE = optuna.distributions.FloatDistribution(0.0, 1.0)
COMPLETE, PRUNED, RUNNING, FAIL = (
    getattr(TrialState, name) for name in ("COMPLETE", "PRUNED", "RUNNING", "FAIL")
)


def trial(number: int, x: float, state: TrialState = COMPLETE, epochs: int = 4, known: bool = True):
    """Return a trial whose accuracy is best at x = 1 and whose seconds are least at x = 0.7."""
    accuracy, seconds = x, 1 + abs(x - 0.7)
    created = create_trial(
        state=state,
        values=[accuracy, seconds] if state == COMPLETE else None,
        params={"x": x, "y": 0.5},
        distributions={"x": RANGE, "y": RANGE},
        intermediate_values={step: accuracy * step / 4 for step in range(1, epochs + 1)} if known else {},
        user_attrs={"epoch_seconds": [seconds] * epochs} if known else {},
    )
    created.number = number
    return created


def random_trials(count: int) -> list[FrozenTrial]:
    generator = random.Random(0)
    states = [COMPLETE, PRUNED, PRUNED, PRUNED, RUNNING, FAIL]
    return [
        trial(number, generator.random(), generator.choice(states), generator.choice([1, 2]))
        for number in range(count)
    ]


def propose(study: optuna.Study) -> dict[str, float]:
    proposed = study.ask()
    return {name: proposed.suggest_float(name, 0.0, 1.0) for name in ("x", "y")}


def two_objectives(trials=()) -> optuna.Study:
    study = optuna.create_study(study_name="s", directions=["maximize", "minimize"])
    study.add_trials(trials)
    return study


def inner_samplers() -> dict[str, optuna.samplers.BaseSampler]:
    return {
        "tpe": ViewingSampler(optuna.samplers.TPESampler(seed=1, multivariate=False), OBJECTIVES),
        "gp": ViewingSampler(optuna.samplers.GPSampler(seed=1), OBJECTIVES),
        "nsgaii": ViewingSampler(SteadyNSGAIISampler(population_size=10, seed=1), OBJECTIVES),
    }


@pytest.mark.parametrize("name", ["tpe", "gp", "nsgaii"])
def test_a_sampler_learns_from_pruned_trials_that_have_no_values(name):
    """No trial is complete, and settings below 0.7 are dominated."""
    trials = [trial(number, number / 60, PRUNED, epochs=2) for number in range(60)]
    study = two_objectives([*trials, trial(60, 0.05, PRUNED, known=False), trial(61, 0.06, FAIL)])
    study.sampler = inner_samplers()[name]
    found = [propose(study)["x"] for _ in range(2 if name == "gp" else 40)]
    assert np.mean(np.array(found) > 0.65) > 0.5, "at random, a third would be"


def test_pruned_trials_look_complete_with_what_they_had_and_the_worst_where_it_is_unknown():
    trials = [
        trial(0, 0.2),
        trial(1, 0.3, PRUNED, epochs=2),
        trial(2, 0.7, PRUNED, known=False),
        trial(3, 0.4, RUNNING),
        trial(4, 0.4, FAIL),
    ]
    shown = sampler_views.pruned_as_complete(OBJECTIVES, trials)
    assert [each.state for each in shown] == [COMPLETE, COMPLETE, COMPLETE, RUNNING, FAIL]
    assert [each.values for each in shown[:2]] == [pytest.approx([0.2, 1.5]), pytest.approx([0.15, 1.4])]
    assert shown[2].values == pytest.approx([0.15, 1.5])
    assert trials[1].state == PRUNED, "the study's own trials stay as they are"


def test_with_one_objective_pruned_trials_keep_their_last_value():
    one = Objectives((METRICS["loss"],))
    pruned = create_trial(state=PRUNED, value=0.5, intermediate_values={1: 0.3, 2: 0.5})
    unknown = create_trial(state=PRUNED)
    shown = sampler_views.pruned_as_complete(one, [pruned, unknown, create_trial(value=0.8)])
    assert [each.value for each in shown] == [0.5, 0.8, 0.8]
    assert [each.value for each in sampler_views.pruned_as_complete(one, [unknown])] == [0.0]


def test_the_best_trials_come_first_and_trials_that_only_wait_are_left_out():
    trials = random_trials(80)
    ended = [each for each in trials if each.state in (COMPLETE, PRUNED)]
    waiting = create_trial(state=TrialState.WAITING)
    found = sampler_views.best_first(OBJECTIVES, [*ended, waiting])
    assert [each.number for each in found] == expected_best(trials)


def expected_best(trials: list[FrozenTrial]) -> list[int]:
    """Return the numbers of ended trials: complete ones by dominance, then by epochs and dominance."""
    found: list[int] = []
    for state, epochs in ((COMPLETE, None), (PRUNED, 2), (PRUNED, 1)):
        group = [t for t in trials if t.state == state and epochs in (None, t.last_step)]
        if state == COMPLETE:
            losses = [(-each.values[0], each.values[1]) for each in group]
        else:
            losses = [OBJECTIVES.losses(each, epochs) for each in group]
        found += [group[index].number for index in pareto.pareto_order(np.array(losses))]
    return found


def test_nsgaii_proposes_at_random_until_it_has_a_population_and_then_children_of_the_best():
    sampler = SteadyNSGAIISampler(population_size=10, seed=0)
    search_space = {"x": RANGE, "y": RANGE}
    few, many = two_objectives([trial(n, n / 9) for n in range(9)]), two_objectives()
    assert sampler.sample_relative(few, trial(9, 0.0, RUNNING), search_space) == {}
    many.add_trials([trial(number, number / 40) for number in range(40)])
    children = [sampler.sample_relative(many, trial(40, 0.0, RUNNING), search_space) for _ in range(40)]
    inherited = {child["x"] for child in children if "x" in child}  # others are to be mutated
    assert len(inherited) > 3
    assert inherited <= {number / 40 for number in range(28, 40)}, "those below 0.7 are dominated"


def test_a_proposal_depends_on_nothing_but_the_trials_and_the_seed():
    for name in ("tpe", "gp", "nsgaii"):
        found = set()
        for _ in range(2):
            study = two_objectives(random_trials(60))
            study.sampler = inner_samplers()[name]
            found.add(propose(study)["x"])
            assert study._storage.get_study_system_attrs(study._study_id) == {}
        assert len(found) == 1


class TestOptunasOwnSuite(MultiObjectiveSamplerTestCase):
    @pytest.fixture(params=["tpe", "gp", "nsgaii", "random", "qmc"])
    def sampler(self, request, optuna_warnings):
        others = {n: samplers.build_sampler(study_of(sampler=n), 0) for n in ("random", "qmc")}
        yield lambda: {**inner_samplers(), **others}[request.param]
        optuna_warnings.clear()  # the suite provokes warnings on purpose
