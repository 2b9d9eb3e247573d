"""The queue: which of a study's trials a worker takes next.

This is the first step of the protocol that ``lease`` tells, the claim. A trial that is claimed is that
module's.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpo.store import budgets, lease_table, plan, process, rows
from hpo.store.budgets import Limits
from hpo.store.lease import Claim, LeaseLost
from hpo.store.lease_table import leases as table
from hpo.store.process import Owner
from hpo.store.rows import dialect_of
from hpo.store.storage import Storage, retrying

Promote = Callable[[Session, Collection[int], bool], lease_table.ClaimableTrial | None]  # as claim says


def claim_trial(
    storage: Storage,
    study_id: int,
    owner: Owner,
    *,
    lease_seconds: float,
    max_attempts: int,
    limits: Limits | None = None,
    promote: Promote | None = None,
) -> Claim | None:
    """Claim a study's next trial: interrupted ones, then what is promoted, listed settings, by number.

    Gives None if there is nothing to claim now, the study is paused or stopped, or a budget of it, one of
    ``limits``, leaves no room. A trial whose last ``max_attempts`` attempts made no checkpoint is ended as
    FAILED, with the reason, on the way. ``seconds`` is how long the owner may be silent. ``promote`` gives
    the paused trial whose turn it is, told the ids of trials passed by, and whether another one waits.
    """
    tried: list[Claim] = []  # each known before its commit, whose acknowledgement may get lost

    def take() -> Claim | None:
        if tried and _was_committed(tried[-1]):
            return tried[-1]
        _expire_leases_of_dead_owners(storage, study_id)
        passed_by: set[int] = set()
        while True:
            with storage.transaction() as session:
                found, marks = _next_trial(session, study_id, limits or {}, passed_by, promote)
                if found is None:
                    return None
                lease = lease_table.lock_lease(session, found.trial_id)
                if not lease_table.is_still_free(found, lease):
                    passed_by.add(found.trial_id)
                elif lease is not None and lease.attempts >= max_attempts:
                    _fail_trial(session, found.trial_id, lease.attempts)
                else:
                    claim = Claim(
                        storage=storage,
                        study_id=study_id,
                        trial_id=found.trial_id,
                        number=found.number,
                        token=_write_claim(
                            session, study_id, found.trial_id, lease, owner, lease_seconds, marks
                        ),
                        owner=owner,
                        lease_seconds=lease_seconds,
                        checkpoint=None if lease is None else lease.checkpoint,
                        limits=limits or {},
                    )
                    tried.append(claim)
                    return claim

    return storage.retry(take)


def _next_trial(
    session: Session, study_id: int, limits: Limits, skipped_ids: Collection[int], promote: Promote | None
) -> tuple[sa.Row[Any] | None, Mapping[str, Any]]:
    """Find the next trial, locked, and the system attributes that it gets as it is claimed."""
    if plan.read_order(session, study_id) is not None:
        return None, {}
    if budgets.blocking_reason(session, study_id, limits, has_lease=False):
        return None, {}
    found = lease_table.lock_claimable_trial(session, study_id, skipped_ids)
    if promote is not None and (found is None or found.token is None):
        turn = promote(session, skipped_ids, found is not None)
        if turn is not None:
            return turn.row, turn.system_attributes
    return found, {}


def _was_committed(claim: Claim) -> bool:
    """Tell whether a claim whose acknowledgement got lost was made and is ours still, and renew it."""
    begun = time.monotonic()
    with contextlib.suppress(LeaseLost), claim.storage.transaction() as session:
        claim.fence(session)
        claim.last_renewal.at = begun
        return True
    return False


def _write_claim(
    session: Session,
    study_id: int,
    trial_id: int,
    lease: sa.Row[Any] | None,
    owner: Owner,
    lease_seconds: float,
    system_attributes: Mapping[str, Any],
) -> int:
    """Make a locked trial RUNNING under a lease of ours, and give its token."""
    token = 1 if lease is None else lease.token + 1
    values = {
        "owner": owner.name,
        "process": owner.process,
        "host": owner.host,
        "device": owner.device,
        "token": token,
        "attempts": 1 if lease is None else lease.attempts + 1,
        "seconds": lease_seconds,
    }
    new = {"trial_id": trial_id, "study_id": study_id, "epoch": 0} if lease is None else {"trial": trial_id}
    session.execute(lease_table.take_statement(dialect_of(session), lease is None), values | new)
    rows.write_state(session, trial_id, TrialState.RUNNING)
    rows.write_attributes(session, trial_id, {"attempts": token})
    rows.write_attributes(session, trial_id, system_attributes, system=True)
    return token


def _fail_trial(session: Session, trial_id: int, attempts: int) -> None:
    message = f"{attempts} attempts in a row died without a new checkpoint"
    failure = {"class": "lost", "message": message}
    rows.write_attributes(session, trial_id, {"failure": failure})
    rows.write_state(session, trial_id, TrialState.FAIL)
    ended = sa.update(table).where(table.c.trial_id == trial_id)
    renewed = lease_table.database_time(dialect_of(session))
    session.execute(ended.values(owner=None, process=None, expires=0.0, renewed=renewed))


def _expire_leases_of_dead_owners(storage: Storage, study_id: int) -> None:
    """Expire the leases of processes that ran on this machine and are dead."""
    if not process.process_namespace():
        return
    with storage.read_only_transactions(), storage.transaction() as session:
        found = session.execute(lease_table.LEASES_WITH_OWNER, {"study": study_id}).all()
    for row in [row for row in found if process.is_dead(row.process)]:
        with storage.transaction() as session:
            same = (table.c.trial_id == row.trial_id) & (table.c.token == row.token)
            session.execute(sa.update(table).where(same, table.c.expires > 0).values(expires=0.0))


@retrying(reads=True)
def has_open_trials(storage: Storage, study_id: int) -> bool:
    """Tell whether a study still has trials that wait, or that a worker has or had a lease on."""
    with storage.transaction() as session:
        return bool(session.execute(lease_table.HAS_OPEN_TRIALS, {"study": study_id}).scalar_one())
