"""The database below a store: what its URL may say, how its connections are set up, what its errors mean.

SQLite and Postgres are made to give the same promise: of two transactions that want the same trial, one
waits or passes it by, and neither works on what it read before the other committed.

* **SQLite** ignores SELECT ... FOR UPDATE, so a transaction that writes takes the write lock as it begins
  (``Store``'s BEGIN IMMEDIATE), and whoever finds it taken waits a minute.
* **Postgres** locks rows. A connection notices within seconds that the network is gone, and the server
  ends a session that sleeps within a transaction: a worker that is stopped or cut off there would
  otherwise keep its row locks, and with them its trial, for as long as it sleeps.

A pooler such as PgBouncer may give each transaction another of the server's sessions. Behind one, nothing
of ours lives longer than a transaction: settings come with its BEGIN, in the same message, and statements
are not prepared on the server, which otherwise spares it a third of its time. Advisory locks always end
with their transaction.
"""

import contextlib
import fcntl
import sqlite3
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

from hpo.errors import StoreError

LOCK_TIMEOUT_SECONDS = 60  # how long a statement waits for another process's lock
IDLE_IN_TRANSACTION_SECONDS = 15  # how long Postgres lets a session sleep within a transaction
STUDIES_LOCK = 0x68706F  # Postgres advisory lock that guards the making of studies; "hpo" in ASCII
# Of tables: whoever holds it needs a second connection, which those who wait for the other must not hold.
TABLES_LOCK = STUDIES_LOCK + 1

# What may follow the "?" of a store's URL. Everything else that libpq knows is left out, since it can
# lead elsewhere than the URL says (host, hostaddr, port, dbname, service) or bring in what it should
# not (password, passfile, options).
POSTGRES_KEYS = (
    "application_name",
    "channel_binding",
    "gssencmode",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "target_session_attrs",
)
SQLITE_MODES = ("ro", "rw", "rwc")

NETWORK_DISKS = ("nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "glusterfs", "fuse.sshfs", "beegfs")

# What a person can put right: rights, a full disk, a file that is no database.
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


def parse_url(text: str) -> sa.URL:
    """Read a store's URL; raises StoreError, never with the password, for what is no store of ours."""
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        given = "" if "@" in text else f" {text}"  # which may hold a password
        raise StoreError(
            f"--store{given}: no URL; want sqlite:///storage/hpo.db or postgresql://user@host/db "
            "(--store or HPO_STORE)"
        ) from None
    if url.drivername not in ("sqlite", "postgresql", "postgresql+psycopg"):
        raise StoreError(f"--store {url.drivername}: want sqlite:///path or postgresql://user@host/db")
    if url.drivername != "sqlite":
        _check_postgres(url)
        return url
    _check_sqlite(url)
    if url.database and url.database.startswith("~/"):
        return url.set(database=str(Path(url.database).expanduser()))
    return url


def _check_sqlite(url: sa.URL) -> None:
    if url.database in (None, "", ":memory:"):
        raise StoreError("--store sqlite: name a file, as in sqlite:///storage/hpo.db")
    if url.host or url.username:
        raise StoreError("--store sqlite: want three slashes before a relative path, four before another")
    query = dict(url.query)
    if query and (query.pop("mode", None) not in SQLITE_MODES or query != {"uri": "true"}):
        raise StoreError(
            f"--store sqlite: found ?{'&'.join(url.query)}; the one thing allowed there is a file: URI's "
            "mode, as in sqlite:///file:PATH?mode=ro&uri=true"
        )


def _check_postgres(url: sa.URL) -> None:
    if "@" in (url.host or ""):  # and what stands before it would be shown as part of the host
        raise StoreError("--store postgresql: an '@' within the password is written %40")
    if unknown := [key for key in url.query if key not in POSTGRES_KEYS]:
        raise StoreError(
            f"--store postgresql: ?{unknown[0]} is not allowed; user, host, port and database stand before "
            f"the '?', a password also in PGPASSWORD or ~/.pgpass; allowed: {', '.join(POSTGRES_KEYS)}"
        )


def hide_password(url: sa.URL) -> str:
    """Give a URL as it may be shown: without its password."""
    return url.render_as_string(hide_password=True)


def without_password(url: sa.URL) -> str:
    """Give a URL's text without its password, which libpq then takes from PGPASSWORD or ~/.pgpass."""
    return url._replace(password=None).render_as_string()


def sqlite_file(url: sa.URL) -> Path | None:
    """Give the file of an SQLite store; None on Postgres."""
    if url.get_backend_name() != "sqlite":
        return None
    return Path(str(url.database).removeprefix("file:") if "uri" in url.query else str(url.database))


def read_only_url(url: sa.URL) -> sa.URL:
    """Give the URL that only reads an SQLite file; Postgres is told so by ``listen``."""
    path = sqlite_file(url)
    if path is None:
        return url
    name = str(url.database) if "uri" in url.query else f"file:{urllib.parse.quote(str(path.absolute()))}"
    return url.set(database=name, query={"mode": "ro", "uri": "true"})


def engine_kwargs(url: sa.URL) -> dict[str, Any]:
    """Give SQLAlchemy's settings for a store's connections.

    The drivers are left in autocommit, so that BEGIN is ours to say. On Postgres there is no
    ping before use: after a cut it would fail unheard, and the new connection that follows it takes its own
    three seconds to fail. What a dead connection refuses is asked again anyway.
    """
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": LOCK_TIMEOUT_SECONDS, "isolation_level": None}}
    return {
        # A worker's threads share a connection. The one that renews the lease has another, for as long as
        # it takes, where it finds it in use: a commit that hangs must not cost the lease.
        "pool_size": 1,
        "max_overflow": 1,
        "connect_args": {
            "connect_timeout": 3,
            "keepalives": 1,
            "keepalives_idle": 2,
            "keepalives_interval": 1,
            "keepalives_count": 3,
            "tcp_user_timeout": 4000,
            "autocommit": True,
            "prepare_threshold": None,
        },
    }


# Compiling a claim to machine code, as Postgres does from some thousand trials on, takes longer than it.
POSTGRES_SETTINGS = (
    f"lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'",
    f"idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_SECONDS}s'",
    "jit = off",
)


def set_up_postgres(engine: sa.Engine, *, read_only: bool = False) -> None:
    """Have an engine set up its connections to Postgres, or, behind a pooler, each transaction."""

    def connect(connection: psycopg.Connection[Any], record: Any) -> None:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        # A pooler greets us by itself, as a process that is not the one that works for us.
        record.info["pooled"] = row is None or row[0] != connection.info.backend_pid
        if not record.info["pooled"]:
            only = (*POSTGRES_SETTINGS, *(("default_transaction_read_only = on",) if read_only else ()))
            connection.execute("; ".join(f"SET {each}" for each in only))
            connection.autocommit, connection.prepare_threshold = False, 5

    def begin(connection: sa.Connection) -> None:
        if connection.info["pooled"]:
            first = "BEGIN READ ONLY" if read_only else "BEGIN"
            connection.exec_driver_sql(
                "; ".join([first, *(f"SET LOCAL {each}" for each in POSTGRES_SETTINGS)])
            )

    sa.event.listen(engine, "connect", connect)
    sa.event.listen(engine, "begin", begin)


def create_engine(url: sa.URL) -> sa.Engine:
    """Make an engine for a few statements; nothing stays open between them."""
    kwargs = {k: v for k, v in engine_kwargs(url).items() if k == "connect_args"}
    made = sa.create_engine(url, poolclass=sa.NullPool, **kwargs)
    if url.get_backend_name() != "sqlite":
        set_up_postgres(made)
    return made


@contextlib.contextmanager
def lock_table_creation(url: sa.URL) -> Iterator[None]:
    """Let one process at a time create tables: of six that start at once, plain Optuna fails in most.

    Both locks go with their holder: the file's with the process, Postgres's with the transaction.
    """
    path = sqlite_file(url)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        return
    # Asked again rather than waited for: through a pooler, those who wait would hold the connections that
    # whoever has the lock needs.
    while True:
        with create_engine(url).begin() as connection:
            if connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(TABLES_LOCK))):
                # The server would end this session for sleeping within a transaction.
                connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
                yield
                return
        time.sleep(0.05)


def choose_journal(connection: sa.Connection) -> None:
    """Choose a new SQLite file's journal: the write-ahead log where this SQLite writes it soundly.

    No reader waits for a writer then. But from 3.7.0 on SQLite could spoil a file in that mode when several
    connections wrote to it, until that was mended in 3.51.3, 3.50.7 and 3.44.6; all others, such as Debian
    12's 3.40.1, keep the rollback journal. The choice is stored in the file.
    """
    if connection.dialect.name == "sqlite" and is_wal_sound(sqlite3.sqlite_version_info):
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")


def network_disk(path: Path, mounts: str | None = None) -> str | None:
    """Give the kind of network disk (nfs4, cifs) that a file is on, or would be; None on a local one.

    ``mounts`` is what Linux says in /proc/self/mounts; where there is no such file, nothing is known.
    """
    table = Path("/proc/self/mounts")
    if mounts is None:
        mounts = table.read_text() if table.exists() else ""
    found = {}
    for line in mounts.splitlines():
        _, place, kind, *_ = line.split()
        if path.absolute().is_relative_to(place.replace("\\040", " ")):
            found[len(place)] = kind  # of two that are mounted in one place the later one counts
    kind = found[max(found)] if found else ""
    return kind if kind in NETWORK_DISKS else None


def journal_mode(path: Path) -> str | None:
    """Give an SQLite file's kind of journal ("delete", "wal"); None if there is no file."""
    if not path.exists():
        return None
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def is_wal_sound(version: tuple[int, ...]) -> bool:
    """Tell whether an SQLite of this version can be trusted with a write-ahead log."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def sync_every_commit(connection: sqlite3.Connection, _record: object) -> None:
    """Have every commit of a new SQLite connection synced, whatever this SQLite was built to do.

    A power cut that took back an epoch would leave the store with the name of a checkpoint whose file was
    removed for the next one's.
    """
    connection.execute("PRAGMA synchronous = FULL")


def is_unavailable(error: BaseException) -> bool:
    """Tell whether an error passes by itself: no connection, a lock held for too long, a deadlock."""
    for link in _error_chain(error):
        if isinstance(link, sa.exc.DBAPIError):
            busy = _sqlite_code(link.orig) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            absent = isinstance(link.orig, psycopg.OperationalError | psycopg.InterfaceError)
            return busy or absent or link.connection_invalidated
    return False


def is_deadlock(error: BaseException) -> bool:
    """Tell whether Postgres rolled a transaction back, so that another one which it blocked can go on."""
    return any(
        isinstance(getattr(link, "orig", None), psycopg.errors.DeadlockDetected)
        for link in _error_chain(error)
    )


def is_refusal(error: BaseException) -> bool:
    """Tell whether the database said no to something that is no bug of ours: rights, disk, a bad file."""
    for link in _error_chain(error):
        if isinstance(link, sa.exc.DBAPIError):
            refused = isinstance(link.orig, REFUSED_BY_POSTGRES)
            return refused or _sqlite_code(link.orig) in REFUSED_BY_SQLITE
    return False


def _sqlite_code(error: BaseException | None) -> int | None:
    """Give an SQLite error's code; its low byte, since the rest says how it came about."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF


def driver_message(error: BaseException) -> str:
    """Give what the database's driver said, in one line."""
    for link in _error_chain(error):
        if isinstance(link, sa.exc.DBAPIError):
            lines = str(link.orig).strip().splitlines()
            return lines[0] if lines else type(link.orig).__name__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _error_chain(error: BaseException | None) -> Iterator[BaseException]:
    # Optuna wraps what SQLAlchemy raises, and may meet a second error while it looks for a way round.
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
