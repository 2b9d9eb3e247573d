import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, CIFAR100, SVHN

from hpo.training import datasets, sources
from hpo.training.config import Config
from tests.support.data_sets import assert_well_formed, counts, load_error, md5, write_cifar10
from tests.support.images import random_images, write_idx

pytestmark = pytest.mark.usefixtures("no_network")

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.parametrize("archive", [False, True])
def test_cifar10_is_read_from_a_folder_or_an_archive_without_a_network(tmp_path, monkeypatch, archive):
    write_cifar10(tmp_path, monkeypatch, archive)
    dataset = datasets.load_dataset(Config(dataset="cifar10"), tmp_path)
    assert_well_formed(dataset, 3, 32)
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (90, 10, 20)
    assert dataset.classes == tuple(f"class{n}" for n in range(10))
    assert dataset.name == "cifar10"
    reference = CIFAR10(tmp_path, train=False)
    assert np.array_equal(dataset.test.images.permute(0, 2, 3, 1).numpy(), reference.data)
    assert dataset.test.labels.tolist() == reference.targets


def test_cifar100_is_read_from_torchvisions_folder(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, count in (("train", 300), ("test", 100)):
        batch = {
            "data": random_images(count, 3072, seed=count),
            "fine_labels": [n % 100 for n in range(count)],
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"c{n}" for n in range(100)]}))
    for attribute, name in (("train_list", "train"), ("test_list", "test")):
        monkeypatch.setattr(CIFAR100, attribute, [[name, md5(folder / name)]])
    meta = {"filename": "meta", "key": "fine_label_names", "md5": md5(folder / "meta")}
    monkeypatch.setattr(CIFAR100, "meta", meta)
    dataset = datasets.load_dataset(Config(dataset="cifar100"), tmp_path)
    assert_well_formed(dataset, 3, 32)
    assert len(dataset.classes) == 100
    assert len(dataset.train) + len(dataset.valid) == 300


def test_svhn_is_read_with_its_label_10_as_the_digit_0(tmp_path, monkeypatch):
    split_list = {}
    for split, count in (("train", 50), ("test", 20)):
        file = tmp_path / f"{split}_32x32.mat"
        labels = np.array([n % 10 + 1 for n in range(count)], np.uint8)[:, None]
        scipy.io.savemat(file, {"X": random_images(32, 32, 3, count, seed=count), "y": labels})
        split_list[split] = ["http://127.0.0.1:9/", file.name, md5(file)]
    monkeypatch.setattr(SVHN, "split_list", split_list)
    dataset = datasets.load_dataset(Config(dataset="svhn"), tmp_path)
    assert_well_formed(dataset, 3, 32)
    assert dataset.test.labels.tolist() == [(n % 10 + 1) % 10 for n in range(20)]
    expected = random_images(32, 32, 3, 20, seed=20).transpose(3, 2, 0, 1)
    assert np.array_equal(dataset.test.images.numpy(), expected)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("fashion_mnist", "fashion_mnist"),
        ("fashion_mnist", "FashionMNIST/raw"),
    ],
)
def test_idx_files_are_read_from_hpos_or_torchvisions_folder(tmp_path, name, folder, compressed):
    labels = [n % 10 for n in range(60)]
    written = write_idx(tmp_path / folder, labels, compressed=compressed)
    dataset = datasets.load_dataset(Config(dataset=name, selection="test"), tmp_path)
    assert_well_formed(dataset, 1, 28)
    assert np.array_equal(dataset.train.images[:, 0].numpy(), written)
    assert dataset.train.labels.tolist() == labels
    assert len(dataset.classes) == 10


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_read_from_debians_package(tmp_path):
    dataset = datasets.load_dataset(Config(dataset="fashion_mnist"), tmp_path / "not-there")
    assert_well_formed(dataset, 1, 28)
    assert counts(dataset.train) == [5400] * 10
    assert counts(dataset.valid) == [600] * 10
    assert counts(dataset.test) == [1000] * 10
    assert dataset.classes[9] == "Ankle boot"
    assert dataset.test.labels[:5].tolist() == [9, 2, 1, 1, 6]
    assert not (tmp_path / "not-there").exists()


def test_a_downloaded_copy_is_preferred_to_debians(tmp_path):
    write_idx(tmp_path / "fashion_mnist", [0, 1] * 10)
    assert (
        len(datasets.load_dataset(Config(dataset="fashion_mnist", selection="test"), tmp_path).train) == 20
    )


@pytest.mark.parametrize("content", [b"", b"\x1f\x8bnot gzip", b"\0\0\x08\x01\0\0\0\x09" + bytes(8)])
def test_a_broken_idx_file_is_refused_by_name(tmp_path, content):
    write_idx(tmp_path / "mnist", [0, 1] * 10)
    (tmp_path / "mnist/train-labels-idx1-ubyte.gz").write_bytes(content)
    message = load_error(Config(dataset="mnist"), tmp_path)
    assert str(tmp_path / "mnist") in message
    assert "train-labels-idx1-ubyte" in message


def test_labels_that_belong_to_other_images_are_refused(tmp_path):
    write_idx(tmp_path / "mnist", [0, 1] * 10)
    write_idx(tmp_path / "other", [0, 1] * 9)
    name = "train-labels-idx1-ubyte.gz"
    os.replace(tmp_path / "other" / name, tmp_path / "mnist" / name)
    assert "do not belong" in load_error(Config(dataset="mnist"), tmp_path)


def test_digits_are_grey_uint8_images_in_three_splits(tmp_path):
    dataset = datasets.load_dataset(Config(dataset="digits"), tmp_path)
    assert_well_formed(dataset, 1, 8)
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (1437, 180, 180)
    assert dataset.train.images.max() == 255
    assert sorted(dataset.train.images.unique().tolist()) == [round(255 * n / 16) for n in range(17)]
    assert dataset.classes == tuple("0123456789")
    assert list(tmp_path.iterdir()) == []
    reference, labels = load_digits(return_X_y=True)
    whole = sources.read_digits().train
    assert np.array_equal(np.rint(reference * 255 / 16), whole.images.reshape(len(reference), -1))
    assert np.array_equal(labels, whole.labels)
