"""A study of another tool, simulated in virtual time: what ``hpo.analysis.simulation`` does with hpo's own.

The other tool decides what to train and when to stop. It is asked through ``PeerScheduler``.
"""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from hpo.analysis.recorded_curves import Curve
from hpo.analysis.simulation import BestSoFar, EpochEnd
from hpo.analysis.surrogate import Surrogate
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


class PeerSimulation:
    """One simulated study of another tool; ``run`` or ``epoch_ends`` simulates it, once.

    Args:
        known: Gives the curve of each setting.
        scheduler: Chooses the settings and stops trials.
        workers: How many trials run at the same time.
        max_epochs: The budget: epochs of all trials together.
    """

    def __init__(
        self, known: Surrogate, scheduler: PeerScheduler, *, workers: int, max_epochs: int
    ) -> None:
        self.known, self.scheduler, self.workers = known, scheduler, workers
        self.max_epochs = max_epochs
        self.curves: dict[int, Curve] = {}  # by the number of the trial, as all below
        self.epochs: dict[int, int] = {}  # trained so far
        self.losses: dict[int, float] = {}  # the lowest so far

    def run(self) -> Iterator[BestSoFar]:
        """Simulate the study.

        Yields:
            The best so far, at the end of each epoch.
        """
        metric = self.known.recorded.metric
        best_score, best_curve = -math.inf, self.known.recorded.curves[0]
        for end in self.epoch_ends():
            curve = self.curves[end.trial]
            score = metric.score(curve.values[end.epoch - 1])
            if score > best_score:
                best_score, best_curve = score, curve
            yield BestSoFar(
                epochs=end.epochs, seconds=end.seconds, value=metric.score(best_score), curve=best_curve
            )

    def epoch_ends(self) -> Iterator[EpochEnd]:
        """Simulate the study.

        Yields:
            The end of each epoch, once it is reported, until the budget is used up or no trial is left.
        """
        ends: list[tuple[float, int]] = []  # a heap of virtual times, each with a worker
        running: dict[int, int] = {}  # worker -> trial
        idle = list(range(self.workers))
        now = 0.0
        for used in range(1, self.max_epochs + 1):
            while idle and (job := self.scheduler.next_job()) is not None:
                worker = idle.pop(0)
                running[worker] = self._start(job)
                heapq.heappush(ends, (now + self._epoch_seconds(job.trial), worker))
            if not ends:
                return
            now, worker = heapq.heappop(ends)
            trial = running[worker]
            continues = self._report_epoch(trial)
            yield EpochEnd(epochs=used, seconds=now, trial=trial, epoch=self.epochs[trial])
            if continues:
                heapq.heappush(ends, (now + self._epoch_seconds(trial), worker))
            else:
                del running[worker]
                idle.append(worker)

    def _start(self, job: Job) -> int:
        """Start a trial, or let it continue, and return its number."""
        if job.trial not in self.curves:
            self.curves[job.trial] = self.known.predict_curve(job.setting)
            self.epochs[job.trial], self.losses[job.trial] = 0, math.inf
        assert self.epochs[job.trial] < len(self.curves[job.trial].values), "all its epochs have run"
        return job.trial

    def _report_epoch(self, trial: int) -> bool:
        """Report the trial's next epoch, and return whether the trial continues."""
        self.epochs[trial] += 1
        epoch, curve = self.epochs[trial], self.curves[trial]
        loss = -self.known.recorded.metric.score(curve.values[epoch - 1])
        self.losses[trial] = min(self.losses[trial], loss)
        return self.scheduler.report(trial, epoch, self.losses[trial]) and epoch < len(curve.values)

    def _epoch_seconds(self, trial: int) -> float:
        return self.curves[trial].total_seconds / len(self.curves[trial].values)
