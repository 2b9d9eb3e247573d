"""Presets: the mean, the deviation and the resize filter that initial weights were trained with.

A preset comes from what torchvision or timm says of the weights. Only these three are taken from it: how an
image becomes a square is the option ``resize``, and no part of the square is cut off afterwards.
"""

import functools
from dataclasses import dataclass
from typing import Literal

from hpo.training import catalog, libraries
from hpo.training.config import Config

Interpolation = Literal["bilinear", "bicubic"]  # PIL's filters, which are widened where an image shrinks
Channels = tuple[float, float, float]  # one number for each of red, green and blue

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How pixels become the input of a model."""

    mean: Channels = IMAGENET_MEAN  # subtracted per channel, 0 to 1
    std: Channels = IMAGENET_STD  # then divides each channel
    interpolation: Interpolation = "bilinear"  # filter of every resize


IMAGENET = Preset()


def preset_of(config: Config) -> Preset:
    """Return the preset of a trial: that of its weights, or ImageNet's.

    It is ImageNet's with ``preprocessing = "imagenet"``, for random weights, for a network of the user's
    own, and for a file of weights. But a file for a model of timm's is taken for the weights that the
    model's name stands for. The first call for other weights imports torchvision or timm.

    Raises:
        WeightsError: If the library has no weights of this name for the model.
    """
    return (
        IMAGENET if config.preprocessing == "imagenet" else preset_of_weights(config.model, config.weights)
    )


@functools.cache
def preset_of_weights(model: str, weights: str) -> Preset:
    """Return the preset that a model's weights ask for; ImageNet's if they ask for none.

    Args:
        model: The option ``model``.
        weights: The option ``weights``.

    Raises:
        WeightsError: If the library has no weights of this name for the model.
    """
    if catalog.is_timm_model(model):
        return _timm_preset(model, weights)
    if catalog.is_user_network(model) or not catalog.is_named_weights(model, weights):
        return IMAGENET
    if weights == "imagenet" and model in catalog.SMALLEST_IMAGE_SIZES:
        return IMAGENET  # known without importing torchvision
    preset = libraries.require_weights(model, weights).transforms()
    return Preset(mean=tuple(preset.mean), std=tuple(preset.std), interpolation=preset.interpolation.value)


def _timm_preset(model: str, weights: str) -> Preset:
    from hpo.training import timm_models

    described = None if weights == "none" else timm_models.described_weights(model, weights)
    if described is None:  # also a file for a model of which timm has no weights
        return IMAGENET
    return Preset(mean=described.mean, std=described.std, interpolation=described.interpolation)
