"""The lease with real processes, real signals and a real server that stops and crashes.

The guarantees are checked against a log that the database itself keeps: triggers record every change of a
trial's state and every write of an epoch's report. An epoch's accuracy is the token of the attempt that
wrote it.
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
    assert sorted(trial for _, trial, _ in workers.events("ended")) == list(range(40))
    assert workers.events("lost") == []
    assert {token for _, _, token in workers.events("claimed")} == {1}


@pytest.mark.parametrize("seed", [1])
def test_workers_killed_at_any_moment_lose_nothing(url, sql, tmp_path, seed):
    """Half of the deaths are noticed at once, on the same machine; half when the lease expires."""
    trials, epochs = 20, 8  # more than twice the epochs that the kills wait for
    generator = random.Random(seed)
    study = LeaseStudy(url, sql, trials, tmp_path)
    options = {"epochs": epochs, "epoch_seconds": 0.05, "lease_seconds": 1.0, "unnamed": True}
    with study.workers(4, **options) as workers:
        while interrupted(workers) < 10:  # most kills hit a trial; on a busy machine fewer do
            done = len(study.log("report")) + generator.randint(0, 4)
            wait_for(lambda done=done: len(study.log("report")) >= done and workers.busy())
            time.sleep(generator.uniform(0.0, 0.1))
            with contextlib.suppress(ProcessLookupError):
                os.kill(generator.choice(workers.busy() or workers.alive()), signal.SIGKILL)
    print(f"seed {seed}")
    study.check(trials, epochs)
    assert interrupted(workers) >= 10


@pytest.mark.parametrize(
    "url", ["postgresql", pytest.param("sqlite", marks=pytest.mark.slow)], indirect=True
)
def test_ten_workers_stopped_for_longer_than_their_lease_are_refused_and_claim_again(url, sql, tmp_path):
    study = LeaseStudy(url, sql, 60, tmp_path)
    with study.workers(20, epochs=6, epoch_seconds=0.5, lease_seconds=1.5) as workers:
        stopped: dict[int, tuple[int, int]] = {}
        while len(stopped) < 10:
            pid, trial, token = wait_for(lambda: awake_with_trial(workers, stopped))[0]
            os.kill(pid, signal.SIGSTOP)
            if holds_no_transaction(url, sql, pid):
                stopped[pid] = (trial, token)
            else:  # within a transaction it keeps its locks; on SQLite, the whole database
                os.kill(pid, signal.SIGCONT)
        wait_for(lambda: all(claimed_again(workers, *words) for words in stopped.values()))
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: {(pid, *words) for pid, words in stopped.items()} <= set(workers.events("lost")))
        assert set(stopped) <= set(workers.alive())
    study.check(60, 6)
    again = Counter(pid for pid, *_ in workers.events("claimed") if pid in stopped)
    assert any(again[pid] > 1 for pid in stopped), "a refused worker claims another trial"


def interrupted(workers: Workers) -> int:
    """Return how many claims have neither ended nor lost their trial; those of busy workers not counted."""
    over = len(workers.events("ended")) + len(workers.events("lost"))
    return len(workers.events("claimed")) - over - len(workers.busy())


def awake_with_trial(workers: Workers, stopped: dict[int, tuple[int, int]]) -> list[tuple[int, ...]]:
    """Return worker, trial and token of the last claim among the running ones that are not stopped."""
    over = set(workers.events("ended")) | set(workers.events("lost"))
    claims = workers.events("claimed")
    return [claim for claim in claims if claim not in over and claim[0] not in stopped][-1:]


def claimed_again(workers: Workers, trial: int, token: int) -> bool:
    return any(t == trial and n > token for _, t, n in workers.events("claimed"))


def holds_no_transaction(url: str, sql, pid: int) -> bool:
    """Return whether a stopped worker is in no transaction."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(sa.make_url(url).database, timeout=0.5)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            return True
    return sql("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'") == [(0,)]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_sqlite_serves_eight_busy_processes_without_an_error(url, sql, tmp_path):
    study = LeaseStudy(url, sql, 50, tmp_path)
    with study.workers(8, epochs=5) as workers:
        pass
    study.check(50, 5)
    assert workers.err.read_text() == ""
    assert {token for _, _, token in workers.events("claimed")} == {1}


@pytest.mark.parametrize(("trials", "epochs"), [(6, 15), (60, 1)], ids=["reports", "claims and ends"])
def test_a_postgres_outage_only_delays_workers(tmp_path, trials, epochs):
    """The server stops for five seconds; later it crashes and starts at once."""
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
        once = [(trial, 1) for trial in range(trials)]  # no trial was claimed twice
        assert sorted((trial, token) for _, trial, token in workers.events("claimed")) == once
        assert Counter(trial for _, trial, _ in workers.events("ended")) == Counter(range(trials))
        assert "trying again" in workers.err.read_text()
        assert "is back after" in workers.err.read_text()
