"""The gate before the dashboard: for every route that optuna-dashboard has, who and what comes through."""

import pytest

from hpo.dashboard import gate
from tests.support.wsgi import HOST, TOKEN, ask, routes

ROUTES = routes()


class Behind:
    """An application that says what reached it."""

    def __init__(self):
        self.reached = []

    def __call__(self, environ, start):
        self.reached.append(environ)
        start("200 OK", [("Content-Type", "text/html"), ("Access-Control-Allow-Origin", "*")])
        return [b"behind"]


@pytest.fixture
def behind():
    return Behind()


@pytest.fixture
def closed(behind):
    return gate.Gate(behind, token=TOKEN, origin=f"http://{HOST}", read_only=True)


@pytest.fixture
def open_(behind):
    return gate.Gate(behind, token=TOKEN, origin=f"http://{HOST}", read_only=False)


def test_all_routes_of_the_dashboard_are_covered():
    assert len(ROUTES) == 33
    assert {method for method, _ in ROUTES} == {"GET", "POST", "PUT", "DELETE"}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_route_is_for_those_who_come_with_the_token_to_the_right_door(
    closed, open_, behind, method, path
):
    for door in (closed, open_):
        for cookie in ("", "hpo-8080=", f"hpo-8080={TOKEN[:-1]}", f"hpo-8081={TOKEN}", f"hpo={TOKEN}"):
            assert ask(door, method, path, HTTP_COOKIE=cookie).status == 401
        assert ask(door, method, f"{path}?token={TOKEN}x").status == 401
        for host in ("evil.example", "127.0.0.1.evil.example", f"evil@{HOST}", "localhost:8080@evil", ""):
            assert ask(door, method, path, HTTP_HOST=host).status == 403
            assert ask(door, method, path, HTTP_HOST=host, HTTP_COOKIE="").status == 403, "not 401"
        for origin in ("https://evil.example", "null", "http://127.0.0.1:9999", f"https://{HOST}"):
            assert ask(door, method, path, HTTP_ORIGIN=origin).status == 403
        long = str(gate.MAX_BODY_BYTES + 1)
        for length in (long, "9" * 100):
            assert ask(door, method, path, CONTENT_LENGTH=length).status == 413
        assert ask(door, method, path, CONTENT_LENGTH=long, HTTP_COOKIE="").status == 401
        chunked = ask(door, method, path, CONTENT_LENGTH="", HTTP_TRANSFER_ENCODING="chunked")
        assert chunked.status == 411
    assert behind.reached == []
    assert ask(open_, method, path, HTTP_ORIGIN=f"http://{HOST}").status == 200
    assert ask(closed, method, path).status == (200 if method == "GET" else 405)
    assert len(behind.reached) == 1 + (method == "GET")


def test_read_only_lets_head_pass_and_no_other_method_whatever_its_name(closed, behind):
    assert ask(closed, "HEAD", "/dashboard").status == 200
    behind.reached.clear()
    for method in ("PATCH", "OPTIONS", "POST", "PUT", "DELETE"):
        refused = ask(closed, method, "/api/studies")
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
        assert "--read-write" in refused.json()["reason"]
    assert behind.reached == []


def test_the_link_leaves_a_cookie_and_sends_the_browser_on_without_the_token(closed):
    for path in ("/", "/dashboard", "//evil.example/"):
        let_in = ask(closed, "GET", f"{path}?token={TOKEN}", HTTP_COOKIE="")
        assert (let_in.status, let_in.headers["location"]) == (303, "/dashboard")
        cookie = f"hpo-8080={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
        assert let_in.headers["set-cookie"] == cookie
        assert let_in.headers["referrer-policy"] == "no-referrer"
        assert let_in.headers["cache-control"] == "no-store"
    assert ask(closed, "GET", "/", HTTP_COOKIE="").headers.get("set-cookie") is None


def test_the_cookie_is_found_among_odd_ones_of_other_programs(closed):
    odd = f'a=1; {{"b":2}}; =; c="x;y"; hpo-8080=old; hpo-8080={TOKEN}; d'
    assert ask(closed, "GET", "/dashboard", HTTP_COOKIE=odd).status == 200
    assert ask(closed, "GET", "/dashboard", HTTP_COOKIE="hpo-8080=\xff\xfe").status == 401


def test_a_tunnel_may_end_at_any_name_and_port_of_loopback(closed):
    for host in ("localhost", "localhost:9000", "127.0.0.1:9000", "[::1]:8080", "LocalHost:8080"):
        asked = ask(closed, "GET", "/dashboard", HTTP_HOST=host, HTTP_ORIGIN=f"http://{host.lower()}")
        assert asked.status == 200


def test_behind_tls_the_one_name_counts_and_the_cookie_wants_tls(behind):
    door = gate.Gate(behind, token=TOKEN, origin="https://hpo.example", read_only=True)
    there = {"HTTP_HOST": "hpo.example", "HTTP_COOKIE": ""}
    let_in = ask(door, "GET", f"/?token={TOKEN}", **there)
    assert let_in.headers["set-cookie"] == (
        f"__Host-hpo={TOKEN}; Path=/; HttpOnly; SameSite=Strict; Secure"
    )
    there["HTTP_COOKIE"] = f"__Host-hpo={TOKEN}"
    forwarded = {"HTTP_X_FORWARDED_HOST": "evil.example", "HTTP_X_FORWARDED_PROTO": "http"}
    assert ask(door, "GET", "/", HTTP_ORIGIN="https://hpo.example", **there, **forwarded).status == 200
    assert behind.reached[0]["wsgi.url_scheme"] == "https"
    assert not any(name.startswith("HTTP_X_FORWARDED") for name in behind.reached[0])
    for host in ("localhost", HOST, "hpo.example:8080", "hpo.example.evil"):
        assert ask(door, "GET", "/", **{**there, "HTTP_HOST": host}).status == 403
    assert ask(door, "GET", "/", HTTP_ORIGIN="http://hpo.example", **there).status == 403


@pytest.mark.parametrize("path", ["/dashboard", "/api/studies", "/static/bundle.js", "/artifacts/1/2/0a"])
@pytest.mark.parametrize("cookie", ["", f"hpo-8080={TOKEN}"])
def test_every_answer_is_guarded(closed, path, cookie):
    given = ask(closed, "GET", path, HTTP_COOKIE=cookie).headers
    assert given["x-content-type-options"] == "nosniff"
    assert given["x-frame-options"] == "DENY"
    assert given["referrer-policy"] == "no-referrer"
    assert given["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in given
    policy = given["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert ("sandbox" in policy) == (path != "/dashboard")
    assert given["cache-control"] == ("private, no-cache" if "static" in path else "no-store")
    assert given.get("content-disposition") == ("attachment" if "artifacts" in path else None)


def test_an_artifact_stays_inert_however_its_path_is_written(closed):
    for path in ("//artifacts/1/2/0a", "/artifacts/1/2/0a/", "/dashboard/../artifacts/1", "/Artifacts/1"):
        given = ask(closed, "GET", path).headers
        inert = "sandbox" in given["content-security-policy"]
        assert inert or path.startswith("/dashboard/"), path


def test_a_request_that_accepts_no_encoding_still_tells_one(closed, behind):
    ask(closed, "GET", "/static/bundle.js")
    ask(closed, "GET", "/static/bundle.js", HTTP_ACCEPT_ENCODING="gzip")
    assert [asked["HTTP_ACCEPT_ENCODING"] for asked in behind.reached] == ["identity", "gzip"]


def test_a_refusal_of_a_head_request_has_no_body(closed):
    assert ask(closed, "HEAD", "/", HTTP_COOKIE="").body == b""
