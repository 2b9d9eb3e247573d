"""Batches of images: resized and normalised, as uint8 tensors on any device.

No function on a batch waits for the device or loops over images.

Shape suffixes: N images, C channels (1 or 3), H rows, W columns, S output side, T taps of the resampling
filter.
"""

import functools
import math

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Fixed-point bits of a filter weight in PIL: 32, minus 8 for the pixel, minus 2 spare bits.
PRECISION_BITS = 22


def resize(images_NCHW: Tensor, size: int) -> Tensor:
    """Resize to ``size`` by ``size`` pixels, bit for bit like PIL's ``Image.resize(..., BILINEAR)``.

    This is PIL's fixed-point arithmetic (``Resample.c``): columns first, then rows, rounded to 8 bits in
    between. The filter is widened (antialiased) when an image shrinks. A dimension that keeps its size is
    skipped. Images that lose more than twice as many rows as columns are resized rows first, as in Pillow
    13 and later; for square images all versions agree.

    Args:
        images_NCHW: uint8, any C, not necessarily square.
        size: Side of the result in pixels.

    Returns:
        uint8 [N, C, S, S]; ``images_NCHW`` itself if it has that size already.
    """
    rows, columns = (side - size for side in images_NCHW.shape[2:])
    first, second = (2, 3) if rows > 0 and rows > 2 * columns else (3, 2)
    return _resample(_resample(images_NCHW, size, dim=first), size, dim=second)


def normalise(images_NCHW: Tensor) -> Tensor:
    """Scale pixels to the range that ImageNet models are trained on: mean 0, deviation 1 per channel.

    Args:
        images_NCHW: uint8, C 1 or 3; a grey image becomes three equal channels before scaling.

    Returns:
        float32 [N, 3, H, W]: ``(x / 255 - mean) / std``, computed as one multiplication and addition.
    """
    scale_1311, shift_1311 = _scale_and_shift(images_NCHW.device)
    return torch.addcmul(shift_1311, images_NCHW.to(torch.float32), scale_1311)


def _resample(images_NCHW: Tensor, size: int, *, dim: int) -> Tensor:
    """Resize along one dimension, 2 (rows) or 3 (columns), with PIL's rounding to uint8."""
    input_size = images_NCHW.shape[dim]
    if input_size == size:
        return images_NCHW
    indices_TS, weights_TS = _filter_taps(input_size, size, images_NCHW.device)
    shape = (1, 1, size, 1) if dim == 2 else (1, 1, 1, size)
    terms = (
        images_NCHW.index_select(dim, indices_S) * weights_S.view(shape)
        for indices_S, weights_S in zip(indices_TS, weights_TS, strict=True)
    )
    total: Tensor = functools.reduce(Tensor.add_, terms)
    # The weights are not negative, and their sum is 1 with an error of at most half a unit per tap. So
    # below 16,000 taps no value leaves 0..255, and PIL's clipping is not needed.
    return total.add_(1 << (PRECISION_BITS - 1)).bitwise_right_shift_(PRECISION_BITS).to(torch.uint8)


@functools.cache
def _filter_taps(input_size: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return indices int64 [T, S] and fixed-point weights int32 [T, S] of PIL's bilinear filter."""
    rows = [_filter_weights(input_size, size, position) for position in range(size)]
    count = max(len(weights) for _, weights in rows)
    indices_ST = [[min(first + tap, input_size - 1) for tap in range(count)] for first, _ in rows]
    weights_ST = [weights + [0] * (count - len(weights)) for _, weights in rows]
    return (
        torch.tensor(indices_ST, device=device).t().contiguous(),
        torch.tensor(weights_ST, dtype=torch.int32, device=device).t().contiguous(),
    )


def _filter_weights(input_size: int, size: int, position: int) -> tuple[int, list[int]]:
    """Return the first input pixel that output pixel ``position`` uses, and the weights from there on.

    Every operation is the same as in PIL, in double precision and in the same order (``precompute_coeffs``
    and ``normalize_coeffs_8bpc``), because another order rounds differently.
    """
    scale = input_size / size
    support = max(scale, 1.0)
    center = (position + 0.5) * scale
    first = max(int(center - support + 0.5), 0)
    last = min(int(center + support + 0.5), input_size)
    raw = [max(1.0 - abs((x - center + 0.5) * (1.0 / support)), 0.0) for x in range(first, last)]
    # Not sum(): from Python 3.12 on it compensates its rounding errors, which PIL does not.
    total = functools.reduce(float.__add__, raw)
    return first, [math.floor(0.5 + weight / total * (1 << PRECISION_BITS)) for weight in raw]


@functools.cache
def _scale_and_shift(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the scale and shift of ``normalise``, each float32 [1, 3, 1, 1]."""
    mean = torch.tensor(IMAGENET_MEAN, dtype=torch.float64).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, dtype=torch.float64).view(1, 3, 1, 1)
    scale, shift = 1.0 / (255.0 * std), -mean / std
    return scale.to(device, torch.float32), shift.to(device, torch.float32)
