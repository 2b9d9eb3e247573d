"""What a worker writes about a study's images: counts, and pictures as the model sees them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from hpo.training import batches, datasets, samples, transforms
from hpo.training.config import Config, FinalConfig
from hpo.training.data_facts import DataFacts
from tests.support.images import write_images


def config(**settings) -> Config:
    return Config(**({"dataset": "digits", "weights": "none", "image_size": 32} | settings))


def facts_of(settings: Config, tmp_path) -> DataFacts:
    return samples.describe_images(datasets.load_dataset(settings, tmp_path), settings)


def pixels(found: DataFacts) -> list[np.ndarray]:
    return [np.array(Image.open(io.BytesIO(each.png))) for each in found.samples]


def synthetic(classes: int, side: int) -> datasets.Dataset:
    """Return a data set of two images of each class, whose pixels all have the index of the image."""
    count = 2 * classes
    grey_N111 = (torch.arange(count) % 256).to(torch.uint8).view(count, 1, 1, 1)
    split = batches.Split(
        images=grey_N111.expand(count, 3, side, side).contiguous(),
        labels=torch.arange(classes).repeat_interleave(2),
    )
    names = tuple(map(str, range(classes)))
    return datasets.Dataset(name="x", classes=names, train=split, valid=split, test=split)


def test_the_counts_are_those_of_the_splits(tmp_path):
    settings = config(limit=200)
    found, dataset = facts_of(settings, tmp_path), datasets.load_dataset(settings, tmp_path)
    assert found.selection == "valid"
    for name, split in dataset.splits.items():
        assert list(found.images[name]) == np.bincount(split.labels, minlength=10).tolist()
    final = facts_of(FinalConfig(**settings.model_dump(exclude={"selection"})), tmp_path)
    assert list(final.images) == ["train", "test"]
    assert final.selection == "test"


def test_pictures_are_training_images_resized_as_in_training(tmp_path):
    settings = config(limit=200)
    found, split = facts_of(settings, tmp_path), datasets.load_dataset(settings, tmp_path).train
    resized = transforms.resize(split.images, 32)[:, 0].numpy()
    for sample, picture in zip(found.samples, pixels(found), strict=True):
        (match,) = {int(split.labels[n]) for n, each in enumerate(resized) if np.array_equal(each, picture)}
        assert match == sample.label
    assert [each.label for each in found.samples] == sorted(list(range(10)) * 4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {},
            "cropped to its central square and resized to 16 by 16 pixels (image_size), with white behind "
            "transparent parts",
        ),
        ({"resize": "squash", "transparency": "drop"}, "stretched to 16 by 16 pixels (image_size)"),
        (
            {"resize": "pad", "transparency": "black"},
            "resized and padded to 16 by 16 pixels (image_size), with black behind transparent parts",
        ),
    ],
)
def test_the_facts_say_how_a_folders_pictures_became_squares(tmp_path, options, sentence):
    write_images(tmp_path / "pets", {"cat": 5, "dog": 5})
    settings = config(dataset=f"folder:{tmp_path / 'pets'}", image_size=16, **options)
    assert facts_of(settings, tmp_path).describe_samples() == f"Each is {sentence}, without augmentation."
    digits = facts_of(config(limit=50, **options), tmp_path)
    assert digits.describe_samples() == (
        "Each is resized to 32 by 32 pixels (image_size), without augmentation."
    )
    changed = facts_of(config(limit=50, augmentation="flip", random_erasing=0.25), tmp_path)
    assert changed.describe_samples() == (
        "Each is augmented as in training (augmentation flip, random_erasing 0.25), then resized to 32 by "
        "32 pixels (image_size)."
    )


def test_pictures_are_augmented_as_in_training():
    dataset = synthetic(4, 32)
    dataset.train.images[:, :, :, 16:] = 0  # the left half of each image is bright
    dataset.train.images[:, :, :, :16] = 255
    plain = pixels(samples.describe_images(dataset, config()))
    flipped = pixels(samples.describe_images(dataset, config(augmentation="flip")))
    assert all(each[:, :16].min() == 255 for each in plain)
    assert {int(each[0, 0, 0]) for each in flipped} == {0, 255}


@pytest.mark.parametrize(("classes", "shown", "each"), [(2, 2, 2), (40, 40, 1), (41, 21, 1), (1000, 40, 1)])
def test_many_classes_and_large_images_stay_few_small_pictures(classes, shown, each):
    found = samples.describe_images(synthetic(classes, 120), config(image_size=224))
    labels = [sample.label for sample in found.samples]
    assert (len(set(labels)), len(labels)) == (shown, shown * each)
    assert {picture.shape for picture in pixels(found)} == {(96, 96, 3)}
    assert found.image_size == 224


def test_the_facts_survive_their_json_with_names_of_any_kind(tmp_path):
    write_images(tmp_path / "images", {"<b>∆ naïve": 12, "x" * 200: 3})
    found = facts_of(config(dataset=f"folder:{tmp_path / 'images'}"), tmp_path)
    assert DataFacts.model_validate_json(found.model_dump_json()) == found
    assert found.classes == ("<b>∆ naïve", "x" * 200)


@pytest.mark.parametrize(
    "change",
    [
        {"selection": "valid"},
        {"images": {"train": (1,)}},
        {"images": {"train": (0, 0)}},
        {"samples": ({"label": 2, "png": "AA=="},)},
    ],
)
def test_facts_that_contradict_each_other_are_refused(change):
    document = {
        **{"classes": ("a", "b"), "images": {"train": (1, 2)}, "selection": "train", "skipped": 0},
        **{"image_size": 8, "augmentation": "none", "samples": ()},
    }
    DataFacts.model_validate(document)
    with pytest.raises(ValueError, match=r"class|counts"):
        DataFacts.model_validate(document | change)
