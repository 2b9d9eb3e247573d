import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.study import space
from hpo.study.space import Choices, Parameter, Range
from hpo.training import config

DEFAULTS = config.Config().model_dump()


def choice_parameter(name: str, *values, **when) -> Parameter:
    return Parameter(name=name, kind="choice", values=Choices(choices=values, when=when))


def range_parameter(name: str, low, high, **options) -> Parameter:
    return Parameter(
        name=name, kind=space.infer_kind((low, high)), values=Range(low=low, high=high, **options)
    )


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((1, 2), "int"),
        ((1, 2.5), "float"),
        ((0.5,), "float"),
        ((True, 1), "choice"),
        (("a",), "choice"),
        ((None, 0.5), "choice"),
    ],
)
def test_infer_kind_returns_int_or_float_only_for_numbers(values, kind):
    assert space.infer_kind(values) == kind


@pytest.mark.parametrize(
    ("parameter", "distribution"),
    [
        (range_parameter("lr", 1e-4, 0.1, log=True), FloatDistribution(1e-4, 0.1, log=True)),
        (range_parameter("lr", 0.1, 0.5, step=0.1), FloatDistribution(0.1, 0.5, step=0.1)),
        (range_parameter("dropout", 0, 0.5), FloatDistribution(0.0, 0.5)),
        (range_parameter("batch_size", 8, 64, step=8), IntDistribution(8, 64, step=8)),
        (range_parameter("batch_size", 8, 64, log=True), IntDistribution(8, 64, log=True)),
        (choice_parameter("nesterov", True, False), CategoricalDistribution((True, False))),
        (choice_parameter("dropout", None, 0.5), CategoricalDistribution((None, 0.5))),
    ],
)
def test_a_parameter_is_stored_and_suggested_as_one_distribution(parameter, distribution):
    assert parameter.distribution() == distribution
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    value = space.suggest_value(trial, parameter)
    assert trial.distributions == {parameter.name: distribution}
    assert parameter.contains(value)
    assert space.suggest_value(trial, parameter) == value


@pytest.mark.parametrize(
    ("parameter", "inside", "outside"),
    [
        (range_parameter("lr", 1e-4, 0.1), [1e-4, 0.1, 0.05], [0.0, 0.2, "0.05", None, True]),
        (range_parameter("lr", 0.1, 0.7, step=0.1), [0.1, 0.3, 0.1 + 2 * 0.1, 0.7], [0.15, 0.8]),
        (range_parameter("batch_size", 8, 64, step=8), [8, 24, 64], [9, 4, 72]),
        (choice_parameter("batch_size", 8, 16), [8, 16], [12, "8", None]),
        (choice_parameter("nesterov", True), [True], [1, False]),
        (choice_parameter("dropout", None, 0.5), [None, 0.5], [0.25]),
    ],
)
def test_a_parameter_contains_what_it_can_suggest_and_nothing_else(parameter, inside, outside):
    assert all(parameter.contains(value) for value in inside)
    assert not any(parameter.contains(value) for value in outside)


def test_a_when_narrows_the_optimizers_and_adds_conditions():
    momentum = range_parameter(
        "momentum", 0.0, 0.9, when={"optimizer": ("sgd",), "model": ("alexnet", "vgg16")}
    )
    assert is_active(momentum, optimizer="sgd", model="vgg16")
    assert not is_active(momentum, optimizer="rmsprop", model="vgg16")
    assert not is_active(momentum, optimizer="sgd", model="resnet18")


def is_active(parameter: Parameter, **setting) -> bool:
    return space.is_active(parameter, DEFAULTS | setting)


def test_parameters_are_sorted_after_those_they_depend_on():
    gamma = range_parameter("gamma", 0.1, 0.5, when={"schedule": ("step",)})
    schedule = choice_parameter("schedule", "step", "cosine", optimizer=("sgd",))
    optimizer = choice_parameter("optimizer", "sgd", "adam")
    assert space.sort_by_condition([gamma, schedule, optimizer]) == (optimizer, schedule, gamma)


def test_circular_conditions_are_refused_with_their_parameters():
    model = choice_parameter("model", "resnet18", "vgg16", optimizer=("sgd",))
    optimizer = choice_parameter("optimizer", "sgd", "adam", model=("vgg16",))
    with pytest.raises(ValueError, match=r"^model, optimizer$"):
        space.sort_by_condition([model, range_parameter("lr", 0.1, 0.2), optimizer])


def test_combinations_omit_inactive_parameters():
    optimizer = choice_parameter("optimizer", "sgd", "adam")
    momentum = choice_parameter("momentum", 0.0, 0.9, optimizer=("sgd",))
    assert space.combinations([optimizer, momentum], DEFAULTS) == [
        {"optimizer": "sgd", "momentum": 0.0},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "adam"},
    ]


def test_combinations_use_both_ends_of_a_range():
    assert space.combinations([range_parameter("image_size", 32, 64)], DEFAULTS) == [
        {"image_size": 32},
        {"image_size": 64},
    ]
    assert space.combinations([range_parameter("image_size", 32, 32)], DEFAULTS) == [{"image_size": 32}]


def test_too_many_combinations_are_refused_before_they_fill_the_memory():
    parameters = [choice_parameter(name, *range(1, 1001)) for name in ("step_size", "epochs", "batch_size")]
    with pytest.raises(OverflowError, match="more than 100000 combinations"):
        space.combinations(parameters, DEFAULTS)


def test_with_dependencies_adds_the_parameters_that_others_depend_on():
    optimizer, lr = choice_parameter("optimizer", "sgd", "adam"), range_parameter("lr", 0.1, 0.2)
    schedule = choice_parameter("schedule", "step", "cosine", optimizer=("sgd",))
    model = choice_parameter("model", "resnet18", "vgg16", schedule=("step",))
    assert space.with_dependencies([optimizer, lr, schedule, model], ["model"]) == [
        optimizer,
        schedule,
        model,
    ]


@pytest.mark.parametrize(
    ("option", "values", "expected"),
    [
        ("lr", [1e-3, 1e-1, 1e-5], Range(low=1e-5, high=1e-1, log=True)),
        ("lr", [3e-4, 3e-3], Range(low=3e-4, high=3e-3, log=True)),
        ("lr", [0.01, 0.05], Range(low=0.01, high=0.05)),
        ("lr", [1, 0.5], Range(low=0.5, high=1)),
        ("momentum", [0.9, 0.0, 0.45], Range(low=0.0, high=0.9)),
        ("batch_size", [16, 8, 64], Range(low=8, high=64)),
        ("batch_size", [16, 16], Range(low=16, high=16)),
        ("model", ["vgg16", "alexnet", "vgg16"], Choices(choices=("vgg16", "alexnet"))),
        ("nesterov", [True, False, True], Choices(choices=(True, False))),
        ("dropout", [None, 0.5], Choices(choices=(None, 0.5))),
        ("dropout", [0.0, 0.5], Range(low=0.0, high=0.5)),
    ],
)
def test_a_covering_parameter_is_a_range_of_numbers_or_a_list_of_other_values(option, values, expected):
    parameter = space.covering_parameter(option, values)
    assert parameter.values == expected
    assert all(parameter.contains(value) for value in values)
    parameter.distribution()  # if Optuna warned about it, the test would fail


def test_values_are_formatted_as_in_toml():
    assert str(Choices(choices=(True, None, "a", 0.5))) == "true, nothing, 'a', 0.5"
    shown = str(Range(low=0.0, high=0.9, when={"optimizer": ("sgd", "rmsprop")}))
    assert shown == "0.0 to 0.9, when optimizer is 'sgd' or 'rmsprop'"
    assert str(Range(low=1e-5, high=0.1, log=True)) == "1e-05 to 0.1, log"
    assert str(Range(low=8, high=64, step=8)) == "8 to 64, step 8"
