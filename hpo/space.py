"""What a study searches: one parameter per option named in ``[space]``, with its condition.

A parameter is a list of choices or a range, and may hang on another one::

    momentum = { low = 0.0, high = 0.95, when = { optimizer = "sgd" } }

Without a ``when``, an option that only some values of another option use (momentum: SGD and RMSprop)
is searched in just the trials that use it.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial
from pydantic import BaseModel, ConfigDict, Field

from hpo import config

Value = bool | int | float | str | None
Setting = Mapping[str, Value]


class Choices(BaseModel):
    """A list of values to choose among."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    choices: tuple[Value, ...] = Field(min_length=1, strict=False)
    when: dict[str, Value | list[Value]] = {}

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.choices))}{_shown(self.when)}"


class Range(BaseModel):
    """All values from ``low`` to ``high``, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None
    when: dict[str, Value | list[Value]] = {}

    def __str__(self) -> str:
        how = ", log" if self.log else "" if self.step is None else f", step {self.step}"
        return f"{self.low} to {self.high}{how}{_shown(self.when)}"


def _shown(when: Mapping[str, Value | list[Value]]) -> str:
    return "".join(f", when {other} = {wanted}" for other, wanted in when.items())


class Parameter(BaseModel):
    """One searched option: its values and the condition under which a trial has it."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Literal["choice", "int", "float"]
    values: Choices | Range

    def distribution(self) -> BaseDistribution:
        """Give the values as Optuna names them."""
        values = self.values
        if isinstance(values, Choices):
            return CategoricalDistribution(values.choices)
        if self.kind == "int":
            return IntDistribution(
                int(values.low), int(values.high), log=values.log, step=int(values.step or 1)
            )
        return FloatDistribution(
            float(values.low),
            float(values.high),
            log=values.log,
            step=None if values.step is None else float(values.step),
        )

    def condition(self) -> dict[str, tuple[Value, ...]]:
        """Give the other options this one hangs on, each with the values under which it is searched."""
        condition = {
            other: tuple(wanted) if isinstance(wanted, list) else (wanted,)
            for other, wanted in self.values.when.items()
        }
        if self.name in config.USED_BY:
            other, users = config.USED_BY[self.name]
            condition[other] = tuple(v for v in condition.get(other, users) if v in users)
        return condition

    def contains(self, value: Value) -> bool:
        """Tell whether ``value`` is among the values searched."""
        if isinstance(self.values, Choices):
            # 1 == True in Python; a choice of booleans must not take a number.
            return any(value == v and type(value) is type(v) for v in self.values.choices)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        distribution = self.distribution()
        return bool(distribution._contains(distribution.to_internal_repr(value)))


def suggest(trial: Trial, parameter: Parameter) -> Value:
    """Ask Optuna for a trial's value of a parameter; a value it was given before is given again."""
    values = parameter.values
    if isinstance(values, Choices):
        return trial.suggest_categorical(parameter.name, values.choices)
    if parameter.kind == "int":
        low, high, step = int(values.low), int(values.high), int(values.step or 1)
        return trial.suggest_int(parameter.name, low, high, step=step, log=values.log)
    return trial.suggest_float(parameter.name, values.low, values.high, step=values.step, log=values.log)


def is_active(parameter: Parameter, setting: Setting) -> bool:
    """Tell whether a trial with this complete setting of the other options has the parameter."""
    return all(setting[other] in wanted for other, wanted in parameter.condition().items())


def kind_of(option: str) -> Literal["choice", "int", "float"]:
    """Give the kind of range an option takes: int or float; choice where only a list makes sense."""
    annotation = config.Config.model_fields[option].annotation
    types = set(get_args(annotation)) or {annotation}
    if float in types:
        return "float"
    return "int" if int in types else "choice"


def ordered(parameters: Iterable[Parameter]) -> tuple[Parameter, ...]:
    """Give the parameters in an order where each comes after those it hangs on.

    Raises ``ValueError`` with the names in it where conditions go round in a circle.
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


def covering(option: str, values: Iterable[Value]) -> Parameter:
    """Give the narrowest parameter that holds the values which listed points give to an option.

    Numbers make a range, so that plots and importances see an axis (logarithmic from a factor of ten
    on); everything else makes a list of choices in order of appearance. Batch sizes and the like that
    a study file lists by hand are searched as choices; points say nothing of what lies between them,
    yet a range is what lets points be added to a study later, since Optuna holds a parameter to one
    list of choices.
    """
    values = list(dict.fromkeys(values))
    kind = kind_of(option)
    if kind == "choice" or any(not isinstance(v, int | float) or isinstance(v, bool) for v in values):
        return Parameter(name=option, kind="choice", values=Choices(choices=tuple(values)))
    numbers = [v for v in values if isinstance(v, int | float)]
    low, high = min(numbers), max(numbers)
    wide = low > 0 and math.log10(high / low) >= 1
    return Parameter(name=option, kind=kind, values=Range(low=low, high=high, log=wide))
