"""PIL's resampling filters as fixed-point weights, for whole images and for parts of them.

Every operation is the same as in PIL's ``Resample.c`` (``precompute_coeffs`` and
``normalize_coeffs_8bpc``), in double precision and in the same order, because another order rounds
differently.

Shape suffixes: N images, T taps of a filter, S output pixels along one dimension.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hpo.training import devices
from hpo.training.presets import Interpolation

# Fixed-point bits of a filter weight in PIL: 32, minus 8 for the pixel, minus 2 spare bits.
PRECISION_BITS = 22


@dataclass(frozen=True, kw_only=True, eq=False)
class Filters:
    """What each output pixel of each image is the sum of, along one dimension."""

    indices_NTS: Tensor  # of input pixels, int64
    weights_NTS: Tensor  # fixed-point, int32

    def flipped(self, flips_N: Tensor) -> "Filters":
        """Return the filters with the output pixels of some images in the opposite order."""
        where_N11 = flips_N[:, None, None]
        return Filters(
            indices_NTS=torch.where(where_N11, self.indices_NTS.flip(2), self.indices_NTS),
            weights_NTS=torch.where(where_N11, self.weights_NTS.flip(2), self.weights_NTS),
        )

    def to(self, device: torch.device) -> "Filters":
        """Return the filters on ``device``."""
        return Filters(
            indices_NTS=devices.send(self.indices_NTS, device),
            weights_NTS=devices.send(self.weights_NTS, device),
        )


def find_filters(
    firsts_N: Tensor, lengths_N: Tensor, side: int, size: int, interpolation: Interpolation
) -> Filters:
    """Return the filters that resize parts of images along one dimension, on the CPU.

    Args:
        firsts_N: First pixel of each part.
        lengths_N: Number of its pixels.
        side: Number of pixels of the images.
        size: Number of pixels of the result.
        interpolation: The kernel, which is widened where a part shrinks.
    """
    kernel, radius = _KERNELS[interpolation]
    taps = math.ceil(2 * radius * max(side / size, 1.0))
    scales_N1 = (lengths_N.double() / size)[:, None]
    stretches_N1 = scales_N1.clamp(min=1.0)
    supports_N1 = radius * stretches_N1
    centers_NS = (torch.arange(size, dtype=torch.float64) + 0.5) * scales_N1
    begins_NS = (centers_NS - supports_N1 + 0.5).long().clamp(min=0)
    ends_NS = torch.minimum((centers_NS + supports_N1 + 0.5).long(), lengths_N[:, None])
    positions = [begins_NS + tap for tap in range(taps)]
    inverse_N1 = 1.0 / stretches_N1
    raw = [kernel(((each - centers_NS + 0.5) * inverse_N1).abs()) * (each < ends_NS) for each in positions]
    total_NS: Tensor = functools.reduce(Tensor.add, raw)
    scaled = [each / total_NS * (1 << PRECISION_BITS) for each in raw]
    weights = [(torch.full_like(each, 0.5).copysign(each) + each).trunc() for each in scaled]
    return Filters(
        indices_NTS=(torch.stack(positions, 1) + firsts_N[:, None, None]).clamp(max=side - 1),
        weights_NTS=torch.stack(weights, 1).to(torch.int32),
    )


def round_sum(total: Tensor, interpolation: Interpolation) -> Tensor:
    """Return sums of weighted pixels as pixels, uint8; changes ``total``, which is int32.

    The bilinear weights are not negative, and their sum is 1 with an error of at most half a unit per tap.
    So below 16,000 taps no sum leaves 0..255. Bicubic sums overshoot; PIL clips them as well.
    """
    rounded = total.add_(1 << (PRECISION_BITS - 1)).bitwise_right_shift_(PRECISION_BITS)
    return (rounded if interpolation == "bilinear" else rounded.clamp_(0, 255)).to(torch.uint8)


def _triangle(distances: Tensor) -> Tensor:
    return (1.0 - distances).clamp(min=0.0)


def _cubic(distances: Tensor) -> Tensor:
    """Return Keys' cubic kernel with a = -0.5."""
    x = distances
    near = ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))


# A filter's kernel of absolute distances, and how many pixels it reaches if it is not stretched.
_KERNELS: dict[Interpolation, tuple[Callable[[Tensor], Tensor], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
}
