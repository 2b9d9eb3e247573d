"""A trial that trains the last layer alone: on features, beside the same on images, as a ratio.

- *images*: every image passes through the frozen layers in every epoch. Its epochs are alike, so a window
  times one of them; a trial is building the model and twenty times that epoch, without a worker's work.
- *first*: the trial of a worker that computes the features and writes them.
- *features*: the trials after it, in the same worker: from the end of one to the end of the next,
  with claim, model, twenty epochs, their reports, and the weights in a file.

Models are kept in memory, and all runs on one thread. Windows of images and features are interleaved, since
shared machines swing by a third from minute to minute; figures are medians over the windows, with their
range. Run it with ``make bench``, or ``python -m benchmarks.head``.
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from hpo.artifacts.folders import Artifacts
from hpo.store import studies
from hpo.study import file
from hpo.training import datasets, loop, models
from hpo.training.config import Config
from hpo.training.events import EpochReported, TrialEnded, TrialEvent
from hpo.workers import worker

CASES = (("resnet18", 64, 320), ("resnet18", 224, 96))  # model, pixels, training images
EPOCHS = 20
CPU = torch.device("cpu")
TEMPLATES = models.InitialModels()

STUDY = """
name = "head"
[train]
dataset = "digits"
model = "{model}"
image_size = {size}
weights = "none"
tune = "head"
limit = {limit}
epochs = {epochs}
[space]
lr = {{ low = 1e-4, high = 1e-2, log = true }}
[search]
trials = {trials}
sampler = "random"
pruner = "none"
"""


def on_images(settings: Config, dataset: datasets.Dataset) -> float:
    """Give the seconds of a trial, from one of its epochs."""
    started = time.perf_counter()
    run = loop.TrainingRun(settings, dataset, CPU, build_model=TEMPLATES.build_seeded)
    building = time.perf_counter() - started
    return building + EPOCHS * next(epoch.seconds for epoch in run.epochs() if epoch is not None)


def trials(text: str, root: Path) -> Iterator[TrialEvent]:
    """Give the events of a worker that runs a study."""
    (root / "study.toml").write_text(text)
    opened = studies.open_storage(f"sqlite:///{root}/hpo.db", create=True)
    definition = file.load_study_file(root / "study.toml", [], None)
    studies.create_study(opened, definition, "")
    artifacts = Artifacts(str(root / "artifacts"))
    settings = worker.WorkerSettings(
        artifacts=artifacts, data=root, device="cpu", shown_as="cpu", lease_seconds=60.0
    )
    yield from worker.run_worker(opened, definition.name, settings, threading.Event())


def on_features(events: Iterator[TrialEvent]) -> tuple[float, float]:
    """Give the seconds of a worker's next trial, and of its median epoch."""
    started, epochs = time.perf_counter(), []
    for event in events:
        if isinstance(event, EpochReported):
            epochs.append(event.epoch.seconds)
        if isinstance(event, TrialEnded):
            break
    return time.perf_counter() - started, statistics.median(epochs)


def measure(name: str, size: int, limit: int, windows: int) -> dict[str, list[float]]:
    """Give the seconds of each kind of trial in each window, and of a head's epoch."""
    text = STUDY.format(model=name, size=size, limit=limit, epochs=EPOCHS, trials=windows + 2)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        events = trials(text, root)
        first, _ = on_features(events)
        on_features(events)  # its first checkpoint of this model has told what one costs
        settings = file.load_study_file(root / "study.toml", [], None).trial_config({})
        dataset = datasets.load_dataset(settings, root)
        seconds = {"images": [], "first": [first], "features": [], "epoch": []}
        for _ in range(windows):
            seconds["images"].append(on_images(settings, dataset))
            trial, epoch = on_features(events)
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
