"""A custom objective: a function that yields (accuracy, state) after each epoch."""

import math

import optuna
import pytest
import torch
from optuna.trial import TrialState

from hpo.search import pruners
from hpo.store import process, queue, studies
from hpo.store.history import History
from hpo.training import custom
from hpo.training.custom_config import CustomConfig
from hpo.training.metric import METRICS
from hpo.workers import pruning
from tests.support.workplace import artifact, load

OWN = """
import os, time
import numpy as np
import torch


def climb(config, state):
    state = state or {"epoch": 0, "weight": torch.zeros(2), "seen": []}
    while state["epoch"] < config.epochs:
        time.sleep(config.seconds)
        state["epoch"] += 1
        state["weight"] += config.speed
        state["seen"].append(os.getpid())
        yield 1 - 1 / (1 + state["epoch"] * config["speed"]), state


def short(config, state):
    yield 0.5, None


def nothing(config, state):
    return iter(())


def picky(config, state):
    if config.kind == "a":
        raise ValueError("not this one")
    yield 0.5, None


def broken(config, state):
    raise RuntimeError("no such luck")
    yield


def lost(config, state):
    yield 0.5, None
    open("no.png")


def silent(config, state):
    raise TimeoutError("no answer")


def bare(config, state):
    yield 0.5


def scored(config, state):
    best = np.float64(state["best"] if state else 0.0)
    while best < 0.5:
        best += 0.125
        yield best, {"best": best}


def arrayed(config, state):
    with open("arrayed", "a") as file:
        print(config.speed, file=file)
    for epoch in range(1, config.epochs + 1):
        time.sleep(config.seconds)
        yield epoch / 10, {"epoch": epoch, "weight": np.zeros(2)}


def worded(config, state):
    yield "0.5", None
"""

STUDY = """
[train]
objective = "own:climb"
epochs = 4
seconds = 0.0

[space]
speed = { low = 0.1, high = 10.0, log = true }
kind = ["a", "b"]
depth = { low = 1, high = 4, when = { kind = "b" } }

[search]
trials = 5
pruner = "none"

[[points]]
speed = 1.0
kind = "a"
"""


def test_a_custom_objective_is_searched_over_its_own_parameters(place):
    place.here("create", place.study(STUDY))
    done = place.here("worker", "small")
    study = load(place)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 6
    assert study.trials[0].params == {"speed": 1.0, "kind": "a"}
    for trial in study.trials:
        assert ("depth" in trial.params) == (trial.params["kind"] == "b")
        speed = trial.params["speed"]
        expected = {epoch: 1 - 1 / (1 + epoch * speed) for epoch in (1, 2, 3, 4)}
        assert trial.intermediate_values == pytest.approx(expected)
        assert trial.value == pytest.approx(expected[4])
        best = torch.load(artifact(place, trial.user_attrs["weights"]), weights_only=True)
        assert best["weight"].tolist() == pytest.approx([4 * speed] * 2)
    assert "as the study's own objective measures it" in place.here("best", "small").out
    assert "trial 0 starts: speed 1, kind a, 4 epochs" in done.err


@pytest.mark.parametrize("pruner", ["asha", "freeze_thaw"])
def test_pruning_stops_poor_trials_but_no_points(place, pruner):
    text = f"""
    [train]
    objective = "own:climb"
    epochs = 4
    seconds = 0.0
    [space]
    speed = [10.0, 9.0, 8.0, 7.0, 0.04, 0.03, 0.02, 0.01]
    [search]
    trials = 6
    sampler = "random"
    pruner = {{ name = "{pruner}", min_epochs = 1, reduction_factor = 2 }}
    [[points]]
    speed = 10.0
    [[points]]
    speed = 0.01
    """
    place.here("create", place.study(text))
    place.here("worker", "small")
    trials = load(place).trials
    assert [trial.state.name for trial in trials[:2]] == ["COMPLETE"] * 2
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert pruned
    for trial in pruned:
        last = max(trial.intermediate_values)
        assert last < 4
        assert trial.value == trial.intermediate_values[last]
        assert trial.user_attrs["pruned"].startswith(f"by {pruner}: ")


def test_an_objective_may_end_before_its_last_epoch(place):
    place.here("create", place.study(STUDY), "--set", "train.objective=own:short")
    place.here("worker", "small")
    assert {trial.value for trial in load(place).trials} == {0.5}
    assert {trial.user_attrs["epochs"] for trial in load(place).trials} == {1}


def test_numpy_numbers_are_accepted_as_accuracy_and_state(place):
    place.here("create", place.study(STUDY), "--set", "train.objective=own:scored")
    place.here("worker", "small")
    assert {trial.value for trial in load(place).trials} == {0.5}
    for trial in load(place).trials:
        best = torch.load(artifact(place, trial.user_attrs["weights"]), weights_only=True)
        assert best == {"best": 0.5}


@pytest.mark.parametrize("epochs", [1, 100])
def test_a_state_that_could_not_be_loaded_fails_its_trial_once_at_the_first_save(place, epochs):
    text = STUDY.replace("trials = 5", "trials = 0").replace("seconds = 0.0", "seconds = 0.1")
    objective = ("--set", "train.objective=own:arrayed", "--set", f"train.epochs={epochs}")
    place.here("create", place.study(text), *objective)
    place.here("worker", "small")
    (trial,) = load(place).trials
    assert (trial.state.name, trial.user_attrs["failure"]["class"]) == ("FAIL", "TypeError")
    message = trial.user_attrs["failure"]["message"]
    assert message.startswith("own:arrayed yielded a state that could not be loaded again: state")
    assert "is a numpy.ndarray; want tensors (torch.as_tensor(x))" in message
    assert "\n" not in message
    assert len(trial.intermediate_values) < 20
    assert (place.path / "arrayed").read_text().count("\n") == 1
    assert not list(place.path.glob("storage/artifacts/*/0000/*.pt"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "own:nothing yielded nothing"),
        ("broken", "no such luck"),
        ("lost", "own:lost raised FileNotFoundError: [Errno 2] No such file or directory: 'no.png'"),
        ("silent", "own:silent raised TimeoutError: no answer"),
        ("bare", "own:bare yielded 0.5; want (accuracy, state), or (accuracy, state, metrics)"),
        ("worded", "own:worded yielded the string '0.5' as the accuracy; want a finite number"),
    ],
)
def test_an_objective_that_raises_or_yields_wrong_values_fails_its_trial(place, name, message):
    text = STUDY.replace("trials = 5", "trials = 0")
    place.here("create", place.study(text), "--set", f"train.objective=own:{name}")
    place.here("worker", "small")
    (trial,) = load(place).trials
    assert trial.state.name == "FAIL"
    assert trial.user_attrs["failure"]["message"] == message
    folder = artifact(place, load(place).user_attrs["folder"]) / "0000"
    assert message in (folder / "traceback.txt").read_text()
    assert message in place.here("trials", "small").out


def test_a_failed_trial_does_not_stop_the_others(place):
    text = STUDY.replace("trials = 5", "trials = 0") + '[[points]]\nspeed = 0.5\nkind = "b"\ndepth = 2\n'
    file = place.study(text.replace("own:climb", "own:picky"))
    place.here("create", file)
    place.here("worker", "small")
    assert [trial.state.name for trial in load(place).trials] == ["FAIL", "COMPLETE"]


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("own:clmb", "module 'own' has no function 'clmb'; did you mean 'climb'?"),
        ("won:climb", "no module 'won'"),
        ("own.part:climb", "no module 'own.part'"),
        ("climb", "train.objective"),
    ],
)
def test_a_missing_objective_is_reported_in_one_line(place, objective, message):
    done = place.here("create", place.study(STUDY), "--set", f"train.objective={objective}", code=1)
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not (place.path / "storage").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("speed = 1.0\n", ""), "speed is left out, is searched and has no default; name it"),
        (("speed = 1.0\n", "speed = 99.0\n"), "outside of what space.speed searches"),
        (("seconds = 0.0", "seconds = [1, 2]"), "want a number, a string, true or false, found [1, 2]"),
        (('kind = "b" }', 'knid = "b" }'), "knid is neither fixed nor searched; did you mean 'kind'?"),
        (
            ("seconds = 0.0", "lambda = 2"),
            "train.lambda: 'lambda' is a keyword of Python, so config.lambda ",
        ),
        (("epochs = 4", "epochs = 0"), "train.epochs: want a whole number, at least 1"),
        (("low = 0.1, high = 10.0", 'low = "a", high = "b"'), "space.speed"),
    ],
)
def test_a_study_file_with_a_custom_objective_is_checked(place, change, message):
    done = place.here("create", place.study(STUDY.replace(*change)), code=1)
    assert message in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (
            "speed = 1.0\nkind = 'b'\ndepth = 2.5",
            "depth: found 2.5, outside of what space.depth searches "
            "(whole numbers 1 to 4, when kind is 'b')",
        ),
        (
            "speed = 1.0\nkind = 'a'\ndepth = 2",
            "depth: space.depth has it only when kind is 'b'; leave it out",
        ),
        ("speed = 1.0\nkind = 'a'\ndepht = 2", "depht is not an option; did you mean 'depth'? options: "),
    ],
)
def test_a_point_of_a_custom_objective_is_checked_in_a_file_and_when_queued(place, point, message):
    text = STUDY.partition("[[points]]")[0] + f"[[points]]\n{point}\n"
    done = place.here("create", place.study(text), code=1)
    assert message in done.err
    assert done.err.count("\n") == 1
    place.here("create", place.study(STUDY))
    done = place.here("enqueue", "small", *point.splitlines(), code=1)
    assert message in done.err
    assert load(place).user_attrs["folder"]
    assert len(load(place).trials) == 6


def test_what_an_objective_prints_is_not_in_the_json_of_a_plan(place):
    (place.path / "prints.py").write_text(
        "print('imported')\ndef climb(config, state):\n    print('an epoch')\n    yield 0.5, None\n"
    )
    done = place.here("plan", place.study(STUDY.replace("own:climb", "prints:climb")), "--json")
    assert done.json()["parts"]
    assert "imported\ntrial 0: an epoch\n" in done.err


def test_settings_are_read_as_attributes_and_as_items():
    config = CustomConfig.model_validate({"objective": "a:b", "lr": 0.1})
    assert config.lr == config["lr"] == 0.1
    assert (config.epochs, config["seed"]) == (20, 0)
    with pytest.raises(KeyError):
        config["momentum"]


def test_an_accuracy_of_nan_is_refused(tmp_path, monkeypatch):
    (tmp_path / "nan_objective.py").write_text("def run(config, state):\n    yield float('nan'), None\n")
    monkeypatch.chdir(tmp_path)
    run = custom.CustomRun(CustomConfig(objective="nan_objective:run"))
    with pytest.raises(ValueError, match="nan_objective:run yielded nan as the accuracy; want a finite"):
        list(run.epochs())
    assert not any(math.isnan(epoch.value) for epoch in run.history)


def test_a_trial_whose_worker_dies_after_the_decision_is_pruned_by_the_next_worker(place, url):
    text = STUDY.replace('pruner = "none"', 'pruner = { name = "hyperband", min_epochs = 4 }')
    place.here("create", place.study(text), "--set", "train.epochs=9", HPO_STORE=url)
    storage = studies.open_storage(url, create=False)
    study_id = studies.find_study_id(storage, "small")
    owner = process.current_owner("cpu")
    definition = studies.read_definition(storage, "small")
    history = History(storage, study_id, "small", METRICS["accuracy"])
    study = optuna.Study("small", history, pruner=pruners.build_pruner(definition))
    decisions = []
    for accuracy in (0.0, 0.9, 0.8, 0.1):  # the first is the point, which is never pruned
        claim = queue.claim_trial(storage, study_id, owner, lease_seconds=60.0, max_attempts=9)
        for report in ((4, accuracy), None):  # the second time: as the next attempt does
            history.begin_trial(claim.trial_id)
            trial_pruner = pruning.TrialPruner(study, history, definition)
            if report:
                trial_pruner.note_report(*report)
            claim.commit(report=report, ask_pruner=trial_pruner.decide)
            try:
                trial_pruner.raise_if_pruned()
                decisions.append(False)
            except pruning.TrialPrunedByRule as pruned:
                decisions.append(True)
                attributes = pruned.attributes
    claim.end(TrialState.PRUNED, system_attributes=attributes)
    assert decisions == [False, False, False, False, True, True, True, True]
    last = optuna.load_study(study_name="small", storage=url).trials[claim.number]
    assert last.system_attrs["completed_rung_0"] == 0.1
