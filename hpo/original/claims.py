"""The original report's seven conclusions, checked by a study's own trials.

The verdict on a conclusion is "confirmed", "contradicted" or "cannot tell". A conclusion is taken apart
into comparisons, each of which has an interval (``comparisons``). It is confirmed if all comparisons are,
and contradicted if one is. Otherwise nobody can tell. That is also the verdict where a point was not run,
where a difference is small, and where a point was run with another data set, image size, weights or number
of epochs than the original's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hpo.analysis import intervals
from hpo.analysis.intervals import Interval
from hpo.original import facts, match
from hpo.original.comparisons import ClaimCheck, ClaimVerdict, Comparison
from hpo.original.match import MatchedPoint

SEVERAL_TIMES = 3  # how much longer VGG16's epochs take, at least
FIRST_EPOCH_SHARE = 0.9  # of a run's best accuracy: what its first epoch reaches if accuracy is high early
STALLED_GAP = 0.1  # accuracy by which a run that stalls lies behind SGD
NOT_LEARNING_ACCURACY = 0.2  # twice the accuracy of guessing among ten classes


@dataclass(frozen=True, kw_only=True)
class ReportClaim:
    """One of the original's conclusions with the verdict on it."""

    number: int
    text: str
    verdict: ClaimVerdict
    reason: str  # why nobody can tell, for the conclusion as a whole; empty where its parts say it
    parts: tuple[Comparison, ...]


def check_claims(matched: Mapping[int, MatchedPoint], images: int | None) -> list[ReportClaim]:
    """Check the seven conclusions.

    Args:
        matched: The original's points by number, each with the study's trials (``match.match_trials``).
        images: The number of images that accuracy was measured on; None if unknown.

    Returns:
        The conclusions by number. One without a trial of any of its points has no parts.
    """
    return [_check_claim(number, matched, images) for number in _CHECKS]


def _check_claim(number: int, matched: Mapping[int, MatchedPoint], images: int | None) -> ReportClaim:
    compare, points, name_format = _CHECKS[number]
    text = facts.CONCLUSIONS[number]
    if not any(matched[n].trials for n in points):
        reason = "no complete trial of any of its points"
        return ReportClaim(number=number, text=text, verdict="cannot tell", reason=reason, parts=())
    parts = tuple(compare(ClaimCheck(matched, images, name_format)))
    differences = match.describe_differences(matched[n] for n in points)
    if differences:
        parts = tuple(replace(part, verdict="cannot tell") for part in parts)
    return ReportClaim(
        number=number,
        text=text,
        verdict=_combine_verdicts(part.verdict for part in parts),
        reason=f"other conditions than the original's: {'; '.join(differences)}" if differences else "",
        parts=parts,
    )


def _combine_verdicts(verdicts: Iterable[ClaimVerdict]) -> ClaimVerdict:
    distinct = set(verdicts)
    if "contradicted" in distinct:
        return "contradicted"
    return "confirmed" if distinct == {"confirmed"} else "cannot tell"


def _models(check: ClaimCheck) -> Iterator[Comparison]:
    for resnet, others in ((5, (1, 3)), (6, (2, 4))):
        for other in others:
            yield from check.more_accurate(resnet, other)
            yield from check.slower(other, resnet)


def _vgg(check: ClaimCheck) -> Iterator[Comparison]:
    for vgg, others in ((3, (1, 5)), (4, (2, 6))):
        for other in others:
            yield from check.slower(vgg, other, SEVERAL_TIMES)


def _adam(check: ClaimCheck) -> Iterator[Comparison]:
    for sgd, adam in ((1, 2), (3, 4), (5, 6)):
        yield from check.more_accurate(sgd, adam)

    def lead_of_sgd(sgd: MatchedPoint, adam: MatchedPoint) -> Interval:
        lowered = [accuracy - STALLED_GAP for accuracy in sgd.accuracies]
        return intervals.accuracy_difference(lowered, adam.accuracies, check.images)

    def above_guessing(vgg: MatchedPoint) -> Interval:
        return intervals.difference_from_level(vgg.accuracies, NOT_LEARNING_ACCURACY, check.images)

    stalls = f"AlexNet with Adam stalls: SGD leads by more than {STALLED_GAP:g}"
    yield from check.compare_with_level(stalls, (1, 2), lead_of_sgd)
    does_not_learn = f"VGG16 with Adam does not learn: it stays below {NOT_LEARNING_ACCURACY:g}"
    yield from check.compare_with_level(does_not_learn, (4,), above_guessing, sign=-1)


def _learning_rates(check: ClaimCheck) -> Iterator[Comparison]:
    yield from check.more_accurate(8, 9)
    yield from check.more_accurate(9, 7)
    yield from check.same_time((7, 8, 9))


def _momenta(check: ClaimCheck) -> Iterator[Comparison]:
    yield from check.more_accurate(8, 10)
    yield from check.more_accurate(8, 11)


def _batch_sizes(check: ClaimCheck) -> Iterator[Comparison]:
    yield from check.not_less_accurate(8, 12)
    yield from check.more_accurate(12, 13)
    yield from check.more_accurate(13, 14)
    for slower, faster in ((12, 8), (8, 13), (13, 14)):
        yield from check.slower(slower, faster)


def _first_epochs(check: ClaimCheck) -> Iterator[Comparison]:
    def above_share_of_best(matched: MatchedPoint) -> Interval | None:
        first = matched.first_accuracies
        shares = [FIRST_EPOCH_SHARE * accuracy for accuracy in matched.accuracies]
        return intervals.accuracy_difference(first, shares, check.images) if first else None

    for number in (1, 3, 5):
        name = check.point_name(number)
        statement = f"{name} has more than {FIRST_EPOCH_SHARE:.0%} of its best accuracy after epoch 1"
        yield from check.compare_with_level(statement, (number,), above_share_of_best)


# For each conclusion: what makes its comparisons, the points that they use, and how to name a point.
_CHECKS: Mapping[int, tuple[Callable[[ClaimCheck], Iterator[Comparison]], Sequence[int], str]] = {
    1: (_models, range(1, 7), "{model} with {optimizer}"),
    2: (_vgg, range(1, 7), "{model} with {optimizer}"),
    3: (_adam, range(1, 7), "{model} with {optimizer}"),
    4: (_learning_rates, facts.LEARNING_RATE_POINTS, "learning rate {lr:g}"),
    5: (_momenta, facts.MOMENTUM_POINTS, "momentum {momentum:g}"),
    6: (_batch_sizes, facts.BATCH_SIZE_POINTS, "batch size {batch_size}"),
    7: (_first_epochs, (1, 3, 5), "{model} with {optimizer}"),
}
