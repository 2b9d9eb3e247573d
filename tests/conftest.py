"""Fixtures: an empty folder to run the real command in, and stores on real databases."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import postgres

ROOT = Path(__file__).parent.parent


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
            [sys.executable, "-m", "hpo", *args],
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

    def study(self, text: str, name: str = "small") -> str:
        (self.path / f"{name}.toml").write_text(text)
        return f"{name}.toml"


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HPO_")}
    # One thread each: tests run side by side, and bits depend on the number of threads.
    return Workplace(path=tmp_path, environment={**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "200"})


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Give the URL of a real Postgres server's administrative database."""
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the URL of an empty store, once on SQLite and once on Postgres."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/hpo.db"
    else:
        with postgres.database(request.getfixturevalue("cluster")) as created:
            yield created
