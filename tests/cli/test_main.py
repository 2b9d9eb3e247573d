"""The command line, as users and scripts call it."""

import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import optuna
import pexpect
import pytest

import hpo
from hpo.store import studies
from hpo.training import datasets
from hpo.training.config import Config
from tests.support.log_lines import messages
from tests.support.workplace import ROOT, Workplace, workplace_in

STUDY = """
[train]
dataset = "digits"
image_size = 16
limit = 192
weights = "none"
epochs = 2
[space]
lr = { low = 1e-4, high = 1.0, log = true }
batch_size = [8, 16]
[search]
trials = 4
sampler = "random"
pruner = "none"
"""


def run_small(path: Path) -> None:
    """Run a study in a folder until it is complete."""
    place = workplace_in(path)
    place.here("create", place.study(STUDY))
    place.here("worker", "small")


@pytest.fixture(scope="module")
def completed(once) -> Workplace:
    """Return a workplace with a complete study. Tests only read it."""
    return workplace_in(once("completed", run_small))


def load_study(place: Workplace) -> optuna.Study:
    return optuna.load_study(study_name="small", storage=f"sqlite:///{place.path}/storage/hpo.db")


def test_extending_a_study_says_by_how_many_trials_and_that_it_is_held(workplace):
    workplace.here("create", workplace.study(STUDY))
    workplace.here("pause", "small")
    more = ("small.toml", "--set", "search.trials=6")
    held = "the study is paused, 'hpo resume small' lets it continue"
    out = workplace.here("create", *more).out
    assert out == f"study small extended from 4 to 6 trials: 6 trials waiting; {held}\n"
    assert f"study small already stored: 6 trials waiting; {held}" in workplace.here("create", *more).out
    err = workplace.here("run", "small.toml", "--set", "search.trials=7").err
    assert "study 'small' extended from 6 to 7 trials" in err
    assert "study 'small' is paused; run 'hpo resume small' first" in err


def test_a_study_stores_the_options_that_it_was_created_with(workplace):
    workplace.here("create", workplace.study(STUDY), "--name", "other", "--set", "search.trials=1")
    storage = studies.open_storage(f"sqlite:///{workplace.path}/storage/hpo.db", create=False)
    stored = storage.get_study_system_attrs(studies.find_study_id(storage, "other"))["hpo:file"]
    assert stored.startswith("# --name other\n# --set search.trials=1\n")


def test_help_imports_no_heavy_library():
    code = """
import sys, hpo.cli.main
sys.argv = ["hpo", "--help"]
try:
    hpo.cli.main.main()
except SystemExit:
    pass
print(sorted({"torch", "optuna", "pydantic", "sqlalchemy", "torchvision"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_that_of_the_package(workplace):
    assert workplace.here("--version").out == f"hpo {hpo.__version__}\n"


def test_showing_results_imports_neither_torch_nor_the_parts_of_scipy():
    code = """
import sys
from hpo.cli import console
from hpo.report import page
from hpo.store import plan, status, studies
from hpo.study import file
print(sorted({"torch", "scipy.linalg", "scipy.special", "scipy.stats"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_best_as_json_has_the_specified_fields(completed):
    best = completed.here("best", "small", "--json").json()
    assert list(best) == [
        *("study", "trial", "metric", "direction", "value", "accuracy", "images", "seeds"),
        *("best_epoch", "epochs"),
        *("params", "wall_time_seconds", "hardware", "weights", "low", "high", "baseline", "tied"),
    ]
    expected = load_study(completed).best_trial
    assert (best["trial"], best["accuracy"]) == (expected.number, expected.value)
    assert (best["metric"], best["value"], best["seeds"]) == ("accuracy", expected.value, 1)
    assert best["images"] == expected.user_attrs["images"]
    assert best["params"] == expected.params
    two = completed.here("best", "small", "-n", "2", "--json").json()
    assert two[0] == best
    assert two[0]["accuracy"] >= two[1]["accuracy"]
    text = completed.here("best", "small", "-n", "2").out
    assert f"best trial {best['trial']} of study small\n" in text
    assert f"\nnumber 2: trial {two[1]['trial']} of study small\n" in text


def test_status_as_json_has_the_specified_fields(completed):
    status = completed.here("status", "small", "--json").json()
    fields = [
        "study",
        "state",
        "problems",
        "trials",
        "budget",
        "best",
        "workers",
        "waiting_workers",
        "waits",
        "left_out_trials",
        "seconds_left",
        "early_ends",
        "budgets",
    ]
    assert list(status) == [*fields, "logs"]
    assert status["budgets"] == {}, "no budget is set"
    assert status["state"] == "complete"
    assert status["trials"] == {"waiting": 0, "running": 0, "complete": 4, "pruned": 0, "failed": 0}
    assert (status["budget"], status["workers"], status["waits"]) == (4, [], [])
    assert "study small is complete: 4 complete (budget 4)" in completed.here("status", "small").out


def test_trials_as_json_csv_and_text_agree(completed):
    trials = completed.here("trials", "small", "--json").json()
    assert list(trials[0]) == ["number", "state", "value", "params", "user_attrs", "intermediate_values"]
    study = load_study(completed)
    assert [t["value"] for t in trials] == [t.value for t in study.trials]
    rows = completed.here("trials", "small", "--csv").out.splitlines()
    assert rows[0] == (
        "number,state,value,batch_size,lr,epochs,best_epoch,wall_time_seconds,attempts,point,site,"
        "best_value,images,baseline,start,end"
    )
    assert len(rows) == 5
    assert float(rows[1].split(",")[2]) == trials[0]["value"]
    assert "complete" in completed.here("trials", "small").out
    (one,) = completed.here("trials", "small", "--trial", "2", "--json").json()
    assert one == trials[2]
    assert "epoch 2" in completed.here("trials", "small", "--trial", "2").out
    assert "has no trial 9" in completed.here("trials", "small", "--trial", "9", code=1).err


def test_each_trial_stores_how_many_images_its_accuracy_is_of_and_what_the_largest_class_gives(completed):
    settings = Config(dataset="digits", image_size=16, limit=192)
    labels = datasets.load_dataset(settings, completed.path).selection.labels
    expected = (len(labels), max(Counter(labels.tolist()).values()) / len(labels))
    stored = [trial.user_attrs for trial in load_study(completed).trials]
    assert [(each["images"], each["baseline"]) for each in stored] == [expected] * 4


@pytest.mark.parametrize(
    "words",
    [
        ("report", "small", "-o", "reports/page.html"),
        ("export", "small", "--to", "models/one"),
        ("data", "small.toml", "-o", "pictures/sheet.png"),
    ],
)
def test_a_folder_that_an_output_needs_is_created_and_told(completed, words):
    folder, name = words[-1].split("/")
    told = f"hpo: the folder {folder} does not exist; it is created for {name}\n"
    assert completed.here(*words).err == told
    assert (completed.path / words[-1]).exists()
    assert completed.here(*words[:-1], f"{folder}/other-{name}").err == ""


def test_studies_lists_the_studies_of_the_store(completed):
    (only,) = completed.here("studies", "--json").json()
    assert (only["study"], only["state"], only["budget"]) == ("small", "complete", 4)
    assert "small" in completed.here("studies").out


@pytest.mark.parametrize("evaluator", ["ped-anova", "fanova", "mdi"])
def test_importance_states_its_number_of_trials(completed, evaluator):
    found = completed.here("importance", "small", "--evaluator", evaluator, "--json").json()
    assert (found["evaluator"], found["trials"]) == (evaluator, 4)
    assert found["importances"].keys() == {"lr", "batch_size"}
    assert sum(found["importances"].values()) == pytest.approx(1)
    done = completed.here("importance", "small", "--evaluator", evaluator)
    assert "over 4 complete trials" in done.out
    assert done.err == ""


def test_plain_optuna_shows_the_study(completed):
    command = [
        *(str(Path(sys.executable).parent / "optuna"), "trials", "--storage"),
        *(f"sqlite:///{completed.path}/storage/hpo.db", "--study-name", "small", "-f", "json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    assert [row["state"] for row in rows] == ["COMPLETE"] * 4
    assert all({"lr", "batch_size"} <= row["params"].keys() for row in rows)


def test_a_missing_store_is_reported_in_one_line(workplace):
    for verb in ("studies", "status x", "trials x", "best x", "importance x", "worker x", "delete x --yes"):
        done = workplace.here(*verb.split(), code=78 if verb.startswith("worker") else 1)
        (line,) = messages(done.err) if verb.startswith("worker") else done.err.splitlines()
        assert line.startswith("hpo: no store at sqlite:///storage/hpo.db")
    assert os.listdir(workplace.path) == []


def test_a_misspelt_study_is_refused_with_the_existing_ones(completed):
    done = completed.here("status", "smal", code=1)
    assert done.err == "hpo: no study 'smal' in the store; did you mean 'small'? there are: small\n"
    done = completed.here("run", "quickstrat", code=1)
    assert "did you mean 'quickstart'?" in done.err
    assert completed.here("best", "small", "--jsno", code=2).err
    assert completed.here("importance", "small", "--evaluator", "anova", code=2).err


def test_a_worker_states_why_it_has_nothing_to_do(completed):
    assert messages(completed.here("worker", "small").err) == [
        "hpo: study 'small' is complete, all 4 trials have run; nothing to do"
    ]


def test_missing_devices_are_reported_in_one_line(completed, workplace):
    for spec in ("cuda:99", "tpu", "cpu:0", "cpu:x", "cuda:0,cpu"):
        done = completed.here("run", "small.toml", "--name", "dev", "--devices", spec, code=1)
        assert messages(done.err)[-1].startswith("hpo: --device")
        assert "Traceback" not in done.err
    assert load_study(completed)  # still there
    workplace.here("create", workplace.study(STUDY))
    for device in ("gpu", "cpu:2"):
        done = workplace.here("worker", "small", "--device", device, code=78)
        assert f"hpo: --device {device}: want cpu" in done.err


def test_the_doctor_reports_what_works_and_what_is_broken(completed):
    done = completed.here("doctor")
    for word in ("cpu", "store", "artifacts", "cifar10", "digits", "weights"):
        assert word in done.out
    broken = completed.here("doctor", "--store", "mysql://x/y", code=1)
    assert "broken" in broken.out
    assert "want sqlite" in broken.out


def test_the_schema_is_printed(completed):
    assert completed.here("schema").json()["title"] == "hpo study file"


def test_a_closed_output_pipe_is_not_an_error(completed):
    command = f"{sys.executable} -m hpo schema | head -n 1"
    done = subprocess.run(command, shell=True, cwd=completed.path, capture_output=True, text=True)
    assert done.stderr == ""


def test_a_run_on_a_terminal_shows_a_live_table_and_stops_on_ctrl_c(workplace):
    file = workplace.study(STUDY.replace("epochs = 2", "epochs = 40"))
    child = pexpect.spawn(
        sys.executable,
        ["-m", "hpo", "run", file],
        cwd=str(workplace.path),
        env={**workplace.environment, "TERM": "xterm", "COLUMNS": "100", "LINES": "24"},
        dimensions=(24, 100),
        timeout=90,
        encoding="utf-8",
    )
    child.expect("0 of 4 trials")
    child.expect(r"running.*/40")
    child.sendintr()
    child.expect("run the same command again to continue")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert {trial.state.name for trial in load_study(workplace).trials} == {"WAITING"}


def test_a_worker_on_a_terminal_shows_a_bar_of_epochs(workplace):
    workplace.here("create", workplace.study(STUDY.replace("trials = 4", "trials = 1")))
    child = pexpect.spawn(
        sys.executable,
        ["-m", "hpo", "worker", "small"],
        cwd=str(workplace.path),
        env={**workplace.environment, "TERM": "xterm"},
        dimensions=(24, 100),
        timeout=90,
        encoding="utf-8",
    )
    child.expect("trial 0, epoch")
    child.expect("trial 0 complete")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_the_wheel_ships_the_study_files(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", str(tmp_path), str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for path in (ROOT / "studies").glob("*.toml"):
        assert f"hpo/studies/{path.name}" in names
    assert "hpo/report/page.html.j2" in names
    assert "hpo/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
