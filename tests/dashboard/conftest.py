"""Fixtures of the tests of the dashboard."""

import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.artifacts.folders import Artifacts
from hpo.store import studies
from hpo.study.file import point_from_texts
from tests.support.dashboard_study import OWN, behind_gate, create_and_run


@pytest.fixture
def artifacts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dashboard_app_objective.py").write_text(OWN)
    (tmp_path / "broken").touch()
    return Artifacts(str(tmp_path / "artifacts"))


@pytest.fixture
def storage(url, artifacts):
    return create_and_run(url, artifacts, "small")


@pytest.fixture
def read_only_app(url, storage, artifacts):
    """Return the dashboard behind its gate with default settings, on a read-only connection."""
    return behind_gate(url, artifacts, read_only=True)


@pytest.fixture
def read_write_app(url, storage, artifacts):
    """Return the dashboard behind its gate with --read-write."""
    return behind_gate(url, artifacts, read_only=False)


@pytest.fixture
def rows(sql, url):
    """Return a function that returns every row of every table."""
    tables = sa.inspect(sa.create_engine(url, poolclass=sa.NullPool))
    names = sorted(tables.get_table_names())
    assert "hpo_leases" in names
    return lambda: {name: sorted(map(repr, sql(f"SELECT * FROM {name}"))) for name in names}


@pytest.fixture
def waiting(storage):
    """Enqueue a trial, number 3 with id 4, that no worker has claimed."""
    studies.enqueue_setting(
        storage, "small", point_from_texts(studies.read_definition(storage, "small"), ["speed=9"])
    )
    (trial,) = storage.get_all_trials(1, states=(TrialState.WAITING,))
    assert (trial.number, trial._trial_id) == (3, 4)
