"""The gate in front of the dashboard, which itself has neither passwords nor permissions.

A request must pass these checks, in this order:

1. **Host** is a name that the dashboard is served under, and **Origin**, if present, is the same place;
   else 403. This keeps out requests that a foreign page makes the browser send, even if that page uses a
   host name that it points to this machine (DNS rebinding).
2. The **token** is in the link, in the cookie that the link sets, or in ``Authorization: Bearer``, as
   programs send it; else 401, whatever the request is. In a link that has a token only that one counts.
3. The **body** has at most ``MAX_BODY_BYTES`` and comes without Transfer-Encoding; else 413 or 411.
4. The **method** is GET or HEAD, unless the dashboard is read-write; else 405. Which changes a read-write
   dashboard allows is in ``changes``.

Headers of each response forbid other sites to frame it or read it, and shared caches to store it. Only the
dashboard's own pages and reports may run scripts, and those of a report cannot use the cookie. Everything
else, above all artifacts, stays inert even if somebody opens it as a page.
"""

import hmac
import json
import re
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any

Environ = dict[str, Any]
Start = Callable[..., Any]
Headers = list[tuple[str, str]]
App = Callable[[Environ, Start], Iterable[bytes]]

MAX_BODY_BYTES = 16 * 2**20  # more than any artifact uploaded by hand
LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?")
COMMON_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PAGE_POLICY = (  # the parallel plot compiles shaders with eval; styles are created at run time
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' data: 'unsafe-inline'; "
    "img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
OVERVIEW_PATH, REPORT_PATH = "/overview", "/report/"
OVERVIEW_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
REPORT_POLICY = (  # its scripts run as those of nobody: they cannot use the cookie
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "frame-ancestors 'none'; sandbox allow-scripts allow-downloads allow-modals"
)
INERT_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"
UNAUTHORIZED_TEXT = (
    "open the link that 'hpo dashboard' printed; if you came from another site, reload this page\n"
)
READ_ONLY_TEXT = (
    "this dashboard is read-only; 'hpo dashboard --read-write' starts one that can change things\n"
)


class Gate:
    """A WSGI application that guards another one.

    Args:
        app: The application to guard.
        token: The secret that a request must carry.
        origin: Scheme, host and port under which browsers reach the gate. If the host is a loopback
            address, any loopback name and any port are accepted, since a tunnel may end there.
        read_only: Whether to refuse all methods but GET and HEAD.
    """

    def __init__(self, app: App, *, token: str, origin: str, read_only: bool) -> None:
        self.app = app
        self.token = token
        self.read_only = read_only
        where = urllib.parse.urlsplit(origin)
        self.scheme, self.host = where.scheme, where.netloc
        self.local = LOOPBACK.fullmatch(self.host) is not None
        # Cookies are shared between ports, so the name contains the port. With the prefix __Host-, no
        # other subdomain can set the cookie.
        self.cookie = f"hpo-{where.port or 80}" if self.scheme == "http" else "__Host-hpo"

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        """Refuse a request, set the cookie and redirect (303), or forward the request.

        Every request with the token in its link is redirected to ``/dashboard``. A refusal is JSON below
        ``/api/`` and plain text elsewhere. What the guarded application raises comes out.

        Args:
            environ: The WSGI environment of the request; its X-Forwarded headers are removed.
            start: The WSGI function that takes status and headers.
        """
        given = urllib.parse.parse_qs(environ.get("QUERY_STRING", "")).get("token", [])
        if not self._is_known_origin(environ):
            return _answer(environ, start, "403 Forbidden", "the dashboard is not served under this name\n")
        if not any(map(self._is_token, given or [*self._cookies(environ), _bearer(environ)])):
            return _answer(environ, start, "401 Unauthorized", UNAUTHORIZED_TEXT)
        if refusal := self._refusal(environ):
            return _answer(environ, start, *refusal)
        if given:
            secure = "; Secure" if self.scheme == "https" else ""
            cookie = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict{secure}"
            headers = {"Location": "/dashboard", "Set-Cookie": cookie}
            return _answer(environ, start, "303 See Other", "", headers)
        return self._forward(environ, start)

    def _forward(self, environ: Environ, start: Start) -> Iterable[bytes]:
        environ["wsgi.url_scheme"] = self.scheme
        for name in [name for name in environ if name.startswith("HTTP_X_FORWARDED_")]:
            del environ[name]  # else redirects would trust it
        environ.setdefault("HTTP_ACCEPT_ENCODING", "identity")  # without it, /static fails with status 500

        def started(status: str, headers: Headers, *rest: Any) -> Any:
            return start(status, guard_headers(request_path(environ), headers), *rest)

        return self.app(environ, started)

    def _is_known_origin(self, environ: Environ) -> bool:
        host = str(environ.get("HTTP_HOST", "")).lower()
        origin = environ.get("HTTP_ORIGIN")
        known = LOOPBACK.fullmatch(host) is not None if self.local else host == self.host
        return known and origin in (None, f"{self.scheme}://{host}")

    def _cookies(self, environ: Environ) -> list[str]:
        # Not http.cookies: its parser stops at the first malformed cookie of another program.
        cookies = (each.strip().partition("=") for each in str(environ.get("HTTP_COOKIE", "")).split(";"))
        return [value for name, _, value in cookies if name == self.cookie]

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(errors="replace"), self.token.encode())

    def _refusal(self, environ: Environ) -> tuple[str, str, dict[str, str]] | None:
        """Return status, text and headers of the refusal of a body or method; None if both are allowed."""
        length = environ.get("CONTENT_LENGTH") or "0"
        if "HTTP_TRANSFER_ENCODING" in environ:
            return "411 Length Required", "the request must declare its length in Content-Length\n", {}
        if not re.fullmatch(r"\d{1,18}", length) or int(length) > MAX_BODY_BYTES:
            return "413 Content Too Large", f"a request may have at most {MAX_BODY_BYTES} bytes\n", {}
        if self.read_only and environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return "405 Method Not Allowed", READ_ONLY_TEXT, {"Allow": "GET, HEAD"}
        return None


def _bearer(environ: Environ) -> str:
    scheme, _, token = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def request_path(environ: Environ) -> str:
    """Return the path of a request as optuna-dashboard reads it: with exactly one leading slash."""
    return "/" + str(environ.get("PATH_INFO", "")).lstrip("/")


def guard_headers(path: str, headers: Headers) -> Headers:
    """Return the headers of a response with security headers added.

    Ours replace headers of the same name; CORS headers are removed. An artifact is sent as a download, not
    to be shown, unless the application itself says how to handle it.

    Args:
        path: The requested path.
        headers: The headers of the guarded application.
    """
    ours = COMMON_HEADERS | {
        "Content-Security-Policy": _policy(path),
        "Cache-Control": "private, no-cache" if path.startswith("/static/") else "no-store",
    }
    names = {name.lower() for name in ours}
    theirs = [(name, value) for name, value in headers if name.lower() not in names]
    theirs = [each for each in theirs if not each[0].lower().startswith("access-control-")]
    if path.startswith("/artifacts/") and all(name.lower() != "content-disposition" for name, _ in theirs):
        ours["Content-Disposition"] = "attachment"
    return [*theirs, *ours.items()]


def _policy(path: str) -> str:
    """Return what a browser may do with a response."""
    if path == "/dashboard" or path.startswith("/dashboard/"):
        return PAGE_POLICY
    if path == OVERVIEW_PATH:
        return OVERVIEW_POLICY
    return REPORT_POLICY if path.startswith(REPORT_PATH) else INERT_POLICY


def _answer(
    environ: Environ, start: Start, status: str, text: str, headers: dict[str, str] | None = None
) -> Iterable[bytes]:
    """Respond from the gate: as JSON to the dashboard's page, which shows the reason, else as text."""
    asked = request_path(environ).startswith("/api/")
    body = (json.dumps({"reason": text.strip()}) if asked else text).encode()
    kind = "application/json" if asked else "text/plain; charset=utf-8"
    own = {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}
    start(status, guard_headers(request_path(environ), list(own.items())))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
