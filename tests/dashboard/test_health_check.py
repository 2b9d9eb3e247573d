"""/healthz: open to all, and silent about all but whether the store answers."""

import threading

import pytest

from hpo.dashboard import health_check
from hpo.dashboard.health_check import HealthCheck
from hpo.dashboard.server import LazyApp, Settings
from hpo.errors import StoreUnavailable
from hpo.store import studies
from tests.support.wsgi import ask


def refuse_all(_environ, start):
    start("401 Unauthorized", [("Content-Type", "text/plain")])
    return [b"no"]


def settings(url: str) -> Settings:
    return Settings(store=url, artifacts="a", host="::1", port=0, behind_tls=None, read_only=True)


def probe(app, method="GET", path="/healthz"):
    """Ask as a probe does: without a token, and under a name that the gate does not know."""
    answer = ask(app, method, path, HTTP_COOKIE="", HTTP_HOST="10.0.0.7:8080")
    return answer.status, answer.body


def test_a_probe_learns_whether_the_store_answers_and_nothing_else(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(health_check, "CHECK_SECONDS", 0.0)
    app = HealthCheck(refuse_all, LazyApp(settings(url)).ask_store)
    assert probe(app) == (503, b"the store does not answer\n"), "there is no store yet"
    studies.open_storage(url, create=True)
    assert probe(app) == (200, b"ok\n")
    assert probe(app, "HEAD") == (200, b"")


@pytest.mark.parametrize("asked", ["GET /metrics", "POST /healthz", "GET /healthz/"])
def test_everything_else_is_left_to_the_gate(asked):
    assert probe(HealthCheck(refuse_all, lambda: None), *asked.split()) == (401, b"no")


def test_however_many_ask_the_store_is_asked_once():
    asked = []
    app = HealthCheck(refuse_all, lambda: asked.append(1))
    assert [probe(app)[0] for _ in range(20)] == [200] * 20
    assert len(asked) == 1


def test_nobody_waits_for_a_store_that_hangs_and_its_last_answer_ages(monkeypatch):
    monkeypatch.setattr(health_check, "CHECK_SECONDS", 0.0)
    is_asked, may_answer, hangs = threading.Event(), threading.Event(), []

    def ask_store():
        if hangs:
            is_asked.set()
            may_answer.wait()

    app = HealthCheck(refuse_all, ask_store)
    assert probe(app)[0] == 200
    hangs.append(True)
    waiting = threading.Thread(target=probe, args=(app,))
    waiting.start()
    is_asked.wait()
    assert probe(app)[0] == 200
    monkeypatch.setattr(health_check, "FRESH_SECONDS", 0.0)
    assert probe(app)[0] == 503
    may_answer.set()
    waiting.join()


def test_a_store_that_is_away_and_returns_is_told(monkeypatch):
    monkeypatch.setattr(health_check, "CHECK_SECONDS", 0.0)
    is_away = [False, True, False]

    def ask_store():
        if is_away.pop(0):
            raise StoreUnavailable("away")

    app = HealthCheck(refuse_all, ask_store)
    assert [probe(app)[0] for _ in range(3)] == [200, 503, 200]
