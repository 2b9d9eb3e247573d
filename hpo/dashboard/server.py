"""Serve the dashboard with gunicorn until SIGINT or SIGTERM.

The parent process binds the socket, so that a host or port that cannot be used is reported at once, and
keeps the number of the signal that ends it. One child process with several threads serves requests
(``connections``); it opens the store itself, since database connections must not cross a fork.
"""

import ipaddress
import json
import os
import signal
import socket
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from hpo.artifacts.folders import Artifacts
from hpo.dashboard.app import DashboardApp
from hpo.dashboard.connections import MAX_CONNECTIONS, Worker
from hpo.dashboard.gate import App, Environ, Gate, Start
from hpo.dashboard.health_check import HealthCheck
from hpo.dashboard.token import load_token
from hpo.errors import DashboardError, StoreError
from hpo.store import studies

THREADS = 16  # simultaneous requests; a page sends about six, and each long download takes one
GRACEFUL_EXIT_SECONDS = 5  # after which gunicorn kills a child that has not exited


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to serve, and how: the options of ``hpo dashboard``."""

    store: str
    artifacts: str
    host: str
    port: int  # 0: any free port
    behind_tls: str | None  # public URL, if a TLS proxy is in front
    read_only: bool


def serve(settings: Settings) -> int:
    """Serve the dashboard until SIGINT or SIGTERM; once ready, print the link that contains the token.

    This process ignores SIGPIPE from then on. The token's file is made if it is missing. While the store is
    unavailable, requests are answered with 503.

    Args:
        settings: The options of ``hpo dashboard``.

    Returns:
        The exit code: 128 plus the number of the signal; gunicorn's own if it ended without one of them.

    Raises:
        DashboardError: The host is not of this machine alone and there is no TLS proxy, its URL is wrong,
            the host or port cannot be used, or the token's file cannot be read or written.
        StoreUnavailable: The store cannot be reached at the start.
        StoreError: There is no store, or it cannot be opened.
        ArtifactError: The URL of the artifacts is not supported, or their storage rejects it.
    """
    origin = _origin(settings)
    studies.open_storage(settings.store, create=False, read_only=settings.read_only).engine.dispose()
    Artifacts(settings.artifacts)
    token = load_token()
    with _open_listener(settings) as listener:
        address, port = listener.getsockname()[:2]
        name = f"[{address}]" if ":" in address else address
        origin = origin or f"http://{name}:{port}"
        app = LazyApp(settings)
        gate = Gate(app, token=token, origin=origin, read_only=settings.read_only)
        # Undo the command's setting for pipes: a browser that disconnects must not end the server.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        return _Server(HealthCheck(gate, app.ask_store), listener, f"{origin}/?token={token}").serve()


def _origin(settings: Settings) -> str | None:
    """Return the public origin behind a TLS proxy, None on loopback; refuse other hosts without TLS."""
    if settings.behind_tls is not None:
        return public_origin(settings.behind_tls)
    if _is_loopback(settings.host):
        return None
    raise DashboardError(
        f"--host {settings.host}: others could read the traffic; without TLS, only 127.0.0.1, ::1 and "
        "localhost are allowed; if a TLS proxy is in front, give its URL: --behind-tls https://NAME"
    )


def public_origin(text: str) -> str:
    """Return the URL of a TLS proxy in the form in which browsers send it as Origin.

    Args:
        text: The value of --behind-tls: https://NAME or https://NAME:PORT.

    Returns:
        ``https://name``, in lower case, with the port unless it is 443.

    Raises:
        DashboardError: The text is no such URL.
    """
    try:
        found = urllib.parse.urlsplit(text)
        name, port = found.hostname, found.port
    except ValueError:
        name = port = None
    else:
        if found.scheme != "https" or found.path not in ("", "/") or set("@?#") & set(text):
            name = None
    if name is None:
        raise DashboardError(f"--behind-tls {text}: want https://NAME or https://NAME:PORT, without a path")
    shown = f"[{name}]" if ":" in name else name
    return f"https://{shown}" if port in (None, 443) else f"https://{shown}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _open_listener(settings: Settings) -> socket.socket:
    host, port = settings.host, settings.port
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return _bind(socket.socket(family, kind), address)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DashboardError(f"--host {host} --port {port}: {why}; --port 0 takes any free port") from error


def _bind(listener: socket.socket, address: Any) -> socket.socket:
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(64)
    except BaseException:
        listener.close()
        raise
    return listener


class LazyApp:
    """The dashboard's application, created at the first request; 503 if a request raises StoreError."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.app: DashboardApp | None = None

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        """Answer a request, as WSGI has it."""
        try:
            return (self.app or self._open())(environ, start)
        except StoreError as error:
            body = json.dumps({"reason": str(error)}).encode()
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
            start("503 Service Unavailable", headers)
            return [body]

    def ask_store(self) -> None:
        """Return if the store answers.

        Raises:
            StoreError: It does not.
        """
        studies.study_names((self.app or self._open()).storage)

    def _open(self) -> DashboardApp:
        storage = studies.open_storage(self.settings.store, create=False, read_only=self.settings.read_only)
        self.app = DashboardApp(storage, Artifacts(self.settings.artifacts))
        return self.app


class _Server(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn with one child process of several threads, on a socket that already listens."""

    def __init__(self, app: App, listener: socket.socket, link: str) -> None:
        self.app = app
        self.settings = {
            # gunicorn closes its own copy of the socket.
            "bind": f"fd://{listener.dup().detach()}",
            "worker_class": Worker,
            "threads": THREADS,
            "worker_connections": MAX_CONNECTIONS,
            "keepalive": 0,  # one request per connection: see hpo/dashboard/connections.py
            "graceful_timeout": GRACEFUL_EXIT_SECONDS,
            "post_worker_init": _exit_on_signal,
            "forwarded_allow_ips": "",  # trust no proxy headers about client and scheme
            "control_socket_disable": True,
            "loglevel": "warning",
            "when_ready": lambda _: print(link, flush=True),
        }
        super().__init__()

    def load_config(self) -> None:
        for name, value in self.settings.items():
            self.cfg.set(name, value)

    def load(self) -> App:
        return self.app

    def serve(self) -> int:
        """Serve until a signal and return 128 plus its number."""
        arbiter = _Arbiter(self)
        try:
            arbiter.run()
        except SystemExit as left:
            return 128 + arbiter.stop_signal if arbiter.stop_signal else int(left.code or 0)
        return 0


def _exit_on_signal(_: object) -> None:
    """Make gunicorn's child process exit at once on a signal, even during a request.

    gunicorn's own handler takes a lock of the thread pool. The interrupted main thread may itself hold that
    lock, as it does for each new connection; then only SIGKILL would end the process.
    """
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda *_: os._exit(0))


class _Arbiter(Arbiter):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's parent process; it remembers the signal that ended it."""

    stop_signal = 0

    def signal(self, sig: int, frame: object) -> None:
        if sig in (signal.SIGINT, signal.SIGTERM):
            self.stop_signal = sig
        super().signal(sig, frame)

    handle_term = Arbiter.handle_int  # no request needs to be finished
