"""The lease protocol step by step, with its crash windows, on real databases.

Workers are two stores in one process here; ``acceptance/test_lease_processes.py`` uses real processes.
The tests check what the protocol guarantees with plain SQL or plain Optuna.
"""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import threading
import time
import types
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.store import database, lease, lease_info, lease_table, process, queue, rows, studies
from hpo.store.lease import LeaseLost
from hpo.store.storage import MAX_WAIT_SECONDS
from tests.support import lease_worker
from tests.support.lease_worker import NAME
from tests.support.processes import wait_for

LEASE = "SELECT owner, token, attempts, expires, checkpoint, epoch FROM hpo_leases"


class Worker:
    """A worker with a storage of its own; ``claim`` returns what a real worker would run."""

    def __init__(self, url: str) -> None:
        self.store = studies.open_storage(url, create=True)
        self.store.max_wait_seconds = MAX_WAIT_SECONDS  # as a real worker
        self.owner = process.current_owner("cpu")

    @property
    def study_id(self) -> int:
        return studies.find_study_id(self.store, NAME)

    def claim(self, *, seconds: float = 60.0, max_attempts: int = 5) -> lease.Claim | None:
        return queue.claim_trial(
            self.store, self.study_id, self.owner, lease_seconds=seconds, max_attempts=max_attempts
        )

    def leases(self) -> list[lease_info.LeaseInfo]:
        return lease_info.read_leases(self.store, self.study_id)

    def study(self, **kwargs) -> optuna.Study:
        storage = optuna.storages.get_storage(self.store)
        study = optuna.load_study(study_name=NAME, storage=storage, **kwargs)
        study.get_trials(deepcopy=False)  # Optuna's cache writes only to trials that it has read
        return study


@pytest.fixture
def first(with_tables):
    """Return a worker whose store has a study of three trials."""
    worker = Worker(with_tables)
    studies.create_study(worker.store, lease_worker.definition(3), "text")
    return worker


@pytest.fixture
def second(url, first):
    return Worker(url)


@pytest.fixture
def contents(sql):
    """Return a function that returns every row of every table."""
    tables = [*studies.models.BaseModel.metadata.tables, "hpo_leases"]
    return lambda: {table: sorted(map(repr, sql(f"SELECT * FROM {table}"))) for table in tables}


def plain(url: str) -> optuna.Study:
    """Return the study as plain Optuna loads it, without hpo."""
    return optuna.load_study(study_name=NAME, storage=url)


def trial(url: str, number: int = 0) -> optuna.trial.FrozenTrial:
    return plain(url).trials[number]


def claim_numbers(worker: Worker, count: int) -> list[int | None]:
    """Claim this many trials and return their numbers; None where there is no trial."""
    return [claim and claim.number for claim in (worker.claim() for _ in range(count))]


def expire_leases(sql) -> None:
    sql("UPDATE hpo_leases SET expires = 1 WHERE expires > 1")


# Claim


def test_a_claim_sets_a_trial_running_and_creates_its_lease(url, first, sql):
    before = time.time()
    claim = first.claim(seconds=60.0)
    after = time.time()
    assert (claim.number, claim.token, claim.checkpoint) == (0, 1, None)
    ((owner, token, attempts, expires, checkpoint, epoch),) = sql(LEASE)
    assert (owner, token, attempts) == (f"{socket.gethostname()}/{os.getpid()}", 1, 1)
    assert (checkpoint, epoch) == (None, 0)
    assert before + 59 < expires < after + 61  # the database runs on this machine
    found = trial(url)
    assert found.state == TrialState.RUNNING
    assert found.datetime_start is not None
    assert found.user_attrs["attempts"] == 1
    assert [t.state for t in plain(url).trials[1:]] == [TrialState.WAITING] * 2


def test_two_workers_never_get_the_same_trial(first, second):
    claims = [worker.claim() for worker in (first, second, first, second)]
    assert [claim and claim.number for claim in claims] == [0, 1, 2, None]


def test_workers_that_claim_concurrently_get_different_trials(url, first, sql):
    studies.create_study(first.store, lease_worker.definition(24), "text")
    workers = [Worker(url) for _ in range(6)]
    start, got = threading.Barrier(len(workers)), []

    def claim_all(worker):
        start.wait()
        while claim := worker.claim():
            got.append(claim.number)

    threads = [threading.Thread(target=claim_all, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(24))
    assert sql("SELECT DISTINCT token FROM hpo_leases") == [(1,)]


def test_interrupted_trials_are_claimed_first_then_listed_settings_then_the_rest(first):
    studies.create_study(
        first.store, lease_worker.definition(3, {"lr": 0.5}), "text"
    )  # the point is trial 3
    assert first.claim().number == 3
    interrupted = first.claim()
    assert interrupted.number == 0
    studies.create_study(first.store, lease_worker.definition(3, {"lr": 0.5}, {"lr": 0.25}), "text")
    interrupted.release()
    assert claim_numbers(first, 5) == [0, 4, 1, 2, None]


def test_a_setting_enqueued_by_plain_optuna_is_claimed(url, first):
    plain(url).enqueue_trial({"lr": 0.25})
    claim = first.claim()
    assert claim.number == 3
    with lease.keep_lease(claim):
        asked = optuna.Trial(first.study(), claim.trial_id)
        assert asked.suggest_float("lr", 1e-4, 1.0, log=True) == 0.25
        claim.end(TrialState.COMPLETE, value=0.5)
    assert (trial(url, 3).value, trial(url, 3).params) == (0.5, {"lr": 0.25})


def test_a_trial_run_by_another_tool_is_not_claimed(url, first):
    foreign = plain(url).ask()  # takes trial 0
    assert foreign.number == 0
    claims = [first.claim() for _ in range(3)]
    assert [claim and claim.number for claim in claims] == [1, 2, None]
    for claim in claims[:2]:
        claim.end(TrialState.COMPLETE, value=0.5)
    assert not queue.has_open_trials(first.store, first.study_id)
    assert first.leases() == []
    plain(url).tell(0, 0.75)
    assert trial(url).value == 0.75


def test_a_study_has_open_trials_until_every_trial_has_ended(first):
    claims = [first.claim() for _ in range(3)]
    assert first.claim() is None
    for claim in claims:
        assert queue.has_open_trials(first.store, first.study_id)
        claim.end(TrialState.PRUNED)
    assert not queue.has_open_trials(first.store, first.study_id)


def test_leases_are_listed_with_owner_attempt_epoch_and_remaining_time(first, second, sql):
    claim = first.claim(seconds=60)
    claim.commit(checkpoint="c", report=(2, 0.5), user_attributes={})
    second.claim(seconds=30)
    one, two = first.leases()
    assert (one.trial, one.host, one.device, one.attempt, one.epoch) == (
        0,
        socket.gethostname(),
        "cpu",
        1,
        2,
    )
    assert 30 < one.expires_in_seconds <= 60
    assert (two.trial, two.epoch) == (1, 0)
    assert 0 < two.expires_in_seconds <= 30
    expire_leases(sql)
    assert all(each.expires_in_seconds < 0 for each in first.leases())


# Commit, end, release


def test_a_commit_writes_report_checkpoint_attributes_and_renewal_together(url, first, sql):
    claim = first.claim()
    expire_leases(sql)
    claim.commit(checkpoint="trial/one", report=(1, 0.25), user_attributes={"epochs": 1, "weights": "w"})
    ((_, token, attempts, expires, checkpoint, epoch),) = sql(LEASE)
    assert (token, attempts, checkpoint, epoch) == (1, 0, "trial/one", 1)
    assert expires > time.time()
    assert trial(url).intermediate_values == {1: 0.25}
    assert trial(url).user_attrs == {"attempts": 1, "epochs": 1, "weights": "w"}
    claim.commit(checkpoint="trial/within", report=None, user_attributes={})
    ((_, _, _, _, checkpoint, epoch),) = sql(LEASE)
    assert (checkpoint, epoch) == ("trial/within", 1)


def test_a_commit_that_fails_halfway_writes_nothing(first, contents):
    claim = first.claim()
    before = contents()
    with pytest.raises(TypeError):
        claim.commit(checkpoint="c", report=(1, 0.5), user_attributes={"a": 1, "b": object()})
    assert contents() == before


def test_an_end_writes_state_value_and_attributes_and_releases_the_lease(url, first, sql):
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    for state in states:
        claim = first.claim()
        claim.commit(checkpoint="c", report=(1, 0.5), user_attributes={})
        claim.end(state, value=0.5, user_attributes={"why": "over"})
    found = plain(url).trials
    assert [(each.state, each.user_attrs["why"]) for each in found] == [(state, "over") for state in states]
    assert all(each.datetime_complete >= each.datetime_start for each in found)
    assert sql("SELECT value FROM trial_values") == [(0.5,)] * 3
    assert [(row[0], row[4]) for row in sql(LEASE)] == [(None, "c")] * 3
    assert first.leases() == []


def test_a_released_trial_keeps_number_settings_and_epochs_and_is_claimed_first(url, first, second, sql):
    claim = first.claim()
    with lease.keep_lease(claim):
        rate = optuna.Trial(first.study(), claim.trial_id).suggest_float("lr", 1e-4, 1.0, log=True)
        claim.commit(checkpoint="one", report=(1, 0.25), user_attributes={})
        started = trial(url).datetime_start
        claim.release()
    found = trial(url)
    assert (found.state, found.params, found.intermediate_values) == (
        TrialState.WAITING,
        {"lr": rate},
        {1: 0.25},
    )
    again = second.claim()
    assert (again.number, again.token, again.checkpoint) == (0, 2, "one")
    with lease.keep_lease(again):
        asked = optuna.Trial(second.study(), again.trial_id)
        assert asked.suggest_float("lr", 1e-4, 1.0, log=True) == rate
    found = trial(url)
    assert found.user_attrs["attempts"] == 2
    assert found.datetime_start == started


# Fences: a worker that lost its trial writes nothing


def write_calls(claim: lease.Claim, worker: Worker):
    """Return every call that writes about a claimed trial, by name."""
    study = worker.study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked = optuna.Trial(study, claim.trial_id)
    backend = worker.store
    number = claim.trial_id
    return {
        "commit": lambda: claim.commit(checkpoint="late", report=(9, 0.9), user_attributes={"late": 1}),
        "commit within an epoch": lambda: claim.commit(checkpoint="late", report=None, user_attributes={}),
        "end": lambda: claim.end(TrialState.COMPLETE, value=0.9, user_attributes={"late": 1}),
        "fail": lambda: claim.end(TrialState.FAIL),
        "suggest": lambda: asked.suggest_float("late", 0.0, 1.0),
        "report": lambda: asked.report(0.9, 9),
        "user attribute": lambda: asked.set_user_attr("late", 1),
        "system attribute": lambda: backend.set_trial_system_attr(number, "late", 1),
        "tell": lambda: backend.set_trial_state_values(number, TrialState.COMPLETE, [0.9]),
    }


WRITES = (
    "commit",
    "commit within an epoch",
    "end",
    "fail",
    "suggest",
    "report",
    "user attribute",
    "system attribute",
    "tell",
)


def check_writes_refused(claim: lease.Claim, worker: Worker, contents) -> None:
    """Check that every write raises LeaseLost, a release raises nothing, and neither changes the store."""
    with lease.keep_lease(claim):
        calls = write_calls(claim, worker)
        assert tuple(calls) == WRITES
        before = contents()
        for name, write in calls.items():
            with pytest.raises(LeaseLost):
                write()
            assert contents() == before, name
        claim.release()
        assert contents() == before


def test_every_write_of_the_owner_is_accepted(first):
    for name in WRITES:
        studies.create_study(first.store, lease_worker.definition(len(WRITES)), "text")
        claim = first.claim()
        with lease.keep_lease(claim):
            write_calls(claim, first)[name]()


def test_an_expired_lease_is_taken_over_and_the_old_owner_writes_nothing(url, first, second, sql, contents):
    late = first.claim()
    late.commit(checkpoint="one", report=(1, 0.25), user_attributes={})
    assert second.claim().number == 1
    expire_leases(sql)
    taken = second.claim()
    assert (taken.number, taken.token, taken.checkpoint) == (0, 2, "one")
    check_writes_refused(late, first, contents)
    taken.commit(checkpoint="two", report=(2, 0.5), user_attributes={})
    taken.end(TrialState.COMPLETE, value=0.5)
    check_writes_refused(late, first, contents)
    assert trial(url).intermediate_values == {1: 0.25, 2: 0.5}


def test_a_worker_whose_trial_was_released_and_claimed_again_writes_nothing(first, second, contents):
    claim = first.claim()
    claim.release()
    check_writes_refused(claim, first, contents)
    second.claim()
    check_writes_refused(claim, first, contents)


def test_a_trial_that_another_tool_ended_is_lost(url, first, contents):
    claim = first.claim()
    plain(url).tell(0, 0.75)  # as the dashboard does on request
    check_writes_refused(claim, first, contents)
    assert trial(url).value == 0.75


def test_a_released_trial_that_another_tool_started_is_lost(url, first, contents):
    claim = first.claim()
    claim.release()
    assert plain(url).ask().number == 0
    check_writes_refused(claim, first, contents)
    assert trial(url).state == TrialState.RUNNING


def test_a_trial_that_another_tool_reset_to_waiting_is_claimed_by_another_worker(
    url, first, second, contents, sql
):
    claim = first.claim()
    sql("UPDATE trials SET state = 'WAITING' WHERE number = 0")
    check_writes_refused(claim, first, contents)
    assert (second.claim().number, second.leases()[0].attempt) == (0, 2)
    check_writes_refused(claim, first, contents)


@pytest.mark.parametrize("tool", ["hpo", "plain Optuna"])
def test_a_trial_whose_study_is_deleted_is_lost(url, first, contents, tool):
    claim = first.claim()
    if tool == "hpo":
        studies.delete_study(first.store, NAME)
    else:
        optuna.delete_study(study_name=NAME, storage=url)
    assert not any(rows for table, rows in contents().items() if table not in ("version_info",))
    with pytest.raises(LeaseLost):
        claim.commit(checkpoint="late", report=(9, 0.9), user_attributes={"late": 1})
    with pytest.raises(LeaseLost):
        claim.end(TrialState.COMPLETE, value=0.9)
    claim.release()
    # SQLite reuses the ids of deleted rows; the late worker must not write to the new rows.
    studies.create_study(first.store, lease_worker.definition(3), "text")
    before = contents()
    with pytest.raises(LeaseLost):
        claim.commit(checkpoint="late", report=(9, 0.9), user_attributes={"late": 1})
    assert contents() == before
    another = dataclasses.replace(first.owner, pid=1, process="another")
    again = queue.claim_trial(first.store, first.study_id, another, lease_seconds=60, max_attempts=5)
    assert (again.number, again.token, again.checkpoint) == (0, 1, None)
    before = contents()
    for late in (lambda: claim.commit(report=(9, 0.9)), lambda: claim.end(TrialState.COMPLETE, value=0.9)):
        with pytest.raises(LeaseLost):
            late()
    claim.release()
    assert contents() == before
    again.commit(checkpoint="c", report=(1, 0.5))


def test_a_fence_is_removed_at_the_end_of_its_block(first):
    claim = first.claim()
    with lease.keep_lease(claim):
        assert first.store.fences
    assert not first.store.fences


# Renewal


def test_a_lease_is_renewed_inside_keep_lease(first, second, sql):
    claim = first.claim(seconds=2.0)
    with lease.keep_lease(claim):
        end = time.monotonic() + 2.2
        while time.monotonic() < end:
            taken = second.claim()
            assert taken is None or taken.number != 0
            time.sleep(0.1)
    assert first.leases()[0].attempt == 1


def test_a_lease_that_commits_renew_gets_no_other_renewal(first, monkeypatch):
    """The worker commits every second of a minute; time passes only while the renewing thread waits."""
    claim = first.claim(seconds=12.0)
    now, waits, commits, renewed = claim.last_renewal.at, [], 0, []
    minute_later = now + 60

    class Done(threading.Event):
        def wait(self, seconds: float) -> bool:
            nonlocal now, commits
            waits.append(seconds)
            end = now + seconds
            while now + 1 <= end:
                now += 1
                claim.commit(user_attributes={"commits": commits})
                commits += 1
            now = end
            return now > minute_later

    sa.event.listen(first.store.engine, "commit", renewed.append)
    monkeypatch.setattr(lease, "time", types.SimpleNamespace(monotonic=lambda: now))
    lease._renew_until_done(claim, Done())
    assert len(waits) >= 15
    assert len(renewed) == commits


def test_an_expired_lease_that_nobody_claimed_still_belongs_to_its_owner(url, first, sql):
    claim = first.claim(seconds=0.3)
    with lease.keep_lease(claim):
        expire_leases(sql)
        wait_for(lambda: sql("SELECT expires FROM hpo_leases")[0][0] > 1)
    expire_leases(sql)
    claim.commit(checkpoint="c", report=(1, 0.5), user_attributes={})
    expire_leases(sql)
    claim.end(TrialState.COMPLETE, value=0.5)
    assert trial(url).value == 0.5


def test_renewal_continues_after_errors(first, sql, caplog):
    claim = first.claim(seconds=0.3)
    with lease.keep_lease(claim):
        sql("ALTER TABLE hpo_leases RENAME TO elsewhere")
        wait_for(lambda: "not renewed" in caplog.text)
        sql("ALTER TABLE elsewhere RENAME TO hpo_leases")
        expire_leases(sql)
        wait_for(lambda: sql("SELECT expires FROM hpo_leases")[0][0] > 1)
    assert caplog.text.count("not renewed") == 1


# The clock


def test_a_lease_uses_the_databases_clock_and_not_the_workers(first, second, monkeypatch, sql):
    def wrong_time(*args: object) -> float:
        return 0.0

    monkeypatch.setattr(time, "time", wrong_time)
    claim = first.claim(seconds=60.0)
    now = "extract(epoch FROM clock_timestamp())"
    if first.store.engine.dialect.name == "sqlite":
        now = "(julianday('now') - 2440587.5) * 86400"
    ((left,),) = sql(f"SELECT expires - {now} FROM hpo_leases")
    assert 55 < left <= 60.001
    assert second.claim().number != claim.number


def test_a_sessions_time_zone_changes_nothing(url, first, monkeypatch):
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    try:
        other_zone = Worker(url)
        if url.startswith("postgresql"):
            with other_zone.store.engine.connect() as connection:
                assert connection.exec_driver_sql("SHOW timezone").scalar_one() == "Asia/Tokyo"
        mine = first.claim(seconds=60.0)
        assert claim_numbers(other_zone, 3) == [1, 2, None]
        assert [0 < each.expires_in_seconds <= 60 for each in first.leases()] == [True] * 3
        assert first.claim() is None
        mine.commit(checkpoint="c", report=None, user_attributes={})
    finally:
        monkeypatch.undo()
        time.tzset()


# Dead processes


@pytest.fixture
def sleeper():
    """Return a process of this machine that does nothing."""
    with subprocess.Popen(["sleep", "600"]) as child:
        yield child
        child.kill()


def set_owner_process(worker: Worker, pid: int) -> None:
    worker.owner = dataclasses.replace(worker.owner, pid=pid, process=process.process_name(pid))


def test_the_trial_of_a_dead_local_process_can_be_claimed_at_once(first, second, sleeper):
    set_owner_process(first, sleeper.pid)
    late = first.claim(seconds=3600)
    assert second.claim().number == 1
    sleeper.kill()
    wait_for(lambda: process.is_dead(first.owner.process))  # a zombie: nobody has waited for it yet
    taken = second.claim()
    assert (taken.number, taken.token) == (0, 2)
    with pytest.raises(LeaseLost):
        late.commit(checkpoint="c", report=None, user_attributes={})


@pytest.mark.parametrize("change", ["namespace", "none"])
def test_a_process_that_cannot_be_checked_keeps_its_lease_until_it_expires(first, second, sql, change):
    name = f"another-boot/pid:[1]/{2**22 + 1}/1" if change == "namespace" else ""
    first.owner = dataclasses.replace(first.owner, process=name)
    first.claim(seconds=3600)
    assert claim_numbers(second, 3) == [1, 2, None]
    expire_leases(sql)
    assert second.claim().number == 0


def test_a_process_that_reuses_an_id_does_not_keep_the_old_lease(first, second, sleeper):
    set_owner_process(first, sleeper.pid)
    there, _, started = first.owner.process.rpartition("/")
    first.owner = dataclasses.replace(first.owner, process=f"{there}/{int(started) - 1}")
    first.claim(seconds=3600)
    assert second.claim().number == 0


def test_a_stopped_process_is_not_dead(sleeper):
    name = process.process_name(sleeper.pid)
    assert name.startswith(process.process_namespace())
    sleeper.send_signal(signal.SIGSTOP)
    wait_for(lambda: " T " in Path(f"/proc/{sleeper.pid}/stat").read_text())
    assert not process.is_dead(name)
    sleeper.send_signal(signal.SIGCONT)


# The limit of attempts


def test_a_trial_whose_attempts_die_before_a_checkpoint_fails_with_the_reason(url, first, sql):
    for attempt in range(1, 4):
        claim = first.claim(max_attempts=3)
        assert (claim.number, claim.token) == (0, attempt)
        expire_leases(sql)
    assert first.claim(max_attempts=3).number == 1
    failed = trial(url)
    assert failed.state == TrialState.FAIL
    assert failed.user_attrs["failure"] == {
        "class": "lost",
        "message": "3 attempts in a row died without a new checkpoint",
    }
    assert failed.user_attrs["attempts"] == 3
    with pytest.raises(LeaseLost):
        claim.commit(checkpoint="late", report=None, user_attributes={})


def test_a_checkpoint_resets_the_count_of_attempts(first, sql):
    for _ in range(5):
        claim = first.claim(max_attempts=2)
        assert claim.number == 0
        claim.commit(checkpoint=f"c{claim.token}", report=None, user_attributes={})
        expire_leases(sql)


def test_a_released_attempt_is_not_counted_as_dead(first):
    for _ in range(5):
        claim = first.claim(max_attempts=2)
        assert claim.number == 0
        claim.release()


# Postgres: locks, and lost acknowledgements


# SQLite has a single lock, which every writer waits for, and no network.
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
