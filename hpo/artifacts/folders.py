"""Artifacts: each trial's folder of checkpoints, weights, curves and settings, here or behind a URL.

Every trial works in a local folder. Where the artifacts are local, that folder is the artifacts' own, and
publishing is nothing. Elsewhere (``s3://...`` and whatever else fsspec knows) it is a temporary one:
files are fetched when a trial is taken up and published when they are done. An object store shows a file
whole or not at all, as ``files.durable`` does here.

A place behind a URL may be away for a while. What a worker asks of it is asked again until it is back, so
all that is asked does no harm twice. The lease is renewed meanwhile; if it is lost all the same, what comes
late harms nobody: files that names are committed of bear the attempt's number, and a folder removes only
what it published or fetched itself.
"""

import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fsspec.implementations.local import LocalFileSystem

from hpo.artifacts import durable, remote
from hpo.errors import ArtifactError, ArtifactsUnavailable
from hpo.retry import MAX_WAIT_SECONDS, STOPPING_WAIT_SECONDS, retry_until

R = TypeVar("R")

LOGS = "logs"
MAX_PAUSE_SECONDS = 2.0  # seconds between two tries


def file_name(name: str) -> str:
    """Give a file's name within its folder from its name in the artifacts."""
    return name.rpartition("/")[2]


class Artifacts:
    """The place where all studies' files are.

    Elsewhere it raises ArtifactError alone. Here an ``OSError`` passes through, but for ``read``.
    """

    def __init__(self, root: str) -> None:
        try:
            self.filesystem, self.root = remote.open_file_system(root)
        except Exception as error:  # some places are called at once, and each has its own errors
            raise ArtifactError(f"--artifacts {root}: {remote.error_text(error)}") from error
        self.is_local = isinstance(self.filesystem, LocalFileSystem)
        self.retry_seconds = 0.0  # seconds that a place which is away is waited for; a worker has more
        self.stop = threading.Event()  # whoever sets it wants no more than GRACE spent on waiting

    def path(self, name: str) -> str:
        """Give a file's path, or its address."""
        path = f"{self.root}/{name}".rstrip("/")
        return path if self.is_local else str(self.filesystem.unstrip_protocol(path))

    def logs_folder(self, folder: str) -> Path:
        """Give where a scheduler writes what a study's workers say: always a folder, never behind a URL."""
        return Path(self.root, folder, LOGS) if self.is_local else Path("storage", LOGS, folder)

    def retry(self, name: str, work: Callable[[], R]) -> R:
        """Do ``work`` on a file or folder, which does no harm twice, until the place does it.

        Raises ArtifactAway when the patience is over, ArtifactError at once where waiting mends nothing.
        """
        if self.is_local:
            return work()

        def fresh() -> R:
            self.filesystem.invalidate_cache()  # of listings: other workers have been there meanwhile
            return work()

        def met(error: Exception, waited: float) -> str:  # every kind of place has its own errors
            message = f"{self.path(name)}: {remote.error_text(error)}"
            if not remote.is_unavailable(error):
                raise ArtifactError(f"{message}; {remote.advice(error)}") from error
            if waited >= min(
                self.retry_seconds, STOPPING_WAIT_SECONDS if self.stop.is_set() else MAX_WAIT_SECONDS
            ):
                raise ArtifactsUnavailable(message) from error
            return message

        return retry_until(fresh, met, what=self.path(""), longest_pause_seconds=MAX_PAUSE_SECONDS)

    def check_access(self) -> None:
        """Raise ArtifactError if a place elsewhere cannot be used; one that is here shows by itself."""
        if not self.is_local:
            self.probe()

    def probe(self) -> None:
        """Write a small file and remove it: what a trial will want to do, found out before it starts."""
        path = f"{self.root}/.probe-{uuid.uuid4().hex[:8]}"

        def write_and_remove() -> None:
            self.filesystem.pipe_file(path, b"hpo")
            self.filesystem.rm_file(path)

        self.retry("", write_and_remove)

    def read(self, name: str) -> bytes:
        """Give a file's content; raises ArtifactError if it cannot be had."""
        try:
            content = self.read_or_none(name)
        except OSError as error:
            raise ArtifactError(f"{self.path(name)}: {error}") from error
        if content is None:
            raise ArtifactError(
                f"{self.path(name)}: no such file; --artifacts or HPO_ARTIFACTS says where they are"
            )
        return content

    def open_folder(self, name: str) -> "TrialFolder":
        """Open a folder to work in; ``name`` is relative to the artifacts."""
        local = Path(self.root, name) if self.is_local else Path(tempfile.mkdtemp(prefix="hpo-"))
        local.mkdir(parents=True, exist_ok=True)
        return TrialFolder(self, name, local)

    def read_or_none(self, name: str) -> bytes | None:
        """Give a file's content; None if there is none."""

        def look() -> bytes | None:
            try:
                content: bytes = self.filesystem.cat_file(f"{self.root}/{name}")
                return content
            except FileNotFoundError:
                return None

        return self.retry(name, look)

    def list_names(self, name: str) -> list[str]:
        """Give the names of what lies in a folder; none if there is no such folder."""
        path = f"{self.root}/{name}".rstrip("/")

        def look() -> list[str]:
            try:
                there = self.filesystem.ls(path, detail=False)
            except FileNotFoundError:
                return []
            return [file_name(str(each).rstrip("/")) for each in there if str(each).rstrip("/") != path]

        return self.retry(name, look)

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file durably, and the folders above it."""
        path = f"{self.root}/{name}"
        if self.is_local:
            durable.write_file(Path(path), content)
        else:  # an object store has no folders; asked to make some, s3fs would make a missing bucket
            self.retry(name, lambda: self.filesystem.pipe_file(path, content))

    def download(self, name: str, path: Path) -> None:
        """Copy a file from elsewhere to here."""
        self.retry(name, lambda: self.filesystem.get_file(f"{self.root}/{name}", str(path)))

    def upload(self, path: Path, name: str) -> None:
        """Copy a file from here to elsewhere."""
        self.retry(name, lambda: self.filesystem.put_file(str(path), f"{self.root}/{name}"))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

        def remove() -> None:
            try:
                self.filesystem.rm_file(f"{self.root}/{name}")
            except FileNotFoundError:
                pass  # as it is to be

        self.retry(name, remove)

    def delete_folder(self, name: str) -> None:
        """Delete a study's folder with all that is in it."""

        def delete() -> None:
            try:
                self.filesystem.rm(f"{self.root}/{name}", recursive=True)
            except FileNotFoundError:
                pass  # as it is to be

        self.retry(name, delete)


class TrialFolder:
    """One trial's folder: work in ``local``, then publish."""

    def __init__(self, artifacts: Artifacts, name: str, local: Path) -> None:
        self.artifacts = artifacts
        self.name = name
        self.path = local
        self.published: dict[str, tuple[int, int]] = {}  # what we got or put there -> its version

    def fetch(self) -> None:
        """Get what is already there, unless it is here anyway."""
        if self.artifacts.is_local:
            return
        for name in self.artifacts.list_names(self.name):
            path = self.path / name
            self.artifacts.download(f"{self.name}/{name}", path)
            self.published[name] = _file_version(path)

    def publish(self) -> None:
        """Put what is new where everybody sees it, unless it is there anyway."""
        for path in self._files() if not self.artifacts.is_local else ():
            version = _file_version(path)
            if self.published.get(path.name) != version:
                self.artifacts.upload(path, f"{self.name}/{path.name}")
                self.published[path.name] = version

    def remove_deleted(self) -> None:
        """Remove from the artifacts what of it was removed here."""
        for name in [name for name in self.published if not (self.path / name).exists()]:
            self.artifacts.remove(f"{self.name}/{name}")
            del self.published[name]

    def remove_matching(self, matches: Callable[[str], object]) -> None:
        """Remove the files whose name matches, here and elsewhere, whoever made them."""
        for path in list(self.path.iterdir()):
            if matches(path.name):
                path.unlink(missing_ok=True)
        for name in [] if self.artifacts.is_local else self.artifacts.list_names(self.name):
            if matches(name):
                self.artifacts.remove(f"{self.name}/{name}")
                self.published.pop(name, None)

    def _files(self) -> list[Path]:
        return [path for path in sorted(self.path.iterdir()) if path.suffix != ".draft"]

    def close(self) -> None:
        """Leave the folder; a temporary one goes."""
        if not self.artifacts.is_local:
            shutil.rmtree(self.path, ignore_errors=True)


def _file_version(path: Path) -> tuple[int, int]:
    """Give a file's size and time of change."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns
