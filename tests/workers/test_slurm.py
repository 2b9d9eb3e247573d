"""The script for Slurm, read and run by bash alone; tests/engines runs it on a real Slurm."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpo.api.stop_signal import StopSignal
from hpo.cli import engines
from hpo.errors import EngineError
from hpo.log_records import format_text, parse_line
from hpo.store import studies
from hpo.workers import slurm, supervisor
from tests.support import postgres
from tests.support.databases import closed_engines
from tests.support.log_lines import messages, parse_lines
from tests.support.processes import descendants, wait_for
from tests.support.workplace import workplace_in

OWN = """
import time
import torch


def climb(config, state):
    state = state or {"epoch": 0, "weight": torch.zeros(10)}
    while state["epoch"] < config.epochs:
        time.sleep(0.1)
        state["epoch"] += 1
        with open("progress", "a") as file:
            print(state["epoch"], file=file)
        yield 1 - 1 / (1 + state["epoch"]), state
"""
STUDY = """
[train]
objective = "own:climb"
epochs = {epochs}
[search]
sampler = "grid"
[[points]]
speed = 1
"""
SLURM = ("--engine", "slurm")


def script(
    place,
    store: str = "sqlite:///hpo.db",
    workers: int = 2,
    gpus: bool | None = None,
    form: str = "text",
    **options: str,
) -> str:
    settings = {
        "HPO_STORE": store,
        "HPO_ARTIFACTS": "my artifacts",
        "HPO_DATA": "data",
        "HPO_LEASE_SECONDS": "60",
        "HPO_LOG_FORMAT": form,
    }
    named = {name.replace("_", "-"): value for name, value in options.items()}
    group = supervisor.WorkerGroup(
        study="small", workers=workers, gpus=gpus, settings=settings, options=named
    )
    return slurm.build_script(group, place.path, Path("logs"))


def directives(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]


def test_the_script_requests_a_gpu_per_worker_requeueing_and_an_early_signal(place):
    assert directives(script(place, workers=3)) == [
        "job-name=hpo-small",
        "array=0-2",
        "gres=gpu:1",
        "requeue",
        "signal=B:TERM@90",
        "open-mode=append",
        "output=logs/slurm-%A_%a.log",
        f"chdir={place.path}",
        "export=ALL",
    ]


def test_any_option_of_sbatch_is_added_or_replaces_a_default(place):
    found = directives(
        script(place, partition="gpu", comment="a b", exclusive="", gpus_per_node="a100:1", array="0-9%2")
    )
    assert {"partition=gpu", "comment='a b'", "exclusive", "gpus-per-node=a100:1", "array=0-9%2"} < set(
        found
    )
    assert not any(line.startswith("gres") for line in found)
    assert sum(line.startswith("array") for line in found) == 1


def test_the_script_contains_no_password(place):
    text = script(place, store="postgresql://worker:sEcret%2F@host:5433/db?sslmode=require")
    assert "export HPO_STORE='postgresql://worker@host:5433/db?sslmode=require'" in text
    assert "sEcret" not in text


def test_print_shows_the_script_and_submits_nothing(place):
    with postgres.running(password="sEcret") as server, closed_engines():
        store = server.url.replace("postgres@", "postgres:sEcret@")
        place.here("create", place.study(STUDY.format(epochs=2)), HPO_STORE=store)
        args = ("launch", "small", *SLURM, "--workers", "3", "--option", "time=4:00:00")
        printed = place.hpo(*args, "--print", HPO_STORE=store, PATH="/nonexistent")
        assert printed.out.startswith("#!/bin/bash\n#SBATCH --job-name=hpo-small\n#SBATCH --array=0-2\n")
        assert "#SBATCH --time=4:00:00\n" in printed.out
        assert "sEcret" not in printed.out + printed.err
        assert subprocess.run(["bash", "-n"], input=printed.out, text=True, check=False).returncode == 0
        refused = place.hpo(*args, HPO_STORE=store, PATH="/nonexistent", code=supervisor.EXIT_FATAL)
        assert messages(refused.err)[0].startswith("hpo: --engine slurm: no command 'sbatch' here; ")
        assert not list(place.path.rglob("logs"))


@pytest.fixture(scope="module")
def created(tmp_path_factory):
    """Return a folder with a store that has a study."""
    folder = workplace_in(tmp_path_factory.mktemp("created"))
    (folder.path / "own.py").write_text(OWN)
    folder.here("create", folder.study(STUDY.format(epochs=2)))
    return folder


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({}, "--engine slurm: an SQLite store works on one machine only; "),
        ({"devices": "cuda:1"}, "--devices cuda:1: slurm chooses devices itself; "),
        ({"workers_per_device": 2}, "--workers-per-device is only for local workers; "),
        (
            {"supervision": supervisor.Supervision(grace_seconds=20.0)},
            "--grace-seconds and --backoff-seconds are not for engine slurm: its time to save is ",
        ),
        ({"options": ["--time=1"]}, "--option '--time=1': want KEY=VALUE"),
        ({"options": ["comment=a\nb"]}, "--option 'comment=a\\nb': want KEY=VALUE"),
        ({"engine": "local", "workers": 2}, "--workers is only for engine slurm or ray; "),
        ({"engine": "local", "options": ["time=1"]}, "--option is only for engine slurm or ray; "),
        ({"engine": "local", "print_script": True}, "--print is only for engine slurm; "),
    ],
)
def test_options_that_do_not_fit_the_engine_are_refused_in_one_line(created, monkeypatch, changed, line):
    monkeypatch.chdir(created.path)
    store = f"sqlite:///{created.path}/storage/hpo.db"
    with closed_engines():
        storage = studies.open_storage(store, create=False)
        plain = {"engine": "slurm", "devices": "auto", "workers_per_device": 1, "workers": None}
        plain |= {"options": [], "print_script": False, "supervision": supervisor.DEFAULT_SUPERVISION}
        asked = engines.LaunchRequest(**{**plain, **changed})
        settings = {"HPO_STORE": store, "HPO_ARTIFACTS": "artifacts"}
        with pytest.raises(EngineError) as refused:
            engines.launch_workers(storage, "small", asked, settings, StopSignal())
    assert str(refused.value).startswith(line)


def test_a_folder_for_logs_that_cannot_be_created_is_reported_in_one_line(place, monkeypatch):
    (place.path / "sbatch").write_text("#!/bin/sh\n")
    (place.path / "sbatch").chmod(0o755)
    (place.path / "afile").touch()
    monkeypatch.setenv("PATH", str(place.path))
    group = supervisor.WorkerGroup(study="small", workers=1, gpus=None, settings={}, options={})
    with pytest.raises(EngineError, match=r"no folder .*afile/logs for the logs: Not a directory"):
        slurm.submit_script("", group, place.path / "afile" / "logs")


# The script run by bash, with a real worker


@pytest.fixture
def task(place):
    """Return a function that runs the script like a task of Slurm, but without Slurm."""
    started = []

    def start(form: str = "text") -> subprocess.Popen[str]:
        with (place.path / "log").open("a") as log:
            process = subprocess.Popen(
                ["bash", "-c", script(place, gpus=False, form=form)],
                cwd=place.path,
                env={**place.environment, "SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "0"},
                stderr=log,
                text=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            for pid in [*descendants(process.pid), process.pid]:
                os.kill(pid, signal.SIGKILL)
            process.wait()


def progress(place) -> list[int]:
    path = place.path / "progress"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def create(place, epochs: int) -> None:
    place.here("create", place.study(STUDY.format(epochs=epochs)), HPO_STORE="sqlite:///hpo.db")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_killed_worker_is_restarted_and_the_script_ends_with_the_study(place, task, form):
    create(place, 30)
    process = task(form)
    wait_for(lambda: len(progress(place)) >= 5)
    (worker,) = descendants(process.pid)
    os.kill(worker, signal.SIGKILL)
    assert process.wait(60) == 0
    log = (place.path / "log").read_text()
    if form == "json":
        log = "\n".join(format_text(parse_line(line)) for line in log.splitlines())
    lines = parse_lines(log)
    (death,) = [line for line in lines if line.process == str(worker) and line.level == "WARNING"]
    assert str(death) == "hpo: the worker died with exit code 137; starting it again in 1 s"
    assert {line.study for line in lines} == {"small"}
    assert any("attempt 2, continues after epoch" in line.message for line in lines)
    assert set(progress(place)) == set(range(1, 31))


def test_an_error_that_a_restart_cannot_fix_ends_the_script_with_78(place, task):
    create(place, 2)
    (place.path / "own.py").unlink()
    assert task().wait(60) == supervisor.EXIT_FATAL
    (line,) = parse_lines((place.path / "log").read_text())
    assert line.message.startswith("train.objective: no module 'own'")


def test_a_signal_to_stop_reaches_the_worker_which_saves(place, task):
    create(place, 300)
    process = task()
    wait_for(lambda: len(progress(place)) >= 3)
    process.terminate()
    assert process.wait(30) == 143
    assert "trial 0 released (asked to stop)" in (place.path / "log").read_text()


def test_a_worker_that_gets_two_signals_at_once_still_saves(place):
    create(place, 300)
    worker = place.start("worker", "small", HPO_STORE="sqlite:///hpo.db")
    wait_for(lambda: len(progress(place)) >= 3)
    for _ in range(2):
        worker.terminate()
        wait_for(lambda: pending_signals(worker.pid) == 0, 5)
    _, err = worker.communicate(timeout=120)
    assert worker.returncode == 143
    *_, released, last = parse_lines(err)
    assert released.message == "trial 0 released (asked to stop)"
    assert last.message == "this worker ends: SIGTERM has asked it to stop"


def pending_signals(pid: int) -> int:
    """Return a number that is 0 if no signal is pending for the process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd")))


def test_the_script_names_the_python_that_runs_hpo(place):
    line = next(line for line in script(place).splitlines() if line.startswith("worker=("))
    words = shlex.split(line.removeprefix("worker=(").removesuffix(")"))
    assert words == [sys.executable, "-m", "hpo", "worker", "small", "--device", "cuda:0"]
