"""Batches of images: resized and normalised, as uint8 tensors on any device.

No function on a batch waits for the device or loops over images.

Shape suffixes: N images, C channels (1 or 3), H rows, W columns, S output side, T taps of the resampling
filter.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from hpo.training.presets import IMAGENET, Channels, Interpolation, Preset

# Fixed-point bits of a filter weight in PIL: 32, minus 8 for the pixel, minus 2 spare bits.
PRECISION_BITS = 22


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
    total = total.add_(1 << (PRECISION_BITS - 1)).bitwise_right_shift_(PRECISION_BITS)
    # The bilinear weights are not negative, and their sum is 1 with an error of at most half a unit per
    # tap. So below 16,000 taps no value leaves 0..255. Bicubic ones overshoot, where PIL clips as well.
    return (total if interpolation == "bilinear" else total.clamp_(0, 255)).to(torch.uint8)


@functools.cache
def _filter_taps(
    input_size: int, size: int, interpolation: Interpolation, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return indices int64 [T, S] and fixed-point weights int32 [T, S] of one of PIL's filters."""
    rows = [_filter_weights(input_size, size, interpolation, position) for position in range(size)]
    count = max(len(weights) for _, weights in rows)
    indices_ST = [[min(first + tap, input_size - 1) for tap in range(count)] for first, _ in rows]
    weights_ST = [weights + [0] * (count - len(weights)) for _, weights in rows]
    return (
        torch.tensor(indices_ST, device=device).t().contiguous(),
        torch.tensor(weights_ST, dtype=torch.int32, device=device).t().contiguous(),
    )


def _filter_weights(
    input_size: int, size: int, interpolation: Interpolation, position: int
) -> tuple[int, list[int]]:
    """Return the first input pixel that output pixel ``position`` uses, and the weights from there on.

    Every operation is the same as in PIL, in double precision and in the same order (``precompute_coeffs``
    and ``normalize_coeffs_8bpc``), because another order rounds differently.
    """
    kernel, radius = _KERNELS[interpolation]
    scale = input_size / size
    stretch = max(scale, 1.0)
    support = radius * stretch
    center = (position + 0.5) * scale
    first = max(int(center - support + 0.5), 0)
    last = min(int(center + support + 0.5), input_size)
    raw = [kernel((x - center + 0.5) * (1.0 / stretch)) for x in range(first, last)]
    # Not sum(): from Python 3.12 on it compensates its rounding errors, which PIL does not.
    total = functools.reduce(float.__add__, raw)
    scaled = [weight / total * (1 << PRECISION_BITS) for weight in raw]
    return first, [math.trunc(math.copysign(0.5, weight) + weight) for weight in scaled]


def _triangle(x: float) -> float:
    return max(1.0 - abs(x), 0.0)


def _cubic(x: float) -> float:
    """Return Keys' cubic kernel with a = -0.5, written as in PIL."""
    x = abs(x)
    if x < 1.0:
        return ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 if x < 2.0 else 0.0


# A filter's kernel, and how many pixels it reaches to either side of one that is not stretched.
_KERNELS: dict[Interpolation, tuple[Callable[[float], float], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
}


@functools.cache
def _scale_and_shift(mean: Channels, std: Channels, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the scale and shift of ``normalise``, each float32 [1, 3, 1, 1]."""
    mean_1311 = torch.tensor(mean, dtype=torch.float64).view(1, 3, 1, 1)
    std_1311 = torch.tensor(std, dtype=torch.float64).view(1, 3, 1, 1)
    scale, shift = 1.0 / (255.0 * std_1311), -mean_1311 / std_1311
    return scale.to(device, torch.float32), shift.to(device, torch.float32)
