"""What a study searches: one parameter for each option named in ``[space]``, with its condition.

A parameter is a list of choices or a range. It may depend on another option::

    momentum = { low = 0.0, high = 0.95, when = { optimizer = "sgd" } }

Where a file leaves out ``when``, an option that only some values of another option use (momentum: SGD and
RMSprop) gets this condition when the file is read. It is then searched only in the trials that use it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial
from pydantic import BaseModel, ConfigDict, Field

from hpo.errors import quote_value

Scalar = bool | int | float | str
Value = Scalar | None
Setting = Mapping[str, Value]
Kind = Literal["choice", "int", "float"]

MAX_COMBINATIONS = 100_000  # settings that the lists of a study may make up
STRICT_CONFIG = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Choices(BaseModel):
    """A list of values to choose among."""

    model_config = STRICT_CONFIG

    choices: tuple[Value, ...]
    when: dict[str, tuple[Value, ...]] = {}  # option -> its values under which this one is searched

    def __str__(self) -> str:
        return ", ".join(map(quote_value, self.choices)) + _format_condition(self.when)


class Range(BaseModel):
    """Values from ``low`` to ``high``, both included: all, or those in steps of ``step`` from ``low``."""

    model_config = STRICT_CONFIG

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None
    when: dict[str, tuple[Value, ...]] = {}

    def __str__(self) -> str:
        how = ", log" if self.log else "" if self.step is None else f", step {self.step}"
        return f"{self.low} to {self.high}{how}{_format_condition(self.when)}"


class LogRange(BaseModel):
    """The keys that a range with ``log = true`` has in a study file; it is stored as a ``Range``.

    It adds one bound to those of the option: a logarithmic range starts above 0.
    """

    model_config = STRICT_CONFIG

    low: Annotated[float, Field(gt=0)]
    high: float
    log: Literal[True]
    when: dict[str, tuple[Value, ...]] = {}


class IntStep(BaseModel):
    """The step of a range whose ends are whole numbers."""

    step: Annotated[int, Field(gt=0)]


class FloatStep(BaseModel):
    """The step of any other range."""

    step: Annotated[float, Field(gt=0)]


def _format_condition(when: Mapping[str, tuple[Value, ...]]) -> str:
    return "".join(
        f", when {other} is {' or '.join(map(quote_value, wanted))}" for other, wanted in when.items()
    )


class Parameter(BaseModel):
    """One searched option: its values, and the condition under which a trial has it."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Kind
    values: Choices | Range

    def distribution(self) -> BaseDistribution:
        """Return the Optuna distribution of the values."""
        values = self.values
        if isinstance(values, Choices):
            return CategoricalDistribution(values.choices)
        if self.kind == "int":
            low, high, step = int(values.low), int(values.high), int(values.step or 1)
            return IntDistribution(low, high, log=values.log, step=step)
        return FloatDistribution(values.low, values.high, log=values.log, step=values.step)

    def condition(self) -> dict[str, tuple[Value, ...]]:
        """Return the options that this one depends on, each with the values under which it is searched.

        Empty if it is always searched.
        """
        return self.values.when

    def contains(self, value: Value) -> bool:
        """Return whether ``value`` is among the values searched.

        A choice must also have the same type, and a range of whole numbers holds only these.
        """
        values = self.values
        if isinstance(values, Choices):
            # 1 == True in Python, but a choice of booleans must not accept a number.
            return any(value == v and type(value) is type(v) for v in values.choices)
        allowed = int if self.kind == "int" else int | float
        if not isinstance(value, allowed) or isinstance(value, bool):
            return False
        steps = 0.0 if values.step is None else (value - values.low) / values.step
        # Optuna itself suggests 0.1 + 2 * 0.1, which is not exactly 0.3.
        return values.low <= value <= values.high and abs(steps - round(steps)) < 1e-8

    def choices_or_bounds(self) -> tuple[Value, ...]:
        """Return every choice, or both ends of a range."""
        values = self.values
        return values.choices if isinstance(values, Choices) else (values.low, values.high)


def suggest_value(trial: Trial, parameter: Parameter) -> Value:
    """Ask Optuna for a trial's value of a parameter.

    A parameter that the trial has already gets the same value again; one that the trial's attribute
    ``fixed_params`` names gets that value.
    """
    values = parameter.values
    if isinstance(values, Choices):
        return trial.suggest_categorical(parameter.name, values.choices)
    if parameter.kind == "int":
        low, high, step = int(values.low), int(values.high), int(values.step or 1)
        return trial.suggest_int(parameter.name, low, high, step=step, log=values.log)
    return trial.suggest_float(parameter.name, values.low, values.high, step=values.step, log=values.log)


def suggest_setting(trial: Trial, parameters: Iterable[Parameter], fallback: Setting) -> dict[str, Value]:
    """Ask Optuna for a value of each parameter whose condition holds.

    Args:
        trial: The running Optuna trial.
        parameters: The study's parameters, each after those that its condition names.
        fallback: The values of options that are not searched, for the conditions.

    Returns:
        The values by parameter name, without parameters whose condition does not hold.
    """
    setting: dict[str, Value] = {}
    for parameter in parameters:
        if is_active(parameter, {**fallback, **setting}):
            setting[parameter.name] = suggest_value(trial, parameter)
    return setting


def is_active(parameter: Parameter, setting: Setting) -> bool:
    """Return whether a trial whose other options have these values has the parameter."""
    return all(setting.get(other) in wanted for other, wanted in parameter.condition().items())


def with_dependencies(parameters: Sequence[Parameter], names: Iterable[str]) -> list[Parameter]:
    """Return the parameters of these names and all that they depend on.

    Args:
        parameters: The study's parameters, each after those that its condition names.
        names: The wanted parameters; names that are not searched are ignored.

    Returns:
        The selected parameters in the order of ``parameters``.
    """
    wanted = set(names)
    for parameter in reversed(parameters):
        if parameter.name in wanted:
            wanted |= parameter.condition().keys()
    return [parameter for parameter in parameters if parameter.name in wanted]


def combinations(parameters: Iterable[Parameter], fallback: Setting) -> list[dict[str, Value]]:
    """Return every setting that choices and the ends of ranges can make up.

    A setting lacks the parameters whose condition does not hold in it. No parameters make one empty
    setting.

    Args:
        parameters: The parameters to combine, each after those that its condition names.
        fallback: A value for every option that may occur in a condition.

    Raises:
        OverflowError: If there are more than ``MAX_COMBINATIONS`` settings.
    """
    settings: list[dict[str, Value]] = [{}]
    for parameter in parameters:
        values = dict.fromkeys(parameter.choices_or_bounds())
        grown: list[dict[str, Value]] = []
        for setting in settings:
            active = is_active(parameter, {**fallback, **setting})
            grown += [{**setting, parameter.name: value} for value in values] if active else [setting]
            if len(grown) > MAX_COMBINATIONS:
                raise OverflowError(f"more than {MAX_COMBINATIONS} combinations")
        settings = grown
    return settings


def infer_kind(values: Iterable[Value]) -> Kind:
    """Return the kind of range that could hold the values, at least one; choice if only a list can.

    It is int for whole numbers, float for numbers of which one has a fraction or exponent, such as 1.0.
    """
    kinds = {type(value) for value in values}
    if kinds == {int}:
        return "int"
    return "float" if kinds <= {int, float} else "choice"


def sort_by_condition(parameters: Iterable[Parameter]) -> tuple[Parameter, ...]:
    """Return the parameters in an order where each comes after those that it depends on.

    Conditions on options that are not among the parameters do not matter.

    Raises:
        ValueError: If conditions are circular; its text lists the parameters involved, and those that
            depend on them.
    """
    left = {parameter.name: parameter for parameter in parameters}
    result: list[Parameter] = []
    while left:
        free = [p for p in left.values() if not any(other in left for other in p.condition())]
        if not free:
            raise ValueError(", ".join(left))
        result += free
        for parameter in free:
            del left[parameter.name]
    return tuple(result)


def covering_parameter(option: str, values: Iterable[Value]) -> Parameter:
    """Return the narrowest parameter that holds the values which listed points give to an option.

    Numbers make a range, which plots and importances show as an axis; it is logarithmic if its low end is
    above 0 and its high end at least ten times as large. Other values make a list of choices in order of
    appearance. Points say nothing about the values between them, yet a range allows points to be added to a
    study later: Optuna does not allow a parameter's list of choices to change. Numbers that a study file
    lists in ``[space]``, such as batch sizes, remain choices.

    Args:
        option: The name of the option.
        values: Its values in the listed points, with repetitions, at least one.
    """
    values = tuple(dict.fromkeys(values))
    kind = infer_kind(values)
    numbers = [v for v in values if isinstance(v, int | float)]
    if kind == "choice":
        return Parameter(name=option, kind="choice", values=Choices(choices=values))
    low, high = min(numbers), max(numbers)
    return Parameter(
        name=option, kind=kind, values=Range(low=low, high=high, log=low > 0 and high >= 10 * low)
    )
