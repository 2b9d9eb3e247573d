"""Compare two single-threaded workers of one launcher with two peers in the same run: speed and memory.

- *bare*: two single-threaded processes, each with the loop of ``epoch.py``'s bare step, in its faster
  memory format, keeping freed memory as a worker does
- *tutorial*: the tutorial's loop in one process with two threads, as somebody who follows the tutorial
  runs it

All processes live during the whole case, and their windows alternate: while one peer has its window,
signals stop the others. A window's figure is the median speed of everything that began and ended in it
(``hpo``: the training part of an epoch), summed over the processes. Memory is the peak of a process,
VmHWM.

Run it with ``make bench``, or ``python -m benchmarks.packing``.
"""

import argparse
import contextlib
import csv
import functools
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import epoch
from hpo.training import datasets, precision
from hpo.training.precision import ComputeSettings

WORKERS = 2
# Images per epoch: so few that several epochs fit completely into a window.
CASES = {
    ("resnet18", 32): 64,
    ("resnet18", 64): 32,
    ("resnet18", 224): 16,
    ("alexnet", 64): 16,
    ("alexnet", 224): 16,
    ("vgg16", 32): 16,
}

STUDY = """
name = "packing"
[train]
dataset = "digits"
model = "{model}"
image_size = {size}
weights = "none"
limit = {limit}
batch_size = {batch}
epochs = 100_000
[search]
sampler = "grid"
[[points]]
seed = 0
lr = 1e-3
[[points]]
seed = 1
lr = 1e-3
"""


class Peer:
    """Processes that run only in their windows, and the images per second of each pass of each process."""

    def __init__(self, pids: list[int], speeds: list[Callable[[], list[float]]], stale: int) -> None:
        self.pids = pids
        self.speeds = speeds  # per process: the speeds since the last call
        self.stale = stale  # how many of the first figures in a window belong to the time before it

    def signal(self, number: int) -> None:
        """Send a signal to all processes."""
        for pid in self.pids:
            os.kill(pid, number)

    def window(self, seconds: float) -> float:
        """Let the processes run for a window or until each has a figure; return the sum of their speeds.

        Args:
            seconds: Length of the window.
        """
        found: list[list[float]] = [[] for _ in self.speeds]
        for speeds in self.speeds:
            speeds()
        self.signal(signal.SIGCONT)
        end = time.monotonic() + seconds
        while time.monotonic() < end or min(map(len, found)) <= self.stale:
            time.sleep(0.1)
            for each, speeds in zip(found, self.speeds, strict=True):
                each += speeds()
        self.signal(signal.SIGSTOP)
        return sum(statistics.median(each[self.stale :]) for each in found)

    def peak_gib(self) -> float:
        """Return the highest peak memory of the processes, in GiB."""
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in self.pids]
        return max(int(text.split("VmHWM:")[1].split()[0]) for text in texts) / 2**20


def run_loop(kind: str, name: str, size: int, threads: int, speeds: Any) -> None:
    """Run a loop without end in a process of its own, and put the speed of each pass into ``speeds``.

    Args:
        kind: "bare" or "tutorial".
        name: Name of the model.
        size: Side of the images, in pixels.
        threads: Threads of the process.
        speeds: Queue that receives images per second.
    """
    torch.set_num_threads(threads)
    settings = epoch.settings_of(name, size).model_copy(update={"limit": CASES[name, size]})
    split = datasets.load_dataset(settings, Path()).train
    if kind == "bare":
        precision.keep_freed_memory()
        ways = [
            epoch.bare_window(settings, split, ComputeSettings(memory_format=each))
            for each in precision.MEMORY_FORMATS
        ]
        run = max(ways, key=lambda way: max(way() for _ in range(2)))
        del ways
    else:
        run = epoch.tutorial_window(settings, split)
    while True:
        speeds.put(run())


@contextlib.contextmanager
def running_loops(kind: str, name: str, size: int, *, processes: int, threads: int) -> Iterator[Peer]:
    """Run a loop in processes, which are killed at the end."""
    context = multiprocessing.get_context("forkserver")  # it imports torch once
    context.set_forkserver_preload(["benchmarks.epoch"])
    queues: list[Any] = [context.SimpleQueue() for _ in range(processes)]
    children = [context.Process(target=run_loop, args=(kind, name, size, threads, each)) for each in queues]
    for child in children:
        child.start()
    try:
        while any(each.empty() for each in queues):  # until all have begun
            if not all(child.is_alive() for child in children):
                raise RuntimeError(f"a process with the {kind} loop has ended")
            time.sleep(0.1)
        pids = [child.pid or 0 for child in children]
        speeds: list[Callable[[], list[float]]] = [functools.partial(_drain, each) for each in queues]
        yield Peer(pids, speeds, stale=1)
    finally:
        for child in children:
            child.kill()
            child.join()


def _drain(queue: Any) -> list[float]:
    found = []
    while not queue.empty():
        found.append(queue.get())
    return found


@contextlib.contextmanager
def running_study(name: str, size: int) -> Iterator[Peer]:
    """Run a study with ``hpo run`` and a worker per core."""
    with tempfile.TemporaryDirectory() as folder:
        text = STUDY.format(model=name, size=size, limit=CASES[name, size], batch=epoch.BATCH)
        Path(folder, "study.toml").write_text(text)
        command = [sys.executable, "-m", "hpo", "run", "study.toml", "--devices", f"cpu:{WORKERS}"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
        with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL) as launcher:
            # The first checkpoint is made at once, to measure what one costs. Later ones are rare.
            while len(list(Path(folder).rglob("checkpoint-*.pt"))) < WORKERS:
                if launcher.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} ended with code {launcher.returncode}")
                time.sleep(0.1)
            curves = list(Path(folder).rglob("epochs.csv"))
            children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
            speeds = [EpochFile(each).read_new for each in curves]
            peer = Peer([int(pid) for pid in children.split()], speeds, stale=2)  # one row is written late
            try:
                yield peer
            finally:
                launcher.kill()
                for number in (signal.SIGCONT, signal.SIGKILL):
                    peer.signal(number)


class EpochFile:
    """The file with a trial's epochs, read while it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen = 0

    def read_new(self) -> list[float]:
        """Return the images per second of the training part of each new epoch."""
        with self.path.open() as file:
            rows = list(csv.DictReader(file))[self.seen :]
        self.seen += len(rows)
        return [float(row["images_per_second"]) for row in rows]


def measure(
    name: str, size: int, windows: int, seconds: float
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return each peer's images per second in each window, and its peak memory in GiB.

    Args:
        name: Name of the model.
        size: Side of the images, in pixels.
        windows: Windows of each peer.
        seconds: Length of a window, at least.
    """
    ways = {
        "hpo": running_study(name, size),
        "bare": running_loops("bare", name, size, processes=WORKERS, threads=1),
        "tutorial": running_loops("tutorial", name, size, processes=1, threads=WORKERS),
    }
    with contextlib.ExitStack() as stack:
        peers = {}
        for kind, way in ways.items():
            peers[kind] = stack.enter_context(way)
            peers[kind].signal(signal.SIGSTOP)
        speeds: dict[str, list[float]] = {kind: [] for kind in peers}
        for _ in range(windows):
            for kind, peer in peers.items():
                speeds[kind].append(peer.window(seconds))
        return speeds, {kind: peer.peak_gib() for kind, peer in peers.items()}


def main() -> None:
    """Measure all cases, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--windows", type=int, default=5, help="windows of each peer, which alternate")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a window, at least")
    given = parser.parse_args()
    names = ("case", "two bare, images/s", "hpo / bare", "bare / tutorial", "GiB: hpo, bare, tutorial")
    table, rows = Table(*names, box=None), []
    for name, size in CASES:
        speeds, memory = measure(name, size, given.windows, given.seconds)
        middle = {peer: statistics.median(each) for peer, each in speeds.items()}
        ratios = {
            "hpo/bare": middle["hpo"] / middle["bare"],
            "bare/tutorial": middle["bare"] / middle["tutorial"],
        }
        spread = f"{middle['bare']:.1f} ({min(speeds['bare']):.1f} to {max(speeds['bare']):.1f})"
        gib = ", ".join(f"{each:.2f}" for each in memory.values())
        table.add_row(f"{name} at {size}", spread, *(f"{ratio:.2f}" for ratio in ratios.values()), gib)
        rows.append(
            {
                "model": name,
                "image_size": size,
                "images_per_second": speeds,
                "ratios": ratios,
                "gib": memory,
            }
        )
    Console(width=100).print(table)
    print(json.dumps({"benchmark": "packing", "windows": given.windows, "rows": rows}))


if __name__ == "__main__":
    main()
