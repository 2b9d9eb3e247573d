"""A study of each metric on real images: its results, its files, and a worker that is killed."""

import pytest
import safetensors.torch
import torch
from PIL import Image

from hpo.training import datasets
from hpo.training.config import Config
from hpo.training.metric import METRICS
from tests.support.processes import wait_for
from tests.support.workplace import artifact, epochs_reported, load

STUDY = """
[train]
metric = "{metric}"
dataset = "digits"
model = "shufflenet_v2_x0_5"
image_size = 32
limit = {limit}
weights = "none"
epochs = {epochs}
"""
TWO = """
[space]
lr = { low = 1e-3, high = 1e-1, log = true }
[search]
trials = 2
sampler = "random"
pruner = "none"
"""
ONE = """
[search]
sampler = "grid"
[[points]]
lr = 0.02
"""


def study_of(metric: str, rest: str, *, limit: int, epochs: int) -> str:
    return STUDY.format(metric=metric, limit=limit, epochs=epochs) + rest


@pytest.mark.parametrize("name", METRICS)
def test_a_study_of_a_metric_is_run_ranked_reported_exported_and_used(workplace, name):
    metric = METRICS[name]
    workplace.here("create", workplace.study(study_of(name, TWO, limit=100, epochs=2)))
    done = workplace.here("worker", "small")
    study = load(workplace)
    assert f"{metric.label} {study.trials[1].value:.4f}" in done.err.splitlines()[-1]
    assert (study.direction.name.lower(), study.metric_names) == (metric.direction, [name])
    pick = min if metric.is_minimized else max
    for trial in study.trials:
        reported = trial.intermediate_values
        assert (trial.state.name, len(reported)) == ("COMPLETE", 2)
        assert trial.value == pick(reported.values())
        assert reported[trial.user_attrs["best_epoch"]] == trial.value
        assert trial.user_attrs["metrics"].keys() == METRICS.keys() - {name}
    best = workplace.here("best", "small", "--json").json()
    assert best["value"] == study.best_value
    assert best["trial"] == min(t.number for t in study.trials if t.value == study.best_value)
    assert (best["metric"], best["direction"]) == (name, metric.direction)
    assert ("accuracy" in best) == (name == "accuracy")
    assert best["value"] == pick(trial.value for trial in study.trials)

    for verb in ("best", "status", "trials"):
        assert metric.label in workplace.here(verb, "small").out, verb
    workplace.here("report", "small", "-o", "page.html")
    assert metric.label in (workplace.path / "page.html").read_text()

    workplace.here("export", "small", "--to", "model")
    card = (workplace.path / "model/README.md").read_text()
    assert f"| {metric.label} | {study.best_value:.4f} on the validation split" in card
    images = datasets.load_dataset(Config(dataset="digits", limit=100), workplace.path).selection.images
    Image.fromarray(images[0, 0].numpy()).save(workplace.path / "digit.png")
    found = workplace.here("predict", "model", "digit.png", "--json").json()
    assert len(found) == 1


@pytest.mark.parametrize("name", ["loss", "f1"])
def test_a_killed_trial_of_a_metric_is_resumed_with_the_same_bits(workplace, name):
    file = workplace.study(study_of(name, ONE, limit=200, epochs=6))
    workplace.here("create", file, "--name", "whole")
    workplace.here("worker", "whole")

    workplace.here("create", file)
    process = workplace.start("worker", "small")
    wait_for(lambda: epochs_reported(workplace) >= 6 + 1)
    process.kill()
    process.communicate()
    assert load(workplace).trials[0].state.name == "RUNNING"
    workplace.here("worker", "small")

    (whole,), (resumed,) = load(workplace, "whole").trials, load(workplace).trials
    assert resumed.user_attrs["attempts"] == 2
    assert resumed.state.name == "COMPLETE"
    assert (resumed.value, resumed.intermediate_values) == (whole.value, whole.intermediate_values)
    assert resumed.user_attrs["metrics"] == whole.user_attrs["metrics"]
    assert resumed.user_attrs["best_epoch"] == whole.user_attrs["best_epoch"]
    first, second = (
        safetensors.torch.load_file(artifact(workplace, trial.user_attrs["weights"]))
        for trial in (whole, resumed)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
