"""The log files of workers: what each says, and what its supervisor says of it, of bounded size.

A folder has a file per worker of a launch, ``HOST-1.log`` and so on. The next launch on the same host
continues these files. Launches that run at the same time have different files: each locks its own.
"""

import contextlib
import fcntl
import itertools
import logging
import os
import socket
import sys
from collections.abc import Callable
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from hpo import log_records

MAX_BYTES = 10_000_000  # of a file; a full one becomes FILE.1, in place of the one before


class LogFolder:
    """The folder of the log files of a launch.

    Files that cannot be written stop no worker. The first problem is told.

    Args:
        path: The folder; it is created.
        form: One of ``log_records.FORMATS``.
        tell: Gets the problem.
    """

    def __init__(self, path: Path, form: str, tell: log_records.Tell) -> None:
        self._path, self._form, self._tell = path, form, tell
        self._has_failed = False

    def open_file(self) -> logging.Handler:
        """Open the next file that no other launch, and no other worker of this one, has."""
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            for number in itertools.count(1):
                path = self._path / f"{socket.gethostname()}-{number}.log"
                with contextlib.suppress(BlockingIOError):
                    return _LogFile(path, self._form, self._tell_failure)
        except OSError as error:
            self._tell_failure(error)
        return logging.NullHandler()

    def _tell_failure(self, error: OSError) -> None:
        if not self._has_failed:
            self._has_failed = True
            text = f"log files in {self._path} cannot be written ({error.strerror}); the workers go on"
            self._tell(log_records.new_record(text, logging.WARNING))


def _drop_torn_line(path: Path) -> None:
    """Remove a last line that has no end: its launch was killed, or the disk was full.

    The next line would continue it, and be no JSON either.
    """
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


class _LogFile(RotatingFileHandler):
    def __init__(self, path: Path, form: str, tell_failure: Callable[[OSError], None]) -> None:
        self._format_record, self._tell_failure = log_records.FORMATS[form], tell_failure
        super().__init__(
            path, maxBytes=MAX_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace"
        )

    def _open(self) -> TextIOWrapper:
        """Open and lock the file; raises BlockingIOError if another process has locked it."""
        stream = super()._open()
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise
        except OSError:
            return stream  # a file system without locks: launches at the same time share the file
        _drop_torn_line(Path(self.baseFilename))
        return stream

    def format(self, record: logging.LogRecord) -> str:
        return self._format_record(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        self._tell_failure(error if isinstance(error, OSError) else OSError(0, repr(error)))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # of what could not be written
            super().close()
