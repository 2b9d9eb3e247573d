"""The moving average of the weights, compared with PyTorch's own."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import swa_utils

from hpo.artifacts import checkpoint
from hpo.training import averaging, datasets, evaluation, loop
from hpo.training.config import Config
from hpo.workers.weights import Weights

CPU = torch.device("cpu")


def config(**settings) -> Config:
    small = {"model": "shufflenet_v2_x0_5", "image_size": 32, "limit": 40, "batch_size": 8, "epochs": 2}
    return Config(**({"dataset": "digits", "weights": "none", "ema_decay": 0.8} | small | settings))


def run_of(settings: Config, tmp_path, **options) -> loop.TrainingRun:
    return loop.TrainingRun(settings, datasets.load_dataset(settings, tmp_path), CPU, **options)


def test_the_average_is_that_of_pytorch_and_copies_whole_numbers():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    average = averaging.WeightAverage(module, 0.7, ())
    reference = swa_utils.AveragedModel(
        module, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.7), use_buffers=True
    )
    reference.update_parameters(module)  # the first call only copies the initial weights
    for _ in range(3):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += torch.randn_like(parameter)
        module(torch.randn(5, 4))  # changes the statistics of the batch norm
        average.update()
        reference.update_parameters(module)
    expected = reference.module.state_dict()
    expected["1.num_batches_tracked"] = module[1].num_batches_tracked  # PyTorch averages whole numbers, too
    for name, value in expected.items():
        torch.testing.assert_close(average.tensors[name], value)


def test_within_the_block_the_model_has_the_average_and_after_it_its_own_weights():
    module = nn.Linear(2, 2)
    average = averaging.WeightAverage(module, 0.5, {"bias"})
    initial = module.weight.detach().clone()
    with torch.no_grad():
        module.weight += 1
        module.bias += 1
    own = copy.deepcopy(module.state_dict())
    average.update()
    with average.in_model():
        torch.testing.assert_close(module.weight.detach(), initial + 0.5)
        assert torch.equal(module.bias, own["bias"])
    assert all(torch.equal(each, own[name]) for name, each in module.state_dict().items())


def test_an_evaluation_that_fails_leaves_the_model_its_own_weights(tmp_path):
    run = run_of(config(), tmp_path)
    next(run.epochs())
    own = copy.deepcopy(run.model.state_dict())
    run.selection_loss = None
    with pytest.raises(TypeError):
        run.evaluate(run.selection_split)
    assert all(torch.equal(each, own[name]) for name, each in run.model.state_dict().items())


def test_the_averaged_weights_are_evaluated_and_kept_and_training_goes_on_with_its_own(tmp_path):
    plain, averaged = (run_of(config(ema_decay=decay), tmp_path) for decay in (None, 0.8))
    for ours, theirs in zip(averaged.epochs(), plain.epochs(), strict=True):
        assert (ours.train_loss, ours.lr) == (theirs.train_loss, theirs.lr)
        assert ours.loss != theirs.loss
    for name, each in plain.model.state_dict().items():
        assert torch.equal(averaged.model.state_dict()[name], each)
    kept = Weights.copy_from(averaged).content
    plain.model.load_state_dict(kept)
    expected = evaluation_of(plain)
    assert evaluation_of(averaged) == expected
    assert expected["loss"] == averaged.history[-1].loss


def evaluation_of(run: loop.TrainingRun) -> dict[str, float | None]:
    found: evaluation.Metrics = run.evaluate(run.selection_split)
    return found.figures()


@pytest.mark.parametrize("tune", ["all", "head"])
def test_a_run_resumed_within_an_epoch_keeps_the_average(tune, tmp_path):
    settings = config(tune=tune)
    whole = run_of(settings, tmp_path)
    list(whole.epochs())
    paused = run_of(settings, tmp_path, wants_pause=lambda: True)
    results = paused.epochs()
    while (len(paused.history), paused.step) != (1, 2):
        next(results)
    name = checkpoint.save(tmp_path, paused.state(), attempt=1)
    resumed = run_of(settings, tmp_path, state=checkpoint.load(tmp_path / name))
    list(resumed.epochs())
    assert [each.loss for each in resumed.history] == [each.loss for each in whole.history]
    for name, each in whole.weights().items():
        assert torch.equal(resumed.weights()[name], each), name
    assert ("conv1.0.weight" in whole.updates.average.tensors) is (tune == "all")


def test_a_decay_near_0_follows_the_weights(tmp_path):
    plain, averaged = (run_of(config(ema_decay=decay), tmp_path) for decay in (None, 1e-12))
    assert next(averaged.epochs()).loss == pytest.approx(next(plain.epochs()).loss, rel=1e-5)
