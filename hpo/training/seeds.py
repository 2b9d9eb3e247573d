"""Seeds of everything that a trial draws at random."""

import hashlib
import random

import numpy as np


def derive_seed(*parts: int) -> int:
    """Return a seed below 2**63 for a position in a trial's training.

    Args:
        parts: The trial's seed, then nothing (initial weights), or the epoch (image order), or epoch and
            step (augmentation and dropout), both counted from 1.
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_generators(*parts: int) -> None:
    """Seed the generators of this process that any code may use: Python's, numpy's and torch's.

    Args:
        parts: As for ``derive_seed``.
    """
    set_seed(derive_seed(*parts))


def set_seed(seed: int) -> None:
    """Seed the generators of Python, numpy and torch, on all devices.

    Args:
        seed: What ``derive_seed`` returned.
    """
    import torch  # here, because verbs that read study files import this module, and torch takes seconds

    random.seed(seed)
    np.random.seed(seed % 2**32)  # numpy's old generator takes no larger one
    torch.manual_seed(seed)
