"""Two one-thread workers under one launcher, beside two peers in the same run, and their memory.

- *bare*: two processes of one thread, each with the loop of ``epoch.py``'s bare step, in its better format,
  keeping freed memory as a worker does
- *tutorial*: the tutorial's loop in one process of two threads, as who follows it runs it

All run as processes through the whole case and take turns: while one peer has its window, the others are
stopped by signals. A window's figure is the median speed of what began and ended in it (``hpo``: the
training part of an epoch), summed over the processes. Memory is a process's highest, VmHWM.

Run it with ``make bench``, or ``python -m benchmarks.packing``.
"""

import argparse
import contextlib
import csv
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
# Images of an epoch, so that a window sees some of them whole.
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
    """Processes that run in their windows only, and the images per second of what each did in turn."""

    def __init__(self, pids: list[int], speeds: list[Callable[[], list[float]]], stale: int) -> None:
        self.pids = pids
        self.speeds = speeds  # of each process, since it was last asked
        self.stale = stale  # first figures of a process in a window that are of the time before it

    def signal(self, number: int) -> None:
        """Send all processes a signal."""
        for pid in self.pids:
            os.kill(pid, number)

    def window(self, seconds: float) -> float:
        """Let the processes run for a window, or as long as it takes; give their speeds' sum."""
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

    def gib(self) -> float:
        """Give the highest memory of one of the processes, in GiB."""
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in self.pids]
        return max(int(text.split("VmHWM:")[1].split()[0]) for text in texts) / 2**20


def loop(kind: str, name: str, size: int, threads: int, speeds: Any) -> None:
    """Work for ever in a process of its own, and tell the speed of each pass."""
    torch.set_num_threads(threads)
    settings = epoch.settings_of(name, size).model_copy(update={"limit": CASES[name, size]})
    split = datasets.load_dataset(settings, Path()).train
    if kind == "bare":
        precision.keep_freed_memory()
        ways = [
            epoch.bare(settings, split, ComputeSettings(memory_format=each))
            for each in precision.MEMORY_FORMATS
        ]
        run = max(ways, key=lambda way: max(way() for _ in range(2)))
        del ways
    else:
        run = epoch.tutorial(settings, split)
    while True:
        speeds.put(run())


@contextlib.contextmanager
def looping(kind: str, name: str, size: int, *, processes: int, threads: int) -> Iterator[Peer]:
    """Run a loop in processes."""
    context = multiprocessing.get_context("forkserver")  # one that has imported torch
    context.set_forkserver_preload(["benchmarks.epoch"])
    queues: list[Any] = [context.SimpleQueue() for _ in range(processes)]
    children = [context.Process(target=loop, args=(kind, name, size, threads, each)) for each in queues]
    for child in children:
        child.start()
    try:
        while any(each.empty() for each in queues):  # not all have begun
            if not all(child.is_alive() for child in children):
                raise RuntimeError(f"a process with the {kind} loop has ended")
            time.sleep(0.1)
        pids, speeds = [child.pid or 0 for child in children], [lambda q=q: _drained(q) for q in queues]
        yield Peer(pids, speeds, stale=1)
    finally:
        for child in children:
            child.kill()
            child.join()


def _drained(queue: Any) -> list[float]:
    found = []
    while not queue.empty():
        found.append(queue.get())
    return found


@contextlib.contextmanager
def launched(name: str, size: int) -> Iterator[Peer]:
    """Run a study by ``hpo run`` with a worker per core."""
    with tempfile.TemporaryDirectory() as folder:
        text = STUDY.format(model=name, size=size, limit=CASES[name, size], batch=epoch.BATCH)
        Path(folder, "study.toml").write_text(text)
        command = [sys.executable, "-m", "hpo", "run", "study.toml", "--devices", f"cpu:{WORKERS}"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
        with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL) as launcher:
            # The first checkpoint is made at once, to find out what one costs; others are rare.
            while len(list(Path(folder).rglob("checkpoint-*.pt"))) < WORKERS:
                if launcher.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} ended with code {launcher.returncode}")
                time.sleep(0.1)
            curves = list(Path(folder).rglob("epochs.csv"))
            children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
            speeds = [Curve(each).new for each in curves]
            peer = Peer([int(pid) for pid in children.split()], speeds, stale=2)  # one is written late
            try:
                yield peer
            finally:
                launcher.kill()
                for number in (signal.SIGCONT, signal.SIGKILL):
                    peer.signal(number)


class Curve:
    """A trial's file of epochs, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen = 0

    def new(self) -> list[float]:
        """Give the images per second of the training part of each new epoch."""
        with self.path.open() as file:
            rows = list(csv.DictReader(file))[self.seen :]
        self.seen += len(rows)
        return [float(row["images_per_second"]) for row in rows]


def measure(
    name: str, size: int, windows: int, seconds: float
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Give each peer's images per second in each window, and its memory in GiB."""
    ways = {
        "hpo": launched(name, size),
        "bare": looping("bare", name, size, processes=WORKERS, threads=1),
        "tutorial": looping("tutorial", name, size, processes=1, threads=WORKERS),
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
        return speeds, {kind: peer.gib() for kind, peer in peers.items()}


def main() -> None:
    """Measure all cases; print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--windows", type=int, default=5, help="interleaved windows of each peer")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a window, at least")
    given = parser.parse_args()
    names = ("case", "bare pair, images/s", "hpo / bare", "bare / tutorial", "GiB: hpo, bare, tutorial")
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
