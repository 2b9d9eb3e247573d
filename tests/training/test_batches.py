"""Batches of a split: the same on every path that reads them."""

import gc
import threading

import numpy as np
import pytest
import torch

from hpo.artifacts.folders import Artifacts
from hpo.training import batches, datasets, loop
from hpo.training.config import Config
from hpo.training.decoded_cache import DecodedCache
from hpo.training.features import FeatureCache
from hpo.training.precision import ComputeSettings
from tests.support.images import write_images

CPU = torch.device("cpu")


@pytest.fixture
def mapped(tmp_path):
    """Return a data set whose images are mapped from the disk."""
    write_images(tmp_path / "pictures", {"cat": 20, "dog": 20})
    config = Config(dataset=f"folder:{tmp_path / 'pictures'}", image_size=16)
    return datasets.load_dataset(config, tmp_path, DecodedCache(tmp_path / "cache"))


def in_memory(split: batches.Split) -> batches.Split:
    return batches.Split(images=split.images.clone(), labels=split.labels)


@pytest.mark.parametrize("parts", [[[3, 1], [0]], [slice(0, 7), slice(7, 9)], [list(range(16))]])
def test_mapped_images_give_the_same_batches_as_images_in_memory(mapped, parts):
    chosen = [part if isinstance(part, slice) else torch.tensor(part) for part in parts]
    pairs = zip(
        batches.read_batches(mapped.train, chosen, CPU),
        batches.read_batches(in_memory(mapped.train), chosen, CPU),
        strict=True,
    )
    for part, (found, expected) in zip(chosen, pairs, strict=True):
        assert torch.equal(found[0], mapped.train.images[part])
        assert all(torch.equal(*each) for each in zip(found, expected, strict=True))


def test_reading_ends_with_its_iterator(mapped):
    reading = batches.read_batches(mapped.train, [torch.tensor([each]) for each in range(20)], CPU)
    next(reading)
    assert any(each.name.startswith("hpo-batches") for each in threading.enumerate())
    reading.close()
    assert not any(each.name.startswith("hpo-batches") for each in threading.enumerate())


def test_an_error_of_the_reading_thread_reaches_the_step(mapped):
    reading = batches.read_batches(mapped.train, ["no index"], CPU)
    with pytest.raises(AttributeError):
        next(reading)


def test_no_more_than_a_few_batches_are_read_ahead(mapped):
    taken = []

    def count():
        for index in range(20):
            taken.append(index)
            yield torch.tensor([index])

    reading = batches.read_batches(mapped.train, count(), CPU)
    next(reading)
    assert len(taken) <= batches.AHEAD + 1
    assert len(list(reading)) == 19


def test_mapped_pages_are_given_back_now_and_then(mapped, monkeypatch):
    monkeypatch.setattr("hpo.training.decoded_cache.MAX_MAPPED_BYTES", 2 * mapped.train.images[0].nbytes)
    given_back = []
    mapping = mapped.train.mapping
    original = mapping.give_back
    monkeypatch.setattr(mapping, "give_back", lambda: (given_back.append(1), original()))
    expected = mapped.train.images.clone()
    found = [
        images for images, _ in batches.read_batches(mapped.train, [slice(i, i + 1) for i in range(9)], CPU)
    ]
    assert len(given_back) == 3
    assert torch.equal(torch.cat(found), expected[:9])


def test_pixels_outlive_their_data_set(mapped):
    images, expected = mapped.train.images, mapped.train.images.numpy().copy()
    del mapped
    gc.collect()
    assert np.array_equal(images.numpy(), expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_of_mapped_images_are_those_of_images_in_memory(precision, tmp_path):
    write_images(tmp_path / "pictures", {"cat": 20, "dog": 20})
    settings = Config(
        dataset=f"folder:{tmp_path / 'pictures'}",
        model="squeezenet1_1",
        image_size=32,
        weights="none",
        tune="head",
        epochs=2,
    )
    cache = FeatureCache(Artifacts(str(tmp_path)), 2**30)
    runs = [
        loop.TrainingRun(
            settings,
            datasets.load_dataset(settings, tmp_path, place),
            CPU,
            feature_cache=cache,
            compute_settings=ComputeSettings(precision=precision),
        )
        for place in (DecodedCache(tmp_path / "decoded"), None)
    ]
    losses = [[epoch.train_loss for epoch in run.epochs()] for run in runs]
    assert losses[0] == losses[1]
    assert runs[0].train_split.mapping is runs[0].selection_split.mapping is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_copied_to_a_gpu_are_the_same(mapped):
    gpu = torch.device("cuda")
    chosen = [torch.randint(0, 20, (8,)) for _ in range(50)]
    for part, (images, labels) in zip(chosen, batches.read_batches(mapped.train, chosen, gpu), strict=True):
        assert images.is_cuda
        assert torch.equal(images.cpu(), mapped.train.images[part])
        assert torch.equal(labels.cpu(), mapped.train.labels[part])
