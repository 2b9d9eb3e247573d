"""Workers that use the store without training, and measure their calls: hpo's and plain Optuna's."""

import concurrent.futures
import contextlib
import functools
import os
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import TrialState

from benchmarks import store
from benchmarks.store import accuracy, commit_report
from benchmarks.synthetic_trials import EPOCHS, SPACE
from hpo.store import lease, process, studies
from hpo.store.history import History
from hpo.study import space
from hpo.training.metric import METRICS
from hpo.workers import pruning, worker
from hpo.workers.setting import choose_setting

KINDS = ("ask", "report", "end")  # of calls


class WindowOverError(Exception):
    """The window is over."""


@dataclass
class Clock:
    """A worker's window, which begins for all workers at the same time, and the times of its calls."""

    barrier: Any
    seconds: float
    pace: float | None  # seconds from one report to the next
    phase: float  # share of the pace by which this worker starts later
    warm_up_epochs: int  # before the window
    end: float = float("-inf")
    due: float = 0.0
    calls: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    processor_seconds: float = 0.0  # of this process, within the window
    statements: int = 0  # that this process sends within the window

    @contextlib.contextmanager
    def call(self, kind: str) -> Iterator[None]:
        """Note the time of a call that ends within the window."""
        begun = time.monotonic()
        yield
        done = time.monotonic()
        if done <= self.end:
            self.calls[kind].append(done - begun)

    def count_statement(self, *_: object) -> None:
        """Count a statement that is sent within the window."""
        self.statements += time.monotonic() <= self.end

    def epoch(self) -> None:
        """Wait as long as an epoch takes; before the window's first epoch, wait for all workers.

        Raises:
            WindowOverError: When the window has ended.
        """
        self.warm_up_epochs -= 1
        if self.warm_up_epochs >= 0:
            return
        if self.end < 0:
            self.barrier.wait()
            self.due = time.monotonic() + (self.pace or 0.0) * self.phase
            self.end = time.monotonic() + self.seconds
            self.processor_seconds = -time.process_time()
        if self.pace is not None:
            time.sleep(max(min(self.due, self.end) - time.monotonic(), 0.0))
            self.due += self.pace
        if time.monotonic() >= self.end:
            self.processor_seconds += time.process_time()
            raise WindowOverError


class HpoWorker:
    """A worker's trials, as far as they use the store."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        self.storage = studies.open_storage(url, create=False)
        self.history = History(
            self.storage, studies.find_study_id(self.storage, "hpo"), "hpo", METRICS["accuracy"]
        )
        self.owner, self.clock = process.current_owner("cpu"), clock or Clock(None, 0.0, None, 0.0, 0)

    @contextlib.contextmanager
    def ask(self) -> Iterator[tuple[lease.Claim, pruning.TrialPruner]]:
        """Claim a trial, get its parameters, and keep its lease; yield the claim and its pruner."""
        definition = studies.read_definition(self.storage, "hpo")
        self.history.follow(definition)
        claim = worker.claim_next(self.storage, self.history, self.owner, 60.0, definition)
        assert claim is not None
        with lease.keep_lease(claim):
            _, _, study = choose_setting(claim, self.history, definition)
            yield claim, pruning.TrialPruner(study, self.history, definition)

    def report(self, claim: lease.Claim, pruner: pruning.TrialPruner, epoch: int) -> None:
        """Report an epoch; a trial that is pruned continues, and notes that it has passed this rung."""
        try:
            commit_report(claim, pruner, epoch)
        except pruning.TrialPrunedByRule as pruned:
            self.history.own_trial.system_attrs.update(pruned.attributes)

    def run_trial(self) -> None:
        """Run a trial."""
        clock = self.clock
        with contextlib.ExitStack() as stack:
            with clock.call("ask"):
                claim, pruner = stack.enter_context(self.ask())
            for epoch in range(1, EPOCHS + 1):
                clock.epoch()
                with clock.call("report"):
                    self.report(claim, pruner, epoch)
            with clock.call("end"):
                claim.end(TrialState.COMPLETE, value=accuracy(claim.number, EPOCHS), forget_checkpoint=True)


class PlainWorker:
    """Plain Optuna's trials."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.clock = clock
        self.study = optuna.load_study(
            study_name="plain",
            storage=url,
            sampler=optuna.samplers.TPESampler(seed=os.getpid()),
            pruner=optuna.pruners.HyperbandPruner(1, EPOCHS, 3),
        )

    def run_trial(self) -> None:
        """Run a trial."""
        clock = self.clock
        with clock.call("ask"):
            trial = self.study.ask()
            for parameter in SPACE:
                space.suggest_value(trial, parameter)
        for epoch in range(1, EPOCHS + 1):
            clock.epoch()
            with clock.call("report"):
                trial.report(accuracy(trial.number, epoch), epoch)
                if epoch < EPOCHS:
                    trial.should_prune()
        with clock.call("end"):
            self.study.tell(trial, accuracy(trial.number, EPOCHS))


# What makes a peer's study, and what runs its trials.
PEERS: dict[str, Any] = {
    "plain": (store.PlainTrials, PlainWorker),
    "hpo": (store.HpoTrials, HpoWorker),
}


def run_workers(peer: str, url: str, clocks: list[Clock], answer: Any) -> None:
    """Run workers, each in a thread, until the window ends, and send what their clocks have noted.

    Args:
        peer: Key of ``PEERS``.
        url: The database, or a pooler in front of it.
        clocks: The window, as each worker notes it. The processor time in each is that of the process; the
            first one has the statements of all.
        answer: Connection that receives a record for each worker, or texts of errors.
    """
    sa.event.listen(sa.Engine, "before_cursor_execute", clocks[0].count_statement)
    with concurrent.futures.ThreadPoolExecutor(len(clocks)) as pool:
        answer.send(list(pool.map(functools.partial(_run_worker, peer, url), clocks)))
    os._exit(0)  # an unfinished trial is left as after a kill


def _run_worker(peer: str, url: str, clock: Clock) -> dict[str, Any] | str:
    try:
        worker_ = PEERS[peer][1](url, clock)
        with contextlib.suppress(WindowOverError):
            while True:
                worker_.run_trial()
    except BaseException:
        clock.barrier.abort()
        return traceback.format_exc()
    return {**clock.calls, "processor_seconds": clock.processor_seconds, "statements": clock.statements}
