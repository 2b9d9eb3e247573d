"""The steps of the optimizer: accumulated and clipped gradients, compared with plain PyTorch."""

import threading

import pytest
import torch
from torch import nn

from hpo.artifacts import checkpoint
from hpo.training import datasets, loop, updates
from hpo.training.config import Config
from hpo.training.precision import ComputeSettings

CPU = torch.device("cpu")
NETWORK = "tests.support.networks:DeepHead"  # no batch norm, no dropout


def config(**settings) -> Config:
    small = {"model": NETWORK, "image_size": 32, "limit": 33, "batch_size": 8, "epochs": 2, "lr": 0.1}
    return Config(**({"dataset": "digits", "weights": "none"} | small | settings))


def finished(settings: Config, tmp_path) -> loop.TrainingRun:
    run = loop.TrainingRun(settings, datasets.load_dataset(settings, tmp_path), CPU)
    list(run.epochs())
    return run


@pytest.mark.parametrize(
    ("limit", "size", "count"),
    [
        (33, 8, 2),  # batches of 8, 8, 8 and 9 images
        (44, 4, 4),  # the last step has three batches
        (32, 8, 4),  # one step is an epoch
        (40, 8, 9),  # more than an epoch has
    ],
)
def test_accumulated_batches_make_the_step_of_one_large_batch(limit, size, count, tmp_path):
    settings = config(limit=limit, batch_size=size, accumulate_steps=count, schedule="onecycle")
    large = settings.model_copy(update={"batch_size": size * count, "accumulate_steps": 1})
    found, expected = finished(settings, tmp_path), finished(large, tmp_path)
    for name, weights in expected.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], weights, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(found.history, expected.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-5)
        assert ours.lr == theirs.lr


def test_gradients_are_clipped_as_plain_pytorch_does():
    settings = config(clip_grad_norm=0.5, momentum=0.9)
    torch.manual_seed(0)
    module, plain = nn.Linear(4, 3), nn.Linear(4, 3)
    plain.load_state_dict(module.state_dict())
    ours = updates.Updates(settings, module, CPU, ComputeSettings(), [(0, 8)] * 5)
    sgd = torch.optim.SGD(plain.parameters(), lr=settings.lr, momentum=0.9)
    inputs, norms = torch.randn(8, 4), []
    for step in range(5):
        ours.begin(1, step)
        ours.backward(module(inputs).square().mean(), step)
        ours.finish(step)
        sgd.zero_grad()
        plain(inputs).square().mean().backward()
        norms.append(nn.utils.clip_grad_norm_(plain.parameters(), 0.5).item())
        sgd.step()
    assert max(norms) > 0.5 > min(norms)
    torch.testing.assert_close(module.weight, plain.weight)
    torch.testing.assert_close(module.bias, plain.bias)


def test_a_norm_that_nothing_reaches_changes_no_bit(tmp_path):
    plain, clipped = (finished(config(clip_grad_norm=norm), tmp_path) for norm in (None, 1e9))
    for name, weights in plain.model.state_dict().items():
        assert torch.equal(weights, clipped.model.state_dict()[name])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_run_resumed_between_accumulated_batches_is_bit_identical(steps, precision, tmp_path):
    settings = config(limit=40, accumulate_steps=3, clip_grad_norm=0.1, optimizer="adam")
    images, how = datasets.load_dataset(settings, tmp_path), ComputeSettings(precision=precision)
    whole = loop.TrainingRun(settings, images, CPU, compute_settings=how)
    list(whole.epochs())
    stop = threading.Event()

    def set_stop() -> bool:
        if (len(first.history), first.step) == (1, steps):
            stop.set()
        return False

    first = loop.TrainingRun(settings, images, CPU, compute_settings=how, stop=stop, wants_pause=set_stop)
    list(first.epochs())
    state = first.state()
    assert (first.step, "gradients" in state) == (steps, steps != 3)
    name = checkpoint.save(tmp_path, state, attempt=1)
    resumed = loop.TrainingRun(
        settings, images, CPU, compute_settings=how, state=checkpoint.load(tmp_path / name)
    )
    list(resumed.epochs())
    assert resumed.history[-1].train_loss == whole.history[-1].train_loss
    for key, weights in whole.model.state_dict().items():
        assert torch.equal(weights, resumed.model.state_dict()[key]), key


@pytest.mark.slow
@pytest.mark.processes
def test_compiled_steps_take_the_same_controls(tmp_path):
    settings = config(
        limit=44,
        freeze_epochs=1,
        accumulate_steps=2,
        clip_grad_norm=0.1,
        ema_decay=0.9,
        layer_decay=0.7,
    )
    images = datasets.load_dataset(settings, tmp_path)
    plain, compiled = (
        loop.TrainingRun(settings, images, CPU, compute_settings=ComputeSettings(compile=compile))
        for compile in (False, True)
    )
    for expected, found in zip(plain.epochs(), compiled.epochs(), strict=True):
        assert (found.train_loss, found.loss) == pytest.approx((expected.train_loss, expected.loss))
