"""Image files that random parts are cut out of: those to train on are larger, the others stay the same."""

import pytest
import torch

from hpo.training import datasets, image_files, loop, samples
from hpo.training.config import FinalConfig
from hpo.training.decoded_cache import DecodedCache
from tests.support.data_sets import folder_config, load_error
from tests.support.images import draw_images

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    draw_images(tmp_path / "shapes", ("circle", "square"), 20)
    return tmp_path / "shapes"


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_images_to_train_on_are_larger_and_the_others_are_the_same_bytes(folder, resize):
    plain, cropped = (
        datasets.load_dataset(folder_config(folder, resize=resize, augmentation=kind), folder)
        for kind in ("flip", "resized_crop")
    )
    assert cropped.train.images.shape == (len(plain.train), 3, 24, 24)  # 1.5 times 16
    for name in ("valid", "test"):
        assert torch.equal(cropped.splits[name].images, plain.splits[name].images)
    for name, split in plain.splits.items():
        assert torch.equal(cropped.splits[name].labels, split.labels)
    assert cropped.describe() == plain.describe()
    assert plain.describe()["pixels"] == 16
    reading = image_files.Reading(size=24, resize=resize)
    whole = {image_files.read_image(file, reading).pixels.tobytes() for file in folder.rglob("*.*")}
    assert {image.numpy().tobytes() for image in cropped.train.images} <= whole


def test_final_trials_train_on_larger_validation_images_too(folder):
    settings = folder_config(folder, augmentation="resized_crop")
    final = FinalConfig(**settings.model_dump(exclude={"selection"}))
    dataset = datasets.load_dataset(final, folder)
    assert dataset.train.images.shape[2:] == (24, 24)
    assert dataset.test.images.shape[2:] == (16, 16)


def test_unreadable_files_are_left_out_of_each_split(folder):
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        (folder / "circle" / name).write_bytes(b"no image")
    broken = sorted(folder.glob("square/*.png"))[0]
    broken.write_bytes(broken.read_bytes()[:-40])
    settings = folder_config(folder, augmentation="resized_crop", valid_fraction=0.3)
    assert "5 of 44 images cannot be read" in load_error(settings, folder)
    skipping = settings.model_copy(update={"corrupt": "skip"})
    dataset = datasets.load_dataset(skipping, folder)
    assert len(dataset.skipped) == 5
    assert sum(len(split) for split in dataset.splits.values()) == 39


def test_a_cache_has_a_copy_of_each_size(folder, tmp_path):
    settings = folder_config(folder, augmentation="resized_crop")
    cache = DecodedCache(tmp_path / "cache")
    expected = datasets.load_dataset(settings, folder)
    for _ in range(2):
        found = datasets.load_dataset(settings, folder, cache)
        for name, split in expected.splits.items():
            assert torch.equal(found.splits[name].images, split.images)
            assert found.splits[name].mapping is not None
    assert len(list((tmp_path / "cache").glob("*.images"))) == 2


def test_a_model_trains_on_parts_and_is_measured_on_whole_images(folder):
    settings = folder_config(
        folder,
        **{"image_size": 32, "augmentation": "resized_crop", "auto_augment": "trivialaugment"},
        **{"model": "shufflenet_v2_x0_5", "weights": "none", "epochs": 1, "batch_size": 8},
    )
    dataset = datasets.load_dataset(settings, folder)
    sizes = []
    run = loop.TrainingRun(settings, dataset, CPU)
    run.model.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[1:])))
    list(run.epochs())
    assert set(sizes) == {(3, 32, 32)}
    facts = samples.describe_images(dataset, settings)
    assert facts.describe_samples() == (
        "Each is cropped to its central square and resized to 32 by 32 pixels (image_size), with white "
        "behind transparent parts, and augmented as in training (augmentation resized_crop, auto_augment "
        "trivialaugment)."
    )


@pytest.mark.parametrize(("side", "expected"), [(8, 12), (9, 14), (224, 336), (1024, 1536)])
def test_the_side_of_an_image_to_train_on_is_a_whole_number(side, expected):
    settings = folder_config("x", image_size=side, augmentation="resized_crop")
    assert [each.size for each in image_files.readings_of(settings)] == [expected, side]
