"""Temporary folders that the next process removes if their own is killed.

Each folder is locked by its owner (flock on the folder itself), and the lock ends with the process. So a
folder whose lock is free has lost its owner. This holds between containers that share a disk, too.

The crash windows: between making a folder and locking it, ``remove_abandoned`` of another process may take
it for abandoned; the owner notices and makes another one. A process that dies while it removes a folder
leaves the rest without a lock.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

PREFIX = "hpo-trial-"


@dataclass(frozen=True, kw_only=True)
class ScratchFolder:
    """A temporary folder, and the descriptor that holds its lock."""

    path: Path
    lock: int

    def remove(self) -> None:
        """Remove the folder with everything in it, then its lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)


def make_folder() -> ScratchFolder:
    """Make a locked folder where the system keeps temporary files (``TMPDIR``).

    Raises:
        OSError: If it cannot be made.
    """
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        with contextlib.suppress(FileNotFoundError):  # another process has removed it already
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # a disk without locks, where nobody removes such a folder
                fcntl.flock(lock, fcntl.LOCK_SH)
            if path.exists():
                return ScratchFolder(path=path, lock=lock)
            os.close(lock)


def remove_abandoned() -> None:
    """Remove this user's folders that no living process holds; what cannot be removed stays."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
