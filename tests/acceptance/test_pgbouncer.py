"""The lease through PgBouncer in transaction mode: each transaction may use another session."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from hpo.errors import StoreError
from hpo.store import lease, lease_info, process, queue, studies
from hpo.store.wakeups import ChangeWatch
from tests.support import lease_worker, pgbouncer, postgres
from tests.support.clocks import FastClock, do_nothing
from tests.support.databases import closed_engines, plain_sql
from tests.support.lease_study import LeaseStudy
from tests.support.processes import wait_for


@pytest.fixture
def direct_url(cluster):
    """Yield the URL of an empty database; skip the test where PgBouncer is missing."""
    if pgbouncer.COMMAND is None:
        why = "no command 'pgbouncer' (Debian: the package of that name)"
        assert os.environ.get("CI") != "true", why
        pytest.skip(why)
    with closed_engines(), postgres.database(cluster) as url:
        yield url


class ConnectionCounter:
    """Counts the connections of other processes to a database until ``peak`` is called."""

    def __init__(self, url: str) -> None:
        self.sql, self.counts, self.done = plain_sql(url), [], threading.Event()
        self.thread = threading.Thread(target=self._count)
        self.thread.start()

    def _count(self) -> None:
        text = "SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()"
        while not self.done.wait(0.02):
            ((count,),) = self.sql(f"{text} AND backend_type = 'client backend'")
            self.counts.append(count)

    def peak(self) -> int:
        self.done.set()
        self.thread.join()
        return max(self.counts)


def test_twelve_workers_share_three_connections_and_lose_nothing_to_a_kill(direct_url, tmp_path):
    with pgbouncer.running(direct_url, 3) as pooled_url:
        study = LeaseStudy(pooled_url, plain_sql(direct_url), 40, tmp_path)
        counter = ConnectionCounter(direct_url)
        with study.workers(12, epochs=6, epoch_seconds=0.05, lease_seconds=1.0) as workers:
            for done in (20, 60, 100):
                wait_for(lambda done=done: len(study.log("report")) >= done and workers.busy())
                os.kill(random.choice(workers.busy() or workers.alive()), signal.SIGKILL)
        peak = counter.peak()
    study.url = direct_url  # plain Optuna prepares statements, which PgBouncer 1.18 does not support
    study.check(40, 6)
    assert len(workers.events("start")) == 15
    assert peak <= 3 + 1  # one more is the test's own, which reads the log


def test_twelve_processes_create_tables_and_study_through_two_connections(direct_url):
    options = lease_worker.WorkerOptions(url="", processes=12, create=5)
    with pgbouncer.running(direct_url, 2) as pooled_url:
        text = f'{{"url": "{pooled_url}", "processes": {options.processes}, "create": {options.create}}}'
        command = [sys.executable, lease_worker.__file__, text]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stderr
        created = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("created")]
        assert sorted(created) == ["already"] * 11 + ["created"]


def test_settings_apply_to_one_transaction_only(direct_url):
    names = ("lock_timeout", "idle_in_transaction_session_timeout", "transaction_read_only")
    studies.create_study(studies.open_storage(direct_url, create=True), lease_worker.definition(1), "text")
    with pgbouncer.running(direct_url, 1) as pooled_url:
        storage = studies.open_storage(pooled_url, create=False)
        reader = studies.open_storage(pooled_url, create=False, read_only=True)
        for each, read_only in ((storage, "off"), (reader, "on")):
            with each.engine.connect() as connection:
                assert connection.info["pooled"]
                values = [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]
            assert values == ["1min", "15s", read_only]
        with pytest.raises(StoreError, match="read-only"):
            studies.delete_study(reader, lease_worker.NAME)
        with studies.open_storage(direct_url, create=False).engine.connect() as connection:
            assert not connection.info["pooled"]
        sql = plain_sql(pooled_url)  # plain SQL through the same session of the server
        assert [sql(f"SHOW {name}") for name in names] == [[("0",)], [("0",)], [("off",)]]


def test_a_worker_that_nobody_can_notify_asks_for_changes(direct_url):
    other = studies.open_storage(direct_url, create=True)
    studies.create_study(other, lease_worker.definition(0, {"lr": 0.5}), "text")
    study_id = studies.find_study_id(other, lease_worker.NAME)
    with pgbouncer.running(direct_url, 1) as pooled_url:
        storage = studies.open_storage(pooled_url, create=False)
        with ChangeWatch(storage, study_id) as watch:
            watch.wait(FastClock(0.0), do_nothing)
            watch.wait(calm := FastClock(30.0), do_nothing)
            studies.enqueue_setting(
                other, lease_worker.NAME, lease_worker.definition(0, {"lr": 0.1}).points[0]
            )
            watch.wait(clock := FastClock(30.0), do_nothing)
    assert (calm.is_set(), clock.is_set()) == (True, False)


def test_a_lease_is_renewed_through_the_only_connection(direct_url):
    studies.create_study(studies.open_storage(direct_url, create=True), lease_worker.definition(1), "text")
    with pgbouncer.running(direct_url, 1) as pooled_url:
        storage = studies.open_storage(pooled_url, create=False)
        study_id = studies.find_study_id(storage, lease_worker.NAME)
        claim = queue.claim_trial(
            storage, study_id, process.current_owner("cpu"), lease_seconds=3.0, max_attempts=1
        )
        with lease.keep_lease(claim):
            started = time.monotonic()
            wait_for(lambda: claim.last_renewal.at > started + 1.0)
            (info,) = lease_info.read_leases(storage, study_id)
        assert info.expires_in_seconds > 0
        assert storage.engine.pool.checkedin() == 1
