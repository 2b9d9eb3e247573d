"""Random resized crops: a part of each image, resized to a square with PIL's arithmetic.

The same as ``RandomResizedCrop`` and ``RandomHorizontalFlip`` of torchvision on PIL images, with the
defaults of both. Each image has a filter of its own, so this is not a ``transforms.resize`` of a batch.

Shape suffixes: N images, C channels, H rows, W columns, S output side, T taps of the resampling filter.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hpo.training import devices
from hpo.training.boxes import Boxes, draw_boxes
from hpo.training.transforms import PRECISION_BITS

AREA = (0.08, 1.0)  # of the image
RATIO = (3 / 4, 4 / 3)  # width by height


def draw_crops(count: int, height: int, width: int, generator: torch.Generator) -> Boxes:
    """Draw the part of each image that is kept; if none fits, the largest one around its centre."""
    boxes = draw_boxes(count, (height, width), (height, width), area=AREA, ratio=RATIO, generator=generator)
    is_missing_N = boxes.heights_N == 0
    most_height = min(height, round(width / RATIO[0]))
    most_width = min(width, round(height * RATIO[1]))
    return Boxes(
        tops_N=torch.where(is_missing_N, (height - most_height) // 2, boxes.tops_N),
        lefts_N=torch.where(is_missing_N, (width - most_width) // 2, boxes.lefts_N),
        heights_N=torch.where(is_missing_N, most_height, boxes.heights_N),
        widths_N=torch.where(is_missing_N, most_width, boxes.widths_N),
    )


def crop_and_resize(images_NCHW: Tensor, crops: Boxes, flips_N: Tensor, size: int) -> Tensor:
    """Cut a box out of each image, resize it to a square, and flip some left to right.

    Each is bit for bit ``image.crop(...).resize(..., BILINEAR)`` of PIL: the filter is widened
    (antialiased) when the box shrinks. Columns are resized before rows. Pillow 13 and later resizes the
    rows of a few crops first, which changes a few of their pixels by one level.

    Args:
        images_NCHW: uint8, on any device.
        crops: The boxes.
        flips_N: Whether to flip an image, bool on the CPU.
        size: Side of the result in pixels.

    Returns:
        uint8 [N, C, S, S].
    """
    height, width = images_NCHW.shape[2:]
    device = images_NCHW.device
    columns = _filters(crops.lefts_N, crops.widths_N, width, size).flipped(flips_N).to(device)
    rows = _filters(crops.tops_N, crops.heights_N, height, size).to(device)
    resized_NCSH = _resample_rows(images_NCHW.transpose(2, 3), columns)
    return _resample_rows(resized_NCSH.transpose(2, 3), rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Filters:
    """What each output pixel of each image is the sum of, along one dimension."""

    indices_NTS: Tensor  # of input pixels, int64
    weights_NTS: Tensor  # fixed-point, int32

    def flipped(self, flips_N: Tensor) -> "_Filters":
        """Return the filters with the output pixels of some images in the opposite order."""
        where_N11 = flips_N[:, None, None]
        return _Filters(
            indices_NTS=torch.where(where_N11, self.indices_NTS.flip(2), self.indices_NTS),
            weights_NTS=torch.where(where_N11, self.weights_NTS.flip(2), self.weights_NTS),
        )

    def to(self, device: torch.device) -> "_Filters":
        """Return the filters on ``device``."""
        return _Filters(
            indices_NTS=devices.send(self.indices_NTS, device),
            weights_NTS=devices.send(self.weights_NTS, device),
        )


def _filters(firsts_N: Tensor, lengths_N: Tensor, side: int, size: int) -> _Filters:
    """Return PIL's bilinear filters for parts of images along one dimension.

    Every operation is the same as in ``transforms._filter_weights``, in double precision and in the same
    order, because another order rounds differently.

    Args:
        firsts_N: First pixel of each part.
        lengths_N: Number of its pixels.
        side: Number of pixels of the images.
        size: Number of pixels of the result.
    """
    taps = 2 * math.ceil(max(side / size, 1.0)) + 1
    scales_N1 = (lengths_N.double() / size)[:, None]
    supports_N1 = scales_N1.clamp(min=1.0)
    centers_NS = (torch.arange(size, dtype=torch.float64) + 0.5) * scales_N1
    begins_NS = (centers_NS - supports_N1 + 0.5).long().clamp(min=0)
    ends_NS = torch.minimum((centers_NS + supports_N1 + 0.5).long(), lengths_N[:, None])
    positions = [begins_NS + tap for tap in range(taps)]
    inverse_N1 = 1.0 / supports_N1
    raw = [
        (1.0 - ((each - centers_NS + 0.5) * inverse_N1).abs()).clamp(min=0.0) * (each < ends_NS)
        for each in positions
    ]
    total_NS: Tensor = functools.reduce(Tensor.add, raw)
    weights = [(0.5 + each / total_NS * (1 << PRECISION_BITS)).floor() for each in raw]
    return _Filters(
        indices_NTS=(torch.stack(positions, 1) + firsts_N[:, None, None]).clamp(max=side - 1),
        weights_NTS=torch.stack(weights, 1).to(torch.int32),
    )


def _resample_rows(images_NCHW: Tensor, filters: _Filters) -> Tensor:
    """Return uint8 [N, C, S, W], where each row is a weighted sum of rows."""
    count, channels = images_NCHW.shape[:2]
    device = images_NCHW.device
    images_N11 = torch.arange(count, device=device)[:, None, None]
    channels_1C1 = torch.arange(channels, device=device)[None, :, None]
    terms = (
        images_NCHW[images_N11, channels_1C1, indices_NS[:, None]] * weights_NS[:, None, :, None]
        for indices_NS, weights_NS in zip(
            filters.indices_NTS.unbind(1), filters.weights_NTS.unbind(1), strict=True
        )
    )
    total: Tensor = functools.reduce(Tensor.add_, terms)
    # As in ``transforms``: the weights are not negative and their sum is 1, so no value leaves 0..255.
    return total.add_(1 << (PRECISION_BITS - 1)).bitwise_right_shift_(PRECISION_BITS).to(torch.uint8)
