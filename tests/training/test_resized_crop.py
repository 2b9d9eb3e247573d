"""Random resized crops beside PIL and torchvision's RandomResizedCrop."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from hpo.training import resized_crop
from hpo.training.boxes import Boxes
from tests.support.distributions import assert_same_distribution
from tests.support.images import random_images


def boxes(*values: tuple[int, int, int, int]) -> Boxes:
    tops_N, lefts_N, heights_N, widths_N = torch.tensor(values).unbind(1)
    return Boxes(tops_N=tops_N, lefts_N=lefts_N, heights_N=heights_N, widths_N=widths_N)


def pil_crop(image_CHW: np.ndarray, box: tuple[int, int, int, int], size: int, filter_name: str):
    """Crop and resize as PIL does; columns before rows, as Pillow did up to version 12 for every shape."""
    top, left, height, width = box
    pixels = image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0)
    crop = Image.fromarray(pixels).crop((left, top, left + width, top + height))
    kind = Image.Resampling[filter_name.upper()]
    resized = np.asarray(crop.resize((size, height), kind).resize((size, size), kind))
    return resized[None] if resized.ndim == 2 else resized.transpose(2, 0, 1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("sides", "size"), [((32, 32), 64), ((72, 72), 48), ((90, 41), 32), ((32, 32), 8)])
def test_a_crop_has_the_bytes_of_pil(channels, sides, size, interpolation):
    count = 60
    images = random_images(count, channels, *sides)
    generator = torch.Generator().manual_seed(0)
    crops = resized_crop.draw_crops(count, *sides, generator)
    flips_N = torch.arange(count) % 3 == 0
    batch = torch.from_numpy(images)
    found = resized_crop.crop_and_resize(batch, crops, flips_N, size, interpolation).numpy()
    values = torch.stack((crops.tops_N, crops.lefts_N, crops.heights_N, crops.widths_N), 1).tolist()
    for image, crop, is_flipped, box in zip(images, found, flips_N, values, strict=True):
        expected = pil_crop(image, box, size, interpolation)
        assert np.array_equal(crop, expected[:, :, ::-1] if is_flipped else expected), box


def test_a_crop_differs_from_torchvisions_by_one_level_at_most():
    """Pillow 13 resizes the rows of some crops first, which rounds differently."""
    images = random_images(40, 3, 73, 73)
    crops = resized_crop.draw_crops(40, 73, 73, torch.Generator().manual_seed(0))
    unflipped = torch.zeros(40, dtype=torch.bool)
    found = resized_crop.crop_and_resize(torch.from_numpy(images), crops, unflipped, 64).numpy()
    values = torch.stack((crops.tops_N, crops.lefts_N, crops.heights_N, crops.widths_N), 1).tolist()
    differences = []
    for image, crop, box in zip(images, found, values, strict=True):
        picture = Image.fromarray(image.transpose(1, 2, 0))
        expected = torchvision.transforms.functional.resized_crop(picture, *box, [64, 64])
        differences.append(np.abs(crop.transpose(1, 2, 0).astype(int) - np.asarray(expected)).max())
    assert max(differences) <= 1
    assert differences.count(0) > 30


def test_the_whole_image_at_its_own_size_stays_the_same():
    images = torch.from_numpy(random_images(2, 3, 16, 16))
    whole = boxes((0, 0, 16, 16), (0, 0, 16, 16))
    found = resized_crop.crop_and_resize(images, whole, torch.tensor([False, True]), 16)
    assert torch.equal(found[0], images[0])
    assert torch.equal(found[1], images[1].flip(2))


@pytest.mark.parametrize("sides", [(64, 64), (20, 100), (60, 20)])
def test_crops_have_the_sizes_ratios_and_places_of_torchvisions(sides):
    crops = resized_crop.draw_crops(20_000, *sides, torch.Generator().manual_seed(0))
    found = torch.stack((crops.tops_N, crops.lefts_N, crops.heights_N, crops.widths_N)).numpy()
    torch.manual_seed(1)
    image = torch.empty(1, *sides)
    draw = torchvision.transforms.RandomResizedCrop.get_params
    expected = np.array([draw(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]).T
    for name, each, wanted in zip(("top", "left", "height", "width"), found, expected, strict=True):
        assert_same_distribution(each, wanted, name)
    assert_same_distribution(found[2] * found[3], expected[2] * expected[3], "area")
    assert_same_distribution(found[3] / found[2], expected[3] / expected[2], "ratio")
