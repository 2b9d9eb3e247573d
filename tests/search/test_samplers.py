import logging
import math
import random

import optuna
import pytest
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase
from optuna.trial import TrialState, create_trial

from hpo.search import pruners, samplers
from hpo.search.samplers import PointSampler
from hpo.study import file, space
from hpo.study.definition import Definition, Pruner, Sampler

SAMPLERS = ("tpe", "gp", "qmc", "random")
PRUNERS = ("hyperband", "median", "percentile", "patient", "none")
SPACE = {
    "optimizer": ["sgd", "adam"],
    "lr": {"low": 1e-4, "high": 0.1, "log": True},
    "momentum": {"low": 0.0, "high": 0.9, "when": {"optimizer": "sgd"}},
    "weight_decay": {"low": 0.0, "high": 0.3, "step": 0.1},
    "batch_size": {"low": 8, "high": 64, "step": 8},
    "tune": ["all", "head"],
}


def study_of(space=SPACE, epochs=9, points=(), train=None, **search) -> Definition:
    fixed = {"epochs": epochs} if epochs else {}
    document = {"name": "s", "train": fixed | (train or {}), "space": space, "search": search}
    return file.parse_document(document | {"points": list(points)}, "s.toml")


def ask(definition: Definition, study: optuna.Study) -> tuple[optuna.Trial, dict[str, space.Value]]:
    """Return the study's next trial and its setting, as a worker creates them."""
    study.sampler = samplers.build_sampler(definition, len(study.trials))
    study.pruner = pruners.build_pruner(definition)
    trial = study.ask()
    setting: dict[str, space.Value] = {}
    for parameter in definition.space:
        if space.is_active(parameter, definition.train | setting):
            setting[parameter.name] = space.suggest_value(trial, parameter)
    return trial, setting


def accuracy(setting: dict[str, space.Value], epoch: int, epochs: int) -> float:
    """Return a made-up accuracy: best at lr = 0.01, and falling after epoch 3 if all layers are tuned."""
    peak = 1 / (1 + abs(math.log10(setting["lr"]) + 2))
    return peak * (6 - epoch if setting["tune"] == "all" and epoch > 3 else epoch) / epochs


def run(definition: Definition, study: optuna.Study, trials: int) -> None:
    for _ in range(trials):
        trial, setting = ask(definition, study)
        epochs = definition.trial_config(setting).epochs
        for epoch in range(1, epochs + 1):
            trial.report(accuracy(setting, epoch, epochs), epoch)
            if epoch < epochs and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, accuracy(setting, epochs, epochs))


def proposals(definition: Definition, numbers: range) -> list[dict[str, space.Value]]:
    """Return the first settings of several workers, each of which sees an empty study."""
    found = []
    for number in numbers:
        study = maximizing()
        study.sampler = samplers.build_sampler(definition, number)
        trial = study.ask()
        found.append({p.name: space.suggest_value(trial, p) for p in definition.space})
    return found


def maximizing() -> optuna.Study:
    return optuna.create_study(study_name="s", direction="maximize")


@pytest.fixture(autouse=True)
def optuna_warnings():
    """Fail a test in which Optuna logs a warning; Python's warnings are errors anyway."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("optuna")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
    assert [text for text in messages if "greenlet" not in text] == []  # depends on what is installed


# Samplers


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
    assert len({trial.params["lr"] for trial in study.trials}) == 13


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_proposes_other_settings_while_trials_run(name):
    definition, study = study_of(sampler=name), maximizing()
    settings = [ask(definition, study)[1] for _ in range(4)]
    assert len({setting["lr"] for setting in settings}) == 4


def test_all_allowed_samplers_and_pruners_are_tested():
    """No other sampler is allowed; none of these unpickles data from the store."""
    names = Sampler.model_json_schema()["properties"]["name"]["enum"]
    assert set(names) == {*SAMPLERS, "grid"}
    assert set(Pruner.model_json_schema()["properties"]["name"]["enum"]) == {*PRUNERS, "asha"}


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
    selected = [trial.number for trial in samplers.select_trials(trials)]
    best = sorted(ended[: -samplers.NEWEST_TRIALS], key=samplers.rank_key)[-samplers.BEST_TRIALS :]
    wanted = [*best, *ended[-samplers.NEWEST_TRIALS :], trials[5], trials[899]]
    assert selected == sorted(trial.number for trial in wanted)
    few = trials[: samplers.BEST_TRIALS + samplers.NEWEST_TRIALS]
    assert samplers.select_trials(few) is few


def test_tpe_splits_off_the_same_best_trials_from_the_selected_ones():
    trials, study = random_trials(2000), maximizing()
    finished = (TrialState.COMPLETE, TrialState.PRUNED)
    good = []
    for seen in (trials, samplers.select_trials(trials)):
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


class PlanningPointSampler(PointSampler):
    """Gives each trial of Optuna's suite its point; a store does this when it creates the trial."""

    def before_trial(self, study, trial):
        for key, value in self.point_attributes(0).items():
            study._storage.set_trial_system_attr(trial._trial_id, key, value)


class TestOptunasOwnSuiteOnPoints(BasicSamplerTestCase):
    # A point's values are in their ranges because the study file was checked, not because they are sampled.
    # The sampler has no value for a trial without a point, but these tests ask for one.
    test_float = None
    test_int = None
    test_categorical = None
    test_conditional_sample_independent = None
    # A study whose ranges change gets new points by an extension; the suite changes one point's ranges.
    test_dynamic_range_objective = None

    @pytest.fixture
    def sampler(self, request, optuna_warnings):
        point = dict.fromkeys("xyzabcdef", 1)  # is in all of the suite's ranges, except in one test
        if request.node.name == "test_nan_objective_value":
            point["x"] = 0.15
        yield lambda: PlanningPointSampler([point])
        optuna_warnings.clear()  # the suite has an objective that returns NaN


class TestOptunasOwnSuiteOfJointSamplingOnPoints(RelativeSamplerTestCase):
    # Nothing is sampled jointly: a point's values are suggested one by one.
    test_sample_relative_numerical = None
    test_sample_relative_categorical = None
    test_sample_relative_mixed = None

    @pytest.fixture
    def sampler(self):
        return lambda: PlanningPointSampler([{"x": 0.5, "y": 0.5}])


# Pruners


@pytest.mark.parametrize("name", PRUNERS)
def test_a_pruner_prunes_trials_but_none_before_min_epochs(name):
    definition = study_of(
        sampler="random", pruner={"name": name, "min_epochs": 2, "startup_trials": 2, "patience": 1}
    )
    study = maximizing()
    run(definition, study, 24)
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert bool(pruned) == (name != "none")
    assert all(len(trial.intermediate_values) >= 2 for trial in pruned)
    assert any(trial.state == TrialState.COMPLETE for trial in study.trials)


def test_one_trial_in_three_is_random_with_asha():
    asha, median = (study_of(pruner=name) for name in ("asha", "median"))
    kinds = [type(samplers.build_sampler(asha, number)).__name__ for number in range(300)]
    assert set(kinds) == {"TPESampler", "RandomSampler"}
    assert 70 < kinds.count("RandomSampler") < 130
    assert {type(samplers.build_sampler(median, number)).__name__ for number in range(30)} == {"TPESampler"}


@pytest.mark.parametrize("min_epochs", [9, 10])
@pytest.mark.parametrize("name", PRUNERS)
def test_a_pruner_that_starts_at_the_last_epoch_or_later_prunes_nothing(name, min_epochs):
    definition = study_of(
        sampler="random", pruner={"name": name, "min_epochs": min_epochs, "startup_trials": 0}
    )
    study = maximizing()
    run(definition, study, 8)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert isinstance(study.pruner, optuna.pruners.NopPruner)


def test_the_median_is_the_50th_percentile():
    decisions = []
    for pruner in ({"name": "median"}, {"name": "percentile", "percentile": 50.0}):
        study = maximizing()
        run(study_of(sampler="random", pruner=pruner), study, 20)
        decisions.append([(t.state, len(t.intermediate_values)) for t in study.trials])
    assert decisions[0] == decisions[1]
    assert TrialState.PRUNED in {state for state, _ in decisions[0]}


def test_the_percentile_is_the_share_of_trials_that_continue():
    stopped = []
    for percentile in (10.0, 90.0):
        study = maximizing()
        pruner = {"name": "percentile", "percentile": percentile, "startup_trials": 2}
        run(study_of(sampler="random", pruner=pruner), study, 24)
        stopped.append(sum(t.state == TrialState.PRUNED for t in study.trials))
    assert stopped[0] > stopped[1]


def test_the_patient_pruner_waits_for_min_epochs():
    study = maximizing()
    study.pruner = pruners.build_pruner(
        study_of(pruner={"name": "patient", "patience": 1, "min_epochs": 5})
    )
    trial = study.ask()
    for epoch in range(1, 6):
        trial.report(1 / epoch, epoch)
        assert trial.should_prune() == (epoch == 5)


def test_patience_is_how_many_epochs_in_a_row_may_be_worse():
    study = maximizing()
    study.pruner = pruners.build_pruner(study_of(pruner={"name": "patient", "patience": 2}))
    trial = study.ask()
    decisions = []
    for epoch, value in enumerate([0.5, 0.4, 0.5, 0.4, 0.4, 0.4], 1):
        trial.report(value, epoch)
        decisions.append(trial.should_prune())
    assert decisions == [False, False, False, False, False, True]


@pytest.mark.parametrize(
    ("searched", "longest"),
    [
        ({"lr": [0.1, 0.2]}, 9),
        ({"epochs": [3, 27, 9]}, 27),
        ({"epochs": {"low": 3, "high": 30}}, 30),
        # Epochs that are not searched have the value in [train], or 20.
        ({"epochs": {"choices": [3, 5], "when": {"optimizer": "sgd"}}, "optimizer": ["sgd", "adam"]}, 20),
    ],
)
def test_hyperband_has_brackets_up_to_the_longest_trial(searched, longest):
    pruner = {"name": "hyperband", "min_epochs": 1, "reduction_factor": 3}
    definition = study_of(space=searched, epochs=None if "epochs" in searched else 9, pruner=pruner)
    study = maximizing()
    pruner = pruners.build_pruner(definition)
    assert isinstance(pruner, optuna.pruners.HyperbandPruner)
    trial = study.ask()
    trial.report(0.5, 1)
    pruner.prune(study, study.trials[0])
    # With factor 3 there are as many brackets as powers of 3 up to the longest trial.
    assert len(pruner._pruners) == 1 + int(math.log(longest, 3))


# Points


GRID = {
    "sampler": "grid",
    "space": {},
    "points": [
        {"model": "resnet18", "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "site": "C", "epochs": 30},
        {"model": "vgg16", "optimizer": "adam", "lr": 0.001},
        {"model": "resnet18", "optimizer": "sgd", "lr": 0.1, "momentum": 0.0},
    ],
}


def study_with_points(definition: Definition, indices) -> optuna.Study:
    """Return a study with a waiting trial for each of these points, as a store creates them."""
    study = maximizing()
    for index in indices:
        study.add_trial(
            create_trial(state=TrialState.WAITING, system_attrs=PointSampler.point_attributes(index))
        )
    return study


def test_the_values_of_points_are_stored_under_their_parameters_names():
    definition = study_of(**GRID)
    study, parameters = study_with_points(definition, [2, 0, 1]), definition.parameters()
    for index in (2, 0, 1):
        study.sampler = samplers.build_sampler(definition, index)
        trial = study.ask()
        for name in definition.points[index].hyperparameters():
            space.suggest_value(trial, parameters[name])
        study.tell(trial, 0.5)
    assert [trial.params for trial in study.trials] == [
        {"model": "resnet18", "optimizer": "sgd", "lr": 0.1, "momentum": 0.0},
        {"model": "resnet18", "optimizer": "sgd", "lr": 0.1, "momentum": 0.9},
        {"model": "vgg16", "optimizer": "adam", "lr": 0.001},
    ]


def test_points_are_exhausted_when_each_has_ended():
    definition = study_of(**GRID)
    study, sampler = study_with_points(definition, range(3)), samplers.build_sampler(definition, 0)
    assert isinstance(sampler, PointSampler)
    study.sampler = sampler
    seen = []
    for _ in range(3):
        seen.append(sampler.is_exhausted(study))
        study.tell(study.ask(), 0.5)
    assert seen == [False, False, False]
    assert sampler.is_exhausted(study)


def test_a_trial_without_a_point_is_pruned():
    definition = study_of(**GRID)
    study = study_with_points(definition, [])
    study.sampler = samplers.build_sampler(definition, 0)
    with pytest.raises(optuna.TrialPruned, match="not one of the study's points"):
        study.ask()


def test_a_setting_enqueued_in_a_grid_study_runs_if_it_names_every_parameter():
    definition = study_of(**GRID)
    study, lr = study_with_points(definition, []), definition.parameters()["lr"]
    study.sampler = samplers.build_sampler(definition, 0)
    study.enqueue_trial({"lr": 0.05})
    trial = study.ask()
    assert space.suggest_value(trial, lr) == 0.05
    with pytest.raises(
        ValueError, match="model: a setting queued in a grid study must name every parameter"
    ):
        space.suggest_value(trial, definition.parameters()["model"])
