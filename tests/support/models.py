"""Models of torchvision for tests, and what their weights are."""

import torch
from torch import nn

from hpo.training import config, models

RESNET18 = "resnet18-f37072fd.pth"

# One model of each family, and those whose builder differs from the rest of the family.
FAMILIES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet"),
    *("inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf"),
    *("resnet18", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t"),
    *("swin_v2_t", "vgg11", "vgg11_bn", "vit_b_16", "wide_resnet50_2"),
)


def settings(name: str = "resnet18", weights: str = "none", **options) -> config.Config:
    return config.Config(model=name, weights=weights, **options)


def shapes_only(options: config.Config, classes: int) -> nn.Module:
    with torch.device("meta"):
        return models.build_model(options, classes)


def has_state(module: nn.Module, state: dict[str, torch.Tensor], except_for: str = "nothing") -> bool:
    actual = module.state_dict()
    return actual.keys() == state.keys() and all(
        torch.equal(actual[key], state[key]) for key in actual if not key.startswith(f"{except_for}.")
    )
