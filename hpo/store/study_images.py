"""The images that a study began with: trials on other images cannot be compared with its first ones.

The study's system attribute ``IMAGES`` is a fingerprint of the files that it uses. ``hpo run`` or
``create`` stores it with the study if the folder is there; else the first worker does. It is set once. Only
``run`` and ``create`` replace it, as long as no trial has begun.

The list of the files is in the artifacts, under a name that is made of its fingerprint. A worker writes it
before it sets the attribute. If it is killed in between, the list stays, and nothing refers to it; whoever
comes next writes a list of its own. If the list is missing or damaged, a changed folder is refused all the
same, without the names of what changed.

A study of ``hpo finish`` has the images of the study that it finishes. A data set that hpo knows by name
has no fingerprint: ``sources`` reads what was published, and checks what has published checksums.
"""

from dataclasses import dataclass
from typing import Any

from optuna.storages._rdb import models
from sqlalchemy.orm import Session

from hpo.artifacts.folders import Artifacts
from hpo.errors import ArtifactError, ImagesChanged, StoreError, StoreUnavailable
from hpo.store import attributes, plan
from hpo.store.storage import Storage, retrying
from hpo.store.study_rows import find_study, get_study, has_begun, seems_begun, stored_folder
from hpo.study.definition import Definition
from hpo.training.used_files import UsedFiles

IMAGES = "hpo:images"  # system attribute of a study: the fingerprint of its images
LIST_PREFIX = "data-files-"  # of the name of a list in the study's folder of the artifacts


@dataclass(frozen=True, kw_only=True)
class KnownImages:
    """The images that a study must have."""

    study: str  # which began with them: the study itself, or the one that it finishes
    fingerprint: str | None  # None if nobody has stored it


def list_name(folder: str, fingerprint: str) -> str:
    """Return the name of a list of files in the artifacts, given the study's folder there."""
    return f"{folder}/{LIST_PREFIX}{fingerprint.split()[-1][:16]}.json"


@retrying(reads=True)
def read_images(storage: Storage, definition: Definition) -> KnownImages:
    """Return the images that a study must have; of a study that is not stored nothing is known.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    with storage.transaction() as session:
        return _known_images(session, definition)


@retrying()
def set_images_once(storage: Storage, definition: Definition, fingerprint: str) -> KnownImages:
    """Store which images a study has, unless that is known; the first process to ask decides.

    Args:
        storage: The storage that the study is in.
        definition: The study.
        fingerprint: Of the files that it uses.

    Returns:
        The images that the study must have.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The study was deleted meanwhile, or the database refuses the write.
    """
    with storage.transaction() as session:
        study = find_study(session, definition.name, lock=True)
        if study is None:
            raise StoreError(f"study '{definition.name}' was deleted meanwhile")
        known = _known_images(session, definition)
        if known.fingerprint is not None:
            return known
        plan.set_study_attributes(session, study.study_id, {IMAGES: fingerprint}, system=True)
        return KnownImages(study=definition.name, fingerprint=fingerprint)


def keep_images(session: Session, study: Any, fingerprint: str) -> None:
    """Store which images a study has, within the caller's transaction; refuse others once a trial began.

    Args:
        session: The session of the caller's transaction.
        study: The study's row.
        fingerprint: Of the files that it uses now.

    Raises:
        ImagesChanged: The study began with other images.
    """
    before = _stored_fingerprint(session, study)
    if before == fingerprint:
        return
    if before is not None and has_begun(session, study):
        raise ImagesChanged(f"study '{study.study_name}' began with other images")
    plan.set_study_attributes(session, study.study_id, {IMAGES: fingerprint}, system=True)


def _known_images(session: Session, definition: Definition) -> KnownImages:
    for name in filter(None, (definition.finishes, definition.name)):
        study = find_study(session, name)
        fingerprint = None if study is None else _stored_fingerprint(session, study)
        if fingerprint is not None:
            return KnownImages(study=name, fingerprint=fingerprint)
    return KnownImages(study=definition.name, fingerprint=None)


def _stored_fingerprint(session: Session, study: Any) -> str | None:
    row = models.StudySystemAttributeModel.find_by_study_and_key(study, IMAGES, session)
    return None if row is None else attributes.parse_images(str(row.value_json))


def changed_error(
    storage: Storage, artifacts: Artifacts, definition: Definition, found: UsedFiles
) -> ImagesChanged:
    """Return the error that says what differs between the images that a study must have and those it has.

    Args:
        storage: The storage that the study is in.
        artifacts: Where the list of the images is that the study must have.
        definition: The study.
        found: The images that it has now.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    known = read_images(storage, definition)
    before = None if known.fingerprint is None else _read_list(storage, artifacts, known)
    if before is not None:
        what = before.describe_changes(found)
    else:
        then, now = (f"{each}".partition(",")[0] for each in (known.fingerprint, found.fingerprint))
        what = f"then {then}, now {now}; their list cannot be read, so it is not known which differ"
    return ImagesChanged(
        f"{definition.train['dataset']}: not the images that study '{known.study}' began with: {what}. "
        "Results on different images cannot be compared: restore the images, or start a new study with "
        f"--name{_create_advice(storage, definition, known)}"
    )


@retrying(reads=True)
def _create_advice(storage: Storage, definition: Definition, known: KnownImages) -> str:
    """Return how to keep the study's name, as long as no trial has begun."""
    with storage.transaction() as session:
        study = find_study(session, definition.name)
        if known.study != definition.name or study is None or seems_begun(session, study):
            return ""
    return "; no trial has run an epoch yet, so 'hpo create' with the study's file takes these images"


def _read_list(storage: Storage, artifacts: Artifacts, known: KnownImages) -> UsedFiles | None:
    """Return the files that a study began with; None if their list cannot be read."""
    assert known.fingerprint is not None
    try:
        folder = _read_folder(storage, known.study)
        content = artifacts.read_or_none(list_name(folder, known.fingerprint))
    except StoreUnavailable:
        raise
    except (StoreError, ArtifactError, OSError):
        return None
    return UsedFiles.load(content, known.fingerprint) if content else None


@retrying(reads=True)
def _read_folder(storage: Storage, study: str) -> str:
    with storage.transaction() as session:
        return stored_folder(session, get_study(session, study))
