"""A trial's rows in Optuna's tables: statements, built once, that write and read them.

Building a statement takes several times longer than a database on the same machine takes to run it, and
Optuna's own writers look each row up before they write it. The caller has passed the trial's fence
(``lease``), which found the trial RUNNING. Writing the same values again does no harm.
"""

import functools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from hpo.store import attributes, stored_values

# By name: a value in Optuna's internal representation, and its distribution.
Parameters = Mapping[str, tuple[float, BaseDistribution]]

STATE_NAMES = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}

CHUNK_TRIALS = 1000  # trials that one statement reads

trials: Any = models.TrialModel.__table__
values: Any = models.TrialValueModel.__table__
params: Any = models.TrialParamModel.__table__
reports: Any = models.TrialIntermediateValueModel.__table__
user_attributes: Any = models.TrialUserAttributeModel.__table__
system_attributes: Any = models.TrialSystemAttributeModel.__table__


def dialect_of(session: Session) -> str:
    """Return the kind of database behind a session: ``sqlite`` or ``postgresql``."""
    return session.get_bind().dialect.name


@functools.cache
def upsert_statement(dialect: str, table: Any, key: str) -> Any:
    """Return the INSERT of a trial's rows that updates a row of the same key if its values differ."""
    insert = (sqlite if dialect == "sqlite" else postgresql).insert(table).inline()
    names = [column.name for column in table.c]
    kept = {"trial_id", key, *table.primary_key.columns.keys()}
    changed = {name: insert.excluded[name] for name in names if name not in kept}
    differs = sa.or_(*(table.c[name].is_distinct_from(value) for name, value in changed.items()))
    return insert.on_conflict_do_update(index_elements=["trial_id", key], set_=changed, where=differs)


def write_report(session: Session, trial_id: int, step: int, value: float | None) -> None:
    """Write a trial's value after an epoch.

    Args:
        session: The session of the fenced transaction.
        trial_id: Optuna's id of the trial.
        step: The epoch, from 1.
        value: The value; None, which was not measured, writes nothing.
    """
    if value is None:
        return
    stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
    row = {
        "trial_id": trial_id,
        "step": step,
        "intermediate_value": stored,
        "intermediate_value_type": kind,
    }
    session.execute(upsert_statement(dialect_of(session), reports, "step"), row)


def write_attributes(
    session: Session, trial_id: int, given: Mapping[str, Any], *, system: bool = False
) -> None:
    """Write attributes of a trial, over those that have the same keys.

    Args:
        session: The session of the fenced transaction.
        trial_id: Optuna's id of the trial.
        given: Values that JSON can hold, by key.
        system: Write system attributes rather than user attributes.
    """
    table = system_attributes if system else user_attributes
    rows = [{"trial_id": trial_id, "key": k, "value_json": json.dumps(v)} for k, v in given.items()]
    if rows:
        session.execute(upsert_statement(dialect_of(session), table, "key"), rows)


def write_parameters(session: Session, trial_id: int, parameters: Parameters) -> None:
    """Write parameters of a trial, in their order, over those that have the same names.

    Args:
        session: The session of the fenced transaction.
        trial_id: Optuna's id of the trial.
        parameters: Internal value and distribution, by name.
    """
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
        session.execute(upsert_statement(dialect_of(session), params, "param_name"), rows)


def write_state(
    session: Session, trial_id: int, state: TrialState, value: float | Sequence[float] | None = None
) -> None:
    """Write a trial's state and value, and the time at which it starts or ends.

    Args:
        session: The session of the fenced transaction.
        trial_id: Optuna's id of the trial.
        state: The new state. RUNNING sets the start time if there is none, a finished state the end time;
            both in UTC, by this machine's clock.
        value: The trial's value, or one for each objective; None leaves it as it is.
    """
    given_values = () if value is None else value if isinstance(value, Sequence) else (value,)
    for index, each in enumerate(given_values):
        stored, kind = models.TrialValueModel.value_to_stored_repr(each)
        row = {"trial_id": trial_id, "objective": index, "value": stored, "value_type": kind}
        session.execute(upsert_statement(dialect_of(session), values, "objective"), row)
    moment = datetime.now(UTC).replace(tzinfo=None)
    given = {"trial": trial_id, "to": state, "moment": moment}
    session.execute(_state_statement(state == TrialState.RUNNING, state.is_finished()), given)


@functools.cache
def _state_statement(starts: bool, ends: bool) -> Any:
    moment = sa.bindparam("moment", type_=sa.DateTime)
    times: dict[str, Any] = (
        {"datetime_start": sa.func.coalesce(trials.c.datetime_start, moment)} if starts else {}
    )
    times |= {"datetime_complete": moment} if ends else {}
    to = sa.bindparam("to", type_=trials.c.state.type)
    return sa.update(trials).where(trials.c.trial_id == sa.bindparam("trial")).values(state=to, **times)


# One statement reads a trial's state and value: a trial that ends meanwhile is seen open, or with both.
HEAD_COLUMNS = (
    *(trials.c[name] for name in ("trial_id", "number", "state", "datetime_start", "datetime_complete")),
    values.c.value,
    values.c.value_type,
)
HEAD_TABLES = trials.outerjoin(values, (values.c.trial_id == trials.c.trial_id) & (values.c.objective == 0))
_STUDY_HEADS = (
    sa.select(*HEAD_COLUMNS)
    .select_from(HEAD_TABLES)
    .where(trials.c.study_id == sa.bindparam("study"))
    .order_by(trials.c.trial_id)
)
# The rest of a trial, by table: the columns that are read after the trial's id.
DETAIL_COLUMNS: Mapping[Any, tuple[str, ...]] = {
    params: ("param_name", "param_value", "distribution_json"),
    reports: ("step", "intermediate_value", "intermediate_value_type"),
    system_attributes: ("key", "value_json"),
    user_attributes: ("key", "value_json"),
    values: ("objective", "value", "value_type"),
}


@dataclass(frozen=True, kw_only=True)
class Known:
    """A trial that was read before.

    Attributes:
        trial: The trial as it was then, with all its parameters.
        new_steps: The epochs that it may have reported since; None if any of its reports may differ.
    """

    trial: FrozenTrial
    new_steps: range | None = None


def read_trials(session: Session, trial_ids: Sequence[int], objectives: int = 1) -> list[FrozenTrial]:
    """Read whole trials as Optuna's records, in the order of their ids.

    Ids of trials that do not exist are left out.

    Args:
        session: The session to read with.
        trial_ids: Optuna's ids of the trials.
        objectives: How many objectives their study has.
    """
    heads = session.execute(_heads_statement(dialect_of(session)), {"ids": trial_ids}).all()
    return build_trials(session, heads, with_user_attributes=True, objectives=objectives)


def read_study(session: Session, study_id: int, objectives: int = 1) -> list[FrozenTrial]:
    """Read all trials of a study as Optuna's records, in the order of their ids.

    Args:
        session: The session to read with.
        study_id: Optuna's id of the study.
        objectives: How many objectives it has.
    """
    heads = session.execute(_STUDY_HEADS, {"study": study_id}).all()
    return build_trials(session, heads, with_user_attributes=True, objectives=objectives)


def build_trials(
    session: Session,
    heads: Sequence[Any],
    *,
    known: Mapping[int, Known] = MappingProxyType({}),
    with_user_attributes: bool = False,
    objectives: int = 1,
) -> list[FrozenTrial]:
    """Read the rest of trials, and build Optuna's records of them.

    Args:
        session: The session to read with.
        heads: Rows with the columns of ``HEAD_COLUMNS``, one for each trial.
        known: Trials read before, by id. Their parameters, distributions and start are taken over, since
            these never change once they are written, and their reports but for the new ones.
        with_user_attributes: Read user attributes too; without it the records have none.
        objectives: How many objectives the trials' study has; the first one's value is in ``heads``.

    Returns:
        The trials, in the order of ``heads``.
    """
    built = []
    for first in range(0, len(heads), CHUNK_TRIALS):
        chunk = heads[first : first + CHUNK_TRIALS]
        ids = [head.trial_id for head in chunk]
        wanted = dict.fromkeys(DETAIL_COLUMNS, ids)
        grown = {id_: known[id_].new_steps for id_ in ids if id_ in known}
        wanted[params] = [trial_id for trial_id in ids if trial_id not in known]
        wanted[reports] = [trial_id for trial_id in ids if grown.get(trial_id) is None]
        wanted[user_attributes] = ids if with_user_attributes else []
        wanted[values] = ids if objectives > 1 else []
        details = {table: _read_details(session, table, wanted[table]) for table in wanted}
        new_steps = {id_: steps for id_, steps in grown.items() if steps}
        details[reports] = {**details[reports], **_read_reports(session, new_steps)}
        built += [_build_trial(head, known.get(head.trial_id), details, objectives) for head in chunk]
    return built


def _read_details(session: Session, table: Any, trial_ids: Sequence[int]) -> Mapping[int, list[Any]]:
    """Read the rows of one table that belong to trials, by trial id."""
    found: dict[int, list[Any]] = defaultdict(list)
    if trial_ids:
        for trial_id, *part in session.execute(
            _details_statement(dialect_of(session), table), {"ids": trial_ids}
        ).all():
            found[trial_id].append(part)
    return found


def _read_reports(session: Session, new_steps: Mapping[int, range]) -> Mapping[int, list[Any]]:
    """Read the reports of new epochs, which are given by trial id; on Postgres maybe newer ones, too."""
    found: dict[int, list[Any]] = defaultdict(list)
    dialect = dialect_of(session)
    given: list[dict[str, Any]]
    if dialect == "sqlite":
        pairs = [(trial_id, step) for trial_id, steps in new_steps.items() for step in steps]
        given = [{"pairs": pairs[i : i + CHUNK_TRIALS]} for i in range(0, len(pairs), CHUNK_TRIALS)]
    else:
        firsts = [steps.start for steps in new_steps.values()]
        given = [{"ids": [*new_steps], "firsts": firsts}] if new_steps else []
    for each in given:
        for trial_id, *part in session.execute(_reports_statement(dialect), each).all():
            found[trial_id].append(part)
    return found


@functools.cache
def _reports_statement(dialect: str) -> Any:
    """Return the SELECT of reports; on Postgres one text serves any number of trials and epochs."""
    chosen = sa.select(reports.c.trial_id, *(reports.c[name] for name in DETAIL_COLUMNS[reports]))
    if dialect == "sqlite":
        row = sa.tuple_(reports.c.trial_id, reports.c.step)
        return chosen.where(row.in_(sa.bindparam("pairs", expanding=True))).order_by(reports.c.step)
    numbers = postgresql.ARRAY(sa.Integer)
    pairs = sa.func.unnest(sa.bindparam("ids", type_=numbers), sa.bindparam("firsts", type_=numbers))
    wanted = pairs.table_valued("trial_id", "first").render_derived()
    is_wanted = (reports.c.trial_id == wanted.c.trial_id) & (reports.c.step >= wanted.c.first)
    return chosen.join_from(wanted, reports, is_wanted).order_by(reports.c.step)


@functools.cache
def _heads_statement(dialect: str) -> Any:
    return _where_trial_in_ids(dialect, sa.select(*HEAD_COLUMNS).select_from(HEAD_TABLES), trials)


@functools.cache
def _details_statement(dialect: str, table: Any) -> Any:
    return _where_trial_in_ids(
        dialect, sa.select(table.c.trial_id, *(table.c[name] for name in DETAIL_COLUMNS[table])), table
    )


def _where_trial_in_ids(dialect: str, chosen: Any, table: Any) -> Any:
    """Limit a SELECT to trials; on Postgres one text serves any number of ids, and is parsed once."""
    if dialect == "postgresql":
        listed = table.c.trial_id == sa.any_(sa.bindparam("ids", type_=postgresql.ARRAY(sa.Integer)))
    else:
        listed = table.c.trial_id.in_(sa.bindparam("ids", expanding=True, type_=sa.Integer))
    return chosen.where(listed).order_by(*table.primary_key.columns)


def _build_trial(
    head: Any,
    known: Known | None,
    details: Mapping[Any, Mapping[int, Iterable[Any]]],
    objectives: int,
) -> FrozenTrial:
    trial_id, number, state, start, end, value, kind, *_ = head  # HEAD_COLUMNS; attributes cost more
    user = _parse_values(details[user_attributes].get(trial_id, ()))
    system = _parse_values(details[system_attributes].get(trial_id, ()))
    if known is None:
        given, kinds = stored_values.parse_parameters(details[params].get(trial_id, ()))
        reported, began = {}, _local_time(start)
    else:
        before, is_grown = known.trial, known.new_steps is not None
        given, kinds, began = before.params, before.distributions, before.datetime_start
        reported = before.intermediate_values if is_grown else {}
    return FrozenTrial(
        number=number,
        state=state,
        value=None,
        values=_parse_trial_values(value, kind, details[values].get(trial_id, ()), objectives),
        datetime_start=began,
        datetime_complete=_local_time(end),
        params=given,
        distributions=kinds,
        user_attrs=attributes.check_user_attributes(user) if user else user,
        system_attrs=attributes.check_system_attributes(system, number) if system else system,
        intermediate_values=reported | stored_values.parse_reports(details[reports].get(trial_id, ())),
        trial_id=trial_id,
    )


def _parse_trial_values(
    value: float | None, kind: Any, others: Iterable[Any], objectives: int
) -> list[float] | None:
    """Return the values of a trial; None if one of them is missing, or cannot be computed with."""
    if kind is None:
        return None
    stored = {0: (value, kind)} | {objective: each for objective, *each in others}
    parsed = (
        attributes.check_value(stored_values.parse_value(*stored.get(i, (None, None))))
        for i in range(objectives)
    )
    known = [each for each in parsed if each is not None]
    return known if len(known) == objectives else None


def _parse_values(found: Iterable[Any]) -> dict[str, Any]:
    return {key: json.loads(text) for key, text in found}


def _local_time(moment: datetime | None) -> datetime | None:
    # Four times as fast as ``astimezone``
    return None if moment is None else datetime.fromtimestamp(moment.replace(tzinfo=UTC).timestamp())
