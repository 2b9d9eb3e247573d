"""A custom objective of two numbers and 20 epochs passes through every verb that trains or reports."""

import json
import os
import re
import signal

import optuna
from optuna.trial import TrialState

from hpo.search.asha import PAUSED_AT_RUNG, PROMOTED_PAST_RUNG
from tests.support.processes import descendants, wait_for

OWN = """
import os
import time


def hill(config, state):
    state = state or {"epoch": 0, "processes": []}
    while state["epoch"] < config.epochs:
        time.sleep(0.04)
        state["epoch"] += 1
        state["processes"].append(os.getpid())
        height = 0.9 - (config.x - 0.3) ** 2 - (config.y - 0.7) ** 2 / 2
        yield max(height, 0.0) * (1 - 0.5 / state["epoch"]), state
"""

STUDY = """
[train]
objective = "own:hill"
epochs = 20

[space]
x = { low = 0.0, high = 1.0 }
y = { low = 0.0, high = 1.0 }

[search]
trials = 15
"""


def test_a_custom_objective_passes_plan_run_simulate_finish_and_report(place):
    file, store = place.study(STUDY), f"sqlite:///{place.path}/storage/hpo.db"
    (part,) = place.here("plan", file, "--json").json()["parts"]
    assert (part["trials"], part["epochs"]) == (15.0, 20)
    assert 0.04 <= part["epoch_seconds"] < 4

    def trials(name: str = "small") -> list[optuna.trial.FrozenTrial]:
        return optuna.load_study(study_name=name, storage=store).trials

    place.here("create", file)
    run = place.start("run", file, "--devices", "cpu:2", HPO_LEASE_SECONDS="5")
    wait_for(lambda: any(trial.system_attrs.get(PAUSED_AT_RUNG) for trial in trials()))
    os.kill(descendants(run.pid)[0], signal.SIGKILL)
    _, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    searched = trials()
    assert {trial.state for trial in searched} == {TrialState.COMPLETE, TrialState.PRUNED}
    for each in searched:
        assert sorted(each.intermediate_values) == list(range(1, each.last_step + 1))
    resumed = [
        t for t in searched if t.system_attrs.get(PROMOTED_PAST_RUNG) and t.user_attrs["attempts"] > 1
    ]
    assert resumed, "a paused trial resumed"
    best = max(
        (each for each in searched if each.state == TrialState.COMPLETE), key=lambda each: each.value
    )
    assert place.here("best", "small", "--json").json()["trial"] == best.number

    without_pruner = ("--name", "whole", "--set", "search.pruner=none", "--set", "search.trials=10")
    place.here("create", file, *without_pruner)
    place.here("worker", "whole")
    simulated = place.here("simulate", "whole", "--pruner", "asha", "--repeats", "3", "--json").json()
    assert (simulated["curves"], simulated["epochs"]) == (10, 20)
    assert simulated["strategies"][-1]["strategy"].startswith("hpo: tpe, asha")

    options = ("--top", "2", "--seeds", "2", "--devices", "cpu:1", "--json")
    final = place.here("finish", "whole", *options).json()
    assert final["split"] is None, "a custom objective has no test split"
    ranked = sorted(trials("whole"), key=lambda trial: -trial.value)
    assert [each["trial"] for each in final["settings"]] == [trial.number for trial in ranked[:2]]
    assert final["decided"], "its result does not depend on the seed"

    place.here("report", "small", "-o", "page.html")
    page = (place.path / "page.html").read_text()
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert "The original report, rebuilt" not in titles
    assert any("importance" in title.lower() for title in titles)
    assert json.dumps(best.number) in page
