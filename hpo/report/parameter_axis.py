"""A parameter as an axis of a figure: the position of a value, the ticks, and whether it is logarithmic."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.analysis import sections
from hpo.analysis.records import TrialRecord

ABSENT_POSITION = -0.14  # relative position of a trial that lacks the parameter


@dataclass(frozen=True, kw_only=True)
class ParameterAxis:
    """One parameter with the values that it has in the trials."""

    name: str
    values: tuple[Any, ...]  # distinct; choices in their defined order, numbers ascending
    numeric: bool
    log: bool = False

    @classmethod
    def of_numbers(cls, name: str, values: Iterable[float]) -> "ParameterAxis":
        """Return a linear axis of numbers.

        Args:
            name: The name of the axis.
            values: The numbers, in any order, repeats allowed.
        """
        return cls(name=name, values=tuple(sorted(set(values))), numeric=True)

    def relative_position(self, value: Any) -> float:
        """Return the position of a value on the axis, from 0 to 1; 0.5 if the axis has only this value.

        Choices share the axis equally, and each stands in the middle of its share.

        Args:
            value: A value of the axis; None for a trial without the parameter, at ABSENT_POSITION.
        """
        if value is None:
            return ABSENT_POSITION
        if not self.numeric:
            return (_index_of(self.values, value) + 0.5) / len(self.values)
        low, high, here = (self._scaled(v) for v in (self.values[0], self.values[-1], value))
        return (here - low) / (high - low) if high > low else 0.5

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else float(value)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the ticks as (relative position, escaped text).

        The first 12 choices have a tick each. Numbers have a tick for each value if there are at most five
        values, without those that would overlap, else for both ends and the middle of the axis.
        """
        if not self.numeric:
            return [
                (self.relative_position(value), sections.figure_text(value)) for value in self.values[:12]
            ]
        if len(self.values) <= 5:
            return self._spaced_ticks()
        low, high = self._scaled(self.values[0]), self._scaled(self.values[-1])
        middle = (low + high) / 2
        ends = [self.values[0], 10**middle if self.log else middle, self.values[-1]]
        return [
            (place, sections.figure_text(float(value)))
            for place, value in zip((0, 0.5, 1), ends, strict=True)
        ]

    def _spaced_ticks(self) -> list[tuple[float, str]]:
        marks: list[tuple[float, str]] = []
        for value in self.values:
            place = self.relative_position(value)
            if not marks or place - marks[-1][0] > 0.05:
                marks.append((place, sections.figure_text(value)))
        return marks

    def layout(self) -> dict[str, Any]:
        """Return the axis settings for a Plotly layout; choices lie at their ``coordinate``, with ticks."""
        found: dict[str, Any] = {"title": {"text": sections.figure_text(self.name)}}
        if self.log:
            # One tick per decade from two decades on; below that, Plotly chooses better ticks.
            marks = {"dtick": 1} if self.values[-1] >= 100 * self.values[0] else {}
            found |= {"type": "log", "exponentformat": "power", **marks}
        if not self.numeric:
            texts = [sections.figure_text(value) for value in self.values]
            found |= {"type": "linear", "tickvals": list(range(len(texts))), "ticktext": texts}
            found |= {"range": [-0.5, len(texts) - 0.5]}
        return found

    def coordinate(self, value: Any) -> float:
        """Return a value's coordinate on a Plotly axis: a number itself, also if log; a choice's index."""
        return float(value) if self.numeric else _index_of(self.values, value)


def _index_of(values: Sequence[Any], value: Any) -> int:
    # Compare the types too: 1 == True in Python, and choices may contain both.
    return next(i for i, each in enumerate(values) if each == value and type(each) is type(value))


def varying_parameters(done: Sequence[TrialRecord]) -> list[ParameterAxis]:
    """Return the parameters with at least two values among the trials, in order of appearance.

    Args:
        done: The complete trials.
    """
    found = dict.fromkeys(name for each in done for name in each.params)
    return [axis for axis in (_axis(name, done) for name in found) if len(axis.values) > 1]


def _axis(name: str, done: Sequence[TrialRecord]) -> ParameterAxis:
    having = [each for each in done if name in each.params]
    distribution, given = having[0].distributions[name], [each.params[name] for each in having]
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return ParameterAxis(
            name=name, values=tuple(sorted(set(given))), numeric=True, log=distribution.log
        )
    choices = distribution.choices if isinstance(distribution, CategoricalDistribution) else ()
    seen = tuple(c for c in choices if any(c == v and type(c) is type(v) for v in given))
    return ParameterAxis(name=name, values=seen, numeric=False)
