"""95 % intervals of accuracies and times, and of the difference between two of them.

With several runs, intervals come from the spread of the runs (Student's t, or Welch's t for a difference).

With single runs there is no such spread, and nothing is known of what another seed would give. Only a part
of the error is known: for an accuracy, what the number of images makes of it; for a time, the spread of the
single epochs. A difference below that bound counts as small: its interval contains zero.

No interval goes beyond what can be: an accuracy is between 0 and 1, a difference of two between -1 and 1.
Two runs tell next to nothing about their spread: to each side, Student's interval of their mean is 6.35
times as wide as they lie apart. So the mean of two has no interval, and a difference that two runs leave
open counts as unknown (``Interval.is_known``).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import scipy  # its parts are imported when they are first used

from hpo.training.metric import Metric

Z = 1.96  # quantile of the normal distribution for a 95 % interval
TIME_DRIFT = 0.05  # share by which the times of one machine's runs drift apart without a cause
MIN_TIME_SPREAD = 0.01  # share of a time; two runs that agree better than this do so by luck
MIN_RUNS = 3  # fewer have no interval of their mean
Limits = tuple[float, float]
FRACTION: Limits = (0.0, 1.0)  # what an accuracy can be
COUNTS = {2: "two", 3: "three"}
ANY: Limits = (-math.inf, math.inf)  # what the value of a custom objective can be


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its 95 % interval, and a note on how the interval was computed."""

    value: float
    low: float
    high: float
    how: str
    is_known: bool = True  # False: the limits say nothing, and ``how`` says why

    @property
    def sign(self) -> int:
        """1 if the whole interval lies above zero, -1 if it lies below, 0 if it contains zero."""
        return (self.low > 0) - (self.high < 0)


def fraction_interval(value: float, images: int) -> Interval:
    """Return the Wilson score interval of one accuracy (Wilson 1927, without continuity correction).

    Args:
        value: The accuracy, from 0 to 1.
        images: The number of images that it was measured on.
    """
    found = scipy.stats.binomtest(round(value * images), images).proportion_ci(method="wilson")
    return Interval(value=value, low=found.low, high=found.high, how=f"Wilson, {images} images")


def mean_interval(values: Sequence[float], least: float = 0.0) -> Interval:
    """Return Student's t interval of a mean: mean +- t(0.975, n - 1) * s / sqrt(n).

    Args:
        values: Two values or more.
        least: The smallest standard deviation s to assume. It keeps values that agree by luck from giving
            an interval of no width.
    """
    mean, count = statistics.fmean(values), len(values)
    half = _t_quantile(count - 1) * max(statistics.stdev(values), least) / math.sqrt(count)
    return Interval(value=mean, low=mean - half, high=mean + half, how=f"over {count} runs")


def accuracy_step(images: int | None) -> float:
    """Return the smallest difference that two accuracies can have if they are not equal: 1 / images.

    Args:
        images: The number of images that they were measured on. None if unknown: the step is then 0.
    """
    return 1 / images if images else 0.0


def least_step(metric: Metric, images: int | None) -> float:
    """Return the smallest difference of two values of a metric that are not equal; 0 if unknown.

    Args:
        metric: The metric.
        images: The number of images that the values were measured on; None if unknown.
    """
    return accuracy_step(images) if metric.counts_images else 0.0


def images_interval(metric: Metric, value: float, images: int | None) -> Interval | None:
    """Return the 95 % interval that says what other images would give; None if unknown.

    It is known only of fractions of images. For a mean over seeds it is at most a little too wide.
    """
    if images is None or not metric.counts_images or not 0 <= value <= 1:
        return None
    return fraction_interval(value, images)


def seeds_interval(values: Sequence[float], least: float, possible: Limits) -> Interval | None:
    """Return Student's t interval of a mean over seeds; None of fewer than ``MIN_RUNS`` values.

    Args:
        values: The values, one of each seed.
        least: The smallest standard deviation to assume.
        possible: The least and the largest value that there can be. The interval is cut off there.
    """
    if len(values) < MIN_RUNS:
        return None
    return _clip(mean_interval(values, least), possible)


def _clip(found: Interval, possible: Limits) -> Interval:
    return replace(found, low=max(found.low, possible[0]), high=min(found.high, possible[1]))


def _clip_difference(found: Interval, possible: Limits, runs: int) -> Interval:
    """Cut a difference off at the largest that there can be, and hide an interval that says nothing.

    Args:
        found: The difference.
        possible: The least and the largest value of either side.
        runs: On the side that has fewer.
    """
    span = possible[1] - possible[0]
    clipped = _clip(found, (-span, span))
    says_nothing = runs < MIN_RUNS or (clipped.low, clipped.high) == (-span, span)
    if clipped.sign or not says_nothing:
        return clipped
    return replace(clipped, how=f"{COUNTS.get(runs, runs)} seeds cannot tell", is_known=False)


def median_interval(values: Sequence[float]) -> Interval:
    """Return a median with its distribution-free interval.

    The limits are order statistics, chosen by the binomial distribution with p = 1/2 (Conover 1999,
    Practical Nonparametric Statistics, section 3.2). Of fewer than six values it is the whole range, which
    covers the median with less than 95 %.

    Args:
        values: One value or more, in any order.
    """
    ranked, count = sorted(values), len(values)
    outside = int(scipy.stats.binom.ppf(0.025, count, 0.5))  # rank of the lower limit; 0 below six values
    low, high = ranked[max(outside - 1, 0)], ranked[min(count - outside, count - 1)]
    return Interval(value=statistics.median(ranked), low=low, high=high, how=f"over {count} repeats")


def paired_difference(
    paired: Sequence[tuple[float, float]], least: float = 0.0, possible: Limits = FRACTION
) -> Interval:
    """Return how much higher the first of two values is, over seeds: the paired t interval.

    Args:
        paired: Two values of each seed, for two seeds or more.
        least: The smallest standard deviation of the differences to assume.
        possible: The least and the largest value that there can be.
    """
    found = mean_interval([first - second for first, second in paired], least)
    found = replace(found, how=f"95 % over {len(paired)} seeds, paired")
    return _clip_difference(found, possible, len(paired))


def seed_noise_bound(deviation: float, freedom: int) -> float:
    """Return the difference between two single runs below which seeds alone may explain it (95 %).

    It is t(0.975, freedom) * sqrt(2) * deviation: a difference of two runs has twice the variance of one.

    Args:
        deviation: The standard deviation of runs of one setting, pooled over settings.
        freedom: The degrees of freedom of that deviation, at least 1.
    """
    return _t_quantile(freedom) * math.sqrt(2) * deviation


def image_noise_bound(a: float, b: float, images: int | None) -> float:
    """Return the difference of two accuracies below which the images cannot tell them apart (95 %).

    It is 1.96 standard errors of the difference of two binomial proportions,
    sqrt((a (1 - a) + b (1 - b)) / images). It is 0 if each accuracy is 0 or 1.

    Args:
        a: An accuracy, from 0 to 1.
        b: Another accuracy.
        images: The number of images that both were measured on. None if unknown: the bound is then
            infinite.
    """
    if images is None:
        return math.inf
    return Z * math.sqrt((_binomial_variance(a) + _binomial_variance(b)) / images)


def _binomial_variance(accuracy: float) -> float:
    return max(accuracy * (1 - accuracy), 0.0)


def accuracy_difference(a: Sequence[float], b: Sequence[float], images: int | None) -> Interval:
    """Return how much higher the mean of the accuracies ``a`` is than that of ``b``.

    With two seeds or more on both sides it is Welch's interval, else the bound of ``image_noise_bound``;
    without the number of images, the latter interval is infinite.

    Args:
        a: The accuracies of one setting, one of each seed; at least one.
        b: Those of the other setting.
        images: The number of images that all were measured on; None if unknown.
    """
    runs = min(len(a), len(b))
    if runs > 1:
        return _clip_difference(_welch_difference(a, b, accuracy_step(images), "seeds"), FRACTION, runs)
    bound = image_noise_bound(statistics.fmean(a), statistics.fmean(b), images)
    return _single_run_difference(a, b, bound, "unknown" if math.isinf(bound) else f"{bound:.4f}")


def difference_from_level(a: Sequence[float], level: float, images: int | None) -> Interval:
    """Return how much higher the mean of the accuracies is than a fixed level.

    With two seeds or more it is Student's t interval of the mean; with one, the bound of
    ``image_noise_bound`` against a level that has no error of its own, or infinite without the number of
    images.

    Args:
        a: The accuracies of one setting, one of each seed; at least one.
        level: The level, from 0 to 1.
        images: The number of images that the accuracies were measured on; None if unknown.
    """
    if len(a) > 1:
        mean = mean_interval(a, accuracy_step(images))
        low, high = mean.low - level, mean.high - level
        found = Interval(value=mean.value - level, low=low, high=high, how=f"95 % over {len(a)} seeds")
        return _clip_difference(found, FRACTION, len(a))
    bound = image_noise_bound(a[0], 1.0, images)  # 1.0: a proportion without variance
    return _single_run_difference(a, [level], bound, "unknown" if math.isinf(bound) else f"{bound:.4f}")


def seconds_difference(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Interval:
    """Return how much longer an epoch of the runs ``a`` takes than one of the runs ``b``, in seconds.

    With two runs or more on both sides it is Welch's interval over the runs' means, with a standard
    deviation of at least 1 % of the longer time. Otherwise a difference counts as small below 5 % of the
    longer time, or below twice the standard deviation of the difference of two epochs, whichever is larger.

    Args:
        a: For each run, the seconds of its epochs; at least one run with at least one epoch.
        b: The same for the other setting.
    """
    means = [[statistics.fmean(run) for run in runs] for runs in (a, b)]
    longest = max(map(statistics.fmean, means))
    if min(len(a), len(b)) > 1:
        return _welch_difference(means[0], means[1], MIN_TIME_SPREAD * longest, "runs")
    bound = max(TIME_DRIFT * longest, 2 * math.hypot(_epoch_spread(a), _epoch_spread(b)))
    return _single_run_difference(means[0], means[1], bound, f"{bound:.3g} s")


def _epoch_spread(runs: Sequence[Sequence[float]]) -> float:
    """Return the largest standard deviation of the epochs' seconds within a run."""
    return max((statistics.stdev(run) for run in runs if len(run) > 1), default=0.0)


def _single_run_difference(a: Sequence[float], b: Sequence[float], bound: float, said: str) -> Interval:
    """Return the difference of two means with ``bound`` on both sides; ``said`` is the bound as text."""
    gap = statistics.fmean(a) - statistics.fmean(b)
    how = f"one run each; gaps below {said} count as small"
    if math.isinf(bound):
        how = "one run each, on a number of images that the store does not tell"
    known = math.isfinite(bound)
    return Interval(value=gap, low=gap - bound, high=gap + bound, how=how, is_known=known)


def _welch_difference(a: Sequence[float], b: Sequence[float], least: float, what: str) -> Interval:
    """Return Welch's t interval of the difference of two means.

    The degrees of freedom are those of Welch and Satterthwaite (Welch 1947). ``least`` is the smallest
    standard deviation to assume on each side.
    """
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
    """Return the 0.975 quantile of Student's t distribution."""
    return float(scipy.stats.t.ppf(0.975, freedom))
