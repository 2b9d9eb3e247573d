"""A function of two numbers over 20 epochs goes the whole way that the built-in training goes."""

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


def test_it_is_planned_tuned_paused_promoted_resumed_simulated_finished_and_reported(place):
    file, store = place.study(STUDY), f"sqlite:///{place.path}/storage/hpo.db"
    (part,) = place.hpo("plan", file, "--json").json()["parts"]
    assert (part["trials"], part["epochs"]) == (15.0, 20)
    assert 0.04 <= part["epoch_seconds"] < 4

    def trials(name: str = "small") -> list[optuna.trial.FrozenTrial]:
        return optuna.load_study(study_name=name, storage=store).trials

    place.here("create", file)
    run = place.start("run", file, "--devices", "cpu:2", HPO_LEASE_SECONDS="5")
    wait_for(lambda: any(trial.system_attrs.get(PAUSED_AT_RUNG) for trial in trials()))
    os.kill(descendants(run.pid)[0], signal.SIGKILL)
    _, said = run.communicate(timeout=240)
    assert run.returncode == 0, said
    found = trials()
    assert {trial.state for trial in found} == {TrialState.COMPLETE, TrialState.PRUNED}
    for each in found:
        assert sorted(each.intermediate_values) == list(range(1, each.last_step + 1))
    resumed = [t for t in found if t.system_attrs.get(PROMOTED_PAST_RUNG) and t.user_attrs["attempts"] > 1]
    assert resumed, "one that had paused went on"
    best = max((each for each in found if each.state == TrialState.COMPLETE), key=lambda each: each.value)
    assert place.here("best", "small", "--json").json()["trial"] == best.number

    whole = ("--name", "whole", "--set", "search.pruner=none", "--set", "search.trials=10")
    place.here("create", file, *whole)
    place.here("worker", "whole")
    simulated = place.here("simulate", "whole", "--pruner", "asha", "--repeats", "3", "--json").json()
    assert (simulated["curves"], simulated["epochs"]) == (10, 20)
    assert simulated["strategies"][-1]["strategy"].startswith("hpo: tpe, asha")

    asked = ("--top", "2", "--seeds", "2", "--devices", "cpu:2", "--json")
    ended = place.hpo("finish", "whole", *asked).json()
    assert ended["split"] is None, "hpo knows no test images of it"
    ranked = sorted(trials("whole"), key=lambda trial: -trial.value)
    assert [each["trial"] for each in ended["settings"]] == [trial.number for trial in ranked[:2]]
    assert ended["decided"], "its seeds are all alike"

    place.here("report", "small", "-o", "page.html")
    page = (place.path / "page.html").read_text()
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert "The original report, rebuilt" not in titles
    assert any("importance" in title.lower() for title in titles)
    assert json.dumps(best.number) in page
