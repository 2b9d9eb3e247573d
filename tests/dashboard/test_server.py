"""``hpo dashboard`` in a real process and a real browser."""

import contextlib
import http.client
import pickle
import re
import signal
import socket
import sqlite3
import subprocess
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hpo.artifacts.folders import Artifacts
from hpo.dashboard import server
from hpo.dashboard.connections import MAX_WAITING
from hpo.errors import HpoError, StoreError
from hpo.store import studies
from hpo.study.file import load_study_file
from hpo.workers import worker
from tests.support.dashboard_server import SCREENSHOTS, serving
from tests.support.databases import closed_engines
from tests.support.workplace import ROOT

OWN = """
def climb(config, state):
    for epoch in range(1, config.epochs + 1):
        yield epoch / (3 + abs(config.lr - 0.01) + config.batch_size / 64), {"epoch": epoch}
"""

SMALL = """
[train]
objective = "own:climb"
epochs = 1

[search]
sampler = "grid"

[[points]]
lr = 0.1
batch_size = 8
"""

SEARCH = """
[train]
objective = "dashboard_server_objective:climb"
epochs = 2

[space]
lr = { low = 1e-5, high = 1e-1, log = true }
batch_size = [8, 16, 32]

[search]
trials = 8
keep_weights = "all"
sampler = { name = "tpe", seed = 0 }
pruner = { name = "asha", min_epochs = 1 }
"""


class Client:
    """An HTTP client that sends only the headers it is given, and keeps one cookie."""

    def __init__(self, link: str) -> None:
        self.link = link
        self.address = link.partition("//")[2].partition("/")[0]
        self.cookie = ""

    def ask(
        self, method: str, path: str, body: bytes = b"", length: int | None = None, **headers: str
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=30)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            fields = {"Host": self.address, "Cookie": self.cookie, **headers}
            for name, value in fields.items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body) if length is None else length))
            connection.endheaders(body)
            answer = connection.getresponse()
            self.cookie = (answer.getheader("Set-Cookie") or self.cookie).partition(";")[0]
            return answer.status, answer.read()

    def enter(self) -> None:
        assert self.ask("GET", self.link.partition(self.address)[2])[0] == 303


@pytest.fixture
def completed(workplace, url):
    (workplace.path / "own.py").write_text(OWN)
    workplace.here("create", workplace.study(SMALL), HPO_STORE=url)
    workplace.here("worker", "small", HPO_STORE=url)
    return workplace


@pytest.mark.parametrize(
    "url", ["postgresql", pytest.param("sqlite", marks=pytest.mark.slow)], indirect=True
)
def test_the_dashboard_needs_its_link_writes_only_with_read_write_and_stops_on_signals(completed, url, sql):
    with serving(completed, HPO_STORE=url) as (process, link):
        client = Client(link)
        for path in ("/dashboard", "/static/bundle.js", "/api/studies"):
            assert client.ask("GET", path)[0] == 401
        client.enter()
        assert client.ask("GET", "/static/bundle.js")[0] == 200, "also without Accept-Encoding"
        assert b'"small"' in client.ask("GET", "/api/studies")[1]
        assert client.ask("HEAD", "/api/studies") == (200, b"")
        assert client.ask("GET", "/", Host="evil.example")[0] == 403
        assert client.ask("GET", "/", Origin="https://evil.example")[0] == 403
        assert client.ask("POST", "/api/studies", length=2**40)[0] == 413
        assert client.ask("DELETE", "/api/studies/1", b"{}")[0] == 405
        assert sql("SELECT study_name FROM studies") == [("small",)]
        assert stop_dashboard(process, signal.SIGINT) == (130, "", "")
    with serving(completed, "--read-write", HPO_STORE=url) as (process, again):
        assert again.partition("token=")[2] == link.partition("token=")[2], "the token is kept"
        client = Client(again)
        client.enter()
        assert client.ask("DELETE", "/api/studies/1", b"{}")[0] == 204
        assert sql("SELECT study_name FROM studies") == []
        assert stop_dashboard(process, signal.SIGTERM) == (143, "", "")


def stop_dashboard(process: subprocess.Popen[str], number: int) -> tuple[int, str, str]:
    """Send a signal to a dashboard; return its exit code and its output after the link."""
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
def test_clients_that_disconnect_or_hang_do_not_affect_others(completed, url):
    with serving(completed, HPO_STORE=url) as (process, link), contextlib.ExitStack() as hanging:
        client = Client(link)
        client.enter()
        host, _, port = client.address.partition(":")

        def connect(sent: str) -> socket.socket:
            connection = socket.create_connection((host, int(port)), timeout=60)
            connection.sendall(sent.encode())
            return connection

        fields = f"Host: {client.address}\r\nCookie: {client.cookie}\r\n"
        download = f"GET /static/bundle.js HTTP/1.1\r\n{fields}\r\n"
        for _ in range(20):
            with connect(download) as hanging_up:
                hanging_up.recv(1)  # and not the rest of six megabytes
        starts = (
            "",
            "G",
            "\r\n\r\n",
            f"GET /api/studies HTTP/1.1\r\n{fields}",
            f"POST /api/studies HTTP/1.1\r\nHost: {client.address}\r\nContent-Length: 99999\r\n\r\nx",
            f"POST /api/studies HTTP/1.1\r\n{fields}Content-Length: 99999\r\n\r\nx",
        )
        clients = [hanging.enter_context(connect(starts[n % 6])) for n in range(MAX_WAITING + 60)]
        assert client.ask("GET", "/api/studies")[0] == 200
        assert clients[0].recv(1) == b"", "the oldest is closed"
        refused = hanging.enter_context(connect(starts[-1]))
        assert refused.recv(12) == b"HTTP/1.1 405", "an answer does not wait for the body"
        assert client.ask("GET", "/static/bundle.js")[0] == 200
        assert stop_dashboard(process, signal.SIGINT) == (130, "", ""), "no process was replaced"


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_read_only_sqlite_file_is_never_written_whatever_its_journal_and_its_name(
    workplace, tmp_path, journal
):
    (tmp_path / "own.py").write_text(OWN)
    file = tmp_path / "a b%20#{c}?&.db"
    url = sa.URL.create("sqlite", database=str(file)).render_as_string()
    workplace.here("create", workplace.study(SMALL), HPO_STORE=url)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute(f"PRAGMA journal_mode = {journal}").fetchone() == (journal,)
    with closed_engines():
        storage = studies.open_storage(url, create=False, read_only=True)
        storage.max_wait_seconds = 0.0
        assert [study.study_name for study in storage.get_all_studies()] == ["small"]
        for each in (storage, pickle.loads(pickle.dumps(storage))):
            with pytest.raises(StoreError, match="readonly database"):
                each.set_study_user_attr(1, "a", 1)
        workplace.here("enqueue", "small", "lr=1.0", "batch_size=8", HPO_STORE=url)
        assert len(storage.get_all_trials(1)) == 2, "it reads what others have written since"
    with pytest.raises(StoreError, match="no store"):
        studies.open_storage(f"sqlite:///{tmp_path}/absent.db", create=False, read_only=True)
    assert not (tmp_path / "absent.db").exists()


def test_an_error_at_the_start_is_one_line(workplace, tmp_path):
    def refused(*arguments: str, code: int = 1) -> str:
        done = workplace.hpo("dashboard", *arguments, code=code, XDG_STATE_HOME=str(tmp_path / "state"))
        assert done.out == ""
        assert code == 2 or done.err.count("\n") == 1
        return done.err

    assert "no store at sqlite:///storage/hpo.db; --store or HPO_STORE names another" in refused()
    assert not (tmp_path / "storage").exists()
    refused("--port", "70000", code=2)
    (tmp_path / "own.py").write_text(OWN)
    workplace.here("create", workplace.study(SMALL))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "Address already in use; --port 0 takes any free port" in refused("--port", port)


def settings(path: Path, **changes: Any) -> server.Settings:
    """Return settings for an existing store, by default on loopback."""
    with closed_engines():
        studies.open_storage(f"sqlite:///{path}/hpo.db", create=True)
    fields = {"artifacts": "artifacts", "host": "127.0.0.1", "port": 0, "behind_tls": None, **changes}
    return server.Settings(store=f"sqlite:///{path}/hpo.db", read_only=True, **fields)


def test_invalid_settings_are_refused_with_advice(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(HpoError, match=message):
            server.serve(settings(tmp_path, **changes))

    for host in ("0.0.0.0", "::", "192.0.2.1", "hpo.example", ""):
        refused(f"--host {host}: others could read the traffic.*--behind-tls https://NAME", host=host)
    refused("--host 192.0.2.1 --port 0: Cannot assign", host="192.0.2.1", behind_tls="https://hpo.example")
    refused("--host nosuch.invalid --port 0: ", host="nosuch.invalid", behind_tls="https://hpo.example")
    refused("--artifacts nosuch://x", artifacts="nosuch://x")
    for text in (
        "http://hpo.example",
        "hpo.example",
        "https://",
        "https://hpo.example/hpo",
        "https://hpo.example:x",
        "https://me@hpo.example",
        "https://hpo.example?a",
    ):
        refused("want https://NAME or https://NAME:PORT", behind_tls=text)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "hpo.db"))
    refused("the dashboard keeps its token there")


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://hpo.example", "https://hpo.example"),
        ("https://HPO.example:443/", "https://hpo.example"),
        ("https://hpo.example:8443", "https://hpo.example:8443"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]"),
    ],
)
def test_the_public_origin_is_that_of_the_option_behind_tls(text, origin):
    assert server.public_origin(text) == origin


@pytest.fixture
def two_studies(workplace, tmp_path, monkeypatch):
    """Return a workplace with two complete studies: the original's 14 points and a search."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dashboard_server_objective.py").write_text(OWN)
    original = (ROOT / "studies" / "original-grid.toml").read_text()
    points = "[[points]]" + original.partition("[[points]]")[2]
    points = re.sub(r"epochs = \d+", "epochs = 2", points)
    assert len(tomllib.loads(points)["points"]) == 14
    grid = SEARCH.partition("[space]")[0] + '[search]\nsampler = "grid"\n' + points
    with closed_engines():
        storage = studies.open_storage(f"sqlite:///{tmp_path}/storage/hpo.db", create=True)
        worker_settings = worker.WorkerSettings(
            artifacts=Artifacts(f"{tmp_path}/storage/artifacts"),
            data=tmp_path,
            device="cpu",
            shown_as="cpu",
            lease_seconds=60,
        )
        for name, text in (("grid", grid), ("search", SEARCH)):
            workplace.study(text, name)
            studies.create_study(storage, load_study_file(tmp_path / f"{name}.toml"), text)
            list(worker.run_worker(storage, name, worker_settings, threading.Event()))
    return workplace


def test_a_browser_shows_history_and_importance_and_cannot_delete(two_studies, chromium):
    from playwright import sync_api

    SCREENSHOTS.mkdir(exist_ok=True)
    with serving(two_studies) as (_, link):
        base = link.partition("/?")[0]
        page = chromium.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(120_000)  # milliseconds; plots are drawn slowly on a busy machine
        messages: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("response", lambda r: messages.append(f"{r.status} {r.url}") if r.status >= 400 else None)

        def screenshot(name: str) -> None:
            page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

        page.goto(link)
        for name in ("grid", "search"):
            sync_api.expect(page.get_by_text(re.compile(rf"\d\. {name}"))).to_be_visible()
        assert "token" not in page.url
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["value"]) == (
            True,
            "Strict",
            link.partition("token=")[2],
        )
        assert page.evaluate("document.cookie") == ""
        screenshot("studies")
        searched = {
            "grid": ["lr", "batch_size", "model", "optimizer", "momentum"],
            "search": ["lr", "batch_size"],
        }
        for name, parameters in searched.items():
            page.goto(f"{base}/dashboard")
            page.get_by_text(re.compile(rf"\d\. {name}")).click()
            history = card(page, "History")
            sync_api.expect(history.locator(".trace.scatter .point").first).to_be_visible()
            importance = card(page, "Hyperparameter Importance")
            for parameter in parameters:
                sync_api.expect(
                    importance.locator(".ytick text", has_text=re.compile(f"^{parameter}$"))
                ).to_be_visible()
            sync_api.expect(importance.locator(".bars .point")).to_have_count(len(parameters))
            sync_api.expect(
                card(page, "Intermediate values").locator(".trace.scatter").first
            ).to_be_visible()
            screenshot(name)
            study = page.url
            page.goto(f"{study}/analytics")
            sync_api.expect(card(page, "Slice").locator(".trace.scatter").first).to_be_visible()
            sync_api.expect(card(page, "Contour").locator(".contourlayer path").first).to_be_visible()
            screenshot(f"{name}-analytics")
            page.goto(f"{study}/note")
            sync_api.expect(page.get_by_text("dashboard_server_objective:climb")).to_be_visible()
            screenshot(f"{name}-note")
            page.get_by_role("link", name="All studies").click()
            sync_api.expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= 1400
            screenshot(f"{name}-overview")
            page.locator("article", has_text=name).get_by_role("link", name="Report").click()
            sync_api.expect(page.locator(".plot .main-svg").nth(3)).to_be_visible()
            page.goto(f"{study}/trials?numbers=1")
            sync_api.expect(page.get_by_text(re.compile(r"attempts: \d"))).to_be_visible()
            page.get_by_label("show artifact table").first.click()
            sync_api.expect(page.get_by_role("button", name="train_seconds")).to_be_visible()
            screenshot(f"{name}-trial")
        with page.expect_download() as saved:
            page.keyboard.press("Escape")
            page.get_by_label("download artifact").last.click()
        assert saved.value.suggested_filename.startswith("weights-")
        assert saved.value.path().stat().st_size > 0
        assert messages == []

        page.goto(f"{base}/dashboard")
        answer = page.evaluate("fetch('/api/studies/1', {method: 'DELETE'}).then(each => each.json())")
        assert answer["reason"].startswith("this dashboard is read-only; 'hpo dashboard --read-write'")
        page.reload()
        for name in ("grid", "search"):
            sync_api.expect(page.get_by_text(re.compile(rf"\d\. {name}"))).to_be_visible()

        without_cookie = chromium.new_context().new_page()
        assert without_cookie.goto(f"{base}/dashboard").status == 401
        sync_api.expect(
            without_cookie.get_by_text("open the link that 'hpo dashboard' printed")
        ).to_be_visible()


def card(page, title):
    """Return the card of a page with this title, found by the CSS class of the Material UI library."""
    return page.locator(".MuiCard-root", has=page.get_by_text(title, exact=True))
