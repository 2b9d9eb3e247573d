"""What torchvision's classification models are like: the facts that a study file is checked against.

torchvision is imported inside the functions, since `hpo --help` and a look at a store shall not wait
seconds for it. A model is looked at on torch's meta device, where tensors have shapes and no numbers:
that costs a tenth of a second and no memory even for a model of 600 million parameters. Every
``model`` here is one of ``models()``; torchvision raises ValueError about any other name.
"""

import functools
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

# These two return their auxiliary classifiers' outputs beside the logits while they train.
AUXILIARY_HEADS = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
# What most studies ask for need not be looked at: the smallest images that these models train on (pixels),
# two or more at a time. All of them have ImageNet weights.
SMALLEST_IMAGE_SIZES = {
    "alexnet": 63,
    **dict.fromkeys(("vgg11", "vgg13", "vgg16", "vgg19"), 32),
    **dict.fromkeys(("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"), 32),
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), 8),
}
USUAL_IMAGE_SIZES = (
    32,
    48,
    64,
    96,
    128,
    160,
    192,
    224,
    256,
    299,
    384,
    512,
)  # tried for a model that finds one wrong


@functools.cache
def model_names() -> tuple[str, ...]:
    """Give the names of all classification models, sorted."""
    import torchvision

    # Detection, segmentation, video and quantised models live in modules below this one.
    return tuple(sorted(torchvision.models.list_models(module=torchvision.models)))


@functools.cache
def has_dropout(model: str) -> bool:
    """Say whether the model has a dropout layer, one of probability 0 included (Swin)."""
    from torch import nn

    return any(isinstance(layer, nn.Dropout) for layer in build_on_meta(model).modules())


def has_imagenet_weights(model: str) -> bool:
    """Say whether torchvision has ImageNet weights of the model."""
    return imagenet_weights(model) is not None


@functools.cache
def imagenet_weights(model: str) -> Any | None:
    """Give torchvision's entry for the model's ImageNet weights: IMAGENET1K_V1 where it exists.

    None if there are none. Of others the entry for the smallest images is taken, so that weights do not
    change the image size that a model needs (vit_h_14's default entry makes it 518 pixels, not 224).
    """
    import torchvision

    # vgg16 has an entry that holds no classifier, and so names no categories.
    entries = [
        entry
        for entry in torchvision.models.get_model_weights(model)
        if entry.name.startswith("IMAGENET1K_") and entry.meta["categories"]
    ]
    return min(
        entries,
        key=lambda entry: (entry.name != "IMAGENET1K_V1", entry.meta["min_size"]),
        default=None,
    )


def is_known_to_train(model: str, image_size: int, batch_size: int) -> bool:
    """Tell whether a model is known to train on such images, so many at a time, without asking torch."""
    return batch_size > 1 and image_size >= SMALLEST_IMAGE_SIZES.get(model, math.inf)


def first_accepted_image_size(model: str) -> int | None:
    """Give the first usual size of images that the model trains on, in pixels; None if there is none."""
    return next((size for size in USUAL_IMAGE_SIZES if not image_size_problem(model, size)), None)


@functools.cache
def image_size_problem(model: str, image_size: int, batch_size: int = 2) -> str | None:
    """Give torch's reason why the model cannot train on images of ``image_size`` pixels square, or None.

    Some models cannot take larger images than theirs either: vit_b_16 takes 224 pixels and no other
    size. ``images`` is the size of a batch: of one, batch norm may refuse what is left as a single pixel.
    """
    import torch

    module = build_on_meta(model).train()
    try:
        with torch.no_grad():
            module(torch.empty(batch_size, 3, image_size, image_size, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return None


def build_on_meta(model: str) -> "nn.Module":
    """Build the model on the meta device: its layers and shapes without numbers.

    Draws no random numbers.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Numbers(TorchFunctionMode):
        # RegNet works out its widths with tensors and reads them back, which meta tensors cannot do.
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            device = {"device": "cpu"} if func in (torch.arange, torch.tensor) else {}
            return func(*args, **device | (kwargs or {}))

    with torch.device("meta"), Numbers():
        module = build_torchvision_model(model)
    return module.to("meta")  # Swin keeps a table made by arange


def build_torchvision_model(model: str, weights: Any | None = None) -> "nn.Module":
    """Build the model as torchvision does, with its 1000-class head and no auxiliary heads.

    ``weights`` is an entry as ``imagenet`` gives it; without one the weights are random, drawn from
    torch's global generator. GoogLeNet and Inception rescale their input as their ImageNet weights
    need it in either case, so that a state dict means the same wherever it came from.
    """
    import torchvision

    options: dict[str, Any] = {}
    if model in AUXILIARY_HEADS:
        # Left out, init_weights is True too, but with a warning.
        options = {"transform_input": True, "init_weights": weights is None}
    module: nn.Module = torchvision.models.get_model(model, weights=weights, progress=False, **options)
    for name in AUXILIARY_HEADS.get(model, ()):
        module.aux_logits = False  # type: ignore[assignment]  # not a tensor or a module
        setattr(module, name, None)  # not deleted: load_state_dict passes over a None's tensors
    return module


def builder_arguments(model: str, classes: int) -> dict[str, bool | int]:
    """Give the arguments by which torchvision's own builder makes what ``create`` and a new head make."""
    options: dict[str, bool | int] = {"num_classes": classes}
    if model in AUXILIARY_HEADS:
        options |= {"aux_logits": False, "transform_input": True, "init_weights": False}
    return options
