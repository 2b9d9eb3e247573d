"""The original's seven conclusions, judged by a study's own trials: confirmed, contradicted, cannot tell.

A conclusion is taken apart into comparisons, each of which has an interval. It is confirmed if all of them
are, contradicted if one is, and nobody can tell otherwise: where a point was not run, where it was run on
other data, image size, weights or epochs than the original's, and where the gap is small.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from hpo.analysis import intervals
from hpo.analysis.intervals import Interval
from hpo.original import facts
from hpo.original import match as replays
from hpo.original.match import MatchedPoint

ClaimVerdict = Literal["confirmed", "contradicted", "cannot tell"]

SEVERAL_TIMES = 3  # times
FIRST_EPOCH_SHARE = 0.9  # share of a run's best accuracy that its first epoch reaches
STALLED_GAP = 0.1  # behind SGD, in accuracy
NOT_LEARNING_ACCURACY = 0.2  # twice what guessing gives among ten classes


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One comparison that a conclusion hangs on."""

    statement: str
    verdict: ClaimVerdict
    numbers: str


@dataclass(frozen=True, kw_only=True)
class ReportClaim:
    """One of the original's conclusions, judged."""

    number: int
    text: str
    verdict: ClaimVerdict
    reason: str  # why the verdict is "cannot tell" as a whole; empty where the parts say it
    parts: tuple[Comparison, ...]


class ClaimCheck:
    """Makes the parts of one conclusion from a study's replayed points."""

    def __init__(self, replayed: Mapping[int, MatchedPoint], images: int | None, named: str) -> None:
        self.matched = replayed
        self.images = images
        self.name_format = named  # how a point is told from the others, as a format of its fields

    def point_name(self, number: int) -> str:
        """Give a point's short name."""
        point = facts.POINTS[number]
        names = {"model": facts.MODELS[point.model], "optimizer": facts.OPTIMIZERS[point.optimizer]}
        return self.name_format.format(**{**vars(point), **names})

    def more_accurate(self, a: int, b: int) -> Iterator[Comparison]:
        """Say whether point ``a`` is more accurate than point ``b``."""
        statement = f"{self.point_name(a)} is more accurate than {self.point_name(b)}"
        yield self._compare_accuracies(statement, a, b, _verdict_of_gap)

    def not_less_accurate(self, a: int, b: int) -> Iterator[Comparison]:
        """Say whether point ``a`` is as accurate as ``b``, or more, or too close to tell."""

        def verdict(gap: Interval) -> ClaimVerdict:
            known: ClaimVerdict = "cannot tell" if math.isinf(gap.high) else "confirmed"
            return "contradicted" if gap.sign < 0 else known

        statement = f"{self.point_name(a)} is not clearly less accurate than {self.point_name(b)}"
        yield self._compare_accuracies(statement, a, b, verdict)

    def _compare_accuracies(
        self, statement: str, a: int, b: int, verdict: Callable[[Interval], ClaimVerdict]
    ) -> Comparison:
        ours, theirs = self.matched[a].accuracies, self.matched[b].accuracies
        if not (ours and theirs):
            return _without_trials(statement, [n for n, found in ((a, ours), (b, theirs)) if not found])
        gap = intervals.accuracy_difference(ours, theirs, self.images)
        return Comparison(
            statement=statement, verdict=verdict(gap), numbers=_format_accuracies(ours, theirs, gap)
        )

    def slower(self, a: int, b: int, times: int = 1) -> Iterator[Comparison]:
        """Say on each kind of hardware whether an epoch of ``a`` takes ``times`` as long as of ``b``."""
        than = "longer per epoch than" if times == 1 else f"at least {times} times as long per epoch as"
        statement = f"{self.point_name(a)} takes {than} {self.point_name(b)}"
        kinds = [kind for kind in self.matched[a].hardware_kinds if kind in self.matched[b].hardware_kinds]
        if not kinds:
            yield self._without_times(statement, (a, b))
        for kind in kinds:
            ours, theirs = self.matched[a].epoch_seconds(kind), self.matched[b].epoch_seconds(kind)
            scaled = [[times * seconds for seconds in run] for run in theirs]
            gap = intervals.seconds_difference(ours, scaled)
            yield Comparison(
                statement=statement,
                verdict=_verdict_of_gap(gap),
                numbers=f"{_mean_seconds(ours):.4g} s and {_mean_seconds(theirs):.4g} s on {kind} ({gap.how})",
            )

    def same_time(self, numbers: Sequence[int]) -> Iterator[Comparison]:
        """Say whether an epoch takes the same time at all the points, within 5 %."""
        statement = "the time per epoch is the same at every learning rate, within 5 %"
        shared = [
            k
            for k in self.matched[numbers[0]].hardware_kinds
            if all(k in self.matched[n].hardware_kinds for n in numbers)
        ]
        if not shared:
            yield self._without_times(statement, numbers)
        for kind in shared:
            runs = [self.matched[n].epoch_seconds(kind) for n in numbers]
            apart = [
                (a, b) for a, b in combinations(runs, 2) if not _is_near(_mean_seconds(a), _mean_seconds(b))
            ]
            sure = any(intervals.seconds_difference(a, b).sign for a, b in apart)
            verdict: ClaimVerdict = "confirmed" if not apart else "contradicted" if sure else "cannot tell"
            said = " s, ".join(f"{_mean_seconds(each):.4g}" for each in runs)
            yield Comparison(statement=statement, verdict=verdict, numbers=f"{said} s on {kind}")

    def compare_with_level(
        self,
        statement: str,
        points: Sequence[int],
        reached: Callable[..., Interval | None],
        sign: int = 1,
    ) -> Iterator[Comparison]:
        """Say whether a figure lies above a level, or with a ``sign`` of -1 below.

        ``reached`` gets the points' runs, and gives by how much it lies above.
        """
        found = [self.matched[number] for number in points]
        lacking = [n for n, each in zip(points, found, strict=True) if not each.accuracies]
        gap = None if lacking else reached(*found)
        if gap is None:
            yield _without_trials(statement, lacking or points)
            return
        turned = gap if sign > 0 else replace(gap, value=-gap.value, low=-gap.high, high=-gap.low)
        side = "above" if gap.value >= 0 else "below"
        yield Comparison(
            statement=statement,
            verdict=_verdict_of_gap(turned),
            numbers=f"{abs(gap.value):.4f} {side} it ({gap.how})",
        )

    def _without_times(self, statement: str, numbers: Iterable[int]) -> Comparison:
        lacking = [n for n in numbers if not self.matched[n].hardware_kinds]
        if lacking:
            return _without_trials(statement, lacking)
        return Comparison(
            statement=statement, verdict="cannot tell", numbers="they did not run on one kind of hardware"
        )


def check_claims(replayed: Mapping[int, MatchedPoint], images: int | None) -> list[ReportClaim]:
    """Judge the seven conclusions; ``images`` is how many accuracy was measured on, if known."""
    return [_check_claim(number, replayed, images) for number in _CHECKS]


def _check_claim(number: int, replayed: Mapping[int, MatchedPoint], images: int | None) -> ReportClaim:
    parts, used, named = _CHECKS[number]
    text = facts.CONCLUSIONS[number]
    if not any(replayed[n].trials for n in used):
        reason = "no complete trial of any of its points"
        return ReportClaim(number=number, text=text, verdict="cannot tell", reason=reason, parts=())
    found = tuple(parts(ClaimCheck(replayed, images, named)))
    other = replays.describe_differences(replayed[n] for n in used)
    if other:
        found = tuple(replace(part, verdict="cannot tell") for part in found)
    return ReportClaim(
        number=number,
        text=text,
        verdict=_combine_verdicts(part.verdict for part in found),
        reason=f"other conditions than the original's: {'; '.join(other)}" if other else "",
        parts=found,
    )


def _combine_verdicts(verdicts: Iterable[ClaimVerdict]) -> ClaimVerdict:
    each = set(verdicts)
    if "contradicted" in each:
        return "contradicted"
    return "confirmed" if each == {"confirmed"} else "cannot tell"


def _models(judge: ClaimCheck) -> Iterator[Comparison]:
    for resnet, others in ((5, (1, 3)), (6, (2, 4))):
        for other in others:
            yield from judge.more_accurate(resnet, other)
            yield from judge.slower(other, resnet)


def _vgg(judge: ClaimCheck) -> Iterator[Comparison]:
    for vgg, others in ((3, (1, 5)), (4, (2, 6))):
        for other in others:
            yield from judge.slower(vgg, other, SEVERAL_TIMES)


def _adam(judge: ClaimCheck) -> Iterator[Comparison]:
    for sgd, adam in ((1, 2), (3, 4), (5, 6)):
        yield from judge.more_accurate(sgd, adam)

    def lead(sgd: MatchedPoint, adam: MatchedPoint) -> Interval:
        less = [accuracy - STALLED_GAP for accuracy in sgd.accuracies]
        return intervals.accuracy_difference(less, adam.accuracies, judge.images)

    def guessing(vgg: MatchedPoint) -> Interval:
        return intervals.difference_from_level(vgg.accuracies, NOT_LEARNING_ACCURACY, judge.images)

    yield from judge.compare_with_level(
        f"AlexNet with Adam stalls: SGD leads by more than {STALLED_GAP:g}", (1, 2), lead
    )
    yield from judge.compare_with_level(
        f"VGG16 with Adam does not learn: it stays below {NOT_LEARNING_ACCURACY:g}", (4,), guessing, sign=-1
    )


def _learning_rates(judge: ClaimCheck) -> Iterator[Comparison]:
    yield from judge.more_accurate(8, 9)
    yield from judge.more_accurate(9, 7)
    yield from judge.same_time((7, 8, 9))


def _momenta(judge: ClaimCheck) -> Iterator[Comparison]:
    yield from judge.more_accurate(8, 10)
    yield from judge.more_accurate(8, 11)


def _batch_sizes(judge: ClaimCheck) -> Iterator[Comparison]:
    yield from judge.not_less_accurate(8, 12)
    yield from judge.more_accurate(12, 13)
    yield from judge.more_accurate(13, 14)
    for slower, faster in ((12, 8), (8, 13), (13, 14)):
        yield from judge.slower(slower, faster)


def _first_epochs(judge: ClaimCheck) -> Iterator[Comparison]:
    def early(replayed: MatchedPoint) -> Interval | None:
        first, best = (
            replayed.first_accuracies,
            [FIRST_EPOCH_SHARE * accuracy for accuracy in replayed.accuracies],
        )
        return intervals.accuracy_difference(first, best, judge.images) if first else None

    for number in (1, 3, 5):
        statement = f"{judge.point_name(number)} has more than {FIRST_EPOCH_SHARE:.0%} of its best accuracy after epoch 1"
        yield from judge.compare_with_level(statement, (number,), early)


# What judges each conclusion, the points that it looks at, and how they are told apart.
_CHECKS: Mapping[int, tuple[Callable[[ClaimCheck], Iterator[Comparison]], Sequence[int], str]] = {
    1: (_models, range(1, 7), "{model} with {optimizer}"),
    2: (_vgg, range(1, 7), "{model} with {optimizer}"),
    3: (_adam, range(1, 7), "{model} with {optimizer}"),
    4: (_learning_rates, facts.LEARNING_RATE_POINTS, "learning rate {lr:g}"),
    5: (_momenta, facts.MOMENTUM_POINTS, "momentum {momentum:g}"),
    6: (_batch_sizes, facts.BATCH_SIZE_POINTS, "batch size {batch_size}"),
    7: (_first_epochs, (1, 3, 5), "{model} with {optimizer}"),
}


def _verdict_of_gap(gap: Interval) -> ClaimVerdict:
    return "confirmed" if gap.sign > 0 else "contradicted" if gap.sign < 0 else "cannot tell"


def _without_trials(statement: str, numbers: Iterable[int]) -> Comparison:
    numbers = list(numbers)
    names = f"point{'s' * (len(numbers) > 1)} {' and '.join(map(str, numbers))}"
    return Comparison(statement=statement, verdict="cannot tell", numbers=f"no complete trial of {names}")


def _format_accuracies(a: Sequence[float], b: Sequence[float], gap: Interval) -> str:
    ours, theirs = statistics.fmean(a), statistics.fmean(b)
    limits = "" if gap.how.startswith("one run") else f", {_signed(gap.low)} to {_signed(gap.high)}"
    return f"{ours:.4f} and {theirs:.4f}, a gap of {_signed(gap.value)}{limits} ({gap.how})"


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _mean_seconds(runs: Sequence[Sequence[float]]) -> float:
    return statistics.fmean(statistics.fmean(run) for run in runs)


def _is_near(a: float, b: float) -> bool:
    return abs(a - b) <= intervals.TIME_DRIFT * max(a, b)
