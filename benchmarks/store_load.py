"""What one Postgres bears of workers: trials and reports per second, beside plain Optuna in the same run.

- *saturated*: 1, 4, 16 and 64 workers that train for no time at all, in an empty study
- *paced*: 64 workers, each with one report per second, as in epochs of a second
- *long*: 1 and 4 workers, saturated, in a study of 10,000 finished trials
- *ask*: one worker's claim with the sampler's proposal at 10,000 trials, against the same at 100; under
  hyperband, and under asha, whose paused trials each claim has to look at
- with ``--pgbouncer`` (Debian's package): hpo's 64 workers once more, through 20 connections

``--case paced --seconds 600`` (``make soak``) runs hpo's part of one case alone, for as long as wanted.

Workers are processes, forked from this one; they claim, get four parameters from TPE, report nine epochs,
ask Hyperband about each, and end, all by the code of a real worker. Verdicts are not obeyed, so that all
trials have as many epochs. Plain Optuna runs the same by ask, suggest, report, should_prune and tell; its
time of a report includes should_prune, its time of an ask the suggestions. The server is the run's own,
with its usual settings, so that a commit waits for the disk; it shares the machine with the workers.

Run it with ``make bench-load``, or ``python -m benchmarks.store_load``; it takes some six minutes. The last
line is JSON, with the bytes that each table grew by.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import psycopg
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from benchmarks import store as case
from benchmarks.store import EPOCHS, SPACE, Outcome, accuracy
from hpo.search import asha
from hpo.store import lease, studies
from hpo.store.history import History
from hpo.store.process import current_owner
from hpo.study import space
from hpo.workers import pruning, worker
from hpo.workers import trial as objective
from tests.support import pgbouncer, postgres

FORK = multiprocessing.get_context("fork")  # 64 processes that import torch anew would take 20 GB
BEFORE = 2000  # trials that wait, enough for a window
ASKS = 12  # of each study, in turn
KINDS = ("ask", "report", "end")
JIFFY = 1 / os.sysconf("SC_CLK_TCK")


class Over(Exception):
    """The window is over."""


@dataclass
class Clock:
    """A worker's window, which begins for all of them at once, and what its calls in it took."""

    barrier: Any
    seconds: float
    pace: float | None  # seconds from one report to the next
    phase: float  # share of the pace by which this worker is late
    warming: int  # epochs before the window
    end: float = float("-inf")
    due: float = 0.0
    calls: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    @contextlib.contextmanager
    def call(self, kind: str) -> Iterator[None]:
        """Note what a call takes, if it is done within the window."""
        begun = time.monotonic()
        yield
        done = time.monotonic()
        if done <= self.end:
            self.wants_pause[kind].append(done - begun)

    def epoch(self) -> None:
        """Train for an epoch; before the window's first one wait until all workers have come so far."""
        self.warming -= 1
        if self.warming >= 0:
            return
        if self.end < 0:
            self.barrier.wait()
            self.due = time.monotonic() + (self.pace or 0.0) * self.phase
            self.end = time.monotonic() + self.seconds
        if self.pace is not None:
            time.sleep(max(min(self.due, self.end) - time.monotonic(), 0.0))
            self.due += self.pace
        if time.monotonic() >= self.end:
            raise Over


class Ours:
    """A worker's trials, as far as they concern the store."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        self.opened = studies.open_storage(url, create=False)
        self.history = History(self.opened, studies.find_study_id(self.opened, "hpo"), "hpo")
        self.who, self.clock = current_owner("cpu"), clock

    @contextlib.contextmanager
    def asked(self) -> Iterator[tuple[lease.Claim, pruning.TrialPruner]]:
        """Claim a trial, get its parameters, and keep it meanwhile; give it with its judge."""
        made = studies.read_definition(self.opened, "hpo")
        self.history.rungs = asha.rungs_of(made)
        claim = worker._claim_next(self.opened, self.history, self.who, 60.0, made.search)
        assert claim is not None
        with lease.keep_lease(claim):
            place: Any = SimpleNamespace(storage=self.history, definition=made)
            _, _, study = objective.choose_setting(claim, place)
            yield claim, pruning.TrialPruner(study, self.history, made)

    def trial(self) -> None:
        """Run a trial."""
        clock = self.clock
        with contextlib.ExitStack() as stack:
            with clock.call("ask"):
                claim, judge = stack.enter_context(self.asked())
            for epoch in range(1, EPOCHS + 1):
                clock.epoch()
                with clock.call("report"):
                    try:
                        case.report(claim, judge, epoch)
                    except pruning.TrialPrunedByRule as pruned:  # a trial that goes on is past this rung
                        self.history.own_trial.system_attrs.update(pruned.attributes)
            with clock.call("end"):
                claim.end(TrialState.COMPLETE, value=accuracy(claim.number, EPOCHS), forget_checkpoint=True)


class Plain:
    """Plain Optuna's trials."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.clock = clock
        self.study = optuna.load_study(
            study_name="plain",
            storage=url,
            sampler=optuna.samplers.TPESampler(seed=os.getpid()),
            pruner=optuna.pruners.HyperbandPruner(1, EPOCHS, 3),
        )

    def trial(self) -> None:
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


PEERS: dict[str, Any] = {"plain": (case.Plain, Plain), "hpo": (case.Ours, Ours)}


def work(peer: str, url: str, clock: Clock, answer: Any) -> None:
    """Be a worker: run trials until the window is over, and send what the calls took."""
    try:
        told = PEERS[peer][1](url, clock)
        with contextlib.suppress(Over):
            while True:
                told.trial()
        answer.send(clock.wants_pause)
    except BaseException:
        clock.barrier.abort()
        answer.send(traceback.format_exc())
    os._exit(0)  # a trial left behind is as good as killed


class Server:
    """A database and its server, watched from outside."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        (backend,) = self.ask("SELECT pg_backend_pid()")[0]
        self.postmaster = _stat(backend)[1]

    def ask(self, text: str) -> list[tuple[Any, ...]]:
        """Ask the database."""
        return self.connection.execute(text).fetchall()  # type: ignore[arg-type]

    def sessions(self) -> tuple[int, int]:
        """Count the database's sessions, but for this one, and those of them that wait for a lock."""
        text = "SELECT count(*) - 1, count(*) FILTER (WHERE wait_event_type = 'Lock') FROM pg_stat_activity"
        text += " WHERE datname = current_database() AND backend_type = 'client backend'"
        return self.ask(text)[0]  # type: ignore[return-value]

    def cpu_seconds(self) -> float:
        """Give what all the server's processes have used, those that are gone included."""
        used = 0.0
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                pid, parent, ticks, children = _stat(int(folder.name))
                used += ticks if parent == self.postmaster else 0
                used += ticks + children if pid == self.postmaster else 0
        return used * JIFFY

    def bytes(self) -> dict[str, int]:
        """Give the size of each table with its indexes."""
        text = "SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relkind = 'r'"
        return dict(self.ask(f"{text} AND relnamespace = 'public'::regnamespace"))


def _stat(pid: int) -> tuple[int, int, int, int]:
    """Give a process, its parent, and the ticks that it and its waited-for children have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, of_children, system_of_children = map(int, fields[11:15])
    return pid, int(fields[1]), user + system, of_children + system_of_children


def window(
    peer: str, url: str, workers: int, seconds: float, *, pace: float | None = None, through: str = ""
) -> dict[str, Any]:
    """Run workers on a study that is there, for so long; give their figures, as in the table.

    They reach the database ``through`` a pooler, if one is given.
    """
    barrier = FORK.Barrier(workers + 1)
    answers = []
    for index in range(workers):
        here, there = FORK.Pipe(duplex=False)
        # After a whole trial, and each at another epoch of its next one, as workers are in the long run.
        clock = Clock(barrier, seconds, pace, index / workers, EPOCHS + index % EPOCHS)
        FORK.Process(target=work, args=(peer, through or url, clock, there), daemon=True).start()
        answers.append(here)
    server = Server(url)
    with contextlib.suppress(Exception):
        barrier.wait(180)
    before, sizes, end = server.cpu_seconds(), server.bytes(), time.monotonic() + seconds
    sessions = []
    while time.monotonic() < end and not barrier.broken:
        sessions.append(server.sessions())
        time.sleep(0.2)
    cpu, grown = server.cpu_seconds() - before, server.bytes()
    told = [answer.recv() for answer in answers]
    for process in FORK.active_children():
        process.join()
    for failed in (each for each in told if isinstance(each, str)):
        raise RuntimeError(failed)
    calls = {kind: sorted(time for each in told for time in each[kind]) for kind in KINDS}
    return {
        "peer": peer,
        "workers": workers,
        "trials/s": len(calls["end"]) / seconds,
        "reports/s": len(calls["report"]) / seconds,
        **{kind: milliseconds(calls[kind]) for kind in KINDS},
        "connections": max((count for count, _ in sessions), default=0),
        "waiting": round(statistics.fmean([waiting for _, waiting in sessions] or [0]), 2),
        "server CPU s": round(cpu, 1),
        "grown": {name: size - sizes[name] for name, size in grown.items() if size > sizes[name]},
    }


def milliseconds(times: list[float]) -> tuple[float, float] | None:
    """Give median and 95th percentile of sorted seconds, in milliseconds; None of none."""
    if not times:
        return None
    return round(1e3 * statistics.median(times), 1), round(1e3 * times[int(0.95 * len(times))], 1)


# What each case has of finished trials, of seconds between reports, and of workers, who come in turn.
CASES: tuple[tuple[str, int, float | None, tuple[int, ...]], ...] = (
    *(("saturated", 0, None, (workers,)) for workers in (1, 4, 16, 64)),
    ("paced", 0, 1.0, (64,)),
    ("long", 10_000, None, (1, 4)),
)


def windows(cluster: str, seconds: float, only: str | None = None) -> Iterator[dict[str, Any]]:
    """Run the cases of both peers, each case on a database of its own; give their figures one by one.

    Of ``only`` one case, hpo's part alone.
    """
    for name, finished, pace, crowds in CASES:
        if only not in (None, name):
            continue
        waiting = max(BEFORE, int(0.2 * seconds * max(crowds)))  # a trial takes nine reports
        for peer, (make, _) in PEERS.items() if only is None else [("hpo", PEERS["hpo"])]:
            with prepared(cluster, lambda url, f=finished, m=make, w=waiting: m(url, f, w)) as url:
                for workers in crowds:
                    yield {"case": name, **window(peer, url, workers, seconds, pace=pace)}


def pooled(cluster: str, seconds: float, connections: int = 20) -> Iterator[dict[str, Any]]:
    """Run hpo's 64 workers through PgBouncer."""
    for name, pace in (("saturated", None), ("paced", 1.0)):
        with (
            prepared(cluster, lambda url: case.Ours(url, 0, BEFORE)) as url,
            pgbouncer.running(url, connections) as through,
        ):
            found = window("hpo", url, 64, seconds, pace=pace, through=through)
            yield {"case": f"{name}, PgBouncer", **found}


@contextlib.contextmanager
def prepared(cluster: str, make: Callable[[str], Any]) -> Iterator[str]:
    """Give a database with a study, as an hour's work leaves it; no connection to it stays open."""
    with postgres.database(cluster) as url:
        make(url).costs.engine.dispose()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ANALYZE")
        yield url


def rested(count: int) -> list[Outcome]:
    """Give what trials come to under asha, with rungs at 1 and 3: the best third goes on at each.

    A trial is pruned where it comes too late to be promoted; of the others each waits where it is.
    """
    ranks = random.Random(0).sample(range(count), count)
    found = []
    for number, rank in enumerate(ranks):
        place = rank * number / count  # among those that came before it
        rung, left = (3, count / 9) if rank < count / 3 else (1, count / 3)
        promoted = (
            {asha.PROMOTED_PAST_RUNG: 3 if rank < count / 9 else rung // 3} if rank < count / 3 else {}
        )
        waits = {**promoted, asha.PAUSED_AT_RUNG: rung}
        gain = (count - rank) / count / 1e3
        if rank < count / 9:
            found.append(Outcome(state=TrialState.COMPLETE, epochs=EPOCHS, gain=gain, system=promoted))
        elif place > left:
            found.append(Outcome(state=TrialState.PRUNED, epochs=rung, gain=gain, system=promoted))
        else:
            found.append(Outcome(state=TrialState.WAITING, epochs=rung, gain=gain, system=waits))
    return found


def asks(cluster: str, pruner: str, most: int = 10_000) -> dict[str, Any]:
    """Ask in turn in a study of 100 and in one of ``most`` trials; give the medians and their ratio.

    What promotes a paused trial is no ask: its parameters are there already.
    """
    outcomes = rested if pruner == "asha" else case.usual
    times: dict[int, list[float]] = {100: [], most: []}
    with contextlib.ExitStack() as stack:
        workers = {}
        for finished in times:

            def make(url: str, finished: int = finished) -> case.Ours:
                return case.Ours(url, finished, BEFORE, pruner, outcomes)

            workers[finished] = Ours(stack.enter_context(prepared(cluster, make)))
            stack.callback(workers[finished].opened.engine.dispose)
        for turn in range(1 + 2 * ASKS):  # the first reads all trials
            for finished, each in workers.items():
                begun = time.perf_counter()
                with each.asked() as (claim, _):
                    taken = time.perf_counter() - begun
                    if turn and claim.number >= finished:
                        times[finished].append(taken)
                    claim.end(TrialState.COMPLETE, value=0.0, forget_checkpoint=True)
    medians = {finished: 1e3 * statistics.median(taken) for finished, taken in times.items()}
    return {"pruner": pruner, "milliseconds": medians, "ratio": medians[most] / medians[100]}


def show(found: list[dict[str, Any]]) -> Table:
    """Make the table of all windows."""
    heads = ("trials/s", "reports/s", *(f"{kind}, ms" for kind in KINDS), "connections", "wait", "CPU s")
    table = Table("case, workers", *heads, box=None)
    for row in found:
        table.add_row(
            f"{row['case']}, {row['workers']}, {row['peer']}",
            f"{row['trials/s']:.1f}",
            f"{row['reports/s']:.0f}",
            *("-" if row[kind] is None else "{:.0f} ({:.0f})".format(*row[kind]) for kind in KINDS),
            f"{row['connections']} ({row['connections'] / row['workers']:.1f})",
            f"{row['waiting']}",
            f"{row['server CPU s']}",
        )
    return table


def main() -> None:
    """Measure all cases; print two tables, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each window")
    parser.add_argument(
        "--case", choices=sorted({case[0] for case in CASES}), help="hpo's part of it alone"
    )
    parser.add_argument("--pgbouncer", action="store_true", help="run hpo through PgBouncer, too")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with postgres.server(max_connections="300") as cluster:
        found = list(windows(cluster, given.seconds, given.case))
        found += pooled(cluster, given.seconds) if given.pgbouncer else ()
        pruners = ("hyperband", "asha") if given.case is None else ()
        asked = [asks(cluster, pruner) for pruner in pruners]
    console = Console(width=130)
    console.print(
        "median (95th percentile) of calls; connections at the peak (per worker); sessions that wait for a "
        "lock, on average; the server's processor time"
    )
    console.print(show(found))
    for row in asked:
        few, many = row["milliseconds"].values()
        console.print(
            f"ask, {row['pruner']}: {many:.1f} ms at 10,000 trials, {few:.1f} at 100: {row['ratio']:.2f}"
        )
    print(json.dumps({"benchmark": "store_load", "rows": found, "asks": asked}))


if __name__ == "__main__":
    main()
