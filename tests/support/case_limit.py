"""A limit of the processor time that a case may take, which a busy machine does not shorten."""

import contextlib
import faulthandler
import signal
from collections.abc import Callable, Iterator

HANG_SECONDS = 900  # of a case that waits for something that never comes


@contextlib.contextmanager
def case_limit(seconds: float) -> Iterator[Callable[[], None]]:
    """End this process with a traceback if a case takes too long; yield what begins a case.

    Args:
        seconds: Processor time of this process that a case may take; 0: any time.
    """

    def begin() -> None:
        if seconds:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)

    if seconds:
        faulthandler.register(signal.SIGPROF, all_threads=False, chain=True)
    try:
        yield begin
    finally:
        if seconds:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            faulthandler.cancel_dump_traceback_later()
            faulthandler.unregister(signal.SIGPROF)
