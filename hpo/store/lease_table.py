"""The lease table, and the statements by which ``lease`` reads and changes it; each is built once.

What a statement wants is told by its bound parameters: ``trial``, ``held``, ``by`` and ``within`` (its id,
our token, name and process), ``study``, ``seconds`` (of a lease), and those named in its own words.
"""

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpo.search.asha import LISTED_ATTRIBUTES, PAUSED_AT_RUNG
from hpo.store import plan, rows
from hpo.store.rows import dialect_of, trials

leases = sa.Table(
    "hpo_leases",
    sa.MetaData(),
    sa.Column(
        "trial_id",
        sa.ForeignKey(models.TrialModel.__table__.c.trial_id, ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("study_id", sa.Integer, nullable=False, index=True),
    sa.Column("owner", sa.Text),  # host and process id; NULL: nobody's
    sa.Column("process", sa.Text),  # tells the owner's process from every other, ever
    sa.Column("host", sa.Text),
    sa.Column("device", sa.Text),
    sa.Column("token", sa.Integer, nullable=False),  # the number of the attempt, from 1
    sa.Column("attempts", sa.Integer, nullable=False),  # in a row that died without a new checkpoint
    sa.Column("expires", sa.Double, nullable=False),  # seconds since 1970, by the database's clock
    sa.Column("renewed", sa.Double, nullable=False),  # when the owner was last heard of, by the same clock
    sa.Column("checkpoint", sa.Text),  # name of the last one committed
    sa.Column("epoch", sa.Integer, nullable=False),  # the last one reported
)
# Whoever deletes a trial, with whatever tool, deletes its lease: SQLite gives the trial's id to the next
# one, which must not inherit. SQLite's own connections enforce no foreign keys, but run triggers.
sa.event.listen(
    leases,
    "after_create",
    sa.DDL(  # type: ignore[no-untyped-call]  # SQLAlchemy's oversight
        "CREATE TRIGGER hpo_leases_of_trials AFTER DELETE ON trials "
        "BEGIN DELETE FROM hpo_leases WHERE trial_id = OLD.trial_id; END"
    ).execute_if(dialect="sqlite"),
)


@dataclass(frozen=True, kw_only=True)
class ClaimableTrial:
    """A paused trial whose turn has come."""

    row: sa.Row[Any]  # locked, as ``claimable`` gives it
    system_attributes: Mapping[str, Any]  # system attributes that it gets as it is claimed


def database_time(dialect: str) -> sa.ColumnElement[float]:
    """Give the database's clock, in seconds since 1970; no session's time zone changes it."""
    if dialect == "postgresql":
        return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)
    return (sa.func.julianday("now") - 2440587.5) * 86400.0


_attribute = rows.system_attributes
_IS_PAUSED_AT_RUNG = sa.exists().where(
    _attribute.c.trial_id == trials.c.trial_id,
    _attribute.c.key == PAUSED_AT_RUNG,
    _attribute.c.value_json != "null",
)
# A trial that waits at a rung, locked; no row if another has locked it, or it does not wait any more.
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
# Whether a study has trials that wait, or that a worker has or had a lease on.
HAS_OPEN_TRIALS = sa.select(sa.exists().where(_IS_OF_STUDY, _IS_WAITING | _IS_RUNNING_WITH_LEASE))
# The same, but for those that wait at a rung.
HAS_UNPAUSED_OPEN_TRIALS = sa.select(
    sa.exists().where(_IS_OF_STUDY, (_IS_WAITING & ~_IS_PAUSED_AT_RUNG) | _IS_RUNNING_WITH_LEASE)
)
# A lease under our token.
HAS_OUR_TOKEN = (leases.c.trial_id == sa.bindparam("trial")) & (leases.c.token == sa.bindparam("held"))
# The same token may be another's: SQLite gives a deleted study's ids to the next, whose tokens begin at 1
# again; and a Postgres that fails over may forget a claim.
IS_OUR_LEASE = (
    HAS_OUR_TOKEN & (leases.c.owner == sa.bindparam("by")) & (leases.c.process == sa.bindparam("within"))
)
# A claimed trial, locked against any change of its state, with the order that its study is under.
LOCK_TRIAL = (
    sa.select(trials.c.state, plan.order_statement(trials.c.study_id).scalar_subquery().label("order"))
    .where(trials.c.trial_id == sa.bindparam("trial"))
    .with_for_update(read=True, of=trials)
)
# The state of a trial whose lease we have given up under our token.
STATE_AFTER_RELEASE = sa.select(trials.c.state).where(
    trials.c.trial_id == sa.bindparam("trial"), sa.exists().where(HAS_OUR_TOKEN, leases.c.owner.is_(None))
)


@functools.cache
def renew_statement(dialect: str) -> Any:
    """Renew our lease; ``reported`` and ``named`` are an epoch and a checkpoint to note, or None."""
    named = sa.bindparam("named", type_=sa.Text)
    return (
        sa.update(leases)
        .where(IS_OUR_LEASE)
        .values(
            expires=database_time(dialect) + sa.bindparam("seconds", type_=sa.Double),
            renewed=database_time(dialect),
            epoch=sa.func.coalesce(sa.bindparam("reported", type_=sa.Integer), leases.c.epoch),
            checkpoint=sa.func.coalesce(named, leases.c.checkpoint),
            attempts=sa.case((named.is_(None), leases.c.attempts), else_=0),
        )
    )


@functools.cache
def release_statement(dialect: str) -> Any:
    """Give up a lease whose attempts, but for the ``unused`` last ones, have died."""
    fewer = leases.c.attempts - sa.bindparam("unused", type_=sa.Integer)
    return (
        sa.update(leases)
        .where(IS_OUR_LEASE)
        .values(
            owner=None,
            process=None,
            expires=0.0,
            renewed=database_time(dialect),
            attempts=sa.case((fewer > 0, fewer), else_=0),
            checkpoint=sa.case((sa.bindparam("forget", type_=sa.Boolean), None), else_=leases.c.checkpoint),
        )
    )


def lock_claimable_trial(
    session: Session, study_id: int, skipped_ids: Collection[int]
) -> sa.Row[Any] | None:
    """Find the next trial that looks free, and lock it; passing by those that are locked."""
    given = {"study": study_id, "passed_by": list(skipped_ids)}
    return session.execute(_claimable(dialect_of(session)), given).first()


@functools.cache
def _claimable(dialect: str) -> Any:
    listed = sa.exists().where(
        _attribute.c.trial_id == trials.c.trial_id, _attribute.c.key.in_(LISTED_ATTRIBUTES)
    )
    over = leases.c.owner.is_not(None) & (leases.c.expires <= database_time(dialect))
    open_ = ((trials.c.state == TrialState.WAITING) & ~_IS_PAUSED_AT_RUNG) | (
        (trials.c.state == TrialState.RUNNING) & over
    )
    passed_by = sa.bindparam("passed_by", expanding=True, type_=sa.Integer)
    return (
        sa.select(trials.c.trial_id, trials.c.number, trials.c.state, leases.c.token)
        .outerjoin(leases, leases.c.trial_id == trials.c.trial_id)
        .where(trials.c.study_id == sa.bindparam("study"), open_, trials.c.trial_id.not_in(passed_by))
        .order_by(leases.c.token.is_(None), sa.not_(listed), trials.c.number)
        .limit(1)
        .with_for_update(of=trials, skip_locked=True)
    )


def lock_lease(session: Session, trial_id: int) -> sa.Row[Any] | None:
    """Lock a trial's lease and read it as it is now; None if there is none, or it is locked."""
    return session.execute(_locked(dialect_of(session)), {"trial": trial_id}).first()


def is_still_free(found: sa.Row[Any], lease: sa.Row[Any] | None) -> bool:
    """Tell whether a trial is still free now that it is locked: Postgres found it by an older lease."""
    if lease is None:
        return found.token is None and found.state == TrialState.WAITING
    if found.state == TrialState.WAITING:
        return True
    return lease.owner is not None and bool(lease.expires <= lease.now)


@functools.cache
def _locked(dialect: str) -> Any:
    lease = sa.select(leases, database_time(dialect).label("now")).where(
        leases.c.trial_id == sa.bindparam("trial")
    )
    return lease.with_for_update(skip_locked=True)


@functools.cache
def take_statement(dialect: str, new: bool) -> Any:
    """Make a lease one's own; a ``new`` one is inserted."""
    times = {
        "expires": database_time(dialect) + sa.bindparam("seconds", type_=sa.Double),
        "renewed": database_time(dialect),
    }
    names = ["owner", "process", "host", "device", "token", "attempts"]
    names += ["trial_id", "study_id", "epoch"] if new else []
    given = {name: sa.bindparam(name, type_=leases.c[name].type) for name in names}
    if new:
        return sa.insert(leases).inline().values(**given, **times)
    return sa.update(leases).where(leases.c.trial_id == sa.bindparam("trial")).values(**given, **times)


# The leases that somebody holds.
LEASES_WITH_OWNER = sa.select(leases.c.trial_id, leases.c.token, leases.c.process).where(
    leases.c.study_id == sa.bindparam("study"), leases.c.process.is_not(None)
)
