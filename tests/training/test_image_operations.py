"""Each operation gives the bytes of torchvision's function on PIL images with the same parameters."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from hpo.training import image_operations
from tests.support.images import draw_shape, random_images

SIZE = 37
FACTORS = [0.01, 0.1, 0.3, 0.73, 1.0, 1.27, 1.9, 1.99]
FUNCTIONS = {
    "brightness": (image_operations.adjust_brightness, reference.adjust_brightness, FACTORS),
    "color": (image_operations.adjust_color, reference.adjust_saturation, FACTORS),
    "contrast": (image_operations.adjust_contrast, reference.adjust_contrast, FACTORS),
    "sharpness": (image_operations.adjust_sharpness, reference.adjust_sharpness, FACTORS),
    "posterize": (image_operations.posterize, reference.posterize, [1, 2, 3, 4, 5, 6, 7, 8]),
    "solarize": (
        image_operations.solarize,
        reference.solarize,
        [0.0, 8.5, 76.0, 127.5, 128.0, 178.5, 255.0],
    ),
}


def sample_images(channels: int) -> np.ndarray:
    """Return noise, a drawing, a narrow range of values, few values, and one value."""
    noise = random_images(2, channels, SIZE, SIZE)
    drawing = np.asarray(draw_shape(0, (SIZE, SIZE), 1)).transpose(2, 0, 1)[None, :channels]
    few = np.where(noise[:1] > 200, np.uint8(90), np.uint8(17))
    flat = np.full((1, channels, SIZE, SIZE), 121, np.uint8)
    return np.concatenate((noise, drawing, noise[:1] // 3 + 60, few, flat))


def to_pil(image_CHW: np.ndarray) -> Image.Image:
    return Image.fromarray(image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0))


def to_array(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def expected_of(function, images_NCHW, *values) -> torch.Tensor:
    rows = zip(images_NCHW, *values, strict=True)
    return torch.from_numpy(np.stack([to_array(function(to_pil(image), *rest)) for image, *rest in rows]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_pixels_change_as_pil_changes_them(name, channels):
    function, expected, values = FUNCTIONS[name]
    images = sample_images(channels)
    count = len(images)
    for turn in range(len(values)):  # each image gets each value
        parameters = [values[(turn + index) % len(values)] for index in range(count)]
        found = function(torch.from_numpy(images), torch.tensor(parameters, dtype=torch.float64))
        assert found.dtype == torch.uint8
        assert torch.equal(found, expected_of(expected, images, parameters)), parameters


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (image_operations.stretch_contrast, reference.autocontrast),
        (image_operations.equalize, reference.equalize),
    ],
)
def test_histograms_change_as_pil_changes_them(function, expected, channels):
    images = sample_images(channels)
    assert torch.equal(function(torch.from_numpy(images)), expected_of(expected, images))


def shear(image, x, y):
    degrees = [math.degrees(math.atan(each)) for each in (x, y)]
    return reference.affine(image, 0.0, [0, 0], 1.0, degrees, InterpolationMode.NEAREST, center=[0, 0])


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_move_as_pil_moves_them(channels):
    images = random_images(1, channels, SIZE, SIZE)
    cases = []
    for amount in (-0.99, -0.3, 0.09, 0.5):
        cases.append(([1, amount, 0, 0, 1, 0], lambda image, amount=amount: shear(image, amount, 0.0)))
        cases.append(([1, 0, 0, amount, 1, 0], lambda image, amount=amount: shear(image, 0.0, amount)))
    for pixels in (-40, -5, 0, 1, 36):
        move = [pixels, 0], [0, pixels]
        for shift in move:
            cases.append(
                (
                    [1, 0, -shift[0], 0, 1, -shift[1]],
                    lambda image, shift=shift: reference.affine(image, 0.0, shift, 1.0, [0.0, 0.0]),
                )
            )
    matrices = torch.tensor([matrix for matrix, _ in cases], dtype=torch.float64)
    found = image_operations.transform_affine(
        torch.from_numpy(images).expand(len(cases), -1, -1, -1), matrices
    )
    for moved, (matrix, expected) in zip(found, cases, strict=True):
        assert np.array_equal(moved.numpy(), to_array(expected(to_pil(images[0])))), matrix


def test_the_images_themselves_stay_as_they_are():
    images = torch.from_numpy(sample_images(3))
    kept, halves = images.clone(), torch.full((len(images),), 0.5, dtype=torch.float64)
    for function, *_ in FUNCTIONS.values():
        function(images, halves + 1)
    image_operations.stretch_contrast(images)
    image_operations.equalize(images)
    assert torch.equal(images, kept)
