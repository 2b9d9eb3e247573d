"""Properties of stratified splits and limits, for any class sizes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hpo.training import splits

SIZES = st.lists(st.integers(0, 40), min_size=2, max_size=8).filter(lambda sizes: sum(sizes) > 0)


def shuffled(sizes: list[int], seed: int = 0) -> splits.ClassIndices:
    labels_N = np.repeat(np.arange(len(sizes)), sizes)
    return splits.shuffle_per_class(labels_N, len(sizes), np.random.default_rng(seed))


def lengths(indices: splits.ClassIndices) -> list[int]:
    return [len(each) for each in indices]


@given(sizes=SIZES, seed=st.integers(0, 2**31 - 1))
def test_shuffling_keeps_every_image_in_its_class_and_is_reproducible(sizes, seed):
    indices = shuffled(sizes, seed)
    starts = np.cumsum([0, *sizes])
    for label, each in enumerate(indices):
        assert sorted(each) == list(range(starts[label], starts[label + 1]))
    assert all(np.array_equal(a, b) for a, b in zip(indices, shuffled(sizes, seed), strict=True))


@given(sizes=SIZES, data=st.data())
def test_holding_out_divides_the_images_in_proportion_and_leaves_one_of_each_class(sizes, data):
    spare = sum(max(size - 1, 0) for size in sizes)
    if spare == 0:
        return
    count = data.draw(st.integers(1, spare))
    indices = shuffled(sizes)
    held_out, rest = splits.hold_out(indices, count, "name")
    for each, out, kept in zip(indices, held_out, rest, strict=True):
        assert np.array_equal(np.concatenate([out, kept]), each), "no image is lost or in both splits"
    assert sum(lengths(held_out)) == count
    assert all(kept >= 1 for kept, size in zip(lengths(rest), sizes, strict=True) if size)
    for out, size in zip(lengths(held_out), sizes, strict=True):
        assert out >= min(count * size // sum(sizes), max(size - 1, 0)), "at least its share, rounded down"


@given(sizes=SIZES, data=st.data())
def test_a_limit_keeps_the_first_images_of_each_class_and_loses_no_class(sizes, data):
    total = sum(sizes)
    limit = data.draw(st.integers(1, total))
    indices = shuffled(sizes)
    kept = splits.apply_limit(indices, limit, total)
    assert sum(lengths(kept)) == limit
    for each, few in zip(indices, kept, strict=True):
        assert np.array_equal(each[: len(few)], few)
    if limit >= sum(size > 0 for size in sizes):
        assert all(len(few) > 0 for few, size in zip(kept, sizes, strict=True) if size)


@given(sizes=SIZES)
def test_a_limit_of_all_images_changes_nothing(sizes):
    indices = shuffled(sizes)
    kept = splits.apply_limit(indices, sum(sizes), sum(sizes))
    assert all(np.array_equal(a, b) for a, b in zip(indices, kept, strict=True))
