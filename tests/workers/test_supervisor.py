"""Workers under a supervisor: what it does when one dies."""

import errno
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from hpo import log_records, logs
from hpo.errors import HpoError, WorkerStartError
from hpo.training import devices
from hpo.workers import supervisor
from tests.support.log_lines import messages, parse_lines
from tests.support.workplace import load

OWN = """
import os
import pathlib
import signal


def climb(config, state):
    if config.speed == 1.0 and not pathlib.Path("died").exists():
        pathlib.Path("died").touch()
        os.kill(os.getpid(), signal.SIGRTMIN + 3)
    yield 0.5, None
"""

STUDY = """
[train]
objective = "own:climb"
epochs = 1

[search]
sampler = "grid"

[[points]]
speed = 1.0

[[points]]
speed = 2.0
"""


# Stands in for two workers: the first that starts exits for good, once the other one runs.
STAND_IN = """
import logging, pathlib, sys, time
from hpo import log_records

try:
    pathlib.Path("first").mkdir()
except FileExistsError:
    pathlib.Path("second").touch()
    time.sleep(600)
while not pathlib.Path("second").exists():
    time.sleep(0.02)
print(log_records.format_json(log_records.new_record("no such luck", logging.ERROR, log_records.EXIT)))
sys.exit(78)
"""


@pytest.mark.processes
def test_a_log_file_says_why_its_worker_is_asked_to_stop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supervisor, "HPO_COMMAND", (sys.executable, "-c", STAND_IN))
    workers = [devices.WorkerDevice(name=name, threads=1) for name in ("gpu 0", "gpu 1")]
    logs_folder, stop, told = tmp_path / "logs", threading.Event(), []
    running = supervisor.supervise_processes("small", workers, {}, logs_folder, stop, told.append)
    with pytest.raises(HpoError, match="no such luck"):
        list(running)
    one, other = (parse_lines(file.read_text()) for file in logs_folder.glob("*.log"))
    ended, stopped = (one, other) if one[-1].message == "no such luck" else (other, one)
    (line,) = [each.message for each in stopped if "is asked to stop" in each.message]
    first, second = (each[0].message.removeprefix("a worker starts on ") for each in (ended, stopped))
    assert {first, second} == {"gpu 0", "gpu 1"}
    why = f"the one on {first} (process {ended[0].process}) has ended: no such luck"
    assert line == f"the worker on {second} is asked to stop: {why}"
    assert line in [record.getMessage() for record in told]


@pytest.mark.processes
def test_a_worker_that_cannot_be_restarted_at_once_is_restarted_later(place, monkeypatch):
    start, started = subprocess.Popen, []

    def refused_once(*args, **options):
        started.append(None)
        if len(started) == 2:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        started[-1] = start(*args, **options)
        return started[-1]

    place.here("create", place.study(STUDY))
    monkeypatch.setattr(subprocess, "Popen", refused_once)
    err = place.here("launch", "small", "--devices", "cpu:1", "--backoff-seconds", "0.5").err
    number = signal.SIGRTMIN + 3  # has no name
    which = f"a worker on cpu (process {started[0].pid}, trial 0)"
    assert f"{which} died of signal {number}; starting it again in 0.5 s" in err
    assert "no worker starts on cpu (Resource temporarily unavailable); trying again in 1 s" in err
    assert [trial.state.name for trial in load(place).trials] == ["COMPLETE"] * 2
    first, _, second = started
    for process in (first, second):
        with process:  # closes its pipes
            assert process.returncode is not None


@pytest.mark.parametrize(
    "refusal",
    [
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
    ],
)
def test_a_first_worker_that_cannot_start_is_reported_in_one_line(place, monkeypatch, refusal):
    def refused(*args, **options):
        raise refusal

    place.here("create", place.study(STUDY))
    monkeypatch.setattr(subprocess, "Popen", refused)
    _, line = messages(place.here("launch", "small", "--devices", "cpu:1", code=1).err)
    assert line.startswith(f"hpo: no worker starts on cpu: {sys.executable}: {refusal.strerror}; ")


@pytest.mark.processes
def test_a_worker_whose_output_no_thread_can_read_is_killed(place, monkeypatch):
    started, start_thread = [], threading.Thread.start

    def refused(self):
        if self.name != "print":
            raise RuntimeError("can't start new thread")
        start_thread(self)

    def start(*args, **options):
        started.append(popen(*args, **options))
        return started[-1]

    place.here("create", place.study(STUDY))
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(threading.Thread, "start", refused)
    err = place.here("launch", "small", "--devices", "cpu:1", code=1).err
    assert "hpo: no worker starts on cpu: " in err
    with started[0] as process:
        assert process.returncode == -signal.SIGKILL


def test_a_machine_without_a_thread_starts_no_worker(place, monkeypatch):
    def refused(*args, **options):
        raise RuntimeError("can't start new thread")

    place.here("create", place.study(STUDY))
    monkeypatch.setattr(threading.Thread, "start", refused)
    _, line = messages(place.here("launch", "small", "--devices", "cpu:1", code=1).err)
    assert line.startswith("hpo: no thread starts to print beside the workers: can't start new thread; ")


@pytest.mark.processes
def test_workers_that_have_started_are_killed_if_another_one_cannot_start(place, monkeypatch):
    start, started = subprocess.Popen, []

    def refused(*args, **options):
        if started:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(start(*args, **options))
        return started[-1]

    place.here("create", place.study(STUDY))
    monkeypatch.setattr(subprocess, "Popen", refused)
    settings = {"HPO_STORE": f"sqlite:///{place.path}/storage/hpo.db"}
    workers = [devices.WorkerDevice(name="cpu", threads=1)] * 2
    with pytest.raises(WorkerStartError):
        next(
            supervisor.supervise_processes(
                "small", workers, settings, place.path / "logs", threading.Event(), print
            )
        )
    with started[0] as process:
        assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("seconds", ["nan", "-1", "1e9"])
@pytest.mark.parametrize("option", ["--grace-seconds", "--backoff-seconds", "--lease-seconds"])
def test_a_time_out_of_range_is_refused(place, option, seconds):
    assert option in place.here("launch", "small", option, seconds, code=2).err


def test_a_line_is_written_with_one_call(monkeypatch):
    """Each worker's lines are written by their own thread, so a line must not be split."""
    written = []
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=written.append, flush=lambda: None))
    logs.tell("trial 0 starts", name=log_records.PROGRESS)
    assert written == ["trial 0 starts\n"]
