"""Facts about torchvision's classification models, which a study file is checked against.

``timm_models`` is its counterpart for models of timm, ``user_network`` for networks of the user's own.
``libraries`` chooses between the first two.

torchvision is imported inside the functions, because importing it takes seconds and ``hpo --help`` or a
command that only reads a store must not wait for it. Models are inspected on torch's meta device, where
tensors have shapes but no data: that takes a tenth of a second and no memory, even for a model with 600
million parameters. Every argument ``model`` must be one of ``model_names()``; this is not checked here.
"""

import contextlib
import functools
import math
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

# In train mode these models also return the outputs of auxiliary classifiers, unless those are removed.
AUXILIARY_HEADS = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
# The models that most studies use need not be inspected. This is the smallest side in pixels of images that
# they can be trained on, with two or more images per batch. All of them have ImageNet weights.
SMALLEST_IMAGE_SIZES = {
    "alexnet": 63,
    **dict.fromkeys(("vgg11", "vgg13", "vgg16", "vgg19"), 32),
    **dict.fromkeys(("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"), 32),
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), 8),
}
# What the names of models begin with whose blocks are left out at random (torchvision.ops.StochasticDepth).
STOCHASTIC_DEPTH_FAMILIES = ("convnext_", "efficientnet_", "maxvit_", "swin_")
# Sizes that are tried in order to suggest one to the user, in pixels.
USUAL_IMAGE_SIZES = (32, 48, 64, 96, 128, 160, 192, 224, 240, 256, 299, 384, 512, 518)
VIT_SIZE = 224  # side of the images that torchvision builds a ViT for, unless its weights need another
# What torchvision's names of weights look like; DEFAULT is the best of each model at present.
WEIGHTS_PATTERN = r"IMAGENET1K_[A-Z0-9_]+|DEFAULT"
TIMM_PREFIX = "timm/"  # what the names of timm's models begin with
TAG_PATTERN = r"\w+"  # timm's names of weights; the path of a file has a dot or a slash


def is_user_network(model: str) -> bool:
    """Return whether a model is a network of the user's own, named ``package.module:function``."""
    return ":" in model


def is_timm_model(model: str) -> bool:
    """Return whether a model is one of timm's, named ``timm/NAME`` or ``timm/NAME.TAG``."""
    return model.startswith(TIMM_PREFIX)


def is_named_weights(model: str, weights: str) -> bool:
    """Return whether weights have a name: ``imagenet``, or one of those that the model's library gives."""
    pattern = TAG_PATTERN if is_timm_model(model) else WEIGHTS_PATTERN
    return weights == "imagenet" or (weights != "none" and re.fullmatch(pattern, weights) is not None)


def is_weights_file(model: str, weights: str) -> bool:
    """Return whether weights are a file of the user's."""
    return weights != "none" and not is_named_weights(model, weights)


@functools.cache
def model_names() -> tuple[str, ...]:
    """Return the names of all classification models, sorted."""
    import torchvision

    # Detection, segmentation, video and quantised models are in modules below this one.
    return tuple(sorted(torchvision.models.list_models(module=torchvision.models)))


def has_model(model: str) -> bool:
    """Return whether torchvision has a classification model of this name."""
    return model in model_names()


@functools.cache
def has_dropout(model: str) -> bool:
    """Return whether the model has a dropout layer; one with probability 0 counts too (Swin)."""
    from torch import nn

    return any(isinstance(layer, nn.Dropout) for layer in build_on_meta(model).modules())


def has_stochastic_depth(model: str) -> bool:
    """Return whether the model has blocks that training can leave out at random; does not import torch."""
    return model.startswith(STOCHASTIC_DEPTH_FAMILIES)


def has_imagenet_weights(model: str) -> bool:
    """Return whether torchvision has ImageNet weights for the model."""
    return imagenet_weights(model) is not None


@functools.cache
def imagenet_weights(model: str) -> Any | None:
    """Return torchvision's weights entry for the model: ``IMAGENET1K_V1`` if it exists.

    If it does not, the entry for the smallest images is used, so that weights do not change the image size
    that a model needs: vit_h_14's default entry would need 518 pixels instead of 224. Entries without a
    classifier do not count.

    Returns:
        A member of torchvision's enumeration of weights, or None if the model has no ImageNet weights.
    """
    return min(
        _weights_entries(model).values(),
        key=lambda entry: (entry.name != "IMAGENET1K_V1", entry.meta["min_size"]),
        default=None,
    )


def find_weights(model: str, weights: str) -> Any | None:
    """Return torchvision's entry for a model's weights, or None if it has none of this name.

    Args:
        model: Name of the model.
        weights: ``imagenet``, or one of ``weights_names``.
    """
    import torchvision

    if weights == "imagenet":
        return imagenet_weights(model)
    if weights == "DEFAULT":
        return torchvision.models.get_model_weights(model).DEFAULT
    return _weights_entries(model).get(weights)


def weights_names(model: str) -> tuple[str, ...]:
    """Return torchvision's names of the model's weights."""
    return (*_weights_entries(model), "DEFAULT")


@functools.cache
def _weights_entries(model: str) -> dict[str, Any]:
    """Return torchvision's entries for the model by name, without those that lack a classifier."""
    import torchvision

    # One entry of vgg16 has no values for its classifier; it lists no categories.
    return {
        entry.name: entry
        for entry in torchvision.models.get_model_weights(model)
        if entry.meta["categories"]
    }


def size_options(model: str, weights: str) -> dict[str, int]:
    """Return the argument of the model's builder that its weights ask for: the image size of a ViT.

    Args:
        model: Name of the model.
        weights: The option ``weights``.

    Returns:
        ``image_size``; nothing if the model has torchvision's default, as all other models do.
    """
    if not model.startswith("vit_") or not re.fullmatch(WEIGHTS_PATTERN, weights):
        return {}
    entry = find_weights(model, weights)
    side = VIT_SIZE if entry is None else entry.meta["min_size"][0]
    return {} if side == VIT_SIZE else {"image_size": side}


def is_known_to_train(model: str, image_size: int, batch_size: int) -> bool:
    """Return whether the model surely accepts such batches, without importing torch.

    Args:
        model: Name of the model.
        image_size: Side of the square images in pixels.
        batch_size: Images per batch.

    Returns:
        True if it is known to train; False means that ``image_size_problem`` has to find out.
    """
    return batch_size > 1 and image_size >= SMALLEST_IMAGE_SIZES.get(model, math.inf)


@functools.cache
def image_size_problem(
    model: str, image_size: int, batch_size: int = 2, weights: str = "none"
) -> str | None:
    """Return torch's reason why the model cannot be trained on such batches, or None if it can.

    The reason is one line. Some models reject larger images as well: vit_b_16 accepts 224 pixels only.

    Args:
        model: Name of the model.
        image_size: Side of the square images in pixels.
        batch_size: Images per batch. With a single image, batch norm may reject a feature map that has
            shrunk to one pixel.
        weights: The option ``weights``; those of a ViT decide which images it accepts.
    """
    import torch

    module = build_on_meta(model, weights).train()
    try:
        with torch.no_grad():
            module(torch.empty(batch_size, 3, image_size, image_size, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return None


def build_on_meta(model: str, weights: str = "none") -> "nn.Module":
    """Build the model on the meta device: layers and shapes without data, and with its 1000-class head.

    Draws no random numbers. Of the option ``weights``, only what ``size_options`` says of it matters.
    """
    with meta_device():
        module = build_torchvision_model(model, sizes=size_options(model, weights))
    return module.to("meta")  # Swin keeps a table that arange made


@contextlib.contextmanager
def meta_device() -> Iterator[None]:
    """Create tensors on the meta device within the block, except small ones that a model reads back."""
    import torch
    from torch.overrides import TorchFunctionMode

    class SmallTensorsOnCpu(TorchFunctionMode):
        # RegNet computes its widths with tensors and reads them back, which meta tensors cannot do.
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            device = {"device": "cpu"} if func in (torch.arange, torch.tensor) else {}
            return func(*args, **device | (kwargs or {}))

    with torch.device("meta"), SmallTensorsOnCpu():
        yield


def build_torchvision_model(
    model: str, entry: Any | None = None, sizes: Mapping[str, int] = MappingProxyType({})
) -> "nn.Module":
    """Build the model as torchvision does, with its 1000-class head and without auxiliary heads.

    GoogLeNet and Inception rescale their input as their ImageNet weights need it, with or without these
    weights, so that a state dict means the same wherever it came from.

    Args:
        model: Name of the model.
        entry: An entry from ``find_weights``, whose file torchvision downloads if it is not in torch's
            folder; errors of that pass through. None: random weights from torch's global generator.
        sizes: From ``size_options``; an entry brings its own.

    Returns:
        A module from float32 images [N, 3, H, W] to logits [N, 1000].
    """
    import torchvision

    options: dict[str, Any] = dict(sizes)
    if model in AUXILIARY_HEADS:
        # Without this argument init_weights is True as well, but torchvision warns.
        options |= {"transform_input": True, "init_weights": entry is None}
    module: nn.Module = torchvision.models.get_model(model, weights=entry, progress=False, **options)
    for name in AUXILIARY_HEADS.get(model, ()):
        module.aux_logits = False  # type: ignore[assignment]  # not a tensor or a module
        setattr(module, name, None)  # not deleted: load_state_dict ignores the tensors of a None
    return module


def builder_arguments(
    model: str, classes: int, weights: str = "none", image_size: int = 224
) -> dict[str, bool | int]:
    """Return the arguments with which the model's builder makes the same layers as this package.

    That is ``num_classes``; for GoogLeNet and Inception also no auxiliary heads, the rescaled input and no
    initialisation of weights; and what ``size_options`` says.

    Args:
        model: Name of the model, or of a network of the user's own.
        classes: Number of outputs of the new head.
        weights: The option ``weights``.
        image_size: Side of the square images in pixels, which no model of torchvision is built for.
    """
    options: dict[str, bool | int] = {"num_classes": classes, **size_options(model, weights)}
    if model in AUXILIARY_HEADS:
        options |= {"aux_logits": False, "transform_input": True, "init_weights": False}
    return options
