"""Decode the pictures of a folder into a cache, as a worker does, once a file named as the gate exists.

It prints how many pictures it decoded itself, and the sum of the pixels. It ends with its standard input.
Arguments: folder, cache, gate.
"""

import sys
from pathlib import Path

from hpo.training import datasets, decoding
from hpo.training.config import Config
from hpo.training.decoded_cache import DecodedCache
from tests.support.processes import wait_for


def main() -> None:
    folder, cache, gate = map(Path, sys.argv[1:])
    decoded = []
    original = decoding.decode

    def decode_behind_gate(job, write):
        wait_for(gate.exists)
        return original(job, lambda pixels: (decoded.append(1), write(pixels)))

    decoding.decode = decode_behind_gate
    config = Config(dataset=f"folder:{folder}", image_size=16)
    dataset = datasets.load_dataset(config, folder, DecodedCache(cache))
    print(len(decoded), dataset.train.images.sum().item(), flush=True)
    sys.stdin.read()  # the images stay in use


if __name__ == "__main__":
    main()
