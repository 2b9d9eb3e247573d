"""A parameter as an axis: where a value lies on it, what its marks are, whether it is logarithmic."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.analysis import sections
from hpo.analysis.records import TrialRecord

ABSENT_POSITION = -0.14  # where a trial without the parameter passes


@dataclass(frozen=True, kw_only=True)
class ParameterAxis:
    """One parameter with the values that trials gave it."""

    name: str
    values: tuple[Any, ...]  # distinct; of choices in their order, of numbers ascending
    numeric: bool
    log: bool = False

    @classmethod
    def of_numbers(cls, name: str, values: Iterable[float]) -> "ParameterAxis":
        """Give an axis of numbers."""
        return cls(name=name, values=tuple(sorted(set(values))), numeric=True)

    def relative_position(self, value: Any) -> float:
        """Give where a value lies between 0 and 1; below 0 for a trial that has none."""
        if value is None:
            return ABSENT_POSITION
        if not self.numeric:
            return (_index_of(self.values, value) + 0.5) / len(self.values)
        low, high, here = (self._scaled(v) for v in (self.values[0], self.values[-1], value))
        return (here - low) / (high - low) if high > low else 0.5

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else float(value)

    def ticks(self) -> list[tuple[float, str]]:
        """Give where an axis is marked, with escaped texts: every choice, or both ends and the middle."""
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
        """Give the settings of a figure's axis."""
        found: dict[str, Any] = {"title": {"text": sections.figure_text(self.name)}}
        if self.log:
            # Over two decades and more a mark per decade; below, Plotly finds better ones.
            marks = {"dtick": 1} if self.values[-1] >= 100 * self.values[0] else {}
            found |= {"type": "log", "exponentformat": "power", **marks}
        if not self.numeric:
            texts = [sections.figure_text(value) for value in self.values]
            found |= {"type": "linear", "tickvals": list(range(len(texts))), "ticktext": texts}
            found |= {"range": [-0.5, len(texts) - 0.5]}
        return found

    def coordinate(self, value: Any) -> float:
        """Give the coordinate of a value on a figure's axis: itself, or its place in the list."""
        return float(value) if self.numeric else _index_of(self.values, value)


def _index_of(values: Sequence[Any], value: Any) -> int:
    # 1 == True in Python, and choices may hold both.
    return next(i for i, each in enumerate(values) if each == value and type(each) is type(value))


def varying_parameters(done: Sequence[TrialRecord]) -> list[ParameterAxis]:
    """Give the parameters that have two values or more among the trials, in order of appearance."""
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
