"""The complete settings of one trial: every option of ``[train]`` with its type, range and default.

The defaults are those of the original report's central run: ResNet18 with ImageNet weights on CIFAR-10 at
224 px, SGD with learning rate 0.001 and momentum 0.9, batch size 16, learning rate times 0.1 every 5th
epoch, 20 epochs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

# Data sets that hpo knows by name: small images of one size, and image files of any size.
PIXEL_DATASETS = ("cifar10", "cifar100", "svhn", "stl10", "mnist", "fashion_mnist", "digits")
FILE_DATASETS = ("flowers102", "oxford_pets", "food101", "eurosat", "dtd", "imagenette")
DATASETS = PIXEL_DATASETS + FILE_DATASETS
# What the name of a data set of the user's own image files begins with, and how messages show such a name.
OWN_DATASETS = {"folder:": "folder:PATH", "list:": "list:FILE.csv"}

# A function that workers import: package.module:function.
FUNCTION_PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"

# How a trial can compute, apart from "auto".
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
MEMORY_FORMATS = ("contiguous", "channels_last")

# Options that decide what is measured, on which images, and how it is computed. Trials that differ in one
# of them cannot be compared, so each study fixes them.
STUDY_WIDE = (
    *("dataset", "limit", "valid_fraction", "split_seed", "corrupt", "selection", "metric"),
    *("resize", "transparency", "max_pixels"),
    *("precision", "memory_format", "compile", "cuda_graphs"),
)

# Options that say which images of a data set a study uses, and in which split.
SPLIT_OPTIONS = ("limit", "valid_fraction", "split_seed", "selection")
# Options that say how image files are read (``reads_files``). They change nothing about the other data
# sets, and how exported models read new images for all of them.
FILE_OPTIONS = ("corrupt", "resize", "transparency", "max_pixels")

# Options of a point that say how its trial is run, not which setting it tries. They are stored as
# attributes of the trial, so that importance plots do not show them as hyperparameters.
RUN_OPTIONS = ("epochs", "seed")

# What hpo did before an option existed, where that differs from its default: studies stored then keep it.
# Whoever adds an option whose default changes what hpo does adds a line here.
VALUES_BEFORE: dict[str, bool | int | float | str | None] = {"transparency": "drop"}

# Options that matter only for some values of another option: option -> (other option, those values).
USED_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "momentum": ("optimizer", ("sgd", "rmsprop")),
    "nesterov": ("optimizer", ("sgd",)),
    "label_smoothing": ("loss", ("cross_entropy",)),
    "focal_gamma": ("loss", ("focal",)),
    "step_size": ("schedule", ("step",)),
    "gamma": ("schedule", ("step", "exponential")),
    "warmup_epochs": ("schedule", ("step", "exponential", "cosine", "constant")),  # onecycle has its own
}


Resize = Literal["crop", "pad", "squash"]
Transparency = Literal["white", "black", "drop"]
MAX_PIXELS = 179_000_000  # that an image may have unless it is said otherwise; PIL's own limit is near


def has_own_images(dataset: str) -> bool:
    """Return whether a data set is the user's own image files: ``folder:PATH`` or ``list:FILE.csv``."""
    return dataset.startswith(tuple(OWN_DATASETS))


def reads_files(dataset: str) -> bool:
    """Return whether the images of a data set are files, so that ``FILE_OPTIONS`` apply to them."""
    return has_own_images(dataset) or dataset in FILE_DATASETS


class Config(BaseModel):
    """Everything that a training run depends on, except the device and what "auto" stands for.

    Raises:
        ValidationError: pydantic's, if an option is unknown, of another type, or out of range. Whether
            options fit together is not checked here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dataset: Annotated[
        str, Field(description=f"{', '.join((*DATASETS, 'folder:PATH'))} or list:FILE.csv")
    ] = "cifar10"
    image_size: Annotated[int, Field(ge=8, le=1024, description="side of the square images in pixels")] = (
        224
    )
    limit: Annotated[
        int | None,
        Field(
            ge=2,
            lt=2**31,
            description="maximum number of training images; the other splits shrink in proportion",
        ),
    ] = None
    valid_fraction: Annotated[
        float,
        Field(
            gt=0,
            lt=0.5,
            description="fraction of the images held out for each split that the data set does not ship",
        ),
    ] = 0.1
    split_seed: Annotated[int, Field(ge=0, lt=2**31, description="seed of the stratified splits")] = 0
    corrupt: Annotated[
        Literal["refuse", "skip"], Field(description="what to do about an unreadable image file")
    ] = "refuse"
    resize: Annotated[
        Resize,
        Field(description="how an image becomes square: cut out its centre, pad it, or stretch it"),
    ] = "crop"
    transparency: Annotated[
        Transparency,
        Field(description="what lies behind transparent pixels; drop: the colour that is hidden there"),
    ] = "white"
    max_pixels: Annotated[
        int,
        Field(
            ge=64, lt=2**31, description="width times height of the largest image that counts as readable"
        ),
    ] = MAX_PIXELS
    selection: Annotated[
        Literal["valid", "test"], Field(description="split on which trials are measured")
    ] = "valid"
    metric: Annotated[
        Literal["accuracy", "balanced_accuracy", "f1", "auroc", "top5_accuracy", "loss"],
        Field(description="what trials are compared by; loss is minimized, the others maximized"),
    ] = "accuracy"
    augmentation: Annotated[
        Literal["none", "flip", "crop+flip"], Field(description="random changes to training images")
    ] = "none"

    precision: Annotated[
        Literal["auto", "fp32", "tf32", "bf16", "fp16"],
        Field(description="auto: tf32 if the study's first worker has a GPU that supports it, else fp32"),
    ] = "auto"
    memory_format: Annotated[
        Literal["auto", "contiguous", "channels_last"],
        Field(description="memory layout of a batch; auto: the faster one, measured once"),
    ] = "auto"
    compile: Annotated[
        bool, Field(description="run training steps through torch.compile, except an epoch's partial batch")
    ] = False
    cuda_graphs: Annotated[
        bool, Field(description="on a GPU: compile training steps and launch each as one CUDA graph")
    ] = False

    model: Annotated[
        str,
        Field(
            description="name of any classification model of torchvision, or package.module:function, "
            "which takes num_classes and returns a torch.nn.Module"
        ),
    ] = "resnet18"
    weights: Annotated[str, Field(min_length=1, description="imagenet, none, or a file of weights")] = (
        "imagenet"
    )
    tune: Annotated[Literal["all", "head"], Field(description="train all layers, or only the last one")] = (
        "all"
    )
    dropout: Annotated[
        float | None,
        Field(ge=0, lt=1, description="probability of every dropout layer; default: the model's own"),
    ] = None

    loss: Literal["cross_entropy", "multi_margin", "focal"] = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0, lt=1, description="cross entropy only")] = 0.0
    focal_gamma: Annotated[
        float, Field(ge=0, le=10, description="focal loss only: how little images count that are learned")
    ] = 2.0
    class_weights: Annotated[
        Literal["none", "balanced"],
        Field(description="balanced: in the training loss every class counts the same"),
    ] = "none"
    sampling: Annotated[
        Literal["shuffle", "balanced"],
        Field(description="balanced: an epoch draws images with replacement, every class as often"),
    ] = "shuffle"
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    lr: Annotated[float, Field(gt=0, le=100, description="learning rate before the schedule")] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1, description="sgd and rmsprop only")] = 0.9
    nesterov: Annotated[bool, Field(description="sgd only, and only with momentum above 0")] = False
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0
    batch_size: Annotated[int, Field(ge=1, le=65536, description="images per step")] = 16

    schedule: Literal["step", "exponential", "cosine", "constant", "onecycle"] = "step"
    step_size: Annotated[
        int, Field(ge=1, le=100_000, description="schedule step: epochs between two reductions")
    ] = 5
    gamma: Annotated[
        float, Field(gt=0, le=1, description="factor: per reduction of step, per epoch of exponential")
    ] = 0.1
    warmup_epochs: Annotated[
        int, Field(ge=0, le=100_000, description="epochs of linear warm-up to lr; not for onecycle")
    ] = 0
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 20
    seed: Annotated[
        int, Field(ge=0, lt=2**31, description="seed of initial weights, image order and augmentation")
    ] = 0


class FinalConfig(Config):
    """The settings of a trial of ``hpo finish``; no study file can select them.

    The training and validation images are trained on together. The test images are evaluated once, after
    the last epoch.
    """

    selection: Literal["final"] = "final"  # type: ignore[assignment]  # a value that no file may use


@dataclass(frozen=True, kw_only=True)
class TrialPlace:
    """Where a trial of a custom objective runs."""

    device: str  # as torch names it: "cpu", "cuda:0"
    trial: int  # its number
    folder: Path  # for files of the function's own, which stay with the trial


# Methods of pydantic's first version, which it keeps for old code: ``copy``, ``dict``, ``json`` and so on.
_OLD_METHODS = frozenset(name for name in dir(BaseModel) if not name.startswith(("_", "model_")))
_OF_A_PLACE = frozenset(field.name for field in fields(TrialPlace))


class CustomConfig(BaseModel):
    """The settings of a trial with a custom objective; it may have any options under any names.

    They can be read as attributes and as items: ``config.lr`` and ``config["lr"]``. While the trial runs,
    ``config.device``, ``config.trial`` and ``config.folder`` say where (see ``TrialPlace``). An option
    hides one of these, or a method of pydantic such as ``model_copy``, if it has the same name. A name that
    no option of the trial has is none of pydantic's older methods either: where an option ``json`` is left
    out, ``config.json`` raises AttributeError. Only ``objective``, ``epochs`` and ``seed`` are checked.

    Raises:
        ValidationError: pydantic's, if one of these three is of another type or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    objective: Annotated[
        str,
        Field(
            pattern=FUNCTION_PATTERN,
            description="package.module:function, which yields (accuracy, state) after each epoch",
        ),
    ]
    epochs: Annotated[int, Field(ge=1, le=100_000, description="maximum number of epochs")] = (
        Config.model_fields["epochs"].default
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    _place: TrialPlace | None = PrivateAttr(default=None)

    @property
    def device(self) -> str:
        """The device of the trial's worker; raises AttributeError while no trial runs."""
        return self._running_place().device

    @property
    def trial(self) -> int:
        """The trial's number; raises AttributeError while no trial runs."""
        return self._running_place().trial

    @property
    def folder(self) -> Path:
        """The trial's folder; raises AttributeError while no trial runs."""
        return self._running_place().folder

    def _running_place(self) -> TrialPlace:
        if self._place is None:
            raise AttributeError("device, trial and folder are known only while a trial runs")
        return self._place

    def __getattribute__(self, name: str) -> Any:
        """Return the setting of this name, or else what pydantic's model has under it."""
        if not name.startswith("_"):
            own = super().__getattribute__("__pydantic_extra__") or {}
            if name in own and not (name == "model_post_init" and self._is_being_made()):
                return own[name]
            if name in _OLD_METHODS:
                raise AttributeError(name)  # Python calls __getattr__ then
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        """Say that there is no such setting; pydantic's own attributes that begin with "_" are its own."""
        if name.startswith("_") or name in _OF_A_PLACE:
            return super().__getattr__(name)  # type: ignore[misc]  # pydantic hides it from type checkers
        raise AttributeError(f"the trial has no option '{name}'; it has {', '.join(settings_of(self))}")

    def _is_being_made(self) -> bool:
        """Return whether pydantic has yet to call ``model_post_init``, as the last step of the checks."""
        return getattr(self, "__pydantic_private__", None) is None

    def __getitem__(self, name: str) -> Any:
        """Return the setting of this name; raises KeyError if the trial has none."""
        settings = settings_of(self)
        return settings[name]


def at_place(config: CustomConfig, place: TrialPlace) -> CustomConfig:
    """Return the same settings for a trial that runs at a place."""
    placed = BaseModel.model_copy(config)
    placed._place = place
    return placed


def settings_of(config: BaseModel) -> dict[str, Any]:
    """Return all settings of a trial by name, also if one of them is called ``model_dump``."""
    return BaseModel.model_dump(config)


OPTIONS = tuple(Config.model_fields)
SEARCHABLE = tuple(name for name in OPTIONS if name not in STUDY_WIDE)


@dataclass(frozen=True, kw_only=True)
class OptionTable:
    """The options that a study file may use, and the rules about them."""

    config_class: type[Config] | type[CustomConfig]
    options: tuple[str, ...] | None  # None: any name
    study_wide: tuple[str, ...]  # fixed by each study
    used_by: Mapping[str, tuple[str, tuple[str, ...]]]

    @property
    def searchable(self) -> tuple[str, ...] | None:
        """The options that ``[space]`` and ``[[points]]`` may use; None: any name."""
        if self.options is None:
            return None
        return tuple(name for name in self.options if name not in self.study_wide)


BUILT_IN_OPTIONS = OptionTable(config_class=Config, options=OPTIONS, study_wide=STUDY_WIDE, used_by=USED_BY)
FINAL_OPTIONS = replace(BUILT_IN_OPTIONS, config_class=FinalConfig)
CUSTOM_OPTIONS = OptionTable(config_class=CustomConfig, options=None, study_wide=("objective",), used_by={})


def option_table(train: Mapping[str, Any]) -> OptionTable:
    """Return the options that a study may use: any name if ``train`` has an "objective".

    Args:
        train: The study's ``[train]`` table.
    """
    return CUSTOM_OPTIONS if "objective" in train else BUILT_IN_OPTIONS
