"""Our own tables beside Optuna's: their columns, their version, and how an older store gets what it lacks.

The version of the tables is a row in the database. Version 1 had the leases only, and no such row.
Version 2 added attempts and events, version 3 the workers, when a trial last reported, and what trials have
reached at rungs. A verb that
writes upgrades an older store, in one transaction; a verb that reads takes it as it is. A newer store is
refused. A worker finds out in its next write (``Claim.fence``): it then releases its trial and ends.

Every upgrade so far only adds, so workers of version 1, which do not read the version, run on. What they do
is missing in what was added.

Deleting a trial or a study, with whatever tool, deletes our rows about it: SQLite gives the ids of deleted
rows to new ones, which must not inherit them. SQLite's own connections enforce no foreign keys, but run
triggers.
"""

from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models
from sqlalchemy.orm import Session

from hpo.errors import StoreError, StoreUnavailable
from hpo.store import database
from hpo.store.storage import Storage

VERSION = 3

_OURS = sa.MetaData()
_TRIAL_ID = models.TrialModel.__table__.c.trial_id
_STUDY_ID = models.StudyModel.__table__.c.study_id

leases = sa.Table(
    "hpo_leases",
    _OURS,
    sa.Column(
        "trial_id", sa.ForeignKey(_TRIAL_ID, ondelete="CASCADE"), primary_key=True, autoincrement=False
    ),
    sa.Column("study_id", sa.Integer, nullable=False, index=True),
    sa.Column("owner", sa.Text),  # host and process id; NULL: nobody holds the lease
    sa.Column("process", sa.Text),  # the unique name of the owner's process (``process.process_name``)
    sa.Column("host", sa.Text),
    sa.Column("device", sa.Text),
    sa.Column("token", sa.Integer, nullable=False),  # the number of the attempt, from 1
    sa.Column("attempts", sa.Integer, nullable=False),  # attempts in a row without a new checkpoint
    sa.Column("expires", sa.Double, nullable=False),  # seconds since 1970, by the database's clock
    sa.Column("renewed", sa.Double, nullable=False),  # the owner's last sign of life, by the same clock
    sa.Column("checkpoint", sa.Text),  # name of the last committed checkpoint
    sa.Column("epoch", sa.Integer, nullable=False),  # the last reported epoch
    # When this attempt last reported an epoch or, before that, began; NULL: not known
    sa.Column("reported", sa.Double),
)

attempts = sa.Table(
    "hpo_attempts",
    _OURS,
    sa.Column(
        "trial_id", sa.ForeignKey(_TRIAL_ID, ondelete="CASCADE"), primary_key=True, autoincrement=False
    ),
    sa.Column("token", sa.Integer, primary_key=True, autoincrement=False),  # as in the lease
    sa.Column("study_id", sa.Integer, nullable=False, index=True),
    sa.Column("owner", sa.Text, nullable=False),  # host and process id
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("hardware", sa.Text, nullable=False),  # what the device is
    sa.Column("versions", sa.Text, nullable=False),  # of hpo, torch and Python, as JSON
    sa.Column("began", sa.Double, nullable=False),  # seconds since 1970, by the database's clock
    sa.Column("ended", sa.Double),  # by the same clock; NULL: it runs, or died and nobody has noticed
    sa.Column("epochs", sa.Integer),  # the last reported epoch when it ended
    sa.Column("outcome", sa.Text),
    sa.Column("reason", sa.Text),
)

events = sa.Table(
    "hpo_events",
    _OURS,
    sa.Column("event_id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.ForeignKey(_STUDY_ID, ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("moment", sa.Double, nullable=False),  # seconds since 1970, by the database's clock
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("trial", sa.Integer),  # number of the trial that it is about; NULL: about the study
    sa.Column("actor", sa.Text, nullable=False),  # user and host
    sa.Column("detail", sa.Text, nullable=False),
)

# Worker processes while they have no trial: a lease speaks for the others.
workers = sa.Table(
    "hpo_workers",
    _OURS,
    sa.Column(
        "study_id", sa.ForeignKey(_STUDY_ID, ondelete="CASCADE"), primary_key=True, autoincrement=False
    ),
    sa.Column("owner", sa.Text, primary_key=True),  # host and process id
    sa.Column("process", sa.Text, nullable=False),  # as in the lease
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("renewed", sa.Double, nullable=False),  # the last sign of life, by the database's clock
    sa.Column("expires", sa.Double, nullable=False),  # by the same clock
)

# What trials have reached at the rungs of their studies (``rung_losses``).
rung_losses = sa.Table(
    "hpo_rung_losses",
    _OURS,
    sa.Column(
        "trial_id", sa.ForeignKey(_TRIAL_ID, ondelete="CASCADE"), primary_key=True, autoincrement=False
    ),
    sa.Column("rung", sa.Integer, primary_key=True, autoincrement=False),  # epochs
    sa.Column("study_id", sa.Integer, nullable=False),
    sa.Column("loss", sa.Double, nullable=False),
    sa.Index("hpo_rung_losses_order", "study_id", "rung", "loss", "trial_id"),
)

schema = sa.Table("hpo_schema", _OURS, sa.Column("version", sa.Integer, nullable=False))


def _delete_with(table: sa.Table, parent: str, key: str) -> None:
    """Let SQLite delete the rows of a table with the row of Optuna's that they are about."""
    sa.event.listen(
        table,
        "after_create",
        sa.DDL(  # type: ignore[no-untyped-call]  # SQLAlchemy's oversight
            f"CREATE TRIGGER {table.name}_of_{parent} AFTER DELETE ON {parent} "
            f"BEGIN DELETE FROM {table.name} WHERE {key} = OLD.{key}; END"
        ).execute_if(dialect="sqlite"),
    )


_delete_with(leases, "trials", "trial_id")
_delete_with(attempts, "trials", "trial_id")
_delete_with(events, "studies", "study_id")
_delete_with(workers, "studies", "study_id")
_delete_with(rung_losses, "trials", "trial_id")

READ_VERSION = sa.select(schema.c.version)


def read_version(connection: sa.Connection) -> int:
    """Return the version of a database's tables; 0 if it has none of ours.

    Args:
        connection: A connection to the database; it only reads.
    """
    found = sa.inspect(connection)
    if found.has_table(schema.name):
        stated = connection.execute(READ_VERSION).scalar()
        return 1 if stated is None else int(stated)
    return 1 if found.has_table(leases.name) else 0


def is_missing(session: Session, table: sa.Table) -> bool:
    """Return whether a store is older than one of our tables."""
    return not sa.inspect(session.connection()).has_table(table.name)


class _NameTaken(StoreError):
    """There is a table already that an upgrade would create."""


def _check_absence(connection: sa.Connection, table: sa.Table, version: int) -> None:
    if sa.inspect(connection).has_table(table.name):
        raise _NameTaken(
            f"the store has a table {table.name}, which tables of version {version} do not have: rename it "
            "if it is another program's; otherwise the version in hpo_schema is wrong: restore a copy"
        )


def check_version(version: int) -> None:
    """Check that this program knows the version of a store's tables.

    Raises:
        StoreError: A newer version of hpo has made or upgraded them.
    """
    if version > VERSION:
        raise StoreError(
            f"a newer hpo has upgraded the store's tables to version {version}; "
            f"this one knows them up to version {VERSION}: update hpo on this machine"
        )


def upgrade(session: Session) -> None:
    """Create what the database's tables lack, within the caller's transaction.

    Of several processes that do so at once, one does, and the others wait for it.

    Args:
        session: The session of a transaction that is to write. It has locked no row yet.

    Raises:
        StoreError: A newer version of hpo has upgraded the tables, or one of their names is taken.
        sqlalchemy.exc.SQLAlchemyError: The database refuses, as it does for a role that may not create
            tables.
    """
    connection = session.connection()
    version = read_version(connection)
    if version < VERSION and connection.dialect.name == "postgresql":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(database.UPGRADE_LOCK)))
        version = read_version(connection)
    check_version(version)
    for needed, tables in _TABLES_SINCE.items():
        if version < needed:
            for table in tables:
                _check_absence(connection, table, version)
                table.create(connection)
    for needed, columns in _COLUMNS_SINCE.items():
        if 0 < version < needed:
            for column in columns:
                session.execute(sa.text(_add_statement(connection, column)))
    if version < VERSION:
        session.execute(sa.delete(schema))
        session.execute(sa.insert(schema), {"version": VERSION})


def upgrade_store(storage: Storage) -> None:
    """Upgrade a store in a transaction of its own, as ``upgrade`` does.

    Raises:
        StoreUnavailable: The database is unavailable.
        StoreError: The database refuses, or a newer version of hpo has upgraded the tables.
    """
    version = storage.retry(lambda: _read_stored_version(storage))
    check_version(version)
    if version == VERSION:
        return
    try:
        storage.retry(lambda: _upgrade_in_transaction(storage))
    except (StoreUnavailable, _NameTaken):
        raise
    except StoreError as error:
        raise StoreError(
            f"{error}; the store's tables have version {version}, this hpo needs version {VERSION}: let "
            "their owner run a verb that writes, such as 'hpo resume NAME', and then pipe "
            "'hpo doctor --sql grants' into psql"
        ) from error


def _read_stored_version(storage: Storage) -> int:
    with storage.read_only_transactions(), storage.transaction() as session:
        return read_version(session.connection())


def _upgrade_in_transaction(storage: Storage) -> None:
    with storage.transaction() as session:
        upgrade(session)


def _add_statement(connection: sa.Connection, column: sa.Column[Any]) -> str:
    kind = column.type.compile(connection.dialect)
    return f"ALTER TABLE {column.table.name} ADD COLUMN {column.name} {kind}"


# The tables that each version added, and the columns that it added to tables of version 1.
_TABLES_SINCE: dict[int, tuple[Any, ...]] = {
    1: (leases,),
    2: (attempts, events, schema),
    3: (workers, rung_losses),
}
_COLUMNS_SINCE: dict[int, tuple[Any, ...]] = {3: (leases.c.reported,)}
