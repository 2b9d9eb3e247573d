"""Runs with real processes, from a study file to its result, and their interruptions."""

import contextlib
import csv
import hashlib
import os
import shutil
import signal
import sqlite3
from pathlib import Path

import optuna
import pytest
import safetensors.torch
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hpo.artifacts import checkpoint
from hpo.training import devices
from hpo.training.metric import METRICS
from tests.support.log_lines import messages
from tests.support.processes import descendants, wait_for
from tests.support.workplace import artifact, epochs_reported, load, workplace_in

SMALL = """
[train]
dataset = "digits"
image_size = 16
limit = 96
weights = "none"
epochs = 3

[space]
lr = { low = 1e-3, high = 1e-1, log = true }
optimizer = ["sgd", "adam"]
momentum = { low = 0.0, high = 0.95, when = { optimizer = "sgd" } }

[search]
trials = 3
pruner = "none"
"""

LONG = """
[train]
dataset = "digits"
image_size = 16
limit = 240
weights = "none"
epochs = 4
augmentation = "crop+flip"

[search]
sampler = "grid"

[[points]]
model = "resnet18"
lr = 0.01
"""

# For tests of everything but training: three trials that need no torchvision.
QUICK = """
[train]
objective = "own:climb"
epochs = 3

[space]
lr = { low = 1e-3, high = 1e-1, log = true }

[search]
trials = 3
pruner = "none"
"""

OWN = """
def climb(config, state):
    for epoch in range(1, config.epochs + 1):
        yield epoch * config.lr, {"epoch": epoch}
"""

ONE_EPOCH = LONG.replace("epochs = 4", "epochs = 1").replace("limit = 240", "limit = 48")


def digest(workplace, trial: optuna.trial.FrozenTrial) -> str:
    return hashlib.sha256(artifact(workplace, trial.user_attrs["weights"]).read_bytes()).hexdigest()


def curve(workplace, trial: optuna.trial.FrozenTrial) -> list[tuple]:
    folder = artifact(workplace, trial.user_attrs["weights"]).parent
    with (folder / "epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [tuple(row[k] for k in ("epoch", "train_loss", "loss", "accuracy", "lr")) for row in rows]


def run_long(path: Path) -> None:
    place = workplace_in(path)
    place.here("create", place.study(LONG))
    place.here("worker", "small")


def result(workplace) -> tuple[str, list[tuple]]:
    """Return the hash of the weights and the curve of the study's one trial."""
    (trial,) = load(workplace).trials
    return digest(workplace, trial), curve(workplace, trial)


@pytest.fixture(scope="module")
def uninterrupted(once):
    """Return the result of LONG's point, run without interruption."""
    return result(workplace_in(once("uninterrupted", run_long)))


def steps_of_epoch(trial: optuna.trial.FrozenTrial) -> int:
    """Return how many steps of the current epoch a trial's checkpoint contains."""
    return int(trial.user_attrs["checkpoint"].rpartition("/")[2].split("-")[2])


def stop_long(path: Path) -> None:
    """Run LONG's point, and stop it with SIGTERM within its third epoch or later.

    A signal that arrives between two epochs, which depends on the machine's load, starts again.
    """
    place = workplace_in(path)
    for _ in range(5):
        shutil.rmtree(path / "storage", ignore_errors=True)
        process = place.start("run", place.study(LONG), "--devices", "cpu:1")
        wait_for(lambda: epochs_reported(place) >= 2)
        process.terminate()
        _, err = process.communicate(timeout=120)
        (path / "err.txt").write_text(err)
        (trial,) = load(place).trials
        if trial.state.name == "WAITING" and steps_of_epoch(trial) > 0:
            break
    assert process.returncode == 143, err


@pytest.fixture
def stopped(once, workplace):
    """Return a workplace with its own copy of a run that was stopped with SIGTERM."""
    shutil.copytree(once("stopped", stop_long), workplace.path, dirs_exist_ok=True)
    return workplace


def test_a_study_runs_from_its_file_to_its_best_trial(workplace):
    done = workplace.hpo("run", workplace.study(SMALL), "--devices", "cpu:1")
    assert done.err.count(" hpo: data: ") == 1  # the first trial says what the images are
    study = load(workplace)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    assert f"best trial {study.best_trial.number} of study small" in done.out
    assert f"accuracy   {study.best_value:.4f} on the validation split" in done.out
    for trial in study.trials:
        assert f"trial {trial.number} epoch 3/3: accuracy" in done.err
        assert sorted(trial.intermediate_values) == [1, 2, 3]
        assert trial.value == max(trial.intermediate_values.values())
        assert ("momentum" in trial.params) == (trial.params["optimizer"] == "sgd")
        attributes = trial.user_attrs
        assert attributes["epochs"] == 3
        assert trial.intermediate_values[attributes["best_epoch"]] == trial.value
        assert len(attributes["epoch_seconds"]) == 3
        assert attributes["wall_time_seconds"] == pytest.approx(sum(attributes["epoch_seconds"]), abs=0.01)
        assert attributes["attempts"] == 1
        assert {"device", "host", "torch", "threads", "memory_format"} <= attributes["hardware"].keys()
        assert attributes["hardware"]["precision"] == "fp32"
        assert attributes["checkpoint"] is None
        assert checkpoint.list_checkpoints(artifact(workplace, attributes["weights"]).parent) == []
    assert study.metric_names == ["accuracy"]
    assert study.direction.name == "MAXIMIZE"

    trial = study.best_trial
    folder = artifact(workplace, trial.user_attrs["weights"]).parent
    assert len(curve(workplace, trial)) == 3
    events = EventAccumulator(str(folder))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("accuracy/selection")}
    assert logged == pytest.approx(trial.intermediate_values)
    with (folder / "epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert trial.user_attrs["metrics"].keys() == set(METRICS) - {"accuracy"}
    for name, values in trial.user_attrs["metrics"].items():
        assert [float(row[name]) for row in rows] == pytest.approx(values, abs=1e-6)
        assert [event.value for event in events.Scalars(f"{name}/selection")] == pytest.approx(
            values, abs=1e-6
        )
    weights = safetensors.torch.load_file(artifact(workplace, trial.user_attrs["weights"]))
    assert weights["fc.weight"].shape == (10, 512)
    assert '"lr"' in (folder / "settings.json").read_text()

    again = workplace.here("run", "small.toml")
    assert "nothing to do" in again.err
    assert again.out == done.out
    assert len(load(workplace).trials) == 3


def test_listed_points_run_exactly_once_with_their_own_settings(workplace):
    text = SMALL + '[[points]]\nlr = 0.05\noptimizer = "adam"\nsite = "here"\nepochs = 1\n'
    file = workplace.study(text)
    workplace.here("create", file, "--set", "search.trials=1")
    workplace.here("worker", "small")
    first, second = load(workplace).trials
    assert first.params == {"lr": 0.05, "optimizer": "adam"}
    assert (first.user_attrs["point"], first.user_attrs["site"]) == (1, "here")
    assert (first.user_attrs["epochs"], second.user_attrs["epochs"]) == (1, 3)
    assert second.user_attrs.get("point") is None


def test_a_study_can_be_extended_by_trials_and_points_only(workplace):
    file = workplace.study(SMALL)
    workplace.here("create", file, "--set", "search.trials=1", "--set", "train.epochs=1")
    workplace.here("worker", "small")  # a study of which no trial has run is replaced
    refused = workplace.here("run", file, code=1)
    assert refused.err.count("\n") == 1
    assert "train.epochs: 1 -> 3" in refused.err
    workplace.here("create", file, "--set", "search.trials=2", "--set", "train.epochs=1")
    assert len(load(workplace).trials) == 2
    point = '[[points]]\nmodel = "squeezenet1_1"\nlr = 0.01\n'
    file = workplace.study(SMALL + point)
    options = ("--set", "search.trials=2", "--set", "train.epochs=1", "--set", "train.image_size=32")
    refused = workplace.here("run", file, *options, code=1)
    assert "train.image_size: 16 -> 32" in refused.err


def test_a_grid_accepts_a_later_point_with_another_model(workplace):
    text = ONE_EPOCH
    for listed in (text, text + '[[points]]\nmodel = "resnet34"\nlr = 0.01\n'):
        workplace.here("create", workplace.study(listed))
        workplace.here("worker", "small")
    study = load(workplace)
    assert [trial.params["model"] for trial in study.trials] == ["resnet18", "resnet34"]
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    assert len({str(trial.distributions["model"]) for trial in study.trials}) == 1


def test_a_killed_run_resumes_under_its_number_with_the_same_bits(workplace, uninterrupted):
    file = workplace.study(LONG)
    process = workplace.start("run", file, "--devices", "cpu:1")
    wait_for(lambda: epochs_reported(workplace) >= 2)
    workers = descendants(process.pid)
    assert workers
    for pid in [*workers, process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    (trial,) = load(workplace).trials
    assert trial.state.name == "RUNNING"
    _, epoch, *_ = trial.user_attrs["checkpoint"].rpartition("/")[2].split("-")

    done = workplace.here("worker", "small")
    assert f"attempt 2, continues after epoch {int(epoch)}" in done.err
    assert "epoch 1/4" not in done.err
    (trial,) = load(workplace).trials
    assert (trial.number, trial.state.name) == (0, "COMPLETE")
    assert trial.user_attrs["attempts"] == 2
    assert sorted(trial.intermediate_values) == [1, 2, 3, 4]
    assert result(workplace) == uninterrupted


def test_a_run_whose_supervisor_is_killed_saves_and_exits(workplace, uninterrupted):
    file = workplace.study(LONG)
    process = workplace.start("run", file, "--devices", "cpu:1")
    wait_for(lambda: epochs_reported(workplace) >= 1)
    workers = descendants(process.pid)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    (trial,) = load(workplace).trials
    assert trial.state.name == "WAITING"
    workplace.here("worker", "small")
    assert result(workplace) == uninterrupted


def test_a_run_stopped_by_sigterm_saves_within_the_epoch_and_resumes(stopped, uninterrupted):
    err = (stopped.path / "err.txt").read_text()
    assert "run the same command again to continue" in err
    assert "Traceback" not in err
    (trial,) = load(stopped).trials
    assert trial.state.name == "WAITING"
    assert steps_of_epoch(trial) > 0, "the checkpoint was written within an epoch"
    stopped.here("worker", "small")
    assert result(stopped) == uninterrupted


def test_a_corrupted_checkpoint_is_detected_and_the_previous_one_used(stopped, uninterrupted):
    (trial,) = load(stopped).trials
    path = artifact(stopped, trial.user_attrs["checkpoint"])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    stopped.here("worker", "small")
    assert result(stopped) == uninterrupted


def test_a_killed_worker_is_restarted_and_ctrl_c_stops_the_run(workplace, uninterrupted):
    file = workplace.study(LONG)
    process = workplace.start("run", file, "--devices", "cpu:1")
    wait_for(lambda: epochs_reported(workplace) >= 1)
    os.kill(descendants(process.pid)[0], signal.SIGKILL)
    wait_for(lambda: epochs_reported(workplace) >= 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "trial 0) died of SIGKILL" in err
    assert "run the same command again to continue" in err
    assert "Traceback" not in err
    (trial,) = load(workplace).trials
    assert (trial.state.name, trial.user_attrs["attempts"]) == ("WAITING", 2)
    done = workplace.here("worker", "small")
    assert "attempt 3, continues after epoch 3" in done.err
    assert result(workplace) == uninterrupted


def test_a_batch_of_one_is_refused_for_batch_norm_before_any_trial(workplace):
    text = ONE_EPOCH + "[[points]]\nlr = 0.01\nbatch_size = 1\n"
    done = workplace.here("run", workplace.study(text), code=1)
    assert "points[2].batch_size: model 'resnet18' cannot be trained on batches of one image" in done.err
    assert not (workplace.path / "storage").exists()


def test_a_folder_that_cannot_be_written_fails_no_trial(workplace):
    (workplace.path / "blocked").write_text("a file where the artifacts should be")
    workplace.here("create", workplace.study(ONE_EPOCH))
    done = workplace.here("worker", "small", "--artifacts", "blocked", code=78)
    assert messages(done.err)[-1].startswith("hpo: ")
    assert "blocked" in messages(done.err)[-1]
    assert "Traceback" not in done.err
    assert done.err.count("trial 0 released: ") == 1, "an error that repeats is told once"
    with contextlib.closing(sqlite3.connect(workplace.path / "storage/hpo.db")) as database:
        attempts = database.execute("SELECT token FROM hpo_leases").fetchall()
    assert attempts == [(3,)], "a worker stops at the third failure in a row"
    (trial,) = load(workplace).trials
    assert trial.state.name == "WAITING"


def test_missing_data_fails_no_trial(workplace):
    text = LONG.replace('"digits"', '"folder:pictures"')
    workplace.here("create", workplace.study(text))  # the folder may exist on the workers' machine only
    done = workplace.here("worker", "small", code=78)
    assert messages(done.err)[-1].startswith("hpo: ")
    assert "pictures" in done.err
    assert "Traceback" not in done.err
    (trial,) = load(workplace).trials
    assert (trial.state.name, trial.user_attrs.get("attempts")) == ("WAITING", None)
    assert done.err.count("pictures") == 1


def test_a_worker_without_a_supervisor_runs_the_study(place):
    place.here("create", place.study(QUICK))
    done = place.hpo("worker", "small")
    assert done.out == ""
    assert "trial 2 complete" in done.err
    name = devices.worker_devices("auto", 1, 1)[0].name  # as hpo run would take: a GPU if there is one
    used = {trial.user_attrs["hardware"]["device"] for trial in load(place).trials}
    assert used == {devices.device_name(torch.device(name))}


def test_another_study_can_start_from_trained_weights(workplace):
    text = ONE_EPOCH
    workplace.here("create", workplace.study(text))
    workplace.here("worker", "small")
    weights = workplace.here("best", "small", "--json").json()["weights"]
    path = artifact(workplace, weights)
    tensors = safetensors.torch.load_file(path)
    second = text.replace('weights = "none"', f'weights = "{path}"\ntune = "head"')
    workplace.here("create", workplace.study(second, "second"))
    workplace.here("worker", "second")
    (trial,) = load(workplace, "second").trials
    tuned = safetensors.torch.load_file(artifact(workplace, trial.user_attrs["weights"]))
    assert torch.equal(tensors["conv1.weight"], tuned["conv1.weight"])
    assert not torch.equal(tensors["fc.weight"], tuned["fc.weight"])


def test_launch_starts_several_workers_and_runs_the_study_to_its_end(place):
    place.here("create", place.study(QUICK))
    process = place.start("launch", "small", "--devices", "cpu:2")
    wait_for(lambda: len(descendants(process.pid)) >= 2)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert [trial.state.name for trial in load(place).trials] == ["COMPLETE"] * 3
    assert "nothing to do" in place.here("launch", "small").err
    (line,) = messages(place.here("launch", "smal", code=78).err)
    assert line.startswith("hpo: no study 'smal'")


def test_an_error_that_no_restart_fixes_stops_every_worker_with_one_message(place):
    place.here("create", place.study(QUICK))
    done = place.hpo("launch", "small", "--devices", "cpu:2", "--artifacts", "nosuch://x", code=78)
    assert "Traceback" not in done.err
    assert messages(done.err)[-1].startswith("hpo: --artifacts nosuch://x")
    assert [trial.state.name for trial in load(place).trials] == ["WAITING"] * 3
