"""Trials that begin again although epochs of theirs were reported: a worker has not found their files."""

import sqlalchemy as sa

from hpo.store import attempts
from hpo.store.lease import Claim
from hpo.store.storage import Storage, retrying
from hpo.store.tables import leases

_HAS_PROGRESS = sa.select(
    sa.exists().where(
        leases.c.study_id == sa.bindparam("study"), (leases.c.epoch > 0) | leases.c.checkpoint.is_not(None)
    )
)


@retrying(reads=True)
def has_progress(storage: Storage, study_id: int) -> bool:
    """Return whether a trial of a study has reported an epoch or saved a checkpoint, so it has files.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    with storage.transaction() as session:
        return bool(session.execute(_HAS_PROGRESS, {"study": study_id}).scalar_one())


def write_restart(claim: Claim, reason: str) -> None:
    """Write that an attempt begins at the first epoch, in one fenced transaction.

    The lease then says that no epoch is reported. It keeps the checkpoint's name until there is a new one:
    if this worker is stopped before that, another one may find the file.

    Args:
        claim: The claim of the attempt.
        reason: Why it does not continue.

    Raises:
        LeaseLost: Another worker has claimed the trial meanwhile; nothing is written.
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the write.
    """

    def write() -> None:
        with claim.storage.transaction() as session:
            claim.fence(session, reported_epoch=0)
            attempts.set_reason(session, claim.trial_id, claim.token, reason)

    claim.storage.retry(write)
