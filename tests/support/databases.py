"""Connections of tests to a store's database."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa


@contextlib.contextmanager
def closed_engines() -> Iterator[None]:
    """Close what the block's stores, Optuna's own among them, leave open to the garbage collector."""
    engines: set[sa.Engine] = set()

    def note(connection: sa.Connection) -> None:
        engines.add(connection.engine)

    sa.event.listen(sa.Engine, "engine_connect", note)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "engine_connect", note)
        for engine in engines:
            engine.dispose()


def plain_sql(url: str) -> Callable[..., list[tuple[Any, ...]]]:
    """Give a function that sends a database a statement with its values, and gives the rows found."""
    engine = sa.create_engine(url, pool_pre_ping=True)

    def ask(text: str, **values: Any) -> list[tuple[Any, ...]]:
        with engine.begin() as connection:
            found = connection.execute(sa.text(text), values)
            return [tuple(row) for row in found] if found.returns_rows else []

    return ask
