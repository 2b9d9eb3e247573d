"""A study of another tool, simulated in virtual time: what ``hpo.analysis.simulation`` does with hpo's own.

The other tool decides what to train and when to stop. It is asked through ``PeerScheduler``.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from hpo.analysis.recorded_curves import CurveSource
from hpo.analysis.virtual_time import SimulatedTrial, VirtualStudy
from hpo.study.space import Setting


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker trains until the scheduler ends it."""

    trial: int  # its number; a trial that ran before continues after its last epoch
    setting: Setting


class PeerScheduler(Protocol):
    """Another tool's search in one study; it gives numbers to its trials."""

    def next_job(self) -> Job | None:
        """Return what an idle worker trains next; None if it has to wait, or if nothing is left."""

    def report(self, trial: int, epoch: int, loss: float) -> bool:
        """Report an epoch, and return whether the worker continues the trial.

        Args:
            trial: The trial's number.
            epoch: The number of the epoch, from 1.
            loss: The lowest loss (minus the score) of the trial so far, since a trial counts with its best
                epoch.
        """


@dataclass(kw_only=True)
class _PeerTrial(SimulatedTrial):
    """A trial of another tool's study."""

    loss: float = math.inf  # the lowest so far


class PeerSimulation(VirtualStudy[_PeerTrial]):
    """One simulated study of another tool.

    Args:
        known: Gives the curve of each setting.
        scheduler: Chooses the settings and stops trials.
        workers: How many trials run at the same time.
        max_epochs: The budget: epochs of all trials together.
    """

    def __init__(
        self, known: CurveSource, scheduler: PeerScheduler, *, workers: int, max_epochs: int
    ) -> None:
        super().__init__(known, workers=workers, max_epochs=max_epochs)
        self.scheduler = scheduler
        self.trials: dict[int, _PeerTrial] = {}  # by number

    def next_trial(self, *, last: bool) -> _PeerTrial | None:
        """Return the trial of the scheduler's next job: a new one, or one that continues."""
        job = self.scheduler.next_job()
        if job is None:
            return None
        if job.trial not in self.trials:
            curve = self.known.predict_curve(job.setting)
            self.trials[job.trial] = _PeerTrial(number=job.trial, curve=curve)
        trial = self.trials[job.trial]
        assert trial.epoch < len(trial.curve.values), "all its epochs have run"
        return trial

    def report_epoch(self, current: _PeerTrial) -> bool:
        """Report the epoch that a trial has just run; return whether the trial continues."""
        loss = -self.known.recorded.metric.score(current.curve.values[current.epoch - 1])
        current.loss = min(current.loss, loss)
        continues = self.scheduler.report(current.number, current.epoch, current.loss)
        return continues and current.epoch < len(current.curve.values)
