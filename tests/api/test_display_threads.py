"""Threads that print and read beside the one that supervises workers."""

import threading

import sqlalchemy as sa

from hpo.api import display_threads, progress
from hpo.api.display_threads import pause_after, print_beside, read_beside
from hpo.api.stop_signal import StopSignal
from hpo.errors import StoreError, StoreUnavailable
from hpo.store import studies
from tests.support import lease_worker
from tests.support.lease_worker import NAME


def test_all_lines_are_printed_in_their_order_before_the_block_ends():
    printed: list[str] = []
    with print_beside(printed.extend) as tell:
        for number in range(10_000):
            tell(str(number))
    assert printed == [str(number) for number in range(10_000)]


def test_whoever_has_a_line_does_not_wait_for_a_terminal_that_is_stopped():
    goes_on, printed = threading.Event(), []

    def write(lines):
        assert goes_on.wait(60)
        printed.extend(lines)

    with print_beside(write) as tell:
        tell("first")
        tell("second")
        assert printed == []
        goes_on.set()
    assert printed == ["first", "second"]


def test_reading_goes_on_while_the_store_is_away_and_ends_where_it_refuses(monkeypatch):
    monkeypatch.setattr(display_threads, "pause_after", lambda seconds: 0.0)
    errors, ended = (
        [StoreUnavailable("away"), StoreUnavailable("away"), StoreError("no")],
        threading.Event(),
    )

    def read():
        if len(errors) == 1:
            ended.set()
        raise errors.pop(0)

    with read_beside(read):
        assert ended.wait(60)
    assert errors == []


def test_a_read_that_does_not_return_delays_nobody_at_the_end(monkeypatch):
    monkeypatch.setattr(display_threads, "END_SECONDS", 0.01)
    begun, goes_on = threading.Event(), threading.Event()

    def read():
        begun.set()
        goes_on.wait(60)

    with read_beside(read):
        assert begun.wait(60)
    assert not goes_on.is_set()
    goes_on.set()


def test_what_the_workers_did_last_is_read_before_the_end():
    found, value = [], 1
    with read_beside(lambda: found.append(value)):
        value = 2
    assert found[-1] == 2


def test_a_slow_read_is_repeated_less_often():
    assert pause_after(0.01) == 1.0
    assert pause_after(7.0) == 63.0


LOCKS = {"sqlite": "BEGIN EXCLUSIVE", "postgresql": "LOCK TABLE trials IN ACCESS EXCLUSIVE MODE"}


def test_a_locked_store_does_not_keep_workers_from_being_supervised(url, monkeypatch):
    """The live view waits for the lock, and is still waiting when the workers have ended."""
    monkeypatch.setattr(display_threads, "END_SECONDS", 0.01)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    storage = studies.open_storage(url, create=True)
    studies.create_study(storage, lease_worker.definition(1), "text")
    engine, reading = sa.create_engine(url), threading.Event()
    sa.event.listen(storage.engine, "before_cursor_execute", lambda *_: reading.set())
    readers: list[threading.Thread] = []

    def supervise(tell):
        yield 1
        assert reading.wait(60)
        yield 0
        readers.extend(each for each in threading.enumerate() if each.name == "read")
        other.rollback()

    with engine.connect() as other:
        other.exec_driver_sql(LOCKS[engine.dialect.name])
        progress.follow_workers(storage, NAME, supervise, StopSignal(()))
    assert len(readers) == 1
    readers[0].join(60)
    engine.dispose()
