"""The data sets that a worker keeps loaded."""

import pytest
import torch

from hpo.training import datasets
from hpo.training.decoded_cache import DecodedCache
from hpo.workers.loaded_datasets import LoadedDatasets
from tests.support.data_sets import folder_config
from tests.support.images import write_images

CPU = torch.device("cpu")


@pytest.fixture
def load(tmp_path):
    write_images(tmp_path / "pictures", {"cat": 10, "dog": 10})

    def load_at(size, cache=None):
        return datasets.load_dataset(folder_config(tmp_path / "pictures", image_size=size), tmp_path, cache)

    return load_at


def test_data_sets_in_memory_share_one_limit_and_the_last_one_is_always_kept(load):
    loaded = LoadedDatasets(CPU, max_host_bytes=2 * load(16).nbytes)
    for name in "abc":
        loaded.add(name, load(16))
    assert list(loaded.by_key) == ["b", "c"]
    assert loaded.find("b") is not None
    loaded.add("d", load(16))
    assert list(loaded.by_key) == ["b", "d"]  # what was used last stays
    loaded.add("large", load(64))
    assert list(loaded.by_key) == ["large"]


def test_mapped_data_sets_take_no_room_and_rest_while_another_one_is_used(load, tmp_path, monkeypatch):
    loaded, cache = LoadedDatasets(CPU, max_host_bytes=0), DecodedCache(tmp_path / "cache")
    first, second = (loaded.add(size, load(size, cache)) for size in (16, 24))
    assert list(loaded.by_key) == [16, 24]
    given_back = []
    monkeypatch.setattr(second.train.mapping, "give_back", lambda: given_back.append(24))
    assert loaded.find(24) is second
    assert not given_back
    assert loaded.find(16) is first
    assert given_back


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_data_sets_on_a_gpu_share_one_limit_and_larger_ones_stay_on_the_host(load):
    loaded = LoadedDatasets(torch.device("cuda"), max_gpu_bytes=2 * load(16).nbytes)
    assert all(loaded.add(name, load(16)).is_on_gpu for name in "abc")
    assert list(loaded.by_key) == ["b", "c"]
    assert not loaded.add("large", load(64)).is_on_gpu
    assert list(loaded.by_key) == ["b", "c", "large"]
