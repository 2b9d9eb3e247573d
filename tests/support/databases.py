"""Database connections of the tests."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa


@contextlib.contextmanager
def closed_engines() -> Iterator[None]:
    """Dispose of every SQLAlchemy engine that the block uses, those of Optuna included."""
    engines: set[sa.Engine] = set()

    def add_engine(connection: sa.Connection) -> None:
        engines.add(connection.engine)

    sa.event.listen(sa.Engine, "engine_connect", add_engine)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "engine_connect", add_engine)
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
