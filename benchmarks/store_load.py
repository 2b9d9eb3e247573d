"""Measure what workers cost one Postgres: trials and reports per second, next to plain Optuna.

- *saturated*: 1, 4, 16 and 64 workers that spend no time on training, in an empty study
- *paced*: 64 workers, each with one report per second, as with epochs of one second
- *long*: 1 and 4 saturated workers in a study of 10,000 finished trials
- *ask*: one worker's claim with the sampler's proposal at 10,000 trials, compared with the same at 100;
  with hyperband, and with asha, whose paused trials every claim has to check
- with ``--pgbouncer`` (Debian's package): hpo's 64 workers again, through 20 connections; and *slow*: 512
  workers through as many, each with a report every 20 seconds, for five minutes (``--case slow`` runs this
  alone). They are threads of 64 processes, which would need too much memory otherwise.

It also says what a report costs, with its share of claims and ends: processor time of the server and of the
worker, and statements. Two cores are full from 4 workers on, so reports per second cannot tell.

``--case paced --seconds 600`` (``make soak``) runs hpo's part of one case only, for as long as you like.

Workers are processes that are forked from this one. With the code of a real worker they claim, get four
parameters from TPE, report nine epochs, ask Hyperband about each, and end. They ignore its decisions, so
that all trials have the same number of epochs. Plain Optuna does the same with ask, suggest, report,
should_prune and tell; the time of its report includes should_prune, the time of its ask includes the
suggestions. The server belongs to the run and has default settings, so that a commit waits for the disk.
It shares the machine with the workers.

Run it with ``make bench-load``, or ``python -m benchmarks.store_load``; it takes about a quarter of an hour
with ``--pgbouncer``. The last line is JSON, with the bytes by which each table has grown.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import optuna
import psycopg
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from benchmarks import store
from benchmarks.postgres_server import Server
from benchmarks.store import PrunerName
from benchmarks.store_workers import KINDS, PEERS, Clock, HpoWorker, run_workers
from benchmarks.synthetic_trials import EPOCHS, SyntheticTrial, pruned_trials
from hpo.search import asha
from tests.support import pgbouncer, postgres

FORK = multiprocessing.get_context("fork")  # 64 processes that each import torch would need 20 GB
WAITING = 2000  # waiting trials, enough for a window
ASKS = 12  # measured in each study; the studies alternate


def run_window(
    peer: str,
    url: str,
    workers: int,
    seconds: float,
    *,
    pace: float | None = None,
    through: str = "",
    threads: int = 1,
) -> dict[str, Any]:
    """Run workers on an existing study for a window, and return their figures.

    Args:
        peer: Key of ``PEERS``.
        url: The database.
        workers: Number of workers.
        seconds: Length of the window.
        pace: Seconds from one report of a worker to the next; None: no pause.
        through: URL of a pooler that the workers use; empty: none.
        threads: How many workers share a process.
    """
    barrier = FORK.Barrier(workers + 1)
    answers = []
    # The window begins after one whole trial, each worker at another epoch of its next one.
    clocks = [
        Clock(barrier, seconds, pace, index / workers, EPOCHS + index % EPOCHS) for index in range(workers)
    ]
    for first in range(0, workers, threads):
        here, there = FORK.Pipe(duplex=False)
        given = (peer, through or url, clocks[first : first + threads], there)
        FORK.Process(target=run_workers, args=given, daemon=True).start()
        answers.append(here)
    server = Server(url)
    with contextlib.suppress(Exception):
        barrier.wait(600)  # 512 workers run 6,000 reports before the window
    before, sizes, end = server.cpu_seconds(), server.table_bytes(), time.monotonic() + seconds
    sessions = []
    while time.monotonic() < end and not barrier.broken:
        sessions.append(server.sessions())
        time.sleep(0.2)
    cpu, grown = server.cpu_seconds() - before, server.table_bytes()
    results = [each for answer in answers for each in answer.recv()]
    for process in FORK.active_children():
        process.join()
    failures = [each for each in results if isinstance(each, str)]
    if failures:  # the others found the barrier broken by the one that failed
        raise RuntimeError(min(failures, key=lambda each: "BrokenBarrierError" in each))
    calls = {kind: sorted(time for each in results for time in each[kind]) for kind in KINDS}
    return {
        "peer": peer,
        "workers": workers,
        "trials/s": len(calls["end"]) / seconds,
        "reports/s": len(calls["report"]) / seconds,
        **{kind: milliseconds(calls[kind]) for kind in KINDS},
        "connections": max((count for count, _ in sessions), default=0),
        "waiting": round(statistics.fmean([waiting for _, waiting in sessions] or [0]), 2),
        "server CPU s": round(cpu, 1),
        "per report": {
            "server ms": round(1e3 * cpu / len(calls["report"]), 2),
            "worker ms": round(
                1e3 * total(results, "processor_seconds") / threads / len(calls["report"]), 2
            ),
            "statements": round(total(results, "statements") / len(calls["report"]), 2),
        },
        "grown": {name: size - sizes[name] for name, size in grown.items() if size > sizes[name]},
    }


def total(results: list[dict[str, Any]], name: str) -> float:
    """Return the sum of what the workers have noted under a name."""
    return float(sum(each[name] for each in results))


def milliseconds(times: list[float]) -> tuple[float, float] | None:
    """Return median and 95th percentile of sorted seconds, in milliseconds; None if there are none."""
    if not times:
        return None
    return round(1e3 * statistics.median(times), 1), round(1e3 * times[int(0.95 * len(times))], 1)


# Name, finished trials, seconds between reports, and the numbers of workers, which run one after the other.
CASES: tuple[tuple[str, int, float | None, tuple[int, ...]], ...] = (
    *(("saturated", 0, None, (workers,)) for workers in (1, 4, 16, 64)),
    ("paced", 0, 1.0, (64,)),
    ("long", 10_000, None, (1, 4)),
)


def run_cases(cluster: str, seconds: float, only: str | None = None) -> Iterator[dict[str, Any]]:
    """Run the cases of both peers, each on a database of its own, and yield their figures.

    Args:
        cluster: URL of the server.
        seconds: Length of a window.
        only: A case, of which only hpo's part is run; None: all cases, both peers.
    """
    for name, finished, pace, counts in CASES:
        if only not in (None, name):
            continue
        waiting = max(WAITING, int(0.2 * seconds * max(counts)))  # a trial takes nine reports
        for peer, (make, _) in PEERS.items() if only is None else [("hpo", PEERS["hpo"])]:
            with prepared_database(
                cluster, functools.partial(make, finished=finished, trials=waiting)
            ) as url:
                for workers in counts:
                    yield {"case": name, **run_window(peer, url, workers, seconds, pace=pace)}


def run_pooled(
    cluster: str, seconds: float, only: str | None = None, connections: int = 20
) -> Iterator[dict[str, Any]]:
    """Run hpo's workers through PgBouncer, with so many connections to the server."""
    cases = (("saturated", 64, None, seconds), ("paced", 64, 1.0, seconds), ("slow", 512, 20.0, 300.0))
    for name, workers, pace, window in cases:
        if only not in (None, name):
            continue
        with (
            prepared_database(cluster, lambda url: store.HpoTrials(url, 0, WAITING)) as url,
            pgbouncer.running(url, connections) as through,
        ):
            threads = workers // 64
            found = run_window("hpo", url, workers, window, pace=pace, through=through, threads=threads)
            yield {"case": f"{name}, PgBouncer", **found}


@contextlib.contextmanager
def prepared_database(cluster: str, make: Callable[[str], Any]) -> Iterator[str]:
    """Yield a database with a study in it, after ANALYZE, without open connections."""
    with postgres.database(cluster) as url:
        make(url).costs.engine.dispose()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ANALYZE")
        yield url


def paused_trials(count: int) -> list[SyntheticTrial]:
    """Return trials as asha leaves them with rungs at epochs 1 and 3, where the best third continues.

    A trial that comes too late to be promoted is pruned; the others are paused at their rung.
    """
    ranks = random.Random(0).sample(range(count), count)
    found = []
    for number, rank in enumerate(ranks):
        place = rank * number / count  # among the trials before it
        rung, left = (3, count / 9) if rank < count / 3 else (1, count / 3)
        promoted = (
            {asha.PROMOTED_PAST_RUNG: 3 if rank < count / 9 else rung // 3} if rank < count / 3 else {}
        )
        paused = {**promoted, asha.PAUSED_AT_RUNG: rung}
        gain = (count - rank) / count / 1e3
        if rank < count / 9:
            found.append(
                SyntheticTrial(state=TrialState.COMPLETE, epochs=EPOCHS, gain=gain, system=promoted)
            )
        elif place > left:
            found.append(SyntheticTrial(state=TrialState.PRUNED, epochs=rung, gain=gain, system=promoted))
        else:
            found.append(SyntheticTrial(state=TrialState.WAITING, epochs=rung, gain=gain, system=paused))
    return found


def measure_asks(cluster: str, pruner: PrunerName, most: int = 10_000) -> dict[str, Any]:
    """Measure asks in a study of 100 trials and in one of ``most``; return the medians and their ratio.

    Claims that promote a paused trial do not count, because its parameters exist already.
    """
    make_trials = paused_trials if pruner == "asha" else pruned_trials
    times: dict[int, list[float]] = {100: [], most: []}
    with contextlib.ExitStack() as stack:
        workers = {}
        for finished in times:

            def make(url: str, finished: int = finished) -> store.HpoTrials:
                return store.HpoTrials(url, finished, WAITING, pruner, make_trials)

            workers[finished] = HpoWorker(stack.enter_context(prepared_database(cluster, make)))
            stack.callback(workers[finished].storage.engine.dispose)
        for index in range(1 + 2 * ASKS):  # the first one reads all trials
            for finished, each in workers.items():
                begun = time.perf_counter()
                with each.ask() as (claim, _):
                    taken = time.perf_counter() - begun
                    if index and claim.number >= finished:
                        times[finished].append(taken)
                    claim.end(TrialState.COMPLETE, value=0.0, forget_checkpoint=True)
    medians = {finished: 1e3 * statistics.median(taken) for finished, taken in times.items()}
    return {"pruner": pruner, "milliseconds": medians, "ratio": medians[most] / medians[100]}


def make_table(found: list[dict[str, Any]]) -> Table:
    """Return the table of all windows."""
    heads = (
        "trials/s",
        "reports/s",
        *(f"{kind}, ms" for kind in KINDS),
        "connections",
        "wait",
        "per report",
    )
    table = Table("case, workers", *heads, box=None)
    for row in found:
        table.add_row(
            f"{row['case']}, {row['workers']}, {row['peer']}",
            f"{row['trials/s']:.1f}",
            f"{row['reports/s']:.0f}",
            *("-" if row[kind] is None else "{:.0f} ({:.0f})".format(*row[kind]) for kind in KINDS),
            f"{row['connections']} ({row['connections'] / row['workers']:.1f})",
            f"{row['waiting']}",
            "{server ms} + {worker ms} ms, {statements}".format(**row["per report"]),
        )
    return table


def main() -> None:
    """Measure all cases, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each window")
    parser.add_argument(
        "--case",
        choices=sorted({"slow", *(case[0] for case in CASES)}),
        help="run only hpo's part of this case",
    )
    parser.add_argument("--pgbouncer", action="store_true", help="run hpo through PgBouncer too")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with postgres.server(max_connections="300") as cluster:
        found = list(run_cases(cluster, given.seconds, given.case))
        if given.pgbouncer or given.case == "slow":
            found += run_pooled(cluster, given.seconds, given.case)
        pruners: tuple[PrunerName, ...] = ("hyperband", "asha") if given.case is None else ()
        asked = [measure_asks(cluster, pruner) for pruner in pruners]
    console = Console(width=130)
    console.print(
        "calls: median (95th percentile); connections: at the peak (per worker); wait: sessions that wait "
        "for a lock, on average; per report: processor time of server and worker, and statements"
    )
    console.print(make_table(found))
    for row in asked:
        few, many = row["milliseconds"].values()
        console.print(
            f"ask, {row['pruner']}: {many:.1f} ms at 10,000 trials, {few:.1f} at 100: {row['ratio']:.2f}"
        )
    print(json.dumps({"benchmark": "store_load", "rows": found, "asks": asked}))


if __name__ == "__main__":
    main()
