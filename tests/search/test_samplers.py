import math
import random

import optuna
import pytest
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.testing.pytest_samplers import BasicSamplerTestCase
from optuna.trial import TrialState, create_trial

from hpo.search import samplers
from hpo.study import space
from hpo.study.definition import Definition
from hpo.study.search_options import Sampler
from hpo.training.metric import METRICS
from tests.support.searched_study import SPACE, ask, maximizing, run, study_of

pytestmark = pytest.mark.usefixtures("optuna_warnings")

SAMPLERS = ("tpe", "freeze_thaw", "gp", "nsgaii", "qmc", "random")


def proposals(definition: Definition, numbers: range) -> list[dict[str, space.Value]]:
    """Return the first settings of several workers, each of which sees an empty study."""
    found = []
    for number in numbers:
        study = maximizing()
        study.sampler = samplers.build_sampler(definition, number)
        trial = study.ask()
        found.append({p.name: space.suggest_value(trial, p) for p in definition.space})
    return found


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_searches_a_space_with_conditions(name):
    definition = study_of(sampler=name, pruner="none")
    study = maximizing()
    run(definition, study, 13)
    for trial in study.trials:
        assert trial.state == TrialState.COMPLETE
        assert ("momentum" in trial.params) == (trial.params["optimizer"] == "sgd")
        definition.trial_config(trial.params)  # raises if a value is outside of its option's range
    assert {trial.params["optimizer"] for trial in study.trials} == {"sgd", "adam"}
    different = {trial.params["lr"] for trial in study.trials}
    assert len(different) == 13 or name == "nsgaii"  # a child may have a parent's value


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_proposes_other_settings_while_trials_run(name):
    definition, study = study_of(sampler=name), maximizing()
    settings = [ask(definition, study)[1] for _ in range(4)]
    assert len({setting["lr"] for setting in settings}) == 4


def test_all_allowed_samplers_are_tested():
    """No other sampler is allowed; none of these unpickles data from the store."""
    names = Sampler.model_json_schema()["properties"]["name"]["enum"]
    assert set(names) == {*SAMPLERS, "grid"}


@pytest.mark.parametrize("name", ["tpe", "random", "gp"])
def test_proposals_depend_on_the_trials_number_and_the_studys_seed(name):
    definition = study_of(sampler={"name": name, "seed": 3})
    first = proposals(definition, range(6))
    assert len({repr(setting) for setting in first}) == 6
    assert proposals(definition, range(6)) == first
    other = study_of(sampler={"name": name, "seed": 4})
    assert not any(setting in first for setting in proposals(other, range(6)))


def test_a_gaussian_process_learns_from_pruned_trials():
    definition, study = study_of(space={"lr": SPACE["lr"]}, sampler="gp"), maximizing()
    (lr,) = definition.space
    for number in range(12):
        rate = 10 ** (-4 + number / 4)
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED,
                value=1 / (1 + abs(math.log10(rate) + 2)) if number else None,  # the first diverged at once
                params={"lr": rate},
                distributions={"lr": lr.distribution()},
            )
        )
    for seed in range(5):
        seeded = study_of(space={"lr": SPACE["lr"]}, sampler={"name": "gp", "seed": seed})
        _, setting = ask(seeded, study)
        assert abs(math.log10(setting["lr"]) + 2) < 0.5


def test_the_trials_of_a_qmc_study_share_one_sequence():
    definition = study_of(space={"lr": {"low": 0.1, "high": 0.9}}, sampler={"name": "qmc", "seed": 5})
    study = maximizing()
    study.add_trial(trial_at(lr=0.5))
    numbers = []
    for number in range(7, 39, 2):  # some of the trials, as one of several workers may get them
        study.sampler = samplers.build_sampler(definition, number)
        numbers.append((space.suggest_value(study.ask(), definition.space[0]) - 0.1) / 0.8)
    # Of the first 16 points of a Sobol sequence one lies in each sixteenth.
    assert sorted(int(16 * number) for number in numbers) == list(range(16))


def trial_at(**params) -> optuna.trial.FrozenTrial:
    definition = study_of(space={"lr": {"low": 0.1, "high": 0.9}})
    return create_trial(value=0.5, params=params, distributions={"lr": definition.space[0].distribution()})


def random_trials(count: int) -> list[optuna.trial.FrozenTrial]:
    generator = random.Random(0)
    found = []
    for number in range(count):
        state = generator.choice(
            [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED, TrialState.FAIL]
        )
        steps = {step: generator.random() for step in range(1, generator.choice([1, 3, 9]) + 1)}
        value = None if state == TrialState.FAIL else steps[max(steps)]
        trial = create_trial(state=state, value=value, intermediate_values=steps)
        trial.number = number
        found.append(trial)
    return found


def test_a_sampler_sees_the_best_the_newest_and_the_running_trials(monkeypatch):
    trials = random_trials(900)
    for number in (5, 899):
        trials[number].state = TrialState.RUNNING
    ended = [t for t in trials if t.state not in (TrialState.RUNNING, TrialState.FAIL)]
    selected = [trial.number for trial in samplers.select_trials(trials, METRICS["accuracy"])]
    best = sorted(
        ended[: -samplers.NEWEST_TRIALS], key=lambda each: samplers.rank_key(each, METRICS["accuracy"])
    )[-samplers.BEST_TRIALS :]
    wanted = [*best, *ended[-samplers.NEWEST_TRIALS :], trials[5], trials[899]]
    assert selected == sorted(trial.number for trial in wanted)
    few = trials[: samplers.BEST_TRIALS + samplers.NEWEST_TRIALS]
    assert samplers.select_trials(few, METRICS["accuracy"]) is few


def test_tpe_splits_off_the_same_best_trials_from_the_selected_ones():
    trials, study = random_trials(2000), maximizing()
    finished = (TrialState.COMPLETE, TrialState.PRUNED)
    good = []
    for seen in (trials, samplers.select_trials(trials, METRICS["accuracy"])):
        known = [trial for trial in seen if trial.state in finished]
        below, _ = _split_trials(study, known, default_gamma(len(known)))
        good.append([trial.number for trial in below])
    assert good[0] == good[1]
    assert len(good[0]) == 25


def test_seeds_differ_and_fit_into_32_bits():
    seeds = {samplers.derive_seed(seed, number) for seed in range(20) for number in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**32 for seed in seeds)


class TestOptunasOwnSuite(BasicSamplerTestCase):
    @pytest.fixture(params=SAMPLERS)
    def sampler(self, request, optuna_warnings):
        definition = study_of(sampler=request.param)
        yield lambda: samplers.build_sampler(definition, 0)
        optuna_warnings.clear()  # the suite provokes warnings on purpose


def test_one_trial_in_three_is_random_with_asha():
    asha, median = (study_of(pruner=name) for name in ("asha", "median"))
    kinds = [type(samplers.build_sampler(asha, number)).__name__ for number in range(300)]
    assert set(kinds) == {"TPESampler", "RandomSampler"}
    assert 70 < kinds.count("RandomSampler") < 130
    assert {type(samplers.build_sampler(median, number)).__name__ for number in range(30)} == {"TPESampler"}
