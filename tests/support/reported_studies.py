"""Stored studies for reports: a replay, a search, a single trial, hostile names."""

import json
import math
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.search.replicates import REPLICATE_OF
from hpo.store import plan, studies
from hpo.store.storage import Storage
from hpo.study.definition import Definition, dump_definition
from hpo.study.file import load_study_file
from tests.support.workplace import ROOT

CPU = {"device": "Xeon", "host": "a", "torch": "2.14", "threads": 2, "precision": "fp32"}
GPU = {"device": "NVIDIA H100", "host": "b", "torch": "2.14", "threads": 8, "precision": "tf32"}
START = datetime(2026, 1, 1, 12, tzinfo=UTC)
IMAGES = 10_000
SEARCH = """
[train]
dataset = "digits"
image_size = 64
weights = "none"
epochs = 6
[space]
model = ["resnet18", "alexnet"]
optimizer = ["sgd", "adam"]
lr = { low = 1e-4, high = 1e-1, log = true }
momentum = { low = 0.5, high = 0.95, when = { optimizer = "sgd" } }
batch_size = [16, 32]
[search]
trials = 2
"""


def make_trial(
    definition: Definition,
    params: dict[str, Any],
    curve: list[float],
    number: int,
    *,
    state: TrialState = TrialState.COMPLETE,
    seconds: float = 2.0,
    hardware: dict[str, Any] | None = None,
    **more: Any,
) -> FrozenTrial:
    """Return a finished trial with the attributes that a worker stores."""
    parameters = definition.parameters()
    durations = [round(seconds + 0.01 * epoch, 4) for epoch in range(len(curve))]
    attributes = {
        "epoch_seconds": durations,
        "wall_time_seconds": round(sum(durations), 4),
        "hardware": hardware or CPU,
        "images": IMAGES,
        "baseline": 0.1,
    }
    value = {TrialState.COMPLETE: max, TrialState.PRUNED: lambda values: values[-1]}.get(state)
    trial = create_trial(
        state=state,
        value=value(curve) if value else None,
        params=params,
        distributions={name: parameters[name].distribution() for name in params},
        intermediate_values=dict(enumerate(curve, 1)),
        user_attrs={"attempts": 1, "epochs": len(curve), **attributes, **more},
    )
    trial.datetime_start = (START + timedelta(seconds=30 * number)).astimezone().replace(tzinfo=None)
    trial.datetime_complete = trial.datetime_start + timedelta(seconds=25)
    return trial


def store_study(url: str, definition: Definition, trials: Iterable[FrozenTrial]) -> Storage:
    """Store a study with exactly these trials."""
    without_trials = definition.search.model_copy(update={"trials": 0})
    definition = definition.model_copy(update={"search": without_trials})
    storage = studies.open_storage(url, create=True)
    studies.create_study(storage, definition.model_copy(update={"points": ()}), "text")
    study_id = studies.find_study_id(storage, definition.name)
    storage.set_study_system_attr(study_id, plan.DEFINITION, dump_definition(definition))
    optuna.load_study(study_name=definition.name, storage=storage).add_trials(trials)
    return storage


def make_curve(rng: random.Random, count: int, best: float) -> list[float]:
    """Return a rising curve of accuracies that are fractions of IMAGES images."""
    rising = sorted(rng.uniform(0.5 * best, best) for _ in range(count - 1))
    return [round(value, 4) for value in rising] + [round(best, 4)]


def grid_definition() -> Definition:
    """Return the original's 14 points with fewer epochs and smaller images."""
    return load_study_file(ROOT / "studies/original-grid.toml", ["train.epochs=4", "train.image_size=64"])


def store_grid(url: str) -> Storage:
    """Store a replay of the original's points: those of site C on a CPU, those of site L on a GPU."""
    rng, definition, trials = random.Random(0), grid_definition(), []
    for number, point in enumerate(definition.points):
        curve = make_curve(rng, 4, rng.uniform(0.3, 0.97))
        hardware = CPU if point.attributes["site"] == "C" else GPU
        more = {"point": number + 1, **point.attributes, "hardware": hardware}
        trials.append(
            make_trial(definition, point.setting, curve, number, seconds=rng.uniform(1, 9), **more)
        )
    return store_study(url, definition, trials)


def store_search(url: str, name: str = "search") -> Storage:
    """Store a search of 30 trials: some pruned, one failed, one with three attempts."""
    rng, path = random.Random(1), Path(url.removeprefix("sqlite:///")).with_name(f"{name}.toml")
    path.write_text(SEARCH)
    definition = load_study_file(path)
    trials = []
    for number in range(30):
        params: dict[str, Any] = {
            "model": rng.choice(["resnet18", "alexnet"]),
            "optimizer": rng.choice(["sgd", "adam"]),
            "lr": 10 ** rng.uniform(-4, -1),
            "batch_size": rng.choice([16, 32]),
        }
        if params["optimizer"] == "sgd":
            params["momentum"] = rng.uniform(0.5, 0.95)
        best = 0.95 - 0.1 * abs(math.log10(params["lr"]) + 2.5) + rng.uniform(0, 0.04)
        hardware = GPU if number % 3 == 0 else CPU
        more: dict[str, Any] = {"hardware": hardware, "seconds": rng.uniform(0.5, 1.5)}
        curve = make_curve(rng, 6, best)
        if number % 4 == 3:
            more |= {"state": TrialState.PRUNED, "pruned": "by hyperband after epoch 2"}
            curve = curve[:2]
        if number == 12:
            failure = {"class": "RuntimeError", "message": "an error"}
            more |= {"state": TrialState.FAIL, "failure": failure}
            curve = curve[:1]
        if number == 5:
            more["attempts"] = 3
        trials.append(make_trial(definition, params, curve, number, **more))
    return store_study(url, definition, trials)


REPEATED = {  # by number: curve, and the first trial of its setting
    0: ([0.5, 0.8], 0),
    1: ([0.7, 0.75], 1),
    2: ([0.4, 0.9], 2),  # the luckiest of all, with one seed
    3: ([0.6, 0.5], 0),
    4: ([0.72, 0.74], 1),
    5: ([0.3, 0.2], 5),  # pruned
}


def store_repeated(url: str) -> Storage:
    """Store three settings, two of them with two seeds, of which one run moved to another machine."""
    path = Path(url.removeprefix("sqlite:///")).with_name("repeated.toml")
    path.write_text(SEARCH.replace("trials = 2", "trials = 4\nreplicates = 2"))
    definition, trials = load_study_file(path), []
    for number, (curve, first) in REPEATED.items():
        params = {"model": "alexnet", "optimizer": "adam", "lr": 0.01 * (first + 1)}
        params["batch_size"] = 32 if first == 1 else 16
        hardware = {**CPU, "earlier_devices": "Abacus"} if number == 4 else CPU
        more: dict[str, Any] = {"hardware": hardware, "seconds": 1.0 + number}
        more |= {"state": TrialState.PRUNED} if number == 5 else {}
        trials.append(make_trial(definition, params, curve, number, **more))
        if first != number:
            trials[-1].system_attrs = {REPLICATE_OF: first, plan.RUN_OPTIONS: {"seed": 1}}
    return store_study(url, definition, trials)


def store_single_trial(url: str) -> Storage:
    """Store a study with one trial of one epoch."""
    definition = load_study_file(ROOT / "studies/quickstart.toml")
    params = {"optimizer": "adam", "lr": 1e-3, "batch_size": 16}
    return store_study(url, definition, [make_trial(definition, params, [0.5], 0)])


HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked=1'>&amp;\u2028"


def store_hostile(url: str) -> Storage:
    """Store a study whose names, values and messages contain HTML."""
    path = Path(url.removeprefix("sqlite:///")).with_name("hostile.toml")
    quoted = json.dumps(HOSTILE)
    path.write_text(
        f'[train]\nobjective = "os.path:join"\nepochs = 2\n[space]\n'
        f'word = [{quoted}, "../../../x"]\nnumber = {{ low = 0.0, high = 1.0 }}\n'
    )
    definition, rng = load_study_file(path), random.Random(0)
    # A study file does not allow such names of studies and parameters, but other tools can store them.
    names = {"word": HOSTILE, "number": "../up"}
    space = tuple(each.model_copy(update={"name": names[each.name]}) for each in definition.space)
    definition = definition.model_copy(update={"space": space, "name": HOSTILE})
    trials = []
    for number in range(12):
        params = {HOSTILE: rng.choice([HOSTILE, "../../../x"]), "../up": rng.random()}
        more: dict[str, Any] = {"hardware": {**CPU, "device": HOSTILE}}
        if number == 7:
            more |= {"state": TrialState.FAIL, "failure": {"class": "x", "message": HOSTILE}}
        trials.append(make_trial(definition, params, make_curve(rng, 2, rng.random()), number, **more))
    return store_study(url, definition, trials)
