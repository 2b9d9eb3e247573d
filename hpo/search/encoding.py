"""Settings as rows of numbers, for a model of a study's curves.

A range gives the position in it, from 0 to 1 (on a logarithmic scale where the range has one). A list of
choices gives the index of the choice. A parameter that a setting does not have gives ``ABSENT_POSITION`` or
``ABSENT_CHOICE``: what sets two settings apart then is the option that its condition names.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.study.space import Choices, Parameter, Range, Setting, Value, is_active

Array = NDArray[np.float64]

ABSENT_POSITION, ABSENT_CHOICE = 0.5, -1.0


@dataclass(frozen=True)
class SpaceEncoder:
    """Turns the settings of a study into rows and back.

    Args:
        parameters: The searched parameters, each after those that its condition names.
        fallback: The values of options that are not searched, for the conditions.
    """

    parameters: tuple[Parameter, ...]
    fallback: Setting

    @property
    def is_choice(self) -> list[bool]:
        """Whether each column is the index of a choice."""
        return [each.kind == "choice" for each in self.parameters]

    def encode(self, setting: Setting) -> list[float]:
        """Return the row of a setting."""
        return [_encode_value(each, setting) for each in self.parameters]

    def decode(self, row: Sequence[float]) -> dict[str, Value]:
        """Return the setting that is nearest to a row."""
        setting: dict[str, Value] = {}
        for parameter, number in zip(self.parameters, row, strict=True):
            if is_active(parameter, {**self.fallback, **setting}):
                setting[parameter.name] = _decode_value(parameter, float(number))
        return setting

    def random_rows(self, count: int, rng: np.random.Generator) -> Array:
        """Return the rows of random settings: each value and each choice is equally likely."""
        columns = [
            rng.integers(len(each.values.choices), size=count).astype(float)
            if isinstance(each.values, Choices)
            else rng.random(count)
            for each in self.parameters
        ]
        return self._without_inactive(np.column_stack(columns))

    def mutate_rows(self, rows: Array, rng: np.random.Generator, *, scale: float, share: float) -> Array:
        """Return rows near others.

        Args:
            rows: The others.
            rng: Draws the changes.
            scale: Deviation of the normal number that is added to a position.
            share: The share of the values that change; at least one in each row does.
        """
        made, changed = rows.copy(), rng.random(rows.shape) < share
        changed[np.arange(len(rows)), rng.integers(rows.shape[1], size=len(rows))] = True
        for column, parameter in enumerate(self.parameters):
            if isinstance(parameter.values, Choices):
                new = rng.integers(len(parameter.values.choices), size=len(rows)).astype(float)
            else:
                new = np.clip(rows[:, column] + rng.normal(0.0, scale, len(rows)), 0.0, 1.0)
            made[:, column] = np.where(changed[:, column], new, rows[:, column])
        return self._without_inactive(made)

    def _without_inactive(self, rows: Array) -> Array:
        """Mark the parameters whose condition does not hold in a row, and give the others a value."""
        index = {each.name: column for column, each in enumerate(self.parameters)}
        for column, parameter in enumerate(self.parameters):
            active = np.ones(len(rows), dtype=bool)
            for other, wanted in parameter.condition().items():
                if other in index:
                    values = self.parameters[index[other]].choices_or_bounds()
                    allowed = [float(values.index(value)) for value in wanted if value in values]
                    active &= np.isin(rows[:, index[other]], allowed)
                else:
                    active &= self.fallback.get(other) in wanted
            absent = ABSENT_CHOICE if parameter.kind == "choice" else ABSENT_POSITION
            rows[:, column] = np.where(active, rows[:, column], absent)
            if parameter.kind == "choice" and active.any():
                lost = active & (rows[:, column] == ABSENT_CHOICE)  # a mutation made it active
                rows[lost, column] = 0.0
        return rows


def _encode_value(parameter: Parameter, setting: Setting) -> float:
    value, values = setting.get(parameter.name), parameter.values
    if isinstance(values, Choices):
        known = parameter.name in setting and value in values.choices
        return float(values.choices.index(value)) if known else ABSENT_CHOICE
    if not isinstance(value, int | float):
        return ABSENT_POSITION
    scale = math.log if values.log else float
    low, high = scale(values.low), scale(values.high)
    return (scale(value) - low) / (high - low) if high > low else ABSENT_POSITION


def _decode_value(parameter: Parameter, number: float) -> Value:
    values = parameter.values
    if isinstance(values, Choices):
        return values.choices[max(round(number), 0)]
    assert isinstance(values, Range)
    low, high = float(values.low), float(values.high)
    value = low + number * (high - low)
    if values.log:
        value = math.exp(math.log(low) + number * (math.log(high) - math.log(low)))
    step = values.step or (1 if parameter.kind == "int" else None)
    if step is not None:
        value = low + round((value - low) / step) * step
    value = min(max(value, low), high)
    return int(value) if parameter.kind == "int" else value
