"""Splits: stratified, reproducible, limited."""

import hashlib

import numpy as np
import pytest

from hpo.training import datasets
from hpo.training.config import Config, FinalConfig
from tests.support.data_sets import counts, keys
from tests.support.images import write_idx, write_images

pytestmark = pytest.mark.usefixtures("no_network")


UNEVEN = [0] * 100 + [1] * 50 + [2] * 33 + [3] * 3 + [4] * 2 + [5]


@pytest.fixture
def uneven(tmp_path):
    """Return a folder with a shuffled MNIST-like data set of 100, 50, 33, 3, 2 and 1 images per class."""
    labels = np.random.default_rng(0).permutation(UNEVEN)
    write_idx(tmp_path / "mnist", labels, test_labels=[0] * 40 + [1] * 20 + [2] * 10)
    return tmp_path


def test_the_splits_share_no_image_and_lose_none(uneven):
    dataset = datasets.load_dataset(Config(dataset="mnist"), uneven)
    whole = datasets.load_dataset(Config(dataset="mnist", selection="test"), uneven)
    assert sorted(keys(dataset.train) + keys(dataset.valid)) == sorted(keys(whole.train))
    digits = datasets.load_dataset(Config(dataset="digits"), uneven)
    indices = [len(digits.train), len(digits.valid), len(digits.test)]
    assert sum(indices) == 1797


def test_the_labels_stay_with_their_images(uneven):
    whole = datasets.load_dataset(Config(dataset="mnist", selection="test"), uneven)
    label = dict(zip(keys(whole.train), whole.train.labels.tolist(), strict=True))
    dataset = datasets.load_dataset(Config(dataset="mnist", limit=50), uneven)
    for split in (dataset.train, dataset.valid):
        assert [label[key] for key in keys(split)] == split.labels.tolist()


def test_a_split_is_stratified_by_largest_remainders(uneven):
    # 0.1 of 189 is 19; quotas: 10.05 5.03 3.32 0.30 0.20 0.10; the image that is left goes to the .32
    dataset = datasets.load_dataset(Config(dataset="mnist"), uneven)
    assert counts(dataset.valid)[:6] == [10, 5, 4, 0, 0, 0]
    assert counts(dataset.train)[:6] == [90, 45, 29, 3, 2, 1]


def test_every_class_keeps_an_image_to_train_on(uneven):
    for fraction in (0.01, 0.1, 0.3, 0.49):
        dataset = datasets.load_dataset(Config(dataset="mnist", valid_fraction=fraction), uneven)
        assert min(counts(dataset.train)[:6]) >= 1
        assert len(dataset.valid) == max(1, round(fraction * 189))


def test_the_split_depends_only_on_the_split_seed(uneven):
    splits = [
        keys(datasets.load_dataset(Config(dataset="mnist", split_seed=split_seed, seed=seed), uneven).valid)
        for split_seed, seed in ((0, 0), (0, 1), (1, 0))
    ]
    assert splits[0] == splits[1]
    assert splits[0] != splits[2]


def test_the_split_is_the_same_on_every_platform(tmp_path):
    # Fixed on purpose: a change here makes the trials of running studies incomparable.
    dataset = datasets.load_dataset(Config(dataset="digits", limit=100), tmp_path)
    digest = hashlib.sha256("".join(keys(dataset.train) + keys(dataset.valid)).encode()).hexdigest()
    assert digest[:16] == "2735fb24e7b5689c"


def test_selection_test_trains_on_the_whole_train_split(uneven):
    dataset = datasets.load_dataset(Config(dataset="mnist", selection="test"), uneven)
    assert dataset.valid is None
    assert len(dataset.train) == 189
    assert dataset.selection is dataset.test
    with_valid = datasets.load_dataset(Config(dataset="mnist"), uneven)
    assert with_valid.selection is with_valid.valid
    assert keys(with_valid.test) == keys(dataset.test)


def test_final_runs_train_on_train_and_valid_and_keep_the_test_images(uneven, tmp_path):
    for part in ("train", "valid", "test"):
        write_images(tmp_path / "parts" / part, {"cat": 12, "dog": 12}, seed=len(part))
    for settings in (
        {"dataset": "mnist"},
        {"dataset": "mnist", "limit": 34},
        {"dataset": "digits"},
        {"dataset": f"folder:{tmp_path}/parts", "image_size": 16},
    ):
        study, final = (datasets.load_dataset(kind(**settings), uneven) for kind in (Config, FinalConfig))
        assert sorted(keys(final.train)) == sorted(keys(study.train) + keys(study.valid))
        label: dict[str, int] = {}
        for split in (study.train, study.valid):
            label |= zip(keys(split), split.labels.tolist(), strict=True)
        assert [label[key] for key in keys(final.train)] == final.train.labels.tolist()
        assert keys(final.test) == keys(study.test)
        assert (final.valid, final.selection) == (None, final.test)


def test_without_a_test_split_as_many_images_as_for_validation_are_held_out(tmp_path):
    with_valid = datasets.load_dataset(Config(dataset="digits"), tmp_path)
    without = datasets.load_dataset(Config(dataset="digits", selection="test"), tmp_path)
    assert (len(without.train), len(without.test)) == (1617, 180)
    assert keys(without.test) == keys(with_valid.test)
    assert not set(keys(with_valid.test)) & set(keys(with_valid.train) + keys(with_valid.valid))


def test_a_limit_shrinks_all_splits(uneven):
    dataset = datasets.load_dataset(Config(dataset="mnist", limit=34), uneven)  # a fifth of 170
    assert len(dataset.train) == 34
    assert len(dataset.valid) == 10  # one per class, which is more than a fifth of 19
    assert len(dataset.test) == 14
    assert counts(dataset.train)[:6] == [16, 9, 6, 1, 1, 1]
    assert counts(dataset.test)[:3] == [8, 4, 2]


def test_a_limited_split_is_a_subset_of_the_whole_one(uneven):
    whole = datasets.load_dataset(Config(dataset="mnist"), uneven)
    part = datasets.load_dataset(Config(dataset="mnist", limit=50), uneven)
    for name in ("train", "valid", "test"):
        assert set(keys(getattr(part, name))) < set(keys(getattr(whole, name)))


def test_a_limit_below_the_number_of_classes_is_respected(uneven):
    assert len(datasets.load_dataset(Config(dataset="mnist", limit=2), uneven).train) == 2


def test_a_limit_above_the_size_changes_nothing(uneven):
    whole = datasets.load_dataset(Config(dataset="mnist"), uneven)
    for limit in (170, 171, 10**9):
        limited = datasets.load_dataset(Config(dataset="mnist", limit=limit), uneven)
        for name in ("train", "valid", "test"):
            assert keys(getattr(limited, name)) == keys(getattr(whole, name))


def test_all_splits_of_a_data_set_move_to_a_device(tmp_path):
    config = Config(dataset="digits", limit=20)
    moved = datasets.load_dataset(config, tmp_path).to("meta")
    assert {split.images.device.type for split in (moved.train, moved.valid, moved.test)} == {"meta"}
    assert moved.selection.labels.device.type == "meta"
    assert (
        datasets.load_dataset(config.model_copy(update={"selection": "test"}), tmp_path).to("meta").valid
        is None
    )
