"""Random resized crops: a part of each image, resized to a square with PIL's arithmetic.

The same as ``RandomResizedCrop`` and ``RandomHorizontalFlip`` of torchvision on PIL images, with the
defaults of both. Each image has a filter of its own, so this is not a ``transforms.resize`` of a batch.

Shape suffixes: N images, C channels, H rows, W columns, S output side, T taps of the resampling filter.
"""

import functools

import torch
from torch import Tensor

from hpo.training.boxes import Boxes, draw_boxes
from hpo.training.filters import Filters, find_filters, round_sum
from hpo.training.presets import Interpolation

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


def crop_and_resize(
    images_NCHW: Tensor,
    crops: Boxes,
    flips_N: Tensor,
    size: int,
    interpolation: Interpolation = "bilinear",
) -> Tensor:
    """Cut a box out of each image, resize it to a square, and flip some left to right.

    Each is bit for bit ``image.crop(...).resize(...)`` of PIL: the filter is widened
    (antialiased) when the box shrinks. Columns are resized before rows. Pillow 13 and later resizes the
    rows of a few crops first, which changes a few of their pixels by one level.

    Args:
        images_NCHW: uint8, on any device.
        crops: The boxes.
        flips_N: Whether to flip an image, bool on the CPU.
        size: Side of the result in pixels.
        interpolation: Which of PIL's filters.

    Returns:
        uint8 [N, C, S, S].
    """
    height, width = images_NCHW.shape[2:]
    device = images_NCHW.device
    columns = find_filters(crops.lefts_N, crops.widths_N, width, size, interpolation)
    rows = find_filters(crops.tops_N, crops.heights_N, height, size, interpolation).to(device)
    columns = columns.flipped(flips_N).to(device)
    # Gathering rows that are contiguous takes half of the time, with the copies.
    resized_NCSH = _resample_rows(images_NCHW.transpose(2, 3).contiguous(), columns, interpolation)
    return _resample_rows(resized_NCSH.transpose(2, 3).contiguous(), rows, interpolation)


def _resample_rows(images_NCHW: Tensor, filters: Filters, interpolation: Interpolation) -> Tensor:
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
    return round_sum(total, interpolation)
