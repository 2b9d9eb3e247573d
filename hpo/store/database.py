"""The database below a store: its URL, the set-up of connections, and the creation of tables.

SQLite and Postgres are set up to give the same guarantee: of two transactions that want the same trial, one
waits or skips the trial, and neither works on what it read before the other committed.

* **SQLite** ignores SELECT ... FOR UPDATE. So a transaction that writes takes the write lock when it begins
  (``Storage`` says BEGIN IMMEDIATE), and others wait for it up to a minute.
* **Postgres** locks rows. A connection notices within seconds that the network is gone, and the server
  closes a session that is idle within a transaction. Otherwise a worker that is suspended or cut off there
  would keep its row locks, and with them its trial, for as long as that lasts.

A pooler such as PgBouncer may give each transaction another session of the server. Behind one, nothing of
ours lives longer than a transaction: settings are sent with its BEGIN, in the same message, and statements
are not prepared on the server, which otherwise saves it a third of its time. Advisory locks always end with
their transaction.
"""

import contextlib
import fcntl
import re
import sqlite3
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

from hpo.errors import StoreError, quote_value

LOCK_TIMEOUT_SECONDS = 60  # how long a statement waits for another process's lock
IDLE_IN_TRANSACTION_SECONDS = 15  # how long Postgres lets a session be idle within a transaction
STUDIES_LOCK = 0x68706F  # Postgres advisory lock that guards the creation of studies; "hpo" in ASCII
# Guards the creation of tables. It is another lock, because its holder needs a second connection, which
# those who wait for the lock above must not hold.
TABLES_LOCK = STUDIES_LOCK + 1
UPGRADE_LOCK = STUDIES_LOCK + 2  # guards the upgrade of our tables, also while the lock above is held

# What may follow the "?" of a store's URL. Everything else that libpq accepts is left out, because it can
# lead to another place than the URL says (host, hostaddr, port, dbname, service) or bring in what it should
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
# Names and addresses, several of them separated by commas; a part of a name has 63 characters at most.
HOST = re.compile(r"(?:[\w:%-]{1,63}(?:[.,]|$)){1,64}")
SQLITE_MODES = ("ro", "rw", "rwc")

NETWORK_DISKS = ("nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "glusterfs", "fuse.sshfs", "beegfs")

# From some thousand trials on, Postgres would compile a claim to machine code, which takes longer than the
# claim itself.
POSTGRES_SETTINGS = (
    f"lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'",
    f"idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_SECONDS}s'",
    "jit = off",
)


def parse_url(text: str) -> sa.URL:
    """Parse and check a store's URL.

    Args:
        text: A URL such as ``sqlite:///storage/hpo.db`` or ``postgresql://user@host/db``.

    Returns:
        The URL; ``~`` and ``~user`` at the start of an SQLite path are expanded.

    Raises:
        StoreError: It is no URL of an SQLite file or a Postgres database, something is not allowed after
            its "?", or a user after ``~`` has no home. The message never contains a password.
    """
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        given = "" if "@" in text else f" {quote_value(text)}"  # with an "@" it may contain a password
        raise StoreError(
            f"--store{given}: not a URL; want sqlite:///storage/hpo.db or postgresql://user@host/db "
            "(--store or HPO_STORE)"
        ) from None
    if url.drivername not in ("sqlite", "postgresql", "postgresql+psycopg"):
        raise StoreError(
            f"--store {quote_value(url.drivername)}: want sqlite:///path or postgresql://user@host/db"
        )
    if url.drivername != "sqlite":
        _check_postgres(url)
        return url
    _check_sqlite(url)
    return url.set(database=_expand_home(str(url.database)))


def _expand_home(path: str) -> str:
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        home = quote_value(path.partition("/")[0])
        raise StoreError(
            f"--store: {home} has no home folder; write the path out, or begin it with ./"
        ) from None


def _check_sqlite(url: sa.URL) -> None:
    if url.database in (None, "", ":memory:"):
        raise StoreError("--store sqlite: name a file, as in sqlite:///storage/hpo.db")
    if url.host or url.username:
        raise StoreError(
            "--store sqlite: want three slashes before a relative path, four before an absolute one"
        )
    if "\0" in str(sqlite_file(url)):
        raise StoreError("--store sqlite: a file's name cannot contain a zero byte")
    query = dict(url.query)
    if query and (query.pop("mode", None) not in SQLITE_MODES or query != {"uri": "true"}):
        raise StoreError(
            f"--store sqlite: found ?{'&'.join(url.query)}; only the mode of a file: URI is allowed there, "
            "as in sqlite:///file:PATH?mode=ro&uri=true"
        )


def _check_postgres(url: sa.URL) -> None:
    if "@" in (url.host or ""):  # what stands before it would be shown as part of the host
        raise StoreError("--store postgresql: write an '@' within the password as %40")
    if url.host and not HOST.fullmatch(url.host):
        raise StoreError(f"--store postgresql: {quote_value(url.host)} is no host's name or address")
    if url.port is not None and not 1 <= url.port <= 65535:
        raise StoreError(f"--store postgresql: want a port from 1 to 65535, found {url.port}")
    if unknown := [key for key in url.query if key not in POSTGRES_KEYS]:
        raise StoreError(
            f"--store postgresql: ?{unknown[0]} is not allowed; user, host, port and database stand before "
            f"the '?', a password also in PGPASSWORD or ~/.pgpass; allowed: {', '.join(POSTGRES_KEYS)}"
        )


def hide_password(url: sa.URL) -> str:
    """Return a URL's text for logs and messages, with the password replaced by asterisks."""
    return url.render_as_string(hide_password=True)


def without_password(url: sa.URL) -> str:
    """Return a URL's text without its password, which libpq then takes from PGPASSWORD or ~/.pgpass."""
    return url._replace(password=None).render_as_string()


def sqlite_file(url: sa.URL) -> Path | None:
    """Return the file of an SQLite store, also of a ``file:`` URI; None for Postgres."""
    if url.get_backend_name() != "sqlite":
        return None
    name = str(url.database)
    # As SQLite reads such a URI: its path is percent-encoded, and a host before it is ignored.
    return Path(urllib.parse.unquote(urllib.parse.urlsplit(name).path) if "uri" in url.query else name)


def existing_url(url: sa.URL, *, read_only: bool = False) -> sa.URL:
    """Return the URL that opens an SQLite file only if it exists; Postgres's is unchanged.

    Otherwise SQLite would replace a file that is deleted while hpo runs by an empty one.

    Args:
        url: The store's URL. A mode in it stays, unless it would allow more.
        read_only: Only read the file (for Postgres see ``set_up_postgres``).
    """
    path = sqlite_file(url)
    if path is None:
        return url
    mode = "ro" if read_only or url.query.get("mode") == "ro" else "rw"
    name = f"file:{urllib.parse.quote(str(path.absolute()))}"
    return url.set(database=name, query={"mode": mode, "uri": "true"})


def engine_kwargs(url: sa.URL) -> dict[str, Any]:
    """Return the arguments of SQLAlchemy's ``create_engine`` for a store's connections.

    The drivers stay in autocommit mode, so that we decide about BEGIN. On Postgres there is no ping before
    a connection is used. After a network failure the ping would fail, and so, after its own timeout of
    three seconds, would the new connection. A request that meets a dead connection is retried anyway.
    """
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": LOCK_TIMEOUT_SECONDS, "isolation_level": None}}
    return {
        # A worker's threads share one connection. When it is in use, the thread that renews the lease gets
        # a second one for that time: a commit that hangs must not cost the lease.
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


def set_up_postgres(engine: sa.Engine, *, read_only: bool = False) -> None:
    """Make an engine send our settings to Postgres: with each connection, or behind a pooler each BEGIN.

    Args:
        engine: An engine for Postgres.
        read_only: Let its transactions refuse every write.
    """

    def connect(connection: psycopg.Connection[Any], record: Any) -> None:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        # A pooler answers a new connection itself, with another process id than the one that then works.
        record.info["pooled"] = row is None or row[0] != connection.info.backend_pid
        if not record.info["pooled"]:
            refuse_writes = ("default_transaction_read_only = on",) if read_only else ()
            connection.execute("; ".join(f"SET {each}" for each in (*POSTGRES_SETTINGS, *refuse_writes)))
            connection.autocommit, connection.prepare_threshold = False, 5

    def begin(connection: sa.Connection) -> None:
        if connection.info["pooled"]:
            first = "BEGIN READ ONLY" if read_only else "BEGIN"
            settings = (f"SET LOCAL {each}" for each in POSTGRES_SETTINGS)
            connection.exec_driver_sql("; ".join([first, *settings]))

    sa.event.listen(engine, "connect", connect)
    sa.event.listen(engine, "begin", begin)


def create_engine(url: sa.URL) -> sa.Engine:
    """Return an engine for a few statements; it keeps no connection open between them.

    On SQLite each of its statements commits by itself.
    """
    kwargs = {k: v for k, v in engine_kwargs(url).items() if k == "connect_args"}
    engine = sa.create_engine(url, poolclass=sa.NullPool, **kwargs)
    if url.get_backend_name() != "sqlite":
        set_up_postgres(engine)
    return engine


@contextlib.contextmanager
def lock_table_creation(url: sa.URL) -> Iterator[None]:
    """Within the block, keep other processes that call this from creating tables in the same database.

    If six processes start at once, plain Optuna fails in most of them. Others wait, however long it takes.
    The lock ends with its holder: a file's with the process, Postgres's with the transaction. For SQLite it
    creates the folder of the file, and a file ``*.lock`` in it, which stays.

    Args:
        url: The database's URL.

    Yields:
        Nothing, once the lock is held.

    Raises:
        OSError: The folder or the lock's file cannot be made.
        sqlalchemy.exc.SQLAlchemyError: Postgres cannot be reached or refuses.
    """
    path = sqlite_file(url)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        return
    # Polled rather than waited for: through a pooler, those who wait would hold the connections that the
    # lock's holder needs.
    while True:
        with create_engine(url).begin() as connection:
            if connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(TABLES_LOCK))):
                # Otherwise the server would close this session for being idle within a transaction.
                connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
                yield
                return
        time.sleep(0.05)


def choose_journal(connection: sa.Connection) -> None:
    """Set an SQLite file's journal: the write-ahead log where this SQLite writes it correctly.

    Meant for a new file, in which the choice is stored. On Postgres it does nothing.

    With a write-ahead log no reader waits for a writer. But from 3.7.0 on SQLite could corrupt a file in
    that mode when several connections wrote to it. 3.51.3, 3.50.7 and 3.44.6 fixed that, so later versions
    of these series, and all after 3.51, get the log. With others, such as 3.40.1 of Debian 12, the file
    keeps the journal that it has, and a new one has a rollback journal.
    """
    if connection.dialect.name == "sqlite" and is_wal_sound(sqlite3.sqlite_version_info):
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")


def network_disk(path: Path, mounts: str | None = None) -> str | None:
    """Return the kind of network disk that a file is, or would be, on.

    Args:
        path: The file; it need not exist. Symbolic links are not followed.
        mounts: The content of /proc/self/mounts; None reads that file.

    Returns:
        One of ``NETWORK_DISKS``; None for any other disk, or if the system has no /proc/self/mounts.
    """
    table = Path("/proc/self/mounts")
    if mounts is None:
        mounts = table.read_text() if table.exists() else ""
    found = {}
    for line in mounts.splitlines():
        _, place, kind, *_ = line.split()
        if path.absolute().is_relative_to(place.replace("\\040", " ")):
            found[len(place)] = kind  # of two disks mounted in one place, the later one counts
    kind = found[max(found)] if found else ""
    return kind if kind in NETWORK_DISKS else None


def journal_mode(path: Path) -> str | None:
    """Return an SQLite file's journal mode (``delete``, ``wal``); None if SQLite cannot read the file."""
    where = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(where, uri=True)) as connection:
            return str(connection.execute("PRAGMA journal_mode").fetchone()[0])
    except sqlite3.Error:
        return None


def is_wal_sound(version: tuple[int, ...]) -> bool:
    """Tell whether an SQLite of this version writes the write-ahead log correctly."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def sync_every_commit(connection: sqlite3.Connection, _record: object) -> None:
    """Make a new SQLite connection sync every commit to disk, whatever the default of this SQLite is.

    Otherwise a power failure could take back an epoch and leave the store with the name of a checkpoint
    whose file was removed when the next one came.
    """
    connection.execute("PRAGMA synchronous = FULL")
