"""Random changes to batches of training images, on the device of the batch.

The order is that of torchvision's reference training: crop and flip, then the operations of
``auto_augment``, then erasing. Images of a data set of pixels are changed at their own size and resized
afterwards; ``resized_crop`` alone gives them the size that the model gets. ``mixing`` comes last.

Every image is changed in its own way. The random numbers come from a generator on the CPU, so neither the
device nor an interruption changes a result. Nothing here waits for the device or loops over images. Images
stay uint8, as ``normalise`` and compiled models expect them.

Shape suffixes: N images, C channels (1 or 3), H rows, W columns.
"""

import torch
from torch import Tensor

from hpo.training import devices
from hpo.training.auto_augment import auto_augment
from hpo.training.boxes import draw_boxes
from hpo.training.config import Config
from hpo.training.presets import IMAGENET_MEAN, Channels, preset_of
from hpo.training.resized_crop import crop_and_resize, draw_crops

# Of an erased box, as in torchvision's RandomErasing.
ERASED_AREA = (0.02, 0.33)  # of the image
ERASED_RATIO = (0.3, 3.3)  # width by height


def augment(images_NCHW: Tensor, config: Config, generator: torch.Generator) -> Tensor:
    """Change images as ``augmentation``, ``auto_augment`` and ``random_erasing`` say.

    Args:
        images_NCHW: uint8.
        config: The trial's settings.
        generator: On the CPU; options that are off draw nothing from it.

    Returns:
        uint8 [N, C, H, W], on the same device; with ``resized_crop``, H and W are ``image_size``.
    """
    match config.augmentation:
        case "flip":
            images_NCHW = _flip(images_NCHW, generator)
        case "crop+flip":
            images_NCHW = _crop_and_flip(images_NCHW, generator)
        case "resized_crop":
            count, _, height, width = images_NCHW.shape
            flips_N = torch.randint(0, 2, (count,), generator=generator).bool()
            interpolation = preset_of(config).interpolation
            crops = draw_crops(count, height, width, generator)
            images_NCHW = crop_and_resize(images_NCHW, crops, flips_N, config.image_size, interpolation)
    if config.auto_augment != "none":
        images_NCHW = auto_augment(images_NCHW, config.auto_augment, generator)
    if config.random_erasing > 0:
        images_NCHW = erase(images_NCHW, config.random_erasing, generator, preset_of(config).mean)
    return images_NCHW


def _flip(images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Flip each image left to right with probability 1/2."""
    flips_N = torch.randint(0, 2, (len(images_NCHW),), generator=generator)
    flips_N = devices.send(flips_N, images_NCHW.device)
    return torch.where(flips_N.bool()[:, None, None, None], images_NCHW.flip(3), images_NCHW)


def _crop_and_flip(images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Cut a window out of each image after padding it, and flip it with probability 1/2.

    The padding is zeros on all sides, an eighth of the side wide (at least 1 pixel). The window has the
    image's size and a random position.
    """
    count, channels, height, width = images_NCHW.shape
    device = images_NCHW.device
    y, x = _padding(height), _padding(width)
    flips_N = torch.randint(0, 2, (count,), generator=generator)
    tops_N = torch.randint(0, 2 * y + 1, (count,), generator=generator)
    lefts_N = torch.randint(0, 2 * x + 1, (count,), generator=generator)
    # Stacked, so that the draws are copied to the device in one small transfer.
    draws_3N = devices.send(torch.stack((flips_N, tops_N, lefts_N)), device)
    flips_N, tops_N, lefts_N = draws_3N.unbind()
    padded = torch.nn.functional.pad(images_NCHW, (x, x, y, y))
    columns_W = torch.arange(width, device=device)
    # A flipped window is the same window with its columns counted from the right.
    columns_NW = torch.where(flips_N.bool()[:, None], columns_W.flip(0), columns_W) + lefts_N[:, None]
    rows_NH = torch.arange(height, device=device) + tops_N[:, None]
    return padded[
        torch.arange(count, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        rows_NH[:, None, :, None],
        columns_NW[:, None, None, :],
    ]


def _padding(side: int) -> int:
    return max(1, side // 8)


def erase(
    images_NCHW: Tensor, probability: float, generator: torch.Generator, mean: Channels = IMAGENET_MEAN
) -> Tensor:
    """Erase a box of an image with a probability, as torchvision's ``RandomErasing`` does.

    The box gets the colour ``mean``, that of the trial's preset. ``normalise`` turns that into 0, up to
    half a level of a pixel: torchvision erases after normalising.
    """
    count, channels, height, width = images_NCHW.shape
    device = images_NCHW.device
    is_erased_N = torch.rand(count, generator=generator) < probability
    boxes = draw_boxes(
        count,
        (height, width),
        (height - 1, width - 1),
        area=ERASED_AREA,
        ratio=ERASED_RATIO,
        generator=generator,
    )
    tops_N, lefts_N = boxes.tops_N, boxes.lefts_N
    draws = torch.stack((tops_N, tops_N + boxes.heights_N * is_erased_N, lefts_N, lefts_N + boxes.widths_N))
    top, bottom, left, right = devices.send(draws[:, :, None], device).unbind()
    rows_H, columns_W = torch.arange(height, device=device), torch.arange(width, device=device)
    rows_NH = (rows_H >= top) & (rows_H < bottom)
    columns_NW = (columns_W >= left) & (columns_W < right)
    color = mean if channels == 3 else (sum(mean) / 3,)
    color_C11 = torch.tensor([round(255 * each) for each in color], dtype=torch.uint8)[:, None, None]
    is_box_N1HW = (rows_NH[:, :, None] & columns_NW[:, None, :])[:, None]
    return torch.where(is_box_N1HW, devices.send(color_C11, device), images_NCHW)
