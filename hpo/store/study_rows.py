"""The rows of a study, found, locked, read and deleted within the transaction of the caller."""

import functools
import json
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models
from sqlalchemy.orm import Session

from hpo.errors import DefinitionError, StoreError, join_names, quote_value, suggestion
from hpo.store import attributes, database, rows
from hpo.store.plan import DEFINITION
from hpo.store.rows import dialect_of
from hpo.store.tables import attempts, events, leases, workers
from hpo.study.definition import Definition, load_definition


def lock_studies(session: Session) -> None:
    """Let one process at a time create, extend or delete studies."""
    if dialect_of(session) == "postgresql":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(database.STUDIES_LOCK)))


def find_study(session: Session, name: str, *, lock: bool = False) -> Any:
    """Return a study's row or None; Optuna, too, numbers new trials under the lock of this row."""
    query = session.query(models.StudyModel).filter(models.StudyModel.study_name == name)
    return (query.with_for_update() if lock else query).one_or_none()


def get_study(session: Session, name: str, *, lock: bool = False) -> Any:
    """Return a study's row, or raise StoreError with the names of the studies that exist."""
    study = find_study(session, name, lock=lock)
    if study is None:
        names = [row[0] for row in session.query(models.StudyModel.study_name)]
        there = f" there are: {join_names(sorted(names), 20)}" if names else " there are none yet"
        hint = suggestion(name, names) or ";"
        raise StoreError(f"no study {quote_value(name)} in the store{hint}{there}")
    return study


def own_study_id(session: Session, name: str, *, lock: bool = False) -> int:
    """Return the id of a study that hpo made, within the caller's transaction.

    Args:
        session: The session of the transaction.
        name: The study's name.
        lock: Lock the study's row until the transaction ends.

    Raises:
        StoreError: There is no such study, or another tool made it.
        DefinitionError: Another version of hpo made it.
    """
    study = get_study(session, name, lock=lock)
    study_definition(session, study)
    return int(study.study_id)


def study_definition(session: Session, study: Any) -> Definition:
    """Return the definition of a study's row, or raise what ``own_study_id`` raises."""
    return parse_definition(stored_definition(session, study))


def stored_definition(session: Session, study: Any) -> str:
    """Return the definition of a study's row as text, or raise StoreError if another tool made it."""
    row = models.StudySystemAttributeModel.find_by_study_and_key(study, DEFINITION, session)
    if row is None:
        raise StoreError(
            f"study '{study.study_name}' was made by another tool, not by hpo; "
            "choose another name for a new study"
        )
    return str(row.value_json)


@functools.lru_cache(maxsize=4)
def parse_definition(text: str) -> Definition:
    """Parse a stored definition; cached, because a worker reads it before each trial."""
    try:
        return load_definition(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise DefinitionError(f"the stored definition is not JSON ({error})") from error


def stored_folder(session: Session, study: Any) -> str:
    """Return the name of a study's folder in the artifacts.

    Raises:
        StoreError: Another tool made the study, or the folder is not of the form that hpo gives.
    """
    row = models.StudyUserAttributeModel.find_by_study_and_key(study, "folder", session)
    if row is None:
        raise StoreError(f"study '{study.study_name}' was made by another tool, not by hpo")
    folder = attributes.parse_folder(str(row.value_json))
    if folder is None:
        found = quote_value(row.value_json)
        raise StoreError(
            f"study '{study.study_name}': its attribute 'folder' is {found}; want the name of "
            "a folder that hpo made; restore it, or create the study anew with --name"
        )
    return folder


def lock_study_and_trials(session: Session, study: Any) -> None:
    """Lock the rows of a study's trials and then its own, in the order in which workers lock them."""
    own = sa.select(rows.trials.c.trial_id).where(rows.trials.c.study_id == study.study_id)
    session.execute(own.with_for_update()).all()
    find_study(session, study.study_name, lock=True)


def has_begun(session: Session, study: Any) -> bool:
    """Return whether a study has something to lose; if not, its rows are locked from now on.

    That is a trial that a worker has, that has reported an epoch or saved a checkpoint. A claim in progress
    is waited for: it has locked its trial.
    """
    if seems_begun(session, study):
        return True
    lock_study_and_trials(session, study)
    return seems_begun(session, study)


def seems_begun(session: Session, study: Any) -> bool:
    """Return what ``has_begun`` does, but lock nothing: a claim that is in progress may change it."""
    return session.execute(_BEGUN, {"study": study.study_id}).first() is not None


# A trial that a worker has, or that a worker has trained. One that was released before its first epoch, as
# for missing weights, is neither.
_BEGUN = (
    sa.select(leases.c.trial_id)
    .where(leases.c.study_id == sa.bindparam("study"))
    .where(leases.c.owner.is_not(None) | (leases.c.epoch > 0) | leases.c.checkpoint.is_not(None))
    .limit(1)
)


def delete_rows(session: Session, study_id: int, *, keep_study: bool = False) -> None:
    """Delete all rows of a study, Optuna's and ours; the caller has locked its trials.

    Args:
        session: The session of the caller's transaction.
        study_id: Optuna's id of the study.
        keep_study: Keep the study's own row, and its events.
    """
    own = sa.select(rows.trials.c.trial_id).where(rows.trials.c.study_id == study_id)
    ours = [leases, attempts] if keep_study else [leases, attempts, events, workers]
    for table in (*ours, *reversed(models.BaseModel.metadata.sorted_tables)):
        if table.name == "studies" and keep_study:
            continue
        if "study_id" in table.c:
            session.execute(sa.delete(table).where(table.c.study_id == study_id))
        elif "trial_id" in table.c:
            session.execute(sa.delete(table).where(table.c.trial_id.in_(own)))
    session.expunge_all()  # SQLite gives the keys of deleted rows to new ones
