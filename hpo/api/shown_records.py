"""Which records of workers are shown: a live view shows progress itself, and some things are told once."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from hpo import logs
from hpo.log_records import OWN, PROGRESS, SUPERVISOR

_SECONDS = re.compile(r"\d+\.\d s\b")  # how long one worker has waited is no other news


def show_workers(*, news_only: bool) -> Callable[[Sequence[logging.LogRecord]], None]:
    """Return a function that shows records of the workers of one launch.

    Args:
        news_only: Leave out what a live view shows by itself.
    """
    once = ToldOnce()

    def show(records: Sequence[logging.LogRecord]) -> None:
        logs.show([each for each in records if (is_news(each) or not news_only) and once.is_new(each)])

    return show


def is_news(record: logging.LogRecord) -> bool:
    """Return whether a live view does not show this by itself: anything but the progress of trials."""
    return record.name != PROGRESS or record.levelno >= logging.WARNING


class ToldOnce:
    """Tells what several workers say only the first time that one of them says it.

    If a worker says it again, as when a database is away a second time, that is told once again. This is
    about what hpo logs and about warnings of any library. Everything else is told always: what trials do,
    what happens to workers, and what an objective prints or logs.
    """

    def __init__(self) -> None:
        self._said: Counter[tuple[Any, ...]] = Counter()  # by the worker and what it says
        self._told: Counter[tuple[Any, ...]] = Counter()  # by what they say

    def is_new(self, record: logging.LogRecord) -> bool:
        """Return whether to tell a record; from now on it counts as told."""
        if not _is_repeatable(record):
            return True
        what = record.name, record.levelno, _SECONDS.sub("", record.getMessage())
        who = vars(record)["host"], record.process, *what
        self._said[who] += 1
        if self._said[who] <= self._told[what]:
            return False
        self._told[what] += 1
        return True


def _is_repeatable(record: logging.LogRecord) -> bool:
    """Return whether several workers may say this for the same reason."""
    if record.name in (PROGRESS, SUPERVISOR):
        return False
    return record.name.partition(".")[0] == OWN or record.levelno >= logging.WARNING
