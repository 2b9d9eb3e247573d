"""Durable files: there with their whole content under their final name, or not there at all."""

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast


@contextlib.contextmanager
def atomic_file(folder: Path) -> Iterator["Draft"]:
    """Write a file of ``folder`` that appears under ``draft.name`` when the block is left.

    Temporary name in the same folder, fsync, rename, fsync of the folder: a crash at any moment leaves
    the file of before, or the new one, besides at most a ``.draft`` that nobody reads. The name may be
    set within the block, so that it can hold the content's hash. ``OSError`` passes through (disk full),
    with the draft removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, suffix=".draft")
    temporary = Path(name)
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
    _fsync_folder(folder)


class Draft:
    """A file being written at a path of its own; it gets its name before it is done."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file = file
        self.path = path
        self.name = ""


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file durably."""
    with atomic_file(path.parent) as draft:
        draft.name = path.name
        draft.file.write(content)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that appears as ``path`` when the block is left; there it may be empty, or not be.

    It is filled by ``write`` under a hidden name beside it, and then renamed: a crash leaves at most that.
    ``OSError`` passes through, with what was written removed.
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
    _fsync_folder(path.parent)
