"""Fixtures: an empty folder to run the real command in, and stores on real databases."""

import fcntl
import inspect
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# One thread each, here and in the processes that tests start: they run side by side, and bits depend on the
# number of threads. Set before anything imports torch, which reads it then.
os.environ["OMP_NUM_THREADS"] = "1"
# Where Python keeps no bytecode, each process that a test starts compiles hpo anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
pytest.register_assert_rewrite("tests.support")
# Examples are the same in every run; a loaded machine may take its time over each.
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("tests")

from tests.support import postgres  # noqa: E402  # after what is set above
from tests.support.databases import closed_engines, plain_sql  # noqa: E402
from tests.support.workplace import Workplace, workplace_in  # noqa: E402

FIXTURES = {"cluster": "postgres", "chromium": "browser"}
# What a test that starts processes says itself, or a function or fixture of its module that it uses.
STARTS_PROCESSES = re.compile(
    r"\.hpo\(|\.start\(\"|\bsubprocess\.(run|Popen)\b|\bpexpect\.|\bmultiprocessing\."
)
STARTS_POSTGRES = re.compile(r"\bpostgres\.(running|server)\(")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their fixtures, their folder and what they start."""
    for item in items:
        assert isinstance(item, pytest.Function)
        marks = {mark for fixture, mark in FIXTURES.items() if fixture in item.fixturenames}
        parameters = getattr(item, "callspec", None)
        if parameters is not None and parameters.params.get("url") == "postgresql":
            marks.add("postgres")
        source = _source_with_helpers(item)
        if "acceptance" in item.path.parts or STARTS_PROCESSES.search(source):
            marks.add("processes")
        if STARTS_POSTGRES.search(source):
            marks.add("postgres")
        for mark in sorted(marks):
            item.add_marker(mark)


def _source_with_helpers(item: pytest.Function) -> str:
    """Return the source of a test, of its module's fixtures and of the functions there that they use."""
    there = vars(item.module)
    waiting = [item.function.__name__, *item.fixturenames]
    found: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        function = inspect.unwrap(there.get(name, None)) if name in there else None
        function = getattr(function, "_get_wrapped_function", lambda made=function: made)()
        if name in found or not inspect.isfunction(function) or function.__module__ != item.module.__name__:
            continue
        found[name] = inspect.getsource(function)
        waiting += re.findall(r"\w+", found[name])
    return "\n".join(found.values())


_running: list[pytest.Item] = []  # the test that runs now


def _refuse_unmarked(event: str, arguments: tuple[Any, ...]) -> None:
    """Fail a test that starts Python although ``make quick`` selects it."""
    if event != "subprocess.Popen" or not _running:
        return
    if "not (processes" not in _running[-1].config.option.markexpr:
        return
    words = arguments[1] if isinstance(arguments[1], list | tuple) else [arguments[1]]
    python = sys.executable in map(str, words)
    if python and not any(
        _running[-1].get_closest_marker(mark) for mark in ("processes", "postgres", "browser")
    ):
        raise RuntimeError(f"{_running[-1].nodeid} starts a process: mark it with pytest.mark.processes")


sys.addaudithook(_refuse_unmarked)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _running.append(item)
    try:
        return (yield)
    finally:
        _running.pop()


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


@pytest.fixture
def sql(url: str) -> Callable[..., list[tuple[Any, ...]]]:
    """Give a function that asks the database itself, by plain SQL on a connection of its own."""
    return plain_sql(url)
