"""A real PgBouncer for tests, in transaction mode, as Debian packages it."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from tests.support import postgres

COMMAND = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

# What storage/scale.md tells people to write, but for who gets in.
SETTINGS = """\
[databases]
* = host={host} port={port} user={user}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listens}
unix_socket_dir =
auth_type = any
pool_mode = transaction
;; connections to the server, two at least
default_pool_size = {connections}
max_client_conn = 500
"""


@contextlib.contextmanager
def running(url: str, connections: int) -> Iterator[str]:
    """Run one before the server at a URL, with so many connections to it; give the URL through it."""
    assert COMMAND is not None
    to, listens, who = sa.make_url(url), postgres.free_port(), postgres.unprivileged()
    with tempfile.TemporaryDirectory(prefix="hpo-pgbouncer-") as folder:
        Path(folder).chmod(0o755)
        settings, log = Path(folder, "pgbouncer.ini"), Path(folder, "log")
        settings.write_text(
            SETTINGS.format(
                host=to.host, port=to.port, user=to.username, listens=listens, connections=connections
            )
        )
        with log.open("w") as said:
            process = subprocess.Popen([COMMAND, settings], stdout=said, stderr=said, cwd="/", **who)
        try:
            _wait_for(process, listens, log)
            yield to.set(port=listens).render_as_string(hide_password=False)
        finally:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(500):
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port)):
            return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise RuntimeError(f"pgbouncer: {log.read_text()}")
