"""A real PgBouncer for tests, in transaction mode, from Debian's package."""

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

# The settings of storage/scale.md, except for authentication.
SETTINGS = """\
[databases]
* = host={host} port={port} user={user}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
;; connections to the server, at least two
default_pool_size = {connections}
max_client_conn = 1200
"""


@contextlib.contextmanager
def running(url: str, connections: int) -> Iterator[str]:
    """Run PgBouncer in front of the server of ``url``, with at most ``connections`` to it.

    Yields:
        The URL of the same database through PgBouncer.
    """
    assert COMMAND is not None
    server, port, user = sa.make_url(url), postgres.free_port(), postgres.unprivileged_user()
    with tempfile.TemporaryDirectory(prefix="hpo-pgbouncer-") as folder:
        Path(folder).chmod(0o755)
        settings, log = Path(folder, "pgbouncer.ini"), Path(folder, "log")
        settings.write_text(
            SETTINGS.format(
                host=server.host,
                port=server.port,
                user=server.username,
                listen_port=port,
                connections=connections,
            )
        )
        with log.open("w") as output:
            process = subprocess.Popen([COMMAND, settings], stdout=output, stderr=output, cwd="/", **user)
        try:
            _wait_until_listening(process, port, log)
            yield server.set(port=port).render_as_string(hide_password=False)
        finally:
            process.kill()
            process.wait()


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(500):
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port)):
            return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise RuntimeError(f"pgbouncer: {log.read_text()}")
