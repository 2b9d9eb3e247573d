"""Retry work while a database or an object store is unavailable.

The loop itself is tenacity's. The caller decides which errors are worth a retry. For each interruption the
log gets two lines, one at its start and, if it ends well, one at its end.
"""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, wait_exponential

R = TypeVar("R")

MAX_WAIT_SECONDS = 600.0  # how long a worker waits for a database or an object store to return
STOPPING_WAIT_SECONDS = 10.0  # how long it waits once it was asked to stop
FIRST_PAUSE_SECONDS = 0.1  # before the second attempt; each later pause is twice as long

log = logging.getLogger("hpo")


def retry_until(
    work: Callable[[], R],
    handle_error: Callable[[Exception, float], str],
    *,
    what: str,
    longest_pause_seconds: float,
) -> R:
    """Call ``work`` again and again until it succeeds.

    The pauses double from ``FIRST_PAUSE_SECONDS`` on. Each is shortened at random by up to a half, because
    many processes may wait for the same thing.

    Args:
        work: What to do. It may be done twice: an attempt can succeed and still raise, if only the
            acknowledgement was lost. Only an ``Exception`` is retried; ``KeyboardInterrupt`` passes.
        handle_error: Gets the exception of an attempt and the seconds since the first attempt began. It
            returns one line that says what is waited for, of which only the first is logged, or raises to
            end the retries.
        what: The name of what is waited for, as the log line "... is back" shows it.
        longest_pause_seconds: Upper bound of the pause between two attempts.

    Returns:
        What ``work`` returned.

    Raises:
        Exception: What ``handle_error`` raised.
    """
    began = time.monotonic()
    backoff = wait_exponential(multiplier=FIRST_PAUSE_SECONDS, max=longest_pause_seconds)

    def pause_seconds(state: RetryCallState) -> float:
        return backoff(state) * random.uniform(0.5, 1.0)

    def before_sleep(state: RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        assert isinstance(error, Exception)
        message = handle_error(error, time.monotonic() - began)
        if state.attempt_number == 1:
            log.warning("%s; trying again", message)

    retrying = Retrying(wait=pause_seconds, before_sleep=before_sleep)
    result = retrying(work)
    if retrying.statistics["attempt_number"] > 1:
        log.warning("%s is back after %.1f s", what, time.monotonic() - began)
    return result
