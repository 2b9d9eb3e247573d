"""Compare the time between two trials of a worker with the time to build the model anew.

One worker runs trials of one step each. *Turnaround* is the time from the end of a trial to the moment at
which the next one could make its first step: claim, setting, data, weights. *Building* is torchvision's
constructor with random weights, which a worker that keeps no models would call for each trial. The last
column is the peak memory of the worker process.

Run it with ``make bench``, or ``python -m benchmarks.turnaround``.
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

from benchmarks import head
from hpo.training import devices, models
from hpo.training.config import Config
from hpo.training.events import TrialEnded, TrialStarted

CASES = (("resnet18", 32), ("alexnet", 64), ("vgg16", 32))

STUDY = """
name = "turnaround"
[train]
dataset = "digits"
model = "{model}"
image_size = {size}
weights = "none"
limit = 16
epochs = 1
[space]
lr = {{ low = 1e-4, high = 1e-2, log = true }}
[search]
trials = {trials}
sampler = "random"
pruner = "none"
"""


def gaps(name: str, size: int, trials: int) -> list[float]:
    """Return the seconds from each trial's end to the next one's start, without the first two trials.

    Args:
        name: Name of the model.
        size: Side of the images, in pixels.
        trials: Number of trials to run.
    """
    with tempfile.TemporaryDirectory() as folder:
        text = STUDY.format(model=name, size=size, trials=trials)
        found, ended = [], None
        for event in head.run_trials(text, Path(folder)):
            if isinstance(event, TrialStarted) and ended is not None:
                found.append(time.perf_counter() - ended)
            if isinstance(event, TrialEnded):
                ended = time.perf_counter()
    return found[1:]


def building_seconds(name: str, size: int, times: int) -> list[float]:
    """Return the seconds that each of ``times`` new modules takes to build."""
    settings, found = Config(dataset="digits", model=name, image_size=size, weights="none"), []
    for _ in range(times):
        started = time.perf_counter()
        models.build_seeded_model(settings, 10, 0)
        found.append(time.perf_counter() - started)
    return found


def main() -> None:
    """Measure all cases, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=7, help="of each case; five gaps count")
    trials = parser.parse_args().trials
    torch.set_num_threads(1)
    table = Table("case", "turnaround, s", "building, s", "turnaround / building", "peak GiB", box=None)
    rows = []
    for name, size in CASES:
        between, anew = gaps(name, size, trials), building_seconds(name, size, 5)
        middle, built = statistics.median(between), statistics.median(anew)
        peak = devices.peak_memory_bytes() / 2**30
        spread = f"{middle:.2f} ({min(between):.2f} to {max(between):.2f})"
        table.add_row(f"{name} at {size}", spread, f"{built:.2f}", f"{middle / built:.2f}", f"{peak:.1f}")
        rows.append(
            {"model": name, "image_size": size, "turnaround": between, "building": anew, "gib": peak}
        )
    Console(width=100).print(table)
    print(json.dumps({"benchmark": "turnaround", "trials": trials, "rows": rows}))


if __name__ == "__main__":
    main()
