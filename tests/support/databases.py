"""Database connections of the tests."""

import contextlib
import threading
import weakref
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


_known_engines: weakref.WeakSet[sa.Engine] = weakref.WeakSet()
_listeners: list[Callable[[sa.Engine, bool], None]] = []  # get an engine, and whether it is new


# Registered once: SQLAlchemy's listeners may not change while another thread connects.
@sa.event.listens_for(sa.Engine, "engine_connect")
def _note_engine(connection: sa.Connection) -> None:
    is_new = connection.engine not in _known_engines
    _known_engines.add(connection.engine)
    for listener in tuple(_listeners):
        listener(connection.engine, is_new)


@contextlib.contextmanager
def closed_engines(*, new: bool = False) -> Iterator[None]:
    """Dispose of every SQLAlchemy engine that the block uses, those of Optuna included.

    Args:
        new: Dispose only of engines that this thread uses for the first time; other threads may be using
            the others, whose connections would never be closed.
    """
    engines: set[sa.Engine] = set()
    thread = threading.get_ident()

    def note(engine: sa.Engine, is_new: bool) -> None:
        if not new or (is_new and threading.get_ident() == thread):
            engines.add(engine)

    _listeners.append(note)
    try:
        yield
    finally:
        _listeners.remove(note)
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
