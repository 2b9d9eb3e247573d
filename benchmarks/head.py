"""A trial that trains the last layer alone: on features, beside the same on images, as a ratio.

- *images*: every image passes through the frozen layers in every epoch. Its epochs are alike, so a window
  times one of them, and a trial is building the model and twenty times that epoch.
- *first*: the trial that computes the features and writes them, whole, once.
- *features*: the trials after it, in the same worker, whole: building the model and twenty epochs.

All start from models that are kept in memory, as a warm worker's do, and on one thread.

Windows of images and features are interleaved, since shared machines swing by a third from minute to
minute; figures are medians over the windows, with their range. Run it with ``make bench``, or
``python -m benchmarks.head``.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from hpo import data, features, model, train
from hpo.artifacts import Artifacts
from hpo.config import Config

CASES = (("resnet18", 64, 320), ("resnet18", 224, 96))  # model, pixels, training images
EPOCHS = 20
CPU = torch.device("cpu")


TEMPLATES = model.Templates()


def on_images(settings: Config, dataset: data.Dataset) -> float:
    """Give the seconds of a trial, from one of its epochs."""
    started = time.perf_counter()
    run = train.Run(settings, dataset, CPU, build=TEMPLATES.seeded)
    building = time.perf_counter() - started
    return building + EPOCHS * next(epoch.seconds for epoch in run.epochs() if epoch is not None)


def on_features(settings: Config, dataset: data.Dataset, cache: features.Cache) -> tuple[float, float]:
    """Give the seconds of a trial, and of its median epoch."""
    started = time.perf_counter()
    run = train.Run(settings, dataset, CPU, build=TEMPLATES.seeded, cache=cache)
    epochs = [epoch.seconds for epoch in run.epochs() if epoch is not None]
    return time.perf_counter() - started, statistics.median(epochs)


def measure(name: str, size: int, limit: int, windows: int) -> dict[str, list[float]]:
    """Give the seconds of each kind of trial in each window, and of a head's epoch."""
    settings = Config(
        dataset="digits",
        model=name,
        image_size=size,
        weights="none",
        tune="head",
        limit=limit,
        epochs=EPOCHS,
    )
    with tempfile.TemporaryDirectory() as folder:
        dataset = data.load(settings, Path(folder))
        cache = features.Cache(Artifacts(folder), features.room(CPU))
        seconds = {
            "images": [],
            "first": [on_features(settings, dataset, cache)[0]],
            "features": [],
            "epoch": [],
        }
        for _ in range(windows):
            seconds["images"].append(on_images(settings, dataset))
            trial, epoch = on_features(settings, dataset, cache)
            seconds["features"].append(trial)
            seconds["epoch"].append(epoch)
    return seconds


def spread(values: list[float], unit: float = 1.0) -> str:
    """Give median and range as text."""
    low, middle, high = (unit * each for each in (min(values), statistics.median(values), max(values)))
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def main() -> None:
    """Measure all cases; print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--windows", type=int, default=5, help="interleaved windows of each peer")
    windows = parser.parse_args().windows
    torch.set_num_threads(1)
    heads = ("case", "images, s", "first, s", "features, s", "images / features", "a head's epoch, ms")
    table = Table(*heads, box=None)
    rows = []
    for name, size, limit in CASES:
        seconds = measure(name, size, limit, windows)
        ratio = statistics.median(seconds["images"]) / statistics.median(seconds["features"])
        table.add_row(
            f"{name} at {size}, {limit} images",
            spread(seconds["images"]),
            f"{seconds['first'][0]:.3g}",
            spread(seconds["features"]),
            f"{ratio:.0f}",
            spread(seconds["epoch"], 1000.0),
        )
        ratios = {"images/features": ratio}
        case = {"model": name, "image_size": size, "limit": limit}
        rows.append({**case, "seconds": seconds, "ratios": ratios})
    Console(width=140).print(table)
    print(json.dumps({"benchmark": "head", "epochs": EPOCHS, "windows": windows, "rows": rows}))


if __name__ == "__main__":
    main()
