"""A study's space as another tool sees it, and the settings that it gives back."""

import pytest

from benchmarks.peer_spaces import (
    PeerRange,
    decode_setting,
    encode_values,
    peer_range,
    searched_parameters,
)
from hpo.study.definition import Definition
from hpo.study.space import Choices, Kind, Parameter, Range


def choice(name: str, *choices, when=None) -> Parameter:
    return Parameter(name=name, kind="choice", values=Choices(choices=choices, when=when or {}))


def span(name: str, kind: Kind, low: float, high: float, **others) -> Parameter:
    return Parameter(name=name, kind=kind, values=Range(low=low, high=high, **others))


def study(*parameters: Parameter, **train) -> Definition:
    return Definition(name="made-up", train={"objective": "recorded:curves", **train}, space=parameters)


OPTIMIZER = choice("optimizer", "sgd", "adam")
MOMENTUM = span("momentum", "float", 0.0, 0.9, when={"optimizer": ("sgd",)})


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        (OPTIMIZER, PeerRange(kind="choice", low=0, high=1)),
        (span("x", "float", 1e-5, 0.1, log=True), PeerRange(kind="float", low=1e-5, high=0.1, log=True)),
        (span("x", "int", 16, 128, log=True), PeerRange(kind="int", low=16, high=128, log=True)),
        (span("x", "float", 0.0, 0.3, step=0.1), PeerRange(kind="int", low=0, high=3)),
        (span("x", "int", 10, 35, step=10), PeerRange(kind="int", low=0, high=2)),
    ],
)
def test_range_of_a_parameter(parameter, expected):
    assert peer_range(parameter) == expected


@pytest.mark.parametrize(
    ("parameter", "chosen", "expected"),
    [
        (choice("x", 1, True, None, "1"), 1, True),
        (choice("x", 1, True, None, "1"), 2, None),
        (span("x", "float", 0.1, 0.4, step=0.1), 2, pytest.approx(0.3)),
        (span("x", "int", 10, 30, step=10), 2, 30),
        (span("x", "int", 1, 9), 4.0, 4),
        (span("x", "float", 0.1, 0.9), 0.9000000001, 0.9),
    ],
)
def test_value_of_what_a_tool_chose(parameter, chosen, expected):
    value = decode_setting(study(parameter), {"x": chosen})["x"]
    assert value == expected
    assert type(value) is type(getattr(expected, "expected", expected))
    assert parameter.contains(value)


def test_condition_names_the_values_as_the_tool_knows_them():
    assert encode_values(choice("x", 1, True, "a"), ("a", True, "absent")) == [1, 2]
    assert encode_values(span("x", "int", 0, 40, step=10), (10, 40, 41)) == [1, 4]
    assert encode_values(span("x", "int", 0, 40), (10, 41)) == [10]


def test_setting_lacks_parameters_that_do_not_apply():
    definition = study(OPTIMIZER, MOMENTUM)
    assert list(searched_parameters(definition)) == ["optimizer", "momentum"]
    assert decode_setting(definition, {"optimizer": 0, "momentum": 0.5}) == {
        "optimizer": "sgd",
        "momentum": 0.5,
    }
    assert decode_setting(definition, {"optimizer": 1, "momentum": 0.5}) == {"optimizer": "adam"}


def test_tool_does_not_see_a_parameter_with_one_value():
    definition = study(choice("optimizer", "sgd"), MOMENTUM, span("x", "float", 0.5, 0.5))
    assert list(searched_parameters(definition)) == ["momentum"]
    found = decode_setting(definition, {"momentum": 0.5})
    assert found == {"optimizer": "sgd", "momentum": 0.5, "x": 0.5}


@pytest.mark.parametrize(("optimizer", "searched"), [("sgd", ["momentum"]), ("adam", [])])
def test_an_option_that_is_not_searched_decides_about_a_condition(optimizer, searched):
    definition = study(MOMENTUM, optimizer=optimizer)
    assert list(searched_parameters(definition)) == searched
    assert list(decode_setting(definition, {"momentum": 0.5})) == searched


def test_a_whole_number_outside_of_the_range_is_an_error_of_the_tool():
    with pytest.raises(AssertionError, match="7 is outside of the range of x"):
        decode_setting(study(span("x", "int", 16, 128)), {"x": 7})
