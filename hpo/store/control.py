"""Orders to a study while workers run it, from any host: pause, resume, stop, retry.

An order is an attribute of the study. A worker reads it in the transaction that commits an epoch; then it
saves a checkpoint and releases its trial. While there is an order, nobody claims a trial. So workers follow
it within an epoch, and it costs no further transaction.
"""

import uuid
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import TrialState

from hpo.errors import StoreError
from hpo.store import events, plan, study_rows, tables
from hpo.store.lease_table import database_time
from hpo.store.rows import dialect_of
from hpo.store.storage import Storage, retrying
from hpo.store.tables import leases


@retrying(max_wait_seconds=0)
def set_order(storage: Storage, name: str, order: str | None) -> None:
    """Give a study's workers an order, or withdraw it, whatever state the study is in.

    It is stored as the system attribute ``plan.ORDER``.

    Args:
        storage: The storage that the study is in.
        name: The study's name.
        order: ``plan.ORDER_PAUSED``, ``plan.ORDER_STOPPED``, or None to let the study continue.

    Raises:
        StoreUnavailable: The database is unavailable; the order may have been stored all the same.
        StoreError: There is no such study, another tool made it, or the database refuses the write.
        DefinitionError: Another version of hpo made the study.
    """
    with storage.transaction() as session:
        tables.upgrade(session)
        # The workers of another tool's study would not follow the order.
        study_id = study_rows.own_study_id(session, name, lock=True)
        plan.set_study_attributes(session, study_id, {plan.ORDER: order}, system=True)
        events.write_event(session, study_id, order or "resumed")


@retrying(reads=True)
def read_order(storage: Storage, study_id: int) -> str | None:
    """Return a study's order (``plan.ORDER_PAUSED``, ``plan.ORDER_STOPPED``); None if it may continue.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    with storage.transaction() as session:
        return plan.read_order(session, study_id)


@retrying(max_wait_seconds=0)
def retry_trials(storage: Storage, name: str, numbers: Collection[int] | None) -> list[int]:
    """Set failed trials back to WAITING, so that they continue from their checkpoints if they have any.

    In one transaction this deletes their values, end times and the attributes ``failure`` and ``pruned``,
    and sets the count of their attempts back to 0. Their parameters and reports stay. An attribute of the
    study marks it for caches of ended trials (``fingerprint``).

    Args:
        storage: The storage that the study is in.
        name: The study's name.
        numbers: The trials' numbers; None for all that failed. A trial that diverged was pruned, with a
            failure; it is set back only if its number is given.

    Returns:
        The numbers of the trials that were set back, ascending; empty if none has failed.

    Raises:
        StoreUnavailable: The database is unavailable; the trials may have been set back all the same.
        StoreError: There is no such study, another tool made it, one of the numbers is not that of a failed
            or diverged trial (no trial is set back then), or the database refuses the write.
        DefinitionError: Another version of hpo made the study.
    """
    with storage.transaction() as session:
        tables.upgrade(session)
        study_id = study_rows.own_study_id(session, name)
        rows = session.execute(_retried_trials(study_id, numbers).with_for_update(of=_trial)).all()
        if missing := sorted(set(numbers or ()) - {row.number for row in rows}):
            raise StoreError(
                f"study '{name}' has no failed trial {missing[0]}; 'hpo trials {name}' lists them"
            )
        ids = [row.trial_id for row in rows]
        trials, values = models.TrialModel.__table__, models.TrialValueModel.__table__
        again = {"state": TrialState.WAITING, "datetime_complete": None}
        session.execute(sa.update(trials).where(trials.c.trial_id.in_(ids)).values(again))
        anew = {"attempts": 0, "renewed": database_time(dialect_of(session))}
        session.execute(sa.update(leases).where(leases.c.trial_id.in_(ids)).values(anew))
        session.execute(sa.delete(values).where(values.c.trial_id.in_(ids)))
        why = _failure.key.in_(["failure", "pruned"])
        session.execute(sa.delete(_failure).where(_failure.trial_id.in_(ids), why))
        if ids:
            study_rows.own_study_id(session, name, lock=True)
            plan.set_study_attributes(session, study_id, {plan.RETRIED: uuid.uuid4().hex}, system=True)
        for row in rows:
            events.write_event(session, study_id, "retried", trial=row.number)
        return [row.number for row in rows]


_trial, _failure = models.TrialModel, models.TrialUserAttributeModel


def _retried_trials(study_id: int, numbers: Collection[int] | None) -> sa.Select[Any]:
    """Return the SELECT of the trials to retry, by number; of diverged ones only if a number is given."""
    found = sa.select(_trial.trial_id, _trial.number).where(_trial.study_id == study_id)
    if numbers is None:
        return found.where(_trial.state == TrialState.FAIL).order_by(_trial.number)
    failed = sa.exists().where(_failure.trial_id == _trial.trial_id, _failure.key == "failure")
    diverged = (_trial.state == TrialState.PRUNED) & failed
    return found.where(_trial.number.in_(numbers), (_trial.state == TrialState.FAIL) | diverged).order_by(
        _trial.number
    )
