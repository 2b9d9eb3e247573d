"""What happens to a trial, as records: epochs, and the events that a worker gives one after another.

Imports nothing heavy, so that whoever only shows events starts at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class Diverged(Exception):
    """A trial's loss is no longer a finite number; the text says since when."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch came to."""

    number: int  # from 1
    accuracy: float | None  # fraction of the selection split, after the epoch; None: not measured
    train_seconds: float
    evaluation_seconds: float = 0.0
    # What follows a person's own objective does not tell.
    train_loss: float | None = None  # mean over the epoch's training images
    train_accuracy: float | None = None  # fraction, measured while training
    loss: float | None = None  # mean over the selection split, after the epoch
    lr: float | None = None  # learning rate of the epoch's first step
    images_per_second: float | None = None  # training alone

    @property
    def seconds(self) -> float:
        """Training and evaluation together."""
        return self.train_seconds + self.evaluation_seconds


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """Give the epoch of the best accuracy, the first of several; the last one while none is measured."""
    measured = [epoch for epoch in history if epoch.accuracy is not None]
    return max(measured, key=lambda epoch: epoch.accuracy or 0.0) if measured else history[-1]


@dataclass(frozen=True, kw_only=True)
class TrialStarted:
    """A trial was taken up."""

    trial: int
    attempt: int
    params: Mapping[str, Any]
    epochs: int  # at most
    epochs_done: int  # epochs that earlier attempts have done


@dataclass(frozen=True, kw_only=True)
class EpochReported:
    """An epoch is over; its report is on its way to the store."""

    trial: int
    epoch: Epoch
    epochs: int
    metric: str = "accuracy"  # or "test accuracy"


@dataclass(frozen=True, kw_only=True)
class TrialEnded:
    """A trial is over, or left to another."""

    trial: int
    state: str  # complete, pruned, failed; paused, released, lost
    accuracy: float | None = None
    metric: str = "accuracy"  # or "test accuracy"
    reason: str = ""


TrialEvent = TrialStarted | EpochReported | TrialEnded
