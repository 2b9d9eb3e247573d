"""Points in a study: each is run once, in its trial."""

import optuna
import pytest
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase
from optuna.trial import TrialState, create_trial

from hpo.search import samplers
from hpo.search.samplers import PointSampler
from hpo.study import space
from hpo.study.definition import Definition
from tests.support.searched_study import maximizing, study_of

pytestmark = pytest.mark.usefixtures("optuna_warnings")


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
