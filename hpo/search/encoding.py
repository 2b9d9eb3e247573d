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
        fallback: The values of options that a setting does not have, for the conditions.
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
        whole = dict(self.fallback)
        setting: dict[str, Value] = {}
        for parameter, number in zip(self.parameters, row, strict=True):
            if is_active(parameter, whole):
                whole[parameter.name] = setting[parameter.name] = _decode_value(parameter, float(number))
        return setting

    def random_rows(self, count: int, rng: np.random.Generator) -> Array:
        """Return the rows of random settings: each value and each choice is equally likely."""
        return self._without_inactive(self._draw_rows(count, rng))

    def _draw_rows(self, count: int, rng: np.random.Generator) -> Array:
        """Return random numbers for all parameters, also for those whose condition does not hold."""
        columns = [
            rng.integers(len(each.values.choices), size=count).astype(float)
            if isinstance(each.values, Choices)
            else rng.random(count)
            for each in self.parameters
        ]
        return np.column_stack(columns)

    def mutate_rows(self, rows: Array, rng: np.random.Generator, *, scale: float, share: float) -> Array:
        """Return rows near others; a parameter that a change gives to a setting gets a random value.

        Args:
            rows: The others.
            rng: Draws the changes.
            scale: Deviation of the normal number that is added to a position; one beyond an end of the
                range is reflected there, since the corners of a space are seldom good.
            share: The share of the values that change; at least one in each row does.
        """
        changed = rng.random(rows.shape) < share
        changed[np.arange(len(rows)), rng.integers(rows.shape[1], size=len(rows))] = True
        drawn = self._draw_rows(len(rows), rng)
        moved = _reflect(rows + rng.normal(0.0, scale, rows.shape))
        new = np.where(self.is_choice, drawn, moved)
        had = self._activity(rows) & (rows != ABSENT_CHOICE)
        return self._without_inactive(np.where(had, np.where(changed, new, rows), drawn))

    def _without_inactive(self, rows: Array) -> Array:
        """Mark the parameters whose condition does not hold in a row."""
        absent = np.where(self.is_choice, ABSENT_CHOICE, ABSENT_POSITION)
        return np.where(self._activity(rows), rows, absent)

    def _activity(self, rows: Array) -> NDArray[np.bool_]:
        """Return for each number of the rows whether the condition of its parameter holds."""
        index = {each.name: column for column, each in enumerate(self.parameters)}
        active = np.ones(rows.shape, dtype=bool)
        for column, parameter in enumerate(self.parameters):
            for other, wanted in parameter.condition().items():
                holds = np.full(len(rows), self.fallback.get(other) in wanted)
                if other in index:
                    values = self.parameters[index[other]].choices_or_bounds()
                    allowed = [float(place) for place, value in enumerate(values) if value in wanted]
                    chosen = np.isin(rows[:, index[other]], allowed)
                    holds = np.where(active[:, index[other]], chosen, holds)
                active[:, column] &= holds
        return active


def _encode_value(parameter: Parameter, setting: Setting) -> float:
    value, values = setting.get(parameter.name), parameter.values
    if isinstance(values, Choices):
        known = parameter.name in setting and value in values.choices
        return float(values.choices.index(value)) if known else ABSENT_CHOICE
    if not isinstance(value, int | float):
        return ABSENT_POSITION
    low, high = _bounds(parameter, values)
    value = min(max(values.low, value), values.high)  # another tool's value may be outside
    place = math.log(value) if values.log else value
    return (place - low) / (high - low) if high > low else ABSENT_POSITION


def _decode_value(parameter: Parameter, number: float) -> Value:
    values = parameter.values
    if isinstance(values, Choices):
        return values.choices[max(round(number), 0)]
    low, high = _bounds(parameter, values)
    value = low + number * (high - low)
    value = math.exp(value) if values.log else value
    if step := _step(parameter, values):
        value = values.low + round((value - values.low) / step) * step
    value = min(max(value, values.low), values.high)
    return int(value) if parameter.kind == "int" else float(value)


def _bounds(parameter: Parameter, values: Range) -> tuple[float, float]:
    """Return the values of the positions 0 and 1, or their logarithms.

    Of steps they are half a step outside of the range, so that the first and the last value have as much
    room as each other one.
    """
    half = _step(parameter, values) / 2
    low, high = values.low - half, values.high + half
    return (math.log(low), math.log(high)) if values.log else (low, high)


def _reflect(positions: Array) -> Array:
    """Return positions within a range, those beyond an end as far from it on the other side."""
    within = 1.0 - np.abs(1.0 - np.abs(positions))
    return np.clip(within, 0.0, 1.0)  # of one that is more than a whole range away


def _step(parameter: Parameter, values: Range) -> float:
    """Return the distance of two values; 0 if there is none."""
    return values.step or (1 if parameter.kind == "int" else 0)
