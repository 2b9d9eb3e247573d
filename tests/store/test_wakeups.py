"""Workers that wait: what wakes them, and how many statements that costs."""

from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

import hpo
from hpo.artifacts.folders import Artifacts
from hpo.search import asha
from hpo.store import control, queue, studies
from hpo.store.wakeups import ChangeWatch
from hpo.workers import worker
from tests.support import history_workers, lease_worker, two_trials
from tests.support.claims import Worker, expire_leases
from tests.support.clocks import FastClock, do_nothing
from tests.support.history_workers import study_of
from tests.support.lease_worker import NAME
from tests.support.processes import wait_for


@pytest.fixture
def count_statements():
    """Return a function that returns how many statements this process has executed, without BEGIN."""
    executed: list[str] = []

    def note(connection, cursor, statement, *rest):
        if not statement.startswith("BEGIN"):
            executed.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    yield lambda: len(executed)
    sa.event.remove(sa.Engine, "before_cursor_execute", note)


def end(claimed) -> None:
    claimed.end(TrialState.COMPLETE, value=0.5)


def fail_and_retry(other, claimed) -> None:
    claimed.end(TrialState.FAIL)
    control.retry_trials(other.store, NAME, None)


CHANGES = {
    "a trial ends": lambda other, claimed: end(claimed),
    "a trial is released": lambda other, claimed: claimed.release(),
    "a failed trial is retried": fail_and_retry,
    "a setting is queued": lambda other, claimed: studies.enqueue_setting(
        other.store, NAME, lease_worker.definition(0, {"lr": 0.5}).points[0]
    ),
    "the study is extended": lambda other, claimed: studies.create_study(
        other.store, lease_worker.definition(9), "text"
    ),
    "the study is paused": lambda other, claimed: control.set_order(other.store, NAME, "paused"),
    "the study is deleted": lambda other, claimed: studies.delete_study(other.store, NAME),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_waiting_worker_is_woken_when(first, second, change):
    claimed = second.claim()
    with ChangeWatch(first.store, first.study_id) as watch:
        watch.wait(FastClock(0.0), do_nothing, rungs=(1,))  # the first wait ends at once
        watch.wait(calm := FastClock(30.0), do_nothing, rungs=(1,))
        assert calm.is_set()
        CHANGES[change](second, claimed)
        watch.wait(clock := FastClock(30.0), do_nothing, rungs=(1,))
    assert not clock.is_set()


def test_a_worker_that_waits_says_for_what(first, second, caplog):
    caplog.set_level("INFO", logger="hpo")
    second.claim()
    for order, told in (
        ("paused", "the study is paused; this worker waits until somebody resumes it"),
        (None, "no trial is free; this worker waits for one"),
    ):
        caplog.clear()
        control.set_order(second.store, NAME, order)
        with ChangeWatch(first.store, first.study_id) as watch:
            for _ in range(3):
                watch.wait(FastClock(2.0), do_nothing)
        assert caplog.messages == [told]


def test_a_report_at_a_rung_wakes_a_waiting_worker(with_tables):
    definition = study_of(2, pruner="asha")
    waiting = studies.open_storage(with_tables, create=True)
    studies.create_study(waiting, definition, "text")
    reporting = history_workers.Worker(with_tables, definition)
    rungs = reporting.history.rungs = asha.rungs_of(definition, reporting.history.priors)
    reporting.start()
    with ChangeWatch(waiting, reporting.history.study_id) as watch:
        watch.wait(FastClock(0.0), do_nothing, rungs.epochs)
        watch.wait(calm := FastClock(30.0), do_nothing, rungs.epochs)
        reporting.step()
        watch.wait(clock := FastClock(30.0), do_nothing, rungs.epochs)
    assert (calm.is_set(), clock.is_set()) == (True, False)


def test_a_waiting_worker_is_woken_when_a_lease_expires_or_its_owner_dies(first, second, sql):
    second.claim()
    with ChangeWatch(first.store, first.study_id) as watch:
        watch.wait(FastClock(0.0), do_nothing)
        sql("UPDATE hpo_leases SET process = :dead", dead=first.owner.process.rpartition("/")[0] + "/1")
        watch.wait(clock := FastClock(100.0), do_nothing)
        assert not clock.is_set(), "its owner has died"
        watch.wait(clock := FastClock(30.0), do_nothing)
        assert clock.is_set(), "that is known"
        expire_leases(sql)
        watch.wait(clock := FastClock(100.0), do_nothing)
        assert not clock.is_set(), "the lease has expired"


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_what_another_tool_queues_is_noticed(first, with_tables):
    with ChangeWatch(first.store, first.study_id) as watch:
        watch.wait(FastClock(0.0), do_nothing)
        optuna.load_study(study_name=NAME, storage=with_tables).enqueue_trial({"lr": 0.5})
        watch.wait(clock := FastClock(30.0), do_nothing)
    assert not clock.is_set()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_lost_connection_is_opened_again_and_closed_at_the_end(first, second, sql):
    sessions = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    claimed = second.claim()
    ((before,),) = sql(f"SELECT count(*) {sessions}")
    with ChangeWatch(first.store, first.study_id) as watch:
        watch.wait(FastClock(0.0), do_nothing)
        assert sql(f"SELECT count(*) {sessions}") == [(before + 1,)]
        sql(f"SELECT pg_terminate_backend(pid) {sessions}")
        wait_for(lambda: sql(f"SELECT count(*) {sessions}") == [(0,)])
        watch.wait(FastClock(10.0), do_nothing)
        watch.wait(FastClock(0.0), do_nothing)
        claimed.release()
        watch.wait(clock := FastClock(30.0), do_nothing)
        assert not clock.is_set()
        assert sql(f"SELECT count(*) {sessions}") == [(before + 1,)]
    wait_for(lambda: sql(f"SELECT count(*) {sessions}") == [(before,)])


def test_an_idle_worker_sends_at_most_a_statement_a_second_and_a_tenth_on_postgres(
    with_tables, tmp_path, monkeypatch, count_statements
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own.py").write_text(two_trials.OWN)
    Path("small.toml").write_text(two_trials.STUDY)
    hpo.create("small.toml", store=with_tables, artifacts=tmp_path / "artifacts")
    other, storage = Worker(with_tables), studies.open_storage(with_tables, create=False)
    study_id = studies.find_study_id(storage, "small")
    for _ in range(2):  # both trials
        queue.claim_trial(other.store, study_id, other.owner, lease_seconds=300, max_attempts=1)
    artifacts = Artifacts(str(tmp_path / "artifacts"))
    settings = worker.WorkerSettings(
        artifacts=artifacts,
        data=tmp_path,
        device="cpu",
        shown_as="cpu",
        lease_seconds=60,
    )
    clock, before = FastClock(1800.0), count_statements()
    assert [*worker.run_worker(storage, "small", settings, clock)] == []
    executed = count_statements() - before
    print(f"{executed} statements in {clock.waited:.0f} s")
    assert executed <= clock.waited * (1.0 if with_tables.startswith("sqlite") else 0.1)
