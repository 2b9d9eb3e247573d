"""A small study for tests of the Python API: a dict, and the objective that it names."""

from typing import Any

NAME = "small"
STUDY: dict[str, Any] = {
    "name": NAME,
    "train": {"objective": "tests.support.api_study:climb", "epochs": 3},
    "space": {"speed": {"low": 0.1, "high": 0.3}, "kind": ["a", "b"]},
    "search": {"trials": 4, "sampler": {"name": "random", "seed": 0}, "pruner": "none"},
}


def climb(config, state):
    """Yield a value that grows with each epoch; fail if the setting says so."""
    state = state or {"epoch": 0}
    if config.kind == "c":
        raise RuntimeError("no luck")
    while state["epoch"] < config.epochs:
        state["epoch"] += 1
        yield config.speed * state["epoch"], state
