"""Trials go to MLflow and W&B, and no trouble with these touches a trial."""

import contextlib
import csv
import json
import signal
import sys

import mlflow
import pytest

from hpo.store import studies
from tests.support.databases import closed_engines
from tests.support.processes import wait_for
from tests.support.trackers import MlflowServer, hung_server, wandb_records
from tests.support.workplace import artifact, load

# Each trial waits before its third epoch until there is a file "go".
OWN = """
import os
import time


def climb(config, state):
    state = state or {"epoch": 0}
    while state["epoch"] < config.epochs:
        while state["epoch"] == 2 and not os.path.exists("go"):
            time.sleep(0.01)
        if config.fails:
            raise ValueError("no good")
        state["epoch"] += 1
        yield config.speed * state["epoch"] / 100, state, {"loss": 1 / state["epoch"]}
"""
STUDY = """
[train]
objective = "own:climb"
epochs = 4
fails = false

[search]
sampler = "grid"

[[points]]
speed = 0.5

[[points]]
speed = 1.0

[[points]]
speed = 2.0
fails = true
"""
pytestmark = pytest.mark.processes
SECONDS = 300  # that a package may take to load on a busy machine
ACCURACIES = {1: 0.005, 2: 0.01, 3: 0.015, 4: 0.02}  # of trial 0, by epoch


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with contextlib.closing(MlflowServer(tmp_path_factory.mktemp("mlflow"))) as server:
        server.start()
        yield server


def runs_of(server, study):
    """Return MLflow's runs of a study, by number of trial."""
    client = mlflow.MlflowClient(server.url)
    experiment = client.get_experiment_by_name(study)
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    runs = {int(run.data.tags["trial"]): run for run in found}
    assert len(runs) == len(found)
    return runs


def history_of(server, run, metric):
    client = mlflow.MlflowClient(server.url)
    return [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, metric)]


@contextlib.contextmanager
def worker(place, study, server):
    process = place.start("worker", study, MLFLOW_TRACKING_URI=server.url)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def losses(server, study):
    """Return the losses of a study's first trial, with their epochs."""
    return history_of(server, runs_of(server, study)[0], "loss")


def tracker_of(place, study):
    with closed_engines():
        storage = studies.open_storage(f"sqlite:///{place.path}/storage/hpo.db", create=False)
        return studies.read_definition(storage, study).search.track


def curves(place, trial, study="small"):
    """Return the measurements of a trial's epochs, without the times."""
    (file,) = artifact(place, "").glob(f"{study}-????????/{trial:04d}/epochs.csv")
    rows = csv.DictReader(file.read_text().splitlines())
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


def test_mlflow_has_the_names_and_values_of_the_store(place, server):
    (place.path / "go").touch()
    place.here("create", place.study(STUDY), "--name", "names", "--track", "mlflow")
    place.here("worker", "names", MLFLOW_TRACKING_URI=server.url)
    runs, client = runs_of(server, "names"), mlflow.MlflowClient(server.url)
    assert {number: run.info.status for number, run in runs.items()} == {
        0: "FINISHED",
        1: "FINISHED",
        2: "FAILED",
    }
    for trial in load(place, "names").trials[:2]:
        run = runs[trial.number]
        assert run.data.params == {name: str(value) for name, value in trial.params.items()}
        assert run.data.metrics["value"] == trial.value
        assert history_of(server, run, "accuracy") == sorted(trial.intermediate_values.items())
        assert [step for step, _ in history_of(server, run, "loss")] == [1, 2, 3, 4]
        assert run.data.tags["hardware.device"] == trial.user_attrs["hardware"]["device"]
        assert run.data.tags["weights"] == trial.user_attrs["weights"]
        files = {each.path for each in client.list_artifacts(run.info.run_id)}
        assert files == {"settings.json", "epochs.csv"}
    assert runs[2].data.tags["failure.message"] == "no good"


def test_a_killed_trial_goes_on_in_its_run(place, server):
    place.here("create", place.study(STUDY), "--name", "killed", "--track", "mlflow")
    with worker(place, "killed", server):
        wait_for(lambda: runs_of(server, "killed") and len(losses(server, "killed")) == 2, SECONDS)
    (place.path / "go").touch()
    place.here("worker", "killed", MLFLOW_TRACKING_URI=server.url)
    run = runs_of(server, "killed")[0]
    assert run.info.status == "FINISHED"
    assert run.data.tags["attempts"] == "2"
    assert dict(history_of(server, run, "accuracy")) == pytest.approx(ACCURACIES)
    assert len(losses(server, "killed")) == len(ACCURACIES)


def test_a_trial_that_is_stopped_waits_in_mlflow_too(place, server):
    place.here("create", place.study(STUDY), "--name", "stopped", "--track", "mlflow")
    with worker(place, "stopped", server) as process:
        wait_for(lambda: runs_of(server, "stopped"), SECONDS)
        process.send_signal(signal.SIGTERM)
        (place.path / "go").touch()
        assert process.wait(SECONDS) == 143
    assert runs_of(server, "stopped")[0].info.status == "SCHEDULED"


def test_a_server_that_dies_changes_no_result(place, tmp_path):
    place.here("create", place.study(STUDY), "--track", "mlflow")
    with contextlib.closing(MlflowServer(tmp_path)) as server:
        server.start()
        with worker(place, "small", server) as process:
            wait_for(lambda: runs_of(server, "small"), SECONDS)
            server.close()
            (place.path / "go").touch()
            _, err = process.communicate(timeout=SECONDS)
            assert process.returncode == 0
    assert err.count("mlflow takes nothing at the moment") == 1
    assert "mlflow lacks something of 3 trials; the store has it" in err
    place.here("create", place.study(STUDY), "--name", "untracked")
    place.here("worker", "untracked")
    tracked, untracked = load(place).trials, load(place, "untracked").trials
    assert [each.value for each in tracked] == [each.value for each in untracked]
    for trial in (0, 1):
        assert curves(place, trial) == curves(place, trial, "untracked")


def test_what_a_server_missed_is_sent_when_it_answers(place, tmp_path):
    place.here("create", place.study(STUDY), "--track", "mlflow")
    with contextlib.closing(MlflowServer(tmp_path)) as server, worker(place, "small", server) as process:
        wait_for(lambda: load(place).trials[0].intermediate_values.get(2), SECONDS)
        server.start()
        wait_for(lambda: runs_of(server, "small"), SECONDS)
        (place.path / "go").touch()
        assert process.wait(SECONDS) == 0
        runs = runs_of(server, "small")
        assert dict(history_of(server, runs[0], "accuracy")) == pytest.approx(ACCURACIES)
        assert [runs[number].info.status for number in range(3)] == ["FINISHED", "FINISHED", "FAILED"]


def test_trials_end_while_a_server_hangs(place):
    (place.path / "go").touch()
    place.here("create", place.study(STUDY), "--track", "mlflow")
    with hung_server() as url:
        settings = {
            "MLFLOW_TRACKING_URI": url.replace("//", "//me:secret@"),
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "1",
        }
        done = place.hpo("worker", "small", **settings)
    assert [each.state.name for each in load(place).trials] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert "mlflow takes nothing at the moment" in done.err
    assert "secret" not in done.err


def test_wandb_writes_a_run_offline(place):
    (place.path / "go").touch()
    place.here("create", place.study(STUDY), "--track", "wandb")
    place.here("worker", "small", WANDB_MODE="offline")
    trial = load(place).trials[0]
    (file,) = place.path.glob("wandb/offline-run-*-0000/*.wandb")
    records = list(wandb_records(file))
    (run,) = {record.run.run_id: record.run for record in records if record.run.run_id}.values()
    assert (run.project, run.run_group, run.display_name) == ("small", "small", "small/0000")
    config = {each.key: json.loads(each.value_json) for each in run.config.update}
    assert config["speed"] == trial.params["speed"]
    rows = [
        {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.history.item
    ]
    assert {row["epoch"]: row["accuracy"] for row in rows} == trial.intermediate_values
    summary = {
        (item.key or item.nested_key[0]): json.loads(item.value_json)
        for record in records
        for item in record.summary.update
    }
    assert (summary["value"], summary["state"]) == (trial.value, "complete")
    assert {path.name for path in (file.parent / "files").iterdir()} >= {"settings.json", "epochs.csv"}


def test_a_missing_package_is_told_before_a_trial_is_claimed(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    place.here("create", place.study(STUDY), "--track", "mlflow")
    done = place.here("worker", "small", code=78)
    assert "pip install 'hpo-vision[mlflow]'" in done.err
    assert {each.state.name for each in load(place).trials} == {"WAITING"}


def test_a_study_goes_on_with_another_tracker_or_none(place):
    file = place.study(STUDY)
    (place.path / "go").touch()
    place.here("create", file, "--track", "wandb")
    place.here("worker", "small", WANDB_MODE="disabled")
    more = place.study(f"{STUDY}\n[[points]]\nspeed = 3.0\n")
    place.here("create", more)
    assert tracker_of(place, "small") == "wandb"
    place.here("create", more, "--track", "none")
    assert tracker_of(place, "small") == "none"
