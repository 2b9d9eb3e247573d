"""Optuna's storage as hpo extends it: retries, private interfaces, Optuna's own suite."""

import concurrent.futures
import contextlib
import functools
import inspect
import subprocess
import sys
import threading
import time

import optuna
import pytest
import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb import storage as rdb
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState

from hpo.retry import MAX_WAIT_SECONDS
from hpo.store import studies
from hpo.store.storage import Storage
from tests.support import postgres
from tests.support.databases import closed_engines
from tests.support.lease_worker import NAME
from tests.support.stored_study import check_refused, make_definition


def test_two_deadlocked_transactions_both_succeed_even_without_retrying(cluster):
    with postgres.database(cluster) as url, closed_engines():
        storage = studies.open_storage(url, create=True)
        studies.create_study(storage, make_definition(2), "text")
        both, tried = threading.Barrier(2), []

        def work(first, second):
            with storage.transaction() as session:
                session.execute(sa.text("UPDATE trials SET state = state WHERE number = :n"), {"n": first})
                tried.append(first)
                if tried.count(first) == 1:
                    both.wait(10)
                session.execute(sa.text("UPDATE trials SET state = state WHERE number = :n"), {"n": second})

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            jobs = (functools.partial(work, 0, 1), functools.partial(work, 1, 0))
            for future in [pool.submit(storage.retry, job, 0.0) for job in jobs]:
                future.result(30)
    assert len(tried) == 3, "one of the two was aborted and retried"


# A database that is unavailable


def test_retrying_is_bounded_and_ends_sooner_after_a_request_to_stop(monkeypatch):
    with postgres.running() as server, closed_engines():
        storage = studies.open_storage(server.url, create=True)
        studies.create_study(storage, make_definition(), "text")
        server.stop()
        begun = time.monotonic()
        tried = []

        def ask():
            tried.append(time.monotonic() - begun)
            with storage.transaction() as session:
                session.execute(sa.text("SELECT 1"))

        check_refused(lambda: storage.retry(ask), "127.0.0.1")
        assert len(tried) == 1, "what somebody waits for is tried once"
        storage.max_wait_seconds = MAX_WAIT_SECONDS
        check_refused(lambda: storage.retry(ask, max_wait_seconds=1.0), "127.0.0.1")
        assert 1.0 <= tried[-1] < 100
        assert len(tried) >= 3
        monkeypatch.setattr("hpo.store.storage.STOPPING_WAIT_SECONDS", 0.2)
        storage.stop.set()
        check_refused(lambda: studies.read_definition(storage, NAME), "127.0.0.1")
        storage.stop.clear()
        thread = threading.Timer(0.3, server.start)
        thread.start()
        assert studies.read_definition(storage, NAME) == make_definition()
        assert [trial.state for trial in storage.get_all_trials(1)] == [TrialState.WAITING] * 3
        thread.join()


def test_an_invalid_statement_is_not_retried(storage):
    tried = []

    def ask():
        tried.append(1)
        with storage.transaction() as session:
            session.execute(sa.text("SELECT no_such_function()"))

    with pytest.raises(optuna.exceptions.StorageInternalError):
        storage.retry(ask)
    assert len(tried) == 1


# Assumptions about Optuna


def test_optunas_private_interfaces_that_hpo_uses_are_unchanged(storage):
    """A version of Optuna that changes one of these must be reviewed before it is allowed."""
    known = {
        RDBStorage._set_trial_param: ["trial_id", "param_name", "param_value_internal", "distribution"],
        RDBStorage._get_best_trial_id: ["study_id", "direction"],
        RDBStorage._get_trials: ["study_id", "states", "included_trial_ids", "trial_id_greater_than"],
    }
    for function, first in known.items():
        assert list(inspect.signature(function).parameters)[1 : len(first) + 1] == first
    session = inspect.signature(rdb._create_scoped_session)
    assert list(session.parameters) == ["scoped_session", "ignore_integrity_error"]
    # One session per thread: Optuna's next write is committed together with ours.
    session = storage.scoped_session()
    assert storage.scoped_session() is session
    session.close()
    columns = {
        "studies": {"study_id", "study_name"},
        "trials": {"trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete"},
        "trial_params": {"trial_id", "param_name", "param_value", "distribution_json"},
        "trial_system_attributes": {"trial_id", "key", "value_json"},
    }
    for table, names in columns.items():
        assert names <= set(models.BaseModel.metadata.tables[table].c.keys())


def test_every_write_method_of_optunas_storage_is_fenced(storage):
    """Each method of Optuna's storage that changes a trial is refused when the trial's fence refuses."""
    changing = {name for name in dir(RDBStorage) if name.startswith(("set_trial", "_set_trial"))}
    staged = {name for name in changing if name.endswith("without_commit")}
    overridden = {name for name in changing - staged if name in vars(Storage)}
    assert changing - staged - overridden == {"set_trial_param"}  # which calls _set_trial_param


def test_the_store_does_not_import_torch():
    code = "import sys; from hpo.store import lease, studies; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def shared(request, tmp_path_factory):
    """Return a storage for all of Optuna's tests."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(closed_engines())
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('shared')}/hpo.db"
        else:
            url = stack.enter_context(postgres.database(request.getfixturevalue("cluster")))
        yield studies.open_storage(url, create=True)


class TestOptunasOwnSuite(StorageTestCase):
    """Optuna's own tests for storages."""

    @pytest.fixture
    def storage(self, shared):
        yield shared
        with shared.transaction() as session:
            for table in reversed(models.BaseModel.metadata.sorted_tables):
                if table.name != "version_info":
                    session.execute(sa.delete(table))
