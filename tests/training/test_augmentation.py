"""Flips, crops and erased boxes; the operations of auto_augment have a file of their own."""

import math

import numpy as np
import pytest
import torch
import torchvision

from hpo.training import augmentation, transforms
from hpo.training.augmentation import augment
from hpo.training.config import Config
from hpo.training.presets import IMAGENET_STD
from tests.support.distributions import assert_same_distribution
from tests.support.images import random_images

EVERYTHING = {
    "augmentation": "resized_crop",
    "auto_augment": "randaugment",
    "random_erasing": 0.5,
}


def config(**settings) -> Config:
    return Config(**({"image_size": 24} | settings))


def counting_images(count, channels, side):
    """Return images whose pixels are numbered from 1 on, so that a crop shows its position."""
    numbers_11HW = torch.arange(1, side * side + 1, dtype=torch.uint8).view(1, 1, side, side)
    return numbers_11HW.expand(count, channels, side, side).contiguous()


def test_augmentation_none_returns_the_images_and_draws_no_random_number():
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    batch = counting_images(4, 1, 8)
    assert augment(batch, config(), generator) is batch
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("kind", ["flip", "crop+flip"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_generator_gives_the_same_augmentation(kind, channels):
    batch = torch.from_numpy(random_images(64, channels, 16, 16))
    first, again, other = (
        augment(batch, config(augmentation=kind), torch.Generator().manual_seed(seed)) for seed in (7, 7, 8)
    )
    assert first.shape == batch.shape
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_flip_mirrors_about_half_of_the_images_and_changes_nothing_else():
    batch = torch.from_numpy(random_images(2000, 3, 4, 6))
    augmented = augment(batch, config(augmentation="flip"), torch.Generator().manual_seed(0))
    unchanged = (augmented == batch).flatten(1).all(1)
    mirrored = (augmented == batch.flip(3)).flatten(1).all(1)
    assert (unchanged ^ mirrored).all()
    assert 900 < mirrored.sum() < 1100  # 4.5 standard deviations


def test_crops_are_windows_of_the_padded_image_at_every_place_equally_often():
    side, padding = 8, 1
    batch = counting_images(9000, 3, side)
    cropped = augment(batch, config(augmentation="crop+flip"), torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(batch[0], [padding] * 4)
    total = 0
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            window = padded[:, top : top + side, left : left + side]
            for candidate in (window, window.flip(2)):
                found = int((cropped == candidate).flatten(1).all(1).sum())
                assert 400 < found < 600, (top, left)  # 500 expected, 4.6 standard deviations
                total += found
    assert total == len(batch)


def test_crops_move_by_an_eighth_of_the_side_and_by_one_pixel_at_least():
    for side, most in ((4, 1), (8, 1), (32, 4), (40, 5)):
        white = torch.full((500, 1, side, side), 255, dtype=torch.uint8)
        cropped = augment(white, config(augmentation="crop+flip"), torch.Generator().manual_seed(0))
        black_rows = (cropped == 0).all(3).flatten(1).sum(1)
        black_columns = (cropped == 0).all(2).flatten(1).sum(1)
        assert (black_rows.min(), black_rows.max()) == (0, most)
        assert (black_columns.min(), black_columns.max()) == (0, most)


def test_crops_of_images_that_are_not_square_keep_their_shape():
    batch = torch.from_numpy(random_images(5, 3, 16, 40))
    assert augment(batch, config(augmentation="crop+flip"), torch.Generator()).shape == batch.shape


@pytest.mark.parametrize("channels", [1, 3])
def test_all_together_give_images_of_the_models_size_that_depend_on_the_generator_alone(channels):
    batch = torch.from_numpy(random_images(32, channels, 32, 32))
    kept = batch.clone()
    first, again, other = (
        augment(batch, config(**EVERYTHING), torch.Generator().manual_seed(seed)) for seed in (7, 7, 8)
    )
    assert (first.shape, first.dtype) == ((32, channels, 24, 24), torch.uint8)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(batch, kept)


def erased_boxes(images_NCHW: torch.Tensor) -> np.ndarray:
    """Return height, width, top and left of what is not white in each image that has such a part."""
    is_erased_NHW = (images_NCHW != 255).any(1).numpy()
    boxes = []
    for is_erased_HW in is_erased_NHW[is_erased_NHW.any((1, 2))]:
        rows, columns = np.nonzero(is_erased_HW.any(1))[0], np.nonzero(is_erased_HW.any(0))[0]
        boxes.append((len(rows), len(columns), rows[0], columns[0]))
        assert is_erased_HW.sum() == len(rows) * len(columns)  # a box without a gap
    return np.array(boxes, dtype=float)


def test_erased_boxes_have_the_sizes_ratios_and_places_of_torchvisions():
    count, sides = 4000, (40, 30)
    white = torch.full((count, 1, *sides), 255, dtype=torch.uint8)
    found = erased_boxes(augmentation.erase(white, 0.25, torch.Generator().manual_seed(0)))
    assert abs(len(found) - count / 4) < 4 * math.sqrt(count * 0.25 * 0.75)
    torch.manual_seed(1)
    erasing = torchvision.transforms.RandomErasing(p=1.0)
    one = torch.full((1, *sides), 255, dtype=torch.uint8)
    expected = erased_boxes(torch.stack([erasing(one) for _ in range(4000)]))
    for index, what in enumerate(("height", "width", "top", "left")):
        assert_same_distribution(found[:, index], expected[:, index], what)
    assert_same_distribution(found[:, 0] * found[:, 1], expected[:, 0] * expected[:, 1], "area")
    assert_same_distribution(found[:, 0] / found[:, 1], expected[:, 0] / expected[:, 1], "ratio")


def test_erased_boxes_become_zero_when_they_are_normalised():
    black = torch.zeros(64, 3, 16, 16, dtype=torch.uint8)
    erased = augmentation.erase(black, 1.0, torch.Generator().manual_seed(0))
    colors = erased.permute(0, 2, 3, 1).reshape(-1, 3).unique(dim=0)
    assert colors.tolist() == [[0, 0, 0], [124, 116, 104]]
    half_a_level = 0.5 / 255 / min(IMAGENET_STD)
    assert transforms.normalise(colors[1][None, :, None, None]).abs().max() < half_a_level
    grey = augmentation.erase(black[:, :1], 1.0, torch.Generator().manual_seed(0))
    assert grey.unique().tolist() == [0, 114]  # the mean of the three


@pytest.mark.parametrize("side", [1, 2, 8])
def test_the_smallest_images_can_be_erased_and_cropped(side):
    tiny = torch.from_numpy(random_images(50, 3, side, side))
    for settings in ({"random_erasing": 1.0}, {"augmentation": "resized_crop"}):
        changed = augment(tiny, config(image_size=8, **settings), torch.Generator().manual_seed(0))
        assert len(changed) == 50


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["flip", "crop+flip", "resized_crop"])
def test_a_gpu_gives_the_same_bytes_as_the_cpu(kind):
    batch = torch.from_numpy(random_images(64, 3, 32, 32))
    settings = config(**(EVERYTHING | {"augmentation": kind}))
    on_cpu, on_gpu = (
        augment(each, settings, torch.Generator().manual_seed(0)) for each in (batch, batch.cuda())
    )
    assert torch.equal(on_gpu.cpu(), on_cpu)
