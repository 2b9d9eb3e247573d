"""Durable files: complete under their final name, or not there at all, even after a crash.

The protocol: write a temporary file in the same folder (``*.draft``), fsync it, rename it, fsync the
folder. A crash at any moment leaves the previous file or the new one, and at most a ``.draft``, which
nobody reads. Its writer holds a lock on it (flock), which ends with the process. So one without a lock has
lost its writer, and ``remove_abandoned`` removes it.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

DRAFT_SUFFIX = ".draft"


def is_draft(name: str) -> bool:
    """Return whether a file of this name is only being written, or was when its writer died."""
    return name.endswith(DRAFT_SUFFIX)


class Draft:
    """A file that is being written under a temporary name.

    ``name``, the final name, must be set within the block of ``atomic_file``, but may be set last, so it
    can contain the content's hash. ``path`` is the temporary name.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file = file
        self.path = path
        self.name = ""


@contextlib.contextmanager
def atomic_file(folder: Path) -> Iterator[Draft]:
    """Write a file that appears in ``folder`` under ``draft.name`` when the block ends without an error.

    If the block raises, the temporary file is removed. An existing file of this name is replaced. Everybody
    may read the file, whatever the umask.

    Args:
        folder: Created if it does not exist.

    Yields:
        The draft: write to ``draft.file`` and set ``draft.name``.

    Raises:
        OSError: If the file cannot be written, for example because the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = _open_locked(folder)
    try:
        with os.fdopen(handle, "wb") as file:
            draft = Draft(cast("BinaryIO", file), temporary)
            yield draft
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.rename(folder / draft.name)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_folder(folder)


def _open_locked(folder: Path) -> tuple[int, Path]:
    """Create a temporary file and lock it; return its descriptor and its path."""
    while True:
        handle, name = tempfile.mkstemp(dir=folder, suffix=DRAFT_SUFFIX)
        with contextlib.suppress(OSError):  # a disk without locks, where nobody removes such a file
            fcntl.flock(handle, fcntl.LOCK_SH)
        if (path := Path(name)).exists():
            return handle, path
        os.close(handle)  # another process has removed it before it was locked


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder; what cannot be removed stays."""
    for path in folder.glob(f"*{DRAFT_SUFFIX}"):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(handle)


def fsync_folder(folder: Path) -> None:
    """Write to the disk which files a folder has under which names."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file durably; its folder is created if needed, an existing file replaced.

    Raises:
        OSError: As ``atomic_file`` does.
    """
    with atomic_file(path.parent) as draft:
        draft.name = path.name
        draft.file.write(content)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that appears as ``path`` when the block ends without an error.

    The folder is filled under a hidden name beside ``path`` and then renamed, so a crash leaves at most the
    hidden folder. If the block raises, it is removed. Its files should be written by ``write_file``.
    Missing folders above ``path`` are created.

    Args:
        path: Must not exist, or be an empty folder; this is found out only at the end of the block.

    Yields:
        The folder to write to.

    Raises:
        OSError: If it cannot be written, or ``path`` is a file or a folder that is not empty.
    """
    path = path.resolve()
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.draft")
    draft.mkdir(parents=True)
    try:
        yield draft
        draft.rename(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    fsync_folder(path.parent)
