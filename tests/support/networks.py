"""Networks of a user's own, as functions that a study can name, and wrong ones."""

import random
from typing import Any

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """Two convolutions, dropout and a last layer; without ``get_classifier()``."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU()
        )
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(16, num_classes)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images).mean((2, 3))

    def forward(self, images: Tensor) -> Any:
        return self.fc(self.dropout(self.features(images)))


class WithHead(Small):
    """Says which layer is its head, as timm's models do."""

    def get_classifier(self) -> nn.Module:
        return self.fc


class DeepHead(nn.Module):
    """Has a head of two layers."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)
        self.head = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, num_classes))

    def forward(self, images: Tensor) -> Any:
        return self.head(self.body(images).mean((2, 3)))

    def get_classifier(self) -> nn.Module:
        return self.head


class TwoOutputs(Small):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images), images


class FixedSize(Small):
    """Accepts images of 64 x 64 pixels alone."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.fc = nn.Linear(16 * 15 * 15, num_classes)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images).flatten(1)


class ReadsValues(WithHead):
    """Reads the value of a tensor, which the meta device has none of."""

    def features(self, images: Tensor) -> Tensor:
        return super().features(images) * float(images.abs().max() > -1)


class CountsSteps(WithHead):
    """Changes a buffer in every step, and its frozen layers with it."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("steps", torch.zeros(()))

    def features(self, images: Tensor) -> Tensor:
        return super().features(images) + self.steps.add_(1)


class DrawsInPython(WithHead):
    """Draws a random number that torch does not know of."""

    def features(self, images: Tensor) -> Tensor:
        return super().features(images) * random.random()


class TrainsOnHalf(WithHead):
    """Has a frozen layer that does something else in training, without drawing a random number."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.body.append(_HalfInTraining())


class DropsInPython(WithHead):
    """Has a frozen layer that draws a random number in training, one that torch does not know of."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.body.append(_DropInTraining())


class _HalfInTraining(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images / 2 if self.training else images


class _DropInTraining(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images * 0 if self.training and random.random() < 1e-9 else images


class TakesState(WithHead):
    """Has something in its state that is no tensor."""

    def get_extra_state(self) -> Any:
        return {"version": 3}


def with_hook(num_classes: int) -> nn.Module:
    """Return a network whose hook a trace does not see."""
    module = WithHead(num_classes)
    module.register_forward_hook(lambda *call: call[2] * 2)
    return module


def with_wrong_head(num_classes: int) -> nn.Module:
    module = Small(num_classes)
    module.get_classifier = lambda: nn.Linear(2, 2)
    return module


def lazy(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))


def without_parameters(num_classes: int) -> nn.Module:
    return nn.Identity()


def of_one_output_more(num_classes: int) -> nn.Module:
    return Small(num_classes + 1)


def of_ten(classes: int = 10) -> nn.Module:
    return Small(classes)


def of_a_width(num_classes: int, width: int) -> nn.Module:
    return nn.Linear(width, num_classes)


def raising(num_classes: int) -> nn.Module:
    raise KeyError("no such layer")


def leaving(num_classes: int) -> nn.Module:
    raise SystemExit(3)


def returning_a_class(num_classes: int) -> Any:
    print("this belongs on stderr")
    return Small


def name(function: Any) -> str:
    """Return what a study calls a function of this file."""
    return f"{__name__}:{function.__name__}"
