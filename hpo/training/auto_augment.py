"""RandAugment and TrivialAugment on whole batches: random operations with random strengths.

The operations, their probabilities and strengths are those of torchvision's ``RandAugment()`` and
``TrivialAugmentWide()`` with their defaults, and so are the bytes, compared on PIL images. Each image has
operations of its own. The draws are made on the CPU, so it is known there which images share an operation:
these are put next to each other, and an operation works on a slice of the batch.

Shape suffixes: N images, C channels, H rows, W columns, M images of one operation, K operations, B
strengths.
"""

import functools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from hpo.training import devices, image_operations

Kind = Literal["randaugment", "trivialaugment"]

STRENGTHS = 31  # from none to the strongest
RANDAUGMENT_STRENGTH = 9  # of 0 to 30
RANDAUGMENT_OPERATIONS = 2  # one after the other
# The operations, each equally likely; those on the left of the bar also with the negative strength.
SIGNED = (
    *("shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "color", "contrast", "sharpness"),
)
OPERATIONS = (*SIGNED, "posterize", "solarize", "stretch_contrast", "equalize", "identity")
GEOMETRIC = OPERATIONS[:5]  # one function, with a matrix, does them all

# How the other operations use a strength.
_FUNCTIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda images, strengths: image_operations.adjust_brightness(images, 1.0 + strengths),
    lambda images, strengths: image_operations.adjust_color(images, 1.0 + strengths),
    lambda images, strengths: image_operations.adjust_contrast(images, 1.0 + strengths),
    lambda images, strengths: image_operations.adjust_sharpness(images, 1.0 + strengths),
    image_operations.posterize,
    image_operations.solarize,
    lambda images, _: image_operations.stretch_contrast(images),
    lambda images, _: image_operations.equalize(images),
    lambda images, _: images,
)


def auto_augment(images_NCHW: Tensor, kind: Kind, generator: torch.Generator) -> Tensor:
    """Apply random operations to each image.

    Args:
        images_NCHW: uint8, C 1 or 3, on any device.
        kind: ``randaugment``: two operations with strength 9 of 30. ``trivialaugment``: one, with a random
            strength.
        generator: On the CPU.

    Returns:
        uint8 [N, C, H, W].
    """
    count = len(images_NCHW)
    for _ in range(RANDAUGMENT_OPERATIONS if kind == "randaugment" else 1):
        operations_N = torch.randint(len(OPERATIONS), (count,), generator=generator)
        signs_N = 1 - 2 * torch.randint(2, (count,), generator=generator)
        bins_N = torch.full((count,), RANDAUGMENT_STRENGTH)
        if kind == "trivialaugment":
            bins_N = torch.randint(STRENGTHS, (count,), generator=generator)
        strengths_KB = strength_table(kind, *images_NCHW.shape[2:])
        strengths_N = strengths_KB[operations_N, bins_N]
        strengths_N = torch.where(operations_N < len(SIGNED), signs_N * strengths_N, strengths_N)
        images_NCHW = apply_operations(images_NCHW, operations_N, strengths_N)
    return images_NCHW


@functools.cache
def strength_table(kind: Kind, height: int, width: int) -> Tensor:
    """Return the strengths of each operation, float64 [K, B]; 0 for operations that have none."""
    is_wide = kind == "trivialaugment"
    shift = (32.0, 32.0) if is_wide else (150.0 / 331.0 * width, 150.0 / 331.0 * height)
    most = (
        *(2 * [0.99 if is_wide else 0.3]),
        *shift,
        135.0 if is_wide else 30.0,
        *(4 * [0.99 if is_wide else 0.9]),
    )
    rows = [torch.linspace(0.0, each, STRENGTHS) for each in most]
    lost_bits = (torch.arange(STRENGTHS) / ((STRENGTHS - 1) / (6 if is_wide else 4))).round()
    rows += [8 - lost_bits, torch.linspace(255.0, 0.0, STRENGTHS)]
    rows += (len(OPERATIONS) - len(rows)) * [torch.zeros(STRENGTHS)]
    return torch.stack(rows).double()


def apply_operations(images_NCHW: Tensor, operations_N: Tensor, strengths_N: Tensor) -> Tensor:
    """Apply one operation to each image.

    Args:
        images_NCHW: uint8, on any device.
        operations_N: Indices into ``OPERATIONS``, on the CPU.
        strengths_N: Of the operations, float64 on the CPU.
    """
    order_N = operations_N.argsort(stable=True)
    sizes = operations_N.bincount(minlength=len(OPERATIONS)).tolist()  # on the CPU, so nothing waits
    matrices_N6 = _matrices(operations_N, strengths_N, *images_NCHW.shape[2:])
    # Stacked, so that the draws are copied to the device in one small transfer.
    draws = torch.cat((order_N.double()[:, None], strengths_N[order_N, None], matrices_N6[order_N]), 1)
    draws = devices.send(draws, images_NCHW.device)
    order_N, strengths_N, matrices_N6 = draws[:, 0].long(), draws[:, 1], draws[:, 2:]
    moved = sum(sizes[: len(GEOMETRIC)])
    parts = [moved, *sizes[len(GEOMETRIC) :]]
    first, *others = torch.split(images_NCHW[order_N], parts)
    changed = [image_operations.transform_affine(first, matrices_N6[:moved])] if moved else []
    changed += [
        function(images_MCHW, strengths_M)
        for function, images_MCHW, strengths_M in zip(
            _FUNCTIONS, others, torch.split(strengths_N, parts)[1:], strict=True
        )
        if len(images_MCHW)
    ]
    return torch.empty_like(images_NCHW).index_copy_(0, order_N, torch.cat(changed))


def _matrices(operations_N: Tensor, strengths_N: Tensor, height: int, width: int) -> Tensor:
    """Return the matrix of ``transform_affine`` for each image, float64 [N, 6]; the identity for others."""

    def of(name: str) -> Tensor:
        return torch.where(operations_N == OPERATIONS.index(name), strengths_N, 0.0)

    # As Image.rotate computes: digits after the 15th are rounding errors of the sine and cosine.
    angles_N = -torch.deg2rad(of("rotate"))
    cosines_N, sines_N = (each(angles_N).round(decimals=15) for each in (torch.cos, torch.sin))
    x, y = width / 2, height / 2
    return torch.stack(
        (
            cosines_N,
            sines_N + of("shear_x"),
            (cosines_N * -x + sines_N * -y) + x - of("translate_x").trunc(),
            -sines_N + of("shear_y"),
            cosines_N,
            (-sines_N * -x + cosines_N * -y) + y - of("translate_y").trunc(),
        ),
        1,
    )
