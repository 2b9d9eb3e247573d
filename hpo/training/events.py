"""What happens to a trial, as records: its epochs, and the events that a worker yields.

This module imports nothing heavy, so that a process which only displays events starts at once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpo.training.metric import METRICS, Metric


class Diverged(Exception):
    """The loss of a trial is no longer a finite number; the message says at which epoch and step."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The measurements of one epoch.

    The fields are stored in checkpoints and written to a trial's CSV file under these names.
    """

    number: int  # from 1
    value: float | None  # what trials are compared by, after the epoch; None: not measured
    accuracy: float | None = None  # fraction of the selection split; None: not measured, or no such thing
    train_seconds: float
    evaluation_seconds: float = 0.0
    # A custom objective does not report the following fields.
    train_loss: float | None = None  # mean over the epoch's training images
    # Fraction, measured while training; of mixed images the label with the larger share counts.
    train_accuracy: float | None = None
    loss: float | None = None  # mean over the selection split, after the epoch
    lr: float | None = None  # learning rate of the epoch's first step
    images_per_second: float | None = None  # training only
    # On the selection split, after the epoch; see ``evaluation.Metrics``. None: not measured, or undefined.
    balanced_accuracy: float | None = None
    f1: float | None = None
    auroc: float | None = None
    top5_accuracy: float | None = None
    own_metrics: Mapping[str, float] = field(default_factory=dict)  # of a custom objective, by name

    @property
    def seconds(self) -> float:
        """Training and evaluation time together."""
        return self.train_seconds + self.evaluation_seconds


def restore_epoch(stored: Mapping[str, Any]) -> Epoch:
    """Return an epoch from its fields in a checkpoint; in older ones the accuracy is the value."""
    return Epoch(**{"value": stored.get("accuracy"), **stored})


def best_epoch(history: Sequence[Epoch], metric: Metric) -> Epoch:
    """Return the first epoch with the best value, or the last epoch if none was measured.

    Args:
        history: At least one epoch.
        metric: What the values are of.
    """
    measured = [(metric.score(epoch.value), epoch) for epoch in history if epoch.value is not None]
    return max(measured, key=lambda pair: pair[0])[1] if measured else history[-1]


def stops_early(
    values: Mapping[int, float | None], metric: Metric, *, patience: int | None, epochs: int
) -> bool:
    """Return whether a trial ends before its last epoch, since no value was better for long enough.

    Args:
        values: The value after each epoch so far, from 1; None where none was measured.
        metric: What they are of.
        patience: The number of epochs without a better value; None: a trial never stops early.
        epochs: The planned number of epochs.
    """
    scores = {epoch: metric.score(value) for epoch, value in values.items() if value is not None}
    if patience is None or not scores or len(values) >= epochs:
        return False
    best = min(scores, key=lambda epoch: (-scores[epoch], epoch))
    return max(values) - best >= patience


def other_metrics(history: Sequence[Epoch], metric: Metric) -> dict[str, list[float | None]]:
    """Return the metrics besides the trial's value by name: one value of each epoch, to six decimals.

    A value is None where the epoch did not measure it, or where it is not finite. A metric that no epoch
    measured is left out.

    Args:
        history: The epochs of a trial.
        metric: What their values are of.
    """
    others = [name for name in METRICS if name != metric.name]
    values = {name: [_rounded(getattr(epoch, name)) for epoch in history] for name in others}
    own = dict.fromkeys(name for epoch in history for name in epoch.own_metrics)
    values |= {name: [_rounded(epoch.own_metrics.get(name)) for epoch in history] for name in own}
    return {name: each for name, each in values.items() if any(value is not None for value in each)}


def _rounded(value: float | None) -> float | None:
    return round(value, 6) if value is not None and math.isfinite(value) else None


@dataclass(frozen=True, kw_only=True)
class DataLoaded:
    """The first trial of a study has loaded its images."""

    summary: str  # one line


@dataclass(frozen=True, kw_only=True)
class TrialStarted:
    """A worker has started or resumed a trial."""

    trial: int
    attempt: int
    params: Mapping[str, Any]
    epochs: int  # at most
    epochs_done: int  # by earlier attempts


@dataclass(frozen=True, kw_only=True)
class EpochReported:
    """An epoch has ended; its report is being written to the store."""

    trial: int
    epoch: Epoch
    epochs: int  # at most, of the trial
    metric: str  # the name of its value, such as "accuracy" or "test accuracy"


@dataclass(frozen=True, kw_only=True)
class TrialEnded:
    """A trial has ended, or its worker has left it to another one."""

    trial: int
    state: str  # complete, pruned, failed, removed; left to another worker: paused, released, lost
    value: float | None = None  # None: the trial has none, or failed, or was left
    metric: str = "accuracy"  # the name of the value
    reason: str = ""  # why it did not complete, or did so before its last epoch


TrialEvent = DataLoaded | TrialStarted | EpochReported | TrialEnded
