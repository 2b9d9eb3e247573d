"""The objectives of a study with several, and what a trial has reached in each of them.

An objective is a metric, or a cost that is always minimized: the seconds of an epoch, the number of
parameters, the latency. What a trial has reached by some epoch is one point, not the best of each objective
by itself, which no model may have. The first metric chooses its epoch:

* Metrics have their values after the best epoch so far, by the first metric.
* ``epoch_seconds`` is the mean over all epochs so far.
* ``parameters`` and ``latency_ms`` are known before the first epoch.

They come from where a trial's reports are: the first metric from its intermediate values, the others from
its user attributes, which have the objectives' names, or for metrics are in the attribute ``metrics``.
"""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from hpo.training.metric import COSTS, Metric


@dataclass(frozen=True)
class Objectives:
    """The objectives of a study, at least one of which is a metric."""

    metrics: tuple[Metric, ...]

    @functools.cached_property
    def first_metric(self) -> Metric:
        """The metric that trials report, and that chooses the epoch of the others."""
        return next(metric for metric in self.metrics if metric.name not in COSTS)

    def losses(self, trial: FrozenTrial, epoch: int) -> tuple[float, ...] | None:
        """Return what a trial has reached by an epoch.

        Args:
            trial: The trial, with its user attributes if there are several objectives.
            epoch: The number of the epoch, from 1.

        Returns:
            The loss in each objective (minus the score), infinite where it is unknown; None if the trial
            has not reported the first metric by then.
        """
        first = self.first_metric
        reached = [
            (math.inf if math.isnan(value) else -first.score(value), step)
            for step, value in trial.intermediate_values.items()
            if step <= epoch
        ]
        if not reached:
            return None
        (lowest, best), facts = min(reached), trial.user_attrs
        return tuple(
            lowest if metric is first else _loss(metric, facts, best, epoch) for metric in self.metrics
        )

    def losses_of(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return the losses of a trial with these values."""
        return tuple(-metric.score(value) for metric, value in zip(self.metrics, values, strict=True))

    def values(self, losses: Sequence[float]) -> list[float]:
        """Return losses as the values that a study shows."""
        return [metric.score(-loss) for metric, loss in zip(self.metrics, losses, strict=True)]


def _loss(metric: Metric, facts: Mapping[str, Any], best: int, last: int) -> float:
    """Return the loss in an objective from a trial's user attributes; infinite if they lack it.

    Args:
        metric: The objective.
        facts: The user attributes.
        best: The epoch of which metrics are taken.
        last: The last epoch whose seconds count.
    """
    if metric.name == "epoch_seconds":
        seconds = facts.get(metric.name, [])[:last]
        value = statistics.fmean(seconds) if seconds else None
    elif metric.name in COSTS:
        value = facts.get(metric.name)
    else:
        by_epoch = facts.get("metrics", {}).get(metric.name, [])
        value = by_epoch[best - 1] if best <= len(by_epoch) else None
    return math.inf if value is None else -metric.score(value)
