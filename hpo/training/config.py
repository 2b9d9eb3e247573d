"""One trial's complete settings: every option of ``[train]``, its type, range and default.

The defaults are the original report's central run: ResNet18 with ImageNet weights on CIFAR-10 at
224 px, SGD at 0.001 with momentum 0.9, batch 16, learning rate times 0.1 every 5th epoch, 20 epochs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

DATASETS = ("cifar10", "cifar100", "svhn", "mnist", "fashion_mnist", "digits")

# Options that decide which images an accuracy is measured on, and how it is computed. Trials that differ
# in one of them cannot be compared, so a study fixes them.
STUDY_WIDE = (
    *("dataset", "limit", "valid_fraction", "split_seed", "corrupt", "selection"),
    *("precision", "memory_format", "compile", "cuda_graphs"),
)

# Options of a point that say how a trial is run rather than which setting it tries: they are kept as
# attributes of the trial, so that they do not pass for hyperparameters in importance plots.
RUN_OPTIONS = ("epochs", "seed")

# An option that only some values of another option use: option -> (the other, those values).
USED_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "momentum": ("optimizer", ("sgd", "rmsprop")),
    "nesterov": ("optimizer", ("sgd",)),
    "label_smoothing": ("loss", ("cross_entropy",)),
    "step_size": ("schedule", ("step",)),
    "gamma": ("schedule", ("step", "exponential")),
    "warmup_epochs": ("schedule", ("step", "exponential", "cosine", "constant")),  # onecycle has its own
}


class Config(BaseModel):
    """Everything a training run depends on, but for the device it runs on."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dataset: Annotated[
        str, Field(description="cifar10, cifar100, svhn, mnist, fashion_mnist, digits or folder:PATH")
    ] = "cifar10"
    image_size: Annotated[int, Field(ge=8, le=1024, description="pixels, square")] = 224
    limit: Annotated[
        int | None,
        Field(
            ge=2, lt=2**31, description="at most so many training images, the other splits in proportion"
        ),
    ] = None
    valid_fraction: Annotated[
        float, Field(gt=0, lt=0.5, description="share of the images held out for a split not shipped")
    ] = 0.1
    split_seed: Annotated[int, Field(ge=0, lt=2**31, description="seed of the stratified splits")] = 0
    corrupt: Annotated[
        Literal["refuse", "skip"], Field(description="what to do about an unreadable image in a folder")
    ] = "refuse"
    selection: Annotated[
        Literal["valid", "test"], Field(description="split that accuracy is measured on")
    ] = "valid"
    augmentation: Annotated[
        Literal["none", "flip", "crop+flip"], Field(description="of training images")
    ] = "none"

    precision: Annotated[
        Literal["auto", "fp32", "tf32", "bf16", "fp16"],
        Field(description="auto: tf32 where the study's first worker has a GPU with it, else fp32"),
    ] = "auto"
    memory_format: Annotated[
        Literal["auto", "contiguous", "channels_last"],
        Field(description="order of a batch's values in memory; auto: the faster one, measured once"),
    ] = "auto"
    compile: Annotated[
        bool, Field(description="training steps through torch.compile, but for an epoch's partial batch")
    ] = False
    cuda_graphs: Annotated[
        bool, Field(description="on a GPU: compiled steps, launched as one graph instead of many kernels")
    ] = False

    model: Annotated[str, Field(description="any classification model of torchvision, by name")] = (
        "resnet18"
    )
    weights: Annotated[str, Field(min_length=1, description="imagenet, none, or a file of weights")] = (
        "imagenet"
    )
    tune: Annotated[Literal["all", "head"], Field(description="train every layer, or the last one")] = "all"
    dropout: Annotated[
        float | None,
        Field(ge=0, lt=1, description="of every dropout layer of the model; left out: the model's own"),
    ] = None

    loss: Literal["cross_entropy", "multi_margin"] = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0, lt=1, description="cross entropy only")] = 0.0
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    lr: Annotated[float, Field(gt=0, le=100, description="learning rate before the schedule")] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1, description="sgd and rmsprop only")] = 0.9
    nesterov: Annotated[bool, Field(description="sgd only, and only with momentum above 0")] = False
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0
    batch_size: Annotated[int, Field(ge=1, le=65536, description="images per step")] = 16

    schedule: Literal["step", "exponential", "cosine", "constant", "onecycle"] = "step"
    step_size: Annotated[int, Field(ge=1, le=100_000, description="epochs between two steps of step")] = 5
    gamma: Annotated[
        float, Field(gt=0, le=1, description="factor of step, and of exponential per epoch")
    ] = 0.1
    warmup_epochs: Annotated[int, Field(ge=0, le=100_000, description="linear up to lr")] = 0
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 20
    seed: Annotated[
        int, Field(ge=0, lt=2**31, description="of initial weights, order and augmentation")
    ] = 0


class FinalConfig(Config):
    """The settings of a trial of ``hpo finish``; no study file can ask for them.

    Train and validation images are trained on together, and the test images are looked at once, after the
    last epoch.
    """

    selection: Literal["final"] = "final"  # type: ignore[assignment]  # none of those that a file may name


class CustomConfig(BaseModel):
    """The settings of a trial whose objective is a person's own function, under whatever names it has.

    They are there as attributes and as items: ``config.lr`` and ``config["lr"]``.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    objective: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
            description="package.module:function, which yields (accuracy, state) after each epoch",
        ),
    ]
    epochs: Annotated[int, Field(ge=1, le=100_000, description="at most so many are asked for")] = (
        Config.model_fields["epochs"].default
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    def __getitem__(self, name: str) -> Any:
        """Give a setting by its name; raises KeyError if there is none of that name."""
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None


OPTIONS = tuple(Config.model_fields)
SEARCHABLE = tuple(name for name in OPTIONS if name not in STUDY_WIDE)


@dataclass(frozen=True, kw_only=True)
class OptionTable:
    """The options that a study file may name, and what is known of them."""

    kind: type[Config] | type[CustomConfig]
    options: tuple[str, ...] | None  # None: any name
    study_wide: tuple[str, ...]
    used_by: Mapping[str, tuple[str, tuple[str, ...]]]

    @property
    def searchable(self) -> tuple[str, ...] | None:
        """The options that may be searched or given by a point; None: any name."""
        if self.options is None:
            return None
        return tuple(name for name in self.options if name not in self.study_wide)


BUILT_IN_OPTIONS = OptionTable(kind=Config, options=OPTIONS, study_wide=STUDY_WIDE, used_by=USED_BY)
FINAL_OPTIONS = replace(BUILT_IN_OPTIONS, kind=FinalConfig)
CUSTOM_OPTIONS = OptionTable(kind=CustomConfig, options=None, study_wide=("objective",), used_by={})


def option_table(train: Mapping[str, Any]) -> OptionTable:
    """Give the vocabulary of a study by its ``[train]``: an objective of one's own frees the names."""
    return CUSTOM_OPTIONS if "objective" in train else BUILT_IN_OPTIONS
