"""Fixtures of the tests of the store."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from hpo.store import database, studies
from tests.support import lease_worker
from tests.support.claims import Worker
from tests.support.databases import closed_engines


@pytest.fixture
def with_tables(
    url: str, once: Callable[[str, Callable[[Path], None]], Path], monkeypatch: pytest.MonkeyPatch
) -> str:
    """Return the URL of a store without studies.

    On SQLite, its tables are copied, not created again, and commits of this process do not wait for
    the disk.
    """

    def skip_sync(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    monkeypatch.setattr(database, "sync_every_commit", skip_sync)

    def create(folder: Path) -> None:
        with closed_engines():
            studies.open_storage(f"sqlite:///{folder}/hpo.db", create=True)

    if url.startswith("sqlite"):
        shutil.copy(once("empty-store", create) / "hpo.db", url.removeprefix("sqlite:///"))
    return url


@pytest.fixture
def storage(with_tables):
    return studies.open_storage(with_tables, create=True)


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
    ours = ["hpo_leases", "hpo_attempts", "hpo_events", "hpo_workers", "hpo_rung_losses"]
    tables = [*studies.models.BaseModel.metadata.tables, *ours]
    return lambda: {table: sorted(map(repr, sql(f"SELECT * FROM {table}"))) for table in tables}
