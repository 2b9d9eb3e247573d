"""The order of layers, compared with the groups of timm's ``param_groups_layer_decay`` (timm 1.0.31)."""

import itertools

import pytest
import torch
import torchvision
from torch import nn

from hpo.training import catalog, layers, models, parameter_groups
from hpo.training.config import Config
from tests.support.models import FAMILIES

# Parameters of each layer, from the head to the stem, of timm's models with 10 classes.
TIMM = {
    "resnet18": [5130, 4720640, 3673088, 1180672, 919040, 295424, 230144, 73984, 73984, 9536],
    "vit_b_16": [7690, 7089408, *[7087872] * 11, 742656],
}
# How many layers timm's models have.
TIMM_COUNTS = {
    **{
        "resnet50": 18,
        "resnext50_32x4d": 18,
        "regnet_y_400mf": 18,
        "efficientnet_b0": 18,
        "mobilenet_v2": 19,
    },
    **{"efficientnet_v2_s": 42, "convnext_tiny": 20, "swin_t": 14, "densenet121": 60},
}


def depths_of(model: str) -> tuple[nn.Module, dict[str, int]]:
    module = catalog.build_on_meta(model)
    head, old = models.get_head(module)
    if isinstance(old, nn.Linear):
        module.set_submodule(head, nn.Linear(old.in_features, 10, device="meta"))
    return module, layers.layer_depths(module, head)


def sizes(module: nn.Module, depths: dict[str, int]) -> list[int]:
    """Return the number of parameters of each layer, from the head to the stem."""
    found = [0] * (max(depths.values()) + 1)
    for name, depth in depths.items():
        found[depth] += module.get_parameter(name).numel()
    return found[::-1]


@pytest.mark.parametrize("model", FAMILIES)
def test_every_parameter_has_one_layer_and_the_order_is_that_of_the_network(model):
    module, depths = depths_of(model)
    assert depths.keys() == {name for name, _ in module.named_parameters()}
    assert set(depths.values()) == set(range(max(depths.values()) + 1))
    head, _ = models.get_head(module)
    assert {name for name, depth in depths.items() if depth == max(depths.values())} == {
        name for name in depths if name.startswith(f"{head}.")
    }
    # Modules are defined in the order in which images pass through them.
    weights = [depths[name] for name in depths if module.get_parameter(name).ndim > 1]
    embeddings = sum(name in ("class_token", "encoder.pos_embedding") for name in depths)
    assert all(a <= b for a, b in itertools.pairwise(weights[1:] if embeddings else weights))


def test_the_families_are_all_that_torchvision_has():
    def family(model: str) -> str:
        return torchvision.models.get_model_builder(model).__module__

    assert set(map(family, catalog.model_names())) == set(map(family, FAMILIES))


@pytest.mark.parametrize("model", TIMM)
def test_the_layers_of_a_model_are_those_of_timm(model):
    assert sizes(*depths_of(model)) == TIMM[model]


@pytest.mark.parametrize("model", TIMM_COUNTS)
def test_a_model_has_as_many_layers_as_timms(model):
    assert len(sizes(*depths_of(model))) == TIMM_COUNTS[model]


@pytest.mark.parametrize("model", ["resnet18", "vit_b_16"])
def test_rates_decay_from_the_head_to_the_stem_as_in_plain_rules(model):
    settings = Config(
        model=model, image_size=224, weights="none", layer_decay=0.5, head_lr_multiplier=3, weight_decay=0.1
    )
    with torch.device("meta"):
        module = models.build_model(settings, 10)
    groups = parameter_groups.group_parameters(module, settings)
    found = {id(each): group.lr_factor for group in groups for each in group.parameters}
    assert sum(len(group.parameters) for group in groups) == len(found)
    plain = resnet18_exponent if model == "resnet18" else vit_exponent
    for name, parameter in module.named_parameters():
        expected = 3 if plain(name) == 0 else 0.5 ** plain(name)
        assert found[id(parameter)] == expected, name


def resnet18_exponent(name: str) -> int:
    if name.startswith("layer"):
        stage, block = int(name[5]), int(name[7])
        return 9 - 2 * stage - block + 1
    return 0 if name.startswith("fc.") else 9


def vit_exponent(name: str) -> int:
    if name.startswith("encoder.layers"):
        return 12 - int(name.split(".")[2].removeprefix("encoder_layer_"))
    if name.startswith("encoder.ln"):
        return 1
    return 0 if name.startswith("heads.") else 13


class Wrapper(nn.Module):
    """A network of the user's own around another one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Module()
        self.net.first = nn.Linear(2, 2)
        self.net.second = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
        self.last = nn.Linear(2, 2)


def test_a_network_within_a_network_is_looked_into():
    depths = layers.layer_depths(Wrapper(), "last")
    weights = {name: depth for name, depth in depths.items() if name.endswith("weight")}
    assert weights == {
        "net.first.weight": 0,
        "net.second.0.weight": 1,
        "net.second.1.weight": 1,
        "net.second.2.weight": 2,
        "last.weight": 3,
    }


def test_a_network_of_one_layer_besides_its_head_has_two():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert set(layers.layer_depths(module, "1").values()) == {0, 1}
