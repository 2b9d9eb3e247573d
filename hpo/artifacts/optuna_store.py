"""The artifacts as Optuna's artifact stores are: a flat shelf of files by id, beside the trials' folders.

What people add to a trial through the dashboard, or with ``optuna.artifacts.upload_artifact`` and a
``FileSystemArtifactStore`` on the folder ``added`` in the artifacts, lies there under its id.
"""

import shutil
from typing import BinaryIO, cast

from optuna.artifacts.exceptions import ArtifactNotFound

from hpo.artifacts.folders import Artifacts

ADDED_FOLDER = "added"


class FolderArtifactStore:
    """Optuna's protocol of an artifact store, over our artifacts; if read-only, it refuses changes."""

    def __init__(self, artifacts: Artifacts, *, read_only: bool) -> None:
        self.artifacts = artifacts
        self.read_only = read_only

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open what was added; raises ArtifactNotFound if there is none, as after a crash before it was."""
        return self.open(f"{ADDED_FOLDER}/{artifact_id}")

    def open(self, name: str) -> BinaryIO:
        """Open a file by its name in the artifacts, as a trial's own; raises ArtifactNotFound."""
        try:
            return cast(BinaryIO, self.artifacts.filesystem.open(f"{self.artifacts.root}/{name}", "rb"))
        except (FileNotFoundError, IsADirectoryError) as error:
            raise ArtifactNotFound(f"no file {name}") from error

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Put a file on the shelf."""
        self._check()
        self.artifacts.filesystem.makedirs(self._path(""), exist_ok=True)
        with self.artifacts.filesystem.open(self._path(artifact_id), "wb") as file:
            shutil.copyfileobj(content_body, file)

    def remove(self, artifact_id: str) -> None:
        """Take a file off the shelf; raises ArtifactNotFound if there is none."""
        self._check()
        try:
            self.artifacts.filesystem.rm_file(self._path(artifact_id))
        except FileNotFoundError as error:
            raise ArtifactNotFound(f"no file {artifact_id}") from error

    def _check(self) -> None:
        if self.read_only:
            raise PermissionError("artifacts are only shown here")

    def _path(self, artifact_id: str) -> str:
        return f"{self.artifacts.root}/{ADDED_FOLDER}/{artifact_id}"
