"""Simulated studies in virtual time: workers that train curves, and a clock of virtual seconds.

An epoch of a trial lasts as many virtual seconds as the trial's curve says (the seconds of its whole
training, divided by its epochs); everything else takes no time. The simulation is a queue of events, one
for each running trial: the end of its current epoch. At each event, the epoch's value is reported, and the
trial continues, pauses or ends. A worker that becomes idle takes the next trial at once.
"""

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from hpo.analysis.recorded_curves import Curve, CurveSource


@dataclass(frozen=True, kw_only=True)
class EpochEnd:
    """The end of an epoch in a simulated study."""

    epochs: int  # of all trials together
    seconds: float  # virtual
    trial: int  # its number
    epoch: int  # of the trial, from 1


@dataclass(frozen=True, kw_only=True)
class BestSoFar:
    """The best that a simulated study has found by the end of an epoch."""

    epochs: int  # of all trials together
    seconds: float  # virtual
    value: float  # the best so far
    curve: Curve  # of the trial with this value


@dataclass(kw_only=True)
class SimulatedTrial:
    """A trial of a simulated study, with the epochs that it has run."""

    number: int
    curve: Curve
    epoch: int = 0

    @property
    def epoch_seconds(self) -> float:
        """The virtual seconds of each of its epochs."""
        return self.curve.total_seconds / len(self.curve.values)


Trial = TypeVar("Trial", bound=SimulatedTrial)


class VirtualStudy(ABC, Generic[Trial]):
    """One simulated study; ``run`` or ``epoch_ends`` simulates it, once.

    Args:
        known: Gives the curve of each setting.
        workers: How many trials run at the same time.
        max_epochs: The budget: epochs of all trials together.
    """

    def __init__(self, known: CurveSource, *, workers: int, max_epochs: int) -> None:
        self.known, self.workers, self.max_epochs = known, workers, max_epochs

    @abstractmethod
    def next_trial(self, *, last: bool) -> Trial | None:
        """Return the trial that an idle worker takes, new or paused before; None if there is none.

        Args:
            last: Whether no other worker runs a trial, so that none can be waited for.
        """

    @abstractmethod
    def report_epoch(self, current: Trial) -> bool:
        """Report the epoch that a trial has just run; return whether the trial continues."""

    def run(self) -> Iterator[BestSoFar]:
        """Simulate a study with one objective.

        Yields:
            The best so far, at the end of each epoch.
        """
        metric = self.known.recorded.metric
        best_score, best_curve = -math.inf, self.known.recorded.curves[0]
        for end, trial in self._ends():
            score = metric.score(trial.curve.values[end.epoch - 1])
            if score > best_score:
                best_score, best_curve = score, trial.curve
            yield BestSoFar(
                epochs=end.epochs, seconds=end.seconds, value=metric.score(best_score), curve=best_curve
            )

    def epoch_ends(self) -> Iterator[EpochEnd]:
        """Simulate the study.

        Yields:
            The end of each epoch, once it is reported, until the budget is used up or no trial is left.
        """
        return (end for end, _ in self._ends())

    def _ends(self) -> Iterator[tuple[EpochEnd, Trial]]:
        """Simulate the study, and yield the end of each epoch with its trial."""
        epoch_ends: list[tuple[float, int]] = []  # a heap of virtual times, each with a worker
        running: dict[int, Trial] = {}
        idle = list(range(self.workers))
        now = 0.0
        for used in range(1, self.max_epochs + 1):
            while idle and (taken := self.next_trial(last=not running)) is not None:
                worker = idle.pop(0)
                running[worker] = taken
                heapq.heappush(epoch_ends, (now + taken.epoch_seconds, worker))
            if not epoch_ends:
                return
            now, worker = heapq.heappop(epoch_ends)
            current = running[worker]
            current.epoch += 1
            continues = self.report_epoch(current)
            yield EpochEnd(epochs=used, seconds=now, trial=current.number, epoch=current.epoch), current
            if continues:
                heapq.heappush(epoch_ends, (now + current.epoch_seconds, worker))
            else:
                del running[worker]
                idle.append(worker)
