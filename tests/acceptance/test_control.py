"""Pause, resume, stop, retry and delete with real workers; a failing trial does not affect others."""

import os

import optuna
import pytest
import torch
from PIL import Image

from tests.support.launched_study import EPOCHS, POINTS, LaunchedStudy
from tests.support.log_lines import messages
from tests.support.processes import wait_for
from tests.support.workplace import Done

OWN = """
import pathlib
import time
import torch


def illegal(device=None):
    raise RuntimeError("CUDA error: an illegal memory access was encountered\\nIt may be reported late.")


def climb(config, state):
    state = state or {"epoch": 0}
    while state["epoch"] < config.epochs:
        time.sleep(0.2)
        state["epoch"] += 1
        if config.kind == "fragile" and state["epoch"] == 3 and pathlib.Path("broken").exists():
            raise RuntimeError("no such luck")
        while config.kind == "patient" and not pathlib.Path("continue").exists():
            time.sleep(0.1)
        if config.kind == "odd":
            state["epoch"] / 0
        if config.kind == "huge":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        if config.kind == "greedy":
            kept = [torch.ones(2**28, device="cuda") for _ in range(10_000)]  # a GiB each
        if config.kind == "modest":
            kept = torch.ones(torch.cuda.mem_get_info()[0] // 2, dtype=torch.uint8, device="cuda")
        if config.kind == "spoiling" and not pathlib.Path("spoiled").exists():
            pathlib.Path("spoiled").touch()
            torch.cuda.synchronize = illegal
            illegal()
        yield state["epoch"] / 100 + len(config.kind) / 1000, state
"""

STUDY = """
[train]
objective = "own:climb"
epochs = 10

[search]
sampler = "grid"
"""


def points(*kinds: str) -> str:
    return STUDY + "".join(f'[[points]]\nkind = "{kind}"\n' for kind in kinds)


def trials(url: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="small", storage=url).trials


@pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
def test_pause_resume_and_stop_with_four_workers_neither_lose_nor_repeat_epochs(url, tmp_path):
    with LaunchedStudy(tmp_path, url, seed=0) as launched:

        def hpo(*words: str, code: int = 0) -> Done:
            return launched.place.here(*words, code=code, HPO_STORE=url)

        wait_for(lambda: len(launched.running()) == 4)
        assert "paused" in hpo("pause", "small").out
        wait_for(lambda: not launched.running())
        status = hpo("status", "small", "--json").json()
        assert (status["state"], status["workers"]) == ("paused", [])
        assert 1 <= launched.stderr_text().count("(the study is paused)") <= 4, (
            "at most one for each worker; a trial may have ended just before"
        )
        assert launched.launcher.poll() is None, "the workers wait"
        hpo("resume", "small")
        wait_for(lambda: len(launched.running()) == 4)

        hpo("stop", "small")
        at_most = reports(launched) + 4
        assert launched.launcher.wait(30) == 0
        assert reports(launched) <= at_most, "no worker finishes more than its running epoch"
        assert "study 'small' was stopped" in launched.stderr_text()
        assert hpo("status", "small", "--json").json()["state"] == "stopped"
        assert "'hpo resume small' first" in hpo("launch", "small").err
        hpo("resume", "small")
        hpo("worker", "small")
        assert hpo("status", "small", "--json").json()["state"] == "complete"
    launched.check()
    assert max(trial.user_attrs["attempts"] for trial in trials(url)) > 1, "interrupted trials resumed"


def reports(launched: LaunchedStudy) -> int:
    return launched.sql("SELECT count(*) FROM trial_intermediate_values")[0][0]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_retried_trial_resumes_from_its_checkpoint_in_the_worker_that_failed_it(place, url, sql):
    (place.path / "broken").touch()
    place.here("create", place.study(points("fragile", "patient")), HPO_STORE=url)
    refused = place.here("retry", "small", "--trial", "0", code=1, HPO_STORE=url)
    assert "has no failed or stopped trial 0" in refused.err
    worker = place.start("worker", "small", HPO_STORE=url)
    wait_for(lambda: sql("SELECT state FROM trials WHERE number = 0") == [("FAIL",)])
    failed = trials(url)[0]
    assert failed.user_attrs["failure"] == {"class": "RuntimeError", "message": "no such luck"}
    (place.path / "broken").unlink()
    assert "trial 0 of study small" in place.here("retry", "small", "--failed", HPO_STORE=url).out
    (place.path / "continue").touch()
    _, err = worker.communicate(timeout=120)
    assert worker.returncode == 0
    first, second = trials(url)
    assert (first.state.name, second.state.name) == ("COMPLETE", "COMPLETE")
    assert sorted(first.intermediate_values) == list(range(1, 11))
    assert "failure" not in first.user_attrs
    assert first.user_attrs["attempts"] == 2
    assert "attempt 2, continues after epoch" in err
    assert "has no failed trial" in place.here("retry", "small", "--failed", code=1, HPO_STORE=url).err
    assert place.here("retry", "small", code=2, HPO_STORE=url).out == ""


def test_a_stopped_trial_ends_after_its_epoch_and_continues_when_it_is_retried(place, url, sql):
    place.here("create", place.study(points("patient", "sound")), HPO_STORE=url)
    worker = place.start("worker", "small", HPO_STORE=url)
    wait_for(lambda: sql("SELECT state FROM trials WHERE number = 0") == [("RUNNING",)])
    told = place.here("stop", "small", "--trial", "0", HPO_STORE=url).out
    assert told.startswith(
        "trial 0 of study small ends at the end of its epoch; 'hpo retry small --trial 0'"
    )
    (place.path / "continue").touch()
    _, err = worker.communicate(timeout=120)
    assert (worker.returncode, "(stopped by hand)" in err) == (0, True), err
    stopped, other = trials(url)
    assert (stopped.state.name, other.state.name) == ("PRUNED", "COMPLETE")
    (value,) = stopped.intermediate_values.values()
    assert (stopped.value, stopped.user_attrs["pruned"]) == (value, "stopped by hand")
    done = place.here("stop", "small", "--trial", "1", code=1, HPO_STORE=url)
    assert "trial 1 of study 'small' is complete: there is nothing to stop" in done.err
    place.here("retry", "small", "--trial", "0", HPO_STORE=url)
    assert "attempt 2, continues after epoch 1" in place.here("worker", "small", HPO_STORE=url).err
    again = trials(url)[0]
    assert (again.state.name, sorted(again.intermediate_values)) == ("COMPLETE", list(range(1, 11)))


def test_a_trials_own_error_fails_only_that_trial_and_is_reported(place, url):
    file = place.study(points("huge", "odd", "sound").replace("epochs = 10", "epochs = 1\nbatch_size = 64"))
    place.here("create", file, HPO_STORE=url)
    place.here("worker", "small", HPO_STORE=url)
    huge, odd, sound = trials(url)
    assert [trial.state.name for trial in (huge, odd, sound)] == ["FAIL", "FAIL", "COMPLETE"]
    assert huge.user_attrs["failure"]["class"] == "out_of_memory"
    message = huge.user_attrs["failure"]["message"]
    assert message.startswith("out of memory on cpu: peak ")
    assert "with batch_size 64; batch_size 32 takes about half" in message
    assert odd.user_attrs["failure"] == {"class": "ZeroDivisionError", "message": "division by zero"}
    (file,) = place.path.glob("storage/artifacts/*/0001/traceback.txt")
    assert "own.py" in file.read_text()
    assert {trial.user_attrs["attempts"] for trial in (huge, odd)} == {1}, (
        "no failed trial is retried automatically"
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_trial_that_fills_the_gpu_leaves_its_memory_free_for_the_next(place):
    place.here("create", place.study(points("greedy", "modest").replace("epochs = 10", "epochs = 1")))
    place.hpo("worker", "small", "--device", "cuda:0")
    greedy, modest = trials(f"sqlite:///{place.path}/storage/hpo.db")
    assert (greedy.state.name, modest.state.name) == ("FAIL", "COMPLETE")
    assert greedy.user_attrs["failure"]["class"] == "out_of_memory"
    assert greedy.user_attrs["failure"]["message"].startswith("out of memory on cuda:0: peak ")


GPU = """
import types
import torch

torch.cuda.device_count = lambda: 1
torch.cuda.get_device_name = lambda device: "a GPU"
torch.cuda.get_device_properties = lambda device: types.SimpleNamespace(total_memory=2**30)
torch.cuda.synchronize = lambda device: None
"""


def test_a_gpu_that_is_lost_ends_its_worker_and_no_trial(place):
    (place.path / "sitecustomize.py").write_text(GPU)  # every process in this folder sees a GPU
    python_path = os.pathsep.join([str(place.path), os.environ.get("PYTHONPATH", "")])
    text = points("odd", "spoiling", "sound").replace("epochs = 10", "epochs = 1")
    place.here("create", place.study(text))
    url = f"sqlite:///{place.path}/storage/hpo.db"
    done = place.hpo("worker", "small", "--device", "cuda:0", code=1, PYTHONPATH=python_path)
    assert messages(done.err)[-1] == (
        "hpo: trial 1 waits for another worker: the GPU is lost to this one "
        "(CUDA error: an illegal memory access was encountered)"
    )
    assert [trial.state.name for trial in trials(url)] == ["FAIL", "RUNNING", "WAITING"]
    place.hpo("worker", "small", "--device", "cuda:0", PYTHONPATH=python_path)
    assert [trial.state.name for trial in trials(url)] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert [trial.user_attrs["attempts"] for trial in trials(url)] == [1, 2, 1]


BUILT_IN = """
[train]
image_size = 16
weights = "none"
epochs = 2

[search]
sampler = "grid"

[[points]]
lr = 0.001
"""


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_trial_whose_loss_is_not_finite_is_pruned_with_epoch_and_step(workplace, url):
    text = BUILT_IN.replace("lr = 0.001", "lr = 100.0\nmomentum = 0.99")
    file = workplace.study(text.replace("epochs = 2", 'epochs = 2\ndataset = "digits"\nlimit = 400'))
    done = workplace.hpo("run", file, "--devices", "cpu:1", code=1, HPO_STORE=url)
    (trial,) = trials(url)
    assert trial.state.name == "PRUNED"
    assert trial.user_attrs["failure"]["class"] == "diverged"
    assert "loss not finite at epoch 1, step" in trial.user_attrs["failure"]["message"]
    assert "no complete trial" in done.err
    assert "trial 0 of study small" in workplace.here("retry", "small", "--trial", "0", HPO_STORE=url).out


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_data_folder_that_vanishes_fails_no_trial(workplace, url, sql):
    pictures = workplace.path / "pictures"
    for index in range(24):
        path = pictures / f"class {index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (index * 9, 99, 200 * (index % 2))).save(path)
    data = 'dataset = "folder:pictures"'
    file = workplace.study(
        BUILT_IN.replace("epochs = 2", f"epochs = 2\n{data}") + "[[points]]\nlr = 0.01\n"
    )
    workplace.here("create", file, HPO_STORE=url)
    worker = workplace.start("worker", "small", HPO_STORE=url)
    wait_for(lambda: sql("SELECT 1 FROM trial_intermediate_values"))
    pictures.rename(workplace.path / "elsewhere")
    _, err = worker.communicate(timeout=120)
    assert worker.returncode == 78
    assert messages(err)[-1].startswith("hpo: ")
    assert "pictures" in messages(err)[-1]
    assert "Traceback" not in err
    assert [(trial.state.name, trial.user_attrs.get("attempts")) for trial in trials(url)] == [
        ("COMPLETE", 1),
        ("WAITING", None),
    ]
    (workplace.path / "elsewhere").rename(pictures)
    workplace.here("worker", "small", HPO_STORE=url)
    assert [trial.user_attrs["attempts"] for trial in trials(url)] == [1, 1]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_an_enqueued_setting_runs_before_searched_trials(place, url):
    text = STUDY.replace('sampler = "grid"', 'trials = 4\nsampler = "random"')
    place.here("create", place.study(text + '[space]\nkind = ["sound", "odd"]\n'), HPO_STORE=url)
    done = place.here("enqueue", "small", "kind=sound", HPO_STORE=url)
    assert done.out == "trial 4 of study small waits: kind sound\n"
    refused = place.here("enqueue", "small", "kind=loud", code=1, HPO_STORE=url)
    assert refused.err.count("\n") == 1
    assert "'sound', 'odd'" in refused.err
    process = place.start("worker", "small", HPO_STORE=url)
    first = next(line for line in process.stderr if "trial=4" in line)
    process.terminate()
    process.communicate()
    assert process.returncode == 143
    assert messages(first)[0].startswith("hpo: trial 4 starts: kind sound")
    assert trials(url)[4].params == {"kind": "sound"}


def test_delete_asks_and_deletes_only_the_rows_and_files_of_the_study(place, url, sql):
    text = points("sound").replace("epochs = 10", "epochs = 1")
    place.here("create", place.study(text), HPO_STORE=url)
    place.here("worker", "small", HPO_STORE=url)
    rows_before = {table: sql(f"SELECT count(*) FROM {table}") for table in TABLES}
    place.here("create", place.study(text, "other"), HPO_STORE=url)
    place.here("worker", "other", HPO_STORE=url)
    folders = place.path / "storage/artifacts"
    assert len(list(folders.iterdir())) == 2
    refused = place.hpo("delete", "other", code=1, HPO_STORE=url)  # nobody can answer the question
    assert "Delete study other" in refused.err
    assert place.here("delete", "other", "--yes", HPO_STORE=url).out == "study other deleted\n"
    assert [folder.name.rpartition("-")[0] for folder in folders.iterdir()] == ["small"]
    assert {table: sql(f"SELECT count(*) FROM {table}") for table in TABLES} == rows_before
    assert "no study 'other'" in place.here("status", "other", code=1, HPO_STORE=url).err
    place.here("create", "other.toml", HPO_STORE=url)


TABLES = (
    "studies",
    "trials",
    "trial_params",
    "trial_values",
    "trial_intermediate_values",
    "trial_user_attributes",
    "trial_system_attributes",
    "study_user_attributes",
    "study_system_attributes",
    "hpo_leases",
)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_keep_weights_keeps_the_weights_of_listed_points_and_of_the_best_searched_trials(place, url):
    kinds = [letter * count for count, letter in enumerate("abcdef", 1)]
    search = "trials = 5\nkeep_weights = 2\nsampler = 'random'\npruner = 'none'"
    text = points("a").replace('sampler = "grid"', search)
    text = text.replace("epochs = 10", "epochs = 1") + f"[space]\nkind = {kinds}\n"
    place.hpo("run", place.study(text), "--devices", "cpu:2", HPO_STORE=url)
    kept = [trial.params["kind"] for trial in trials(url) if trial.user_attrs["weights"]]
    assert sorted(kept) == ["a", "eeeee", "ffffff"]
    files = place.path.glob("storage/artifacts/*/*/weights-*")
    assert len(list(files)) == 3
    deleted = next(each.number for each in trials(url) if each.params["kind"] == "bb")
    words = ("export", "small", "--trial", str(deleted), "--to", "model")
    assert "no weights any more (search.keep_weights = 2)" in place.here(*words, code=1, HPO_STORE=url).err


def test_status_watch_prints_changes_until_the_study_is_complete(place, url):
    place.here("create", place.study(points("sound")), "--set", "train.epochs=3", HPO_STORE=url)
    follower = place.start("status", "small", "--watch", HPO_STORE=url)
    first = follower.stdout.readline()
    place.here("worker", "small", HPO_STORE=url)
    out, err = follower.communicate(timeout=120)
    lines = [first, *out.splitlines()]
    assert (follower.returncode, err) == (0, "")
    assert lines[0].startswith("study small is idle: 1 waiting")
    assert lines[-1].startswith("study small is complete: 1 complete")
    assert len(lines) < POINTS * EPOCHS, "a line per change, not per query"
    for verb in ("pause", "stop"):
        assert (
            place.here(verb, "small", HPO_STORE=url).out
            == f"study small is complete; there is nothing to {verb}\n"
        )
    assert place.here("status", "small", "--json", HPO_STORE=url).json()["state"] == "complete"
