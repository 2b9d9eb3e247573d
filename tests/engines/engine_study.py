"""The study of the engines' tests (the original's 14 points, a second or two each), and checks of it."""

import itertools
import json
import os
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.support.processes import wait_for
from tests.support.workplace import ROOT, Workplace

# Each epoch logs the process that ran it, when and where. A trial begins once the file "hold", if there is
# one, has the number of its point or a higher one.
OWN = """
import json
import os
import time

import torch


def is_held(config):
    if not os.path.exists("hold"):
        return False
    with open("hold") as file:
        return config.point_number > int(file.read() or 0)


def climb(config, state):
    state = state or {"epoch": 0, "weight": torch.zeros(1000)}
    node = os.environ.get("SLURMD_NODENAME") or os.environ.get("RAY_NODE") or "here"
    while is_held(config):
        time.sleep(0.1)
    while state["epoch"] < config.epochs:
        started = time.time()
        time.sleep(config.seconds)
        state["epoch"] += 1
        line = {
            "node": node, "device": os.environ.get("CUDA_VISIBLE_DEVICES", ""), "pid": os.getpid(),
            "started": started, "ended": time.time(), "epoch": state["epoch"],
        }
        with open("progress", "a") as file:
            file.write(json.dumps(line) + "\\n")
        yield 1 - 1 / (1 + state["epoch"]), state
"""
EPOCHS = 4


def study(points: int = 14, epochs: int = EPOCHS, seconds: float = 0.4) -> str:
    """Return a study with the original's first points, whose epochs each take a number of seconds."""
    original = tomllib.loads((ROOT / "studies/original-grid.toml").read_text())
    text = f'[train]\nobjective = "own:climb"\nepochs = {epochs}\nseconds = {seconds}\n'
    text += '[search]\nsampler = "grid"\n'
    for number, point in enumerate(original["points"][:points], 1):
        kept = {key: value for key, value in point.items() if key not in ("site", "epochs")}
        text += f"\n[[points]]\npoint_number = {number}\n"
        text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in kept.items())
    return text


def wait(condition: Callable[[], Any]) -> Any:
    """Wait as ``wait_for`` does, for as long as clusters on a busy machine may need."""
    return wait_for(condition, 400)


def progress(folder: Path) -> list[dict[str, Any]]:
    """Return every trained epoch, in the order in which they ended."""
    path = folder / "progress"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def nodes(folder: Path) -> set[str]:
    return {line["node"] for line in progress(folder)}


def trials(url: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="small", storage=url).trials


def hold_after(at: Workplace, point: int) -> None:
    """Let trials of later points wait at their beginning, until the file is written anew or removed."""
    (at.path / "hold").write_text(str(point))


def are_held(url: str, *, complete: int, workers: int = 2) -> bool:
    """Return whether so many trials are complete, and as many workers have one that is held."""
    states = Counter(trial.state.name for trial in trials(url))
    return (states["COMPLETE"], states["RUNNING"]) == (complete, workers)


def check(url: str, *, points: int = 14, epochs: int = EPOCHS) -> None:
    """Check that each point ran exactly once to its end, with every epoch."""
    ran = trials(url)
    assert [trial.state.name for trial in ran] == ["COMPLETE"] * points
    assert sorted(trial.params["point_number"] for trial in ran) == list(range(1, points + 1))
    for trial in ran:
        assert sorted(trial.intermediate_values) == list(range(1, epochs + 1))


def overlapping_epochs(folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield pairs of epochs that two workers trained on one device at the same time."""
    for one, other in itertools.combinations(progress(folder), 2):
        same = (one["node"], one["device"]) == (other["node"], other["device"])
        if (
            same
            and one["pid"] != other["pid"]
            and max(one["started"], other["started"]) < min(one["ended"], other["ended"])
        ):
            yield one, other


def command_lines() -> str:
    """Return the command lines of all processes."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(lines)


def require(missing: str) -> None:
    """Skip the test if its engine lacks something; in CI, fail instead."""
    if missing:
        assert os.environ.get("CI") != "true", missing
        pytest.skip(missing)
