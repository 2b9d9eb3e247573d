"""Leases on Postgres: locks, and lost acknowledgements.

SQLite has a single lock, which every writer waits for, and no network.
"""

import contextlib
import socket
import threading

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.store import database, lease, lease_table, queue, rows
from hpo.store.lease import LeaseLost
from tests.support.claims import LEASE, Worker, expire_leases, trial
from tests.support.processes import wait_for
from tests.support.stored_study import plain

on_postgres = pytest.mark.parametrize("url", ["postgresql"], indirect=True)


@on_postgres
def test_a_worker_keeps_one_connection_and_renews_through_another_while_it_is_in_use(first, sql):
    claim = first.claim(seconds=0.9)
    with lease.keep_lease(claim):
        with first.store.transaction() as session:
            session.execute(sa.text("SELECT 1"))  # the transaction stays open from here
            before = claim.last_renewal.at
            wait_for(lambda: claim.last_renewal.at > before)
        claim.commit(user_attributes={"a": 1})
    text = "SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()"
    wait_for(lambda: sql(f"{text} AND backend_type = 'client backend'") == [(1,)])


@on_postgres
def test_a_worker_suspended_in_a_transaction_blocks_no_other(url, first, monkeypatch, sql):
    monkeypatch.setattr(database, "POSTGRES_SETTINGS", ("idle_in_transaction_session_timeout = '6s'",))
    suspended = Worker(url)
    late = suspended.claim()
    session = suspended.store.scoped_session()
    late.fence(session)  # the worker is suspended here
    sql("SELECT 1")
    assert first.claim().number == 1
    idle = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in trans%'"
    assert sql(idle) == [(1,)], "the claim did not wait for the end of the session"
    # The server ends the session, which releases its locks and rolls back the renewal.
    wait_for(lambda: sql(idle) == [(0,)])
    expire_leases(sql)
    taken = first.claim()
    assert taken.number == 0
    with pytest.raises(optuna.exceptions.StorageInternalError), suspended.store.transaction() as session:
        rows.write_report(session, late.trial_id, 9, 0.9)
    with pytest.raises(LeaseLost):
        late.commit(checkpoint="late", report=(9, 0.9), user_attributes={})
    taken.end(TrialState.COMPLETE, value=0.5)
    assert trial(url).intermediate_values == {}


@on_postgres
def test_a_worker_suspended_in_a_claim_blocks_no_other(first, second):
    study_id = second.study_id
    with second.store.transaction() as session:
        found = lease_table.lock_claimable_trial(session, study_id, ())
        assert found.number == 0  # the worker is suspended here
        assert first.claim().number == 1


@on_postgres
def test_a_lease_renewed_during_a_claim_is_not_claimed(first, second, sql):
    """A claim finds an expired lease; the renewal is committed before the claim locks it."""
    claim = first.claim()
    expire_leases(sql)
    study_id = second.study_id
    with second.store.transaction() as session:
        found = lease_table.lock_claimable_trial(session, study_id, ())
        assert found.number == 0
        sql("UPDATE hpo_leases SET expires = expires + extract(epoch FROM clock_timestamp()) + 60")
        assert not lease_table.is_still_free(found, lease_table.lock_lease(session, found.trial_id))
    claim.commit(checkpoint="c", report=None, user_attributes={})


@on_postgres
def test_claims_and_commits_on_one_expired_lease_never_deadlock(url, first, second, sql):
    """A lease expires again and again; its owner commits while another worker claims it."""
    stop, errors, taken = threading.Event(), [], []

    def expire():
        while not stop.wait(0.001):
            expire_leases(sql)

    def work(worker):
        try:
            while not stop.is_set():
                claim = worker.claim(max_attempts=10**6)
                if claim is None:
                    continue
                taken.append(claim.token)
                with contextlib.suppress(LeaseLost):
                    for epoch in range(1, 6):
                        claim.commit(checkpoint="c", report=(epoch, 0.5), user_attributes={"a": epoch})
                    claim.release()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(worker,)) for worker in (first, second)]
    threads.append(threading.Thread(target=expire))
    for thread in threads:
        thread.start()
    wait_for(lambda: errors or len(taken) > 60)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    sql("SELECT pg_stat_clear_snapshot()")
    assert sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]


class PostgresProxy:
    """A proxy for a Postgres server that can drop the acknowledgement of a COMMIT and then disconnects."""

    def __init__(self, url: str) -> None:
        server_url = sa.make_url(url)
        self.server = (server_url.host, server_url.port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = server_url.set(port=self.listener.getsockname()[1]).render_as_string(hide_password=False)
        self.drop_after: int | None = None  # number of acknowledgements that pass before one is dropped
        self.dropped = 0
        self.on_drop = lambda: None  # is called after a drop, before the connection is closed
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(self.server)
                cut = threading.Event()
                for source, sink, forward in ((client, server, self._up), (server, client, self._down)):
                    threading.Thread(target=forward, args=(source, sink, cut), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if b"COMMIT\0" in data and self.drop_after is not None:
                    if self.drop_after == 0:
                        cut.set()
                    self.drop_after = self.drop_after - 1 if self.drop_after else None
                server.sendall(data)
        close_sockets(client, server)

    def _down(self, server: socket.socket, client: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if cut.is_set():  # the server has committed, but the client does not learn it
                    self.dropped += 1
                    self.on_drop()
                    break
                client.sendall(data)
        close_sockets(client, server)


def close_sockets(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)  # wakes the thread that still reads from it
        each.close()


@pytest.fixture
def proxy(url, first):
    proxy = PostgresProxy(url)
    yield proxy
    proxy.listener.close()


@on_postgres
def test_a_commit_whose_acknowledgement_is_lost_is_applied_once(url, proxy, sql):
    worker = Worker(proxy.url)
    claim = worker.claim()
    proxy.drop_after = 0
    claim.commit(checkpoint="one", report=(1, 0.25), user_attributes={"epochs": 1})
    assert proxy.dropped == 1
    assert trial(url).intermediate_values == {1: 0.25}
    assert [(row[1], row[4]) for row in sql(LEASE)] == [(1, "one")]


@on_postgres
@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.WAITING])
def test_an_end_whose_acknowledgement_is_lost_is_applied_once(url, proxy, sql, state):
    worker = Worker(proxy.url)
    claim = worker.claim()
    sql("UPDATE hpo_leases SET attempts = 3")
    proxy.drop_after = 0
    if state == TrialState.WAITING:
        claim.release()
    else:
        claim.end(state, value=0.5)
    assert proxy.dropped == 1
    assert trial(url).state == state
    attempts = 2 if state == TrialState.WAITING else 3  # a release undoes its attempt, once
    assert [(row[0], row[2]) for row in sql(LEASE)] == [(None, attempts)]


@on_postgres
def test_a_parameter_whose_acknowledgement_is_lost_is_stored_once(url, proxy):
    worker = Worker(proxy.url)
    claim = worker.claim()
    with lease.keep_lease(claim):
        asked = optuna.Trial(worker.study(), claim.trial_id)
        proxy.drop_after = 0
        rate = asked.suggest_float("lr", 1e-4, 1.0, log=True)
    assert proxy.dropped == 1
    assert trial(url).params == {"lr": rate}


@on_postgres
def test_a_claim_whose_acknowledgement_is_lost_is_applied_once(url, proxy, first, sql):
    worker = Worker(proxy.url)
    study_id = worker.study_id
    proxy.drop_after = 1  # the first transaction looks for dead workers
    claim = queue.claim_trial(worker.store, study_id, worker.owner, lease_seconds=60, max_attempts=5)
    assert proxy.dropped == 1
    assert (claim.number, claim.token) == (0, 1)
    assert [each.trial for each in first.leases()] == [0]
    claim.commit(checkpoint="c", report=(1, 0.5))
    claim.end(TrialState.COMPLETE, value=0.5)
    assert worker.claim().number == 1


@on_postgres
@pytest.mark.parametrize("winner", ["another worker", "another tool"])
def test_a_claim_whose_acknowledgement_is_lost_can_lose_its_trial(url, proxy, first, sql, winner):
    """While the worker was disconnected, another worker claimed its trial, or another tool ended it."""
    worker = Worker(proxy.url)
    study_id = worker.study_id
    proxy.drop_after = 1

    taken = []

    def meanwhile():
        if winner == "another worker":
            expire_leases(sql)
            taken.append(first.claim())
        else:
            plain(url).tell(0, state=TrialState.FAIL)

    proxy.on_drop = meanwhile
    claim = queue.claim_trial(worker.store, study_id, worker.owner, lease_seconds=60, max_attempts=5)
    assert claim.number == 1
    assert proxy.dropped == 1
    assert [(each.number, each.token) for each in taken] == ([(0, 2)] if winner == "another worker" else [])
