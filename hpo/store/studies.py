"""Studies: opening the storage they are in, creating, extending, replacing, looking up and deleting them.

A study is created with its whole budget in one transaction under a lock, and so is an extension. Workers
may run meanwhile: they see the new trials once all are there.
"""

import enum
import os
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpo.artifacts import names
from hpo.errors import DefinitionError, StoreError, StoreMissing
from hpo.store import attributes, database, database_errors, events, plan, rows, study_images, tables
from hpo.store.database import hide_password, parse_url
from hpo.store.notifications import notify_workers
from hpo.store.plan import DEFINITION
from hpo.store.storage import Storage, retrying
from hpo.store.study_rows import (
    delete_rows,
    find_study,
    get_study,
    has_begun,
    lock_studies,
    lock_study_and_trials,
    parse_definition,
    stored_definition,
    stored_folder,
    study_definition,
)
from hpo.store.tables import leases
from hpo.study.definition import Definition, Point
from hpo.study.extension import extend_definition


class Stored(enum.StrEnum):
    """What ``create_study`` did."""

    CREATED = "created"
    REPLACED = "replaced"
    EXTENDED = "extended"
    KEPT = "already stored"


def open_storage(text: str, *, create: bool, read_only: bool = False) -> Storage:
    """Open the storage at a URL.

    Args:
        text: The URL, as ``--store`` takes it.
        create: Create what is missing: the SQLite file with its folder (and a file ``*.lock`` beside it),
            and the tables. Without it, Optuna's tables must exist; ours may be missing.
        read_only: Open connections that refuse every write.

    Returns:
        The storage. The database has been read, but no connection is open yet.

    Raises:
        StoreUnavailable: The database cannot be reached at the moment; it is tried once.
        StoreMissing: There is no store.
        StoreError: The URL is wrong, the database or the file system refuses, another version of Optuna
            made the tables, or a new SQLite file would be on a network disk.
    """
    url = parse_url(text)
    where = f"store {hide_password(url)}"
    try:
        _prepare(url, create)
        storage = Storage(url, read_only=read_only)
        if create:
            tables.upgrade_store(storage)
        return storage
    except OSError as error:
        raise StoreError(f"{where}: {error.strerror or error}") from error
    except (sa.exc.SQLAlchemyError, StorageInternalError) as error:
        meaning = database_errors.store_error(url, error)
        raise meaning or StoreError(f"{where}: {database_errors.driver_message(error)}") from error
    except RuntimeError as error:  # Optuna raises it for tables of another version
        raise StoreError(f"{where}: {error}") from error


def _prepare(url: sa.URL, create: bool) -> None:
    """Make sure that a database has its tables, by creating them or by raising StoreError."""
    absent = StoreMissing(
        f"no store at {hide_password(url)}; --store or HPO_STORE names another, "
        "and 'hpo run STUDY' creates this one"
    )
    path = database.sqlite_file(url)
    exists = path is None or path.exists()
    if path is not None and path.is_dir():
        raise StoreError(
            f"store {hide_password(url)}: found a folder; name a file in it, such as {path}/hpo.db"
        )
    if path is not None and exists and not os.access(path, os.R_OK):
        raise StoreError(f"store {hide_password(url)}: you may not read this file")
    if not exists and not create:
        raise absent
    if path is not None and not exists and (disk := database.network_disk(path)):
        raise StoreError(
            f"store {hide_password(url)}: a network disk ({disk}), where SQLite's locks do not work; "
            "name a file on a local disk, or use Postgres"
        )
    version, has_studies = _read_tables(url) if exists else (0, False)
    if create and not version:
        with database.lock_table_creation(url):
            _create_tables(url)
    elif not has_studies:
        raise absent
    tables.check_version(version)


def _read_tables(url: sa.URL) -> tuple[int, bool]:
    """Return the version of a database's tables of ours, and whether it has Optuna's."""
    with database.create_engine(url).connect() as connection:
        return tables.read_version(connection), sa.inspect(connection).has_table("studies")


def _create_tables(url: sa.URL) -> None:
    """Create Optuna's tables and then ours, so that a process that sees ours finds all the others."""
    if _read_tables(url)[0]:
        return
    engine = database.create_engine(url)
    with engine.connect() as connection:
        database.choose_journal(connection)
    models.BaseModel.metadata.create_all(engine)
    storage = Storage(url)  # writes Optuna's version into the tables
    tables.upgrade_store(storage)
    storage.engine.dispose()


@retrying(max_wait_seconds=0)
def create_study(storage: Storage, definition: Definition, text: str, images: str | None = None) -> Stored:
    """Store a study, extend it or replace it, with its whole budget as WAITING trials.

    It is one transaction. Of several processes that create the same study at once, one does, and a crash
    leaves either nothing or all of it. If the definition is as stored, only its text is written anew. A
    stored study with another definition is replaced as long as there is nothing of its own to lose: no
    worker has a trial, none has reported an epoch or saved a checkpoint, and none was queued by hand.

    Args:
        storage: The storage to write to.
        definition: The study's definition.
        text: The definition as its author wrote it.
        images: The fingerprint of the files of its folder; None if it has none, or the folder is not here.

    Returns:
        ``created`` for a new study, ``replaced`` for another definition in place of a stored one,
        ``extended`` if the stored one got more trials, and ``already stored`` if it did not.

    Raises:
        DefinitionError: A study of this name has another definition, which this one neither extends nor
            replaces, or another version of hpo made it.
        ImagesChanged: The stored study began with other images.
        StoreUnavailable: The database is unavailable; the study may have been stored all the same.
        StoreError: Another tool made a study of this name, or the database refuses the write.
    """
    with storage.transaction() as session:
        lock_studies(session)
        study = find_study(session, definition.name)
        if study is None:
            result, study_id = Stored.CREATED, _add_study(session, definition)
        else:
            result, study_id, stored = Stored.KEPT, study.study_id, study_definition(session, study)
            try:
                definition = extend_definition(stored, definition)
                if images is not None:
                    study_images.keep_images(session, study, images)
                find_study(session, definition.name, lock=True)
            except DefinitionError:
                if stored.enqueued or not _clear_without_results(session, study):
                    raise
                result = Stored.REPLACED
                _describe_study(session, study_id, definition)
        if images is not None and result != Stored.KEPT:
            plan.set_study_attributes(session, study_id, {study_images.IMAGES: images}, system=True)
        plan.set_study_attributes(session, study_id, {"hpo:file": text}, system=True)
        added = len(plan.write_plan(session, study_id, definition))
        result = Stored.EXTENDED if added and result == Stored.KEPT else result
        if result != Stored.KEPT:
            events.write_event(session, study_id, str(result), f"{added} trial{'s' * (added != 1)}")
        return result


def _clear_without_results(session: Session, study: Any) -> bool:
    """Delete the trials and the description of a study, unless there is something to lose.

    That is a trial that a worker has, that has reported an epoch or saved a checkpoint, or that was queued
    by hand, with another tool, too. The study's row stays, and so do its id and its folder, which an idle
    worker may know. A claim in progress is waited for: it has locked its trial.

    Returns:
        Whether it did so.
    """
    if has_begun(session, study) or session.execute(_NOT_PLANNED, {"study": study.study_id}).first():
        return False
    folder = {"folder": stored_folder(session, study)}
    delete_rows(session, study.study_id, keep_study=True)
    plan.set_study_attributes(session, study.study_id, folder, system=False)
    return True


# A trial that is not as the plan made it: begun, or added by another tool.
_NOT_PLANNED = (
    sa.select(rows.trials.c.trial_id)
    .where(rows.trials.c.study_id == sa.bindparam("study"))
    .where(
        (rows.trials.c.state != TrialState.WAITING)
        | ~sa.exists().where(
            rows.system_attributes.c.trial_id == rows.trials.c.trial_id,
            rows.system_attributes.c.key == plan.PLAN,
        )
    )
    .limit(1)
)


def _add_study(session: Session, definition: Definition) -> int:
    study: Any = models.StudyModel(study_name=definition.name)
    session.add(study)
    session.flush()
    folder = names.new_study_folder(definition.name)
    plan.set_study_attributes(session, study.study_id, {"folder": folder}, system=False)
    _describe_study(session, study.study_id, definition)
    return int(study.study_id)


def _describe_study(session: Session, study_id: int, definition: Definition) -> None:
    """Write what plain Optuna's tools show of a study: directions, metrics and selection."""
    kind: Any = models.StudyDirectionModel
    for index, each in enumerate(definition.objectives):
        direction = StudyDirection[each.direction.upper()]
        session.add(kind(study_id=study_id, objective=index, direction=direction))
    names_shown = [each.name for each in definition.objectives]
    selection = {"selection": definition.train.get("selection")}
    plan.set_study_attributes(session, study_id, selection, system=False)
    plan.set_study_attributes(session, study_id, {"study:metric_names": names_shown}, system=True)


@retrying(max_wait_seconds=0)
def enqueue_setting(storage: Storage, name: str, point: Point) -> int:
    """Queue a setting given by hand, to run before the settings that are searched.

    It becomes part of the stored definition, in the transaction that makes its trial.

    Args:
        storage: The storage that the study is in.
        name: The study's name.
        point: The setting; it is not checked.

    Returns:
        The number of its trial.

    Raises:
        StoreUnavailable: The database is unavailable; the setting may have been queued all the same.
        StoreError: There is no such study, another tool made it, or the database refuses the write.
        DefinitionError: Another version of hpo made the study.
    """
    with storage.transaction() as session:
        tables.upgrade(session)
        lock_studies(session)
        study = get_study(session, name, lock=True)
        definition = study_definition(session, study)
        definition = definition.model_copy(update={"enqueued": (*definition.enqueued, point)})
        number = plan.write_plan(session, study.study_id, definition)[-1]
        events.write_event(session, study.study_id, "queued", trial=number)
        return number


@retrying(max_wait_seconds=0)
def delete_study(storage: Storage, name: str) -> None:
    """Delete a study's rows, Optuna's and ours, but no files.

    It does not wait for workers: they lose their trials and then find no study.

    Raises:
        StoreUnavailable: The database is unavailable; the study may have been deleted all the same.
        StoreError: There is no such study, another tool made it, or the database refuses the write.
    """
    with storage.transaction() as session:
        lock_studies(session)
        study = get_study(session, name)
        stored_definition(session, study)
        # Locks are taken in the workers' order. A claim in progress is complete once its trial is locked
        # here. A worker may then hold the trial's new lease and wait for us: Postgres rolls one of the two
        # back, which then retries.
        session.execute(sa.delete(leases).where(leases.c.study_id == study.study_id))
        lock_study_and_trials(session, study)
        delete_rows(session, study.study_id)
        notify_workers(session, study.study_id)


@retrying(reads=True)
def read_definition(storage: Storage, name: str) -> Definition:
    """Return a study's definition.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: There is no such study, another tool made it, or the database refuses the request.
        DefinitionError: Another version of hpo made the study.
    """
    with storage.transaction() as session:
        text = session.execute(_DEFINITION, {"name": name}).scalar_one_or_none()
        return parse_definition(
            stored_definition(session, get_study(session, name)) if text is None else text
        )


_studies: Any = models.StudyModel.__table__
_attributes: Any = models.StudySystemAttributeModel.__table__
_OUR_STUDIES = (
    sa.select(_studies.c.study_name)
    .join(_attributes, _attributes.c.study_id == _studies.c.study_id)
    .where(_attributes.c.key == DEFINITION)
    .order_by(_studies.c.study_id)
)
_DEFINITION = (
    sa.select(_attributes.c.value_json)
    .join(_studies, _studies.c.study_id == _attributes.c.study_id)
    .where(_studies.c.study_name == sa.bindparam("name"), _attributes.c.key == DEFINITION)
)


@retrying(reads=True)
def find_study_id(storage: Storage, name: str) -> int:
    """Return Optuna's id of a study, whatever tool made it.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: There is no such study (the message names those that exist), or the database refuses the
            request.
    """
    with storage.transaction() as session:
        return int(get_study(session, name).study_id)


@retrying(reads=True)
def study_names(storage: Storage) -> list[str]:
    """Return the names of the studies that hpo made, oldest first, without those of other tools.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    with storage.transaction() as session:
        return list(session.execute(_OUR_STUDIES).scalars())


@retrying(reads=True)
def artifacts_folder(storage: Storage, name: str) -> str:
    """Return the name of a study's folder in the artifacts.

    A copy that another tool made of a study names the folder of its original.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: There is no such study, another tool made it, its folder is not of the form that hpo
            gives, or the database refuses the request.
    """
    with storage.transaction() as session:
        study = get_study(session, name)
        return stored_folder(session, study)


@retrying()
def set_attribute_once(
    storage: Storage, study_id: int, key: str, value: str, allowed: Collection[str]
) -> str:
    """Set a system attribute of a study unless it is set; the first process to ask decides.

    Args:
        storage: The storage that the study is in.
        study_id: Optuna's id of the study.
        key: The attribute's key.
        value: The value to set if there is none.
        allowed: The values that it can have; any other counts as none.

    Returns:
        The attribute's value.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The study was deleted meanwhile, or the database refuses the write.
    """
    with storage.transaction() as session:
        locked = sa.select(_studies.c.study_id).where(_studies.c.study_id == study_id).with_for_update()
        if session.execute(locked).one_or_none() is None:
            raise StoreError("the study was deleted, or replaced by another definition, meanwhile")
        kind: Any = models.StudySystemAttributeModel
        row = session.query(kind).filter(kind.study_id == study_id, kind.key == key).one_or_none()
        stored = None if row is None else attributes.parse_json(row.value_json)
        if isinstance(stored, str) and stored in allowed:
            return stored
        plan.set_study_attributes(session, study_id, {key: value}, system=True)
        return value
