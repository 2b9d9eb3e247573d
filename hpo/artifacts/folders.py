"""Artifacts: one folder per trial with checkpoints, weights, curves and settings, local or behind a URL.

**Local and remote.** Every trial works in a local folder. If the artifacts are local, that is the trial's
folder in the artifacts itself, and publishing does nothing. Otherwise (``s3://...`` and whatever else
fsspec supports) it is a temporary folder: files are downloaded when a trial is claimed, and uploaded when
they are complete. An object store shows a file completely or not at all, as ``durable.atomic_file`` does
locally.

A temporary folder is locked as long as its process lives. A process that is killed leaves it behind,
without the lock, and the next worker of this machine removes it (``scratch``).

**Unavailable storage.** Storage behind a URL may be unavailable for some time. A worker repeats each
operation until it succeeds, so every operation must be idempotent. The trial's lease is renewed meanwhile.
If the lease is lost all the same, a late operation does no harm: the names of committed files contain the
number of the attempt, and a ``TrialFolder`` removes only what it has uploaded or downloaded itself.

**Names are input.** They may come from the store. No operation leaves the root: a name with ``..`` or the
like is refused, and in a local root also one that a symbolic link leads out of its study's folder.
"""

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fsspec.implementations.local import LocalFileSystem

from hpo.artifacts import durable, names, remote, scratch
from hpo.artifacts.scratch import ScratchFolder
from hpo.errors import ArtifactError, ArtifactsUnavailable, quote_value
from hpo.retry import MAX_WAIT_SECONDS, STOPPING_WAIT_SECONDS, retry_until

R = TypeVar("R")

LOGS = "logs"
KEPT_CHECKPOINTS = 2  # of a trial; its older ones are removed
MAX_PAUSE_SECONDS = 2.0  # between two tries


def file_name(name: str) -> str:
    """Return the last part of a path relative to the artifacts."""
    return name.rpartition("/")[2]


class Artifacts:
    """The root folder of all studies' files, local or behind a URL.

    Every ``name`` is a path relative to this root. Methods that use the storage raise ArtifactError for a
    name that leaves its folder. Behind a URL, they use it through ``retry`` and raise what it raises. In a
    local folder they let ``OSError`` pass through, except ``read``.

    Args:
        root: A local path, which need not exist, or a URL.

    Raises:
        ArtifactError: If the URL is not supported, or the storage rejects it.
    """

    def __init__(self, root: str) -> None:
        try:
            self.filesystem, self.root = remote.open_file_system(root)
        except Exception as error:  # some file systems connect at once, and each raises its own errors
            raise ArtifactError(f"--artifacts {root}: {remote.error_text(error)}") from error
        self.is_local = isinstance(self.filesystem, LocalFileSystem)
        self.retry_seconds = 0.0  # how long operations are repeated while unavailable; a worker sets more
        self.stop = threading.Event()  # once set, they are repeated for STOPPING_WAIT_SECONDS at most

    def path(self, name: str) -> str:
        """Return the path or the URL of a file; that of the root for an empty ``name``."""
        path = f"{self.root}/{name}".rstrip("/")
        return path if self.is_local else str(self.filesystem.unstrip_protocol(path))

    def locate(self, name: str) -> str:
        """Return where a file or folder is, for ``filesystem``, having proved that it is below the root.

        The first part of the name may be a symbolic link in a local root, for example to a larger disk.
        Below it no link may lead out of the folder that it points to.

        Args:
            name: Path relative to the artifacts; empty for the root itself.

        Raises:
            ArtifactError: If it is not below the root.
        """
        path = f"{self.root}/{name}".rstrip("/")
        if not name:
            return path
        if not names.is_contained(name):
            raise ArtifactError(f"{quote_value(name)}: not the name of a file below {self.path('')}")
        if self.is_local:
            top = Path(self.root, name.partition("/")[0]).resolve()
            if not Path(path).resolve().is_relative_to(top):
                raise ArtifactError(f"{path}: a symbolic link leads out of {top}; hpo does not follow it")
        return path

    def logs_folder(self, folder: str) -> Path:
        """Return the local folder for the output of a study's workers; it is not created.

        If the artifacts are behind a URL, it is in ``storage/logs`` of the working directory.

        Args:
            folder: The study's folder in the artifacts.
        """
        return Path(self.root, folder, LOGS) if self.is_local else Path("storage", LOGS, folder)

    def retry(self, name: str, work: Callable[[], R]) -> R:
        """Do ``work`` and return its result; behind a URL, repeat it while the storage is unavailable.

        In a local folder it is done once, and its errors pass through.

        Args:
            name: The file or folder that ``work`` is about, for messages.
            work: Must be idempotent.

        Raises:
            ArtifactsUnavailable: If the storage was unavailable for ``retry_seconds``, but at most for
                ``MAX_WAIT_SECONDS``, or ``STOPPING_WAIT_SECONDS`` once ``stop`` is set.
            ArtifactError: At once, for an error that waiting does not solve.
        """
        if self.is_local:
            return work()

        def work_on_fresh_listings() -> R:
            self.filesystem.invalidate_cache()  # other workers may have changed files meanwhile
            return work()

        def handle_error(error: Exception, waited: float) -> str:  # each file system has its own errors
            message = f"{self.path(name)}: {remote.error_text(error)}"
            if not remote.is_unavailable(error):
                raise ArtifactError(f"{message}; {remote.advice(error)}") from error
            longest = STOPPING_WAIT_SECONDS if self.stop.is_set() else MAX_WAIT_SECONDS
            if waited >= min(self.retry_seconds, longest):
                raise ArtifactsUnavailable(message) from error
            return message

        return retry_until(
            work_on_fresh_listings,
            handle_error,
            what=self.path(""),
            longest_pause_seconds=MAX_PAUSE_SECONDS,
        )

    def check_access(self) -> None:
        """Check by ``probe`` that remote storage can be used; a local folder is not checked.

        Raises:
            ArtifactError: If it cannot be used.
        """
        if not self.is_local:
            self.probe()

    def probe(self) -> None:
        """Write a small file into the root and remove it, to find out whether that works.

        Raises:
            ArtifactError: If it does not work, behind a URL.
            OSError: If it does not work, in a local folder, which must exist.
        """
        path = f"{self.root}/.probe-{uuid.uuid4().hex[:8]}"

        def write_and_remove() -> None:
            self.filesystem.pipe_file(path, b"hpo")
            self.filesystem.rm_file(path)

        self.retry("", write_and_remove)

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """Return the content of a file, or a part of it, as ``read_or_none`` does.

        Raises:
            ArtifactsUnavailable: As ``retry`` does.
            ArtifactError: If there is no such file or it cannot be read, also in a local folder.
        """
        try:
            content = self.read_or_none(name, start, end)
        except OSError as error:
            raise ArtifactError(f"{self.path(name)}: {error}") from error
        if content is None:
            raise ArtifactError(
                f"{self.path(name)}: no such file; --artifacts or HPO_ARTIFACTS says where they are"
            )
        return content

    def read_or_none(self, name: str, start: int = 0, end: int | None = None) -> bytes | None:
        """Return the content of a file, or a part of it; None if there is no such file.

        Args:
            name: Path relative to the artifacts.
            start: The first byte to read, within the file.
            end: The byte after the last one; None, or a number behind the end, reads to the end.

        Raises:
            ArtifactError: As ``retry`` does, if the file cannot be read behind a URL.
            OSError: If it cannot be read in a local folder.
        """
        path = self.locate(name)
        part = {} if (start, end) == (0, None) else {"start": start, "end": end}

        def read() -> bytes | None:
            try:
                content: bytes = self.filesystem.cat_file(path, **part)
                return content
            except FileNotFoundError:
                return None

        return self.retry(name, read)

    def open_folder(self, name: str) -> "TrialFolder":
        """Open a trial's folder, and create its local folder (a temporary one for remote artifacts).

        Nothing is downloaded; ``TrialFolder.fetch`` does that. What killed processes have left is removed:
        files that they were writing to this folder, or for remote artifacts their temporary folders.

        Raises:
            OSError: If the local folder cannot be created.
        """
        place = self.locate(name)
        if not self.is_local:
            scratch.remove_abandoned()
            temporary = scratch.make_folder()
            return TrialFolder(self, name, temporary.path, temporary)
        Path(place).mkdir(parents=True, exist_ok=True)
        durable.remove_abandoned(Path(place))
        return TrialFolder(self, name, Path(place))

    def list_names(self, name: str) -> list[str]:
        """Return the names of the files and folders in a folder; none if there is no such folder.

        An object whose name no file may have, such as ``..``, is left out.
        """
        path = self.locate(name)

        def list_folder() -> list[str]:
            try:
                entries = self.filesystem.ls(path, detail=False)
            except FileNotFoundError:
                return []
            found = [file_name(str(each).rstrip("/")) for each in entries if str(each).rstrip("/") != path]
            return [each for each in found if names.is_contained(each)]

        return self.retry(name, list_folder)

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file durably, and create the folders above it in a local root.

        Args:
            name: Path relative to the artifacts; an existing file is replaced.
            content: Of the whole file.

        Raises:
            ArtifactError: As ``retry`` does, behind a URL.
            OSError: If it cannot be written, in a local folder.
        """
        path = self.locate(name)
        if self.is_local:
            durable.write_file(Path(path), content)
        else:  # an object store has no folders; asked to make some, s3fs would create a missing bucket
            self.retry(name, lambda: self.filesystem.pipe_file(path, content))

    def download(self, name: str, path: Path) -> None:
        """Copy a file from the artifacts to a local path, not durably.

        Args:
            name: Path relative to the artifacts; the file must exist.
            path: Where to write it.
        """
        place = self.locate(name)
        self.retry(name, lambda: self.filesystem.get_file(place, str(path)))

    def upload(self, path: Path, name: str) -> None:
        """Copy a local file to the artifacts; meant for remote ones, since a local copy is not durable.

        Args:
            path: The local file.
            name: Path relative to the artifacts; an existing file is replaced.
        """
        place = self.locate(name)
        self.retry(name, lambda: self.filesystem.put_file(str(path), place))

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        path = self.locate(name)

        def remove() -> None:
            try:
                self.filesystem.rm_file(path)
            except FileNotFoundError:
                pass  # already removed

        self.retry(name, remove)

    def delete_study_folder(self, name: str) -> None:
        """Delete a study's folder with everything in it, if it exists.

        Args:
            name: The folder, which no other study may use.

        Raises:
            ArtifactError: If the name is not one that a study's folder has, or the folder is a symbolic
                link; nothing is deleted.
        """
        path = self.locate(name)
        if not names.is_study_folder(name):
            raise ArtifactError(f"{quote_value(name)}: not a name of a study's folder; nothing is deleted")
        if self.is_local and Path(path).is_symlink():
            raise ArtifactError(f"{path}: a symbolic link; delete it and the folder behind it by hand")

        def delete() -> None:
            try:
                self.filesystem.rm(path, recursive=True)
            except FileNotFoundError:
                pass  # already deleted

        self.retry(name, delete)


class TrialFolder:
    """The folder of one trial: work in the local folder ``path``, then publish.

    Methods raise what those of ``Artifacts`` raise, and ``OSError`` for the local folder.
    """

    def __init__(
        self, artifacts: Artifacts, name: str, path: Path, temporary: ScratchFolder | None = None
    ) -> None:
        self.artifacts = artifacts
        self.name = name
        self.path = path
        self.temporary = temporary  # the local folder, if it is a temporary one
        self.published: dict[str, tuple[int, int]] = {}  # uploaded or downloaded files -> their versions

    def fetch(self) -> None:
        """Download the trial's files; does nothing if the artifacts are local."""
        if self.artifacts.is_local:
            return
        for name in self.artifacts.list_names(self.name):
            path = self.path / name
            self.artifacts.download(f"{self.name}/{name}", path)
            self.published[name] = _file_version(path)

    def publish(self) -> None:
        """Upload new and changed files, except drafts and subfolders; local artifacts need nothing."""
        for path in self._complete_files() if not self.artifacts.is_local else ():
            version = _file_version(path)
            if self.published.get(path.name) != version:
                self.artifacts.upload(path, f"{self.name}/{path.name}")
                self.published[path.name] = version

    def remove_deleted(self) -> None:
        """Remove remote files that were uploaded or fetched here and have been deleted locally since."""
        for name in [name for name in self.published if not (self.path / name).exists()]:
            self.artifacts.remove(f"{self.name}/{name}")
            del self.published[name]

    def remove_matching(self, matches: Callable[[str], object]) -> None:
        """Remove files from the local folder and from the artifacts, whichever attempt wrote them.

        Args:
            matches: Called with a file's name; a true result removes the file.
        """
        for path in list(self.path.iterdir()):
            if matches(path.name):
                path.unlink(missing_ok=True)
        for name in [] if self.artifacts.is_local else self.artifacts.list_names(self.name):
            if matches(name):
                self.artifacts.remove(f"{self.name}/{name}")
                self.published.pop(name, None)

    def _complete_files(self) -> list[Path]:
        found = (path for path in sorted(self.path.iterdir()) if path.is_file())
        return [path for path in found if not durable.is_draft(path.name)]

    def close(self) -> None:
        """Remove the local folder if it is a temporary one."""
        if self.temporary is not None:
            self.temporary.remove()


def _file_version(path: Path) -> tuple[int, int]:
    """Return a file's size and modification time, which change with its content."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
