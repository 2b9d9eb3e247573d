"""The SQL statements with which ``lease`` and ``queue`` read and change the lease table.

Each statement is built once. Its bound parameters are: ``trial`` and ``study``, ids; ``our_token``,
``our_name`` and ``our_process``, which identify the holder of a lease; ``seconds``, how long a lease lasts;
and those that a statement's own description names.
"""

import functools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpo.search.asha import LISTED_ATTRIBUTES, PAUSED_AT_RUNG
from hpo.store import plan, rows
from hpo.store.notifications import notification
from hpo.store.rows import dialect_of, trials
from hpo.store.tables import READ_VERSION, leases


@dataclass(frozen=True, kw_only=True)
class PromotedTrial:
    """A trial that was paused at a rung, may continue, and is locked for its claim.

    Attributes:
        row: The locked trial, as ``LOCK_PAUSED_TRIAL`` returns it.
        system_attributes: The system attributes that it gets when it is claimed.
    """

    row: sa.Row[Any]
    system_attributes: Mapping[str, Any]


def database_time(dialect: str) -> sa.ColumnElement[float]:
    """Return the SQL expression for the database's clock.

    Args:
        dialect: ``sqlite`` or ``postgresql``.

    Returns:
        Seconds since 1970, UTC, whatever the session's time zone. On Postgres it goes on within a
        transaction.
    """
    if dialect == "postgresql":
        return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)
    return (sa.func.julianday("now") - 2440587.5) * 86400.0


_attribute = rows.system_attributes
_lease = leases.alias()
# The parameter ``rungs`` has a study's rungs as texts. A pause at any other epoch, or of a trial that was
# never claimed, holds no trial back: no worker would promote it.
_IS_PAUSED_AT_RUNG = sa.exists().where(
    _attribute.c.trial_id == trials.c.trial_id,
    _attribute.c.key == PAUSED_AT_RUNG,
    _attribute.c.value_json.in_(sa.bindparam("rungs", expanding=True, type_=sa.Text)),
    _lease.c.trial_id == _attribute.c.trial_id,  # not the trial's: Postgres would join each with each
)
# Locks a trial that is paused at a rung; no row if another session has locked it, or it is not paused now.
LOCK_PAUSED_TRIAL = (
    sa.select(trials.c.trial_id, trials.c.number, trials.c.state, leases.c.token)
    .join(leases, leases.c.trial_id == trials.c.trial_id)
    .where(
        trials.c.trial_id == sa.bindparam("trial"), trials.c.state == TrialState.WAITING, _IS_PAUSED_AT_RUNG
    )
    .with_for_update(of=trials, skip_locked=True)
)
_HAS_OWNER = sa.exists().where(leases.c.trial_id == trials.c.trial_id, leases.c.owner.is_not(None))
_IS_RUNNING_WITH_LEASE = (trials.c.state == TrialState.RUNNING) & _HAS_OWNER
_IS_WAITING = trials.c.state == TrialState.WAITING
_IS_OF_STUDY = trials.c.study_id == sa.bindparam("study")
# Whether a study has trials that wait, or RUNNING ones that a worker has, or last had, a lease on.
HAS_OPEN_TRIALS = sa.select(sa.exists().where(_IS_OF_STUDY, _IS_WAITING | _IS_RUNNING_WITH_LEASE))
# The same without the trials that are paused at a rung.
HAS_UNPAUSED_OPEN_TRIALS = sa.select(
    sa.exists().where(_IS_OF_STUDY, (_IS_WAITING & ~_IS_PAUSED_AT_RUNG) | _IS_RUNNING_WITH_LEASE)
)
# The trial's lease has our token.
HAS_OUR_TOKEN = (leases.c.trial_id == sa.bindparam("trial")) & (leases.c.token == sa.bindparam("our_token"))
# The token alone is not enough. SQLite gives the ids of a deleted study to the next one, whose tokens begin
# at 1 again; and a Postgres server that fails over may lose a claim.
IS_OUR_LEASE = (
    HAS_OUR_TOKEN
    & (leases.c.owner == sa.bindparam("our_name"))
    & (leases.c.process == sa.bindparam("our_process"))
)
# Share-locks a claimed trial, so that nobody changes its state; returns whether it is to be stopped, its
# study's order and the version of our tables with it.
LOCK_TRIAL = (
    sa.select(
        trials.c.state,
        sa.exists()
        .where(
            _attribute.c.trial_id == trials.c.trial_id,
            _attribute.c.key == plan.STOPPED_TRIAL,
            _attribute.c.value_json == "true",
        )
        .label("is_stopped"),
        plan.order_statement(trials.c.study_id).scalar_subquery().label("order"),
        READ_VERSION.scalar_subquery().label("version"),
    )
    .where(trials.c.trial_id == sa.bindparam("trial"))
    .with_for_update(read=True, of=trials)
)
# The state of a trial whose lease had our token when it was released.
STATE_AFTER_RELEASE = sa.select(trials.c.state).where(
    trials.c.trial_id == sa.bindparam("trial"), sa.exists().where(HAS_OUR_TOKEN, leases.c.owner.is_(None))
)


@functools.cache
def renew_statement(dialect: str) -> Any:
    """Return the UPDATE that renews our lease; it changes no row if the lease is not ours.

    Its parameters ``new_epoch`` and ``new_checkpoint`` are stored too, unless they are None. A new
    checkpoint sets the count of attempts without one back to 0.
    """
    checkpoint = sa.bindparam("new_checkpoint", type_=sa.Text)
    epoch = sa.bindparam("new_epoch", type_=sa.Integer)
    return (
        sa.update(leases)
        .where(IS_OUR_LEASE)
        .values(
            expires=database_time(dialect) + sa.bindparam("seconds", type_=sa.Double),
            renewed=database_time(dialect),
            epoch=sa.func.coalesce(epoch, leases.c.epoch),
            reported=sa.case((epoch.is_(None), leases.c.reported), else_=database_time(dialect)),
            checkpoint=sa.func.coalesce(checkpoint, leases.c.checkpoint),
            attempts=sa.case((checkpoint.is_(None), leases.c.attempts), else_=0),
        )
    )


@functools.cache
def release_statement(dialect: str) -> Any:
    """Return the UPDATE that releases our lease; it changes no row if the lease is not ours.

    Its parameter ``unused`` is how many of the last attempts did not die and are not counted; with
    ``forget`` it removes the checkpoint's name. Token, host, device and epoch stay. On Postgres it also
    notifies the study's waiting workers.
    """
    attempts = leases.c.attempts - sa.bindparam("unused", type_=sa.Integer)
    release = (
        sa.update(leases)
        .where(IS_OUR_LEASE)
        .values(
            owner=None,
            process=None,
            expires=0.0,
            renewed=database_time(dialect),
            attempts=sa.case((attempts > 0, attempts), else_=0),
            checkpoint=sa.case((sa.bindparam("forget", type_=sa.Boolean), None), else_=leases.c.checkpoint),
        )
    )
    return release.returning(notification(leases.c.study_id)) if dialect == "postgresql" else release


def lock_claimable_trial(
    session: Session, study_id: int, skipped_ids: Collection[int], rungs: Iterable[int] = ()
) -> sa.Row[Any] | None:
    """Lock the next trial of a study that seems free, and skip those that other sessions have locked.

    Free are trials that wait without a pause at a rung, and RUNNING ones whose lease has expired. Those
    that were claimed before come first, then those that no sampler proposes (``LISTED_ATTRIBUTES``), then
    the others, each by number.

    Args:
        session: The session of the claim's transaction.
        study_id: Optuna's id of the study.
        skipped_ids: Ids of trials to leave out.
        rungs: The epochs at which the study pauses trials.

    Returns:
        The trial's id, number and state, and its lease's token (None if it was never claimed); None if
        there is no such trial. On Postgres it may have been found by a lease that was renewed since:
        ``is_still_free`` tells.
    """
    values = {"study": study_id, "skipped": list(skipped_ids), "rungs": rung_texts(rungs)}
    return session.execute(_claimable_statement(dialect_of(session)), values).first()


def rung_texts(rungs: Iterable[int]) -> list[str]:
    """Return rungs as the texts of JSON in which the attribute ``PAUSED_AT_RUNG`` stores them."""
    return [str(rung) for rung in rungs]


@functools.cache
def _claimable_statement(dialect: str) -> Any:
    listed = sa.exists().where(
        _attribute.c.trial_id == trials.c.trial_id, _attribute.c.key.in_(LISTED_ATTRIBUTES)
    )
    expired = leases.c.owner.is_not(None) & (leases.c.expires <= database_time(dialect))
    free = ((trials.c.state == TrialState.WAITING) & ~_IS_PAUSED_AT_RUNG) | (
        (trials.c.state == TrialState.RUNNING) & expired
    )
    skipped = sa.bindparam("skipped", expanding=True, type_=sa.Integer)
    return (
        sa.select(trials.c.trial_id, trials.c.number, trials.c.state, leases.c.token)
        .outerjoin(leases, leases.c.trial_id == trials.c.trial_id)
        .where(trials.c.study_id == sa.bindparam("study"), free, trials.c.trial_id.not_in(skipped))
        .order_by(leases.c.token.is_(None), sa.not_(listed), trials.c.number)
        .limit(1)
        .with_for_update(of=trials, skip_locked=True)
    )


def lock_lease(session: Session, trial_id: int) -> sa.Row[Any] | None:
    """Lock a trial's lease and read it, with the database's time as ``now``.

    None if the trial has no lease, or another session has locked it.
    """
    return session.execute(_lock_lease_statement(dialect_of(session)), {"trial": trial_id}).first()


def is_still_free(found: sa.Row[Any], lease: sa.Row[Any] | None) -> bool:
    """Tell whether a trial is still free now that it and its lease are locked.

    Args:
        found: What ``lock_claimable_trial`` returned. On Postgres that may rest on an older lease.
        lease: What ``lock_lease`` returned.

    Returns:
        Whether the trial can be claimed.
    """
    if lease is None:
        return found.token is None and found.state == TrialState.WAITING
    if found.state == TrialState.WAITING:
        return True
    return lease.owner is not None and bool(lease.expires <= lease.now)


@functools.cache
def _lock_lease_statement(dialect: str) -> Any:
    lease = sa.select(leases, database_time(dialect).label("now")).where(
        leases.c.trial_id == sa.bindparam("trial")
    )
    return lease.with_for_update(skip_locked=True)


@functools.cache
def take_statement(dialect: str, new: bool) -> Any:
    """Return the statement that makes the lease of a trial ours.

    Args:
        dialect: ``sqlite`` or ``postgresql``.
        new: The trial has no lease yet: INSERT rather than UPDATE.

    Returns:
        A statement whose parameters are ``seconds``, the names of the columns that it sets but for the
        times, and, if not new, ``trial``. A trial that has a lease keeps its epoch and checkpoint.
    """
    times = {
        "expires": database_time(dialect) + sa.bindparam("seconds", type_=sa.Double),
        "renewed": database_time(dialect),
        "reported": database_time(dialect),
    }
    names = ["owner", "process", "host", "device", "token", "attempts"]
    names += ["trial_id", "study_id", "epoch"] if new else []
    columns = {name: sa.bindparam(name, type_=leases.c[name].type) for name in names}
    if new:
        return sa.insert(leases).inline().values(**columns, **times)
    return sa.update(leases).where(leases.c.trial_id == sa.bindparam("trial")).values(**columns, **times)


@functools.cache
def living_lease_statement(dialect: str) -> Any:
    """Return the SELECT that tells whether a study has a lease that has not expired."""
    is_living = leases.c.owner.is_not(None) & (leases.c.expires > database_time(dialect))
    return sa.select(sa.exists().where(leases.c.study_id == sa.bindparam("study"), is_living))


# The leases that a process with a unique name holds.
LEASES_WITH_OWNER = sa.select(leases.c.trial_id, leases.c.token, leases.c.process).where(
    leases.c.study_id == sa.bindparam("study"), leases.c.process.is_not(None)
)
