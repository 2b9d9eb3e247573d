"""The table of attempts: who ran which trial, from when until when, and why the attempt ended.

An attempt begins with a claim and ends in the transaction that ends or releases its trial. One that dies
writes nothing any more: the claim that follows closes its row, as of its last sign of life. So until then a
dead attempt has no end in the table. Deleting a trial, with whatever tool, deletes its attempts.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from hpo.store import attributes, tables
from hpo.store.lease_table import database_time
from hpo.store.process import Owner
from hpo.store.rows import dialect_of, trials
from hpo.store.storage import Storage, retrying
from hpo.store.tables import attempts, leases

DIED = "died"  # outcome of an attempt that stopped renewing its lease
MAX_REASON_LENGTH = 2000  # characters


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt at a trial.

    Attributes:
        trial: The trial's number.
        attempt: Its own number, from 1.
        owner: Host and process id of the worker.
        host: The worker's host.
        device: The device as its user knows it, such as ``cuda:0``.
        hardware: What the device is, such as the name of the GPU.
        versions: Of hpo, PyTorch and Python, by name.
        began: When the trial was claimed, in seconds since 1970.
        ended: When the attempt ended; of one that died, its last sign of life. None while it runs, or
            until another worker claims the trial.
        epochs: The trial's last reported epoch when the attempt ended; None until then.
        outcome: ``complete``, ``pruned``, ``failed``, ``paused`` (at a rung), ``released`` or ``died``;
            None until it has ended.
        reason: Why it ended, after why it began at the first epoch again, if it did; "" if there is nothing
            to add to the outcome.
    """

    trial: int
    attempt: int
    owner: str
    host: str
    device: str
    hardware: str
    versions: Mapping[str, str]
    began: float
    ended: float | None
    epochs: int | None
    outcome: str | None
    reason: str

    @property
    def seconds(self) -> float | None:
        """From begin to end; None while the attempt runs."""
        return None if self.ended is None else max(self.ended - self.began, 0.0)


_IS_OPEN_ATTEMPT = (
    (attempts.c.trial_id == sa.bindparam("trial"))
    & (attempts.c.token == sa.bindparam("attempt"))
    & attempts.c.ended.is_(None)
)
_NEW_REASON = sa.bindparam("new_reason", type_=sa.Text)
_SET_REASON = sa.update(attempts).where(_IS_OPEN_ATTEMPT).values(reason=_NEW_REASON)
# Why the attempt began again, if it did, and why it ended.
_ALL_REASONS = sa.case(
    (attempts.c.reason.is_(None), _NEW_REASON),
    (_NEW_REASON == "", attempts.c.reason),
    else_=attempts.c.reason + "; " + _NEW_REASON,
)
_CLOSE_DEAD = (
    sa.update(attempts)
    .where(_IS_OPEN_ATTEMPT)
    .values(
        **{
            name: sa.bindparam(f"new_{name}", type_=attempts.c[name].type)
            for name in ("ended", "epochs", "outcome")
        },
        reason=_ALL_REASONS,
    )
)


@functools.cache
def _begin_statement(dialect: str) -> Any:
    names = ("trial_id", "token", "study_id", "owner", "host", "device", "hardware", "versions")
    columns = {name: sa.bindparam(name, type_=attempts.c[name].type) for name in names}
    return sa.insert(attempts).inline().values(**columns, began=database_time(dialect))


@functools.cache
def _end_statement(dialect: str) -> Any:
    epochs = sa.select(leases.c.epoch).where(leases.c.trial_id == sa.bindparam("trial"))
    return (
        sa.update(attempts)
        .where(_IS_OPEN_ATTEMPT)
        .values(
            ended=database_time(dialect),
            epochs=epochs.scalar_subquery(),
            outcome=sa.bindparam("new_outcome", type_=sa.Text),
            reason=_ALL_REASONS,
        )
    )


def begin_attempt(session: Session, study_id: int, trial_id: int, token: int, owner: Owner) -> None:
    """Write that an attempt begins, in the transaction of its claim.

    Args:
        session: The session of that transaction.
        study_id: Optuna's id of the study.
        trial_id: Optuna's id of the trial.
        token: The number of the attempt.
        owner: Who claims.
    """
    row = {
        "trial_id": trial_id,
        "token": token,
        "study_id": study_id,
        "owner": owner.name,
        "host": owner.host,
        "device": owner.device,
        "hardware": owner.hardware,
        "versions": json.dumps(dict(owner.versions)),
    }
    session.execute(_begin_statement(dialect_of(session)), row)


def set_reason(session: Session, trial_id: int, token: int, reason: str) -> None:
    """Write why an attempt that runs began at the first epoch again.

    Args:
        session: The session of a transaction that holds the attempt's lease.
        trial_id: Optuna's id of the trial.
        token: The number of the attempt.
        reason: Why.
    """
    values = {"trial": trial_id, "attempt": token, "new_reason": reason[:MAX_REASON_LENGTH]}
    session.execute(_SET_REASON, values)


def end_attempt(session: Session, trial_id: int, token: int, outcome: str, reason: str) -> None:
    """Write how an attempt ended, in the transaction that ends or releases its trial.

    Args:
        session: The session of that transaction.
        trial_id: Optuna's id of the trial.
        token: The number of the attempt.
        outcome: As in ``Attempt``.
        reason: Why it ended; "" if the outcome says it all.
    """
    values = {"trial": trial_id, "attempt": token, "new_outcome": outcome}
    values["new_reason"] = reason[:MAX_REASON_LENGTH]
    session.execute(_end_statement(dialect_of(session)), values)


def close_dead_attempt(session: Session, trial_id: int, lease: sa.Row[Any]) -> None:
    """Write that the last attempt at a trial died, unless it has ended.

    Args:
        session: The session of the transaction that claims or ends the trial.
        trial_id: Optuna's id of the trial.
        lease: Its lease, locked, as the attempt left it.
    """
    is_gone = (
        lease.owner is not None and lease.expires == 0
    )  # see ``queue``: its process is known to be dead
    reason = "its process was gone" if is_gone else "it was silent for longer than its lease"
    if lease.owner is None:
        reason = "another tool set the trial back"
    values = {"trial": trial_id, "attempt": lease.token, "new_ended": lease.renewed}
    values |= {"new_epochs": lease.epoch, "new_outcome": DIED, "new_reason": reason}
    session.execute(_CLOSE_DEAD, values)


@retrying(reads=True)
def read_attempts(storage: Storage, study_id: int, trial: int | None = None) -> list[Attempt]:
    """Read the attempts at a study's trials, in the order in which they began.

    Args:
        storage: The storage that the study is in.
        study_id: Optuna's id of the study.
        trial: The number of a trial; None for all.

    Returns:
        A record for each; none of those that were made before the store had the table.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    wanted = sa.select(attempts, trials.c.number).join(trials, trials.c.trial_id == attempts.c.trial_id)
    wanted = wanted.where(attempts.c.study_id == study_id)
    if trial is not None:
        wanted = wanted.where(trials.c.number == trial)
    with storage.transaction() as session:
        if tables.is_missing(session, attempts):
            return []
        found = session.execute(wanted.order_by(attempts.c.began, attempts.c.token)).all()
    return [_parse_attempt(row) for row in found if attributes.is_moment(row.began)]


def _parse_attempt(row: sa.Row[Any]) -> Attempt:
    """Return the record of a row; what hpo could not have written reads as absent."""
    names = ("owner", "host", "device", "hardware", "reason", "outcome")
    texts = {name: value if attributes.is_text(value := getattr(row, name)) else "" for name in names}
    versions = attributes.parse_json(row.versions)
    known = versions.items() if isinstance(versions, dict) else ()
    return Attempt(
        trial=row.number,
        attempt=row.token,
        versions={
            name: each for name, each in known if attributes.is_text(name) and attributes.is_text(each)
        },
        began=row.began,
        ended=row.ended if attributes.is_moment(row.ended) else None,
        epochs=row.epochs,
        **texts | {"outcome": texts["outcome"] or None},
    )
