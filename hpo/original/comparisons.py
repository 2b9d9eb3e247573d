"""The comparisons that a conclusion of the original report is made of, each with a verdict and its numbers.

A comparison is confirmed if the whole 95 % interval of a difference lies on the side that the report
claims, and contradicted if it lies on the other side. Otherwise nobody can tell: the difference is small,
or a point was not run.
"""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from hpo.analysis import intervals
from hpo.analysis.intervals import Interval
from hpo.original import facts
from hpo.original.match import MatchedPoint

ClaimVerdict = Literal["confirmed", "contradicted", "cannot tell"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One comparison that a conclusion depends on."""

    statement: str
    verdict: ClaimVerdict
    numbers: str


class ClaimCheck:
    """Makes the comparisons of one conclusion from a study's matched points.

    A comparison for which a point lacks a complete trial says so, and its verdict is "cannot tell".

    Args:
        matched: The original's points by number, each with the study's trials.
        images: The number of images that accuracy was measured on; None if unknown.
        name_format: How to name a point in a statement, as a format string over the fields of
            ``ReportPoint``, such as ``learning rate {lr:g}``.
    """

    def __init__(self, matched: Mapping[int, MatchedPoint], images: int | None, name_format: str) -> None:
        self.matched = matched
        self.images = images
        self.name_format = name_format

    def point_name(self, number: int) -> str:
        """Return the short name of a point, by ``name_format``."""
        point = facts.POINTS[number]
        names = {"model": facts.MODELS[point.model], "optimizer": facts.OPTIMIZERS[point.optimizer]}
        return self.name_format.format(**{**vars(point), **names})

    def more_accurate(self, a: int, b: int) -> Iterator[Comparison]:
        """Check that point ``a`` is more accurate than point ``b``.

        Args:
            a: The number of a point in the report, from 1.
            b: The number of another point.
        """
        statement = f"{self.point_name(a)} is more accurate than {self.point_name(b)}"
        yield self._compare_accuracies(statement, a, b, _verdict_of_gap)

    def not_less_accurate(self, a: int, b: int) -> Iterator[Comparison]:
        """Check that point ``a`` is at least as accurate as point ``b``, or too close to tell.

        Single runs on an unknown number of images cannot tell, nor can two seeds.

        Args:
            a: The number of a point in the report, from 1.
            b: The number of another point.
        """

        def verdict_of_gap(gap: Interval) -> ClaimVerdict:
            otherwise: ClaimVerdict = "confirmed" if gap.is_known else "cannot tell"
            return "contradicted" if gap.sign < 0 else otherwise

        statement = f"{self.point_name(a)} is not clearly less accurate than {self.point_name(b)}"
        yield self._compare_accuracies(statement, a, b, verdict_of_gap)

    def _compare_accuracies(
        self, statement: str, a: int, b: int, verdict_of_gap: Callable[[Interval], ClaimVerdict]
    ) -> Comparison:
        first, second = self.matched[a].accuracies, self.matched[b].accuracies
        if not (first and second):
            return _without_trials(
                statement, [n for n, accuracies in ((a, first), (b, second)) if not accuracies]
            )
        gap = intervals.accuracy_difference(first, second, self.images)
        numbers = _format_accuracies(first, second, gap)
        return Comparison(statement=statement, verdict=verdict_of_gap(gap), numbers=numbers)

    def slower(self, a: int, b: int, times: int = 1) -> Iterator[Comparison]:
        """Check that an epoch of point ``a`` takes at least ``times`` as long as one of point ``b``.

        Args:
            a: The number of a point in the report, from 1.
            b: The number of another point.
            times: A factor; with 1, any longer time counts.

        Yields:
            A comparison for each kind of hardware that both points ran on; if there is none, one that says
            so.
        """
        than = "longer per epoch than" if times == 1 else f"at least {times} times as long per epoch as"
        statement = f"{self.point_name(a)} takes {than} {self.point_name(b)}"
        shared = self._shared_hardware((a, b))
        if not shared:
            yield self._without_times(statement, (a, b))
        for hardware in shared:
            first, second = (self.matched[number].epoch_seconds(hardware) for number in (a, b))
            scaled = [[times * seconds for seconds in run] for run in second]
            gap = intervals.seconds_difference(first, scaled)
            means = f"{_mean_seconds(first):.4g} s and {_mean_seconds(second):.4g} s"
            yield Comparison(
                statement=statement,
                verdict=_verdict_of_gap(gap),
                numbers=f"{means} on {hardware} ({gap.how})",
            )

    def same_time(self, numbers: Sequence[int]) -> Iterator[Comparison]:
        """Check that an epoch takes the same time at all these points, within 5 %.

        Mean times that lie further apart contradict it only if the interval of their difference excludes
        zero.

        Args:
            numbers: The numbers of the points in the report, which differ in the learning rate.

        Yields:
            A comparison for each kind of hardware that all points ran on; if there is none, one that says
            so.
        """
        statement = "the time per epoch is the same at every learning rate, within 5 %"
        shared = self._shared_hardware(numbers)
        if not shared:
            yield self._without_times(statement, numbers)
        for hardware in shared:
            runs = [self.matched[number].epoch_seconds(hardware) for number in numbers]
            apart = [
                (a, b) for a, b in combinations(runs, 2) if not _is_near(_mean_seconds(a), _mean_seconds(b))
            ]
            is_sure = any(intervals.seconds_difference(a, b).sign for a, b in apart)
            verdict: ClaimVerdict = (
                "confirmed" if not apart else "contradicted" if is_sure else "cannot tell"
            )
            means = " s, ".join(f"{_mean_seconds(each):.4g}" for each in runs)
            yield Comparison(statement=statement, verdict=verdict, numbers=f"{means} s on {hardware}")

    def compare_with_level(
        self,
        statement: str,
        points: Sequence[int],
        gap_above: Callable[..., Interval | None],
        sign: int = 1,
    ) -> Iterator[Comparison]:
        """Check that a figure lies above a level, or with a ``sign`` of -1 that it lies below.

        Args:
            statement: What is claimed.
            points: The numbers of the points that the figure is computed from.
            gap_above: Gets the matched points in this order, and returns how far the figure lies above the
                level; None if their trials do not tell.
            sign: 1 or -1.

        Yields:
            One comparison.
        """
        found = [self.matched[number] for number in points]
        lacking = [n for n, each in zip(points, found, strict=True) if not each.accuracies]
        gap = None if lacking else gap_above(*found)
        if gap is None:
            yield _without_trials(statement, lacking or points)
            return
        signed = gap if sign > 0 else replace(gap, value=-gap.value, low=-gap.high, high=-gap.low)
        side = "above" if gap.value >= 0 else "below"
        yield Comparison(
            statement=statement,
            verdict=_verdict_of_gap(signed),
            numbers=f"{abs(gap.value):.4f} {side} it ({gap.how})",
        )

    def _shared_hardware(self, numbers: Sequence[int]) -> list[str]:
        """Return the kinds of hardware that all these points ran on."""
        first, *others = (self.matched[number].hardware_kinds for number in numbers)
        return [hardware for hardware in first if all(hardware in kinds for kinds in others)]

    def _without_times(self, statement: str, numbers: Iterable[int]) -> Comparison:
        """Say why times cannot be compared: points that were not run, or no hardware in common."""
        lacking = [number for number in numbers if not self.matched[number].hardware_kinds]
        if lacking:
            return _without_trials(statement, lacking)
        return Comparison(
            statement=statement, verdict="cannot tell", numbers="they did not run on one kind of hardware"
        )


def _verdict_of_gap(gap: Interval) -> ClaimVerdict:
    """Return the verdict on the claim that a difference is above zero."""
    return "confirmed" if gap.sign > 0 else "contradicted" if gap.sign < 0 else "cannot tell"


def _without_trials(statement: str, numbers: Iterable[int]) -> Comparison:
    """Return a comparison that cannot be made, because these points have no complete trial."""
    numbers = list(numbers)
    names = f"point{'s' * (len(numbers) > 1)} {' and '.join(map(str, numbers))}"
    return Comparison(statement=statement, verdict="cannot tell", numbers=f"no complete trial of {names}")


def _format_accuracies(a: Sequence[float], b: Sequence[float], gap: Interval) -> str:
    first, second = statistics.fmean(a), statistics.fmean(b)
    has_limits = gap.is_known and not gap.how.startswith("one run")
    limits = f", {gap.low:+.4f} to {gap.high:+.4f}" if has_limits else ""
    return f"{first:.4f} and {second:.4f}, a gap of {gap.value:+.4f}{limits} ({gap.how})"


def _mean_seconds(runs: Sequence[Sequence[float]]) -> float:
    """Return the mean over the runs of the mean seconds of their epochs."""
    return statistics.fmean(statistics.fmean(run) for run in runs)


def _is_near(a: float, b: float) -> bool:
    return abs(a - b) <= intervals.TIME_DRIFT * max(a, b)
