"""Batches of images: resized and normalised, as uint8 tensors on any device.

No function on a batch waits for the device or loops over images.

Shape suffixes: N images, C channels (1 or 3), H rows, W columns, S output side, T taps of the resampling
filter.
"""

import functools

import torch
from torch import Tensor

from hpo.training.filters import find_filters, round_sum
from hpo.training.presets import IMAGENET, Channels, Interpolation, Preset


def resize(images_NCHW: Tensor, size: int, interpolation: Interpolation = "bilinear") -> Tensor:
    """Resize to ``size`` by ``size`` pixels, bit for bit like PIL's ``Image.resize``.

    This is PIL's fixed-point arithmetic (``Resample.c``): columns first, then rows, rounded to 8 bits in
    between. The filter is widened (antialiased) when an image shrinks. A dimension that keeps its size is
    skipped. Images that lose more than twice as many rows as columns are resized rows first, as in Pillow
    13 and later; for square images all versions agree.

    Args:
        images_NCHW: uint8, any C, not necessarily square.
        size: Side of the result in pixels.
        interpolation: Which of PIL's filters.

    Returns:
        uint8 [N, C, S, S]; ``images_NCHW`` itself if it has that size already.
    """
    rows, columns = (side - size for side in images_NCHW.shape[2:])
    first, second = (2, 3) if rows > 0 and rows > 2 * columns else (3, 2)
    once = _resample(images_NCHW, size, interpolation, dim=first)
    return _resample(once, size, interpolation, dim=second)


def normalise(images_NCHW: Tensor, preset: Preset = IMAGENET) -> Tensor:
    """Scale pixels to the range that a model is trained on: mean 0, deviation 1 per channel.

    Args:
        images_NCHW: uint8, C 1 or 3; a grey image becomes three equal channels before scaling.
        preset: Its mean and its deviation are those of the images that the weights were trained on.

    Returns:
        float32 [N, 3, H, W]: ``(x / 255 - mean) / std``, computed as one multiplication and addition.
    """
    scale_1311, shift_1311 = _scale_and_shift(preset.mean, preset.std, images_NCHW.device)
    return torch.addcmul(shift_1311, images_NCHW.to(torch.float32), scale_1311)


def _resample(images_NCHW: Tensor, size: int, interpolation: Interpolation, *, dim: int) -> Tensor:
    """Resize along one dimension, 2 (rows) or 3 (columns), with PIL's rounding to uint8."""
    input_size = images_NCHW.shape[dim]
    if input_size == size:
        return images_NCHW
    indices_TS, weights_TS = _filter_taps(input_size, size, interpolation, images_NCHW.device)
    shape = (1, 1, size, 1) if dim == 2 else (1, 1, 1, size)
    terms = (
        images_NCHW.index_select(dim, indices_S) * weights_S.view(shape)
        for indices_S, weights_S in zip(indices_TS, weights_TS, strict=True)
    )
    total: Tensor = functools.reduce(Tensor.add_, terms)
    return round_sum(total, interpolation)


@functools.cache
def _filter_taps(
    input_size: int, size: int, interpolation: Interpolation, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return indices int64 [T, S] and fixed-point weights int32 [T, S] of one of PIL's filters."""
    first_1, length_1 = torch.tensor([0]), torch.tensor([input_size])
    found = find_filters(first_1, length_1, input_size, size, interpolation)
    indices_TS, weights_TS = found.indices_NTS[0], found.weights_NTS[0]
    used = int((weights_TS != 0).any(1).nonzero().max()) + 1  # the last taps may add nothing
    return indices_TS[:used].to(device), weights_TS[:used].to(device)


@functools.cache
def _scale_and_shift(mean: Channels, std: Channels, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the scale and shift of ``normalise``, each float32 [1, 3, 1, 1]."""
    mean_1311 = torch.tensor(mean, dtype=torch.float64).view(1, 3, 1, 1)
    std_1311 = torch.tensor(std, dtype=torch.float64).view(1, 3, 1, 1)
    scale, shift = 1.0 / (255.0 * std_1311), -mean_1311 / std_1311
    return scale.to(device, torch.float32), shift.to(device, torch.float32)
