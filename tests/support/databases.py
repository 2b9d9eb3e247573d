"""Database connections of the tests."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from alembic.script import ScriptDirectory

_load_migrations = ScriptDirectory.from_config


def cache_migrations() -> None:
    """Let this process compile Optuna's migrations once.

    Optuna does so up to three times for each store that it opens, 0.1 s of CPU time each.
    """
    found: dict[str | None, ScriptDirectory] = {}

    def load_once(config: Any) -> ScriptDirectory:
        folder = config.get_main_option("script_location")
        if folder not in found:
            found[folder] = _load_migrations(config)
        return found[folder]

    ScriptDirectory.from_config = load_once


_collections: list[set[sa.Engine]] = []


# Registered once: SQLAlchemy's listeners may not change while another thread connects.
@sa.event.listens_for(sa.Engine, "engine_connect")
def _collect_engine(connection: sa.Connection) -> None:
    for engines in tuple(_collections):
        engines.add(connection.engine)


@contextlib.contextmanager
def closed_engines() -> Iterator[None]:
    """Dispose of every SQLAlchemy engine that the block uses, those of Optuna included."""
    engines: set[sa.Engine] = set()
    _collections.append(engines)
    try:
        yield
    finally:
        # By identity: two sets that are equal are still two blocks.
        _collections[:] = [each for each in _collections if each is not engines]
        for engine in engines:
            engine.dispose()


def plain_sql(url: str) -> Callable[..., list[tuple[Any, ...]]]:
    """Return a function that executes a statement with its parameters and returns the rows."""
    engine = sa.create_engine(url, pool_pre_ping=True)

    def execute(text: str, **values: Any) -> list[tuple[Any, ...]]:
        with engine.begin() as connection:
            result = connection.execute(sa.text(text), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    return execute
