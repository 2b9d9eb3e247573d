"""What the trials of a study are compared by: a metric, and whether higher or lower values are better."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

TOP = 5  # classes that ``top5_accuracy`` accepts


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What the trials of a study are compared by.

    Attributes:
        name: Its name, which Optuna's tools show.
        is_minimized: Whether lower values are better.
        limits: The least and the largest value that it can have.
        counts_images: Whether a value is a fraction of images, whose error is a binomial one.
    """

    name: str
    is_minimized: bool = False
    limits: tuple[float, float] = (0.0, 1.0)
    counts_images: bool = False

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """The direction as Optuna names it: ``maximize`` or ``minimize``."""
        return "minimize" if self.is_minimized else "maximize"

    @property
    def label(self) -> str:
        """The name as words: ``balanced accuracy``."""
        return self.name.replace("_", " ")

    def score(self, value: float) -> float:
        """Return the value with the sign with which higher is better."""
        return -value if self.is_minimized else value

    def best(self, values: Iterable[float], default: float | None = None) -> float | None:
        """Return the best of some values; ``default`` if there is none."""
        return max(values, key=self.score, default=default)


# The metrics of built-in training, by name; see ``evaluation.Metrics`` for what they are.
METRICS = {
    each.name: each
    for each in (
        Metric(name="accuracy", counts_images=True),
        Metric(name="balanced_accuracy"),
        Metric(name="f1"),
        Metric(name="auroc"),
        Metric(name="top5_accuracy", counts_images=True),
        Metric(name="loss", is_minimized=True, limits=(0.0, math.inf)),
    )
}

# What else a study may compare trials by, beside a metric, by name; see ``training.costs``.
COSTS = {
    name: Metric(name=name, is_minimized=True, limits=(0.0, math.inf))
    for name in ("epoch_seconds", "parameters", "latency_ms")
}


def custom_metric(name: str, direction: str) -> Metric:
    """Return the metric of a custom objective, whose values can be any numbers and count no images.

    Args:
        name: Its name.
        direction: ``maximize`` or ``minimize``.
    """
    return Metric(name=name, is_minimized=direction == "minimize", limits=(-math.inf, math.inf))
