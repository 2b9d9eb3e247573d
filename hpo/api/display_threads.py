"""Threads that print and read beside the thread that supervises workers.

That one restarts workers and passes signals on to them, so it waits for nobody: not for a terminal that is
slow or stopped, nor for a database that does not answer.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from hpo.errors import HpoError, StoreUnavailable, WorkerStartError

T = TypeVar("T")
LINES_AT_ONCE = 2000  # that a live view prints at a time, which takes about 0.1 s
END_SECONDS = 5.0  # that a read in progress has at the end, before it is left alone


@contextlib.contextmanager
def print_beside(write: Callable[[Sequence[T]], None]) -> Iterator[Callable[[T], None]]:
    """Within the block, let a thread print lines or records; its end waits until all are printed.

    Args:
        write: Prints several of them, which is faster than one by one.

    Yields:
        A function that takes one, in whatever thread, and returns at once.

    Raises:
        WorkerStartError: This machine has no thread left.
    """
    lines: queue.SimpleQueue[T | None] = queue.SimpleQueue()
    thread = _start_thread("print", _print_until_none, lines, write)
    try:
        yield lines.put
    finally:
        lines.put(None)
        thread.join()


def _print_until_none(lines: "queue.SimpleQueue[T | None]", write: Callable[[Sequence[T]], None]) -> None:
    is_open = True
    while is_open:
        batch = [lines.get(), *(lines.get() for _ in range(min(lines.qsize(), LINES_AT_ONCE)))]
        is_open = None not in batch
        if found := [line for line in batch if line is not None]:
            write(found)


@contextlib.contextmanager
def read_beside(read: Callable[[], object]) -> Iterator[None]:
    """Within the block, let a thread call ``read`` again and again, and once more at the end.

    It continues after ``StoreUnavailable``; after another ``HpoError``, which the workers meet as well, it
    ends. A call that does not return is left alone at the end of the block.

    Args:
        read: Reads what is shown. Between two calls is ``pause_after``.

    Raises:
        WorkerStartError: This machine has no thread left.
    """
    done = threading.Event()
    thread = _start_thread("read", _read_until_done, read, done)
    try:
        yield
    finally:
        done.set()
        thread.join(END_SECONDS)


def _read_until_done(read: Callable[[], object], done: threading.Event) -> None:
    is_last = False
    while not is_last:
        is_last = done.is_set()
        began = time.monotonic()
        try:
            read()
        except StoreUnavailable:
            pass
        except HpoError:
            return
        done.wait(pause_after(time.monotonic() - began))


def _start_thread(name: str, work: Callable[..., None], *args: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=args, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise WorkerStartError(
            f"no thread starts to {name} beside the workers: {error}; if memory or processes are short, "
            "end other programs"
        ) from error
    return thread


def pause_after(seconds: float) -> float:
    """Return how long to wait after a read that took so many seconds: nine times as long, at least 1 s.

    So it takes a tenth of a core at most, of which the workers need every one.
    """
    return max(1.0, 9 * seconds)
