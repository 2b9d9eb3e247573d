"""Models of torchvision for tests, and what their weights are."""

import torch
from torch import nn

from hpo.training import config, models

RESNET18 = "resnet18-f37072fd.pth"


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
