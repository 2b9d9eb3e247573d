"""An empty folder in which tests run the command, and helpers that read the results."""

import contextlib
import gc
import importlib
import io
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest

from hpo.cli import main
from tests.support.databases import closed_engines

ROOT = Path(__file__).parents[2]
HPO = (sys.executable, "-m", "hpo")


@dataclass(frozen=True, kw_only=True)
class Done:
    """The result of a command."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """An empty folder, and the command ``hpo`` in it as a real process."""

    path: Path
    environment: Mapping[str, str]

    def start(self, *args: str, **settings: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*HPO, *args],
            cwd=self.path,
            env={**self.environment, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def hpo(self, *args: str, code: int | None = 0, **settings: str) -> Done:
        process = self.start(*args, **settings)
        out, err = process.communicate(timeout=300)
        if code is not None:
            assert process.returncode == code, f"hpo {' '.join(args)}: {process.returncode}\n{out}\n{err}"
        return Done(code=process.returncode, out=out, err=err)

    def here(self, *args: str, code: int | None = 0, **settings: str) -> Done:
        """Run the command in this process, which saves the seconds that a new process takes to start.

        For tests of what the command stores and prints. What it does to its process needs ``hpo``.
        """
        out, err = io.StringIO(), io.StringIO()
        with (
            self._simulated_process(args, {**self.environment, **settings}),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            closed_engines(),
            pytest.raises(SystemExit) as exited,
        ):
            main.run_command_line()
        found = exited.value.code
        assert code in (found, None), f"hpo {' '.join(args)}: {found}\n{out.getvalue()}\n{err.getvalue()}"
        assert isinstance(found, int)
        return Done(code=found, out=out.getvalue(), err=err.getvalue())

    def study(self, text: str, name: str = "small") -> str:
        (self.path / f"{name}.toml").write_text(text)
        return f"{name}.toml"

    @contextlib.contextmanager
    def _simulated_process(self, args: Sequence[str], environment: Mapping[str, str]) -> Iterator[None]:
        """Set this process up like a new one in this folder; undo afterwards what the command changed."""
        signals = {
            number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)
        }
        threshold = gc.get_threshold()
        levels = {each: each.level for each in (logging.getLogger("hpo"), logging.lastResort)}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.path)
            patch.setattr(sys, "argv", ["hpo", *args])
            patch.setattr(sys, "path", [*sys.path])
            for key in os.environ.keys() - environment.keys():
                patch.delenv(key)
            for key, value in environment.items():
                patch.setenv(key, value)
            self.unload_modules()
            try:
                yield
            finally:
                gc.set_threshold(*threshold)
                for each, level in levels.items():
                    each.setLevel(level)
                for number, handler in signals.items():
                    signal.signal(number, handler)
                self.unload_modules()

    def unload_modules(self) -> None:
        """Unload the modules of this folder's files: each test has its own ``own.py``."""
        for file in self.path.glob("*.py"):
            sys.modules.pop(file.stem, None)
        importlib.invalidate_caches()


def workplace_in(path: Path) -> Workplace:
    """Return a workplace without the HPO_ settings of the user who runs the tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HPO_")}
    return Workplace(path=path, environment={**kept, "COLUMNS": "200"})


def load(workplace, name="small") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{workplace.path}/storage/hpo.db")


def artifact(workplace, name: str) -> Path:
    return workplace.path / "storage/artifacts" / name


def epochs_reported(workplace) -> int:
    path = workplace.path / "storage/hpo.db"
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(path, timeout=10) as database:
            return database.execute("SELECT count(*) FROM trial_intermediate_values").fetchone()[0]
    except sqlite3.OperationalError:
        return 0  # the tables do not exist yet
