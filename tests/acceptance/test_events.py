"""What happened to a study with real workers can be told afterwards, from the store alone."""

import os
import signal

import pytest

from tests.support.databases import plain_sql
from tests.support.processes import wait_for

OWN = """
import pathlib
import time


def climb(config, state):
    state = state or {"epoch": 0}
    while state["epoch"] < config.epochs:
        time.sleep(0.05)
        state["epoch"] += 1
        if config.kind == "fragile":
            raise RuntimeError("no such luck")
        while state["epoch"] == 4 and not pathlib.Path("continue").exists():
            time.sleep(0.05)
        yield state["epoch"] / 100, state
"""

STUDY = """
[train]
objective = "own:climb"
epochs = 6

[search]
sampler = "grid"

[[points]]
kind = "patient"

[[points]]
kind = "fragile"
"""


@pytest.fixture
def place(workplace):
    (workplace.path / "own.py").write_text(OWN)
    workplace.study(STUDY)
    return workplace


def told(place, *words: str, **settings: str) -> list[tuple[object, ...]]:
    """Return what ``hpo events`` says: event, trial, attempt and reason of each."""
    found = place.here("events", "small", *words, "--json", **settings).json()
    return [(e["event"], e.get("trial"), e.get("attempt"), e.get("reason", "")) for e in found]


def reported(sql) -> int:
    return sql("SELECT count(*) FROM trial_intermediate_values")[0][0]


def test_events_tell_of_a_killed_worker_an_order_a_failure_and_a_retry(place, url):
    settings = {"HPO_STORE": url}
    place.here("create", "small.toml", **settings)
    sql = plain_sql(url)
    worker = place.start("worker", "small", **settings)
    wait_for(lambda: reported(sql) == 3)
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()
    place.here("pause", "small", **settings)
    place.here("resume", "small", **settings)
    (place.path / "continue").touch()
    place.here("worker", "small", **settings)
    place.here("retry", "small", "--failed", **settings)
    assert told(place, **settings) == [
        ("created", None, None, "2 trials"),
        ("claimed", 0, 1, ""),
        ("died", 0, 1, "its process was gone"),
        ("paused", None, None, ""),
        ("resumed", None, None, ""),
        ("claimed", 0, 2, ""),
        ("complete", 0, 2, ""),
        ("claimed", 1, 1, ""),
        ("failed", 1, 1, "RuntimeError: no such luck"),
        ("retried", 1, None, ""),
    ]
    assert [event for event, *_ in told(place, "--trial", "1", **settings)] == [
        "claimed",
        "failed",
        "retried",
    ]
    shown = place.here("events", "small", **settings).out
    assert f"/{worker.pid}" in next(line for line in shown.splitlines() if "its process was gone" in line)
    trial = place.here("trials", "small", "--trial", "0", **settings).out
    assert "died after epoch 3: its process was gone" in " ".join(trial.split())
    assert "has no trial 9" in place.here("events", "small", "--trial", "9", code=1, **settings).err


def test_a_worker_whose_store_a_newer_version_upgrades_releases_its_trial_and_exits(place, url):
    settings = {"HPO_STORE": url}
    place.here("create", "small.toml", **settings)
    sql = plain_sql(url)
    worker = place.start("worker", "small", **settings)
    wait_for(lambda: reported(sql) == 3)
    sql("UPDATE hpo_schema SET version = 99")
    (place.path / "continue").touch()
    _, err = worker.communicate(timeout=120)
    assert worker.returncode == 78
    assert "a newer hpo has upgraded the store's tables to version 99" in err.splitlines()[-1]
    assert reported(sql) == 3
    assert sql("SELECT owner FROM hpo_leases") == [(None,)]
    assert sql("SELECT outcome FROM hpo_attempts") == [("released",)]
    refused = place.here("status", "small", code=1, **settings).err
    assert refused.count("\n") == 1
    assert "update hpo" in refused
