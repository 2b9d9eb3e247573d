"""Signs of life of a study beside its trials and leases: its last worker, and the clocks of its hosts.

A trial's start is written by its worker's own clock (Optuna does so), the begin of its first attempt, in
the same transaction, by the database's. So their difference is what the worker's clock is ahead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from hpo.store import attributes, tables
from hpo.store.lease_table import database_time
from hpo.store.rows import dialect_of, trials
from hpo.store.storage import Storage, retrying
from hpo.store.tables import attempts, events, leases

NEWEST_ATTEMPTS = 200  # that tell the clocks


@dataclass(frozen=True, kw_only=True)
class Vitals:
    """Signs of life of a study.

    Attributes:
        idle_seconds: Since any worker last renewed, released or ended a lease; 0 at least. None if no
            trial was ever claimed.
        changed_seconds: Since somebody last created, extended or resumed the study, or the like; 0 at
            least. None if the store has no events of it.
        clock_offsets: By how many seconds the clock of a host was ahead of the database's when a trial last
            began there, by host.
    """

    idle_seconds: float | None = None
    changed_seconds: float | None = None
    clock_offsets: Mapping[str, float] = field(default_factory=dict)


@retrying(reads=True)
def read_vitals(storage: Storage, study_id: int) -> Vitals:
    """Read the signs of life of a study.

    Args:
        storage: The storage that the study is in.
        study_id: Optuna's id of the study.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    with storage.transaction() as session:
        idle = _seconds_since(session, study_id, leases.c.renewed)
        if tables.is_missing(session, events):  # and with it the attempts
            return Vitals(idle_seconds=idle)
        return Vitals(
            idle_seconds=idle,
            changed_seconds=_seconds_since(session, study_id, events.c.moment),
            clock_offsets=_read_clock_offsets(session, study_id),
        )


def _seconds_since(session: Session, study_id: int, moment: sa.Column[float]) -> float | None:
    """Return the seconds since the latest moment in a column of a study's rows; None without any."""
    now = database_time(dialect_of(session))
    latest = sa.select(sa.func.max(moment)).where(moment.table.c.study_id == study_id)
    seconds = session.execute(sa.select(now - latest.scalar_subquery())).scalar_one()
    return None if seconds is None else max(seconds, 0.0)


def _read_clock_offsets(session: Session, study_id: int) -> dict[str, float]:
    found = session.execute(
        sa.select(attempts.c.host, attempts.c.began, trials.c.datetime_start)
        .join(trials, trials.c.trial_id == attempts.c.trial_id)
        .where(attempts.c.study_id == study_id, attempts.c.token == 1, trials.c.datetime_start.is_not(None))
        .order_by(attempts.c.began.desc())
        .limit(NEWEST_ATTEMPTS)
    ).all()
    return {
        row.host: _seconds(row.datetime_start) - row.began
        for row in reversed(found)  # the newest last, which stays
        if attributes.is_text(row.host) and attributes.is_moment(row.began)
    }


def _seconds(moment: datetime) -> float:
    return moment.replace(tzinfo=UTC).timestamp()
