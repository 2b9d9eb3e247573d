"""Artifacts: each trial's folder of checkpoints, weights, curves and settings, here or behind a URL.

Every trial works in a local folder. Where the artifacts are local, that folder is the artifacts' own, and
publishing is nothing. Elsewhere (``s3://...`` and whatever else fsspec knows) it is a temporary one:
files are fetched when a trial is taken up and published when they are done. An object store shows a file
whole or not at all, as ``files.durable`` does here.
"""

import shutil
import tempfile
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from hpo import files
from hpo.errors import ArtifactError

LOGS = "logs"


def file_of(name: str) -> str:
    """Give a file's name within its folder from its name in the artifacts."""
    return name.rpartition("/")[2]


class Artifacts:
    """The place where all studies' files are."""

    def __init__(self, root: str) -> None:
        try:
            self.filesystem, self.root = fsspec.core.url_to_fs(root)
        except (ValueError, ImportError) as error:
            raise ArtifactError(f"--artifacts {root}: {error}") from error
        self.local = isinstance(self.filesystem, LocalFileSystem)

    def path(self, name: str) -> str:
        """Give a file's path, or its address."""
        path = f"{self.root}/{name}"
        return path if self.local else str(self.filesystem.unstrip_protocol(path))

    def logs(self, folder: str) -> Path:
        """Give where a scheduler writes what a study's workers say: always a folder, never behind a URL."""
        return Path(self.root, folder, LOGS) if self.local else Path("storage", LOGS, folder)

    def read(self, name: str) -> bytes:
        """Give a file's content; raises ArtifactError if it cannot be had."""
        try:
            content = self.look_up(name)
        except Exception as error:  # every kind of place has its own
            raise ArtifactError(f"{self.path(name)}: {error}") from error
        if content is None:
            raise ArtifactError(
                f"{self.path(name)}: no such file; --artifacts or HPO_ARTIFACTS says where they are"
            )
        return content

    def folder(self, name: str) -> "Folder":
        """Open a folder to work in; ``name`` is relative to the artifacts."""
        local = Path(self.root, name) if self.local else Path(tempfile.mkdtemp(prefix="hpo-"))
        local.mkdir(parents=True, exist_ok=True)
        return Folder(self, name, local)

    def look_up(self, name: str) -> bytes | None:
        """Give a file's content; None if there is none."""
        try:
            content: bytes = self.filesystem.cat_file(f"{self.root}/{name}")
            return content
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file durably, and the folders above it."""
        path = f"{self.root}/{name}"
        if self.local:
            files.write(Path(path), content)
        else:
            self.filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.filesystem.pipe_file(path, content)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        path = f"{self.root}/{name}"
        if self.filesystem.exists(path):
            self.filesystem.rm_file(path)

    def delete(self, name: str) -> None:
        """Delete a study's folder with all that is in it."""
        path = f"{self.root}/{name}"
        if self.filesystem.exists(path):
            self.filesystem.rm(path, recursive=True)


class Folder:
    """One trial's folder: work in ``local``, then publish."""

    def __init__(self, artifacts: Artifacts, name: str, local: Path) -> None:
        self.artifacts = artifacts
        self.name = name
        self.local = local
        self.published: dict[str, tuple[int, int]] = {}  # name -> size and time of change

    def fetch(self) -> None:
        """Get what is already there, unless it is here anyway."""
        remote = self._remote("")
        filesystem = self.artifacts.filesystem
        if not self.artifacts.local and filesystem.exists(remote):
            # The slash at the end means what is in the folder, rather than the folder itself.
            filesystem.get(f"{remote}/", f"{self.local}/", recursive=True)

    def publish(self) -> None:
        """Put what is new where everybody sees it, unless it is there anyway."""
        for path in self._files() if not self.artifacts.local else ():
            seen = (path.stat().st_size, path.stat().st_mtime_ns)
            if self.published.get(path.name) != seen:
                self.artifacts.filesystem.put_file(str(path), self._remote(path.name))
                self.published[path.name] = seen

    def mirror(self) -> None:
        """Remove from the artifacts what was removed here."""
        filesystem = self.artifacts.filesystem
        if not self.artifacts.local and filesystem.exists(self._remote("")):
            for path in filesystem.ls(self._remote(""), detail=False):
                if not (self.local / Path(path).name).exists():
                    filesystem.rm_file(path)

    def _files(self) -> list[Path]:
        return [path for path in sorted(self.local.iterdir()) if path.suffix != ".draft"]

    def close(self) -> None:
        """Leave the folder; a temporary one goes."""
        if not self.artifacts.local:
            shutil.rmtree(self.local, ignore_errors=True)

    def _remote(self, name: str) -> str:
        return f"{self.artifacts.root}/{self.name}/{name}".rstrip("/")
