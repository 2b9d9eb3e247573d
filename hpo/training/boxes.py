"""Random boxes: the part of an image that is cut out or erased, drawn as torchvision draws them.

Shape suffixes: N images, A attempts.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ATTEMPTS = 10  # until a box fits into its image


@dataclass(frozen=True, kw_only=True, eq=False)
class Boxes:
    """A box for each image in pixels, int64 [N] on the CPU; without a height and width if none fitted."""

    tops_N: Tensor
    lefts_N: Tensor
    heights_N: Tensor
    widths_N: Tensor


def draw_boxes(
    count: int,
    side_HW: tuple[int, int],
    most_HW: tuple[int, int],
    *,
    area: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> Boxes:
    """Draw boxes as ``RandomResizedCrop`` and ``RandomErasing`` of torchvision do.

    The area is uniform, and so is the logarithm of width by height. Sides are rounded to pixels. Of
    ``ATTEMPTS`` such boxes the first one counts that is not too large. Its place is uniform.

    Args:
        count: Number of images.
        side_HW: Height and width of the images in pixels.
        most_HW: The largest height and width that a box may have.
        area: The smallest and the largest area, as a fraction of the image.
        ratio: The smallest and the largest ratio.
        generator: On the CPU.
    """
    # In double precision, as Python computes: rounding to single precision would shift some sides.
    draws = torch.rand((2, ATTEMPTS, count), generator=generator, dtype=torch.float64)
    areas_AN = math.prod(side_HW) * (area[0] + (area[1] - area[0]) * draws[0])
    low, high = map(math.log, ratio)
    ratios_AN = torch.exp(low + (high - low) * draws[1])
    heights_AN = (areas_AN / ratios_AN).sqrt().round().long()
    widths_AN = (areas_AN * ratios_AN).sqrt().round().long()
    fits_AN = (heights_AN > 0) & (heights_AN <= most_HW[0]) & (widths_AN > 0) & (widths_AN <= most_HW[1])
    is_first_AN = fits_AN & (fits_AN.cumsum(0) == 1)
    heights_N, widths_N = ((is_first_AN * each).sum(0) for each in (heights_AN, widths_AN))
    places = torch.rand((2, count), generator=generator, dtype=torch.float64)
    return Boxes(
        tops_N=(places[0] * (side_HW[0] - heights_N + 1)).long(),
        lefts_N=(places[1] * (side_HW[1] - widths_N + 1)).long(),
        heights_N=heights_N,
        widths_N=widths_N,
    )
