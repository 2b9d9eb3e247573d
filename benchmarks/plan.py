"""Compare what ``hpo plan`` predicts for an epoch with epochs that are then trained, as a ratio.

The prediction runs a few steps on random images. *Real* is the training and evaluation of a whole epoch
on the digits, on one thread. Windows of both alternate, because the speed of shared machines varies by a
third from minute to minute. Figures are medians over the windows, with their range.

Run it with ``make bench``, or ``python -m benchmarks.plan``.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from hpo.analysis import step_timing
from hpo.training import batches, datasets, loop, models, precision
from hpo.training.config import Config

CASES = {("resnet18", 32): 160, ("alexnet", 64): 64, ("vgg16", 32): 32}
CPU = torch.device("cpu")


def measure(name: str, size: int, images: int, windows: int) -> dict[str, list[float]]:
    """Return the seconds per epoch, predicted and real, of each window.

    Args:
        name: Name of the model.
        size: Side of the images, in pixels.
        images: Training images per epoch.
        windows: Number of windows.
    """
    settings = Config(
        dataset="digits", model=name, image_size=size, weights="none", limit=images, epochs=windows + 1
    )
    dataset = datasets.load_dataset(settings, Path())
    shape = datasets.dataset_shape(settings, Path())
    epochs = loop.TrainingRun(settings, dataset, CPU, build_model=models.build_seeded_model).epochs()
    next(epochs)  # to warm up
    steps = len(batches.batch_bounds(shape.train, settings.batch_size))
    found: dict[str, list[float]] = {"predicted": [], "real": []}
    for _ in range(windows):
        seen = step_timing.measure_cost(settings, shape, CPU)
        epoch = next(epochs)
        if seen is None or epoch is None:
            raise RuntimeError(f"{name} at {size} px does not fit into the memory")
        found["predicted"].append(steps * seen.step_seconds + shape.selection * seen.image_seconds)
        found["real"].append(epoch.seconds)
    return found


def main() -> None:
    """Measure all cases, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--windows", type=int, default=5, help="windows of each, which alternate")
    windows = parser.parse_args().windows
    torch.set_num_threads(1)
    precision.keep_freed_memory()
    table, rows = Table("case", "real, s", "predicted, s", "predicted / real", box=None), []
    for (name, size), images in CASES.items():
        seconds = measure(name, size, images, windows)
        middle = {kind: statistics.median(each) for kind, each in seconds.items()}
        spread = [f"{middle[k]:.2f} ({min(seconds[k]):.2f} to {max(seconds[k]):.2f})" for k in middle]
        ratio = middle["predicted"] / middle["real"]
        table.add_row(f"{name} at {size}, {images} images", spread[1], spread[0], f"{ratio:.2f}")
        rows.append({"model": name, "image_size": size, "seconds": seconds, "ratios": {"plan/real": ratio}})
    Console(width=100).print(table)
    print(json.dumps({"benchmark": "plan", "windows": windows, "rows": rows}))


if __name__ == "__main__":
    main()
