"""Fixtures: an empty folder to run the real command in, and stores on real databases."""

import contextlib
import fcntl
import gc
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hpo.cli import main
from tests.support import postgres

# One thread each, here and in the processes that tests start: they run side by side, and bits depend on the
# number of threads. Set before anything imports torch, which reads it then.
os.environ["OMP_NUM_THREADS"] = "1"
# Where Python keeps no bytecode, each process that a test starts compiles hpo anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).parent.parent
HPO = (sys.executable, "-m", "hpo")


@dataclass(frozen=True, kw_only=True)
class Done:
    """A command that has run."""

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

    def here(self, *args: str, code: int = 0, **settings: str) -> Done:
        """Run the command in this process, which costs none of a new one's seconds.

        For what it stores and what it says; what it does to its process is seen in one of its own alone.
        """
        out, err = io.StringIO(), io.StringIO()
        with (
            self._entered(args, {**self.environment, **settings}),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            closed_engines(),
            pytest.raises(SystemExit) as ended,
        ):
            main.main()
        assert ended.value.code == code, (
            f"hpo {' '.join(args)}: {ended.value.code}\n{out.getvalue()}\n{err.getvalue()}"
        )
        return Done(code=code, out=out.getvalue(), err=err.getvalue())

    def study(self, text: str, name: str = "small") -> str:
        (self.path / f"{name}.toml").write_text(text)
        return f"{name}.toml"

    @contextlib.contextmanager
    def _entered(self, args: Sequence[str], environment: Mapping[str, str]) -> Iterator[None]:
        """Let this process be as one that is started here; what the command sets is set back after it."""
        signals = {
            number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)
        }
        threshold = gc.get_threshold()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.path)
            patch.setattr(sys, "argv", ["hpo", *args])
            patch.setattr(sys, "path", [*sys.path])
            for key in os.environ.keys() - environment.keys():
                patch.delenv(key)
            for key, value in environment.items():
                patch.setenv(key, value)
            self._forget_modules()
            try:
                yield
            finally:
                gc.set_threshold(*threshold)
                for number, handler in signals.items():
                    signal.signal(number, handler)
                self._forget_modules()

    def _forget_modules(self) -> None:
        """Forget modules by the names of those that lie here: another test's own.py is another."""
        for file in self.path.glob("*.py"):
            sys.modules.pop(file.stem, None)
        importlib.invalidate_caches()


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return workplace_in(tmp_path)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Give a function that gives the folder of a name, which the first of all processes to ask fills."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def folder(name: str, fill: Callable[[Path], None]) -> Path:
        made, filled = shared / name, shared / f"{name}.filled"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not filled.exists():
                shutil.rmtree(made, ignore_errors=True)  # of one that failed
                made.mkdir()
                fill(made)
                filled.touch()
        return made

    return folder


def workplace_in(path: Path) -> Workplace:
    """Give a workplace without the settings of whoever runs the tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HPO_")}
    return Workplace(path=path, environment={**kept, "COLUMNS": "200"})


@pytest.fixture
def place(workplace: Workplace, request: pytest.FixtureRequest) -> Workplace:
    """Give a workplace with the test module's own objective in it, as own.py."""
    (workplace.path / "own.py").write_text(request.module.OWN)
    return workplace


@pytest.fixture
def chromium() -> Iterator[Any]:
    """Give the system's Chromium, without a window; a machine without one skips the test, never in CI."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        why = "no command 'chromium' (Debian: the package of that name)"
        assert os.environ.get("CI") != "true", why
        pytest.skip(why)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Give the URL of a real Postgres server's administrative database."""
    # Nothing here outlives a power cut; tests of durability run servers of their own.
    with postgres.server(fsync="off", synchronous_commit="off", full_page_writes="off") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the URL of an empty store, once on SQLite and once on Postgres."""
    with closed_engines():
        if request.param == "sqlite":
            yield f"sqlite:///{tmp_path}/hpo.db"
        else:
            with postgres.database(request.getfixturevalue("cluster")) as created:
                yield created


@contextlib.contextmanager
def closed_engines() -> Iterator[None]:
    """Close what the block's stores, Optuna's own among them, leave open to the garbage collector."""
    engines: set[sa.Engine] = set()

    def note(connection: sa.Connection) -> None:
        engines.add(connection.engine)

    sa.event.listen(sa.Engine, "engine_connect", note)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "engine_connect", note)
        for engine in engines:
            engine.dispose()


@pytest.fixture
def sql(url: str) -> Callable[..., list[tuple[Any, ...]]]:
    """Give a function that asks the database itself, by plain SQL on a connection of its own."""
    return asking(url)


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Give the first of a condition's answers that is true; one that never is fails the test."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


def asking(url: str) -> Callable[..., list[tuple[Any, ...]]]:
    """Give a function that sends a database a statement with its values, and gives the rows found."""
    engine = sa.create_engine(url, pool_pre_ping=True)

    def ask(text: str, **values: Any) -> list[tuple[Any, ...]]:
        with engine.begin() as connection:
            found = connection.execute(sa.text(text), values)
            return [tuple(row) for row in found] if found.returns_rows else []

    return ask
