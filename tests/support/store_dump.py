"""Dump a store of the present version of hpo's tables, for the tests of later versions.

    python -m tests.support.store_dump tests/data/versions

``tests/store/test_tables.py`` says what is in it. The file for Postgres needs its program pg_dump.
"""

import contextlib
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.store import studies, tables
from tests.support import lease_worker, postgres
from tests.support.claims import Worker
from tests.support.databases import closed_engines

# Lines for psql alone, and settings of the session that loads the dump.
LEFT_OUT = ("--", "\\", "SET ", "SELECT pg_catalog.set_config")


def fill(url: str) -> None:
    """Make a study with a trial in each state."""
    worker = Worker(url)
    studies.create_study(worker.store, lease_worker.definition(6), "text")
    complete, pruned, failed, released, held = (worker.claim() for _ in range(5))
    complete.commit(report=(1, 0.25), user_attributes={"epoch_seconds": [2.0]})
    times = {"epoch_seconds": [2.0, 2.5], "wall_time_seconds": 4.5}
    complete.commit(report=(2, 0.5), user_attributes=times)
    complete.end(TrialState.COMPLETE, value=0.5)
    pruned.commit(report=(1, 0.1))
    pruned.end(TrialState.PRUNED, value=0.1, user_attributes={"pruned": "by median at epoch 1"})
    failed.end(TrialState.FAIL, user_attributes={"failure": {"class": "ValueError", "message": "no luck"}})
    released.commit(report=(1, 0.3), checkpoint="1")
    held.commit(report=(1, 0.4), checkpoint="1")
    released.release()


def dump_sqlite() -> str:
    with tempfile.TemporaryDirectory() as folder:
        with closed_engines():
            fill(f"sqlite:///{folder}/hpo.db")
        with contextlib.closing(sqlite3.connect(f"{folder}/hpo.db")) as connection:
            return "\n".join(connection.iterdump())


def dump_postgres() -> str:
    with postgres.server() as server, postgres.database(server) as url:
        with closed_engines():
            fill(url)
        address = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        command = ["pg_dump", "--inserts", "--no-owner", "--no-privileges", address]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return "\n".join(line for line in done.stdout.splitlines() if line and not line.startswith(LEFT_OUT))


if __name__ == "__main__":
    for kind, text in (("sqlite", dump_sqlite()), ("postgresql", dump_postgres())):
        (Path(sys.argv[1]) / f"{tables.VERSION}-{kind}.sql").write_text(f"{text}\n")
