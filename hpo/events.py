"""What happens to a trial, as records: epochs, and the events that a worker gives one after another.

Imports nothing heavy, so that whoever only shows events starts at once.
"""

from dataclasses import dataclass

from hpo.config import Config


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch came to."""

    number: int  # from 1
    train_loss: float  # mean over the epoch's training images
    train_accuracy: float  # fraction, measured while training
    loss: float  # mean over the selection split, after the epoch
    accuracy: float  # fraction of the selection split, after the epoch
    lr: float  # learning rate of the epoch's first step
    train_seconds: float
    evaluation_seconds: float
    images_per_second: float  # training alone

    @property
    def seconds(self) -> float:
        """Training and evaluation together."""
        return self.train_seconds + self.evaluation_seconds


@dataclass(frozen=True, kw_only=True)
class Started:
    """A trial was taken up."""

    trial: int
    attempt: int
    config: Config
    done: int  # epochs that earlier attempts have done


@dataclass(frozen=True, kw_only=True)
class Reported:
    """An epoch is over, and committed."""

    trial: int
    epoch: Epoch
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A trial is over, or left to another."""

    trial: int
    state: str  # complete, pruned, failed; released, lost
    accuracy: float | None
    reason: str = ""


Event = Started | Reported | Ended
