"""Stratified splits: how the images of each class are divided, in whole numbers and reproducibly.

A split is described by ``ClassIndices``: for each class, the indices of its images in the source, shuffled.
A limit keeps the first images of each class in this order. A smaller limit need not keep a subset of what a
larger one keeps, since the number of a class can rise when the limit falls: of classes with 2, 5 and 5
images a limit of 9 keeps 1, 4 and 4, and one of 8 keeps 2, 3 and 3.
"""

import numpy as np
from numpy.typing import NDArray

from hpo import errors

ClassIndices = list[NDArray[np.int64]]


def shuffle_per_class(labels_N: NDArray[np.int64], classes: int, rng: np.random.Generator) -> ClassIndices:
    """Return the indices of each class's images in random order.

    Args:
        labels_N: int64, from 0 to ``classes`` - 1.
        classes: Number of classes.
        rng: Draws one permutation per class.
    """
    return [rng.permutation(np.flatnonzero(labels_N == label)) for label in range(classes)]


def hold_out(indices: ClassIndices, count: int, name: str) -> tuple[ClassIndices, ClassIndices]:
    """Hold out ``count`` images for evaluation; every class keeps at least one image to train on.

    Args:
        indices: The images of each class.
        count: Number of images to hold out, distributed in proportion to the classes' sizes; fewer are held
            out if every class is down to its last image.
        name: Of the data set, for the message.

    Returns:
        The images held out, the first ones of each class, and the rest.

    Raises:
        DataError: If not a single image can be held out.
    """
    sizes = np.array([len(each) for each in indices])
    counts = _apportion(count, sizes, np.maximum(sizes - 1, 0))
    if not counts.any():
        raise errors.DataError(f"{name}: {sizes.sum()} images are too few to hold some out for evaluation")
    return _split_at(indices, counts)


def apply_limit(indices: ClassIndices, limit: int, total: int) -> ClassIndices:
    """Keep the fraction ``limit`` / ``total`` of the images, and one of each class if there are enough.

    Args:
        indices: The images of each class in a split.
        limit: Maximum number of training images, at most ``total``.
        total: Number of training images without the limit; the split may be another one.

    Returns:
        The first images of each class, at least one in all. A class that would have none gets one
        from the largest class, unless that has only one.
    """
    sizes = np.array([len(each) for each in indices])
    size = int(sizes.sum())
    counts = _apportion(max(round(size * limit / total), min(len(indices), size, limit)), sizes, sizes)
    for missed in np.flatnonzero((counts == 0) & (sizes > 0)):
        if counts.max() > 1:
            counts[counts.argmax()] -= 1
            counts[missed] = 1
    return _split_at(indices, counts)[0]


def _split_at(indices: ClassIndices, counts: NDArray[np.int64]) -> tuple[ClassIndices, ClassIndices]:
    """Separate the first ``counts`` images of each class from the rest."""
    by_class = list(zip(indices, counts, strict=True))
    return [each[:count] for each, count in by_class], [each[count:] for each, count in by_class]


def _apportion(count: int, sizes: NDArray[np.int64], limits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Distribute ``count`` in proportion to ``sizes`` by largest remainders, at most ``limits`` per class.

    The arithmetic uses whole numbers, so that every platform gives a tie to the same class: the first.
    """
    counts, remainders = np.divmod(count * sizes, sizes.sum())
    counts = np.minimum(counts, limits)
    order = np.argsort(-remainders, kind="stable")
    while (missing := min(count, limits.sum()) - counts.sum()) > 0:
        counts[order[counts[order] < limits[order]][:missing]] += 1
    return counts
