"""The lease protocol step by step, with its crash windows, on real databases.

Workers are two stores in one process here; ``acceptance/test_lease_processes.py`` uses real processes.
The tests check what the protocol guarantees with plain SQL or plain Optuna.
"""

import dataclasses
import threading
import time
import types

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.store import lease, queue, studies
from hpo.store.lease import LeaseLost
from tests.support import lease_worker
from tests.support.claims import LEASE, Worker, claim_numbers, expire_leases, trial
from tests.support.lease_worker import NAME
from tests.support.processes import wait_for
from tests.support.stored_study import plain

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
    lease.renew_until_done(claim, Done())
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
    assert "invalid data" not in caplog.text
    assert "hpo_leases" in caplog.text, "it says what the database said"


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
