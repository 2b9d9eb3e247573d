"""A trial's rows in Optuna's tables: written, and read, by statements that are built once.

Building a statement takes several times longer than a database on the same machine takes to run it, and
Optuna's own writers look each row up before they write it. Whoever calls holds the trial's fence, which has
found the trial RUNNING; what is written here, written again, does no harm.
"""

import functools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

# By name: a value as Optuna stores it, and what it is one of.
Parameters = Mapping[str, tuple[float, BaseDistribution]]

CHUNK = 1000  # trials read by one statement

trials: Any = models.TrialModel.__table__
values: Any = models.TrialValueModel.__table__
params: Any = models.TrialParamModel.__table__
reports: Any = models.TrialIntermediateValueModel.__table__
user_attributes: Any = models.TrialUserAttributeModel.__table__
system_attributes: Any = models.TrialSystemAttributeModel.__table__


def dialect_of(session: Session) -> str:
    """Give the kind of database behind a session: sqlite or postgresql."""
    return session.get_bind().dialect.name


@functools.cache
def _upsert(dialect: str, table: Any, key: str) -> Any:
    """Insert rows; one that a trial has under its key already gets the new values, if they are new."""
    insert = (sqlite if dialect == "sqlite" else postgresql).insert(table).inline()
    names = [column.name for column in table.c]
    kept = {"trial_id", key, *table.primary_key.columns.keys()}
    changed = {name: insert.excluded[name] for name in names if name not in kept}
    differs = sa.or_(*(table.c[name].is_distinct_from(value) for name, value in changed.items()))
    return insert.on_conflict_do_update(index_elements=["trial_id", key], set_=changed, where=differs)


def write_report(session: Session, trial_id: int, step: int, accuracy: float | None) -> None:
    """Write a trial's accuracy after epoch ``step``, if it was measured."""
    if accuracy is None:
        return
    value, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(accuracy)
    row = {"trial_id": trial_id, "step": step, "intermediate_value": value, "intermediate_value_type": kind}
    session.execute(_upsert(dialect_of(session), reports, "step"), row)


def write_attributes(
    session: Session, trial_id: int, attributes: Mapping[str, Any], *, system: bool = False
) -> None:
    """Write user (or system) attributes of a trial."""
    table = system_attributes if system else user_attributes
    rows = [{"trial_id": trial_id, "key": k, "value_json": json.dumps(v)} for k, v in attributes.items()]
    if rows:
        session.execute(_upsert(dialect_of(session), table, "key"), rows)


def write_parameters(session: Session, trial_id: int, parameters: Parameters) -> None:
    """Write parameters of a trial, in their order."""
    rows = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": value,
            "distribution_json": distribution_to_json(known),
        }
        for name, (value, known) in parameters.items()
    ]
    if rows:
        session.execute(_upsert(dialect_of(session), params, "param_name"), rows)


def write_state(session: Session, trial_id: int, state: TrialState, value: float | None = None) -> None:
    """Write a trial's state, with its time, and its value."""
    if value is not None:
        stored, kind = models.TrialValueModel.value_to_stored_repr(value)
        row = {"trial_id": trial_id, "objective": 0, "value": stored, "value_type": kind}
        session.execute(_upsert(dialect_of(session), values, "objective"), row)
    moment = datetime.now(UTC).replace(tzinfo=None)
    given = {"trial": trial_id, "to": state, "moment": moment}
    session.execute(_state(state == TrialState.RUNNING, state.is_finished()), given)


@functools.cache
def _state(starts: bool, ends: bool) -> Any:
    moment = sa.bindparam("moment", type_=sa.DateTime)
    times: dict[str, Any] = (
        {"datetime_start": sa.func.coalesce(trials.c.datetime_start, moment)} if starts else {}
    )
    times |= {"datetime_complete": moment} if ends else {}
    to = sa.bindparam("to", type_=trials.c.state.type)
    return sa.update(trials).where(trials.c.trial_id == sa.bindparam("trial")).values(state=to, **times)


def read(session: Session, trial_ids: Sequence[int], *, user: bool = False) -> list[FrozenTrial]:
    """Read trials as Optuna gives them, in the order of their ids; without user attributes unless asked."""
    found = []
    for first in range(0, len(trial_ids), CHUNK):
        found += _read(session, trial_ids[first : first + CHUNK], user)
    return found


def _read(session: Session, trial_ids: Sequence[int], user: bool) -> list[FrozenTrial]:
    # The states come first: on Postgres a statement sees what was committed since the one before, and a
    # trial that ends in between had better look open than finished without its value.
    def rows_of(table: Any) -> Sequence[Any]:
        return session.execute(_of_trials(dialect_of(session), table), {"ids": trial_ids}).all()

    heads = rows_of(trials)
    of: dict[Any, dict[int, list[Any]]] = {}
    for table in (values, params, reports, system_attributes, *([user_attributes] if user else ())):
        of[table] = defaultdict(list)
        for row in rows_of(table):
            of[table][row.trial_id].append(row)
    of.setdefault(user_attributes, {})
    return [
        _frozen(head, {table: found.get(head.trial_id, ()) for table, found in of.items()})
        for head in heads
    ]


@functools.cache
def _of_trials(dialect: str, table: Any) -> Any:
    """Read the rows of trials; on Postgres one text serves any number of them, and is parsed once."""
    if dialect == "postgresql":
        listed = table.c.trial_id == sa.any_(sa.bindparam("ids", type_=postgresql.ARRAY(sa.Integer)))
    else:
        listed = table.c.trial_id.in_(sa.bindparam("ids", expanding=True, type_=sa.Integer))
    return sa.select(table).where(listed).order_by(*table.primary_key.columns)


def _frozen(head: Any, of: Mapping[Any, Iterable[Any]]) -> FrozenTrial:
    number = models.TrialValueModel.stored_repr_to_value
    accuracy = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
    given = {row.param_name: row.param_value for row in of[params]}
    known = {row.param_name: _distribution(row.distribution_json) for row in of[params]}
    return FrozenTrial(
        number=head.number,
        state=head.state,
        value=None,
        values=[number(row.value, row.value_type) for row in of[values]] or None,
        datetime_start=_local(head.datetime_start),
        datetime_complete=_local(head.datetime_complete),
        params={name: known[name].to_external_repr(value) for name, value in given.items()},
        distributions=known,
        user_attrs={row.key: json.loads(row.value_json) for row in of[user_attributes]},
        system_attrs={row.key: json.loads(row.value_json) for row in of[system_attributes]},
        intermediate_values={
            row.step: accuracy(row.intermediate_value, row.intermediate_value_type) for row in of[reports]
        },
        trial_id=head.trial_id,
    )


def _local(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


@functools.lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)
