"""Settings as rows of numbers and back, in spaces of lists, ranges and conditions of any kind."""

import math

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.search.encoding import ABSENT_CHOICE, ABSENT_POSITION, SpaceEncoder
from hpo.study.space import Choices, Parameter, Range, Value, is_active, suggest_setting

FIXED = {"dataset": "cifar10", "a": "x", "b": 0.5}  # as [train], with values of searched options too
SEEDS = st.integers(0, 2**31 - 1)


def choice(name: str, *choices: Value, **when: tuple[Value, ...]) -> Parameter:
    return Parameter(name=name, kind="choice", values=Choices(choices=choices, when=when))


@st.composite
def parameters(draw, name: str, earlier: list[Parameter]) -> Parameter:
    """Draw a parameter, maybe with conditions on a fixed option and on lists before it."""
    when: dict[str, tuple[Value, ...]] = {}
    if draw(st.integers(0, 3)) == 0:
        when["dataset"] = draw(st.sampled_from([("cifar10",), ("mnist", "cifar10"), ("mnist",)]))
    for other in earlier:
        if other.kind == "choice" and draw(st.integers(0, 2)) == 0:
            choices = other.choices_or_bounds()
            when[other.name] = tuple(draw(st.lists(st.sampled_from(choices), min_size=1, unique=True)))
    kind = draw(st.sampled_from(["choice", "choice", "int", "int log", "float", "float log", "step"]))
    if kind == "choice":
        pool = ["x", "y", None, True, False, 0.1, 7, 8.5]
        listed = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=4, unique=True))
        return choice(name, *listed, **when)
    count, size = draw(st.integers(0, 60)), 10.0 ** draw(st.integers(-5, 3))
    if kind.startswith("int"):
        low = draw(st.integers(1, 40))
        step = None if kind == "int log" else draw(st.sampled_from([None, 3]))
        values = Range(low=low, high=low + count * (step or 1), log=kind == "int log", step=step, when=when)
        return Parameter(name=name, kind="int", values=values)
    low = size * draw(st.sampled_from([1.0, 2.5]))
    values = Range(low=low, high=low * (1 + count), log=kind == "float log", when=when)
    if kind == "step":
        values = Range(low=0.0, high=round(count * 0.1, 1), step=0.1, when=when)
    return Parameter(name=name, kind="float", values=values)


@st.composite
def spaces(draw) -> SpaceEncoder:
    found: list[Parameter] = []
    for name in "abcdef"[: draw(st.integers(1, 6))]:
        found.append(draw(parameters(name, found)))
    return SpaceEncoder(tuple(found), FIXED)


def suggest(space: SpaceEncoder, seed: int) -> dict[str, Value]:
    """Return a random setting, as Optuna suggests it."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return suggest_setting(study.ask(), space.parameters, space.fallback)


def expected_names(space: SpaceEncoder, setting: dict[str, Value]) -> list[str]:
    return [each.name for each in space.parameters if is_active(each, {**space.fallback, **setting})]


def assert_in_space(space: SpaceEncoder, rows: np.ndarray) -> None:
    """Check rows: their settings are in the space, and inactive parameters are marked."""
    for row in rows.tolist():
        setting = space.decode(row)
        assert list(setting) == expected_names(space, setting)
        for parameter, number in zip(space.parameters, row, strict=True):
            if parameter.name in setting:
                assert parameter.contains(setting[parameter.name])
                assert number >= 0
            else:
                assert number == (ABSENT_CHOICE if parameter.kind == "choice" else ABSENT_POSITION)
        assert space.decode(space.encode(setting)).keys() == setting.keys()


@given(space=spaces(), seed=SEEDS)
def test_a_row_decodes_to_its_setting(space, seed):
    setting = suggest(space, seed)
    row = space.encode(setting)
    found = space.decode(row)
    assert list(found) == list(setting)
    for parameter in space.parameters:
        if parameter.name in setting:
            value = setting[parameter.name]
            is_continuous = parameter.kind == "float" and parameter.values.step is None
            assert found[parameter.name] == (pytest.approx(value, rel=1e-9) if is_continuous else value)
            assert type(found[parameter.name]) is type(value)
    assert space.encode(found) == pytest.approx(row)


@given(space=spaces(), seed=SEEDS)
def test_random_and_mutated_rows_are_settings_of_the_space(space, seed):
    rng = np.random.default_rng(seed)
    rows = space.random_rows(4, rng)
    assert_in_space(space, rows)
    before = rows.copy()
    for scale, share in ((0.03, 0.3), (3.0, 1.0)):
        assert_in_space(space, space.mutate_rows(rows, rng, scale=scale, share=share))
    assert np.array_equal(rows, before)


def test_positions_are_shares_of_the_range():
    low = 1e-4
    space = SpaceEncoder(
        (
            Parameter(name="lr", kind="float", values=Range(low=low, high=1.0, log=True)),
            Parameter(name="dropout", kind="float", values=Range(low=0.2, high=0.6)),
            choice("optimizer", "sgd", "adam"),
        ),
        {},
    )
    assert space.is_choice == [False, False, True]
    assert space.encode({"lr": 1e-2, "dropout": 0.3, "optimizer": "adam"}) == pytest.approx([0.5, 0.25, 1])
    assert space.decode([0.0, 1.0, 0.0]) == {"lr": pytest.approx(low), "dropout": 0.6, "optimizer": "sgd"}


@pytest.mark.parametrize(
    "values",
    [Range(low=1, high=4), Range(low=8, high=32, step=8), Range(low=0.0, high=0.3, step=0.1)],
    ids=["whole", "whole steps", "steps"],
)
def test_each_value_of_a_range_with_steps_is_equally_likely(values):
    kind = "int" if isinstance(values.low, int) else "float"
    space = SpaceEncoder((Parameter(name="a", kind=kind, values=values),), {})
    rows = space.random_rows(4000, np.random.default_rng(0))
    _, counts = np.unique([space.decode(row)["a"] for row in rows.tolist()], return_counts=True)
    assert counts == pytest.approx([1000] * 4, rel=0.1)


def test_values_outside_the_space_have_positions_at_its_ends():
    space = SpaceEncoder(
        (
            Parameter(name="lr", kind="float", values=Range(low=1e-4, high=1.0, log=True)),
            Parameter(name="dropout", kind="float", values=Range(low=0.2, high=0.6)),
            choice("optimizer", "sgd", "adam"),
        ),
        {},
    )
    assert space.encode({"lr": 0.0, "dropout": 7.0, "optimizer": "lion"}) == [0.0, 1.0, ABSENT_CHOICE]
    assert space.encode({"lr": math.nan, "dropout": -math.inf, "optimizer": None})[:2] == [0.0, 0.0]
    assert space.encode({"lr": "fast"}) == [ABSENT_POSITION, ABSENT_POSITION, ABSENT_CHOICE]


@pytest.mark.parametrize("given_row", [[0.0, ABSENT_CHOICE, ABSENT_POSITION], [0.0, 2.0, 0.9]])
def test_a_change_that_activates_a_parameter_gives_it_a_random_value(given_row):
    """Also where the row has numbers for parameters that it should not have."""
    when = {"optimizer": ("sgd",)}
    space = SpaceEncoder(
        (
            choice("optimizer", "adam", "sgd"),
            choice("nesterov", "no", "yes", "both", **when),
            Parameter(name="momentum", kind="float", values=Range(low=0.0, high=1.0, when=when)),
        ),
        {},
    )
    rows = np.array([given_row] * 3000)
    mutated = space.mutate_rows(rows, np.random.default_rng(0), scale=0.03, share=0.3)
    active = mutated[mutated[:, 0] == 1.0]
    assert len(active) > 500
    assert np.bincount(active[:, 1].astype(int)) / len(active) == pytest.approx([1 / 3] * 3, abs=0.06)
    assert np.quantile(active[:, 2], [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.06)


def test_a_choice_that_another_tool_left_out_is_drawn_when_the_setting_changes():
    space = SpaceEncoder((choice("a", "x", "y", "z"), choice("b", "p", "q")), {})
    rows = np.array([space.encode({"b": "q"})] * 600)
    mutated = space.mutate_rows(rows, np.random.default_rng(0), scale=0.1, share=0.0)
    assert np.bincount(mutated[:, 0].astype(int)) / 600 == pytest.approx([1 / 3] * 3, abs=0.08)


def test_a_mutation_changes_few_values_and_at_least_one():
    ranges = [Parameter(name=name, kind="float", values=Range(low=0.0, high=1.0)) for name in "abcd"]
    space = SpaceEncoder(tuple(ranges), {})
    rows = space.random_rows(500, np.random.default_rng(0))
    mutated = space.mutate_rows(rows, np.random.default_rng(1), scale=0.05, share=0.1)
    changes = (mutated != rows).sum(axis=1)
    assert changes.min() == 1
    assert changes.mean() == pytest.approx(1 + 3 * 0.1, abs=0.1)
    assert np.abs(mutated - rows).max() < 0.3
    assert mutated.min() >= 0
    assert mutated.max() <= 1


def test_a_nested_condition_falls_back_to_the_fixed_value():
    """Momentum is not searched for adam, so its fixed value decides whether nesterov is."""
    space = SpaceEncoder(
        (
            choice("optimizer", "adam", "sgd"),
            choice("momentum", 0.5, 0.9, optimizer=("sgd",)),
            choice("nesterov", False, True, momentum=(0.9,)),
        ),
        {"momentum": 0.9},
    )
    rows = space.random_rows(100, np.random.default_rng(0))
    assert_in_space(space, rows)
    assert set(rows[rows[:, 0] == 0.0][:, 2]) == {0.0, 1.0}
    assert set(rows[rows[:, 1] == 0.0][:, 2]) == {ABSENT_CHOICE}


def test_changes_beyond_an_end_of_a_range_do_not_pile_up_there():
    space = SpaceEncoder((Parameter(name="x", kind="float", values=Range(low=0.0, high=1.0)),), {})
    ends = np.repeat([[0.0], [1.0], [0.02]], 200, axis=0)
    mutated = space.mutate_rows(ends, np.random.default_rng(0), scale=0.1, share=1.0)
    assert ((mutated > 0) & (mutated < 1)).all()
    assert np.abs(mutated - ends).max() < 0.5
