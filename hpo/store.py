"""The store: Optuna's tables in SQLite or Postgres, our lease table beside them, studies and their plan.

This is the one module that leans on what Optuna keeps semi-private: its table models, the session that
each thread has, and the writers that do not commit. All three are needed for one thing: that what we
write about a trial and what Optuna writes commit in one transaction. ``tests/test_store.py`` holds the
contract that we rely on, and pyproject.toml keeps Optuna's version range narrow.

A study's budget is a set of WAITING trials made once, under a lock, when the study is created or
extended. Workers only ever take what is WAITING, so a budget can neither overshoot nor lose a trial.
"""

import contextlib
import fcntl
import json
import logging
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna import distributions
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpo import definition as definitions
from hpo.definition import Definition, Point
from hpo.errors import StoreError, suggestion
from hpo.samplers import PointSampler

DEFINITION = "hpo:definition"  # system attribute of a study: its definition as JSON
PLAN = "hpo:plan"  # system attribute of a trial: which part of the budget it is, as "point 3"
RUN = "hpo:run"  # system attribute of a trial: the options of its point that are no hyperparameters
log = logging.getLogger("hpo")
LOCK = 0x68706F  # Postgres advisory lock that guards creation; "hpo" in ASCII

leases = sa.Table(
    "hpo_leases",
    sa.MetaData(),
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("study_id", sa.Integer, nullable=False, index=True),
    sa.Column("owner", sa.String(200)),  # host and process id; NULL: nobody's
    sa.Column("process", sa.String(200)),  # tells the owner's process from every other, ever
    sa.Column("host", sa.String(200)),
    sa.Column("device", sa.String(50)),
    sa.Column("token", sa.Integer, nullable=False),  # the number of the attempt, from 1
    sa.Column("attempts", sa.Integer, nullable=False),  # in a row without a new checkpoint
    sa.Column("expires", sa.Double, nullable=False),  # seconds since 1970, by the database's clock
    sa.Column("checkpoint", sa.String(300)),  # name of the last one committed
    sa.Column("epoch", sa.Integer, nullable=False),  # the last one reported
)


class Store(RDBStorage):
    """Optuna's storage, where every write to a trial that a fence is set for passes the fence first.

    A fence is a function that gets the session of the transaction in which the write will commit, and
    raises to refuse it.
    """

    def __init__(self, url: sa.URL) -> None:
        self.fences: dict[int, Callable[[Session], None]] = {}
        text = url.render_as_string(hide_password=False)
        super().__init__(
            text.replace("{", "{{").replace("}", "}}"),  # Optuna passes URLs through str.format
            engine_kwargs=_engine_kwargs(url),
            skip_table_creation=True,
            skip_compatibility_check=True,
        )
        _prepare(self.engine)

    def transaction(self) -> contextlib.AbstractContextManager[Session]:
        """Open this thread's session; leaving the block commits it, an exception rolls it back."""
        return _create_scoped_session(self.scoped_session)

    def _fenced(self, trial_id: int) -> None:
        # The session is this thread's; Optuna's writer that runs next uses and commits the same one.
        fence = self.fences.get(trial_id)
        if fence is not None:
            session = self.scoped_session()
            try:
                fence(session)
            except BaseException:
                session.rollback()
                session.close()
                raise

    def _set_trial_param(self, trial_id: int, *args: Any) -> None:
        self._fenced(trial_id)
        super()._set_trial_param(trial_id, *args)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        self._fenced(trial_id)
        return super().set_trial_state_values(trial_id, state, values)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self._fenced(trial_id)
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._fenced(trial_id)
        super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._fenced(trial_id)
        super().set_trial_system_attr(trial_id, key, value)

    def stage_report(self, session: Session, trial_id: int, step: int, accuracy: float) -> None:
        """Write a trial's accuracy after epoch ``step``, to be committed with the session."""
        self._set_trial_intermediate_value_without_commit(session, trial_id, step, accuracy)

    def stage_attributes(
        self, session: Session, trial_id: int, attributes: dict[str, Any], *, system: bool = False
    ) -> None:
        """Write user (or system) attributes of a trial, to be committed with the session."""
        kind = models.TrialSystemAttributeModel if system else models.TrialUserAttributeModel
        for key, value in attributes.items():
            self._set_trial_attr_without_commit(session, kind, trial_id, key, value)

    def stage_state(
        self, session: Session, trial_id: int, state: TrialState, value: float | None = None
    ) -> None:
        """Write a trial's state and value, to be committed with the session."""
        trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
        if value is not None:
            self._set_trial_value_without_commit(session, trial, 0, value)
        trial.state = state
        if state == TrialState.RUNNING and trial.datetime_start is None:
            trial.datetime_start = datetime.now()
        if state.is_finished():
            trial.datetime_complete = datetime.now()


def _engine_kwargs(url: sa.URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        # Autocommit in the driver, so that _prepare's BEGIN IMMEDIATE is the transaction.
        return {"connect_args": {"timeout": 60, "isolation_level": None}}
    return {
        "pool_size": 2,
        "max_overflow": 0,
        "pool_pre_ping": True,
        "connect_args": {
            "connect_timeout": 3,
            "keepalives": 1,
            "keepalives_idle": 2,
            "keepalives_interval": 1,
            "keepalives_count": 3,
            "tcp_user_timeout": 4000,
            "options": "-c timezone=UTC",
        },
    }


def _prepare(engine: sa.Engine) -> None:
    # SQLite ignores SELECT ... FOR UPDATE. Taking the write lock at once keeps two workers from reading
    # the same WAITING trial and both claiming it, and a reader from failing when it turns writer.
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))


def parse_url(text: str) -> sa.URL:
    """Read a store's URL; raises StoreError, never with the password, for what is no store of ours."""
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise StoreError(
            "the store is no URL; want sqlite:///storage/hpo.db or postgresql://user@host/db "
            "(--store or HPO_STORE)"
        ) from None
    if url.drivername not in ("sqlite", "postgresql", "postgresql+psycopg"):
        raise StoreError(f"--store {url.drivername}: want sqlite:///path or postgresql://user@host/db")
    if url.drivername == "sqlite" and url.database in (None, "", ":memory:"):
        raise StoreError("--store sqlite: name a file, as in sqlite:///storage/hpo.db")
    return url


def shown(url: sa.URL) -> str:
    """Give a URL as it may be shown: without its password."""
    return url.set(password=None).render_as_string()


def open_(text: str, *, create: bool) -> Store:
    """Open the store at a URL; with ``create``, an SQLite file and the tables are made if need be.

    Raises StoreError if there is none, or if it cannot be reached.
    """
    url = parse_url(text)
    path = Path(url.database or "") if url.drivername == "sqlite" else None
    try:
        if path is not None and not path.exists():
            if not create:
                raise StoreError(
                    f"no store at {shown(url)}; 'hpo run STUDY' makes one, and --store or HPO_STORE "
                    "names another"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
        with _creation(url, path):
            _create_tables(url)
            return Store(url)
    except OSError as error:
        raise StoreError(f"store {shown(url)}: {error.strerror or error}") from error
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"store {shown(url)}: {_cause(error)}") from error


def _cause(error: sa.exc.SQLAlchemyError) -> str:
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def _creation(url: sa.URL, path: Path | None) -> Iterator[None]:
    """Let one process at a time create tables: of six that start at once, plain Optuna fails in most."""
    if path is not None:
        with path.with_name(path.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        return
    engine = sa.create_engine(url, **_engine_kwargs(url))
    try:
        with engine.connect() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_lock(LOCK)))
            yield
    finally:
        engine.dispose()


def _create_tables(url: sa.URL) -> None:
    engine = sa.create_engine(url, **_engine_kwargs(url))
    try:
        if not sa.inspect(engine).has_table(leases.name):
            models.BaseModel.metadata.create_all(engine)
            leases.metadata.create_all(engine)
    finally:
        engine.dispose()


def create(store: Store, definition: Definition, text: str) -> bool:
    """Store a study, or extend it, with its whole budget as WAITING trials; tell whether it is new.

    ``text`` is the definition as people wrote it. One transaction: of several that create the same
    study at once, one does, and a crash leaves either nothing or all of it. Raises DefinitionError if
    the name is taken by a study with another definition, StoreError if it is not one of ours.
    """
    with store.transaction() as session:
        _lock(session)
        study = models.StudyModel.find_by_name(definition.name, session)
        if study is None:
            study = models.StudyModel(
                study_name=definition.name,
                directions=[models.StudyDirectionModel(objective=0, direction=StudyDirection.MAXIMIZE)],
            )
            session.add(study)
            session.flush()
            folder = f"{re.sub(r'[^A-Za-z0-9._-]', '_', definition.name)}-{uuid.uuid4().hex[:8]}"
            _set(session, models.StudyUserAttributeModel, study.study_id, "folder", folder)
            _set(
                session,
                models.StudySystemAttributeModel,
                study.study_id,
                "study:metric_names",
                ["accuracy"],
            )
            new = True
        else:
            definition = definitions.extended(_definition(session, study), definition)
            new = False
        _set(session, models.StudyUserAttributeModel, study.study_id, "definition", text)
        _plan(store, session, study.study_id, definition)
        return new


def enqueue(store: Store, name: str, point: Point) -> int:
    """Queue one setting by hand, to run before what is searched; give its trial's number."""
    with store.transaction() as session:
        _lock(session)
        study = _find(session, name)
        definition = _definition(session, study)
        definition = definition.model_copy(update={"enqueued": (*definition.enqueued, point)})
        return _plan(store, session, study.study_id, definition)[-1]


def _lock(session: Session) -> None:
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))


def _find(session: Session, name: str) -> Any:
    study = models.StudyModel.find_by_name(name, session)
    if study is None:
        names = [row[0] for row in session.query(models.StudyModel.study_name)]
        there = f"; there are: {', '.join(sorted(names))}" if names else "; there are none yet"
        raise StoreError(f"no study '{name}' in the store{suggestion(name, names)}{there}")
    return study


def _definition(session: Session, study: Any) -> Definition:
    row = models.StudySystemAttributeModel.find_by_study_and_key(study, DEFINITION, session)
    if row is None:
        raise StoreError(
            f"study '{study.study_name}' was made by another tool, not by hpo; use another --name"
        )
    return definitions.loads(json.loads(row.value_json))


def _set(session: Session, kind: Any, study_id: int, key: str, value: Any) -> None:
    row = session.query(kind).filter(kind.study_id == study_id, kind.key == key).one_or_none()
    if row is None:
        session.add(kind(study_id=study_id, key=key, value_json=json.dumps(value)))
    else:
        row.value_json = json.dumps(value)


def _plan(store: Store, session: Session, study_id: int, definition: Definition) -> list[int]:
    """Make the WAITING trials that the budget lacks, and give their numbers."""
    _set(session, models.StudySystemAttributeModel, study_id, DEFINITION, definitions.dumps(definition))
    _widen(session, study_id, definition)
    trials = session.query(models.TrialModel.number).filter(models.TrialModel.study_id == study_id)
    planned = session.query(models.TrialSystemAttributeModel.value_json).filter(
        models.TrialSystemAttributeModel.key == PLAN,
        models.TrialSystemAttributeModel.trial_id == models.TrialModel.trial_id,
        models.TrialModel.study_id == study_id,
    )
    there = {json.loads(row[0]) for row in planned}
    number = max((row[0] for row in trials), default=-1)
    made = []
    for key, user, system in _slots(definition):
        if key not in there:
            number += 1
            trial = models.TrialModel(study_id=study_id, number=number, state=TrialState.WAITING)
            session.add(trial)
            session.flush()
            store.stage_attributes(session, trial.trial_id, user)
            store.stage_attributes(session, trial.trial_id, {PLAN: key, **system}, system=True)
            made.append(number)
    return made


def _slots(definition: Definition) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Give every trial of the budget: its key, user attributes and system attributes."""
    for index, point in enumerate(definition.points):
        fixed = {"fixed_params": definition.complete(point)}
        system = fixed if definition.searches else PointSampler.attributes(index)
        site = {} if point.site is None else {"site": point.site}
        yield f"point {index + 1}", {"point": index + 1, **site}, {**system, RUN: point.run_options()}
    for index, point in enumerate(definition.enqueued):
        fixed = {"fixed_params": definition.complete(point)}
        yield f"enqueued {index + 1}", {"enqueued": True}, {**fixed, RUN: point.run_options()}
    for index in range(definition.search.trials if definition.searches else 0):
        yield f"search {index + 1}", {}, {}


def _widen(session: Session, study_id: int, definition: Definition) -> None:
    """Give the parameters already stored the distribution that they have in the extended study.

    Optuna holds a parameter to one list of choices for ever, and stores a choice as its place in that
    list; a point with another model would end its trial.
    """
    for name, parameter in definition.parameters().items():
        new = parameter.distribution()
        rows = session.query(models.TrialParamModel).filter(
            models.TrialParamModel.param_name == name,
            models.TrialParamModel.trial_id == models.TrialModel.trial_id,
            models.TrialModel.study_id == study_id,
        )
        for row in rows:
            old = distributions.json_to_distribution(row.distribution_json)
            if old != new:
                row.param_value = new.to_internal_repr(old.to_external_repr(row.param_value))
                row.distribution_json = distributions.distribution_to_json(new)


def delete(store: Store, name: str) -> None:
    """Delete a study's rows, Optuna's and ours."""
    with store.transaction() as session:
        study = _find(session, name)
        session.execute(sa.delete(leases).where(leases.c.study_id == study.study_id))
        session.delete(study)


def definition_of(store: Store, name: str) -> Definition:
    """Give a study's definition; raises StoreError if there is no such study, or not one of ours."""
    with store.transaction() as session:
        return _definition(session, _find(session, name))


def study_id(store: Store, name: str) -> int:
    """Give a study's id; raises StoreError, naming those there are, if there is no such study."""
    with store.transaction() as session:
        return int(_find(session, name).study_id)


def folder_of(store: Store, name: str) -> str:
    """Give the name of a study's folder in the artifacts; no other study's, not even of another store."""
    with store.transaction() as session:
        row = models.StudyUserAttributeModel.find_by_study_and_key(_find(session, name), "folder", session)
        if row is None:
            raise StoreError(f"study '{name}' was made by another tool, not by hpo")
        return str(json.loads(row.value_json))
