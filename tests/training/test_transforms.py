import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from hpo.training import transforms
from tests.support.images import random_images

SIZES = [
    ((8, 8), 32),
    ((8, 8), 224),
    ((32, 32), 224),
    ((32, 32), 64),
    ((28, 28), 64),
    ((28, 28), 32),
    ((224, 224), 32),
    ((224, 224), 96),
    ((100, 100), 99),
    ((99, 99), 100),
    ((64, 64), 64),
    ((37, 53), 64),
    ((53, 37), 64),
    ((64, 30), 64),
    ((30, 64), 64),
    ((1, 1), 5),
    ((5, 1), 3),
    ((500, 333), 7),
    ((300, 40), 224),
    ((40, 300), 224),
    ((230, 227), 224),
    ((231, 227), 224),
]


FILTERS = ("bilinear", "bicubic")


def pil_resize(image_CHW, size, interpolation):
    mode = image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0)
    resized = np.asarray(
        Image.fromarray(mode).resize((size, size), Image.Resampling[interpolation.upper()])
    )
    return resized[None] if resized.ndim == 2 else resized.transpose(2, 0, 1)


def assert_equals_pil(images_NCHW, size, interpolation):
    found = transforms.resize(torch.from_numpy(images_NCHW), size, interpolation).numpy()
    expected = np.stack([pil_resize(image, size, interpolation) for image in images_NCHW])
    assert np.array_equal(found, expected), f"{(found != expected).mean():.2%} of the pixels differ"


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("sides", "size"), SIZES)
def test_resize_equals_pil_in_every_byte(sides, size, channels, interpolation):
    assert_equals_pil(random_images(4, channels, *sides), size, interpolation)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("side", "size"), [(32, 224), (28, 224), (8, 32), (32, 64), (64, 32), (224, 32)])
def test_resize_rounds_ties_as_pil_does(side, size, interpolation):
    # Equal steps between few levels put many results half way between two of them.
    rows, columns = np.indices((side, side))
    checkers = [255 * ((rows // step + columns // step) % 2) for step in (1, 2, 3, 4)]
    stripes = [
        255 * (rows % 2),
        255 * (columns % 2),
        rows % 2,
        columns % 2,
        (rows + columns) % 2,
        254 + rows % 2,
    ]
    patterns = np.stack([*checkers, *stripes]).astype(np.uint8)[:, None]
    assert_equals_pil(patterns, size, interpolation)
    black_and_white = np.random.default_rng(1).choice(np.array([0, 255], np.uint8), (8, 3, side, side))
    assert_equals_pil(black_and_white, size, interpolation)


@pytest.mark.parametrize("interpolation", FILTERS)
def test_resize_keeps_white_white_and_black_black(interpolation):
    for level in (0, 255):
        flat = torch.full((1, 3, 333, 222), level, dtype=torch.uint8)
        assert (transforms.resize(flat, 100, interpolation) == level).all()


def test_images_of_the_right_size_are_returned_unchanged():
    same = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    assert transforms.resize(same, 64) is same


def test_resize_does_not_change_its_input():
    before = torch.from_numpy(random_images(2, 3, 32, 32))
    kept = before.clone()
    transforms.resize(before, 64)
    assert torch.equal(before, kept)


def test_resize_accepts_channels_last_and_sliced_batches():
    batch = torch.from_numpy(random_images(8, 3, 32, 32))
    expected = transforms.resize(batch, 48)
    assert torch.equal(transforms.resize(batch.to(memory_format=torch.channels_last), 48), expected)
    assert torch.equal(transforms.resize(batch[::2], 48), expected[::2])


def test_normalise_agrees_with_torchvision():
    batch = random_images(3, 3, 20, 20)
    reference = torchvision.transforms.Compose(
        [
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    expected = torch.stack([reference(image.transpose(1, 2, 0)) for image in batch])
    found = transforms.normalise(torch.from_numpy(batch))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_normalise_repeats_the_grey_channel_three_times():
    grey = torch.from_numpy(random_images(3, 1, 20, 20))
    assert torch.equal(transforms.normalise(grey), transforms.normalise(grey.expand(-1, 3, -1, -1)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_bytes_as_the_cpu():
    batch = torch.from_numpy(random_images(16, 3, 32, 32))
    on_gpu = batch.cuda()
    for interpolation in FILTERS:
        resized_on_cpu, resized_on_gpu = (transforms.resize(x, 224, interpolation) for x in (batch, on_gpu))
        assert torch.equal(resized_on_gpu.cpu(), resized_on_cpu)
    torch.testing.assert_close(
        transforms.normalise(on_gpu).cpu(), transforms.normalise(batch), rtol=0, atol=1e-6
    )
