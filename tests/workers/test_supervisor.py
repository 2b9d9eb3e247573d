"""Workers under a supervisor: what it does when one dies."""

import errno
import subprocess
import sys
from types import SimpleNamespace

import pytest

from hpo.cli import progress
from tests.support.workplace import load

OWN = """
import os
import pathlib
import signal


def climb(config, state):
    if config.speed == 1.0 and not pathlib.Path("died").exists():
        pathlib.Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
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
    err = place.here("launch", "small", "--devices", "cpu:1").err
    assert "a worker on cpu died of SIGKILL; starting it again in 1 s" in err
    assert "no worker starts on cpu (Resource temporarily unavailable); trying again in 2 s" in err
    assert [trial.state.name for trial in load(place).trials] == ["COMPLETE"] * 2
    first, _, second = started
    for process in (first, second):
        with process:  # closes its pipes
            assert process.returncode is not None


def test_a_line_is_written_with_one_call(monkeypatch):
    """Each worker's lines are written by their own thread, so a line must not be split."""
    written = []
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=written.append, flush=lambda: None))
    progress.print_stderr("trial 0 starts")
    assert written == ["trial 0 starts\n"]
