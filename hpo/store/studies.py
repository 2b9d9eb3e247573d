"""The store: opening one, and the studies in it: created, extended, queued for, deleted, looked up.

A study is made with its whole budget, in one transaction under a lock, and so is an extension. Workers may
run meanwhile: they see what is new when it is all there.
"""

import functools
import json
import re
import uuid
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpo.errors import StoreError, StoreUnavailable, suggestion
from hpo.store import database, database_errors, plan, process
from hpo.store.database import hide_password, parse_url
from hpo.store.lease_table import database_time, leases
from hpo.store.plan import DEFINITION
from hpo.store.storage import Storage, retrying
from hpo.study.definition import Definition, Point, load_definition
from hpo.study.extension import extend_definition


@dataclass(frozen=True, kw_only=True)
class LeaseInfo:
    """A lease as it stands in the table."""

    trial: int  # the trial's number
    owner: str
    host: str
    device: str
    attempt: int
    epoch: int
    expires_in_seconds: float  # 0 where the owner's process ran on this machine and is gone
    silent_seconds: float  # since the owner was last heard of: the lease's age

    @property
    def is_alive(self) -> bool:
        """Whether others have to wait for the owner."""
        return self.expires_in_seconds > 0


def open_storage(text: str, *, create: bool, read_only: bool = False) -> Storage:
    """Open the store at a URL; with ``create``, an SQLite file and the tables are made if need be.

    With ``read_only`` its connections refuse every write.

    Raises StoreAway if it cannot be reached, StoreError if there is none, or if another Optuna made it.
    """
    url = parse_url(text)
    absent = StoreError(
        f"no store at {hide_password(url)}; 'hpo run STUDY' makes one, and --store or HPO_STORE names another"
    )
    path = database.sqlite_file(url)
    try:
        there = path is None or path.exists()
        if not there and not create:
            raise absent
        if path is not None and not there and (disk := database.network_disk(path)):
            raise StoreError(
                f"store {hide_password(url)}: a network disk ({disk}), where SQLite's locks do not hold; "
                "name a file on a local disk, or use Postgres"
            )
        if create and not (there and _has_table(url, leases.name)):
            with database.lock_table_creation(url):
                _create_tables(url)
        elif not _has_table(url, "studies"):
            raise absent
        return Storage(url, read_only=read_only)
    except OSError as error:
        raise StoreError(f"store {hide_password(url)}: {error.strerror or error}") from error
    except (sa.exc.SQLAlchemyError, StorageInternalError) as error:
        kind = StoreUnavailable if database_errors.is_unavailable(error) else StoreError
        raise kind(f"store {hide_password(url)}: {database_errors.driver_message(error)}") from error
    except RuntimeError as error:  # how Optuna says that the tables are another version's
        raise StoreError(f"store {hide_password(url)}: {error}") from error


def _has_table(url: sa.URL, name: str) -> bool:
    return sa.inspect(database.create_engine(url)).has_table(name)


def _create_tables(url: sa.URL) -> None:
    """Make what is not there yet; our own table last, so that whoever sees it finds all the others."""
    engine = database.create_engine(url)
    if sa.inspect(engine).has_table(leases.name):
        return
    with engine.connect() as connection:
        database.choose_journal(connection)
    models.BaseModel.metadata.create_all(engine)
    Storage(url).engine.dispose()  # writes Optuna's version into the tables
    leases.create(engine)


@retrying(max_wait_seconds=0)
def create_study(storage: Storage, definition: Definition, text: str) -> bool:
    """Store a study, or extend it, with its whole budget as WAITING trials; tell whether it is new.

    ``text`` is the definition as people wrote it. One transaction: of several that create the same
    study at once, one does, and a crash leaves either nothing or all of it. Raises DefinitionError if
    the name is taken by a study with another definition, StoreError if it is not one of ours.
    """
    with storage.transaction() as session:
        _lock_studies(session)
        study = _find_study(session, definition.name, lock=True)
        new = study is None
        if study is None:
            study = _add_study(session, definition)
        else:
            definition = extend_definition(_study_definition(session, study), definition)
        plan.set_study_attributes(session, study.study_id, {"hpo:file": text}, system=True)
        plan.write_plan(session, study.study_id, definition)
        return new


def _add_study(session: Session, definition: Definition) -> Any:
    name = definition.name
    direction = models.StudyDirectionModel(objective=0, direction=StudyDirection.MAXIMIZE)
    study: Any = models.StudyModel(study_name=name, directions=[direction])
    session.add(study)
    session.flush()
    folder = f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}-{uuid.uuid4().hex[:8]}"
    seen = {"folder": folder, "selection": definition.train.get("selection")}
    plan.set_study_attributes(session, study.study_id, seen, system=False)
    plan.set_study_attributes(session, study.study_id, {"study:metric_names": ["accuracy"]}, system=True)
    return study


@retrying(max_wait_seconds=0)
def enqueue_setting(storage: Storage, name: str, point: Point) -> int:
    """Queue one setting by hand, to run before what is searched; give its trial's number."""
    with storage.transaction() as session:
        _lock_studies(session)
        study = _get_study(session, name, lock=True)
        definition = _study_definition(session, study)
        definition = definition.model_copy(update={"enqueued": (*definition.enqueued, point)})
        return plan.write_plan(session, study.study_id, definition)[-1]


@retrying(max_wait_seconds=0)
def delete_study(storage: Storage, name: str) -> None:
    """Delete a study's rows, Optuna's and ours; its workers lose their trials and find it gone.

    Raises StoreError if there is no such study, or not one of ours.
    """
    with storage.transaction() as session:
        _lock_studies(session)
        study = _get_study(session, name)
        _stored_definition(session, study)
        study_id, trials = study.study_id, models.TrialModel.__table__
        own = sa.select(trials.c.trial_id).where(trials.c.study_id == study_id)
        # Locked in the workers' order; a claim under way is made by the time that its trial is locked. Its
        # lease may then be in a worker's hands that waits for us: Postgres ends one of the two, which tries
        # again.
        session.execute(sa.delete(leases).where(leases.c.study_id == study_id))
        session.execute(own.with_for_update())
        _find_study(session, name, lock=True)
        for table in (leases, *reversed(models.BaseModel.metadata.sorted_tables)):
            if "study_id" in table.c:
                session.execute(sa.delete(table).where(table.c.study_id == study_id))
            elif "trial_id" in table.c:
                session.execute(sa.delete(table).where(table.c.trial_id.in_(own)))


@retrying(reads=True)
def read_definition(storage: Storage, name: str) -> Definition:
    """Give a study's definition; raises StoreError if there is no such study, or not one of ours."""
    with storage.transaction() as session:
        text = session.execute(_DEFINITION, {"name": name}).scalar_one_or_none()
        return _parse_definition(
            _stored_definition(session, _get_study(session, name)) if text is None else text
        )


_studies: Any = models.StudyModel.__table__
_attributes: Any = models.StudySystemAttributeModel.__table__
_DEFINITION = (
    sa.select(_attributes.c.value_json)
    .join(_studies, _studies.c.study_id == _attributes.c.study_id)
    .where(_studies.c.study_name == sa.bindparam("name"), _attributes.c.key == DEFINITION)
)


@functools.lru_cache(maxsize=4)
def _parse_definition(text: str) -> Definition:
    """Give a definition from its text in the store, which a worker reads before each trial."""
    return load_definition(json.loads(text))


@retrying(reads=True)
def find_study_id(storage: Storage, name: str) -> int:
    """Give a study's id; raises StoreError, naming those there are, if there is no such study."""
    with storage.transaction() as session:
        return int(_get_study(session, name).study_id)


@retrying(reads=True)
def artifacts_folder(storage: Storage, name: str) -> str:
    """Give the name of a study's folder in the artifacts; no other study's, not even of another store."""
    with storage.transaction() as session:
        study = _get_study(session, name)
        row = models.StudyUserAttributeModel.find_by_study_and_key(study, "folder", session)
        if row is None:
            raise StoreError(f"study '{name}' was made by another tool, not by hpo")
        return str(json.loads(str(row.value_json)))


@retrying()
def set_attribute_once(storage: Storage, study_id: int, key: str, value: str) -> str:
    """Give a system attribute of a study, made ``value`` by whoever asks first."""
    with storage.transaction() as session:
        session.execute(sa.select(models.StudyModel).filter_by(study_id=study_id).with_for_update())
        kind: Any = models.StudySystemAttributeModel
        row = session.query(kind).filter(kind.study_id == study_id, kind.key == key).one_or_none()
        if row is None:
            plan.set_study_attributes(session, study_id, {key: value}, system=True)
            return value
        return str(json.loads(row.value_json))


@retrying(reads=True)
def cache_fingerprint(storage: Storage) -> dict[tuple[str, int], Any]:
    """Give what stays as it is, of all studies, for as long as nobody goes back on it.

    That is when each trial ended, and each study's name and definition. What is missing from a later
    answer, or differs there, was put back, extended or deleted: whoever caches trials that ended, as
    Optuna does for ever, has to begin anew.
    """
    trial, study = models.TrialModel.__table__.c, models.StudyModel.__table__.c
    attribute = models.StudySystemAttributeModel.__table__.c
    finished = [state for state in TrialState if state.is_finished()]
    defined = (attribute.study_id == study.study_id) & (attribute.key == DEFINITION)
    trials = sa.select(trial.trial_id, trial.study_id, trial.datetime_complete)
    studies = sa.select(study.study_id, study.study_name, attribute.value_json)
    studies = studies.select_from(study.study_id.table.outerjoin(attribute.key.table, defined))
    with storage.transaction() as session:
        ended = session.execute(trials.where(trial.state.in_(finished))).all()
        defining = session.execute(studies).all()
    return {("trial", row[0]): tuple(row[1:]) for row in ended} | {
        ("study", row[0]): tuple(row[1:]) for row in defining
    }


def _lock_studies(session: Session) -> None:
    """Let one process at a time create, extend or delete studies."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(database.STUDIES_LOCK)))


def _find_study(session: Session, name: str, *, lock: bool = False) -> Any:
    """Give a study's row; locked, since it is by that lock that Optuna numbers trials, too."""
    query = session.query(models.StudyModel).filter(models.StudyModel.study_name == name)
    return (query.with_for_update() if lock else query).one_or_none()


def _get_study(session: Session, name: str, *, lock: bool = False) -> Any:
    study = _find_study(session, name, lock=lock)
    if study is None:
        names = [row[0] for row in session.query(models.StudyModel.study_name)]
        there = f" there are: {', '.join(sorted(names))}" if names else " there are none yet"
        raise StoreError(f"no study '{name}' in the store{suggestion(name, names) or ';'}{there}")
    return study


def _study_definition(session: Session, study: Any) -> Definition:
    return _parse_definition(_stored_definition(session, study))


def _stored_definition(session: Session, study: Any) -> str:
    row = models.StudySystemAttributeModel.find_by_study_and_key(study, DEFINITION, session)
    if row is None:
        raise StoreError(
            f"study '{study.study_name}' was made by another tool, not by hpo; a new one wants another name"
        )
    return str(row.value_json)


@retrying(reads=True)
def read_leases(storage: Storage, study_id: int) -> list[LeaseInfo]:
    """Give the leases of a study's RUNNING trials, by trial."""
    trial = models.TrialModel
    with storage.transaction() as session:
        rows = session.execute(
            sa.select(trial.number, leases, database_time(session.get_bind().dialect.name).label("now"))
            .join(leases, leases.c.trial_id == trial.trial_id)
            .where(
                trial.study_id == study_id,
                trial.state == TrialState.RUNNING,
                leases.c.owner.is_not(None),
            )
            .order_by(trial.number)
        ).all()
    return [
        LeaseInfo(
            trial=row.number,
            owner=row.owner,
            host=row.host,
            device=row.device,
            attempt=row.token,
            epoch=row.epoch,
            expires_in_seconds=0.0 if process.is_dead(row.process) else round(row.expires - row.now, 3),
            silent_seconds=round(max(row.now - row.renewed, 0.0), 3),
        )
        for row in rows
    ]
