"""The version of our tables: an older store is upgraded by what writes, a newer one is refused.

``tests/data/versions/`` has a dump of a store of each older version, made by the last commit that had it
(``tests.support.store_dump``). Of its six trials the first is complete, the second pruned, the third
failed, the fourth released after an epoch, the fifth held by a worker that is gone, and the sixth waiting.
"""

import contextlib
import sqlite3
import threading

import optuna
import psycopg
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.errors import StoreError
from hpo.store import attempts, control, events, plan, status, studies, tables
from hpo.store.totals import read_totals
from hpo.store.vitals import read_vitals
from hpo.study.definition import Point
from tests.support.claims import Worker, expire_leases
from tests.support.lease_worker import NAME
from tests.support.workplace import ROOT

DUMPS = ROOT / "tests/data/versions"
COUNTS = {"waiting": 2, "running": 1, "complete": 1, "pruned": 1, "failed": 1}


@pytest.fixture(params=range(1, tables.VERSION))
def version(request):
    return request.param


@pytest.fixture
def older(url, version):
    """Return the URL of a store of an older version."""
    kind = "sqlite" if url.startswith("sqlite") else "postgresql"
    dump = (DUMPS / f"{version}-{kind}.sql").read_text()
    if kind == "sqlite":
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(dump)
    else:
        server = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(dump)
    return url


@pytest.fixture
def all_rows(older, sql):
    """Return a function that returns every row of every table that the store has."""
    engine = sa.create_engine(older, poolclass=sa.NullPool)
    return lambda: {
        name: sorted(map(repr, sql(f"SELECT * FROM {name}")))
        for name in sorted(sa.inspect(engine).get_table_names())
    }


def stored_version(sql):
    return sql("SELECT version FROM hpo_schema")


def test_a_new_store_has_the_present_version(first, sql):
    assert stored_version(sql) == [(tables.VERSION,)]


def found_trials(url: str) -> list[tuple[object, ...]]:
    """Return what plain Optuna reads of the trials."""
    study = optuna.load_study(study_name=NAME, storage=url)
    return [
        (t.number, t.state, t.values, t.params, t.user_attrs, t.intermediate_values) for t in study.trials
    ]


def finish(worker: Worker) -> list[int]:
    """Run every trial that is left, and return their numbers."""
    numbers = []
    while claim := worker.claim():
        claim.commit(report=(2, 0.6))
        claim.end(TrialState.COMPLETE, value=0.6)
        numbers.append(claim.number)
    return numbers


def test_a_verb_that_reads_shows_an_older_store_and_leaves_it_as_it_is(older, version, all_rows):
    before = all_rows()
    storage = studies.open_storage(older, create=False)
    study_id = studies.find_study_id(storage, NAME)
    now = status.read_status(storage, NAME)
    assert now.trials == COUNTS
    assert [(each.trial, each.epoch, each.report_seconds) for each in now.workers] == [(4, 1, None)]
    assert now.waiting_workers == ()
    assert read_vitals(storage, study_id).idle_seconds > 0
    assert read_totals(storage)[0].trials == COUNTS
    has_history = version >= 2
    assert len(attempts.read_attempts(storage, study_id)) == 5 * has_history
    assert [each.kind for each in events.read_events(storage, study_id)] == ["created"] * has_history
    assert all_rows() == before


def test_a_verb_that_writes_upgrades_an_older_store_and_every_trial_runs_once(older, version, sql):
    before = found_trials(older)
    storage = studies.open_storage(older, create=False)
    control.set_order(storage, NAME, plan.ORDER_PAUSED)
    assert stored_version(sql) == [(tables.VERSION,)]
    assert found_trials(older) == before
    control.set_order(storage, NAME, None)
    expire_leases(sql)
    assert finish(Worker(older)) == [3, 4, 5]
    assert status.read_status(storage, NAME).trials == COUNTS | {"complete": 4, "waiting": 0, "running": 0}
    assert found_trials(older)[:3] == before[:3]


def test_an_upgraded_store_has_the_tables_of_a_new_one(older, sql, tmp_path):
    tables.upgrade_store(studies.open_storage(older, create=False))
    inspected = sa.inspect(sa.create_engine(older, poolclass=sa.NullPool))
    for table in tables.leases.metadata.sorted_tables:
        if table.name.startswith("hpo_"):
            found = {column["name"]: column["nullable"] for column in inspected.get_columns(table.name)}
            assert found == {column.name: bool(column.nullable) for column in table.columns}, table.name


@pytest.mark.parametrize("version", [1], indirect=True)
def test_a_worker_of_version_1_runs_on_after_the_upgrade(older, sql):
    """It does not read the version, and writes the columns that it knows."""
    tables.upgrade_store(storage := studies.open_storage(older, create=False))
    sql("UPDATE trials SET state = 'RUNNING' WHERE number = 5")
    sql(
        "INSERT INTO hpo_leases (trial_id, study_id, owner, process, host, device, token, attempts, "
        "expires, renewed, epoch) SELECT trial_id, study_id, 'far/1', '', 'far', 'cpu', 1, 1, 1e12, 1e9, 0 "
        "FROM trials WHERE number = 5"
    )
    workers = status.read_status(storage, NAME).workers
    assert [(each.owner, each.report_seconds) for each in workers if each.trial == 5] == [("far/1", None)]


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
def test_what_writes_upgrades_an_older_store_and_keeps_what_is_in_it(older, sql, write):
    before = sorted(map(repr, sql("SELECT trial_id, token, owner FROM hpo_leases")))
    write(storage := studies.open_storage(older, create=False))
    assert stored_version(sql) == [(tables.VERSION,)]
    assert sorted(map(repr, sql("SELECT trial_id, token, owner FROM hpo_leases"))) == before
    control.set_order(storage, NAME, None)
    assert Worker(older).claim() is not None


def test_several_processes_that_upgrade_at_once_do_it_once(older, sql):
    stores = [studies.open_storage(older, create=False) for _ in range(6)]
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
    assert stored_version(sql) == [(tables.VERSION,)]


@pytest.mark.parametrize("version", [1], indirect=True)
def test_an_upgrade_that_fails_leaves_the_older_store(older, sql):
    sql("CREATE TABLE hpo_events (other INTEGER)")  # so that the second of the tables cannot be created
    with pytest.raises(StoreError, match="a table hpo_events, which tables of version 1 do not"):
        tables.upgrade_store(studies.open_storage(older, create=False))
    for table in ("hpo_attempts", "hpo_schema"):
        with pytest.raises(Exception, match=table):
            sql(f"SELECT * FROM {table}")


@pytest.mark.parametrize("change", ["DELETE FROM hpo_schema", "UPDATE hpo_schema SET version = -1"])
def test_a_wrong_version_is_told_in_one_line(first, sql, change):
    sql(change)
    with pytest.raises(StoreError, match="the version in hpo_schema is wrong") as refused:
        control.set_order(first.store, NAME, None)
    assert "\n" not in str(refused.value)


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
