"""A network of the user's own: what is built, what is trained, and what is refused."""

import logging
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hpo.artifacts.folders import Artifacts
from hpo.errors import DefinitionError, WeightsError
from hpo.training import datasets, features, loop, models, user_network
from tests.support import networks
from tests.support.models import has_state, settings

IMPORTED = "'tests.support.networks:"


def own(function=networks.WithHead, **options):
    return settings(networks.name(function), **options)


def generators() -> bytes:
    return pickle.dumps((random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()))


def test_a_network_has_an_output_per_class_and_the_options_that_models_have():
    module = models.build_seeded_model(own(dropout=0.5, tune="head"), 3, 7)
    assert type(module) is networks.WithHead
    assert module.eval()(torch.zeros(2, 3, 16, 16)).shape == (2, 3)
    assert module.dropout.p == 0.5
    trained = {name for name, each in module.named_parameters() if each.requires_grad}
    assert trained == {"fc.weight", "fc.bias"}
    again = models.build_seeded_model(own(), 3, 7)
    assert has_state(again, module.state_dict())
    assert all(each.requires_grad for each in again.parameters())
    assert not has_state(models.build_seeded_model(own(), 3, 8), module.state_dict())


def test_a_worker_builds_a_network_anew_for_each_trial():
    # A copy of this one would multiply the outputs of the original.
    initial_models = models.InitialModels()
    first = initial_models.build_seeded(own(networks.with_hook), 3, 7)
    with torch.no_grad():
        first.fc.weight.zero_()
    second = initial_models.build_seeded(own(networks.with_hook), 3, 7)
    assert has_state(second, models.build_seeded_model(own(networks.with_hook), 3, 7).state_dict())


def test_a_file_of_weights_may_have_another_head_if_the_network_says_which_layer_it_is(tmp_path):
    path = tmp_path / "pretrained.pt"
    pretrained = models.build_seeded_model(own(), 1000, 1)
    torch.save(pretrained.state_dict(), path)
    module = models.build_seeded_model(own(weights=str(path)), 3, 7)
    assert has_state(module, pretrained.state_dict() | module.fc.state_dict(prefix="fc."))
    assert module.fc.weight.shape == (3, 16)
    with pytest.raises(WeightsError, match=r"fc\.weight is 1000x16 instead of 3x16") as refused:
        models.build_model(own(networks.Small, weights=str(path)), 3)
    assert "let the network have get_classifier(), so that a file may have another last" in str(
        refused.value
    )
    same = models.build_model(own(networks.Small, weights=str(path)), 1000)
    assert has_state(same, pretrained.state_dict())


def test_a_sequence_of_layers_can_be_the_head(tmp_path):
    module = models.build_model(own(networks.DeepHead, tune="head"), 3)
    trained = {name for name, each in module.named_parameters() if each.requires_grad}
    assert trained == {"head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"}
    path = tmp_path / "pretrained.pt"
    torch.save(models.build_model(own(networks.DeepHead), 1000).state_dict(), path)
    assert has_state(
        models.build_model(own(networks.DeepHead, weights=str(path)), 3),
        torch.load(path),
        except_for="head",
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (networks.raising, "raising': called with num_classes=3, it raised KeyError: 'no such layer' (net"),
        (
            networks.leaving,
            "leaving': called with num_classes=3, it raised SystemExit: 3 (networks.py, line",
        ),
        (
            networks.returning_a_class,
            "' returned <class 'tests.support.networks.Small'>; want a torch.nn.Mo",
        ),
        (
            networks.of_ten,
            "of_ten' cannot be called with num_classes alone (got an unexpected keyword argu",
        ),
        (
            networks.of_a_width,
            "' cannot be called with num_classes alone (missing a required argument: 'wi",
        ),
        (
            networks.lazy,
            "lazy': the size of its 1.weight is not known before the first batch; give lazy lay",
        ),
        (networks.without_parameters, "without_parameters': its network has no parameters to train"),
        (networks.TakesState, "TakesState': _extra_state in its state_dict() is no tensor; weights are"),
    ],
)
def test_a_function_that_builds_no_network_is_refused_in_one_line(function, message, capsys):
    with pytest.raises(DefinitionError) as refused:
        models.build_model(own(function), 3)
    assert str(refused.value).startswith(f"train.model: {IMPORTED}")
    assert message in str(refused.value)
    assert capsys.readouterr().out == ""


def test_a_module_that_cannot_be_imported_is_refused_in_one_line(workplace, monkeypatch):
    monkeypatch.chdir(workplace.path)
    monkeypatch.syspath_prepend(workplace.path)
    (workplace.path / "broken.py").write_text("1 / 0")
    with pytest.raises(DefinitionError) as refused:
        user_network.check_importable("broken:net")
    broken = (
        "train.model: 'broken:net': importing module 'broken' raised ZeroDivisionError: division by zero"
    )
    assert str(refused.value).startswith(broken)


def test_a_missing_or_wrong_head_is_refused():
    with pytest.raises(DefinitionError, match="Small' does not say which layer is its head; use 'all', or"):
        models.build_model(own(networks.Small, tune="head"), 3)
    with pytest.raises(DefinitionError, match=r"get_classifier\(\) returned Linear\(.*; want one layer of"):
        models.build_model(own(networks.with_wrong_head, tune="head"), 3)


def test_weights_of_another_network_than_now_are_refused_when_a_trial_is_resumed():
    module = models.build_model(own(), 3)
    models.load_saved_weights(module, module.state_dict(), own())
    with pytest.raises(
        DefinitionError, match="returns another network than when the trial was saved"
    ) as all_:
        models.load_saved_weights(module, nn.Linear(2, 3).state_dict(), own())
    assert str(all_.value).endswith("; restore its code, or begin a new study")


@pytest.mark.parametrize("function", [networks.WithHead, networks.ReadsValues])
def test_a_network_is_checked_without_drawing_random_numbers(function):
    before = generators()
    probe = user_network.probe_network(networks.name(function), "x")
    assert probe.image_size_problem(32, 2, "x") is None
    assert generators() == before
    assert probe.has_dropout()


def test_a_network_that_reads_values_is_run_on_the_cpu_and_any_other_on_meta():
    on_meta = user_network.probe_network(networks.name(networks.FixedSize), "x")
    assert next(on_meta.module.parameters()).is_meta
    assert "mat1 and mat2 shapes cannot be multiplied" in str(on_meta.image_size_problem(32, 2, "x"))
    assert on_meta.first_accepted_image_size("x") == 64


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (networks.TwoOutputs, "returned a tuple for 2 images; want a floating-point tensor of logits, 2x7"),
        (networks.of_one_output_more, "returned 2x8 of torch.float32 for 2 images; want a floating-point"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(function, message):
    probe = user_network.probe_network(networks.name(function), "train.model")
    with pytest.raises(DefinitionError) as refused:
        probe.image_size_problem(32, 2, "train.model")
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"train.model: {IMPORTED}")


def test_features_of_a_network_stay_in_memory_and_change_no_result(tmp_path, caplog):
    cache = features.FeatureCache(Artifacts(str(tmp_path)), 2**30)
    caplog.set_level(logging.INFO, "hpo")
    with_features, without = losses(cache, tune="head"), losses(None, tune="head")
    assert with_features == pytest.approx(without, rel=1e-5)
    losses(cache, tune="head", optimizer="adam")
    assert [record.message[:22] for record in caplog.records] == ["computing the features"] * 2  # splits
    losses(cache, tune="head", seed=1)  # other initial weights
    assert len(caplog.records) == 4
    assert not (tmp_path / "cache").exists()  # the code may be another one tomorrow


def losses(cache: features.FeatureCache | None, **options) -> list[float | None]:
    small = {"dataset": "digits", "image_size": 32, "limit": 32, "batch_size": 8, "epochs": 2}
    config = own(**small, **options)
    images = datasets.load_dataset(config, Path())
    run = loop.TrainingRun(config, images, torch.device("cpu"), feature_cache=cache)
    return [value for epoch in run.epochs() if epoch for value in (epoch.train_loss, epoch.loss)]
