"""What a running trial leaves behind, with real processes: reports at once, checkpoints as they are due."""

import contextlib
import sqlite3
import sys
import threading

import optuna
import pytest
import torch

from hpo.artifacts import checkpoint
from hpo.artifacts.folders import Artifacts
from hpo.store import studies
from hpo.training.events import EpochReported, TrialEnded, TrialStarted
from hpo.workers import metrics, recorder, worker
from tests.support import postgres
from tests.support.databases import closed_engines, plain_sql
from tests.support.processes import wait_for
from tests.support.workplace import artifact, load

OWN = """
import time
import torch


def climb(config, state):
    state = state or {"epoch": 0, "weight": torch.zeros(config.numbers)}
    while state["epoch"] < config.epochs:
        time.sleep(config.seconds)
        state["epoch"] += 1
        state["weight"] += 1
        with open("progress", "a") as file:
            print(config.speed, state["epoch"], file=file)
        if config.speed == 13.0 and state["epoch"] == 3:
            raise RuntimeError("no such luck")
        yield 1 - 1 / (1 + state["epoch"] * config.speed), state
"""

STUDY = """
[train]
objective = "own:climb"
epochs = 40
seconds = 0.0
numbers = 10

[search]
sampler = "grid"
"""


def points(*speeds: float) -> str:
    return STUDY + "".join(f"[[points]]\nspeed = {speed}\n" for speed in speeds)


def judged(*speeds: float) -> str:
    """Give points that are pruned after their first epoch where they do worse than the first one."""
    pruner = '{ name = "median", min_epochs = 1, startup_trials = 1 }'
    search = f'sampler = "grid"\nprune_points = true\npruner = {pruner}'
    return points(*speeds).replace('sampler = "grid"', search)


def progress(place) -> list[str]:
    path = place.path / "progress"
    return path.read_text().splitlines() if path.exists() else []


def test_checkpoints_that_would_cost_too_much_are_left_out_and_every_epoch_is_reported(place):
    url = f"sqlite:///{place.path}/storage/hpo.db"
    place.here("create", place.study(points(1.0)), "--set", "train.numbers=10000000")
    with closed_engines():
        sql = plain_sql(url)
        sql("CREATE TABLE log (name TEXT)")
        sql(
            "CREATE TRIGGER log_checkpoint AFTER UPDATE OF checkpoint ON hpo_leases "
            "WHEN NEW.checkpoint IS NOT NULL BEGIN INSERT INTO log VALUES (NEW.checkpoint); END"
        )
        sql("CREATE TABLE alone (name TEXT)")
        sql(
            "CREATE TRIGGER log_alone AFTER UPDATE ON hpo_leases WHEN NEW.checkpoint IS NOT NULL "
            "AND NEW.checkpoint IS NOT OLD.checkpoint AND NEW.epoch = OLD.epoch "
            "BEGIN INSERT INTO alone VALUES (NEW.checkpoint); END"
        )
        place.hpo("worker", "small")
        saved = len(sql("SELECT DISTINCT name FROM log"))
        assert sql("SELECT * FROM alone") == [], "a short epoch's checkpoint shares a report's transaction"
    (trial,) = load(place).trials
    assert sorted(trial.intermediate_values) == list(range(1, 41))
    assert 1 <= saved <= 10
    best = torch.load(artifact(place, trial.user_attrs["weights"]), weights_only=True)
    assert best["weight"][0] == best["epoch"] == trial.user_attrs["best_epoch"] == 40


def test_checkpoints_go_with_the_trial_unless_it_failed(place):
    place.here("create", place.study(points(1.0, 13.0)), "--set", "train.epochs=5")
    place.here("worker", "small")
    complete, failed = load(place).trials
    assert (complete.state.name, failed.state.name) == ("COMPLETE", "FAIL")
    folder = artifact(place, complete.user_attrs["weights"]).parent
    assert complete.user_attrs["checkpoint"] is None
    assert checkpoint.list_checkpoints(folder) == []
    kept = artifact(place, failed.user_attrs["checkpoint"])
    assert checkpoint.load(kept)["epoch"] <= 2
    assert sorted(failed.intermediate_values) == [1, 2]


@pytest.fixture
def work(place, monkeypatch):
    """Give a function that gives the events of a worker in this process, which works while it is asked."""
    monkeypatch.chdir(place.path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    artifacts = Artifacts(f"{place.path}/storage/artifacts")
    settings = worker.WorkerSettings(
        artifacts=artifacts, data=place.path, device="cpu", shown_as="cpu", lease_seconds=60
    )
    sys.modules.pop("own", None)
    with closed_engines():
        url = f"sqlite:///{place.path}/storage/hpo.db"
        yield lambda: worker.run_worker(
            studies.open_storage(url, create=False), "small", settings, threading.Event()
        )
    sys.modules.pop("own", None)


def until(events, epoch: int = 0, state: str = "") -> None:
    """Let a worker work until it reports an epoch, or a trial comes to a state; then it sleeps."""
    for event in events:
        if isinstance(event, EpochReported) and event.epoch.number == epoch:
            return
        if isinstance(event, TrialEnded) and event.state == state:
            return


def names(place, *, attempt: int) -> list[str]:
    """Give the names that the trial has of an attempt's checkpoint and weights; none unless of both."""
    (trial,) = load(place).trials
    found = [trial.user_attrs.get(key, "") for key in ("checkpoint", "weights")]
    return found if all(f"-{attempt:03d}" in name for name in found) else []


def run_out(place) -> None:
    """Let every lease have run out, as of owners that slept."""
    plain_sql(f"sqlite:///{place.path}/storage/hpo.db")("UPDATE hpo_leases SET expires = 1")


def test_a_worker_that_wakes_between_a_commit_and_the_removal_spares_its_successors_files(
    place, work, monkeypatch
):
    asleep, wake = threading.Event(), threading.Event()
    remove_old = recorder.Recorder._remove_old

    def sleep_once(records) -> None:
        if records.claim.token == 1 and "checkpoint" in records._uncommitted_names and not asleep.is_set():
            asleep.set()
            assert wake.wait(60)
        remove_old(records)

    monkeypatch.setattr(recorder.Recorder, "_remove_old", sleep_once)
    place.here("create", place.study(points(1.0)), "--set", "train.epochs=10")
    loser, successor = work(), work()
    until(loser, epoch=2)
    assert asleep.wait(60)
    run_out(place)
    until(successor, epoch=5)
    named = wait_for(lambda: names(place, attempt=2))
    wake.set()
    until(loser, state="lost")
    assert all(artifact(place, name).exists() for name in named)
    until(successor, state="complete")
    (trial,) = load(place).trials
    best = torch.load(artifact(place, trial.user_attrs["weights"]), weights_only=True)
    assert best["epoch"] == trial.user_attrs["best_epoch"] == 10


def test_a_worker_that_wakes_before_its_commit_leaves_its_successors_curves_alone(place, work):
    place.here("create", place.study(points(1.0)), "--set", "train.epochs=5")
    loser, successor = work(), work()
    until(loser, epoch=2)
    wait_for(lambda: len(load(place).trials[0].intermediate_values) == 2)
    run_out(place)
    until(successor, state="complete")
    (curve,) = place.path.glob("storage/artifacts/*/0000/epochs.csv")
    whole = curve.read_text()
    assert len(whole.splitlines()) == 1 + 5
    until(loser, state="lost")
    assert curve.read_text() == whole


def test_an_epoch_whose_worker_dies_before_its_curves_is_in_them_though_its_trial_is_pruned(
    place, work, monkeypatch
):
    asleep, wake = threading.Event(), threading.Event()
    write_csv = metrics.write_csv

    def sleep(folder, history) -> None:
        if folder.name == "0001":
            asleep.set()
            assert wake.wait(60)
        write_csv(folder, history)

    monkeypatch.setattr(metrics, "write_csv", sleep)
    place.here("create", place.study(judged(10.0, 0.1)), "--set", "train.epochs=2")
    dead, successor = work(), work()
    until(dead, state="complete")
    until(dead, epoch=1)
    assert asleep.wait(60)
    run_out(place)
    until(successor, state="pruned")
    (curve,) = place.path.glob("storage/artifacts/*/0001/epochs.csv")
    accuracy = load(place).trials[1].intermediate_values[1]
    assert curve.read_text().splitlines()[1] == f"1,{accuracy},,,,,,,"
    wake.set()
    until(dead, state="lost")


def test_a_trial_that_is_pruned_late_keeps_the_weights_of_an_epoch_that_counts(place, work):
    place.here("create", place.study(judged(10.0, 0.1)), "--set", "train.epochs=5")
    events = work()
    until(events, state="complete")
    assert isinstance(next(events), TrialStarted)
    with contextlib.closing(sqlite3.connect(place.path / "storage/hpo.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        until(events, epoch=2)  # the report of epoch 1 still waits, and so does the save after it
        other.execute("ROLLBACK")
        until(events, state="pruned")
    pruned = load(place).trials[1]
    assert list(pruned.intermediate_values) == [1]
    best = torch.load(artifact(place, pruned.user_attrs["weights"]), weights_only=True)
    assert best["epoch"] == pruned.user_attrs["best_epoch"] == 1


@pytest.fixture
def away(place):
    """A place with a server of its own, which can be stopped."""
    with postgres.running() as server, closed_engines():
        yield server


def test_training_goes_on_while_the_database_is_unavailable_and_reports_arrive_late(place, away):
    place.here("create", place.study(points(1.0)), "--set", "train.seconds=0.1", HPO_STORE=away.url)
    process = place.start("worker", "small", HPO_STORE=away.url)
    wait_for(lambda: len(progress(place)) >= 5)
    away.stop("fast")
    before = len(progress(place))
    wait_for(lambda: len(progress(place)) >= before + 15)
    away.start()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "trying again" in err
    (trial,) = optuna.load_study(study_name="small", storage=away.url).trials
    assert (trial.state.name, trial.user_attrs["attempts"]) == ("COMPLETE", 1)
    assert sorted(trial.intermediate_values) == list(range(1, 41))
    assert len(progress(place)) == 40, "no epoch was run twice"


def test_a_late_pruning_decision_is_followed_and_later_epochs_do_not_count(place, away):
    text = judged(10.0, 0.1) + "seconds = 4.0\n"
    place.here("create", place.study(text), "--set", "train.epochs=5", HPO_STORE=away.url)
    process = place.start("worker", "small", HPO_STORE=away.url)

    def has_begun() -> bool:
        first, second = optuna.load_study(study_name="small", storage=away.url).trials
        return first.state.is_finished() and second.params != {}

    wait_for(has_begun, 90)
    away.stop("fast")  # within the second trial's first epoch
    wait_for(lambda: "0.1 2" in progress(place))
    away.start()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    first, second = optuna.load_study(study_name="small", storage=away.url).trials
    assert (first.state.name, second.state.name) == ("COMPLETE", "PRUNED")
    assert list(second.intermediate_values) == [1]
    assert second.user_attrs["pruned"] == "by median after epoch 1"
    best = torch.load(artifact(place, second.user_attrs["weights"]), weights_only=True)
    assert best["epoch"] == second.user_attrs["best_epoch"] == 1
