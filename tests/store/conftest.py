"""Fixtures of the tests of the store."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from hpo.store import database, studies
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
