"""The first epochs with a frozen body, and stochastic depth."""

import itertools

import pytest
import torch
import torchvision
from torchvision.ops import StochasticDepth

from hpo.artifacts import checkpoint
from hpo.training import datasets, loop, models
from hpo.training.config import Config

CPU = torch.device("cpu")


def config(**settings) -> Config:
    small = {"model": "shufflenet_v2_x0_5", "image_size": 32, "limit": 32, "batch_size": 8, "epochs": 3}
    return Config(**({"dataset": "digits", "weights": "none", "freeze_epochs": 1} | small | settings))


def run_of(settings: Config, tmp_path, **options) -> loop.TrainingRun:
    return loop.TrainingRun(settings, datasets.load_dataset(settings, tmp_path), CPU, **options)


def weights_of(run: loop.TrainingRun) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in run.model.state_dict().items()}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_only_the_head_changes_before_the_body_thaws_and_then_everything(optimizer, tmp_path):
    run = run_of(config(optimizer=optimizer, weight_decay=0.1), tmp_path)
    epochs, before = run.epochs(), weights_of(run)
    next(epochs)
    frozen = weights_of(run)
    assert {name for name in before if not torch.equal(before[name], frozen[name])} == {
        "fc.weight",
        "fc.bias",
    }
    next(epochs)
    thawed = weights_of(run)
    assert {name for name in before if torch.equal(frozen[name], thawed[name])} == set()
    assert run.frozen_weights() == set()


def test_the_frozen_epochs_are_those_of_a_run_that_trains_only_the_head(tmp_path):
    frozen = next(run_of(config(), tmp_path).epochs())
    head = next(run_of(config(freeze_epochs=0, tune="head"), tmp_path).epochs())
    assert (frozen.train_loss, frozen.loss) == (head.train_loss, head.loss)


@pytest.mark.parametrize(("epoch", "step"), [(0, 2), (1, 0), (1, 2)])
def test_a_run_resumed_before_and_after_the_thaw_is_bit_identical(epoch, step, tmp_path):
    settings = config(ema_decay=0.5, layer_decay=0.7, optimizer="adam")
    whole = run_of(settings, tmp_path)
    list(whole.epochs())
    paused = run_of(settings, tmp_path, wants_pause=lambda: True)
    results = paused.epochs()
    while (len(paused.history), paused.step) != (epoch, step):
        next(results)
    name = checkpoint.save(tmp_path, paused.state(), attempt=1)
    resumed = run_of(settings, tmp_path, state=checkpoint.load(tmp_path / name))
    list(resumed.epochs())
    for key, each in whole.weights().items():
        assert torch.equal(resumed.weights()[key], each), key


def test_what_a_network_has_frozen_itself_does_not_thaw(tmp_path):
    settings = config(model="tests.support.networks:DeepHead", limit=16)

    def build(*args) -> torch.nn.Module:
        module = models.build_seeded_model(*args)
        module.body.bias.requires_grad_(False)
        return module

    run = run_of(settings, tmp_path, build_model=build)
    before = run.model.body.bias.clone()
    list(run.epochs())
    assert torch.equal(run.model.body.bias, before)
    assert run.model.body.weight.requires_grad


def probabilities(module: torch.nn.Module) -> list[float]:
    return [layer.p for layer in module.modules() if isinstance(layer, StochasticDepth)]


@pytest.mark.parametrize("model", ["convnext_tiny", "efficientnet_b0"])
def test_stochastic_depth_is_that_of_torchvisions_builder(model):
    settings = Config(model=model, weights="none", drop_path=0.3)
    with torch.device("meta"):
        found = models.build_model(settings, 3)
        expected = torchvision.models.get_model(model, stochastic_depth_prob=0.3)
    assert probabilities(found) == pytest.approx(probabilities(expected))


@pytest.mark.parametrize("model", ["swin_t", "maxvit_t"])
def test_stochastic_depth_rises_evenly_to_the_last_block(model):
    with torch.device("meta"):
        rising = probabilities(models.build_model(Config(model=model, weights="none", drop_path=0.4), 3))
        none = probabilities(models.build_model(Config(model=model, weights="none"), 3))
        own = probabilities(models.build_model(Config(model=model, weights="none", drop_path=None), 3))
    assert (rising[0], rising[-1]) == (0, pytest.approx(0.4))
    assert all(a <= b for a, b in itertools.pairwise(rising))
    assert set(none) == {0.0}
    assert own[-1] == pytest.approx(0.2)
