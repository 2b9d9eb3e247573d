"""The lease through PgBouncer in transaction mode, where each transaction may have another session."""

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
from tests.support import lease_worker, pgbouncer, postgres
from tests.support.databases import closed_engines, plain_sql
from tests.support.lease_study import LeaseStudy
from tests.support.processes import wait_for


@pytest.fixture
def behind(cluster):
    """Give the URL of an empty database that a PgBouncer can be put in front of."""
    if pgbouncer.COMMAND is None:
        why = "no command 'pgbouncer' (Debian: the package of that name)"
        assert os.environ.get("CI") != "true", why
        pytest.skip(why)
    with closed_engines(), postgres.database(cluster) as url:
        yield url


class Crowd:
    """Watches how many connections to a database others have, until it is asked."""

    def __init__(self, url: str) -> None:
        self.sql, self.seen, self.done = plain_sql(url), [], threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def _watch(self) -> None:
        text = "SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()"
        while not self.done.wait(0.02):
            ((count,),) = self.sql(f"{text} AND backend_type = 'client backend'")
            self.seen.append(count)

    def peak(self) -> int:
        self.done.set()
        self.thread.join()
        return max(self.seen)


def test_twelve_workers_share_three_connections_and_lose_nothing_to_a_kill(behind, tmp_path):
    with pgbouncer.running(behind, 3) as through:
        study = LeaseStudy(through, plain_sql(behind), 40, tmp_path)
        crowd = Crowd(behind)
        with study.workers(12, epochs=6, epoch_seconds=0.05, lease_seconds=1.0) as workers:
            for done in (20, 60, 100):
                wait_for(lambda done=done: len(study.log("report")) >= done and workers.busy())
                os.kill(random.choice(workers.busy() or workers.alive()), signal.SIGKILL)
        peak = crowd.peak()
    study.url = behind  # plain Optuna prepares statements, which PgBouncer 1.18 does not know of
    study.check(40, 6)
    assert len(workers.said("start")) == 15
    assert peak <= 3 + 1  # and the one of the test that asks the log


def test_twelve_processes_create_tables_and_study_through_two_connections(behind):
    orders = lease_worker.Orders(url="", processes=12, create=5)
    with pgbouncer.running(behind, 2) as through:
        text = f'{{"url": "{through}", "processes": {orders.processes}, "create": {orders.create}}}'
        command = [sys.executable, lease_worker.__file__, text]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stderr
        created = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("created")]
        assert sorted(created) == ["False"] * 11 + ["True"]


def test_a_transactions_settings_come_with_it_and_go_with_it(behind):
    asked = ("lock_timeout", "idle_in_transaction_session_timeout", "transaction_read_only")
    studies.create_study(studies.open_storage(behind, create=True), lease_worker.definition(1), "text")
    with pgbouncer.running(behind, 1) as through:
        opened = studies.open_storage(through, create=False)
        reader = studies.open_storage(through, create=False, read_only=True)
        for each, refuses in ((opened, "off"), (reader, "on")):
            with each.engine.connect() as connection:
                assert connection.info["pooled"]
                found = [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in asked]
            assert found == ["1min", "15s", refuses]
        with pytest.raises(StoreError, match="read-only"):
            studies.delete_study(reader, lease_worker.NAME)
        with studies.open_storage(behind, create=False).engine.connect() as connection:
            assert not connection.info["pooled"]
        sql = plain_sql(through)  # plain SQL, through the same session of the server
        assert [sql(f"SHOW {name}") for name in asked] == [[("0",)], [("0",)], [("off",)]]


def test_a_lease_is_renewed_through_the_only_connection(behind):
    studies.create_study(studies.open_storage(behind, create=True), lease_worker.definition(1), "text")
    with pgbouncer.running(behind, 1) as through:
        opened = studies.open_storage(through, create=False)
        study_id = studies.find_study_id(opened, lease_worker.NAME)
        claim = queue.claim_trial(
            opened, study_id, process.current_owner("cpu"), lease_seconds=3.0, max_attempts=1
        )
        with lease.keep_lease(claim):
            begun = time.monotonic()
            wait_for(lambda: claim.last_renewal.at > begun + 1.0)
            (held,) = lease_info.read_leases(opened, study_id)
        assert held.expires_in_seconds > 0
        assert opened.engine.pool.checkedin() == 1
