"""Operations, their frequencies and strengths, beside torchvision's RandAugment and TrivialAugmentWide."""

import math

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import InterpolationMode, autoaugment

from hpo.training import auto_augment
from tests.support.images import random_images

KINDS = {
    "randaugment": torchvision.transforms.RandAugment(),
    "trivialaugment": torchvision.transforms.TrivialAugmentWide(),
}
# torchvision's names in the order of auto_augment.OPERATIONS
NAMES = (
    *("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast"),
    *("Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize", "Identity"),
)


def augmentation_space(kind: str, height: int, width: int) -> dict[str, tuple[torch.Tensor, bool]]:
    if kind == "randaugment":
        return KINDS[kind]._augmentation_space(auto_augment.STRENGTHS, (height, width))
    return KINDS[kind]._augmentation_space(auto_augment.STRENGTHS)


def to_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_strengths_are_those_of_torchvision(kind):
    space = augmentation_space(kind, 40, 48)
    assert set(space) == set(NAMES)
    table = auto_augment.strength_table(kind, 40, 48)
    for name, found in zip(NAMES, table, strict=True):
        expected, is_signed = space[name]
        assert torch.equal(found, expected.double().expand(len(found))), name
        assert is_signed == (NAMES.index(name) < len(auto_augment.SIGNED))
    assert KINDS["randaugment"].magnitude == auto_augment.RANDAUGMENT_STRENGTH
    assert KINDS["randaugment"].num_ops == auto_augment.RANDAUGMENT_OPERATIONS
    assert all(each.num_magnitude_bins == auto_augment.STRENGTHS for each in KINDS.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sides", [(24, 24), (33, 40)])
def test_every_operation_at_every_strength_gives_the_bytes_of_torchvision(kind, sides):
    image = random_images(3, *sides)
    cases = [
        (index, sign * float(strength))
        for index, strengths in enumerate(auto_augment.strength_table(kind, *sides))
        for strength in strengths
        for sign in ((1, -1) if index < len(auto_augment.SIGNED) else (1,))
    ]
    found = auto_augment.apply_operations(
        torch.from_numpy(image).expand(len(cases), -1, -1, -1),
        torch.tensor([index for index, _ in cases]),
        torch.tensor([strength for _, strength in cases], dtype=torch.float64),
    )
    picture = Image.fromarray(image.transpose(1, 2, 0))
    for changed, (index, strength) in zip(found, cases, strict=True):
        expected = autoaugment._apply_op(picture, NAMES[index], strength, InterpolationMode.NEAREST, None)
        assert np.array_equal(changed.numpy(), to_array(expected)), (NAMES[index], strength)


@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_and_strength_is_equally_likely(kind):
    """Each change of one image is about as frequent among many copies as torchvision's rules say."""
    image = torch.from_numpy(random_images(1, 3, 12, 12)).expand(20_000, -1, -1, -1)
    generator = torch.Generator().manual_seed(0)
    found = auto_augment.auto_augment(image, kind, generator)
    unchanged = (found == image[:1]).flatten(1).all(1).double().mean()
    # Counted with torchvision's own code on the same image.
    torch.manual_seed(0)
    picture = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    copies = [to_array(KINDS[kind](picture)) for _ in range(5000)]
    expected = np.mean([np.array_equal(each, image[0].numpy()) for each in copies])
    deviation = math.sqrt(expected * (1 - expected) * (1 / 5000 + 1 / 20_000))
    assert abs(float(unchanged) - expected) < 4 * deviation
    black = (found == 0).flatten(1).double().mean(1)
    black_expected = np.array([(each == 0).mean() for each in copies])
    for level in (0.05, 0.2, 0.5):  # how much of the images comes from outside, or is dark
        share, wanted = float((black > level).double().mean()), float((black_expected > level).mean())
        deviation = math.sqrt(wanted * (1 - wanted) * (1 / 5000 + 1 / 20_000))
        assert abs(share - wanted) <= 4 * deviation, level


@pytest.mark.parametrize("kind", KINDS)
def test_operations_differ_from_image_to_image(kind):
    image = torch.from_numpy(random_images(1, 1, 16, 16)).expand(64, -1, -1, -1)
    found = auto_augment.auto_augment(image, kind, torch.Generator().manual_seed(3))
    assert found.shape == image.shape
    assert len(found.flatten(1).unique(dim=0)) > 20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_the_same_bytes_as_the_cpu(kind):
    batch = torch.from_numpy(random_images(256, 3, 32, 32))
    on_cpu, on_gpu = (
        auto_augment.auto_augment(each, kind, torch.Generator().manual_seed(0))
        for each in (batch, batch.cuda())
    )
    assert torch.equal(on_gpu.cpu(), on_cpu)
