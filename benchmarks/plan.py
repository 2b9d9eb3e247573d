"""Compare what ``hpo plan`` predicts for an epoch with epochs that are then trained, as a ratio.

The prediction runs a few steps on random images: with the study's batch size and, as for slow steps, with
two and four images (*computed*). *Real* is the training and evaluation of a whole epoch on the digits, on
one thread. Windows of both alternate, because the speed of shared machines varies by a third from minute to
minute. Figures are medians over the windows, with their range.

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
from hpo.analysis.epoch_cost import CostsByBatchSize
from hpo.analysis.step_timing import MeasuredCost
from hpo.training import batches, datasets, loop, models, precision
from hpo.training.config import Config

CASES = {("resnet18", 32): 160, ("alexnet", 64): 64, ("vgg16", 32): 32}
CPU = torch.device("cpu")


def measure(name: str, size: int, images: int, windows: int) -> dict[str, list[float]]:
    """Return the seconds per epoch of each window: predicted, computed from small batches, and real.

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
    found: dict[str, list[float]] = {"predicted": [], "computed": [], "real": []}

    def measure_batch(batch_size: int) -> MeasuredCost | None:
        return step_timing.measure_cost(settings.model_copy(update={"batch_size": batch_size}), shape, CPU)

    for _ in range(windows):
        costs = {
            "predicted": measure_batch(settings.batch_size),
            "computed": CostsByBatchSize(measure_batch, slow_seconds=0.0).find(settings.batch_size),
        }
        epoch = next(epochs)
        for kind, seen in costs.items():
            if seen is None or epoch is None:
                raise RuntimeError(f"{name} at {size} px does not fit into the memory")
            found[kind].append(steps * seen.step_seconds + shape.selection * seen.image_seconds)
        assert epoch is not None
        found["real"].append(epoch.seconds)
    return found


def main() -> None:
    """Measure all cases, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--windows", type=int, default=5, help="windows of each, which alternate")
    windows = parser.parse_args().windows
    torch.set_num_threads(1)
    precision.keep_freed_memory()
    columns = ("case", "real, s", "predicted, s", "predicted / real", "computed / real")
    table, rows = Table(*columns, box=None), []
    for (name, size), images in CASES.items():
        seconds = measure(name, size, images, windows)
        middle = {kind: statistics.median(each) for kind, each in seconds.items()}
        spread = {k: f"{middle[k]:.2f} ({min(seconds[k]):.2f} to {max(seconds[k]):.2f})" for k in middle}
        ratios = {"plan/real": middle["predicted"] / middle["real"]}
        ratios["computed/real"] = middle["computed"] / middle["real"]
        shown = (f"{ratio:.2f}" for ratio in ratios.values())
        table.add_row(f"{name} at {size}, {images} images", spread["real"], spread["predicted"], *shown)
        rows.append({"model": name, "image_size": size, "seconds": seconds, "ratios": ratios})
    Console(width=100).print(table)
    print(json.dumps({"benchmark": "plan", "windows": windows, "rows": rows}))


if __name__ == "__main__":
    main()
