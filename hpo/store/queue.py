"""The queue: which trial of a study a worker runs next.

This is the first step, the claim, of the protocol that ``lease`` describes. What follows the claim is in
``lease``.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpo.store import attempts, budgets, failures, lease_table, plan, process, rows, trial_numbers
from hpo.store.lease import Claim, LeaseLost
from hpo.store.notifications import notify_workers
from hpo.store.process import Owner
from hpo.store.rows import dialect_of
from hpo.store.storage import Storage, retrying
from hpo.store.tables import leases
from hpo.study.definition import BudgetLimits

# Selects a trial that is paused at a rung and may continue. It gets the session of the claim, the ids of
# trials to skip, and whether another trial waits; it returns None if no paused trial is to continue.
Promote = Callable[[Session, Collection[int], bool], lease_table.PromotedTrial | None]


@dataclass(frozen=True, kw_only=True)
class _Request:
    """The arguments of ``claim_trial``."""

    storage: Storage
    study_id: int
    owner: Owner
    lease_seconds: float
    max_attempts: int
    max_failures: int
    limits: BudgetLimits | None
    promote: Promote | None
    rungs: Collection[int]


def claim_trial(
    storage: Storage,
    study_id: int,
    owner: Owner,
    *,
    lease_seconds: float,
    max_attempts: int,
    max_failures: int = 0,
    limits: BudgetLimits | None = None,
    promote: Promote | None = None,
    rungs: Collection[int] = (),
) -> Claim | None:
    """Claim the next trial of a study, and set it RUNNING under a lease.

    Trials claimed before (interrupted, or set back by ``retry_trials``) come first, then promoted ones,
    then listed settings and replicates, then the others by number. A trial whose last ``max_attempts``
    attempts died without a new checkpoint is ended on the way as FAIL, with the reason. Leases of dead
    processes of this machine expire on the way. The claim's token is also the user attribute ``attempts``.

    Args:
        storage: The storage that the study is in.
        study_id: Optuna's id of the study.
        owner: Who claims.
        lease_seconds: How long the owner may be silent before another worker takes the trial.
        max_attempts: Attempts in a row without a new checkpoint after which a trial fails.
        max_failures: Failed trials after which none is claimed if none did better; 0: no limit.
        limits: The study's budgets; None if it has none.
        promote: Selects the trials that continue after a pause at a rung; None if it has no rungs.
        rungs: Its rungs, in epochs: only there a trial waits to be promoted.

    Returns:
        The claim; None if nothing is to be claimed now, or the study is paused, stopped or has ended.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the write.
    """
    request = _Request(
        storage=storage,
        study_id=study_id,
        owner=owner,
        lease_seconds=lease_seconds,
        max_attempts=max_attempts,
        max_failures=max_failures,
        limits=limits,
        promote=promote,
        rungs=rungs,
    )
    made: list[Claim] = []  # noted before the commit, because its acknowledgement may be lost
    return storage.retry(lambda: _claim_next(request, made))


def _claim_next(request: _Request, made: list[Claim]) -> Claim | None:
    """Claim the next trial, or return the claim that an earlier try committed without knowing it."""
    if made and _was_committed(made[-1]):
        return made[-1]
    _expire_leases_of_dead_owners(request.storage, request.study_id)
    skipped_ids: set[int] = set()
    while True:
        with request.storage.transaction() as session:
            found, system_attributes = _next_trial(session, request, skipped_ids)
            if found is None:
                return None
            claim = _claim_found(session, request, found, system_attributes, skipped_ids)
            if claim is not None:
                made.append(claim)
                return claim


def _next_trial(
    session: Session, request: _Request, skipped_ids: Collection[int]
) -> tuple[sa.Row[Any] | None, Mapping[str, Any]]:
    """Return the next trial, locked, and the system attributes that it gets when it is claimed."""
    if plan.read_order(session, request.study_id) is not None:
        return None, {}
    if budgets.blocking_reason(session, request.study_id, request.limits, has_lease=False):
        return None, {}
    if failures.have_only_failures(session, request.study_id, request.max_failures):
        return None, {}
    found = lease_table.lock_claimable_trial(session, request.study_id, skipped_ids, request.rungs)
    if request.promote is not None and (found is None or found.token is None):
        promoted = request.promote(session, skipped_ids, found is not None)
        if promoted is not None:
            return promoted.row, promoted.system_attributes
    return found, {}


def _claim_found(
    session: Session,
    request: _Request,
    found: sa.Row[Any],
    system_attributes: Mapping[str, Any],
    skipped_ids: set[int],
) -> Claim | None:
    """Claim a locked trial; None if it is no longer free, or has failed too often and is ended."""
    lease = lease_table.lock_lease(session, found.trial_id)
    if not lease_table.is_still_free(found, lease):
        skipped_ids.add(found.trial_id)
        return None
    if lease is not None and lease.attempts >= request.max_attempts:
        _fail_trial(session, found.trial_id, lease)
        notify_workers(session, request.study_id)
        return None
    number = found.number
    if lease is None:
        number = trial_numbers.separate_number(session, request.study_id, found.trial_id, number)
    return Claim(
        storage=request.storage,
        study_id=request.study_id,
        trial_id=found.trial_id,
        number=number,
        token=_write_claim(session, request, found.trial_id, lease, system_attributes),
        owner=request.owner,
        lease_seconds=request.lease_seconds,
        checkpoint=None if lease is None else lease.checkpoint,
        limits=request.limits,
    )


def _was_committed(claim: Claim) -> bool:
    """Tell whether a claim was committed although its acknowledgement was lost; if so, renew its lease."""
    began = time.monotonic()
    with contextlib.suppress(LeaseLost), claim.storage.transaction() as session:
        claim.fence(session)
        claim.last_renewal.at = began
        return True
    return False


def _write_claim(
    session: Session,
    request: _Request,
    trial_id: int,
    lease: sa.Row[Any] | None,
    system_attributes: Mapping[str, Any],
) -> int:
    """Set a locked trial RUNNING under a lease of ours, and return the lease's token."""
    token = 1 if lease is None else lease.token + 1
    values = {
        "owner": request.owner.name,
        "process": request.owner.process,
        "host": request.owner.host,
        "device": request.owner.device,
        "token": token,
        "attempts": 1 if lease is None else lease.attempts + 1,
        "seconds": request.lease_seconds,
    }
    if lease is None:
        values |= {"trial_id": trial_id, "study_id": request.study_id, "epoch": 0}
    else:
        values |= {"trial": trial_id}
    session.execute(lease_table.take_statement(dialect_of(session), lease is None), values)
    if lease is not None:
        attempts.close_dead_attempt(session, trial_id, lease)
    attempts.begin_attempt(session, request.study_id, trial_id, token, request.owner)
    rows.write_state(session, trial_id, TrialState.RUNNING)
    rows.write_attributes(session, trial_id, {"attempts": token})
    rows.write_attributes(session, trial_id, system_attributes, system=True)
    return token


def _fail_trial(session: Session, trial_id: int, lease: sa.Row[Any]) -> None:
    """End a trial as FAIL, and release its lease."""
    attempts.close_dead_attempt(session, trial_id, lease)
    message = f"{lease.attempts} attempts in a row died without a new checkpoint"
    failure = {"class": "lost", "message": message}
    rows.write_attributes(session, trial_id, {"failure": failure})
    rows.write_state(session, trial_id, TrialState.FAIL)
    ended = sa.update(leases).where(leases.c.trial_id == trial_id)
    renewed = lease_table.database_time(dialect_of(session))
    session.execute(ended.values(owner=None, process=None, expires=0.0, renewed=renewed))


def _expire_leases_of_dead_owners(storage: Storage, study_id: int) -> None:
    """Expire the leases of processes that ran on this machine and are dead."""
    if not process.process_namespace():
        return
    with storage.read_only_transactions(), storage.transaction() as session:
        owned = session.execute(lease_table.LEASES_WITH_OWNER, {"study": study_id}).all()
    for row in [row for row in owned if process.is_dead(row.process)]:
        with storage.transaction() as session:
            same = (leases.c.trial_id == row.trial_id) & (leases.c.token == row.token)
            session.execute(sa.update(leases).where(same, leases.c.expires > 0).values(expires=0.0))


@retrying(reads=True)
def has_open_trials(storage: Storage, study_id: int) -> bool:
    """Tell whether a study has trials that wait, or RUNNING ones with a lease, even an expired one.

    Trials that are paused at a rung count. Those that another tool runs do not.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    with storage.transaction() as session:
        return bool(session.execute(lease_table.HAS_OPEN_TRIALS, {"study": study_id}).scalar_one())
