"""A study's search space in a form that any tool can express: lists without an order, and plain ranges.

A tool sees the index of a choice instead of the choice, and the number of a step instead of the value, so
that it does not matter which kinds of values and of ranges it knows. It never sees a parameter that has
only one value. ``decode_setting`` gives the setting that hpo would have.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpo.study import space
from hpo.study.definition import Definition
from hpo.study.space import Choices, Kind, Parameter, Value


@dataclass(frozen=True, kw_only=True)
class PeerRange:
    """What another tool searches for a parameter: ``low`` to ``high``, both included."""

    kind: Kind  # choice: whole numbers from 0 that have no order
    low: float
    high: float
    log: bool = False


def searched_parameters(definition: Definition) -> dict[str, Parameter]:
    """Return the parameters that another tool searches, by name, each after those that it depends on.

    These have several values, and the options that are not searched allow them.
    """
    several = {each.name: each for each in definition.space if peer_range(each).low < peer_range(each).high}
    only = {each.name: each.choices_or_bounds()[0] for each in definition.space if each.name not in several}
    fixed = {**definition.train, **only}
    found: dict[str, Parameter] = {}
    for name, parameter in several.items():
        conditions = parameter.condition().items()
        if all(other in found or fixed.get(other) in wanted for other, wanted in conditions):
            found[name] = parameter
    return found


def peer_range(parameter: Parameter) -> PeerRange:
    """Return what another tool searches for a parameter."""
    values = parameter.values
    if isinstance(values, Choices):
        return PeerRange(kind="choice", low=0, high=len(values.choices) - 1)
    if values.step is not None:
        steps = int((values.high - values.low) / values.step + 1e-8)  # 0.3 / 0.1 is less than 3
        return PeerRange(kind="int", low=0, high=steps)
    return PeerRange(kind=parameter.kind, low=values.low, high=values.high, log=values.log)


def encode_values(parameter: Parameter, wanted: tuple[Value, ...]) -> list[Any]:
    """Return those of some values that the parameter can have, as another tool knows them."""
    found = [value for value in wanted if parameter.contains(value)]
    values = parameter.values
    if isinstance(values, Choices):
        return [
            index
            for index, choice in enumerate(values.choices)
            if any(choice == value and type(choice) is type(value) for value in found)
        ]
    numbers = [value for value in found if isinstance(value, int | float)]
    if values.step is not None:
        return [round((number - values.low) / values.step) for number in numbers]
    return numbers


def decode_setting(definition: Definition, chosen: Mapping[str, Any]) -> dict[str, Value]:
    """Return the setting that another tool has chosen, without the parameters that do not apply to it.

    Args:
        definition: The study.
        chosen: The tool's values by parameter name; those of ``searched_parameters`` that apply, at least.
    """
    setting: dict[str, Value] = {}
    for parameter in definition.space:
        if space.is_active(parameter, {**definition.train, **setting}):
            name = parameter.name
            only = parameter.choices_or_bounds()[0]
            setting[name] = _decode_value(parameter, chosen[name]) if name in chosen else only
    return setting


def _decode_value(parameter: Parameter, chosen: Any) -> Value:
    values = parameter.values
    if isinstance(values, Choices):
        return values.choices[int(chosen)]
    if values.step is not None:
        return values.low + int(chosen) * values.step
    if parameter.kind == "float":
        return min(max(float(chosen), values.low), values.high)  # exp(log(high)) may be more than high
    assert parameter.contains(int(chosen)), f"{chosen} is outside of the range of {parameter.name}"
    return int(chosen)
