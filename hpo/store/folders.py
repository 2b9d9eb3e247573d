"""The folders that studies name as theirs in the artifacts, and who may write to one or delete it.

A copy that another tool makes of a study, as ``optuna.copy_study`` does, names the folder of its original.
Both may read it. The folder was named for one study alone, which its name tells: only that one's workers
may write to it. It is deleted with that study, unless another one of the store still names it. So an
attribute that names the folder of a study in another store harms nothing there.
"""

from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models

from hpo.artifacts import names
from hpo.artifacts.folders import Artifacts
from hpo.errors import DefinitionError
from hpo.store import attributes, studies
from hpo.store.storage import Storage, retrying

_studies: Any = models.StudyModel.__table__
_user: Any = models.StudyUserAttributeModel.__table__
_FOLDERS = (
    sa.select(_studies.c.study_name, _user.c.value_json)
    .join(_studies, _studies.c.study_id == _user.c.study_id)
    .where(_user.c.key == "folder")
    .order_by(_studies.c.study_name)
)


@retrying(reads=True)
def stored_folder(storage: Storage, study_id: int) -> str | None:
    """Return the name of a study's folder in the artifacts; None if the store names none that hpo made.

    Args:
        storage: The storage that the study is in.
        study_id: Optuna's id of the study, whatever tool made it.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    with storage.transaction() as session:
        found = session.execute(_FOLDERS.where(_user.c.study_id == study_id)).first()
        return None if found is None else attributes.parse_folder(found.value_json)


@retrying(reads=True)
def studies_with_folder(storage: Storage, folder: str) -> list[str]:
    """Return the names of all studies that name a folder in the artifacts as theirs, sorted.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    with storage.transaction() as session:
        found = session.execute(_FOLDERS).all()
    return [row.study_name for row in found if attributes.parse_folder(row.value_json) == folder]


def own_folder(storage: Storage, name: str) -> str:
    """Return the name of a study's folder for a worker, which writes to it and removes files from it.

    Raises:
        DefinitionError: The study names the folder of another study, of this store or another one.
        StoreUnavailable: The database stays unavailable.
        StoreError: As ``studies.artifacts_folder`` raises it.
    """
    folder = studies.artifacts_folder(storage, name)
    if names.is_folder_of(folder, name):
        return folder
    others = [each for each in studies_with_folder(storage, folder) if each != name]
    whose = (
        f"the same folder of artifacts as study '{others[0]}'" if others else "the folder of another study"
    )
    raise DefinitionError(
        f"study '{name}' names {whose} ({folder}): its workers would overwrite files of that study; "
        "'hpo create' with --name makes a study of its own"
    )


def delete_unused_folder(storage: Storage, name: str, folder: str | None, artifacts: Artifacts) -> str:
    """Delete the folder of a study that has been deleted, unless it is, or may be, another study's too.

    Args:
        storage: The storage that the study was in.
        name: The name that the study had.
        folder: What ``stored_folder`` returned for the study.
        artifacts: Where the folder is.

    Returns:
        Why the folder was kept; an empty text if it was deleted.

    Raises:
        ArtifactError: The folder cannot be deleted, behind a URL, or it is a symbolic link.
        OSError: The same in a local folder.
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    if folder is None:
        return "no files were deleted, since it named no folder that hpo made"
    if users := studies_with_folder(storage, folder):
        return f"its files in {artifacts.path(folder)} were kept, since study '{users[0]}' names them, too"
    if not names.is_folder_of(folder, name):
        return f"the files in {artifacts.path(folder)} were kept, since it was named for another study"
    artifacts.delete_study_folder(folder)
    return ""
