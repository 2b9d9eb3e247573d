"""The gate before the dashboard, which itself knows neither passwords nor rights.

A request passes, in this order:

1. Its **Host** is a name that we are served under, and its **Origin**, if it tells one, is that same place:
   else 403. That keeps out a page of somebody else's that lets the browser ask for it, also under a name
   which it points at this machine.
2. It carries the **token**, in the link that lets a browser in or in the cookie that the link leaves there:
   else 401, whatever it asks for.
3. Its **body** is no longer than ``BODY_BYTES``, and says so beforehand: else 413, or 411.
4. Its **method** is GET or HEAD, unless the dashboard may change things: else 405.

What comes back can be framed, cached and read by nobody else. Only the dashboard's own pages may run
anything; all else, artifacts above all, is inert even if somebody opens it as a page.
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

MAX_BODY_BYTES = 16 * 2**20  # more than any artifact that one adds by hand
LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?")
COMMON_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PAGE_POLICY = (  # parallel coordinates compile their shaders' code with eval, and styles are made on the fly
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' data: 'unsafe-inline'; "
    "img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
INERT_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"
UNAUTHORIZED_TEXT = (
    "open the link that 'hpo dashboard' printed; if you just did, from another site, reload this page\n"
)
READ_ONLY_TEXT = "this dashboard only shows; 'hpo dashboard --read-write' starts one that also changes\n"


class Gate:
    """A WSGI application before another one; ``origin`` is where browsers find it.

    Where ``origin`` is on loopback, any name of loopback and any port will do: a tunnel may end there.
    """

    def __init__(self, app: App, *, token: str, origin: str, read_only: bool) -> None:
        self.app = app
        self.token = token
        self.read_only = read_only
        where = urllib.parse.urlsplit(origin)
        self.scheme, self.host = where.scheme, where.netloc
        self.local = LOOPBACK.fullmatch(self.host) is not None
        # Cookies know no ports, so the name does. __Host- lets no neighbouring name set it.
        self.cookie = f"hpo-{where.port or 80}" if self.scheme == "http" else "__Host-hpo"

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        """Refuse a request, let its sender in, or pass it on."""
        given = urllib.parse.parse_qs(environ.get("QUERY_STRING", "")).get("token", [])
        if not self._is_known_origin(environ):
            return _answer(environ, start, "403 Forbidden", "the dashboard is not served under that name\n")
        if not any(map(self._is_token, given or self._cookies(environ))):
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
            del environ[name]  # redirects would believe it
        environ.setdefault("HTTP_ACCEPT_ENCODING", "identity")  # without it /static answers 500

        def started(status: str, headers: Headers, *rest: Any) -> Any:
            return start(status, guard_headers(request_path(environ), headers), *rest)

        return self.app(environ, started)

    def _is_known_origin(self, environ: Environ) -> bool:
        host = str(environ.get("HTTP_HOST", "")).lower()
        origin = environ.get("HTTP_ORIGIN")
        known = LOOPBACK.fullmatch(host) is not None if self.local else host == self.host
        return known and origin in (None, f"{self.scheme}://{host}")

    def _cookies(self, environ: Environ) -> list[str]:
        # By hand: the standard library's parser gives up at the first odd cookie of another program's.
        pairs = (each.strip().partition("=") for each in str(environ.get("HTTP_COOKIE", "")).split(";"))
        return [value for name, _, value in pairs if name == self.cookie]

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(errors="replace"), self.token.encode())

    def _refusal(self, environ: Environ) -> tuple[str, str, dict[str, str]] | None:
        """Give status, text and headers of what is wrong with a body or a method."""
        length = environ.get("CONTENT_LENGTH") or "0"
        if "HTTP_TRANSFER_ENCODING" in environ:
            return "411 Length Required", "a body must tell its length\n", {}
        if not re.fullmatch(r"\d{1,18}", length) or int(length) > MAX_BODY_BYTES:
            return "413 Content Too Large", f"at most {MAX_BODY_BYTES} bytes are taken\n", {}
        if self.read_only and environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return "405 Method Not Allowed", READ_ONLY_TEXT, {"Allow": "GET, HEAD"}
        return None


def request_path(environ: Environ) -> str:
    """Give the path that is asked for, as optuna-dashboard reads it."""
    return "/" + str(environ.get("PATH_INFO", "")).lstrip("/")


def guard_headers(path: str, headers: Headers) -> Headers:
    """Give an answer's headers with those that guard it; what is an artifact is saved, never shown."""
    page = path == "/dashboard" or path.startswith("/dashboard/")
    ours = COMMON_HEADERS | {
        "Content-Security-Policy": PAGE_POLICY if page else INERT_POLICY,
        "Cache-Control": "private, no-cache" if path.startswith("/static/") else "no-store",
    }
    names = {name.lower() for name in ours}
    theirs = [(name, value) for name, value in headers if name.lower() not in names]
    theirs = [each for each in theirs if not each[0].lower().startswith("access-control-")]
    if path.startswith("/artifacts/") and all(name.lower() != "content-disposition" for name, _ in theirs):
        ours["Content-Disposition"] = "attachment"
    return [*theirs, *ours.items()]


def _answer(
    environ: Environ, start: Start, status: str, text: str, headers: dict[str, str] | None = None
) -> Iterable[bytes]:
    """Answer at the gate: in JSON where the dashboard's page asks, which shows the reason."""
    asked = request_path(environ).startswith("/api/")
    body = (json.dumps({"reason": text.strip()}) if asked else text).encode()
    kind = "application/json" if asked else "text/plain; charset=utf-8"
    own = {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}
    start(status, guard_headers(request_path(environ), list(own.items())))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
