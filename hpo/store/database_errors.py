"""What a database's errors mean: unavailable for a while, refused, or a bug of ours.

Optuna wraps SQLAlchemy's exceptions, and SQLAlchemy those of the driver. Every function here searches the
whole chain of causes.

Postgres tells by an error's SQLSTATE what happened. A connection that fails has none, only a text: what the
server or libpq says in English is known here. A text that is not known counts as unavailable, because a
worker that waits in vain does less harm than one that gives up.
"""

import re
import sqlite3
from collections.abc import Iterator

import psycopg
import sqlalchemy as sa

from hpo.errors import StoreError, StoreUnavailable
from hpo.store import database

# SQLSTATEs of Postgres, or their first characters. First what may pass by itself: the connection, a
# rollback, resources (memory, connections), a lock, a shutdown.
PASSING_STATES = ("08", "40", "53", "55", "57")
# What does not pass by itself, whatever its class: access, a database, table or column that is missing, a
# read-only server, a full or failing disk, a damaged file.
LASTING_STATES = (
    "28",
    "3D",
    "3F",
    "42501",
    "42P01",
    "42703",
    "25006",
    "53100",
    "57P04",
    "58",
    "XX001",
    "XX002",
)

# The same for a connection that fails: what the text contains, and what the user can do.
_PASSWORD = "set PGPASSWORD or ~/.pgpass, or check the user and password of --store"
_LASTING_TEXTS = {
    # Before libpq has tried to connect: a value of the URL, or of a PG variable, is wrong.
    r"connection is bad: (?!connection to server)": "check --store and the variables PG*",
    r"authentication failed|no password supplied|no such user|role \".*\" does not exist": _PASSWORD,
    r"not permitted to log in": "let the role log in (ALTER ROLE ... LOGIN), or name another in --store",
    r"no pg_hba\.conf entry": "allow this host, user and database in the server's pg_hba.conf",
    r"database \".*\" does not exist|no such database": "create it, or check its name in --store",
    r"permission denied for database": "grant CONNECT on it to the user of --store",
    r"does not support SSL|certificate|channel binding": "check sslmode, sslrootcert and so on in --store",
}

_MISSING_TABLE = "its tables are missing: it was emptied or replaced since it was opened"
_ROLES = "see 'Use Postgres' in the documentation"
_OWNER_MAY = f"hpo_owner may, if --store names it ({_ROLES})"
_NOT_READ_ONLY = f"hpo_worker may run trials, hpo_owner everything, if --store names it ({_ROLES})"
_NOT_GRANTED = (
    "the owner pipes 'hpo doctor --sql grants' into psql, after the first study and after each upgrade "
    f"({_ROLES})"
)
# What hpo_worker, and of reads hpo_viewer, may do once the rights are granted: see ``grants.sql``.
_GRANTED = re.compile(
    r"SELECT (?!.*\bFOR )|(INSERT INTO|UPDATE) hpo_(leases|attempts|workers)\b", re.DOTALL
)
_RIGHTS_STATES = ("42501", "25006")  # a right is missing, or the role's transactions are read-only
_ADVICE_BY_STATE = {
    "25006": _NOT_READ_ONLY,
    "42501": _OWNER_MAY,
    "42P01": _MISSING_TABLE,
    "53100": "free some space on the server",
}

LASTING_BY_SQLITE = {
    sqlite3.SQLITE_PERM: "",
    sqlite3.SQLITE_READONLY: "the file and its folder must be writable",
    sqlite3.SQLITE_IOERR: "",
    sqlite3.SQLITE_CORRUPT: "the file is damaged or was overwritten: restore a copy of it",
    sqlite3.SQLITE_FULL: "free some space",
    sqlite3.SQLITE_CANTOPEN: "it must be a file that can be read and written, in a folder that exists",
    sqlite3.SQLITE_NOTADB: "choose another file, or restore a copy of it",
}
_SQLITE_MOVED = 0x408  # SQLITE_READONLY_DBMOVED


def store_error(url: sa.URL, error: BaseException) -> StoreError | None:
    """Return the error for users that a database's error means, with what can be done about it.

    Args:
        url: The database's URL, which the text names without its password.
        error: What SQLAlchemy or Optuna raised.

    Returns:
        A ``StoreUnavailable`` for what may pass by itself, another ``StoreError`` for what the user has to
        correct; None if it is neither, but a bug.
    """
    message = f"store {database.hide_password(url)}: {_denied_role(url, error)}{driver_message(error)}"
    advice = _lasting_advice(error)
    if advice is not None:
        return StoreError(f"{message}; {advice}" if advice else message)
    return StoreUnavailable(message) if is_unavailable(error) else None


def is_unavailable(error: BaseException) -> bool:
    """Tell whether an error may pass by itself: no connection, a lock held for too long, a deadlock."""
    link = _driver_error(error)
    if link is None or _lasting_advice(error) is not None:
        return False
    if isinstance(link.orig, psycopg.OperationalError | psycopg.InterfaceError):
        state = link.orig.sqlstate
        return state is None or state.startswith(PASSING_STATES)
    busy = _sqlite_code(link.orig) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return busy or link.connection_invalidated


def is_deadlock(error: BaseException) -> bool:
    """Tell whether Postgres rolled a transaction back to let another one go on that it blocked."""
    return any(
        isinstance(getattr(link, "orig", None), psycopg.errors.DeadlockDetected)
        for link in _error_chain(error)
    )


def driver_message(error: BaseException) -> str:
    """Return the first line of what the database's driver said.

    If the driver said nothing, that is the class of its error; without a driver's error, ``error`` itself
    takes its place.
    """
    link = _driver_error(error)
    found = error if link is None or link.orig is None else link.orig
    lines = str(found).strip().splitlines()
    return lines[0] if lines else type(found).__name__


def _lasting_advice(error: BaseException) -> str | None:
    """Return what the user can do about an error that does not pass by itself; None if it may pass."""
    link = _driver_error(error)
    found = None if link is None else link.orig
    if isinstance(found, psycopg.errors.InsufficientPrivilege) and _GRANTED.match(
        str(link and link.statement)
    ):
        return _NOT_GRANTED
    if isinstance(found, psycopg.Error):
        return _postgres_advice(found)
    code = getattr(found, "sqlite_errorcode", None)
    if code == _SQLITE_MOVED:
        return "the file was moved or deleted since it was opened"
    if code == sqlite3.SQLITE_ERROR and re.search("no such (table|column)", str(found)):
        return _MISSING_TABLE
    return LASTING_BY_SQLITE.get(_sqlite_code(found) or sqlite3.SQLITE_OK)


def _postgres_advice(error: psycopg.Error) -> str | None:
    if error.sqlstate is not None:
        if not error.sqlstate.startswith(LASTING_STATES):
            return None
        return _ADVICE_BY_STATE.get(error.sqlstate, "")
    if isinstance(error, psycopg.ProgrammingError):  # libpq cannot read the URL
        return "check --store"
    text = str(error)
    return next((advice for known, advice in _LASTING_TEXTS.items() if re.search(known, text)), None)


def _denied_role(url: sa.URL, error: BaseException) -> str:
    """Return whom Postgres denied a right, as the beginning of a message; "" for another error."""
    link = _driver_error(error)
    if link is None or getattr(link.orig, "sqlstate", None) not in _RIGHTS_STATES:
        return ""
    defaults = {each.keyword: each.val for each in psycopg.pq.Conninfo.get_defaults()}
    role = (
        url.username or (defaults[b"user"] or b"").decode()
    )  # as libpq connects: PGUSER, the system's user
    return f"role '{role}' may not do this: "


def _driver_error(error: BaseException) -> sa.exc.DBAPIError | None:
    return next((link for link in _error_chain(error) if isinstance(link, sa.exc.DBAPIError)), None)


def _sqlite_code(error: BaseException | None) -> int | None:
    """Return an SQLite error's primary code: its low byte, without the detail above it."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF


def _error_chain(error: BaseException | None) -> Iterator[BaseException]:
    # Optuna may meet a second error while it handles the first, so the context counts too.
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
