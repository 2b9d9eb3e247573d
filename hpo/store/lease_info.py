"""The leases of a study as users see them: who runs which trial, and for how long they may be silent.

It only reads. ``lease`` describes the protocol, and ``lease_table`` has the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.store import attributes, process, tables
from hpo.store.lease_table import database_time
from hpo.store.rows import dialect_of, trials
from hpo.store.storage import Storage, retrying
from hpo.store.tables import leases


@dataclass(frozen=True, kw_only=True)
class LeaseInfo:
    """The lease of a running trial.

    Attributes:
        trial: The trial's number.
        owner: Host and process id of the worker.
        host: The worker's host.
        device: The device that the worker trains on.
        attempt: The number of the attempt, from 1.
        epoch: The last reported epoch.
        expires_in_seconds: Until when other workers wait for the owner; 0 or less if the lease has expired,
            0 if the owner's process ran on this machine and is dead.
        silent_seconds: Since the owner last renewed the lease; 0 at least.
        lease_seconds: From a renewal of the lease to its expiry.
        report_seconds: Since the attempt last reported an epoch or, before that, began; 0 at least. None if
            an older version of hpo made the attempt.
        ahead_seconds: By how much the renewal lies in the future: the database's clock was set back.
    """

    trial: int
    owner: str
    host: str
    device: str
    attempt: int
    epoch: int
    expires_in_seconds: float
    silent_seconds: float
    lease_seconds: float
    report_seconds: float | None
    ahead_seconds: float

    @property
    def is_alive(self) -> bool:
        """Whether other workers have to wait for the owner: its lease has not expired."""
        return self.expires_in_seconds > 0


@retrying(reads=True)
def read_leases(storage: Storage, study_id: int) -> list[LeaseInfo]:
    """Read the leases of a study's RUNNING trials, by the trials' numbers.

    Args:
        storage: The storage that the study is in.
        study_id: Optuna's id of the study.

    Returns:
        One record for each RUNNING trial that has an owner, also if its lease has expired. Other tools'
        trials have none.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    with storage.transaction() as session:
        is_old = tables.is_missing(session, tables.workers)
        columns: list[Any] = [each for each in leases.c if not (is_old and each is leases.c.reported)]
        found: Sequence[Any] = session.execute(
            sa.select(trials.c.number, *columns, database_time(dialect_of(session)).label("now"))
            .join(leases, leases.c.trial_id == trials.c.trial_id)
            .where(
                trials.c.study_id == study_id,
                trials.c.state == TrialState.RUNNING,
                leases.c.owner.is_not(None),
            )
            .order_by(trials.c.number)
        ).all()
    return [_lease_info(row, None if is_old else row.reported) for row in found]


def _lease_info(row: Any, reported: Any) -> LeaseInfo:
    is_dead = process.is_dead(row.process)
    return LeaseInfo(
        trial=row.number,
        owner=row.owner,
        host=row.host,
        device=row.device,
        attempt=row.token,
        epoch=row.epoch,
        expires_in_seconds=0.0 if is_dead else round(row.expires - row.now, 3),
        silent_seconds=round(max(row.now - row.renewed, 0.0), 3),
        lease_seconds=round(max(row.expires - row.renewed, 0.0), 3),
        report_seconds=round(max(row.now - reported, 0.0), 3) if attributes.is_moment(reported) else None,
        ahead_seconds=round(max(row.renewed - row.now, 0.0), 3),
    )
