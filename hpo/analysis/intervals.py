"""How sure a figure is: intervals of fractions, of means, and of the gap between two figures.

A gap between single runs says nothing about what another seed would give; all that is known of its error is
what the number of images, or the spread of the epochs' times, makes of it. Gaps below that count as small.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scipy import stats

Z = 1.96  # of a 95 % interval
TIME_DRIFT = 0.05  # share of a time that one machine's runs drift apart by themselves
MIN_TIME_SPREAD = 0.01  # share of a time below which two runs' agreement is luck


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure with its 95 % interval and how that was told."""

    value: float
    low: float
    high: float
    how: str

    @property
    def sign(self) -> int:
        """1 where the whole interval lies above zero, -1 where below, 0 where zero is in it."""
        return (self.low > 0) - (self.high < 0)


def fraction_interval(value: float, images: int) -> Interval:
    """Give the Wilson interval of an accuracy that was measured on so many images."""
    found = stats.binomtest(round(value * images), images).proportion_ci(method="wilson")
    return Interval(value=value, low=found.low, high=found.high, how=f"Wilson, {images} images")


def mean_interval(values: Sequence[float], least: float = 0.0) -> Interval:
    """Give the t interval of a mean of two values or more; their spread counts as ``least`` at least."""
    mean, count = statistics.fmean(values), len(values)
    half = _t_quantile(count - 1) * max(statistics.stdev(values), least) / math.sqrt(count)
    return Interval(value=mean, low=mean - half, high=mean + half, how=f"over {count} runs")


def accuracy_step(images: int | None) -> float:
    """Give what two accuracies on so many images differ by, where they are not the same by luck."""
    return 1 / images if images else 0.0


def accuracy_interval(values: Sequence[float], images: int | None) -> Interval:
    """Give the interval of a mean accuracy on so many images; no further than an accuracy can be."""
    found = mean_interval(values, accuracy_step(images))
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0)) if images else found


def median_interval(values: Sequence[float]) -> Interval:
    """Give the median of values with the interval that their order statistics make (Conover 1999, 3.2)."""
    ranked, count = sorted(values), len(values)
    out = int(stats.binom.ppf(0.025, count, 0.5))  # values that lie outside, on each side
    low, high = ranked[max(out - 1, 0)], ranked[min(count - out, count - 1)]
    return Interval(value=statistics.median(ranked), low=low, high=high, how=f"over {count} repeats")


def paired_difference(pairs: Sequence[tuple[float, float]], least: float = 0.0) -> Interval:
    """Give the t interval of how much higher the first of each pair is, over two pairs or more."""
    found = mean_interval([first - second for first, second in pairs], least)
    return replace(found, how=f"95 % over {len(pairs)} seeds, paired")


def seed_noise_bound(deviation: float, freedom: int) -> float:
    """Give the gap between two single runs below which seeds alone may have made it (95 %)."""
    return _t_quantile(freedom) * math.sqrt(2) * deviation


def image_noise_bound(a: float, b: float, images: int | None) -> float:
    """Give the gap between two accuracies below which so many images cannot tell them apart."""
    if images is None:
        return math.inf
    return Z * math.sqrt((_variance(a) + _variance(b)) / images)


def _variance(accuracy: float) -> float:
    return max(accuracy * (1 - accuracy), 0.0)


def accuracy_difference(a: Sequence[float], b: Sequence[float], images: int | None) -> Interval:
    """Give how much higher the accuracies ``a`` are than ``b``, one of each per seed."""
    if min(len(a), len(b)) > 1:
        return _welch_difference(a, b, accuracy_step(images), "seeds")
    bound = image_noise_bound(statistics.fmean(a), statistics.fmean(b), images)
    return _single_run_difference(a, b, bound, "unknown" if math.isinf(bound) else f"{bound:.4f}")


def difference_from_level(a: Sequence[float], level: float, images: int | None) -> Interval:
    """Give how much higher the accuracies are than a fixed level."""
    if len(a) > 1:
        mean = mean_interval(a, accuracy_step(images))
        low, high = mean.low - level, mean.high - level
        return Interval(value=mean.value - level, low=low, high=high, how=f"95 % over {len(a)} seeds")
    bound = image_noise_bound(a[0], 1.0, images)
    return _single_run_difference(a, [level], bound, "unknown" if math.isinf(bound) else f"{bound:.4f}")


def seconds_difference(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Interval:
    """Give how much longer an epoch of runs ``a`` takes than of ``b``; a run is its epochs' seconds.

    Between single runs a gap is small below 5 % of the longer, or below twice the spread of their epochs.
    """
    means = [[statistics.fmean(run) for run in runs] for runs in (a, b)]
    longest = max(map(statistics.fmean, means))
    if min(len(a), len(b)) > 1:
        return _welch_difference(means[0], means[1], MIN_TIME_SPREAD * longest, "runs")
    bound = max(TIME_DRIFT * longest, 2 * math.hypot(_epoch_spread(a), _epoch_spread(b)))
    return _single_run_difference(means[0], means[1], bound, f"{bound:.3g} s")


def _epoch_spread(runs: Sequence[Sequence[float]]) -> float:
    return max((statistics.stdev(run) for run in runs if len(run) > 1), default=0.0)


def _single_run_difference(a: Sequence[float], b: Sequence[float], bound: float, said: str) -> Interval:
    gap = statistics.fmean(a) - statistics.fmean(b)
    how = f"one run each; gaps below {said} count as small"
    if math.isinf(bound):
        how = "one run each, on a number of images that the store does not tell"
    return Interval(value=gap, low=gap - bound, high=gap + bound, how=how)


def _welch_difference(a: Sequence[float], b: Sequence[float], least: float, what: str) -> Interval:
    """Give Welch's interval of the difference of two means."""
    gap = statistics.fmean(a) - statistics.fmean(b)
    parts = [max(statistics.stdev(values), least) ** 2 / len(values) for values in (a, b)]
    error = math.sqrt(sum(parts))
    freedom = (
        error**4 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (a, b), strict=True)) if error else 1
    )
    half = _t_quantile(freedom) * error
    how = f"95 % over {len(a)} and {len(b)} {what}"
    return Interval(value=gap, low=gap - half, high=gap + half, how=how)


def _t_quantile(freedom: float) -> float:
    return float(stats.t.ppf(0.975, freedom))
