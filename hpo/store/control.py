"""Orders to a study while workers run it, from any host: pause, resume, stop, retry.

An order is an attribute of the study. A worker reads it in the transaction that commits an epoch; then it
saves a checkpoint and releases its trial. While there is an order, nobody claims a trial. So workers follow
it within an epoch, and it costs no further transaction.

An order to stop one trial is an attribute of the trial. Its worker reads it with the study's order, saves a
checkpoint and ends the trial as pruned.
"""

import uuid
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpo.errors import StoreError
from hpo.store import events, plan, study_rows, tables
from hpo.store.lease_table import database_time
from hpo.store.rows import (
    STATE_NAMES,
    dialect_of,
    read_trials,
    system_attributes,
    write_attributes,
    write_parameters,
    write_state,
)
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


@retrying(max_wait_seconds=0)
def check_may_delete(storage: Storage) -> None:
    """Raise a StoreError if the database would refuse to delete a study; nothing is deleted.

    Raises:
        StoreUnavailable: The database is unavailable.
        StoreError: The user of the store may not delete, or only read.
    """
    with storage.transaction() as session:
        session.execute(sa.delete(leases).where(sa.false()))


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
def stop_trial(storage: Storage, name: str, number: int) -> bool:
    """End one trial as pruned: a waiting one at once, a running one at its next epoch.

    Its value is the last one that it reported. A listed setting that was never begun gets its parameters.

    Args:
        storage: The storage that the study is in.
        name: The study's name.
        number: The trial's number.

    Returns:
        Whether it has ended; False if it is running, and its worker ends it.

    Raises:
        StoreUnavailable: The database is unavailable; the trial may have been stopped all the same.
        StoreError: There is no such study or trial, another tool made it or runs it, the trial has ended or
            has no setting yet, or the database refuses the write.
        DefinitionError: Another version of hpo made the study.
    """
    with storage.transaction() as session:
        tables.upgrade(session)
        study_id = study_rows.own_study_id(session, name)
        row = session.execute(_locked_trial(study_id, number)).one_or_none()
        if row is None:
            raise StoreError(f"study '{name}' has no trial {number}; 'hpo trials {name}' lists them")
        if row.state.is_finished() or (row.state == TrialState.RUNNING and row.owner is None):
            why = f"is {STATE_NAMES[row.state]}" if row.state.is_finished() else "is run by another tool"
            raise StoreError(f"trial {number} of study '{name}' {why}: there is nothing to stop")
        if row.state == TrialState.WAITING:
            _end_waiting_trial(session, study_id, row.trial_id, name)
        write_attributes(session, row.trial_id, {plan.STOPPED_TRIAL: True}, system=True)
        events.write_event(session, study_id, "stopped", trial=number)
        return bool(row.state == TrialState.WAITING)


def _end_waiting_trial(session: Session, study_id: int, trial_id: int, name: str) -> None:
    """End a locked trial that waits as pruned, with its last value and its parameters."""
    definition = plan.lock_definition(session, study_id)
    (trial,) = read_trials(session, [trial_id], len(definition.objectives))
    setting = trial.params or definition.listed_setting(trial.system_attrs)
    if not setting and plan.RUN_OPTIONS not in trial.system_attrs:
        raise StoreError(
            f"trial {trial.number} of study '{name}' has not begun and has no setting yet, so there is "
            f"nothing to stop; 'hpo pause {name}' keeps it from beginning"
        )
    planned = definition.parameters()
    known = {each: planned[each].distribution() for each in setting if each in planned}
    parameters = {each: (kind.to_internal_repr(setting[each]), kind) for each, kind in known.items()}
    write_parameters(session, trial_id, parameters)
    reported = trial.intermediate_values
    value = reported[max(reported)] if reported and len(definition.objectives) == 1 else None
    write_attributes(session, trial_id, {"pruned": plan.TRIAL_STOPPED})
    write_state(session, trial_id, TrialState.PRUNED, value)


@retrying(max_wait_seconds=0)
def retry_trials(storage: Storage, name: str, numbers: Collection[int] | None) -> list[int]:
    """Set failed or stopped trials back to WAITING, to continue from their checkpoints if they have any.

    In one transaction this deletes their values, end times and the attributes ``failure`` and ``pruned``,
    and sets the count of their attempts back to 0. Their parameters and reports stay. An attribute of the
    study marks it for caches of ended trials (``fingerprint``).

    Args:
        storage: The storage that the study is in.
        name: The study's name.
        numbers: The trials' numbers; None for all that failed. A trial that diverged or was stopped by hand
            is pruned; it is set back only if its number is given.

    Returns:
        The numbers of the trials that were set back, ascending; empty if none has failed.

    Raises:
        StoreUnavailable: The database is unavailable; the trials may have been set back all the same.
        StoreError: There is no such study, another tool made it, one of the numbers is not that of a
            failed, diverged or stopped trial (then none is set back), or the database refuses the write.
        DefinitionError: Another version of hpo made the study.
    """
    with storage.transaction() as session:
        tables.upgrade(session)
        study_id = study_rows.own_study_id(session, name)
        rows = session.execute(_retried_trials(study_id, numbers).with_for_update(of=_trial)).all()
        if missing := sorted(set(numbers or ()) - {row.number for row in rows}):
            raise StoreError(
                f"study '{name}' has no failed or stopped trial {missing[0]}; 'hpo trials {name}' lists all"
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
        stopped = system_attributes.c.key == plan.STOPPED_TRIAL
        session.execute(sa.delete(system_attributes).where(system_attributes.c.trial_id.in_(ids), stopped))
        if ids:
            study_rows.own_study_id(session, name, lock=True)
            plan.set_study_attributes(session, study_id, {plan.RETRIED: uuid.uuid4().hex}, system=True)
        for row in rows:
            events.write_event(session, study_id, "retried", trial=row.number)
        return [row.number for row in rows]


_trial, _failure = models.TrialModel, models.TrialUserAttributeModel


def _retried_trials(study_id: int, numbers: Collection[int] | None) -> sa.Select[Any]:
    """Return the SELECT of the trials to retry, by number; of pruned ones only if a number is given."""
    found = sa.select(_trial.trial_id, _trial.number).where(_trial.study_id == study_id)
    if numbers is None:
        return found.where(_trial.state == TrialState.FAIL).order_by(_trial.number)
    failed = sa.exists().where(_failure.trial_id == _trial.trial_id, _failure.key == "failure")
    stopped = sa.exists().where(
        system_attributes.c.trial_id == _trial.trial_id, system_attributes.c.key == plan.STOPPED_TRIAL
    )
    pruned = (_trial.state == TrialState.PRUNED) & (failed | stopped)
    return found.where(_trial.number.in_(numbers), (_trial.state == TrialState.FAIL) | pruned).order_by(
        _trial.number
    )


def _locked_trial(study_id: int, number: int) -> sa.Select[Any]:
    """Return the SELECT that locks a trial, with the owner of its lease."""
    found = sa.select(_trial.trial_id, _trial.state, leases.c.owner)
    return (
        found.outerjoin(leases, leases.c.trial_id == _trial.trial_id)
        .where(_trial.study_id == study_id, _trial.number == number)
        .with_for_update(of=_trial)
    )
