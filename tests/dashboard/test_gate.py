"""The gate in front of optuna-dashboard: which requests it lets through, for every route."""

import pytest

from hpo.dashboard import gate
from tests.support.wsgi import HOST, TOKEN, ask, routes

ROUTES = routes()


class RecordingApp:
    """A WSGI application that records the requests that reach it."""

    def __init__(self):
        self.requests = []

    def __call__(self, environ, start):
        self.requests.append(environ)
        start("200 OK", [("Content-Type", "text/html"), ("Access-Control-Allow-Origin", "*")])
        return [b"body"]


@pytest.fixture
def inner():
    return RecordingApp()


@pytest.fixture
def read_only_gate(inner):
    return gate.Gate(inner, token=TOKEN, origin=f"http://{HOST}", read_only=True)


@pytest.fixture
def read_write_gate(inner):
    return gate.Gate(inner, token=TOKEN, origin=f"http://{HOST}", read_only=False)


def test_all_routes_of_the_dashboard_are_tested():
    assert len(ROUTES) == 33
    assert {method for method, _ in ROUTES} == {"GET", "POST", "PUT", "DELETE"}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_route_needs_the_token_an_allowed_host_and_an_allowed_origin(
    read_only_gate, read_write_gate, inner, method, path
):
    for app in (read_only_gate, read_write_gate):
        for cookie in ("", "hpo-8080=", f"hpo-8080={TOKEN[:-1]}", f"hpo-8081={TOKEN}", f"hpo={TOKEN}"):
            assert ask(app, method, path, HTTP_COOKIE=cookie).status == 401
        assert ask(app, method, f"{path}?token={TOKEN}x").status == 401
        for host in ("evil.example", "127.0.0.1.evil.example", f"evil@{HOST}", "localhost:8080@evil", ""):
            assert ask(app, method, path, HTTP_HOST=host).status == 403
            assert ask(app, method, path, HTTP_HOST=host, HTTP_COOKIE="").status == 403, "not 401"
        for origin in ("https://evil.example", "null", "http://127.0.0.1:9999", f"https://{HOST}"):
            assert ask(app, method, path, HTTP_ORIGIN=origin).status == 403
        long = str(gate.MAX_BODY_BYTES + 1)
        for length in (long, "9" * 100):
            assert ask(app, method, path, CONTENT_LENGTH=length).status == 413
        assert ask(app, method, path, CONTENT_LENGTH=long, HTTP_COOKIE="").status == 401
        chunked = ask(app, method, path, CONTENT_LENGTH="", HTTP_TRANSFER_ENCODING="chunked")
        assert chunked.status == 411
    assert inner.requests == []
    assert ask(read_write_gate, method, path, HTTP_ORIGIN=f"http://{HOST}").status == 200
    assert ask(read_only_gate, method, path).status == (200 if method == "GET" else 405)
    assert len(inner.requests) == 1 + (method == "GET")


def test_read_only_allows_head_and_refuses_every_other_method_but_get(read_only_gate, inner):
    assert ask(read_only_gate, "HEAD", "/dashboard").status == 200
    inner.requests.clear()
    for method in ("PATCH", "OPTIONS", "POST", "PUT", "DELETE"):
        refused = ask(read_only_gate, method, "/api/studies")
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
        assert "--read-write" in refused.json()["reason"]
    assert inner.requests == []


def test_the_link_sets_a_cookie_and_redirects_to_a_url_without_the_token(read_only_gate):
    for path in ("/", "/dashboard", "//evil.example/"):
        answer = ask(read_only_gate, "GET", f"{path}?token={TOKEN}", HTTP_COOKIE="")
        assert (answer.status, answer.headers["location"]) == (303, "/dashboard")
        cookie = f"hpo-8080={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
        assert answer.headers["set-cookie"] == cookie
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
    assert ask(read_only_gate, "GET", "/", HTTP_COOKIE="").headers.get("set-cookie") is None


def test_the_cookie_is_found_among_malformed_cookies(read_only_gate):
    odd = f'a=1; {{"b":2}}; =; c="x;y"; hpo-8080=old; hpo-8080={TOKEN}; d'
    assert ask(read_only_gate, "GET", "/dashboard", HTTP_COOKIE=odd).status == 200
    assert ask(read_only_gate, "GET", "/dashboard", HTTP_COOKIE="hpo-8080=\xff\xfe").status == 401


def test_every_name_and_port_of_loopback_is_an_allowed_host(read_only_gate):
    for host in ("localhost", "localhost:9000", "127.0.0.1:9000", "[::1]:8080", "LocalHost:8080"):
        answer = ask(
            read_only_gate, "GET", "/dashboard", HTTP_HOST=host, HTTP_ORIGIN=f"http://{host.lower()}"
        )
        assert answer.status == 200


def test_behind_tls_only_the_public_name_is_allowed_and_the_cookie_is_secure(inner):
    app = gate.Gate(inner, token=TOKEN, origin="https://hpo.example", read_only=True)
    environ = {"HTTP_HOST": "hpo.example", "HTTP_COOKIE": ""}
    answer = ask(app, "GET", f"/?token={TOKEN}", **environ)
    assert answer.headers["set-cookie"] == (
        f"__Host-hpo={TOKEN}; Path=/; HttpOnly; SameSite=Strict; Secure"
    )
    environ["HTTP_COOKIE"] = f"__Host-hpo={TOKEN}"
    forwarded = {"HTTP_X_FORWARDED_HOST": "evil.example", "HTTP_X_FORWARDED_PROTO": "http"}
    assert ask(app, "GET", "/", HTTP_ORIGIN="https://hpo.example", **environ, **forwarded).status == 200
    assert inner.requests[0]["wsgi.url_scheme"] == "https"
    assert not any(name.startswith("HTTP_X_FORWARDED") for name in inner.requests[0])
    for host in ("localhost", HOST, "hpo.example:8080", "hpo.example.evil"):
        assert ask(app, "GET", "/", **{**environ, "HTTP_HOST": host}).status == 403
    assert ask(app, "GET", "/", HTTP_ORIGIN="http://hpo.example", **environ).status == 403


@pytest.mark.parametrize("path", ["/dashboard", "/api/studies", "/static/bundle.js", "/artifacts/1/2/0a"])
@pytest.mark.parametrize("cookie", ["", f"hpo-8080={TOKEN}"])
def test_every_response_has_security_headers(read_only_gate, path, cookie):
    headers = ask(read_only_gate, "GET", path, HTTP_COOKIE=cookie).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
    policy = headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert ("sandbox" in policy) == (path != "/dashboard")
    assert headers["cache-control"] == ("private, no-cache" if "static" in path else "no-store")
    assert headers.get("content-disposition") == ("attachment" if "artifacts" in path else None)


def test_an_artifact_is_sandboxed_for_every_spelling_of_its_path(read_only_gate):
    for path in ("//artifacts/1/2/0a", "/artifacts/1/2/0a/", "/dashboard/../artifacts/1", "/Artifacts/1"):
        headers = ask(read_only_gate, "GET", path).headers
        inert = "sandbox" in headers["content-security-policy"]
        assert inert or path.startswith("/dashboard/"), path


def test_a_request_without_accept_encoding_gets_identity(read_only_gate, inner):
    ask(read_only_gate, "GET", "/static/bundle.js")
    ask(read_only_gate, "GET", "/static/bundle.js", HTTP_ACCEPT_ENCODING="gzip")
    assert [request["HTTP_ACCEPT_ENCODING"] for request in inner.requests] == ["identity", "gzip"]


def test_a_refused_head_request_has_no_body(read_only_gate):
    assert ask(read_only_gate, "HEAD", "/", HTTP_COOKIE="").body == b""
