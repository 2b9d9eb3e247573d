"""Models of timm: their names, weights, heads and layers, and that training them is exact."""

import argparse
import copy
import sys

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from timm.layers import DropPath
from timm.optim import param_groups_layer_decay
from torch import nn

import hpo.training
from hpo.artifacts import checkpoint
from hpo.errors import DefinitionError, WeightsError
from hpo.training import (
    datasets,
    frozen,
    libraries,
    loop,
    models,
    parameter_groups,
    presets,
    timm_models,
    weights,
)
from hpo.training.config import Config
from tests.support.models import has_state
from tests.support.timm_models import FAMILIES, SLOW_FAMILIES, VIT_WEIGHTS, pretrained, store_on_hub

CPU = torch.device("cpu")


def config(name: str = "test_vit", **options) -> Config:
    return Config(
        **{
            "model": f"timm/{name}",
            "dataset": "digits",
            "weights": "none",
            "image_size": 32,
            "limit": 16,
            "batch_size": 8,
            "epochs": 2,
            **options,
        }
    )


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return the empty folder of the Hugging Face hub, on a machine without a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


# Names and weights


def test_a_name_may_have_a_tag_that_imagenet_stands_for():
    assert timm_models.split_name("timm/resnet18.a2_in1k") == ("resnet18", "a2_in1k")
    find = libraries.library_of("timm/resnet18").find_weights
    assert find("timm/resnet18", "imagenet").tag == timm.get_pretrained_cfg("resnet18").tag == "a1_in1k"
    assert find("timm/resnet18.a2_in1k", "imagenet").tag == "a2_in1k"
    assert find("timm/resnet18", "a2_in1k").hf_hub_id == "timm/resnet18.a2_in1k"
    assert find("timm/resnet18.a2_in1k", "a1_in1k") is None
    assert find("timm/resnet18.nothing", "imagenet") is None
    assert find("timm/test_coatnet", "imagenet") is None


def test_every_tag_of_timm_is_found_for_its_model():
    for name in timm.list_pretrained("*vit_*"):
        architecture, _, tag = name.partition(".")
        assert timm_models.find_weights(f"timm/{architecture}", tag or "imagenet") is not None, name
        assert tag in timm_models.all_weights_names(), name


def test_mean_deviation_and_filter_are_those_of_the_weights():
    half = (0.5, 0.5, 0.5)
    augreg = presets.Preset(mean=half, std=half, interpolation="bicubic")
    for options in ({"weights": "imagenet"}, {"weights": "augreg_in21k"}, {"weights": "./own.safetensors"}):
        assert presets.preset_of(config("vit_tiny_patch16_224", **options)) == augreg, options
    assert presets.preset_of(config("vit_tiny_patch16_224")) == presets.IMAGENET
    as_before = config("vit_tiny_patch16_224", weights="imagenet", preprocessing="imagenet")
    assert presets.preset_of(as_before) == presets.IMAGENET
    clip = presets.preset_of(config("vit_base_patch16_clip_224.openai", weights="imagenet"))
    assert clip.mean == timm.get_pretrained_cfg("vit_base_patch16_clip_224.openai").mean != half
    with pytest.raises(WeightsError, match="timm has no weights 'a9' for timm/test_resnet; use r160_in1k"):
        presets.preset_of(config("test_resnet", weights="a9"))


@pytest.mark.parametrize("weights", ["imagenet", "r160_in1k"])
def test_weights_of_the_hub_are_read_and_their_position_embedding_is_resampled(weights, hub):
    source = pretrained("test_vit")
    file = store_on_hub(hub, VIT_WEIGHTS, source.state_dict())
    module = models.build_model(config(weights=weights), 3)
    expected = timm.create_model(
        "test_vit", True, pretrained_cfg_overlay={"file": str(file)}, img_size=32, num_classes=3
    )
    assert has_state(module, expected.state_dict(), except_for="head")
    assert module.pos_embed.shape != source.pos_embed.shape
    assert module.head.weight.shape == (3, source.head.in_features)


def test_a_new_last_layer_has_torchs_initialisation_and_depends_on_the_seed(hub):
    store_on_hub(hub, VIT_WEIGHTS, pretrained("test_vit").state_dict())
    one, same, other = (
        models.build_seeded_model(config(weights="imagenet"), 3, seed) for seed in (1, 1, 2)
    )
    assert has_state(one, same.state_dict())
    assert has_state(one, other.state_dict(), except_for="head")
    assert not torch.equal(one.head.weight, other.head.weight)
    assert one.head.weight.abs().max() <= one.head.in_features**-0.5  # nn.Linear's


def test_weights_that_are_not_there_are_named_before_and_when_a_trial_needs_them(hub):
    kinds = [("timm/test_vit", "imagenet"), (VIT_WEIGHTS, "imagenet"), ("timm/test_vit", "none")]
    (missing,) = weights.missing_files(kinds)
    assert missing.url == "https://huggingface.co/timm/test_vit.r160_in1k/resolve/main/model.safetensors"
    assert weights.describe_missing([missing]) == f"not yet in {hub}: models--timm--test_vit.r160_in1k"
    with pytest.raises(WeightsError) as refused:
        models.build_model(config(weights="imagenet"), 3)
    message = str(refused.value)
    assert f"models--timm--test_vit.r160_in1k is not in {hub} and could not be downloaded" in message
    assert (
        f"get {missing.url} and use it as a file (--set train.weights=FILE); to train all layers" in message
    )
    assert "\n" not in message
    store_on_hub(hub, VIT_WEIGHTS, pretrained("test_vit").state_dict())
    assert weights.missing_files(kinds) == []


def test_a_damaged_file_of_the_hub_is_named(hub):
    file = store_on_hub(hub, VIT_WEIGHTS, pretrained("test_vit").state_dict())
    file.write_bytes(b"a proxy's login page")
    with pytest.raises(WeightsError, match=r"model\.safetensors is damaged .*; remove it to do"):
        models.build_model(config(weights="imagenet"), 3)


# Files


def save_as(kind: str, module: nn.Module, folder) -> str:
    state = module.state_dict()
    if kind == "safetensors":
        safetensors.torch.save_file(state, folder / "file.safetensors")
        return str(folder / "file.safetensors")
    contents = {
        "state dict": state,
        # What timm's train.py saves.
        "checkpoint": {"arch": "test_vit", "state_dict": state, "args": argparse.Namespace(lr=1.0)},
        "parallel": {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    }
    torch.save(contents[kind], folder / "file.pth")
    return str(folder / "file.pth")


@pytest.mark.parametrize("kind", ["safetensors", "state dict", "checkpoint", "parallel"])
def test_a_file_is_read_and_keeps_its_last_layer_if_that_fits(kind, tmp_path):
    source = timm.create_model("test_vit", num_classes=5, img_size=32)
    path = save_as(kind, source, tmp_path)
    assert has_state(models.build_model(config(weights=path), 5), source.state_dict())
    other = models.build_model(config(weights=path), 3)
    assert has_state(other, source.state_dict(), except_for="head")
    assert other.head.weight.shape[0] == 3
    assert "state_dict" not in other.pretrained_cfg  # it would be copied with each trial's model


def test_a_file_for_another_image_size_or_without_a_last_layer_is_read(tmp_path):
    path = save_as("state dict", pretrained("test_vit"), tmp_path)
    assert models.build_model(config(weights=path), 3).pos_embed.shape[1] == 2 * 2 + 1
    body = timm.create_model("test_resnet", num_classes=0)
    path = save_as("state dict", body, tmp_path)
    assert has_state(
        models.build_model(config("test_resnet", weights=path), 3), body.state_dict(), "fc"
    ) is (
        False  # it has a last layer more
    )


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_file_of_another_model_is_refused_in_one_line(name, tmp_path):
    path = save_as("safetensors", timm.create_model("test_convnext"), tmp_path)
    with pytest.raises(WeightsError) as refused:
        models.build_model(config(name, weights=path), 3)
    assert str(refused.value).startswith(f"{path} does not fit timm/{name}: ")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


# What a model is


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_has_one_head_layers_and_logits(name):
    settings = config(name, layer_decay=0.7, head_lr_multiplier=3.0)
    module = models.build_model(settings, 10)
    head, layer = models.find_head(module, settings)
    assert module.get_submodule(head) is module.get_classifier() is layer
    assert module(torch.randn(2, 3, 32, 32)).shape == (2, 10)

    scales = {
        id(each): group["lr_scale"]
        for group in param_groups_layer_decay(module, layer_decay=0.7)
        for each in group["params"]
    }
    assert len(set(scales.values())) > 3
    factors = {
        id(each): group.lr_factor
        for group in parameter_groups.group_parameters(module, settings)
        for each in group.parameters
    }
    in_head = {id(each) for each in layer.parameters()}
    assert factors == pytest.approx(
        {key: each * (3 if key in in_head else 1) for key, each in scales.items()}
    )


@pytest.mark.parametrize("name", ["timm/pit_ti_224", "timm/densenet121", "timm/vgg11"])
def test_layers_are_timms_also_without_a_matcher(name):
    module = timm_models.build_on_meta(name)
    scales = {
        id(each): group["lr_scale"]
        for group in param_groups_layer_decay(module, layer_decay=0.5)
        for each in group["params"]
    }
    depths = timm_models.layer_depths(module)
    last = max(depths.values())
    assert {id(module.get_parameter(key)): 0.5 ** (last - depth) for key, depth in depths.items()} == scales


def rates_of(module: nn.Module) -> list[float]:
    return [layer.drop_prob for layer in module.modules() if isinstance(layer, DropPath)]


def test_dropout_and_stochastic_depth_are_timms_rates():
    module = models.build_model(config(dropout=0.3, drop_path=0.2), 3)
    assert module.head_drop.p == 0.3
    assert max(rates_of(module)) == rates_of(module)[-1] == pytest.approx(0.2)
    assert models.build_model(config("test_resnet", dropout=0.3), 3).drop_rate == 0.3
    assert rates_of(models.build_model(config(), 3)) == []
    # Swin has stochastic depth of its own.
    assert max(rates_of(timm_models.build_on_meta("timm/swin_tiny_patch4_window7_224"))) > 0
    with torch.device("meta"):
        plain = models.build_model(config("swin_tiny_patch4_window7_224"), 3)
    assert {*rates_of(plain)} == {0.0}


def test_the_cache_of_initial_models_tells_image_sizes_and_rates_apart():
    cache = models.InitialModels()
    built = [
        cache.build_seeded(config(**options), 3, 0)
        for options in ({}, {"image_size": 64}, {"drop_path": 0.1}, {"dropout": 0.1}, {})
    ]
    sizes = [module.pos_embed.shape[1] for module in built]
    assert sizes == [5, 17, 5, 5, 5]
    assert [bool(rates_of(module)) for module in built] == [False, False, True, False, False]
    assert [module.head_drop.p for module in built] == [0.0, 0.0, 0.0, 0.1, 0.0]
    assert len(cache.cached) == 4
    assert has_state(built[0], built[4].state_dict())


def test_only_the_head_is_trained_with_tune_head():
    settings = config("test_resnet", tune="head", limit=8)
    module = models.build_model(settings, 3)
    trained = {name for name, each in module.named_parameters() if each.requires_grad}
    assert trained == {"fc.weight", "fc.bias"}
    models.set_train_mode(module, settings)
    before = copy.deepcopy(module.state_dict())
    module(torch.randn(4, 3, 32, 32))
    assert has_state(module, before)  # no batch norm has changed


def cut(settings: Config) -> tuple[nn.Module, frozen.FrozenPart | None]:
    torch.manual_seed(0)
    module = models.build_model(settings, 10)
    size = settings.image_size
    return module, frozen.find_frozen_part(module, settings, torch.randn(2, 3, size, size))


@pytest.mark.parametrize("name", [*FAMILIES, "tf_mobilenetv3_small_minimal_100"])
def test_a_model_with_a_frozen_body_is_cut_before_its_head(name):
    settings = config(name, tune="head")
    module, part = cut(settings)
    body, rest = part.split_module(module)
    models.set_train_mode(module, settings)
    probe = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        features, logits = body(probe), module(probe)
        assert torch.equal(rest(features), logits)
    assert part.bytes_per_image == features[0].numel() * 4 < probe[0].numel() * 4


def test_dropout_lies_behind_the_cut_and_with_stochastic_depth_there_is_none():
    settings = config(tune="head", dropout=0.5)
    module, part = cut(settings)
    body, rest = part.split_module(module)
    models.set_train_mode(module, settings)
    probe = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        features = body(probe)
        assert torch.equal(features, body(probe))
        found = []
        for run, argument in ((module, probe), (rest, features)):
            torch.manual_seed(1)
            found.append(run(argument))
    assert torch.equal(*found)
    assert cut(config(tune="head", drop_path=0.5))[1] is None


# Training


@pytest.mark.parametrize(
    "name", [*FAMILIES, *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW_FAMILIES)]
)
def test_a_run_resumed_from_a_state_is_bit_identical(name, tmp_path):
    settings = config(name, dropout=0.1, ema_decay=0.5, augmentation="flip")
    images = datasets.load_dataset(settings, tmp_path)
    whole = loop.TrainingRun(settings, images, CPU)
    list(whole.epochs())
    first = loop.TrainingRun(settings, images, CPU)
    next(first.epochs())
    saved = checkpoint.save(tmp_path, first.state(), attempt=1)
    torch.manual_seed(99)  # whatever else ran in between
    second = loop.TrainingRun(settings, images, CPU, state=checkpoint.load(tmp_path / saved))
    list(second.epochs())
    assert [each.loss for each in second.history] == [each.loss for each in whole.history]
    assert has_state(second.model, whole.model.state_dict())
    assert whole.history[0].train_loss != whole.history[1].train_loss


# Without timm


def test_without_timm_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, "hpo.training.timm_models")
    monkeypatch.delattr(hpo.training, "timm_models")
    with pytest.raises(DefinitionError, match=r"not installed; .* pip install 'hpo-vision\[timm\]'"):
        libraries.library_of("timm/resnet18")
    assert libraries.library_of("resnet18").has_model("resnet18")
