"""Waits that take no time."""

import threading


class FastClock(threading.Event):
    """A request to stop that comes after some seconds of waits, which take no more than a blink each."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.waited = seconds, 0.0

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waited += timeout
        if self.waited >= self.seconds:
            self.set()
        return super().wait(0.002)


def do_nothing() -> None:
    """Stand for what is done at every look of a wait."""
