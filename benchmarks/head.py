"""Compare a trial that trains only the last layer on features with the same trial on images, as a ratio.

- *images*: every image passes through the frozen layers in every epoch. All epochs are alike, so a window
  times one of them. A trial is building the model and twenty times that epoch, without a worker's other
  work.
- *first*: the trial in which a worker computes the features and writes them.
- *features*: the following trials of the same worker, from the end of one to the end of the next, with
  claim, model, twenty epochs, their reports, and the file of weights.

Models are kept in memory, and everything runs on one thread. Windows of images and features alternate,
because the speed of shared machines varies by a third from minute to minute. Figures are medians over the
windows, with their range. Run it with ``make bench``, or ``python -m benchmarks.head``.
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
INITIAL_MODELS = models.InitialModels()

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


def seconds_on_images(settings: Config, dataset: datasets.Dataset) -> float:
    """Return the seconds of a trial on images, from one of its epochs."""
    started = time.perf_counter()
    run = loop.TrainingRun(settings, dataset, CPU, build_model=INITIAL_MODELS.build_seeded)
    building = time.perf_counter() - started
    return building + EPOCHS * next(epoch.seconds for epoch in run.epochs() if epoch is not None)


def run_trials(text: str, root: Path) -> Iterator[TrialEvent]:
    """Run the study of a study file's text in a worker, and yield its events."""
    (root / "study.toml").write_text(text)
    storage = studies.open_storage(f"sqlite:///{root}/hpo.db", create=True)
    definition = file.load_study_file(root / "study.toml", [], None)
    studies.create_study(storage, definition, "")
    artifacts = Artifacts(str(root / "artifacts"))
    settings = worker.WorkerSettings(
        artifacts=artifacts, data=root, device="cpu", shown_as="cpu", lease_seconds=60.0
    )
    yield from worker.run_worker(storage, definition.name, settings, threading.Event())


def seconds_on_features(events: Iterator[TrialEvent]) -> tuple[float, float]:
    """Return the seconds of a worker's next trial, and of its median epoch."""
    started, epochs = time.perf_counter(), []
    for event in events:
        if isinstance(event, EpochReported):
            epochs.append(event.epoch.seconds)
        if isinstance(event, TrialEnded):
            break
    return time.perf_counter() - started, statistics.median(epochs)


def measure(name: str, size: int, limit: int, windows: int) -> dict[str, list[float]]:
    """Return the seconds of each kind of trial in each window, and of an epoch on features."""
    text = STUDY.format(model=name, size=size, limit=limit, epochs=EPOCHS, trials=windows + 2)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        events = run_trials(text, root)
        first, _ = seconds_on_features(events)
        seconds_on_features(events)  # the first checkpoint of this model measures what one costs
        settings = file.load_study_file(root / "study.toml", [], None).trial_config({})
        assert isinstance(settings, Config)
        dataset = datasets.load_dataset(settings, root)
        seconds = {"images": [], "first": [first], "features": [], "epoch": []}
        for _ in range(windows):
            seconds["images"].append(seconds_on_images(settings, dataset))
            trial, epoch = seconds_on_features(events)
            seconds["features"].append(trial)
            seconds["epoch"].append(epoch)
        return seconds


def format_spread(values: list[float], unit: float = 1.0) -> str:
    """Format the median and the range of values, each multiplied by ``unit``."""
    low, middle, high = (unit * each for each in (min(values), statistics.median(values), max(values)))
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def main() -> None:
    """Measure all cases, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--windows", type=int, default=5, help="windows of each, which alternate")
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
            format_spread(seconds["images"]),
            f"{seconds['first'][0]:.3g}",
            format_spread(seconds["features"]),
            f"{ratio:.0f}",
            format_spread(seconds["epoch"], 1000.0),
        )
        ratios = {"images/features": ratio}
        case = {"model": name, "image_size": size, "limit": limit}
        rows.append({**case, "seconds": seconds, "ratios": ratios})
    Console(width=140).print(table)
    print(json.dumps({"benchmark": "head", "epochs": EPOCHS, "windows": windows, "rows": rows}))


if __name__ == "__main__":
    main()
