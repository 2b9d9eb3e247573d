"""``/healthz``: whether the store answers, for probes. It needs no token, so it tells nothing else.

Whoever reaches the port may ask, as often as they like. So the store is asked once in ``CHECK_SECONDS`` at
most, and by one request at a time; the others get the last answer at once, while it is fresh.
"""

import threading
import time
from collections.abc import Callable, Iterable

from hpo.dashboard.gate import App, Environ, Start, guard_headers, request_path
from hpo.errors import HpoError

HEALTH_PATH = "/healthz"
CHECK_SECONDS = 2.0
FRESH_SECONDS = 10.0  # for which an answer holds, should the next one not come


class HealthCheck:
    """A WSGI application that answers ``/healthz`` with 200 or 503, and leaves the rest to another one.

    Args:
        app: The other application.
        ask_store: Returns if the store answers, else raises HpoError.
    """

    def __init__(self, app: App, ask_store: Callable[[], object]) -> None:
        self.app = app
        self._ask_store = ask_store
        self._asking = threading.Lock()
        self._is_healthy, self._asked_at = False, float("-inf")

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        """Answer a request, as WSGI has it."""
        path = request_path(environ)
        if path != HEALTH_PATH or environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return self.app(environ, start)
        is_healthy = self._check()
        body = b"ok\n" if is_healthy else b"the store does not answer\n"
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        start("200 OK" if is_healthy else "503 Service Unavailable", guard_headers(path, headers))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _check(self) -> bool:
        """Return whether the store answers, as it was asked now or just before."""
        if time.monotonic() - self._asked_at >= CHECK_SECONDS and self._asking.acquire(blocking=False):
            try:
                self._ask_store()
                self._is_healthy = True
            except HpoError:
                self._is_healthy = False
            finally:
                self._asked_at = time.monotonic()
                self._asking.release()
        return self._is_healthy and time.monotonic() - self._asked_at < FRESH_SECONDS
