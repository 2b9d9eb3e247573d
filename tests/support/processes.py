"""Wait for conditions and inspect real processes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.databases import closed_engines


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Return the first true value of a condition; fail the test after ``seconds`` without one.

    Databases that the condition opens are closed after each call, because there may be many.
    """
    end = time.monotonic() + seconds
    while True:
        with closed_engines(new=True):
            if value := condition():
                return value
        assert time.monotonic() < end, f"the condition was not met within {seconds} s"
        time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    children = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(d for child in children for d in descendants(child))]


def process_state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
