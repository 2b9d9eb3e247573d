"""What a custom objective may do to its worker: exit, print, fork, leave threads, ignore its state."""

import json
import signal
import threading

import psutil
import pytest

from hpo.training import custom
from hpo.training.custom_config import CustomConfig
from tests.support.processes import wait_for
from tests.support.workplace import artifact, load

OWN = r"""
import multiprocessing
import os
import sys
import threading
import time


class Mute(Exception):
    def __str__(self):
        raise SystemExit("no text")


class Own(BaseException):
    pass


def misbehave(config, state):
    print("printed by", config.kind, flush=True)
    if config.kind == "exit_zero":
        sys.exit(0)
    if config.kind == "exit_text":
        sys.exit("no licence left")
    if config.kind == "exit_three":
        sys.exit(3)
    if config.kind == "interrupt":
        raise KeyboardInterrupt
    if config.kind == "base":
        raise Own("at the base")
    if config.kind == "generator_exit":
        raise GeneratorExit
    if config.kind == "mute":
        raise Mute
    if config.kind == "surrogate":
        raise ValueError("no image caf\udce9.png")
    if config.kind == "hpo_error":
        from hpo.errors import DataError
        raise DataError("not hpo's own")
    yield 0.5, None


def returns(config, state):
    return 0.5


def returns_pair(config, state):
    return 0.5, state


def counts(config, state):
    for epoch in range(1, config.epochs + 1):
        yield epoch / 10, {"epoch": epoch}


def restarts(config, state):
    weight = state["weight"] if state else 0
    for epoch in range(config.first, config.epochs + config.first):
        yield (epoch + 1 - config.first) / 10, {"epoch": epoch, "weight": weight + 1}


def continues(config, state):
    state = state or {"epoch": config.first - 1}
    while state["epoch"] < config.epochs + config.first - 1:
        state["epoch"] += 1
        yield (state["epoch"] + 1 - config.first) / 10, state


def stateless(config, state):
    for epoch in range(1, config.epochs + 1):
        yield epoch / 10, None


def names(config, state):
    yield config.copy + config["json"] + config.dict + config.model_dump, None


def wanders(config, state):
    for epoch in range(3):
        os.makedirs("elsewhere", exist_ok=True)
        os.chdir("elsewhere")
        yield 0.5, {"state": state, "epoch": epoch}


def square(number):
    return number**2


def forks(config, state):
    if config.kind == "loader":
        import torch

        data = torch.utils.data.DataLoader(torch.arange(4), num_workers=2)
        assert len(list(data)) == 4
    if config.kind == "pool":
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(square, [1, 2]) == [1, 4]
    if config.kind == "input":
        try:
            input()
        except EOFError:
            print("there is no input")
    if config.kind == "waits":
        threading.Thread(target=time.sleep, args=(1000,)).start()
        child = os.fork()
        if child == 0:
            while True:
                time.sleep(1000)
        with open("child", "w") as file:
            file.write(str(child))
    for epoch in range(config.epochs):
        time.sleep(0.01)
        yield 0.5, {"epoch": epoch}
"""


def points(objective: str, *kinds: str) -> str:
    head = f'[train]\nobjective = "own:{objective}"\nepochs = 1\n'
    head += '[search]\nsampler = "grid"\nmax_failures = 0\n'
    return head + "".join(f'[[points]]\nkind = "{kind}"\n' for kind in kinds)


def test_whatever_an_objective_raises_fails_its_trial_alone(place):
    messages = {
        "exit_zero": "own:misbehave raised SystemExit: 0",
        "exit_text": "own:misbehave raised SystemExit: no licence left",
        "exit_three": "own:misbehave raised SystemExit: 3",
        "interrupt": "own:misbehave raised KeyboardInterrupt",
        "base": "own:misbehave raised own.Own: at the base",
        "generator_exit": "own:misbehave raised GeneratorExit",
        "mute": "Mute, whose text raises SystemExit",
        "surrogate": r"no image caf\udce9.png",
        "hpo_error": "own:misbehave raised hpo.errors.DataError: not hpo's own",
    }
    place.here("create", place.study(points("misbehave", *messages, "good")))
    place.here("worker", "small")
    *failed, good = load(place).trials
    found = {trial.params["kind"]: trial.user_attrs["failure"]["message"] for trial in failed}
    assert found == messages
    assert {trial.state.name for trial in failed} == {"FAIL"}
    assert {trial.user_attrs["failure"]["class"] for trial in failed} >= {"RuntimeError", "Mute"}
    assert good.state.name == "COMPLETE"
    folder = artifact(place, load(place).user_attrs["folder"])
    assert r"caf\udce9.png" in (folder / f"{failed[-2].number:04d}" / "traceback.txt").read_text()
    place.here("trials", "small").out.encode()


@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError])
def test_a_second_ctrl_c_or_a_lost_supervisor_is_not_an_error_of_the_objective(place, monkeypatch, error):
    monkeypatch.chdir(place.path)
    monkeypatch.syspath_prepend(place.path)
    config = CustomConfig.model_validate({"objective": "own:misbehave", "kind": "interrupt"})
    run = custom.CustomRun(config, stop=threading.Event())

    def interrupted(config, state):
        run.stop.set()
        raise error

    monkeypatch.setattr(run, "objective", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(run.epochs())


@pytest.mark.parametrize(("objective", "found"), [("returns", "0.5"), ("returns_pair", "(0.5, None)")])
def test_a_function_that_returns_is_told_to_yield(place, objective, found):
    place.here("create", place.study(points(objective, "a")))
    place.here("worker", "small")
    (trial,) = load(place).trials
    assert trial.user_attrs["failure"]["message"] == (
        f"own:{objective} returned {found}; want a generator: 'yield accuracy, state' after each epoch, "
        "not 'return'"
    )


def resumed(place, monkeypatch, objective: str, own: object, first: int = 1) -> custom.CustomRun:
    """Return a run of five epochs after two of them; its state may number them from ``first``."""
    monkeypatch.chdir(place.path)
    monkeypatch.syspath_prepend(place.path)
    config = CustomConfig.model_validate({"objective": f"own:{objective}", "epochs": 5, "first": first})
    run = custom.CustomRun(config)
    epochs = run.epochs()
    assert [next(epochs).value, next(epochs).value] == [0.1, 0.2]
    assert run.own_state == own
    return custom.CustomRun(config, state=run.state())


def test_a_function_that_never_reads_its_state_fails_when_it_is_resumed(place, monkeypatch):
    run = resumed(place, monkeypatch, "counts", {"epoch": 2})
    with pytest.raises(
        ValueError, match=r"own:counts never reads .*its first epoch would count as epoch 3"
    ):
        next(run.epochs())


@pytest.mark.parametrize("first", [0, 1])
def test_a_state_whose_epoch_does_not_follow_fails_its_trial(place, monkeypatch, first):
    run = resumed(place, monkeypatch, "restarts", {"epoch": first + 1, "weight": 1}, first)
    with pytest.raises(
        ValueError, match=rf"own:restarts was given a state with epoch {first + 1} and "
    ) as at:
        next(run.epochs())
    assert f"yielded one with epoch {first}; let it continue after epoch {first + 1}, or" in str(at.value)


@pytest.mark.parametrize("first", [0, 1])
def test_a_state_whose_epoch_follows_continues_its_trial(place, monkeypatch, first):
    run = resumed(place, monkeypatch, "continues", {"epoch": first + 1}, first)
    assert [epoch.value for epoch in run.epochs()] == [0.3, 0.4, 0.5]


def test_a_function_without_a_state_starts_again_from_its_first_epoch(place, monkeypatch, caplog):
    run = resumed(place, monkeypatch, "stateless", None)
    assert [epoch.value for epoch in run.epochs()] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert [epoch.number for epoch in run.history] == [1, 2, 3, 4, 5]
    assert "own:stateless yields no state, so the trial starts again from its first epoch" in caplog.text


@pytest.mark.parametrize(
    ("body", "reads"),
    [
        ("yield state", True),
        ("yield from (state for _ in 'a')", True),
        ("yield locals()", True),
        ("state = None; yield state", True),
        ("yield 1", False),
        ("state = None; yield 1", False),
    ],
)
def test_whether_a_function_reads_its_state_is_seen_in_its_code(body, reads):
    namespace = {}
    exec(f"def run(config, state):\n    {body}", namespace)
    assert custom.reads_state(namespace["run"]) == reads


def test_an_objective_may_change_the_working_directory(place):
    place.here("create", place.study(points("wanders", "a", "b") + "epochs = 3\n"))
    place.here("worker", "small")
    assert [trial.state.name for trial in load(place).trials] == ["COMPLETE"] * 2
    for trial in load(place).trials:
        assert artifact(place, trial.user_attrs["weights"]).exists()
    assert not [*(place.path / "elsewhere").rglob("storage")]


def test_option_names_hide_the_methods_of_pydantic(place):
    options = "copy = 0.25\njson = 0.125\ndict = 0.0625\nmodel_dump = 0.0\n"
    text = points("names", "a").replace("epochs = 1\n", f"epochs = 1\n{options}")
    place.here("create", place.study(text))
    place.here("worker", "small")
    (trial,) = load(place).trials
    assert trial.value == 0.4375, trial.user_attrs
    folder = artifact(place, load(place).user_attrs["folder"]) / "0000"
    assert json.loads((folder / "settings.json").read_text())["settings"]["copy"] == 0.25


def has_ended(process: psutil.Process) -> bool:
    """Return whether a process has ended, be it that nobody has waited for it yet (a zombie)."""
    try:
        return process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True


def test_what_an_objective_starts_neither_hangs_nor_outlives_its_worker(place):
    """A loader and a pool work, a forked child and a thread end with the worker, stdout stays empty."""
    text = points("forks", "loader", "pool", "input", "waits")
    file = place.study(text + "epochs = 100000\n")
    run = place.start("run", file, "--devices", "cpu:1", "--grace-seconds", "20")
    wait_for((place.path / "child").exists)
    wait_for((place.path / "child").read_text)
    child = psutil.Process(int((place.path / "child").read_text()))
    assert child.is_running()
    run.send_signal(signal.SIGTERM)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM, err
    assert [trial.state.name for trial in load(place).trials] == ["COMPLETE"] * 3 + ["WAITING"], err
    assert out == ""
    assert "there is no input" in err
    assert "died" not in err
    assert has_ended(child)
