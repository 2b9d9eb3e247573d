"""Comparing samples of distributions."""

import math

import numpy as np


def assert_same_distribution(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Compare distribution functions: by chance they rarely differ by too much (p = 0.001)."""
    levels = np.unique(np.concatenate((found, expected)))
    shares = (np.searchsorted(np.sort(each), levels, "right") / len(each) for each in (found, expected))
    difference = np.abs(next(shares) - next(shares)).max()
    assert difference < 1.95 * math.sqrt(1 / len(found) + 1 / len(expected)), what
