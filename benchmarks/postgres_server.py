"""What a Postgres server uses while a benchmark runs: sessions, CPU time, disk."""

import contextlib
import os
from pathlib import Path
from typing import Any

import psycopg

SECONDS_PER_TICK = 1 / os.sysconf("SC_CLK_TCK")


class Server:
    """A Postgres database and its server, observed from outside."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        (backend,) = self.query("SELECT pg_backend_pid()")[0]
        self.postmaster = _read_stat(backend)[1]

    def query(self, text: str) -> list[tuple[Any, ...]]:
        """Run a query and return its rows."""
        return self.connection.execute(text).fetchall()

    def sessions(self) -> tuple[int, int]:
        """Return the number of other sessions of the database, and how many of them wait for a lock."""
        text = "SELECT count(*) - 1, count(*) FILTER (WHERE wait_event_type = 'Lock') FROM pg_stat_activity"
        text += " WHERE datname = current_database() AND backend_type = 'client backend'"
        return self.query(text)[0]

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all the server's processes, including those that have ended."""
        used = 0.0
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                pid, parent, ticks, children = _read_stat(int(folder.name))
                used += ticks if parent == self.postmaster else 0
                used += ticks + children if pid == self.postmaster else 0
        return used * SECONDS_PER_TICK

    def table_bytes(self) -> dict[str, int]:
        """Return the size of each table with its indexes."""
        text = "SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relkind = 'r'"
        return dict(self.query(f"{text} AND relnamespace = 'public'::regnamespace"))


def _read_stat(pid: int) -> tuple[int, int, int, int]:
    """Return a process id, its parent's, and the CPU ticks of the process and of its reaped children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, of_children, system_of_children = map(int, fields[11:15])
    return pid, int(fields[1]), user + system, of_children + system_of_children
