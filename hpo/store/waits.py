"""What waits in a study, and for what: the trials that nobody runs, and the workers that have none."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from hpo.search import asha
from hpo.store import plan
from hpo.store.budgets import Budget
from hpo.store.lease_info import LeaseInfo
from hpo.store.waiting_workers import WaitingWorker


@dataclass(frozen=True, kw_only=True)
class Situation:
    """A study as far as what waits depends on it.

    Attributes:
        name: The study's name.
        trials: All its trials.
        leases: The leases of its running trials.
        waiting_workers: Its living workers without a trial.
        order: The order that it is under (``plan.ORDER_PAUSED``, ``plan.ORDER_STOPPED``), or None.
        used_up: A budget that is used up, or None.
        is_failing: Whether its first failures ended the study (``search.max_failures``).
        function: The name of an objective that only its own script or notebook can run; else empty.
    """

    name: str
    trials: Sequence[FrozenTrial]
    leases: Sequence[LeaseInfo]
    waiting_workers: Sequence[WaitingWorker]
    order: str | None
    used_up: Budget | None
    is_failing: bool
    function: str

    @property
    def living(self) -> int:
        """The number of workers that run a trial."""
        return sum(lease.is_alive for lease in self.leases)

    @property
    def interrupted(self) -> list[LeaseInfo]:
        """The leases of dead workers whose trials nobody takes over, since there is an order."""
        return [lease for lease in self.leases if self.order is not None and not lease.is_alive]

    def describe_waits(self) -> Iterator[str]:
        """Yield a phrase for everything that waits, saying what it waits for."""
        if (self.order or self.used_up) and self.living:
            yield f"{counted(self.living, 'worker')} will save at the next epoch"
        paused = sum(asha.paused_rung(trial) is not None for trial in self.trials)
        waiting = sum(trial.state == TrialState.WAITING for trial in self.trials) - paused
        if paused:
            yield f"{counted(paused, 'trial')} at a rung, to be promoted or to end there"
        if waiting:
            yield f"{counted(waiting, 'trial')} for {self._needed()}"
        if self.order == plan.ORDER_PAUSED and self.waiting_workers:
            count = counted(len(self.waiting_workers), "living worker")
            yield f"{count} for 'hpo resume {self.name}'"
        for lease in self.leases:
            if not lease.is_alive:
                what = self._resumption() if self.order else "another worker"
                yield f"trial {lease.trial} for {what}: {lease.owner} is gone, or silent for too long"
        for number in foreign_trials(self.trials, self.leases):
            yield f"trial {number} for the other tool that runs it"

    def _needed(self) -> str:
        """Return what a trial that no worker has had, or that was released, waits for."""
        if self.order is not None:
            return self._resumption()
        if self.used_up:
            return f"a larger budget: {self.used_up.advice}"
        if self.is_failing:
            return f"'hpo retry {self.name} --failed', as the first ones all failed"
        if self.living:
            return "a worker to be free"
        if self.waiting_workers:
            return f"{counted(len(self.waiting_workers), 'worker')} to take them, or to start"
        return f"workers: {self.how_to_start()}"

    def _resumption(self) -> str:
        resume = f"'hpo resume {self.name}'"
        has_workers = self.order == plan.ORDER_PAUSED and (self.living or self.waiting_workers)
        return resume if has_workers else f"{resume}, then {start_command(self.name, self.function)}"

    def how_to_start(self) -> str:
        """Return how to start workers, as a clause."""
        verb = "runs them" if self.function else "starts some"
        return f"{start_command(self.name, self.function)} {verb}"


def start_command(name: str, function: str) -> str:
    """Return what starts workers of a stored study: a command in quotes, or a call of Python.

    Args:
        name: The study.
        function: The name of an objective that only its own script or notebook can run; else empty.
    """
    return f"study.run(objective={function})" if function else f"'hpo launch {name}'"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{count} {noun}{'s' * (count != 1)}"


def foreign_trials(trials: Sequence[FrozenTrial], leases: Sequence[LeaseInfo]) -> list[int]:
    """Return the numbers of the trials that run without a lease: another tool's, which hpo leaves alone.

    Args:
        trials: All trials of a study.
        leases: The leases of its running trials.

    Returns:
        The numbers, in the order of ``trials``.
    """
    ours = {lease.trial for lease in leases}
    return [t.number for t in trials if t.state == TrialState.RUNNING and t.number not in ours]
