"""Data sets for tests, and what their splits hold."""

import hashlib
import pickle
import tarfile

import pytest
import torch
from torchvision.datasets import CIFAR10

from hpo import errors
from hpo.training import datasets
from hpo.training.config import Config
from tests.support.images import random_images


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar10(root, monkeypatch, archive):
    """Write a CIFAR-10 of 100 and 20 images, as a folder or an archive that passes torchvision's checks."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for number, name in enumerate(names):
        batch = {
            "data": random_images(20, 3072, seed=number),
            "labels": [label % 10 for label in range(20)],
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class{n}" for n in range(10)]}))
    sums = [[name, md5(folder / name)] for name in names]
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(folder / "batches.meta")}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    if archive:
        with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as packed:
            packed.add(folder, folder.name)
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        monkeypatch.setattr(CIFAR10, "tgz_md5", md5(root / "cifar-10-python.tar.gz"))


def keys(split):
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in split.images]


def counts(split, classes=10):
    return torch.bincount(split.labels, minlength=classes).tolist()


def load_error(config, root):
    with pytest.raises(errors.DataError) as raised:
        datasets.load_dataset(config, root)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def folder_config(path, **options):
    return Config(**({"dataset": f"folder:{path}", "image_size": 16} | options))


def assert_well_formed(dataset, channels, side):
    for split in (dataset.train, dataset.valid, dataset.test):
        if split is not None:
            assert split.images.shape == (len(split), channels, side, side)
            assert split.images.dtype == torch.uint8
            assert split.images.is_contiguous()
            assert split.labels.shape == (len(split),)
            assert split.labels.dtype == torch.int64
            assert len(split) > 0
