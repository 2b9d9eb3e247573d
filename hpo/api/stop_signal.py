"""Ctrl-C, SIGTERM and a terminal that closes as a request to stop: workers save, and then exit."""

import os
import signal
import threading
import time
from collections.abc import Collection
from typing import Self

DUPLICATE_SIGTERM_SECONDS = 3.0  # a second SIGTERM within this time is the first one again


class StopSignal:
    """Turns the first Ctrl-C, SIGTERM or SIGHUP into a request to stop; a second one ends the process.

    SIGHUP, of a terminal that closes, stays ignored where it was, as by ``nohup``.

    A scheduler may signal every process of a job while the job's script forwards the same signal. So a
    SIGTERM that comes within DUPLICATE_SIGTERM_SECONDS of the first signal is ignored.

    It replaces this process's signal handlers, so the main thread must create it. It also ignores SIGPIPE,
    so that a reader which closes the output does not end the workers. As a context it restores the
    handlers at its end.

    Args:
        numbers: The signals that ask to stop. If there are none, no handler is replaced, as it must be in
            another thread than the main one.

    Attributes:
        event: Is set by the first signal.
        signal: The number of the first signal; None before it.
        received_at: When the first signal came, on the monotonic clock, in seconds.
    """

    def __init__(
        self, numbers: Collection[signal.Signals] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ) -> None:
        self.event = threading.Event()
        self.signal: int | None = None
        self.received_at = 0.0
        ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
        self._before = {number: signal.signal(number, self._handle) for number in {*numbers} - ignored}
        if numbers:
            self._before[signal.SIGPIPE] = signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: object) -> None:
        if self.signal is None:
            self.signal, self.received_at = number, time.monotonic()
            self.event.set()
            signal.signal(signal.SIGINT, signal.default_int_handler)
        elif time.monotonic() > self.received_at + DUPLICATE_SIGTERM_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def exit_code(self) -> int:
        """Return 130 if the first signal was Ctrl-C, else 143: the process was told to stop."""
        return 128 + (signal.SIGINT if self.signal == signal.SIGINT else signal.SIGTERM)


def _restore_signals_in_fork() -> None:
    """Let SIGTERM end a child that an objective forks, as ``multiprocessing.Pool.terminate`` needs.

    It would inherit the handler of its worker, which only asks the worker to stop. A Ctrl-C, which reaches
    all processes of a terminal, still does not take the children away from a worker that is to save.
    """
    after = {signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.SIG_IGN}
    for number, handler in after.items():
        if isinstance(getattr(signal.getsignal(number), "__self__", None), StopSignal):
            signal.signal(number, handler)


os.register_at_fork(after_in_child=_restore_signals_in_fork)
