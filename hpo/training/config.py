"""The complete settings of one trial: each option of ``[train]`` with type, range, default and meaning.

The text below an option is its description in ``hpo schema`` and in the reference of the documentation.

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

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    dataset: str = "cifar10"
    """A published data set: cifar10, cifar100, svhn, stl10, mnist, fashion_mnist, digits, flowers102,
    oxford_pets, food101, eurosat, dtd, imagenette; the user's own images: folder:PATH, or list:FILE.csv
    (or .parquet); or hf:OWNER/NAME (or hf:./FOLDER), a data set of the Hugging Face hub.
    """
    image_size: Annotated[int, Field(ge=8, le=1024)] = 224
    """Side of the square images, in pixels."""
    limit: Annotated[int | None, Field(ge=2, lt=2**31)] = None
    """Maximum number of training images; the other splits shrink in proportion. Left out: all. With a
    smaller number, a class can gain an image.
    """
    valid_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of the images that is held out for each split that the data set does not have."""
    split_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the stratified splits."""
    corrupt: Literal["refuse", "skip"] = "refuse"
    """What to do about an unreadable image file: refuse the study, or skip the file, which one line
    counts.
    """
    resize: Resize = "crop"
    """How an image file becomes square: crop cuts out its centre, pad keeps all of it and fills the rest,
    squash stretches it.
    """
    transparency: Transparency = "white"
    """What lies behind the transparent parts of image files, and beside padded ones: white, black, or
    with drop the colour that is hidden there (black beside padded ones).
    """
    max_pixels: Annotated[int, Field(ge=64, lt=2**31)] = MAX_PIXELS
    """An image file with more pixels than this (width times height) is unreadable; it is not decoded."""
    cache: Literal["auto", "memory", "disk"] = "auto"
    """Where decoded image files are kept: disk, once for all workers of a machine; memory, in each
    worker; auto: disk, or memory if there is no room. It changes no result, and may differ when a study
    is continued.
    """
    selection: Literal["valid", "test"] = "valid"
    """The split that trials are measured on; test is optimistic, as the original report was."""
    metric: Literal["accuracy", "balanced_accuracy", "f1", "auroc", "top5_accuracy", "loss"] = "accuracy"
    """What trials are compared by; loss is minimized, the others are maximized."""
    augmentation: Literal["none", "flip", "crop+flip", "resized_crop"] = "none"
    """Random changes to training images. flip: left to right; crop+flip: pad by an eighth, crop, flip;
    resized_crop: a random part (8 % to 100 %) becomes the whole image, and flip.
    """
    auto_augment: Literal["none", "randaugment", "trivialaugment"] = "none"
    """Random operations on the geometry and the colours of training images, as torchvision's
    RandAugment() and TrivialAugmentWide().
    """
    random_erasing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability with which a box of a training image is erased."""
    mixup_alpha: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Above 0: mix each training image and its label with another one; the share is drawn from
    Beta(alpha, alpha). Not with the loss multi_margin.
    """
    cutmix_alpha: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Above 0: cut a box of another image into each training image and mix the labels by the box's area,
    whose share is drawn from Beta(alpha, alpha). With mixup_alpha too, each batch gets one of the two. Not
    with the loss multi_margin.
    """

    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """How numbers are computed; auto: tf32 if the study's first worker has a GPU that supports it, else
    fp32.
    """
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """Memory layout of a batch; auto: the faster one, measured before trials of 1,000 steps or more."""
    compile: bool = False
    """Run training steps through torch.compile, except an epoch's partial batch; the first step of each
    model, image size and batch size then takes about a minute.
    """
    cuda_graphs: bool = False
    """On a GPU: compile training steps and launch each as one CUDA graph; for small models and batches."""

    model: str = "resnet18"
    """Any classification model of torchvision, by name; timm/NAME, one of timm; or
    package.module:function, a function of your own that takes num_classes and returns a torch.nn.Module.
    """
    weights: Annotated[str, Field(min_length=1)] = "imagenet"
    """Initial weights: imagenet (torchvision's IMAGENET1K_V1, timm's default), none, torchvision's name
    (IMAGENET1K_V2, DEFAULT), timm's tag (a1_in1k), or a file (safetensors, or torch).
    """
    preprocessing: Literal["weights", "imagenet"] = "weights"
    """Whose mean, deviation and resize filter images get: those of the weights, or ImageNet's with the
    bilinear filter.
    """
    tune: Literal["all", "head"] = "all"
    """Train all layers, or only the last one."""
    dropout: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Probability in every dropout layer, for models that have any; of timm's models before the
    classifier alone (timm's drop_rate). Left out: the model's own.
    """
    drop_path: Annotated[float | None, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth, for models that have any (convnext, efficientnet, maxvit, swin; most of timm's,
    as drop_path_rate): the probability with which training leaves out the last block; for the others it
    falls evenly to 0 at the first.
    """

    loss: Literal["cross_entropy", "multi_margin", "focal"] = "cross_entropy"
    """What training minimizes."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label that is spread over all classes."""
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    """The higher, the less an image counts that is classified well; 0 is cross entropy."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: in the training loss, an image counts the more, the fewer its class has; the loss of the
    selection split stays unweighted.
    """
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    """shuffle: an epoch has each image once; balanced: it draws as many images with replacement, from
    every class as often.
    """
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    """The optimizer, as torch has it."""
    lr: Annotated[float, Field(gt=0, le=100)] = 1e-3
    """Learning rate before the schedule."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """The optimizer's momentum."""
    nesterov: bool = False
    """Nesterov's momentum; only with momentum above 0."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Decay of the weights, by the optimizer."""
    decay_norms: bool = True
    """Whether weight_decay applies to norms and biases, too; false leaves out all parameters with less
    than two dimensions, as timm does.
    """
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer has this part of the learning rate of the layer behind it, from the head to the stem;
    layers are blocks, as timm counts them.
    """
    head_lr_multiplier: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Factor on the learning rate of the new last layer."""
    freeze_epochs: Annotated[int, Field(ge=0, lt=100_000)] = 0
    """First epochs in which only the last layer is trained, and batch norms of the others keep their
    statistics.
    """
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 16
    """Images per batch; fewer than 4 images left over join the batch before."""
    accumulate_steps: Annotated[int, Field(ge=1, le=65536)] = 1
    """Batches whose gradients make one step of the optimizer, as one batch of all their images would;
    batch norms see one batch at a time. The schedule counts these steps.
    """
    clip_grad_norm: Annotated[float | None, Field(gt=0)] = None
    """Norm of all gradients together above which they are scaled down to it. Left out: no limit."""
    ema_decay: Annotated[float | None, Field(gt=0, lt=1)] = None
    """Decay per step of a moving average of the weights and of the statistics of batch norms; the average
    is what is evaluated, kept and exported. It begins with the initial weights and spans about 1 / (1 -
    ema_decay) steps: choose 0.99 for trials of many more than 100 steps. Left out: no average.
    """

    schedule: Literal["step", "exponential", "cosine", "constant", "onecycle"] = "step"
    """How the learning rate changes over the epochs."""
    step_size: Annotated[int, Field(ge=1, le=100_000)] = 5
    """Epochs between two steps of the learning rate."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor on the learning rate at each step, or per epoch with exponential."""
    warmup_epochs: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Epochs in which the learning rate rises linearly to lr; onecycle has a warm-up of its own."""
    min_lr: Annotated[float, Field(ge=0, le=100)] = 0.0
    """The learning rate that the schedule does not fall below, and that cosine ends at."""
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 20
    """Epochs of a trial."""
    early_stopping: Annotated[int | None, Field(ge=1, le=100_000)] = None
    """Epochs without a better value after which a trial is complete, with its best epoch; the learning
    rate goes by epochs nevertheless. hpo simulate leaves such trials out. A custom objective ends early
    by returning. Left out: never.
    """
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of initial weights, order of the images, and augmentation."""


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
