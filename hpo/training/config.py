"""The complete settings of one trial: every option of ``[train]`` with its type, range and default.

The defaults are those of the original report's central run: ResNet18 with ImageNet weights on CIFAR-10 at
224 px, SGD with learning rate 0.001 and momentum 0.9, batch size 16, learning rate times 0.1 every 5th
epoch, 20 epochs.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# Data sets that hpo knows by name: small images of one size, and image files of any size.
PIXEL_DATASETS = ("cifar10", "cifar100", "svhn", "stl10", "mnist", "fashion_mnist", "digits")
FILE_DATASETS = ("flowers102", "oxford_pets", "food101", "eurosat", "dtd", "imagenette")
DATASETS = PIXEL_DATASETS + FILE_DATASETS
# What the name of a data set of the user's own image files begins with, and how messages show such a name.
OWN_DATASETS = {"folder:": "folder:PATH", "list:": "list:FILE.csv", "hf:": "hf:OWNER/NAME"}

# A function that workers import: package.module:function.
FUNCTION_PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
# A model of timm, after whose name a tag of its weights may follow: timm/NAME, timm/NAME.TAG.
TIMM_PATTERN = r"^timm/[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?$"

# How a trial can compute, apart from "auto".
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
MEMORY_FORMATS = ("contiguous", "channels_last")

# Options that decide what is measured, on which images, and how it is computed. Trials that differ in one
# of them cannot be compared, so each study fixes them.
STUDY_WIDE = (
    *("dataset", "limit", "valid_fraction", "split_seed", "corrupt", "selection", "metric"),
    *("resize", "transparency", "max_pixels", "preprocessing", "cache"),
    *("precision", "memory_format", "compile", "cuda_graphs"),
)

# Options that say which images of a data set a study uses, and in which split.
SPLIT_OPTIONS = ("limit", "valid_fraction", "split_seed", "selection")
# Options that say how image files are read (``reads_files``). They change nothing about the other data
# sets, and how exported models read new images for all of them.
FILE_OPTIONS = ("corrupt", "resize", "transparency", "max_pixels")

# Options of a study that change none of its results, so that they may differ when it is extended.
FREE_OPTIONS = ("cache",)

# Options of a point that say how its trial is run, not which setting it tries. They are stored as
# attributes of the trial, so that importance plots do not show them as hyperparameters.
RUN_OPTIONS = ("epochs", "seed")

# What hpo did before an option existed, where that differs from its default: studies stored then keep it.
# Whoever adds an option whose default changes what hpo does adds a line here.
VALUES_BEFORE: dict[str, bool | int | float | str | None] = {
    "transparency": "drop",
    "preprocessing": "imagenet",
    "drop_path": None,  # the model's own stochastic depth
}

# Options that mix images, and the losses that are defined for a share of two classes.
MIXING_OPTIONS = ("mixup_alpha", "cutmix_alpha")
MIXABLE_LOSSES = ("cross_entropy", "focal")

# Options that matter only for some values of another option: option -> (other option, those values).
USED_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "momentum": ("optimizer", ("sgd", "rmsprop")),
    "nesterov": ("optimizer", ("sgd",)),
    "label_smoothing": ("loss", ("cross_entropy",)),
    "focal_gamma": ("loss", ("focal",)),
    **dict.fromkeys(MIXING_OPTIONS, ("loss", MIXABLE_LOSSES)),
    "step_size": ("schedule", ("step",)),
    "gamma": ("schedule", ("step", "exponential")),
    "warmup_epochs": ("schedule", ("step", "exponential", "cosine", "constant")),  # onecycle has its own
    "min_lr": ("schedule", ("step", "exponential", "cosine", "onecycle")),
    "layer_decay": ("tune", ("all",)),
    "head_lr_multiplier": ("tune", ("all",)),
    "freeze_epochs": ("tune", ("all",)),
}


Resize = Literal["crop", "pad", "squash"]
Transparency = Literal["white", "black", "drop"]
MAX_PIXELS = 179_000_000  # that an image may have unless it is said otherwise; PIL's own limit is near


def has_own_images(dataset: str) -> bool:
    """Return whether a data set is the user's own image files: a folder, a list, or copied from the hub."""
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
        str,
        Field(
            description=f"{', '.join((*DATASETS, 'folder:PATH'))}, list:FILE.csv (or .parquet) or "
            "hf:OWNER/NAME (or hf:./FOLDER), a data set of the Hugging Face hub"
        ),
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
    cache: Annotated[
        Literal["auto", "memory", "disk"],
        Field(
            description="where decoded image files are kept: disk, once for all workers of a machine; "
            "memory, in each worker; auto: disk, or memory if there is no room"
        ),
    ] = "auto"
    selection: Annotated[
        Literal["valid", "test"], Field(description="split on which trials are measured")
    ] = "valid"
    metric: Annotated[
        Literal["accuracy", "balanced_accuracy", "f1", "auroc", "top5_accuracy", "loss"],
        Field(description="what trials are compared by; loss is minimized, the others maximized"),
    ] = "accuracy"
    augmentation: Annotated[
        Literal["none", "flip", "crop+flip", "resized_crop"],
        Field(description="random changes to training images; resized_crop also flips"),
    ] = "none"
    auto_augment: Annotated[
        Literal["none", "randaugment", "trivialaugment"],
        Field(description="random operations on colours and geometry of training images"),
    ] = "none"
    random_erasing: Annotated[
        float, Field(ge=0, le=1, description="probability with which a box of a training image is erased")
    ] = 0.0
    mixup_alpha: Annotated[
        float, Field(ge=0, le=100, description="Beta parameter of the shares of two mixed images; 0: off")
    ] = 0.0
    cutmix_alpha: Annotated[
        float,
        Field(ge=0, le=100, description="Beta parameter of the area cut in from another image; 0: off"),
    ] = 0.0

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
            description="name of any classification model of torchvision, timm/NAME for one of timm, or "
            "package.module:function, which takes num_classes and returns a torch.nn.Module"
        ),
    ] = "resnet18"
    weights: Annotated[
        str,
        Field(
            min_length=1,
            description="imagenet, torchvision's name of the weights (IMAGENET1K_V2, DEFAULT), timm's tag "
            "(a1_in1k), none, or a file of weights",
        ),
    ] = "imagenet"
    preprocessing: Annotated[
        Literal["weights", "imagenet"],
        Field(description="whose mean, deviation and resize filter: those of the weights, or ImageNet's"),
    ] = "weights"
    tune: Annotated[Literal["all", "head"], Field(description="train all layers, or only the last one")] = (
        "all"
    )
    dropout: Annotated[
        float | None,
        Field(ge=0, lt=1, description="probability of every dropout layer; default: the model's own"),
    ] = None
    drop_path: Annotated[
        float | None,
        Field(ge=0, lt=1, description="stochastic depth: the probability that the last block is left out"),
    ] = 0.0

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
    decay_norms: Annotated[
        bool, Field(description="whether weight_decay applies to norms and biases, too")
    ] = True
    layer_decay: Annotated[
        float,
        Field(gt=0, le=1, description="factor on the learning rate per layer, from the head to the stem"),
    ] = 1.0
    head_lr_multiplier: Annotated[
        float, Field(gt=0, le=1000, description="factor on the learning rate of the new last layer")
    ] = 1.0
    freeze_epochs: Annotated[
        int, Field(ge=0, lt=100_000, description="first epochs, in which only the last layer is trained")
    ] = 0
    batch_size: Annotated[int, Field(ge=1, le=65536, description="images per batch")] = 16
    accumulate_steps: Annotated[
        int, Field(ge=1, le=65536, description="batches whose gradients make one step of the optimizer")
    ] = 1
    clip_grad_norm: Annotated[
        float | None,
        Field(gt=0, description="norm of all gradients together above which they are scaled down"),
    ] = None
    ema_decay: Annotated[
        float | None,
        Field(
            gt=0, lt=1, description="decay per step of the moving average of the weights, then evaluated"
        ),
    ] = None

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
    min_lr: Annotated[
        float, Field(ge=0, le=100, description="what the schedule never falls below; where cosine ends")
    ] = 0.0
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 20
    early_stopping: Annotated[
        int | None,
        Field(ge=1, le=100_000, description="epochs without a better value after which a trial completes"),
    ] = None
    seed: Annotated[
        int, Field(ge=0, lt=2**31, description="seed of initial weights, image order and augmentation")
    ] = 0


def is_augmented(config: Config) -> bool:
    """Return whether a training image differs from epoch to epoch."""
    return (config.augmentation, config.auto_augment) != ("none", "none") or max(
        config.random_erasing, config.mixup_alpha, config.cutmix_alpha
    ) > 0


class FinalConfig(Config):
    """The settings of a trial of ``hpo finish``; no study file can select them.

    The training and validation images are trained on together. The test images are evaluated once, after
    the last epoch.
    """

    selection: Literal["final"] = "final"  # type: ignore[assignment]  # a value that no file may use


def settings_of(config: BaseModel) -> dict[str, Any]:
    """Return all settings of a trial by name, also if one of them is called ``model_dump``."""
    return BaseModel.model_dump(config)


OPTIONS = tuple(Config.model_fields)
SEARCHABLE = tuple(name for name in OPTIONS if name not in STUDY_WIDE)
