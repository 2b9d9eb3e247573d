"""Operations on batches of images, each with a parameter per image, with the bytes that PIL gives.

They are those that torchvision's ``RandAugment`` and ``TrivialAugmentWide`` apply to PIL images. Integers,
and floats in the order in which PIL computes, make them the same on every device. None waits for it.

Shape suffixes: N images, C channels (1 or 3), H rows, W columns. A parameter is float64 [N] on the device
of the images, unless it is said otherwise; images are uint8.
"""

import torch
from torch import Tensor

FIXED_POINT_BITS = 16  # of the coordinates in PIL's affine transforms
LUMA = (19595, 38470, 7471)  # of red, green and blue, by 65,536, in PIL's grey


def transform_affine(images_NCHW: Tensor, matrices_N6: Tensor) -> Tensor:
    """Take each pixel from the nearest place that a matrix gives; from outside of the image comes black.

    Args:
        images_NCHW: The images.
        matrices_N6: float64, a, b, c, d, e and f: pixel (x, y) comes from (a x + b y + c, d x + e y + f).
    """
    _, channels, height, width = images_NCHW.shape
    a, b, c, d, e, f = matrices_N6.unbind(1)
    # PIL evaluates the matrix at the centres of the pixels.
    centred_N6 = torch.stack((a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5), 1)
    fixed_N6 = (centred_N6 * (1 << FIXED_POINT_BITS) + 0.5).floor().long()
    a, b, c, d, e, f = fixed_N6[:, :, None, None].unbind(1)
    columns_W = torch.arange(width, device=images_NCHW.device)
    rows_H1 = torch.arange(height, device=images_NCHW.device)[:, None]
    x_NHW = (c + b * rows_H1 + a * columns_W) >> FIXED_POINT_BITS
    y_NHW = (f + e * rows_H1 + d * columns_W) >> FIXED_POINT_BITS
    is_inside_NHW = (x_NHW >= 0) & (x_NHW < width) & (y_NHW >= 0) & (y_NHW < height)
    sources_NHW = y_NHW.clamp(0, height - 1) * width + x_NHW.clamp(0, width - 1)
    indices_NCP = sources_NHW.flatten(1)[:, None].expand(-1, channels, -1)
    moved_NCHW = images_NCHW.flatten(2).gather(2, indices_NCP).view_as(images_NCHW)
    return moved_NCHW * is_inside_NHW[:, None]


def adjust_brightness(images_NCHW: Tensor, factors_N: Tensor) -> Tensor:
    """Multiply the brightness."""
    return _blend(torch.zeros_like(images_NCHW), images_NCHW, factors_N)


def adjust_color(images_NCHW: Tensor, factors_N: Tensor) -> Tensor:
    """Multiply the difference to grey."""
    return _blend(_grey(images_NCHW).expand_as(images_NCHW), images_NCHW, factors_N)


def adjust_contrast(images_NCHW: Tensor, factors_N: Tensor) -> Tensor:
    """Multiply the difference to the mean grey of the image."""
    count = images_NCHW.shape[2] * images_NCHW.shape[3]
    sums_N111 = _grey(images_NCHW).sum((2, 3), keepdim=True, dtype=torch.int64)
    means_N111 = (2 * sums_N111 + count) // (2 * count)
    return _blend(means_N111, images_NCHW, factors_N)


def adjust_sharpness(images_NCHW: Tensor, factors_N: Tensor) -> Tensor:
    """Multiply the difference to a smoothed image; pixels at its edge stay as they are."""
    wide = images_NCHW.to(torch.int16)
    columns = wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:]
    sums = columns[..., :-2, :] + columns[..., 1:-1, :] + columns[..., 2:, :] + 4 * wide[..., 1:-1, 1:-1]
    smooth_NCHW = images_NCHW.clone()
    smooth_NCHW[..., 1:-1, 1:-1] = ((2 * sums + 13) // 26).to(torch.uint8)  # by 13, rounded
    return _blend(smooth_NCHW, images_NCHW, factors_N)


def posterize(images_NCHW: Tensor, bits_N: Tensor) -> Tensor:
    """Keep the highest bits of each value."""
    masks_N = 256 - 2 ** (8 - bits_N.long())
    return images_NCHW & masks_N.to(torch.uint8)[:, None, None, None]


def solarize(images_NCHW: Tensor, thresholds_N: Tensor) -> Tensor:
    """Invert values from a threshold on."""
    # Values are whole, so one is below the threshold exactly if it is below the next whole number.
    wholes_N = thresholds_N.ceil().to(torch.int16)
    return torch.where(images_NCHW < wholes_N[:, None, None, None], images_NCHW, 255 - images_NCHW)


def stretch_contrast(images_NCHW: Tensor) -> Tensor:
    """Stretch the values of each channel so that the lowest becomes 0 and the highest 255."""
    flat_NCP = images_NCHW.flatten(2)
    low_NC1 = flat_NCP.amin(2, keepdim=True).double()
    high_NC1 = flat_NCP.amax(2, keepdim=True).double()
    levels_256 = torch.arange(256, dtype=torch.float64, device=images_NCHW.device)
    scale_NC1 = 255.0 / (high_NC1 - low_NC1).clamp(min=1.0)
    stretched = (levels_256 * scale_NC1 + -low_NC1 * scale_NC1).clamp(0.0, 255.0)
    return _look_up(images_NCHW, torch.where(high_NC1 > low_NC1, stretched, levels_256))


def equalize(images_NCHW: Tensor) -> Tensor:
    """Map the values of each channel so that all of them are about equally frequent."""
    indices_NCP = images_NCHW.flatten(2).long()
    count_NC256 = torch.zeros(
        (*images_NCHW.shape[:2], 256), dtype=torch.int64, device=images_NCHW.device
    ).scatter_add_(2, indices_NCP, torch.ones_like(indices_NCP))
    highest_NC1 = indices_NCP.amax(2, keepdim=True)
    steps_NC1 = (count_NC256.sum(2, keepdim=True) - count_NC256.gather(2, highest_NC1)) // 255
    below_NC256 = count_NC256.cumsum(2) - count_NC256
    equal_NC256 = ((below_NC256 + steps_NC1 // 2) // steps_NC1.clamp(min=1)).clamp(max=255)
    levels_256 = torch.arange(256, device=images_NCHW.device)
    return _look_up(images_NCHW, torch.where(steps_NC1 > 0, equal_NC256, levels_256))


def _grey(images_NCHW: Tensor) -> Tensor:
    """Return the grey [N, 1, H, W] of images; int32 for colour images."""
    if images_NCHW.shape[1] == 1:
        return images_NCHW
    red, green, blue = (images_NCHW[:, index, None].int() * weight for index, weight in enumerate(LUMA))
    grey_N1HW: Tensor = (red + green + blue + (1 << 15)) >> 16
    return grey_N1HW


def _blend(from_NCHW: Tensor, to_NCHW: Tensor, factors_N: Tensor) -> Tensor:
    """Go from one image towards or beyond another one, as ``Image.blend`` does in single precision."""
    start = from_NCHW.float()
    change = (to_NCHW.float() - start) * factors_N.float()[:, None, None, None]
    return change.add_(start).clamp_(0.0, 255.0).to(torch.uint8)


def _look_up(images_NCHW: Tensor, tables_NC256: Tensor) -> Tensor:
    """Replace each value by that of its channel's table, cut to a whole number."""
    found = tables_NC256.to(torch.uint8).gather(2, images_NCHW.flatten(2).long())
    return found.view_as(images_NCHW)
