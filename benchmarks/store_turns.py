"""Compare what a report costs among many workers with what it costs among 4: processor time and statements.

The workers of each study take turns within this process: each in turn claims a trial with asha or hyperband
and TPE, reports nine epochs, and ends it. So no worker waits for a core or loses its caches to another one,
as with processes on few cores (``store_load``), and what is measured is what a worker does for the others'
sake. A report has its share of claims and ends. The studies have 400 ended trials, more than a sampler
looks at. Before the first round each worker of the largest study runs twelve more, since only then its
driver and the server have prepared its statements; the other studies' workers together run as many, so
that all have the same mix of trials. The server belongs to the run and has default settings. Rounds of 4
and of 64 workers alternate, or of the numbers that ``--workers`` gives; figures are medians over the
rounds.

Run it with ``make bench-load``, or ``python -m benchmarks.store_turns``.
"""

import argparse
import contextlib
import gc
import json
import statistics
import time
from collections.abc import Generator, Sequence
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import TrialState

from benchmarks import store, store_load
from benchmarks.postgres_server import Server
from benchmarks.store import PrunerName, accuracy
from benchmarks.store_workers import HpoWorker
from benchmarks.synthetic_trials import EPOCHS, pruned_trials
from tests.support import postgres

ENDED, REPORTS = 400, 320  # trials at the beginning; reports of all workers together in a round
WARM_UP = 12  # trials of each worker of the largest study: Postgres keeps a plan from the eleventh run on
COSTS = ("worker ms", "server ms", "statements")


def reports(worker: HpoWorker, first_epoch: int) -> Generator[None]:
    """Run trials and stop before each report; of the first trial only from an epoch on.

    Args:
        worker: The worker.
        first_epoch: Where it stops first, so that workers are at different epochs.
    """
    while True:
        with worker.ask() as (claim, pruner):
            for epoch in range(1, EPOCHS + 1):
                if epoch >= first_epoch:
                    yield
                worker.report(claim, pruner, epoch)
            value = accuracy(claim.number, EPOCHS)
            claim.end(TrialState.COMPLETE, value=value, forget_checkpoint=True)
        first_epoch = 1


class Crowd:
    """A study and its workers, which take turns."""

    def __init__(
        self, stack: contextlib.ExitStack, cluster: str, pruner: PrunerName, size: int, warm_up: int
    ) -> None:
        make_trials = store_load.paused_trials if pruner == "asha" else pruned_trials

        def make(url: str) -> store.HpoTrials:
            return store.HpoTrials(url, ENDED, store_load.WAITING + warm_up, pruner, make_trials)

        url = stack.enter_context(store_load.prepared_database(cluster, make))
        self.statements, self.server = 0, Server(url)
        self.costs: dict[str, list[float]] = {name: [] for name in COSTS}
        workers = [HpoWorker(url) for _ in range(size)]
        for worker in workers:
            stack.callback(worker.storage.engine.dispose)
            sa.event.listen(worker.storage.engine, "before_cursor_execute", self._count)
        self._turns = [reports(each, 1 + 2 * index % EPOCHS) for index, each in enumerate(workers)]
        for turn in self._turns:
            stack.callback(turn.close)
        self._take_turns(warm_up // size * EPOCHS + 1)

    def _count(self, *_: object) -> None:
        self.statements += 1

    def _take_turns(self, count: int) -> None:
        for _ in range(count):
            for turn in self._turns:
                next(turn)

    def measure(self) -> None:
        """Run a round, and note what a report has cost."""
        count = max(REPORTS // len(self._turns), 2)
        before = time.process_time(), self.server.cpu_seconds(), self.statements
        self._take_turns(count)
        after = time.process_time(), self.server.cpu_seconds(), self.statements
        for name, factor, begun, ended in zip(COSTS, (1e3, 1e3, 1), before, after, strict=True):
            self.costs[name].append(factor * (ended - begun) / (count * len(self._turns)))


def compare(cluster: str, pruner: PrunerName, sizes: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Return what a report costs among each number of workers, and its ratio to that among the first."""
    with contextlib.ExitStack() as stack:
        warm_up = WARM_UP * max(sizes)
        crowds = [Crowd(stack, cluster, pruner, size, warm_up) for size in sizes]
        gc.collect()
        gc.freeze()  # else each collection looks at the trials of all workers, as in no worker's process
        for _ in range(rounds):
            for crowd in crowds:
                crowd.measure()
    return [
        {
            "pruner": pruner,
            "workers": size,
            **{name: statistics.median(crowd.costs[name]) for name in COSTS},
            "ratios": {
                name: statistics.median(
                    many / few for few, many in zip(crowds[0].costs[name], crowd.costs[name], strict=True)
                )
                for name in COSTS
            },
        }
        for size, crowd in zip(sizes, crowds, strict=True)
    ]


def main() -> None:
    """Measure both pruners, and print a line for each cost and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=7, help="rounds, each of 320 reports or two per worker"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 64], help="numbers to compare")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruners: tuple[PrunerName, ...] = ("hyperband", "asha")
    with postgres.server(max_connections=str(sum(given.workers) + 20)) as cluster:
        found = [row for each in pruners for row in compare(cluster, each, given.workers, given.rounds)]
    for row in found:
        costs = ", ".join(f"{name} {row[name]:.2f} ({row['ratios'][name]:.2f})" for name in COSTS)
        print(f"{row['pruner']} among {row['workers']} workers, per report (ratio): {costs}")
    print(json.dumps({"benchmark": "store_turns", "rows": found}))


if __name__ == "__main__":
    main()
