"""Fixtures: an empty folder to run the real command in, and empty stores on real databases."""

import fcntl
import functools
import inspect
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# One thread per process, here and in the processes that tests start: tests run in parallel, and the bits of
# a result depend on the number of threads. Set this before torch is imported, which reads it once.
os.environ["OMP_NUM_THREADS"] = "1"
# Without cached bytecode, each process that a test starts would compile hpo again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
pytest.register_assert_rewrite("tests.support")
# The examples are the same in every run. They have no deadline, because the machine may be busy.
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("tests")

from tests.support import postgres  # noqa: E402  # needs the settings above
from tests.support.databases import cache_migrations, closed_engines, plain_sql  # noqa: E402
from tests.support.workplace import Workplace, workplace_in  # noqa: E402

cache_migrations()
# A shell or scheduler may have started the tests with SIGHUP ignored, which their programs would inherit.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

FIXTURES = {"cluster": "postgres", "chromium": "browser"}
# Match the source of a test that starts such a thing, or of a helper or fixture of its module.
STARTS = {
    "processes": re.compile(
        r"\.hpo\(|\.start\(\"|\bsubprocess\.(run|Popen)\b|\bpexpect\.|\bmultiprocessing\."
    ),
    "postgres": re.compile(r"\bpostgres\.(running|server)\("),
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their fixtures, by their folder and by what they start."""
    for item in items:
        assert isinstance(item, pytest.Function)
        marks = {mark for fixture, mark in FIXTURES.items() if fixture in item.fixturenames}
        parameters = getattr(item, "callspec", None)
        if parameters is not None and parameters.params.get("url") == "postgresql":
            marks.add("postgres")
        for function in _functions_of(item):
            marks |= _look_into(function)[0]
        if "acceptance" in item.path.parts:
            marks.add("processes")
        for mark in sorted(marks):
            item.add_marker(mark)
    _deal(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def _deal(items: list[pytest.Item], count: int) -> None:
    """Let each xdist worker begin with its share of the tests that start processes, which take longest."""
    heavy = [item for item in items if item.get_closest_marker("processes")]
    light = [item for item in items if not item.get_closest_marker("processes")]
    size = -(-len(light) // count)
    items[:] = [
        item
        for worker in range(count)
        for item in [*heavy[worker::count], *light[worker * size : (worker + 1) * size]]
    ]


def _functions_of(item: pytest.Function) -> set[Callable[..., Any]]:
    """Return the function of a test, of its fixtures, and the functions of the tests that they call."""
    packages = item.module.__name__.split(".")[:-1]
    names = [".".join([*packages[: depth + 1], "conftest"]) for depth in range(len(packages))]
    modules = [*(sys.modules[name] for name in names if name in sys.modules), item.module]
    defined = {name: value for module in modules for name, value in vars(module).items()}
    requested = [defined.get(name) for name in item.fixturenames]
    fixtures = [each for each in requested if hasattr(each, "_get_wrapped_function")]
    pending = [item.function, *(each._get_wrapped_function() for each in fixtures)]
    found: set[Callable[..., Any]] = set()
    while pending:
        function = inspect.unwrap(pending.pop())
        if function not in found and function.__module__.startswith("tests."):
            found.add(function)
            pending += _look_into(function)[1]
    return found


@functools.cache  # most tests are cases of a function, and many share their helpers
def _look_into(function: Callable[..., Any]) -> tuple[set[str], list[Callable[..., Any]]]:
    """Return the marks of what a function starts itself, and the functions that it names."""
    source = inspect.getsource(function)
    marks = {mark for mark, pattern in STARTS.items() if pattern.search(source)}
    named = (function.__globals__.get(word) for word in re.findall(r"\w+", source))
    return marks, list(filter(inspect.isfunction, named))


_running: list[pytest.Item] = []  # the current test


def _refuse_unmarked(event: str, arguments: tuple[Any, ...]) -> None:
    """Fail a test that starts Python although ``make quick`` selects it."""
    if event != "subprocess.Popen" or not _running:
        return
    if "not (processes" not in _running[-1].config.option.markexpr:
        return
    command = arguments[1] if isinstance(arguments[1], list | tuple) else [arguments[1]]
    starts_python = sys.executable in map(str, command)
    if starts_python and not any(
        _running[-1].get_closest_marker(mark) for mark in ("processes", "postgres", "browser")
    ):
        raise RuntimeError(f"{_running[-1].nodeid} starts a process: mark it with pytest.mark.processes")


sys.addaudithook(_refuse_unmarked)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    # What a command does to its process must not reach the next test: with its SIGPIPE, a client that
    # leaves early would end the test process.
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)
    }
    _running.append(item)
    try:
        return (yield)
    finally:
        _running.pop()
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return workplace_in(tmp_path)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Return a function that returns a folder shared by all test processes.

    The first process that asks for a name fills the folder.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def folder(name: str, fill: Callable[[Path], None]) -> Path:
        path, filled = shared / name, shared / f"{name}.filled"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not filled.exists():
                shutil.rmtree(path, ignore_errors=True)  # left by a fill that failed
                path.mkdir()
                fill(path)
                filled.touch()
        return path

    return folder


@pytest.fixture
def place(workplace: Workplace, request: pytest.FixtureRequest) -> Iterator[Workplace]:
    """Return a workplace whose own.py has the text of the test module's constant OWN."""
    (workplace.path / "own.py").write_text(request.module.OWN)
    workplace.unload_modules()  # a test may have imported an own.py of its own into this process
    yield workplace
    workplace.unload_modules()


@pytest.fixture
def chromium() -> Iterator[Any]:
    """Return the system's Chromium, headless. Without one the test is skipped; in CI it fails."""
    from playwright.sync_api import expect, sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        reason = "no command 'chromium' (install the Debian package chromium)"
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    expect.set_options(timeout=120_000)  # milliseconds; with 5,000 a busy machine fails
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Return the URL of the administrative database of a real Postgres server."""
    # This server loses data in a power cut. Tests of durability start their own servers.
    with postgres.server(fsync="off", synchronous_commit="off", full_page_writes="off") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the URL of an empty store, once on SQLite and once on Postgres."""
    with closed_engines():
        if request.param == "sqlite":
            yield f"sqlite:///{tmp_path}/hpo.db"
        else:
            with postgres.database(request.getfixturevalue("cluster")) as database:
                yield database


@pytest.fixture
def sql(url: str) -> Callable[..., list[tuple[Any, ...]]]:
    """Return a function that runs plain SQL on a separate connection to the store."""
    return plain_sql(url)
