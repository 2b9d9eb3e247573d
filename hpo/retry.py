"""Patience with what may be away for a while: a database, an object store."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")

MAX_WAIT_SECONDS = 600.0  # seconds that a worker waits for something to come back
STOPPING_WAIT_SECONDS = 10.0  # what is left of them once the worker is told to stop

log = logging.getLogger("hpo")


def retry_until(
    work: Callable[[], R],
    handle_error: Callable[[Exception, float], str],
    *,
    what: str,
    longest_pause_seconds: float,
) -> R:
    """Do ``work``, which does no harm twice, again until it succeeds.

    ``met`` gets what it raised, and the seconds since the first try; it says in a line what is waited for,
    or raises what is to be raised instead. ``what`` names what comes back; two tries lie ``longest``
    seconds apart at most.
    """
    begun, pause = time.monotonic(), 0.0
    while True:
        try:
            result = work()
        except Exception as error:
            message = handle_error(error, time.monotonic() - begun)
            if not pause:
                log.warning("%s; trying again", message)
        else:
            if pause:
                log.warning("%s is back after %.1f s", what, time.monotonic() - begun)
            return result
        pause = min(pause * 2 or 0.1, longest_pause_seconds)
        time.sleep(pause * random.uniform(0.5, 1.0))  # many wait for the same
