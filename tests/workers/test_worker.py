"""A worker runs one trial after another."""

import subprocess
import sys

import pytest
import torch

from hpo.store import queue
from tests.support.workplace import load

OWN = """
import os
import signal
import torch


def climb(config, state):
    state = state or {"epoch": 0}
    while state["epoch"] < config.epochs:
        state["epoch"] += 1
        if torch.get_num_threads() == 2 and state["epoch"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        yield torch.get_num_threads() / 100, state
"""

STUDY = """
[train]
objective = "own:climb"
epochs = 2

[search]
sampler = "grid"

[[points]]
speed = 1.0

[[points]]
speed = 2.0
"""


@pytest.fixture
def set_threads():
    """Return the function that sets the number of threads; the number is restored after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_a_resumed_trial_keeps_its_number_of_threads_and_the_next_has_the_workers(place, set_threads):
    place.here("create", place.study(STUDY))
    set_threads(2)
    place.here("worker", "small", code=143)
    set_threads(1)
    place.here("worker", "small")
    resumed, new = load(place).trials
    assert (resumed.user_attrs["attempts"], new.user_attrs["attempts"]) == (2, 1)
    assert [each.user_attrs["hardware"]["threads"] for each in (resumed, new)] == [2, 1]
    assert (resumed.value, new.value) == (0.02, 0.01)


def test_what_a_killed_attempt_began_to_write_is_removed_at_the_end(place, set_threads):
    place.here("create", place.study(STUDY))
    set_threads(2)
    place.here("worker", "small", code=143)
    (folder,) = place.path.glob("storage/artifacts/*/0000")
    (folder / "tmp1234.draft").write_bytes(b"half a checkpoint")
    set_threads(1)
    place.here("worker", "small")
    assert (folder / "epochs.csv").is_file()
    assert not list(folder.glob("*.draft"))


def test_a_trial_added_by_an_extension_just_before_its_claim_runs_with_the_new_definition(
    place, monkeypatch, set_threads
):
    set_threads(1)
    claim = queue.claim_trial
    small = place.study(STUDY)
    place.here("create", small)
    more = place.study(STUDY + "\n[[points]]\nspeed = 3.0\nwidth = 4\n", "more")

    def claim_late(*args, **options):
        if [trial.state.name for trial in load(place).trials] == ["COMPLETE"] * 2:
            place.hpo("create", more, "--name", "small")
        return claim(*args, **options)

    monkeypatch.setattr(queue, "claim_trial", claim_late)
    place.here("worker", "small")
    trials = load(place).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert trials[2].params == {"speed": 3.0, "width": 4}


def test_a_worker_with_a_custom_objective_imports_neither_torchvision_nor_the_parts_of_scipy(place):
    place.here("create", place.study(STUDY))
    code = """
import sys
from hpo.cli import main
sys.argv = ["hpo", "worker", "small"]
try:
    main.run_command_line()
except SystemExit as error:
    assert error.code == 0
print(sorted({"torchvision", "scipy.linalg", "scipy.special", "scipy.stats"} & sys.modules.keys()))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=place.path, env=place.environment)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
