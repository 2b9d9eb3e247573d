"""Random images in the file format of MNIST."""

import gzip
import struct

import numpy as np


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_idx(folder, train_labels, test_labels=(0, 1, 2), compressed=True, seed=0):
    """Write the four files of an MNIST-like set of 28 by 28 pixels, and return the training images."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = []
    for part, labels in (("train", train_labels), ("t10k", test_labels)):
        images = pixels(len(labels), 28, 28, seed=(seed, len(splits)))
        splits.append(images)
        for kind, array in (("images-idx3", images), ("labels-idx1", np.array(labels, np.uint8))):
            content = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()
            file = folder / (f"{part}-{kind}-ubyte" + ".gz" * compressed)
            file.write_bytes(gzip.compress(content, mtime=0) if compressed else content)
    return splits[0]
