"""What a running trial stores, with real processes: reports at once, checkpoints when they are due."""

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
from hpo.workers import metrics, worker
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


def prunable_points(*speeds: float) -> str:
    """Return points that are pruned after their first epoch if they do worse than the first point."""
    pruner = '{ name = "median", min_epochs = 1, startup_trials = 1 }'
    search = f'sampler = "grid"\nprune_points = true\npruner = {pruner}'
    return points(*speeds).replace('sampler = "grid"', search)


def progress(place) -> list[str]:
    path = place.path / "progress"
    return path.read_text().splitlines() if path.exists() else []


def test_checkpoints_that_cost_too_much_are_skipped_and_every_epoch_is_reported(place):
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
        place.here("worker", "small")
        saved = len(sql("SELECT DISTINCT name FROM log"))
        assert sql("SELECT * FROM alone") == [], "a short epoch's checkpoint shares a report's transaction"
    (trial,) = load(place).trials
    assert sorted(trial.intermediate_values) == list(range(1, 41))
    assert 1 <= saved <= 10
    best = torch.load(artifact(place, trial.user_attrs["weights"]), weights_only=True)
    assert best["weight"][0] == best["epoch"] == trial.user_attrs["best_epoch"] == 40


def test_checkpoints_are_removed_at_the_end_of_a_trial_unless_it_failed(place):
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
def start_worker(place, monkeypatch):
    """Return a function that starts a worker in this process; it runs while its events are read."""
    monkeypatch.chdir(place.path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    artifacts = Artifacts(f"{place.path}/storage/artifacts")
    settings = worker.WorkerSettings(
        artifacts=artifacts, data=place.path, device="cpu", shown_as="cpu", lease_seconds=60
    )
    with closed_engines(), contextlib.ExitStack() as started:
        url = f"sqlite:///{place.path}/storage/hpo.db"

        def start():
            storage = studies.open_storage(url, create=False)
            events = worker.run_worker(storage, "small", settings, threading.Event())
            # Its cleanup restores the number of threads, which must not happen in another test.
            started.callback(events.close)
            return events

        yield start


def run_until(events, epoch: int = 0, state: str = "") -> None:
    """Run a worker until it reports an epoch, or a trial reaches a state; then it is suspended."""
    for event in events:
        if isinstance(event, EpochReported) and event.epoch.number == epoch:
            return
        if isinstance(event, TrialEnded) and event.state == state:
            return


def file_names(place, *, attempt: int) -> list[str]:
    """Return the stored names of an attempt's checkpoint and weights, or none if one of them is missing."""
    (trial,) = load(place).trials
    found = [trial.user_attrs.get(key, "") for key in ("checkpoint", "weights")]
    return found if all(f"-{attempt:03d}" in name for name in found) else []


def expire_leases(place) -> None:
    """Make every lease expire, as if its owner had been suspended."""
    plain_sql(f"sqlite:///{place.path}/storage/hpo.db")("UPDATE hpo_leases SET expires = 1")


def test_a_worker_resumed_between_commit_and_removal_keeps_its_successors_files(
    place, start_worker, monkeypatch
):
    suspended, resume = threading.Event(), threading.Event()
    prune = checkpoint.prune

    def suspend_once(folder, name) -> None:
        if "-001" in name and not suspended.is_set():
            suspended.set()
            assert resume.wait(60)
        prune(folder, name)

    monkeypatch.setattr(checkpoint, "prune", suspend_once)
    place.here("create", place.study(points(1.0)), "--set", "train.epochs=10")
    loser, successor = start_worker(), start_worker()
    run_until(loser, epoch=2)
    assert suspended.wait(60)
    expire_leases(place)
    run_until(successor, epoch=5)
    named = wait_for(lambda: file_names(place, attempt=2))
    resume.set()
    run_until(loser, state="lost")
    assert all(artifact(place, name).exists() for name in named)
    run_until(successor, state="complete")
    (trial,) = load(place).trials
    best = torch.load(artifact(place, trial.user_attrs["weights"]), weights_only=True)
    assert best["epoch"] == trial.user_attrs["best_epoch"] == 10


def test_a_worker_resumed_before_its_commit_does_not_change_its_successors_csv(place, start_worker):
    place.here("create", place.study(points(1.0)), "--set", "train.epochs=5")
    loser, successor = start_worker(), start_worker()
    run_until(loser, epoch=2)
    wait_for(lambda: len(load(place).trials[0].intermediate_values) == 2)
    expire_leases(place)
    run_until(successor, state="complete")
    (csv_file,) = place.path.glob("storage/artifacts/*/0000/epochs.csv")
    whole = csv_file.read_text()
    assert len(whole.splitlines()) == 1 + 5
    run_until(loser, state="lost")
    assert csv_file.read_text() == whole


def test_an_epoch_whose_worker_dies_before_writing_the_csv_is_added_to_a_pruned_trial(
    place, start_worker, monkeypatch
):
    suspended, resume = threading.Event(), threading.Event()
    write_csv = metrics.write_csv

    def suspend(folder, history) -> None:
        if folder.name == "0001":
            suspended.set()
            assert resume.wait(60)
        write_csv(folder, history)

    monkeypatch.setattr(metrics, "write_csv", suspend)
    place.here("create", place.study(prunable_points(10.0, 0.1)), "--set", "train.epochs=2")
    dead, successor = start_worker(), start_worker()
    run_until(dead, state="complete")
    run_until(dead, epoch=1)
    assert suspended.wait(60)
    expire_leases(place)
    run_until(successor, state="pruned")
    (csv_file,) = place.path.glob("storage/artifacts/*/0001/epochs.csv")
    accuracy = load(place).trials[1].intermediate_values[1]
    assert csv_file.read_text().splitlines()[1] == f"1,{accuracy}" + "," * (len(metrics.CSV_COLUMNS) - 2)
    resume.set()
    run_until(dead, state="lost")


def test_a_trial_that_is_pruned_late_keeps_the_weights_of_a_reported_epoch(place, start_worker):
    place.here("create", place.study(prunable_points(10.0, 0.1)), "--set", "train.epochs=5")
    events = start_worker()
    run_until(events, state="complete")
    assert isinstance(next(events), TrialStarted)
    with contextlib.closing(sqlite3.connect(place.path / "storage/hpo.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        run_until(events, epoch=2)  # the report of epoch 1 still waits, and so does the save after it
        other.execute("ROLLBACK")
        run_until(events, state="pruned")
    pruned = load(place).trials[1]
    assert list(pruned.intermediate_values) == [1]
    best = torch.load(artifact(place, pruned.user_attrs["weights"]), weights_only=True)
    assert best["epoch"] == pruned.user_attrs["best_epoch"] == 1


@pytest.fixture
def server(place):
    """Return a Postgres server that the test can stop."""
    with postgres.running() as server, closed_engines():
        yield server


def test_training_goes_on_while_the_database_is_unavailable_and_reports_arrive_late(place, server):
    place.here("create", place.study(points(1.0)), "--set", "train.seconds=0.1", HPO_STORE=server.url)
    process = place.start("worker", "small", HPO_STORE=server.url)
    wait_for(lambda: len(progress(place)) >= 5)
    server.stop("fast")
    before = len(progress(place))
    wait_for(lambda: len(progress(place)) >= before + 15)
    server.start()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "trying again" in err
    (trial,) = optuna.load_study(study_name="small", storage=server.url).trials
    assert (trial.state.name, trial.user_attrs["attempts"]) == ("COMPLETE", 1)
    assert sorted(trial.intermediate_values) == list(range(1, 41))
    assert len(progress(place)) == 40, "no epoch was run twice"


def test_a_late_pruning_decision_is_followed_and_later_epochs_do_not_count(place, server):
    text = prunable_points(10.0, 0.1) + "seconds = 4.0\n"
    place.here("create", place.study(text), "--set", "train.epochs=5", HPO_STORE=server.url)
    process = place.start("worker", "small", HPO_STORE=server.url)

    def has_begun() -> bool:
        first, second = optuna.load_study(study_name="small", storage=server.url).trials
        return first.state.is_finished() and second.params != {}

    wait_for(has_begun, 90)
    server.stop("fast")  # within the second trial's first epoch
    wait_for(lambda: "0.1 2" in progress(place))
    server.start()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    first, second = optuna.load_study(study_name="small", storage=server.url).trials
    assert (first.state.name, second.state.name) == ("COMPLETE", "PRUNED")
    assert list(second.intermediate_values) == [1]
    assert second.user_attrs["pruned"] == "by median after epoch 1"
    best = torch.load(artifact(place, second.user_attrs["weights"]), weights_only=True)
    assert best["epoch"] == second.user_attrs["best_epoch"] == 1
