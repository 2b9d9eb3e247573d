"""The lease under real processes, real signals and a real server that goes away.

The database itself keeps the log that the promises are checked by: triggers note every change of a trial's
state and every write of an epoch's report. An epoch's accuracy is the token of the attempt that wrote it.
"""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa

from hpo.store import studies
from tests import conftest
from tests.conftest import wait_for
from tests.support import lease_worker, postgres
from tests.support.lease_worker import NAME

TABLE = "CREATE TABLE log (what TEXT, trial INTEGER, detail TEXT)"
SQLITE_LOG = (
    TABLE,
    """CREATE TRIGGER log_state AFTER UPDATE OF state ON trials WHEN OLD.state != NEW.state BEGIN
    INSERT INTO log VALUES ('state', NEW.number, OLD.state || ' ' || NEW.state); END""",
    """CREATE TRIGGER log_report AFTER INSERT ON trial_intermediate_values BEGIN INSERT INTO log
    SELECT 'report', number, NEW.step FROM trials WHERE trial_id = NEW.trial_id; END""",
    """CREATE TRIGGER log_rewrite AFTER UPDATE ON trial_intermediate_values BEGIN INSERT INTO log
    SELECT 'rewrite', number, NEW.step FROM trials WHERE trial_id = NEW.trial_id; END""",
)
POSTGRES_LOG = (
    TABLE,
    """CREATE FUNCTION log_state() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO log VALUES ('state', NEW.number, OLD.state || ' ' || NEW.state); RETURN NULL; END $$""",
    """CREATE FUNCTION log_report() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO log SELECT CASE TG_OP WHEN 'INSERT' THEN 'report' ELSE 'rewrite' END, number, NEW.step
    FROM trials WHERE trial_id = NEW.trial_id; RETURN NULL; END $$""",
    """CREATE TRIGGER log_state AFTER UPDATE OF state ON trials
    FOR EACH ROW WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION log_state()""",
    """CREATE TRIGGER log_report AFTER INSERT OR UPDATE ON trial_intermediate_values
    FOR EACH ROW EXECUTE FUNCTION log_report()""",
)


class Study:
    """A study of so many trials whose database keeps the log, and workers for it."""

    def __init__(self, url: str, sql, trials: int, folder: Path) -> None:
        self.url, self.sql, self.folder = url, sql, folder
        opened = studies.open_(url, create=True)
        studies.create(opened, lease_worker.definition(trials), "text")
        opened.engine.dispose()
        for statement in SQLITE_LOG if url.startswith("sqlite") else POSTGRES_LOG:
            sql(statement)

    @contextlib.contextmanager
    def workers(self, processes: int, *, seconds: float = 60.0, **orders):
        """Run workers; give them, and wait until they have run every trial."""
        text = json.dumps({"url": self.url, "processes": processes, **orders})
        out, err = self.folder / "out", self.folder / "err"
        command = [sys.executable, lease_worker.__file__, text]
        with out.open("w") as to, err.open("w") as errors:
            process = subprocess.Popen(command, stdout=to, stderr=errors, start_new_session=True)
            try:
                yield Workers(process, out, err)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
                assert process.poll() == 0, f"{err.read_text()}\n{out.read_text()}"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def log(self, what: str) -> list[tuple[int, str]]:
        return self.sql("SELECT trial, detail FROM log WHERE what = :what ORDER BY trial", what=what)

    def check(self, trials: int, epochs: int) -> None:
        """Check what is promised whatever died: every trial ends once, every epoch is written once."""
        study = optuna.load_study(study_name=NAME, storage=self.url)
        assert [trial.number for trial in study.trials] == list(range(trials))
        every = list(range(trials))
        begins = [number for number, change in self.log("state") if change == "WAITING RUNNING"]
        assert begins == every
        ends = [(number, change) for number, change in self.log("state") if "WAITING" not in change]
        assert ends == [(number, "RUNNING COMPLETE") for number in every]
        steps = [(number, int(step)) for number, step in self.log("report")]
        assert sorted(steps) == [(number, step) for number in every for step in range(1, epochs + 1)]
        assert self.log("rewrite") == []
        for trial in study.trials:
            writers = [trial.intermediate_values[step] for step in range(1, epochs + 1)]
            assert writers == sorted(writers), "a later epoch was written by an earlier attempt"
            assert trial.value == trial.user_attrs["attempts"], "the last attempt ended the trial"
            assert trial.user_attrs["epochs"] == epochs


class Workers:
    """Workers that run, and what they say."""

    def __init__(self, process: subprocess.Popen, out: Path, err: Path) -> None:
        self.process, self.out, self.err = process, out, err

    def said(self, what: str) -> list[tuple[int, ...]]:
        lines = [line.split() for line in self.out.read_text().splitlines()]
        return [tuple(map(int, words[1:])) for words in lines if words[0] == what]

    def alive(self) -> list[int]:
        return [pid for (pid,) in self.said("start") if state(pid) not in ("", "Z")]

    def busy(self) -> list[int]:
        """Give the workers that have a trial."""
        over = {words for what in ("ended", "lost") for words in self.said(what)}
        having = {words[0] for words in self.said("claimed") if words not in over}
        return [pid for pid in self.alive() if pid in having]

    def running(self) -> bool:
        return self.process.poll() is None


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_sixteen_processes_run_forty_trials_once_each(url, sql, tmp_path):
    study = Study(url, sql, 40, tmp_path)
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
    study = Study(url, sql, trials, tmp_path)
    orders = {"epochs": epochs, "epoch_seconds": 0.05, "lease_seconds": 1.0, "nameless": True}
    with study.workers(4, **orders) as workers:
        for _ in range(12):
            done = len(study.log("report")) + chance.randint(0, 4)
            wait_for(lambda done=done: len(study.log("report")) >= done and workers.busy())
            time.sleep(chance.uniform(0.0, 0.1))
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(workers.busy() or workers.alive()), signal.SIGKILL)
    print(f"seed {seed}")
    study.check(trials, epochs)
    killed = len(workers.said("start")) - 4
    interrupted = len(workers.said("claimed")) - len(workers.said("ended")) - len(workers.said("lost"))
    assert killed >= 10
    assert interrupted >= 10, "most kills are to hit a trial"


def test_ten_workers_stopped_for_longer_than_their_lease_are_refused_and_go_on(url, sql, tmp_path):
    study = Study(url, sql, 60, tmp_path)
    with study.workers(20, epochs=6, epoch_seconds=0.5, lease_seconds=1.5) as workers:
        asleep: dict[int, tuple[int, int]] = {}
        while len(asleep) < 10:
            pid, trial, token = wait_for(lambda: having(workers, asleep))[0]
            os.kill(pid, signal.SIGSTOP)
            if holds_nothing(url, sql, pid):
                asleep[pid] = (trial, token)
            else:  # within a transaction it keeps its locks, on SQLite from everybody
                os.kill(pid, signal.SIGCONT)
        wait_for(lambda: all(taken(workers, *words) for words in asleep.values()), 40.0)
        for pid in asleep:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: {(pid, *words) for pid, words in asleep.items()} <= set(workers.said("lost")))
        assert set(asleep) <= set(workers.alive())
    study.check(60, 6)
    again = Counter(pid for pid, *_ in workers.said("claimed") if pid in asleep)
    assert any(again[pid] > 1 for pid in asleep), "a refused worker takes another trial"


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
    study = Study(url, sql, 50, tmp_path)
    with study.workers(8, epochs=5) as workers:
        pass
    study.check(50, 5)
    assert workers.err.read_text() == ""
    assert {token for _, _, token in workers.said("claimed")} == {1}


@pytest.mark.parametrize(("trials", "epochs"), [(6, 15), (60, 1)], ids=["reports", "claims and ends"])
def test_a_postgres_that_goes_away_costs_nothing_but_time(tmp_path, trials, epochs):
    """Stopped for five seconds, then crashed and started at once."""
    with postgres.running() as server, conftest.closed_engines():
        study = Study(server.url, conftest.asking(server.url), trials, tmp_path)
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
