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
from hpo.original.match import Replayed

Verdict = Literal["confirmed", "contradicted", "cannot tell"]

SEVERAL = 3  # times
HIGH = 0.9  # share of a run's best accuracy that its first epoch reaches
STALLED = 0.1  # behind SGD, in accuracy
CHANCE = 0.2  # twice what guessing gives among ten classes


@dataclass(frozen=True, kw_only=True)
class Part:
    """One comparison that a conclusion hangs on."""

    statement: str
    verdict: Verdict
    numbers: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One of the original's conclusions, judged."""

    number: int
    text: str
    verdict: Verdict
    reason: str  # why the verdict is "cannot tell" as a whole; empty where the parts say it
    parts: tuple[Part, ...]


class Judge:
    """Makes the parts of one conclusion from a study's replayed points."""

    def __init__(self, replayed: Mapping[int, Replayed], images: int | None, named: str) -> None:
        self.replayed = replayed
        self.images = images
        self.named = named  # how a point is told from the others, as a format of its fields

    def name(self, number: int) -> str:
        """Give a point's short name."""
        point = facts.POINTS[number]
        names = {"model": facts.MODELS[point.model], "optimizer": facts.OPTIMIZERS[point.optimizer]}
        return self.named.format(**{**vars(point), **names})

    def better(self, a: int, b: int) -> Iterator[Part]:
        """Say whether point ``a`` is more accurate than point ``b``."""
        statement = f"{self.name(a)} is more accurate than {self.name(b)}"
        yield self._compared(statement, a, b, _above)

    def not_worse(self, a: int, b: int) -> Iterator[Part]:
        """Say whether point ``a`` is as accurate as ``b``, or more, or too close to tell."""

        def verdict(gap: Interval) -> Verdict:
            known: Verdict = "cannot tell" if math.isinf(gap.high) else "confirmed"
            return "contradicted" if gap.sign < 0 else known

        statement = f"{self.name(a)} is not clearly less accurate than {self.name(b)}"
        yield self._compared(statement, a, b, verdict)

    def _compared(self, statement: str, a: int, b: int, verdict: Callable[[Interval], Verdict]) -> Part:
        ours, theirs = self.replayed[a].accuracies, self.replayed[b].accuracies
        if not (ours and theirs):
            return _absent(statement, [n for n, found in ((a, ours), (b, theirs)) if not found])
        gap = intervals.of_accuracies(ours, theirs, self.images)
        return Part(statement=statement, verdict=verdict(gap), numbers=_accuracies(ours, theirs, gap))

    def slower(self, a: int, b: int, times: int = 1) -> Iterator[Part]:
        """Say on each kind of hardware whether an epoch of ``a`` takes ``times`` as long as of ``b``."""
        than = "longer per epoch than" if times == 1 else f"at least {times} times as long per epoch as"
        statement = f"{self.name(a)} takes {than} {self.name(b)}"
        kinds = [kind for kind in self.replayed[a].kinds if kind in self.replayed[b].kinds]
        if not kinds:
            yield self._untimed(statement, (a, b))
        for kind in kinds:
            ours, theirs = self.replayed[a].seconds(kind), self.replayed[b].seconds(kind)
            scaled = [[times * seconds for seconds in run] for run in theirs]
            gap = intervals.of_seconds(ours, scaled)
            yield Part(
                statement=statement,
                verdict=_above(gap),
                numbers=f"{_mean(ours):.4g} s and {_mean(theirs):.4g} s on {kind} ({gap.how})",
            )

    def same_time(self, numbers: Sequence[int]) -> Iterator[Part]:
        """Say whether an epoch takes the same time at all the points, within 5 %."""
        statement = "the time per epoch is the same at every learning rate, within 5 %"
        shared = [
            k for k in self.replayed[numbers[0]].kinds if all(k in self.replayed[n].kinds for n in numbers)
        ]
        if not shared:
            yield self._untimed(statement, numbers)
        for kind in shared:
            runs = [self.replayed[n].seconds(kind) for n in numbers]
            apart = [(a, b) for a, b in combinations(runs, 2) if not _near(_mean(a), _mean(b))]
            sure = any(intervals.of_seconds(a, b).sign for a, b in apart)
            verdict: Verdict = "confirmed" if not apart else "contradicted" if sure else "cannot tell"
            said = " s, ".join(f"{_mean(each):.4g}" for each in runs)
            yield Part(statement=statement, verdict=verdict, numbers=f"{said} s on {kind}")

    def level(
        self,
        statement: str,
        points: Sequence[int],
        reached: Callable[..., Interval | None],
        sign: int = 1,
    ) -> Iterator[Part]:
        """Say whether a figure lies above a level, or with a ``sign`` of -1 below.

        ``reached`` gets the points' runs, and gives by how much it lies above.
        """
        found = [self.replayed[number] for number in points]
        lacking = [n for n, each in zip(points, found, strict=True) if not each.accuracies]
        gap = None if lacking else reached(*found)
        if gap is None:
            yield _absent(statement, lacking or points)
            return
        turned = gap if sign > 0 else replace(gap, value=-gap.value, low=-gap.high, high=-gap.low)
        side = "above" if gap.value >= 0 else "below"
        yield Part(
            statement=statement,
            verdict=_above(turned),
            numbers=f"{abs(gap.value):.4f} {side} it ({gap.how})",
        )

    def _untimed(self, statement: str, numbers: Iterable[int]) -> Part:
        lacking = [n for n in numbers if not self.replayed[n].kinds]
        if lacking:
            return _absent(statement, lacking)
        return Part(
            statement=statement, verdict="cannot tell", numbers="they did not run on one kind of hardware"
        )


def claims(replayed: Mapping[int, Replayed], images: int | None) -> list[Claim]:
    """Judge the seven conclusions; ``images`` is how many accuracy was measured on, if known."""
    return [_claim(number, replayed, images) for number in _CLAIMS]


def _claim(number: int, replayed: Mapping[int, Replayed], images: int | None) -> Claim:
    parts, used, named = _CLAIMS[number]
    text = facts.CONCLUSIONS[number]
    if not any(replayed[n].trials for n in used):
        reason = "no complete trial of any of its points"
        return Claim(number=number, text=text, verdict="cannot tell", reason=reason, parts=())
    found = tuple(parts(Judge(replayed, images, named)))
    other = replays.differences(replayed[n] for n in used)
    if other:
        found = tuple(replace(part, verdict="cannot tell") for part in found)
    return Claim(
        number=number,
        text=text,
        verdict=_together(part.verdict for part in found),
        reason=f"other conditions than the original's: {'; '.join(other)}" if other else "",
        parts=found,
    )


def _together(verdicts: Iterable[Verdict]) -> Verdict:
    each = set(verdicts)
    if "contradicted" in each:
        return "contradicted"
    return "confirmed" if each == {"confirmed"} else "cannot tell"


def _models(judge: Judge) -> Iterator[Part]:
    for resnet, others in ((5, (1, 3)), (6, (2, 4))):
        for other in others:
            yield from judge.better(resnet, other)
            yield from judge.slower(other, resnet)


def _vgg(judge: Judge) -> Iterator[Part]:
    for vgg, others in ((3, (1, 5)), (4, (2, 6))):
        for other in others:
            yield from judge.slower(vgg, other, SEVERAL)


def _adam(judge: Judge) -> Iterator[Part]:
    for sgd, adam in ((1, 2), (3, 4), (5, 6)):
        yield from judge.better(sgd, adam)

    def lead(sgd: Replayed, adam: Replayed) -> Interval:
        less = [accuracy - STALLED for accuracy in sgd.accuracies]
        return intervals.of_accuracies(less, adam.accuracies, judge.images)

    def guessing(vgg: Replayed) -> Interval:
        return intervals.of_level(vgg.accuracies, CHANCE, judge.images)

    yield from judge.level(f"AlexNet with Adam stalls: SGD leads by more than {STALLED:g}", (1, 2), lead)
    yield from judge.level(
        f"VGG16 with Adam does not learn: it stays below {CHANCE:g}", (4,), guessing, sign=-1
    )


def _learning_rates(judge: Judge) -> Iterator[Part]:
    yield from judge.better(8, 9)
    yield from judge.better(9, 7)
    yield from judge.same_time((7, 8, 9))


def _momenta(judge: Judge) -> Iterator[Part]:
    yield from judge.better(8, 10)
    yield from judge.better(8, 11)


def _batch_sizes(judge: Judge) -> Iterator[Part]:
    yield from judge.not_worse(8, 12)
    yield from judge.better(12, 13)
    yield from judge.better(13, 14)
    for slower, faster in ((12, 8), (8, 13), (13, 14)):
        yield from judge.slower(slower, faster)


def _first_epochs(judge: Judge) -> Iterator[Part]:
    def early(replayed: Replayed) -> Interval | None:
        first, best = replayed.first_accuracies, [HIGH * accuracy for accuracy in replayed.accuracies]
        return intervals.of_accuracies(first, best, judge.images) if first else None

    for number in (1, 3, 5):
        statement = f"{judge.name(number)} has more than {HIGH:.0%} of its best accuracy after epoch 1"
        yield from judge.level(statement, (number,), early)


# What judges each conclusion, the points that it looks at, and how they are told apart.
_CLAIMS: Mapping[int, tuple[Callable[[Judge], Iterator[Part]], Sequence[int], str]] = {
    1: (_models, range(1, 7), "{model} with {optimizer}"),
    2: (_vgg, range(1, 7), "{model} with {optimizer}"),
    3: (_adam, range(1, 7), "{model} with {optimizer}"),
    4: (_learning_rates, facts.LEARNING_RATES, "learning rate {lr:g}"),
    5: (_momenta, facts.MOMENTA, "momentum {momentum:g}"),
    6: (_batch_sizes, facts.BATCH_SIZES, "batch size {batch_size}"),
    7: (_first_epochs, (1, 3, 5), "{model} with {optimizer}"),
}


def _above(gap: Interval) -> Verdict:
    return "confirmed" if gap.sign > 0 else "contradicted" if gap.sign < 0 else "cannot tell"


def _absent(statement: str, numbers: Iterable[int]) -> Part:
    numbers = list(numbers)
    names = f"point{'s' * (len(numbers) > 1)} {' and '.join(map(str, numbers))}"
    return Part(statement=statement, verdict="cannot tell", numbers=f"no complete trial of {names}")


def _accuracies(a: Sequence[float], b: Sequence[float], gap: Interval) -> str:
    ours, theirs = statistics.fmean(a), statistics.fmean(b)
    limits = "" if gap.how.startswith("one run") else f", {_signed(gap.low)} to {_signed(gap.high)}"
    return f"{ours:.4f} and {theirs:.4f}, a gap of {_signed(gap.value)}{limits} ({gap.how})"


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _mean(runs: Sequence[Sequence[float]]) -> float:
    return statistics.fmean(statistics.fmean(run) for run in runs)


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= intervals.SLACK * max(a, b)
