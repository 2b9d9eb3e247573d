"""The table of events: what people did to a study, such as creating, extending, pausing or retrying it.

Each is written in the transaction that does it. What happened to a trial's attempts is in ``attempts``.
"""

import functools
import getpass
import os
import socket
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from hpo.store import attributes, tables
from hpo.store.lease_table import database_time
from hpo.store.notifications import notify_workers
from hpo.store.rows import dialect_of
from hpo.store.storage import Storage, retrying
from hpo.store.tables import events


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that somebody did to a study.

    Attributes:
        moment: When, in seconds since 1970, by the database's clock.
        kind: What, such as ``created``, ``extended``, ``paused``, ``resumed``, ``stopped``, ``retried`` or
            ``queued``.
        trial: The number of the trial that it is about; None if it is about the study.
        actor: User and host.
        detail: More about it; may be empty.
    """

    moment: float
    kind: str
    trial: int | None
    actor: str
    detail: str


@functools.cache
def current_actor() -> str:
    """Return the user and host of this process, as in ``anna@gpu1``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may know no name of its user
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def write_event(
    session: Session, study_id: int, kind: str, detail: str = "", trial: int | None = None
) -> None:
    """Write an event, in the transaction of what it is about, and wake the workers that wait.

    Args:
        session: The session of that transaction, in which ``tables.upgrade`` was called.
        study_id: Optuna's id of the study.
        kind: As in ``Event``.
        detail: More about it.
        trial: The number of the trial that it is about.
    """
    row = {"study_id": study_id, "kind": kind, "trial": trial, "actor": current_actor(), "detail": detail}
    session.execute(sa.insert(events).values(**row, moment=database_time(dialect_of(session))))
    notify_workers(session, study_id)


@retrying(reads=True)
def read_events(storage: Storage, study_id: int) -> list[Event]:
    """Read the events of a study, oldest first; none of those before the store had the table.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    with storage.transaction() as session:
        if tables.is_missing(session, events):
            return []
        wanted = sa.select(events).where(events.c.study_id == study_id)
        found = session.execute(wanted.order_by(events.c.moment, events.c.event_id)).all()
    # What hpo could not have written is left out.
    return [
        Event(moment=row.moment, kind=row.kind, trial=row.trial, actor=row.actor, detail=row.detail)
        for row in found
        if attributes.is_moment(row.moment)
        and all(map(attributes.is_text, (row.kind, row.actor, row.detail)))
    ]
