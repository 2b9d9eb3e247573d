"""Whether a value is better than what guessing gives, in words."""

from hpo.analysis import intervals
from hpo.analysis.intervals import Interval
from hpo.training.metric import Metric


def describe_guessing(metric: Metric, baseline: float) -> str:
    """Return the value that guessing gives, as a phrase."""
    how = "always answering with the largest class" if metric.name == "accuracy" else "guessing"
    return f"{baseline:.4f}, which {how} gives"


def compare_baseline(
    metric: Metric,
    value: float,
    baseline: float | None,
    images: int | None,
    interval: Interval | None = None,
) -> str:
    """Return a phrase if a value does not beat guessing, or only by what may be luck; else "".

    Args:
        metric: What the value is of.
        value: The value of a run, or the mean of several seeds.
        baseline: What guessing gives; None if unknown.
        images: The number of images that it was measured on; None if unknown.
        interval: The 95 % interval of a mean of several seeds; None if unknown.
    """
    if baseline is None:
        return ""
    gives = describe_guessing(metric, baseline)
    beyond = "below" if metric.is_minimized else "above"
    if metric.score(value) <= metric.score(baseline):
        return f"not {beyond} {gives}"
    found = interval, intervals.images_interval(metric, value, images)
    is_doubtful = any(each is not None and each.low <= baseline <= each.high for each in found)
    return f"not clearly {beyond} {gives}" if is_doubtful else ""
