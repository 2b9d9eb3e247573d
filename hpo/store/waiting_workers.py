"""The workers of a study that have no trial now: those that start, and those that wait for one.

A worker that runs a trial is known by its lease. While it has none, it renews a row of its own, so that a
paused study, whose workers wait for 'hpo resume', does not look dead. The row is for people alone: what a
worker may do never depends on it. It expires like a lease, and the worker removes it at its end.
"""

import contextlib
import functools
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from hpo.errors import StoreError, StoreUnavailable
from hpo.store import attributes, process, tables
from hpo.store.lease_table import database_time
from hpo.store.process import Owner
from hpo.store.rows import dialect_of
from hpo.store.storage import Storage, retrying
from hpo.store.tables import workers

STARTING_SECONDS = 600.0  # a worker that starts may look through its images for minutes

log = logging.getLogger("hpo")


@dataclass(frozen=True, kw_only=True)
class WaitingWorker:
    """A living worker without a trial.

    Attributes:
        owner: Host and process id.
        host: The worker's host.
        device: The device that it trains on.
        silent_seconds: Since its last sign of life; 0 at least.
    """

    owner: str
    host: str
    device: str
    silent_seconds: float


class Presence:
    """What a worker tells of itself while it has no trial.

    Args:
        storage: The storage that the study is in.
        study_id: Optuna's id of the study.
        owner: The worker.
        lease_seconds: How long it may be silent before it counts as dead.
    """

    def __init__(self, storage: Storage, study_id: int, owner: Owner, lease_seconds: float) -> None:
        self._storage, self._study_id, self.owner = storage, study_id, owner
        self._lease_seconds, self._renewed_at = lease_seconds, -math.inf

    def renew(self) -> None:
        """Tell that the worker lives, if half of its time has passed since it last did."""
        now, is_first = time.monotonic(), math.isinf(self._renewed_at)
        if now - self._renewed_at < self._lease_seconds / 2:
            return
        self._renewed_at = now
        seconds = max(self._lease_seconds, STARTING_SECONDS) if is_first else self._lease_seconds
        try:
            _write(self._storage, self._study_id, self.owner, seconds)
        except StoreUnavailable:
            pass  # whatever the worker waits for tells it, too
        except StoreError as error:
            log.warning("'hpo status' does not show this worker while it waits: %s", error)
            self._renewed_at = math.inf


@contextlib.contextmanager
def tell_presence(
    storage: Storage, study_id: int, owner: Owner, lease_seconds: float
) -> Iterator[Presence]:
    """Within the block, a worker can tell that it lives; at its end it is gone. See ``Presence``."""
    presence = Presence(storage, study_id, owner, lease_seconds)
    presence.renew()
    try:
        yield presence
    finally:
        with contextlib.suppress(StoreError):
            _remove(storage, study_id, owner)


@functools.cache
def _write_statement(dialect: str) -> Any:
    now = database_time(dialect)
    names = ("study_id", "owner", "process", "host", "device")
    row = {name: sa.bindparam(name, type_=workers.c[name].type) for name in names}
    times = {"renewed": now, "expires": now + sa.bindparam("seconds", type_=sa.Double)}
    insert = (sqlite if dialect == "sqlite" else postgresql).insert(workers).inline()
    insert = insert.values(**row, **times)
    changed = {name: insert.excluded[name] for name in ("process", "host", "device", "renewed", "expires")}
    return insert.on_conflict_do_update(index_elements=["study_id", "owner"], set_=changed)


@retrying(max_wait_seconds=0)
def _write(storage: Storage, study_id: int, owner: Owner, seconds: float) -> None:
    row = {"study_id": study_id, "owner": owner.name, "seconds": seconds}
    row |= {name: getattr(owner, name) for name in ("process", "host", "device")}
    with storage.transaction() as session:
        session.execute(_write_statement(dialect_of(session)), row)


@retrying(max_wait_seconds=0)
def _remove(storage: Storage, study_id: int, owner: Owner) -> None:
    """Remove a worker's row, and those of workers that died a lease or longer ago."""
    with storage.transaction() as session:
        long_dead = workers.c.expires < database_time(dialect_of(session))
        gone = (workers.c.owner == owner.name) | long_dead
        session.execute(sa.delete(workers).where(workers.c.study_id == study_id, gone))


@retrying(reads=True)
def read_waiting_workers(storage: Storage, study_id: int) -> list[WaitingWorker]:
    """Read the living workers of a study that had no trial when they last told of themselves, by name.

    A worker that has claimed a trial since then is among them for a while; its lease says so.

    Args:
        storage: The storage that the study is in.
        study_id: Optuna's id of the study.

    Returns:
        A record for each; none in a store that is older than the table.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    with storage.transaction() as session:
        if tables.is_missing(session, workers):
            return []
        now = database_time(dialect_of(session))
        living = sa.select(workers, now.label("now")).where(
            workers.c.study_id == study_id, workers.c.expires > now
        )
        found = session.execute(living.order_by(workers.c.owner)).all()
    return [
        WaitingWorker(
            owner=row.owner,
            host=row.host,
            device=row.device,
            silent_seconds=round(max(row.now - row.renewed, 0.0), 3),
        )
        for row in found
        if not process.is_dead(row.process)
        and all(map(attributes.is_text, (row.owner, row.host, row.device)))
        and attributes.is_moment(row.renewed)
    ]
