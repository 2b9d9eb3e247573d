import re
import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import StochasticDepth

from hpo.training import catalog, libraries
from tests.support.models import FAMILIES


def test_only_classification_models_are_listed_in_order():
    names = catalog.model_names()
    assert {"alexnet", "vgg16", "resnet18", "googlenet", "regnet_y_128gf", "vit_h_14"} <= set(names)
    assert list(names) == sorted(names)
    for kind in ("detection", "segmentation", "video", "quantization"):
        module = getattr(torchvision.models, kind)
        assert not set(names) & set(torchvision.models.list_models(module=module))


@pytest.mark.slow
def test_a_model_of_every_family_trains_at_224_pixels_and_all_have_imagenet_weights():
    assert all(map(catalog.has_imagenet_weights, catalog.model_names()))
    families = {re.match("[a-z_]+", name)[0]: name for name in reversed(catalog.model_names())}
    assert len(families) > 20
    for name in families.values():
        assert catalog.image_size_problem(name, 224) is None, name


@pytest.mark.parametrize(
    ("model", "has"),
    [
        ("resnet18", False),
        ("densenet121", False),
        ("convnext_tiny", False),
        ("regnet_x_400mf", False),
        ("alexnet", True),
        ("vgg16", True),
        ("squeezenet1_1", True),
        ("googlenet", True),
        ("vit_b_16", True),
        ("swin_t", True),
    ],
)
def test_dropout_layers_are_found(model, has):
    assert catalog.has_dropout(model) is has


@pytest.mark.parametrize("model", FAMILIES)
def test_stochastic_depth_is_known_by_the_name(model):
    layers = catalog.build_on_meta(model).modules()
    assert catalog.has_stochastic_depth(model) is any(isinstance(each, StochasticDepth) for each in layers)


@pytest.mark.parametrize(
    ("model", "fits", "fails"),
    [
        ("alexnet", 63, 62),
        ("vgg16", 32, 31),
        ("inception_v3", 75, 74),
        ("densenet121", 29, 28),
        ("squeezenet1_1", 17, 16),
        ("convnext_tiny", 32, 31),
        ("googlenet", 15, 14),
        ("vit_b_16", 224, 225),
        ("maxvit_t", 224, 192),
    ],
)
def test_the_image_sizes_that_a_model_accepts_are_exact(model, fits, fails):
    assert catalog.image_size_problem(model, fits) is None
    assert catalog.image_size_problem(model, fails)


@pytest.mark.parametrize("model", catalog.SMALLEST_IMAGE_SIZES)
def test_the_smallest_image_sizes_of_common_models_agree_with_torch(model):
    smallest = catalog.SMALLEST_IMAGE_SIZES[model]
    assert catalog.image_size_problem(model, smallest) is None
    assert smallest == 8 or catalog.image_size_problem(model, smallest - 1)
    assert catalog.has_imagenet_weights(model)


@pytest.mark.parametrize(
    "model", ["resnet18", "efficientnet_b0", "mobilenet_v3_small", "shufflenet_v2_x0_5"]
)
def test_models_for_any_size_accept_the_smallest_that_a_study_allows(model):
    assert catalog.image_size_problem(model, 8) is None


@pytest.mark.parametrize(
    ("model", "size"),
    [("squeezenet1_1", 16), ("squeezenet1_1", 17), ("densenet121", 28), ("mobilenet_v3_small", 8)],
)
def test_the_meta_device_fails_where_the_cpu_fails_with_the_same_message(model, size):
    module = catalog.build_torchvision_model(model).train()
    try:
        module(torch.zeros(2, 3, size, size))
        reason = None
    except RuntimeError as error:
        reason = str(error)
    assert catalog.image_size_problem(model, size) == reason


def test_the_image_size_problem_is_one_line_with_the_reason():
    assert catalog.image_size_problem("vit_b_16", 32) == "Wrong image height! Expected 224 but got 32!"
    reason = catalog.image_size_problem("alexnet", 32)
    assert reason is not None
    assert reason.endswith("Output size is too small")
    assert "\n" not in reason


def test_imagenet_weights_are_the_first_version_for_the_models_image_size():
    enums = torchvision.models
    assert catalog.imagenet_weights("resnet50") is enums.ResNet50_Weights.IMAGENET1K_V1
    assert catalog.imagenet_weights("vgg16") is enums.VGG16_Weights.IMAGENET1K_V1
    assert catalog.imagenet_weights("vit_h_14") is enums.ViT_H_14_Weights.IMAGENET1K_SWAG_LINEAR_V1


def test_weights_are_found_by_torchvisions_names():
    enums = torchvision.models
    assert catalog.weights_names("resnet50") == ("IMAGENET1K_V1", "IMAGENET1K_V2", "DEFAULT")
    assert catalog.weights_names("vgg16") == ("IMAGENET1K_V1", "DEFAULT")  # others have no classifier
    assert catalog.find_weights("resnet50", "IMAGENET1K_V2") is enums.ResNet50_Weights.IMAGENET1K_V2
    assert catalog.find_weights("resnet50", "DEFAULT") is enums.ResNet50_Weights.IMAGENET1K_V2
    assert catalog.find_weights("resnet50", "imagenet") is enums.ResNet50_Weights.IMAGENET1K_V1
    assert catalog.find_weights("vgg16", "IMAGENET1K_FEATURES") is None


def test_the_weights_of_a_vision_transformer_decide_which_images_it_accepts():
    larger = "IMAGENET1K_SWAG_E2E_V1"
    assert catalog.image_size_problem("vit_b_16", 384, weights=larger) is None
    assert catalog.image_size_problem("vit_b_16", 224, weights=larger)
    assert libraries.first_accepted_image_size("vit_b_16", larger) == 384
    assert catalog.builder_arguments("vit_b_16", 7, larger) == {"num_classes": 7, "image_size": 384}
    with torch.device("meta"):
        plain = torchvision.models.get_model(
            "vit_b_16", **catalog.builder_arguments("vit_b_16", 1000, larger)
        )
    ours = catalog.build_on_meta("vit_b_16", larger)
    assert [each.shape for each in plain.parameters()] == [each.shape for each in ours.parameters()]
    for weights in ("imagenet", "none", "IMAGENET1K_V1", "DEFAULT", "vit.pt"):
        assert catalog.image_size_problem("vit_b_16", 224, weights=weights) is None
        assert catalog.builder_arguments("vit_b_16", 7, weights) == {"num_classes": 7}


@pytest.mark.parametrize("model", ["resnet18", "regnet_x_400mf", "swin_v2_t", "googlenet"])
def test_build_on_meta_has_the_models_layers_and_draws_no_random_number(model):
    before = torch.get_rng_state()
    on_meta = catalog.build_on_meta(model)
    assert torch.equal(torch.get_rng_state(), before)
    real = catalog.build_torchvision_model(model)
    assert str(on_meta) == str(real)
    assert all(tensor.is_meta for tensor in on_meta.state_dict().values())
    shapes = {key: tensor.shape for key, tensor in real.state_dict().items()}
    assert {key: tensor.shape for key, tensor in on_meta.state_dict().items()} == shapes


@pytest.mark.parametrize("model", ["googlenet", "inception_v3"])
def test_models_are_built_without_auxiliary_heads(model):
    on_meta = catalog.build_on_meta(model)
    assert [name for name, _ in on_meta.named_children() if name.lower().startswith("aux")] == []
    assert isinstance(on_meta.train()(torch.empty(2, 3, 96, 96, device="meta")), torch.Tensor)
    assert sum(isinstance(layer, nn.Linear) for layer in on_meta.modules()) == 1


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="resnet19"):
        catalog.has_dropout("resnet19")


def test_importing_the_catalog_imports_neither_torch_nor_torchvision():
    check = "import sys, hpo.training.catalog; assert not {'torch', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
