"""What a database's errors mean: unavailable for a while, refused, or a bug of ours.

Optuna wraps SQLAlchemy's exceptions, and SQLAlchemy those of the driver. Every function here searches the
whole chain of causes.
"""

import sqlite3
from collections.abc import Iterator

import psycopg
import sqlalchemy as sa

# What the user can correct: permissions, a full disk, a file that is no database.
REFUSED_BY_POSTGRES = (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)
REFUSED_BY_SQLITE = (
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
)


def is_unavailable(error: BaseException) -> bool:
    """Tell whether an error may pass by itself: no connection, a lock held for too long, a deadlock.

    On Postgres that is every operational error, and so also a wrong password or a full disk.
    """
    for link in _error_chain(error):
        if isinstance(link, sa.exc.DBAPIError):
            busy = _sqlite_code(link.orig) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            absent = isinstance(link.orig, psycopg.OperationalError | psycopg.InterfaceError)
            return busy or absent or link.connection_invalidated
    return False


def is_deadlock(error: BaseException) -> bool:
    """Tell whether Postgres rolled a transaction back to let another one go on that it blocked."""
    return any(
        isinstance(getattr(link, "orig", None), psycopg.errors.DeadlockDetected)
        for link in _error_chain(error)
    )


def is_refusal(error: BaseException) -> bool:
    """Tell whether the database refused something for a reason that the user can correct.

    On Postgres: a missing permission, or a write in a read-only transaction. On SQLite also a full or
    failing disk, and a file that cannot be opened, is damaged, or is no database.
    """
    for link in _error_chain(error):
        if isinstance(link, sa.exc.DBAPIError):
            refused = isinstance(link.orig, REFUSED_BY_POSTGRES)
            return refused or _sqlite_code(link.orig) in REFUSED_BY_SQLITE
    return False


def driver_message(error: BaseException) -> str:
    """Return the first line of what the database's driver said.

    If the driver said nothing, that is the class of its error; without a driver's error, ``error`` itself
    takes its place.
    """
    for link in _error_chain(error):
        if isinstance(link, sa.exc.DBAPIError):
            lines = str(link.orig).strip().splitlines()
            return lines[0] if lines else type(link.orig).__name__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _sqlite_code(error: BaseException | None) -> int | None:
    """Return an SQLite error's primary code: its low byte, without the detail above it."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF


def _error_chain(error: BaseException | None) -> Iterator[BaseException]:
    # Optuna may meet a second error while it handles the first, so the context counts too.
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
