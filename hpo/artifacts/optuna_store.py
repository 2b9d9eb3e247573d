"""The artifacts as an Optuna artifact store: files by id in one folder, beside the trials' own folders.

Files that users attach to a trial are kept in the folder ``added`` of the artifacts, under their id. They
come from the dashboard, or from ``optuna.artifacts.upload_artifact`` with a ``FileSystemArtifactStore`` on
that folder.
"""

import shutil
from pathlib import Path
from typing import BinaryIO, cast

from optuna.artifacts.exceptions import ArtifactNotFound

from hpo.artifacts import durable, names
from hpo.artifacts.folders import Artifacts
from hpo.errors import ArtifactError

ADDED_FOLDER = "added"


class FolderArtifactStore:
    """Optuna's artifact store protocol, implemented by our artifacts.

    Nothing is retried. Errors of the file system that are not listed below pass through.

    Args:
        artifacts: Where the files are.
        read_only: Whether ``write`` and ``remove`` raise PermissionError.
    """

    def __init__(self, artifacts: Artifacts, *, read_only: bool) -> None:
        self.artifacts = artifacts
        self.read_only = read_only

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an attached file.

        Raises:
            ArtifactNotFound: If there is none, for example because of a crash before it was written.
        """
        return self.open(_name(artifact_id))

    def open(self, name: str) -> BinaryIO:
        """Open any file of the artifacts, for example one of a trial's own.

        Args:
            name: Path relative to the artifacts.

        Raises:
            ArtifactNotFound: If there is no such file, it is a folder, or it is not below the artifacts.
        """
        try:
            return cast(BinaryIO, self.artifacts.filesystem.open(self.artifacts.locate(name), "rb"))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ArtifactError) as error:
            raise ArtifactNotFound(f"no file {name}") from error

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store an attached file; an existing one is replaced, once the new one is whole.

        Args:
            artifact_id: The file's id, which Optuna chooses.
            content_body: Read to its end.

        Raises:
            PermissionError: If this store is read-only.
        """
        self._check_writable()
        name = _name(artifact_id)
        path = self.artifacts.locate(name)
        if self.artifacts.is_local:
            with durable.atomic_file(Path(path).parent) as draft:
                draft.name = artifact_id
                shutil.copyfileobj(content_body, draft.file)
            return
        self.artifacts.filesystem.makedirs(self.artifacts.locate(ADDED_FOLDER), exist_ok=True)
        with self.artifacts.filesystem.open(path, "wb") as file:
            shutil.copyfileobj(content_body, file)

    def remove(self, artifact_id: str) -> None:
        """Remove an attached file.

        Raises:
            ArtifactNotFound: If there is none.
            PermissionError: If this store is read-only.
        """
        self._check_writable()
        try:
            self.artifacts.filesystem.rm_file(self.artifacts.locate(_name(artifact_id)))
        except (FileNotFoundError, IsADirectoryError, ArtifactError) as error:
            raise ArtifactNotFound(f"no file {artifact_id}") from error

    def _check_writable(self) -> None:
        if self.read_only:
            raise PermissionError("artifacts are read-only here")


def _name(artifact_id: str) -> str:
    """Return the name of an attached file in the artifacts; its id may come from the store."""
    if not names.ATTACHMENT_ID.fullmatch(artifact_id):
        raise ArtifactNotFound(f"no file {artifact_id!r}")
    return f"{ADDED_FOLDER}/{artifact_id}"
