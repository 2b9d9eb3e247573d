"""The names of studies and the numbers of trials, for completion in a shell: read fast, or not at all.

Everything else reads a store through Optuna's storage, whose import alone takes a second.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = """
select study_name from studies join study_system_attributes using (study_id)
where key = 'hpo:definition' order by study_id
"""
NUMBERS = "select number from trials join studies using (study_id) where study_name = {} order by number"
WAIT_SECONDS = 1  # for a locked file or a server, at most


def list_studies(url: str) -> list[str]:
    """Return the names of the studies in a store that hpo made; none if it cannot be read at once."""
    with contextlib.suppress(Exception), _connect(url) as (connection, _):
        return [name for (name,) in connection.execute(NAMES).fetchall()]
    return []


def list_trials(url: str, study: str) -> list[int]:
    """Return the numbers of a study's trials; none if the store cannot be read at once."""
    with contextlib.suppress(Exception), _connect(url) as (connection, mark):
        return [number for (number,) in connection.execute(NUMBERS.format(mark), (study,)).fetchall()]
    return []


@contextlib.contextmanager
def _connect(url: str) -> Iterator[tuple[Any, str]]:
    """Yield a connection that only reads, and its mark of a parameter in a statement."""
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///")).expanduser().absolute()
        file = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=WAIT_SECONDS)
        with contextlib.closing(file):
            yield file, "?"
        return
    import psycopg

    server = url.replace("postgresql+psycopg:", "postgresql:", 1)
    with psycopg.connect(server, connect_timeout=2 * WAIT_SECONDS) as connection:  # libpq's least is 2 s
        connection.read_only = True
        yield connection, "%s"
