"""The original report as data: its 14 points, its numbers as printed, and its seven conclusions.

Source: a winter-term report (in Korean) on fine-tuning AlexNet, VGG16 and ResNet18, pretrained on ImageNet,
on CIFAR-10. This file keeps the report's section numbers: 4.1 models and optimizers, 4.2 learning rate, 4.3
momentum, 4.4 batch size. ``studies/original-grid.toml`` has the same points as a study.

The report shows accuracy by learning rate, momentum and batch size only as plots. Their numbers are lost;
only the order of the values is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SITES = {"C": "Google Colab, GPU unnamed", "L": "a desktop with an RTX 3070"}


@dataclass(frozen=True, kw_only=True)
class ReportPoint:
    """One setting that the report trained, one run each."""

    number: int  # from 1, as in the study file
    site: str  # one of SITES
    epochs: int
    model: str
    optimizer: str
    lr: float
    momentum: float | None  # None: Adam has none
    batch_size: int
    accuracy: str | None = None  # best over the epochs, as printed; None: not printed as a number
    epoch_seconds: str | None = None  # mean, as printed
    also_lr: float | None = None  # the learning rate that another place of the report gives

    def __str__(self) -> str:
        momentum = "" if self.momentum is None else f" and momentum {self.momentum:g}"
        return (
            f"{MODELS[self.model]}, {OPTIMIZERS[self.optimizer]} at {self.lr:g}{momentum}, "
            f"batch {self.batch_size}, site {self.site}"
        )


MODELS = {"alexnet": "AlexNet", "vgg16": "VGG16", "resnet18": "ResNet18"}
OPTIMIZERS = {"adam": "Adam", "sgd": "SGD"}


def _colab_point(number: int, model: str, optimizer: str, accuracy: str, epoch_seconds: str) -> ReportPoint:
    return ReportPoint(
        number=number,
        site="C",
        epochs=30,
        model=model,
        optimizer=optimizer,
        lr=1e-3,
        momentum=0.9 if optimizer == "sgd" else None,
        batch_size=16,
        accuracy=accuracy,
        epoch_seconds=epoch_seconds,
    )


def _desktop_point(
    number: int,
    epoch_seconds: str | None = None,
    *,
    lr: float = 1e-3,
    momentum: float = 0.9,
    batch_size: int = 16,
    also_lr: float | None = None,
) -> ReportPoint:
    return ReportPoint(
        number=number,
        site="L",
        epochs=20,
        model="resnet18",
        optimizer="sgd",
        lr=lr,
        momentum=momentum,
        batch_size=batch_size,
        epoch_seconds=epoch_seconds,
        also_lr=also_lr,
    )


POINTS = {
    point.number: point
    for point in (
        _colab_point(1, "alexnet", "sgd", "0.9466", "166"),
        _colab_point(2, "alexnet", "adam", "0.6171", "147"),
        _colab_point(3, "vgg16", "sgd", "0.9455", "909"),
        _colab_point(4, "vgg16", "adam", "0.1201", "946"),
        _colab_point(5, "resnet18", "sgd", "0.9568", "122"),
        _colab_point(6, "resnet18", "adam", "0.9233", "125"),
        _desktop_point(7, lr=1e-1),
        _desktop_point(8, "96.25"),
        _desktop_point(9, lr=1e-5, also_lr=1e-4),
        _desktop_point(10, momentum=0.45),
        _desktop_point(11, momentum=0.0),
        _desktop_point(12, "115.7", batch_size=8),
        _desktop_point(13, "84.2", batch_size=32),
        _desktop_point(14, "82.65", batch_size=64),
    )
}


LEARNING_RATE_POINTS = (7, 8, 9)  # the numbers of the points of 4.2
MOMENTUM_POINTS = (8, 10, 11)  # of 4.3
BATCH_SIZE_POINTS = (12, 8, 13, 14)  # of 4.4

# What all points share. A trial with another value of one of these options is another experiment. The
# report does not state the image size: its times fit 224 pixels. Nor does it state the split that accuracy
# was measured on: according to its code, presumably the test images.
CONDITIONS: Mapping[str, Any] = {
    "dataset": "cifar10",
    "limit": None,
    "image_size": 224,
    "weights": "imagenet",
    "tune": "all",
    "dropout": None,
    "augmentation": "none",
    "auto_augment": "none",
    "random_erasing": 0.0,
    "mixup_alpha": 0.0,
    "cutmix_alpha": 0.0,
    "loss": "cross_entropy",
    "label_smoothing": 0.0,
    "class_weights": "none",
    "sampling": "shuffle",
    "nesterov": False,
    "weight_decay": 0.0,
    "schedule": "step",
    "step_size": 5,
    "gamma": 0.1,
    "warmup_epochs": 0,
    "min_lr": 0.0,
    "layer_decay": 1.0,
    "head_lr_multiplier": 1.0,
    "freeze_epochs": 0,
    "accumulate_steps": 1,
    "clip_grad_norm": None,
    "ema_decay": None,
    "early_stopping": None,
}

CONCLUSIONS = {
    1: "ResNet18 is both the fastest and the most accurate of the three, with SGD and with Adam.",
    2: "VGG16 takes several times longer per epoch than the other two (7.5 times ResNet18's).",
    3: "Adam at 0.001 is worse than SGD at 0.001/0.9 on every model; on AlexNet it stalls (0.6171), on "
    "VGG16 it does not learn at all (0.1201).",
    4: "With SGD a learning rate of 0.001 beats 0.00001, which beats 0.1; the time per epoch does not "
    "depend on it.",
    5: "Momentum 0.9 is best; 0.45 and 0.0 are worse.",
    6: "Accuracy falls in the order of batch sizes 16, 8, 32, 64, with 8 and 16 within error; the time per "
    "epoch falls with the batch size.",
    7: "With pretrained weights accuracy is already high after the first epoch.",
}
