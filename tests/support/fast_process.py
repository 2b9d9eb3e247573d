"""Commands and workers in this process, and the tracebacks that they log."""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpo.api import progress, stop_signal
from hpo.artifacts.folders import Artifacts
from hpo.store import database
from hpo.store.storage import Storage
from tests.support.hostile_store import StopWhenIdle, run_worker


class TracebackLog(logging.Handler):
    """Keeps the last line of each traceback whose error was not raised in the objective."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.note(record.getMessage())

    def note(self, text: str) -> None:
        """Take in a text that may contain a traceback."""
        frames = re.findall('File "(.*)", line ([0-9]+)', text)
        if frames and not any(name.endswith("own.py") for name, _ in frames):
            where = " ".join(f"{Path(name).name}:{line}" for name, line in frames[-5:])
            lines = text.strip().splitlines()
            self.errors.append(f"{lines[0][:200]} ... {lines[-1][:300]} ({where})")


log = TracebackLog()


@contextlib.contextmanager
def fast_process() -> Iterator[None]:
    """Run workers in this process, and let SQLite not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        for name in ("hpo", "optuna_dashboard", "optuna"):
            patch.setattr(logging.getLogger(name), "handlers", [log])
            patch.setattr(logging.getLogger(name), "propagate", False)
        log.errors.clear()
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)
        patch.setattr(
            database,
            "sync_every_commit",
            lambda connection, _: connection.execute("PRAGMA synchronous = OFF"),
        )
        patch.setattr(progress, "run_workers", _run_inline)
        patch.setattr(stop_signal, "StopSignal", _StopWhenIdle)
        yield


class _StopWhenIdle(stop_signal.StopSignal):
    """Stops ``hpo worker`` where it would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.event = StopWhenIdle()


def _run_inline(storage: Storage, name: str, *rest: Any) -> None:
    if not name.startswith("vision"):
        run_worker(storage, name, Artifacts(rest[0].settings["HPO_ARTIFACTS"]))
