"""The version of our tables: an older store is upgraded by what writes, a newer one is refused."""

import threading

import pytest
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError

from hpo.errors import StoreError
from hpo.store import attempts, control, events, plan, status, studies, tables
from hpo.study.definition import Point
from tests.support.claims import Worker
from tests.support.lease_worker import NAME


@pytest.fixture
def old(url, first, sql):
    """Return a worker whose store has tables of version 1, in which it has a study with a claimed trial.

    What later versions added is taken away: tables and, in SQLite, triggers.
    """
    first.claim()
    sql("ALTER TABLE hpo_leases DROP COLUMN reported")
    parents = {"hpo_attempts": "trials", "hpo_events": "studies", "hpo_workers": "studies"}
    for table, parent in (*parents.items(), ("hpo_schema", None)):
        sql(f"DROP TABLE {table}")
        if parent is not None and url.startswith("sqlite"):
            sql(f"DROP TRIGGER {table}_of_{parent}")
    return first


def version(sql):
    return sql("SELECT version FROM hpo_schema")


def test_a_new_store_has_the_present_version(first, sql):
    assert version(sql) == [(tables.VERSION,)]


def test_reading_an_older_store_changes_nothing(url, old, contents, sql):
    with pytest.raises(Exception, match="hpo_schema"):
        version(sql)
    storage = studies.open_storage(url, create=False)
    assert status.read_status(storage, NAME).trials["running"] == 1
    assert attempts.read_attempts(storage, old.study_id) == []
    assert events.read_events(storage, old.study_id) == []
    with pytest.raises(Exception, match="hpo_schema"):
        version(sql)


@pytest.mark.parametrize(
    "write",
    [
        lambda store: control.set_order(store, NAME, plan.ORDER_PAUSED),
        lambda store: control.retry_trials(store, NAME, None),
        lambda store: studies.enqueue_setting(store, NAME, Point(setting={"lr": 0.5})),
        tables.upgrade_store,
    ],
    ids=["order", "retry", "enqueue", "worker"],
)
def test_what_writes_upgrades_an_older_store_and_keeps_what_is_in_it(url, old, sql, write):
    before = sql("SELECT trial_id, token, owner FROM hpo_leases")
    write(studies.open_storage(url, create=False))
    assert version(sql) == [(tables.VERSION,)]
    assert sql("SELECT trial_id, token, owner FROM hpo_leases") == before
    control.set_order(old.store, NAME, None)
    assert Worker(url).claim() is not None


def test_several_processes_that_upgrade_at_once_do_it_once(url, old, sql):
    stores = [studies.open_storage(url, create=False) for _ in range(6)]
    start, failed = threading.Barrier(len(stores)), []

    def upgrade(store):
        start.wait()
        try:
            tables.upgrade_store(store)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=upgrade, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert version(sql) == [(tables.VERSION,)]


def test_an_upgrade_that_fails_leaves_the_older_store(url, old, sql):
    sql("CREATE TABLE hpo_events (other INTEGER)")  # so that the second of the tables cannot be created
    with pytest.raises((sa.exc.SQLAlchemyError, StorageInternalError)):
        tables.upgrade_store(studies.open_storage(url, create=False))
    for table in ("hpo_attempts", "hpo_schema"):
        with pytest.raises(Exception, match=table):
            sql(f"SELECT * FROM {table}")


def test_a_newer_store_is_refused_in_one_line(url, first, sql):
    sql("UPDATE hpo_schema SET version = 99")
    for create in (False, True):
        with pytest.raises(StoreError, match=r"to version 99; this one knows .* update hpo") as refused:
            studies.open_storage(url, create=create)
        assert "\n" not in str(refused.value)


def test_a_worker_whose_store_is_upgraded_writes_nothing_more_and_can_release_its_trial(first, sql):
    claim = first.claim()
    claim.commit(report=(1, 0.5))
    sql("UPDATE hpo_schema SET version = 99")
    with pytest.raises(StoreError, match="a newer hpo"):
        claim.commit(report=(2, 0.6))
    claim.release("the store was upgraded")
    assert sql("SELECT owner, epoch FROM hpo_leases") == [(None, 1)]
