"""What a custom objective gets besides its settings, and what it may yield besides its accuracy."""

import csv
import math
import random

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hpo.training import custom, events
from hpo.training.custom_config import CustomConfig
from hpo.training.metric import METRICS
from tests.support.workplace import artifact, load

OWN = """
import random
import numpy as np
import torch


def measured(config, state):
    done = state["epoch"] if state else 0
    (config.folder / "note.txt").write_text(f"{config.trial} on {config.device}")
    (config.folder / "images").mkdir(exist_ok=True)
    while done < config.epochs:
        done += 1
        yield 0.25 * done, {"epoch": done}, {"recall": np.float32(done) / 4, "cost": torch.tensor(2.0)}


def drawing(config, state):
    done = state["epoch"] if state else 0
    while done < config.epochs:
        done += 1
        drawn = random.random(), np.random.rand(), torch.rand(()).item()
        yield sum(drawn) / 3, {"epoch": done}


def many(config, state):
    done = state["epoch"] if state else 0
    while done < config.epochs:
        done += 1
        yield {"accuracy": 0.25 * done, "loss": 2.0 / done, "recall": done / 4}, {"epoch": done}


def wrong(config, state):
    yield 0.5, None, {"x" if config.kind == "value" else "accuracy": "high"}
"""

STUDY = """
[train]
objective = "own:measured"
epochs = 2

[search]
sampler = "grid"

[[points]]
kind = "value"
"""


def test_other_metrics_are_in_the_csv_in_tensorboard_and_in_an_attribute(place):
    place.here("create", place.study(STUDY))
    place.here("worker", "small")
    (trial,) = load(place).trials
    expected = {"recall": [0.25, 0.5], "cost": [2.0, 2.0]}
    assert trial.user_attrs["metrics"] == expected
    assert trial.value == 0.5
    folder = artifact(place, load(place).user_attrs["folder"]) / "0000"
    assert (folder / "note.txt").read_text() == "0 on cpu"
    with (folder / "epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = EventAccumulator(str(folder)).Reload()
    for name, values in expected.items():
        assert [float(row[name]) for row in rows] == values
        assert [event.value for event in logged.Scalars(name)] == values


@pytest.mark.parametrize(
    ("search", "values", "others"),
    [
        ("", [0.25, 0.5], {"loss": [2.0, 1.0], "recall": [0.25, 0.5]}),
        (
            'metric_name = "loss"\ndirection = "minimize"\n',
            [2.0, 1.0],
            {"accuracy": [0.25, 0.5], "recall": [0.25, 0.5]},
        ),
    ],
)
def test_a_dict_of_metrics_is_a_value_and_other_metrics(place, search, values, others):
    text = STUDY.replace("own:measured", "own:many").replace("[search]\n", f"[search]\n{search}")
    place.here("create", place.study(text))
    place.here("worker", "small")
    (trial,) = load(place).trials
    assert trial.intermediate_values == {1: values[0], 2: values[1]}
    assert (trial.value, trial.user_attrs["best_epoch"]) == (values[1], 2)
    assert trial.user_attrs["metrics"] == others
    folder = artifact(place, load(place).user_attrs["folder"]) / "0000"
    with (folder / "epochs.csv").open() as file:
        rows = [(row["accuracy"], row["loss"], row["recall"]) for row in csv.DictReader(file)]
    assert rows == [("0.25", "2.0", "0.25"), ("0.5", "1.0", "0.5")]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("value", "own:wrong yielded the string 'high' as the metric 'x'; want a number"),
        (
            "name",
            "own:wrong yielded another metric called 'accuracy'; want a text of 1 to 100 characters, ",
        ),
    ],
)
def test_a_metric_of_another_form_fails_its_trial(place, kind, message):
    place.here("create", place.study(STUDY.replace('"value"', f'"{kind}"').replace("measured", "wrong")))
    place.here("worker", "small")
    (trial,) = load(place).trials
    assert trial.user_attrs["failure"]["message"].startswith(message)


def test_a_metric_that_is_not_finite_or_not_measured_is_none_in_the_attribute():
    history = [
        events.Epoch(number=1, value=0.5, train_seconds=1.0, own_metrics={"a": math.inf}),
        events.Epoch(number=2, value=0.5, train_seconds=1.0, loss=0.12345678, own_metrics={"a": 2.0}),
    ]
    assert events.other_metrics(history, METRICS["accuracy"]) == {
        "loss": [None, 0.123457],
        "a": [None, 2.0],
    }


def test_generators_are_seeded_from_the_trials_seed_and_its_epochs(place, monkeypatch):
    monkeypatch.syspath_prepend(place.path)
    config = CustomConfig(objective="own:drawing", epochs=2, seed=3)

    def accuracies(run: custom.CustomRun) -> list[float | None]:
        return [epoch.value for epoch in run.epochs()]

    whole = accuracies(custom.CustomRun(config))
    for generator in (random.random, np.random.rand, torch.rand):
        generator(*([1] if generator is torch.rand else []))
    assert accuracies(custom.CustomRun(config)) == whole
    assert accuracies(custom.CustomRun(config.model_copy(update={"seed": 4}))) != whole
    interrupted = custom.CustomRun(config)
    next(interrupted.epochs())
    resumed = [accuracies(custom.CustomRun(config, state=interrupted.state())) for _ in range(2)]
    assert resumed[0] == resumed[1]
    assert resumed[0][0] not in whole  # not the first epoch's numbers again
