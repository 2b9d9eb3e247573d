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
from hpo.store.storage import Store, asking

Promote = Callable[[Session, Collection[int], bool], lease_table.Turn | None]  # as claim says


def claim(
    store: Store,
    study_id: int,
    who: Owner,
    *,
    seconds: float,
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
        if tried and _was_made(tried[-1]):
            return tried[-1]
        _end_leases_of_the_dead(store, study_id)
        passed_by: set[int] = set()
        while True:
            with store.transaction() as session:
                found, marks = _found(session, study_id, limits or {}, passed_by, promote)
                if found is None:
                    return None
                lease = lease_table.locked(session, found.trial_id)
                if not lease_table.is_free(found, lease):
                    passed_by.add(found.trial_id)
                elif lease is not None and lease.attempts >= max_attempts:
                    _give_up(session, found.trial_id, lease.attempts)
                else:
                    claim = Claim(
                        store=store,
                        study_id=study_id,
                        trial_id=found.trial_id,
                        number=found.number,
                        token=_take(session, study_id, found.trial_id, lease, who, seconds, marks),
                        who=who,
                        seconds=seconds,
                        checkpoint=None if lease is None else lease.checkpoint,
                        limits=limits or {},
                    )
                    tried.append(claim)
                    return claim

    return store.outlast(take)


def _found(
    session: Session, study_id: int, limits: Limits, passed_by: Collection[int], promote: Promote | None
) -> tuple[sa.Row[Any] | None, Mapping[str, Any]]:
    """Find the next trial, locked, and the system attributes that it gets as it is claimed."""
    if plan.order_of(session, study_id) is not None:
        return None, {}
    if budgets.barrier(session, study_id, limits, claimed=False):
        return None, {}
    found = lease_table.claimable(session, study_id, passed_by)
    if promote is not None and (found is None or found.token is None):
        turn = promote(session, passed_by, found is not None)
        if turn is not None:
            return turn.row, turn.attributes
    return found, {}


def _was_made(claim: Claim) -> bool:
    """Tell whether a claim whose acknowledgement got lost was made and is ours still, and renew it."""
    begun = time.monotonic()
    with contextlib.suppress(LeaseLost), claim.store.transaction() as session:
        claim.fence(session)
        claim.renewed.at = begun
        return True
    return False


def _take(
    session: Session,
    study_id: int,
    trial_id: int,
    lease: sa.Row[Any] | None,
    who: Owner,
    seconds: float,
    marks: Mapping[str, Any],
) -> int:
    """Make a locked trial RUNNING under a lease of ours, and give its token."""
    token = 1 if lease is None else lease.token + 1
    values = {
        "owner": who.name,
        "process": who.process,
        "host": who.host,
        "device": who.device,
        "token": token,
        "attempts": 1 if lease is None else lease.attempts + 1,
        "seconds": seconds,
    }
    new = {"trial_id": trial_id, "study_id": study_id, "epoch": 0} if lease is None else {"trial": trial_id}
    session.execute(lease_table.taking(dialect_of(session), lease is None), values | new)
    rows.write_state(session, trial_id, TrialState.RUNNING)
    rows.write_attributes(session, trial_id, {"attempts": token})
    rows.write_attributes(session, trial_id, marks, system=True)
    return token


def _give_up(session: Session, trial_id: int, attempts: int) -> None:
    message = f"{attempts} attempts in a row died without a new checkpoint"
    failure = {"class": "lost", "message": message}
    rows.write_attributes(session, trial_id, {"failure": failure})
    rows.write_state(session, trial_id, TrialState.FAIL)
    ended = sa.update(table).where(table.c.trial_id == trial_id)
    renewed = lease_table.now(dialect_of(session))
    session.execute(ended.values(owner=None, process=None, expires=0.0, renewed=renewed))


def _end_leases_of_the_dead(store: Store, study_id: int) -> None:
    """End the leases whose owner ran on this machine and is gone."""
    space = process.space()
    if not space:
        return
    with store.reading(), store.transaction() as session:
        found = session.execute(lease_table.LIVE, {"study": study_id})
        near = [row for row in found if row.process.startswith(f"{space}/")]
    for row in [row for row in near if process.is_gone(row.process)]:
        with store.transaction() as session:
            same = (table.c.trial_id == row.trial_id) & (table.c.token == row.token)
            session.execute(sa.update(table).where(same, table.c.expires > 0).values(expires=0.0))


@asking(reads=True)
def is_open(store: Store, study_id: int) -> bool:
    """Tell whether a study still has trials that wait, or that a worker has or had a lease on."""
    with store.transaction() as session:
        return bool(session.execute(lease_table.OPEN, {"study": study_id}).scalar_one())
