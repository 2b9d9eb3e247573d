"""The trials that have reached a rung, from best to worst, as trials come and go.

With one objective a trial's place follows from its loss: ``LossRanking`` is sorted at all times, and each
call takes logarithmic time. With several objectives every new trial may change the places of all others:
``DominanceRanking`` sorts anew when it is asked after a change.
"""

import bisect
from collections.abc import Iterator
from typing import Protocol, TypeAlias

import numpy as np
from sortedcontainers import SortedKeyList

from hpo.search import pareto

Losses: TypeAlias = tuple[float, ...]  # of a trial, one for each objective; lower is better


class Ranking(Protocol):
    """The trials that have reached a rung, in order of rank; some of them wait there.

    Trials are named by their numbers. Of equally good ones the earlier is ahead.
    """

    def put(self, number: int, losses: Losses, *, waits: bool) -> None:
        """Add a trial, or replace what it was; ``waits`` says whether it waits at the rung."""

    def remove(self, number: int) -> None:
        """Remove a trial, if it is in the ranking."""

    def place(self, number: int) -> int:
        """Return how many trials are ahead of one that is in the ranking."""

    def always_ahead(self, number: int) -> int:
        """Return how many of these trials stay ahead of it, whatever others come."""

    def waiting(self) -> Iterator[int]:
        """Yield the trials that wait, the best first."""

    def __len__(self) -> int:
        """Return the number of trials."""


class LossRanking:
    """A ``Ranking`` of trials with one objective, by their loss.

    Attributes:
        losses: Of the trials in it, by number.
    """

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}
        self._order = self._new_order()
        self._waiting = self._new_order()

    def _new_order(self) -> "SortedKeyList[int, tuple[float, int]]":
        return SortedKeyList(key=lambda number: (self.losses[number], number))

    def put(self, number: int, losses: Losses, *, waits: bool) -> None:
        """Add a trial, or replace what it was."""
        if self.losses.get(number) == losses[0] and (number in self._waiting) == waits:
            return
        self.remove(number)
        (self.losses[number],) = losses
        self._order.add(number)
        if waits:
            self._waiting.add(number)

    def remove(self, number: int) -> None:
        """Remove a trial, if it is there."""
        if number in self.losses:  # leaves the orders first: they find it by its loss
            self._order.remove(number)
            self._waiting.discard(number)
            del self.losses[number]

    def place(self, number: int) -> int:
        """Return how many trials are ahead of a trial."""
        return self._order.index(number)

    def always_ahead(self, number: int) -> int:
        """Return the same: a loss does not depend on other trials."""
        return self._order.index(number)

    def waiting(self) -> Iterator[int]:
        """Yield the trials that wait, the best first."""
        return iter(self._waiting)

    def __len__(self) -> int:
        return len(self._order)


class DominanceRanking:
    """A ``Ranking`` of trials with several objectives, by ``pareto.pareto_order``."""

    def __init__(self) -> None:
        self._losses: dict[int, Losses] = {}
        self._waiting: set[int] = set()
        self._order: list[int] | None = None  # None: to be sorted again

    def put(self, number: int, losses: Losses, *, waits: bool) -> None:
        """Add a trial, or replace what it was."""
        if self._losses.get(number) != losses:
            self._losses[number], self._order = losses, None
        (self._waiting.add if waits else self._waiting.discard)(number)

    def remove(self, number: int) -> None:
        """Remove a trial, if it is there."""
        if number in self._losses:
            del self._losses[number]
            self._order = None
            self._waiting.discard(number)

    def place(self, number: int) -> int:
        """Return how many trials are ahead of a trial."""
        return self._sorted().index(number)

    def always_ahead(self, number: int) -> int:
        """Return how many trials dominate a trial.

        Those alone: a trial that comes later may dominate others that are ahead, and move them behind.
        """
        numbers = sorted(self._losses)
        return pareto.dominator_counts(self._array(numbers), bisect.bisect_left(numbers, number))

    def waiting(self) -> Iterator[int]:
        """Yield the trials that wait, the best first."""
        return (number for number in self._sorted() if number in self._waiting)

    def __len__(self) -> int:
        return len(self._losses)

    def _sorted(self) -> list[int]:
        if self._order is None:
            numbers = sorted(self._losses)
            self._order = [numbers[index] for index in pareto.pareto_order(self._array(numbers))]
        return self._order

    def _array(self, numbers: list[int]) -> pareto.Losses:
        return np.array([self._losses[number] for number in numbers], dtype=float)
