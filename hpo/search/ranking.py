"""A ranking that is kept as its keys come and change, so that nobody sorts what was sorted before."""

import bisect
from collections.abc import Iterator
from typing import Any


class Ranking:
    """Numbers in the order of their keys, lowest first; of equal keys the lower number is ahead."""

    def __init__(self) -> None:
        self._order: list[tuple[Any, int]] = []
        self._keys: dict[int, Any] = {}

    def put(self, number: int, key: Any) -> None:
        """Give a number its key, in place of the one that it had; with None it has no place any more."""
        before = self._keys.pop(number, None)
        if before is not None:
            del self._order[bisect.bisect_left(self._order, (before, number))]
        if key is not None:
            self._keys[number] = key
            bisect.insort(self._order, (key, number))

    def place(self, number: int) -> int:
        """Count the numbers ahead of one that is there."""
        return bisect.bisect_left(self._order, (self._keys[number], number))

    def below(self, key: Any) -> int:
        """Count the numbers whose keys are lower than one."""
        return bisect.bisect_left(self._order, (key,))

    def __iter__(self) -> Iterator[int]:
        return (number for _, number in self._order)

    def __len__(self) -> int:
        return len(self._order)
