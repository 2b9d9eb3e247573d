"""Fixtures of the tests of training."""

import dataclasses

import pytest
import torch
import torchvision
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, STL10, SVHN, FashionMNIST

from hpo.training import file_sets
from tests.support.models import RESNET18


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    """Return the state dict of an untrained ResNet18, and the file that holds it."""
    torch.manual_seed(1)
    state = torchvision.models.resnet18().state_dict()
    path = tmp_path_factory.mktemp("weights") / RESNET18
    torch.save(state, path)
    return state, path


@pytest.fixture
def no_network(monkeypatch):
    """Point torchvision at a port where nothing listens, so that no test downloads the real data."""
    nowhere = "http://127.0.0.1:9/"
    for kind in (CIFAR10, CIFAR100):
        monkeypatch.setattr(kind, "url", nowhere + kind.filename)
    for kind in (MNIST, FashionMNIST):
        monkeypatch.setattr(kind, "mirrors", [nowhere])
    split_list = {split: [nowhere + name, name, md5] for split, (_, name, md5) in SVHN.split_list.items()}
    monkeypatch.setattr(SVHN, "split_list", split_list)
    monkeypatch.setattr(STL10, "url", nowhere + STL10.filename)
    for name, known in file_sets.FILE_SETS.items():
        archives = tuple(
            dataclasses.replace(each, url=nowhere + each.url.rpartition("/")[2]) for each in known.archives
        )
        monkeypatch.setitem(file_sets.FILE_SETS, name, dataclasses.replace(known, archives=archives))
