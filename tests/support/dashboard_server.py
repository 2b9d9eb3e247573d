"""The dashboard as a process of its own."""

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.workplace import Workplace

SCREENSHOTS = Path(__file__).parents[1] / "screenshots"


@contextlib.contextmanager
def serving(
    workplace: Workplace, *arguments: str, **settings: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the dashboard on a free port; return its process and the link that it prints first."""
    state = {"XDG_STATE_HOME": str(workplace.path / "state")}
    process = workplace.start("dashboard", "--port", "0", *arguments, **state, **settings)
    try:
        assert process.stdout
        link = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}", link), process.communicate()
        yield process, link
    finally:
        process.kill()
        process.communicate()
