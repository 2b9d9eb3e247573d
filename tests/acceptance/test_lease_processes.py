"""The lease under real processes, real signals and a real server that goes away.

The database itself keeps the log that the promises are checked by: triggers note every change of a trial's
state and every write of an epoch's report. An epoch's accuracy is the token of the attempt that wrote it.
"""

import contextlib
import os
import random
import signal
import sqlite3
import time
from collections import Counter

import pytest
import sqlalchemy as sa

from tests.support import postgres
from tests.support.databases import closed_engines, plain_sql
from tests.support.lease_study import LeaseStudy, Workers
from tests.support.processes import wait_for


def test_sixteen_processes_run_forty_trials_once_each(url, sql, tmp_path):
    study = LeaseStudy(url, sql, 40, tmp_path)
    with study.workers(16, epochs=1) as workers:
        pass
    study.check(40, 1)
    assert sorted(trial for _, trial, _ in workers.said("ended")) == list(range(40))
    assert workers.said("lost") == []
    assert {token for _, _, token in workers.said("claimed")} == {1}


@pytest.mark.parametrize("seed", [1])
def test_workers_killed_at_any_moment_lose_nothing(url, sql, tmp_path, seed):
    """Half of the deaths are noticed at once, on the same machine, and half when the lease runs out."""
    trials, epochs, chance = 20, 8, random.Random(seed)  # more than twice what the kills wait for
    study = LeaseStudy(url, sql, trials, tmp_path)
    orders = {"epochs": epochs, "epoch_seconds": 0.05, "lease_seconds": 1.0, "nameless": True}
    with study.workers(4, **orders) as workers:
        while interrupted(workers) < 10:  # most kills hit a trial, on a busy machine fewer
            done = len(study.log("report")) + chance.randint(0, 4)
            wait_for(lambda done=done: len(study.log("report")) >= done and workers.busy())
            time.sleep(chance.uniform(0.0, 0.1))
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(workers.busy() or workers.alive()), signal.SIGKILL)
    print(f"seed {seed}")
    study.check(trials, epochs)
    assert interrupted(workers) >= 10


def test_ten_workers_stopped_for_longer_than_their_lease_are_refused_and_go_on(url, sql, tmp_path):
    study = LeaseStudy(url, sql, 60, tmp_path)
    with study.workers(20, epochs=6, epoch_seconds=0.5, lease_seconds=1.5) as workers:
        asleep: dict[int, tuple[int, int]] = {}
        while len(asleep) < 10:
            pid, trial, token = wait_for(lambda: having(workers, asleep))[0]
            os.kill(pid, signal.SIGSTOP)
            if holds_nothing(url, sql, pid):
                asleep[pid] = (trial, token)
            else:  # within a transaction it keeps its locks, on SQLite from everybody
                os.kill(pid, signal.SIGCONT)
        wait_for(lambda: all(taken(workers, *words) for words in asleep.values()))
        for pid in asleep:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: {(pid, *words) for pid, words in asleep.items()} <= set(workers.said("lost")))
        assert set(asleep) <= set(workers.alive())
    study.check(60, 6)
    again = Counter(pid for pid, *_ in workers.said("claimed") if pid in asleep)
    assert any(again[pid] > 1 for pid in asleep), "a refused worker takes another trial"


def interrupted(workers: Workers) -> int:
    """Return how many claims have neither ended nor lost their trial; those of busy workers not counted."""
    over = len(workers.said("ended")) + len(workers.said("lost"))
    return len(workers.said("claimed")) - over - len(workers.busy())


def having(workers: Workers, asleep: dict[int, tuple[int, int]]) -> list[tuple[int, ...]]:
    """Give worker, trial and token of those that are awake and have a trial of which much is left."""
    over = set(workers.said("ended")) | set(workers.said("lost"))
    return [words for words in workers.said("claimed") if words not in over and words[0] not in asleep][-1:]


def taken(workers: Workers, trial: int, token: int) -> bool:
    return any(t == trial and n > token for _, t, n in workers.said("claimed"))


def holds_nothing(url: str, sql, pid: int) -> bool:
    """Tell whether a stopped worker is outside of any transaction."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(sa.make_url(url).database, timeout=0.5)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            return True
    return sql("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'") == [(0,)]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_sqlite_takes_eight_busy_processes_without_a_complaint(url, sql, tmp_path):
    study = LeaseStudy(url, sql, 50, tmp_path)
    with study.workers(8, epochs=5) as workers:
        pass
    study.check(50, 5)
    assert workers.err.read_text() == ""
    assert {token for _, _, token in workers.said("claimed")} == {1}


@pytest.mark.parametrize(("trials", "epochs"), [(6, 15), (60, 1)], ids=["reports", "claims and ends"])
def test_a_postgres_that_becomes_unavailable_costs_nothing_but_time(tmp_path, trials, epochs):
    """Stopped for five seconds, then crashed and started at once."""
    with postgres.running() as server, closed_engines():
        study = LeaseStudy(server.url, plain_sql(server.url), trials, tmp_path)
        with study.workers(3, epochs=epochs, epoch_seconds=0.05) as workers:
            wait_for(lambda: len(study.log("report")) > 20)
            server.stop("fast")
            time.sleep(5)
            assert workers.running()
            server.start()
            wait_for(lambda: len(study.log("report")) > 45)
            server.stop("immediate")
            server.start()
            assert workers.running()
        study.check(trials, epochs)
        once = [(trial, 1) for trial in range(trials)]  # nothing was begun again, nor waited for
        assert sorted((trial, token) for _, trial, token in workers.said("claimed")) == once
        assert Counter(trial for _, trial, _ in workers.said("ended")) == Counter(range(trials))
        assert "trying again" in workers.err.read_text()
        assert "is back after" in workers.err.read_text()
