"""Compare training on a folder of JPEGs with a bare step and with torchvision's ImageFolder, as ratios.

- *bare*: forward, backward and optimizer step of hpo on one batch that is in memory already: the limit
- *ImageFolder*: torchvision's, with resize and centre crop, in a DataLoader with two worker processes that
  stay alive, and the training loop of PyTorch's transfer-learning tutorial
- *same step*: the same loader with the bare step instead
- *hpo*: what its worker does; the first epoch includes decoding all files into the cache

All train ResNet18 in batches of 16 with as many threads as there are cores. JPEGs have 500 x 375 pixels and
about 115 kB; all but the first 500 are links to these. *Later epochs* are windows of steps from the middle
of an epoch over all files. The *first epoch* is a whole one over fewer files, with an empty cache and new
loader processes. Windows of all peers alternate; figures are medians of the ratios, with their range.

``--memory`` compares memory instead: the proportional set size (shared pages are divided among the
processes that share them) of one and of four processes, each with its own loader processes, and that of one
process with more files of 64 x 64 pixels. *random* is hpo with a single random batch. *hpo* also
reads the images of a whole epoch, without steps.

Run it with ``make bench``, or ``python -m benchmarks.pictures``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets as torchvision_datasets
from torchvision import transforms

from hpo.artifacts.folders import Artifacts
from hpo.training import batches, datasets, loop, models, optimizers, parameter_groups, precision
from hpo.training.config import Config
from hpo.training.devices import core_count
from hpo.training.precision import ComputeSettings
from hpo.training.transforms import normalise
from hpo.workers.cache import WorkerCache

CPU = torch.device("cpu")
CLASSES, DISTINCT, LOADERS = 4, 500, 2
JPEG_SIZE = (500, 375)
MEMORY_STEPS = 10
MEMORY_FILES = (20_000, 100_000)

MemoryFormat = Literal["auto", "contiguous", "channels_last"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """An image size, and how much is measured."""

    image_size: int
    batch_size: int
    files: int
    window_steps: int
    first_files: int  # of a first epoch


CASES = (
    Case(image_size=64, batch_size=16, files=20_000, window_steps=60, first_files=2_000),
    Case(image_size=224, batch_size=16, files=500, window_steps=8, first_files=160),
)


def write_jpegs(folder: Path, count: int, size: tuple[int, int] = JPEG_SIZE) -> Path:
    """Write class folders with smooth, slightly noisy pictures; the later files are links to the first."""
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"class{index % CLASSES}" / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index >= DISTINCT:
            first = index % DISTINCT
            os.link(folder / f"class{first % CLASSES}" / f"{first:06d}.jpg", path)
            continue
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(size)
        noise = rng.integers(-20, 21, (size[1], size[0], 1))
        pixels = (np.asarray(coarse).astype(int) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=95)
    return folder


def settings_of(case: Case, folder: Path, memory_format: MemoryFormat = "channels_last") -> Config:
    """Return the settings that all peers train with."""
    return Config(
        dataset=f"folder:{folder}",
        image_size=case.image_size,
        weights="none",
        batch_size=case.batch_size,
        epochs=1000,  # so long that measuring the memory formats is worth it
        memory_format=memory_format,
    )


def build_run(cache: WorkerCache, settings: Config, dataset: datasets.Dataset) -> loop.TrainingRun:
    """Return a run as a worker builds it; its epochs also yield after each step."""
    return loop.TrainingRun(
        settings,
        dataset,
        CPU,
        compute_settings=ComputeSettings(memory_format=settings.memory_format),
        build_model=cache.templates.build_seeded,
        wants_pause=lambda: True,
    )


def start_hpo(settings: Config, artifacts: Path) -> Iterator[object]:
    """Yield after each step, and after each epoch."""
    cache = WorkerCache(artifacts, Artifacts(str(artifacts)), CPU)
    return build_run(cache, settings, cache.load_dataset(settings)).epochs()


def start_measured(folder: Path, artifacts: Path, *, has_files: bool) -> Iterator[object]:
    """Read the images of an epoch, if there are files; then yield after each step.

    Without files, a single random batch is trained on.
    """
    case = CASES[0]
    settings, cache = settings_of(case, folder), WorkerCache(folder, Artifacts(str(artifacts)), CPU)
    batch = batches.Split(images=random_images(settings), labels=torch.arange(case.batch_size) % CLASSES)
    names = tuple(map(str, range(CLASSES)))
    images = datasets.Dataset(name="random", classes=names, train=batch, valid=batch, test=batch)
    if has_files:
        images = cache.load_dataset(settings)
        parts = [slice(*bounds) for bounds in batches.batch_bounds(len(images.train), case.batch_size)]
        for images_NCHW, _ in batches.read_batches(images.train, parts, CPU):
            images_NCHW.sum()
    return build_run(cache, settings, images).epochs()


def random_images(settings: Config) -> Tensor:
    """Return a batch of random images, uint8 [N, 3, S, S]."""
    size = (settings.batch_size, 3, settings.image_size, settings.image_size)
    return torch.randint(0, 256, size, dtype=torch.uint8)


class Training:
    """A model with its optimizer, as the peers of hpo use it."""

    def __init__(self, settings: Config) -> None:
        how = ComputeSettings(memory_format=settings.memory_format)
        self.module = how.prepare_model(models.build_model(settings, CLASSES))
        groups = parameter_groups.group_parameters(self.module, settings)
        self.optimizer = optimizers.build_optimizer(settings, groups)
        self.loss = optimizers.loss_function(settings)
        self.prepare = how.prepare_batch

    def step(self, inputs_NCHW: Tensor, labels_N: Tensor) -> None:
        """Make one step with normalised images."""
        self.optimizer.zero_grad()
        loss = self.loss(self.module(self.prepare(inputs_NCHW)), labels_N)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has not annotated it
        self.optimizer.step()


def start_bare(settings: Config) -> Iterator[object]:
    """Yield after each step on one batch."""
    training = Training(settings)
    inputs_NCHW = training.prepare(normalise(random_images(settings)))
    labels_N = torch.arange(settings.batch_size) % CLASSES
    while True:
        training.step(inputs_NCHW, labels_N)
        yield None


class TutorialTraining:
    """A model and a step as in PyTorch's transfer-learning tutorial."""

    def __init__(self, settings: Config) -> None:
        self.module, self.loss = models.build_model(settings, CLASSES), torch.nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(
            self.module.parameters(), lr=settings.lr, momentum=settings.momentum
        )
        self.total, self.correct = 0.0, 0

    def step(self, inputs_NCHW: Tensor, labels_N: Tensor) -> None:
        """Make one step with normalised images."""
        self.optimizer.zero_grad()
        outputs_NK = self.module(inputs_NCHW)
        loss = self.loss(outputs_NK, labels_N)
        loss.backward()
        self.optimizer.step()
        self.total += loss.item() * len(labels_N)
        self.correct += int((outputs_NK.argmax(1) == labels_N).sum().item())


def start_loader(settings: Config, training: Training | TutorialTraining) -> Iterator[object]:
    """Yield after each step on images that a DataLoader's processes decode."""
    transform = transforms.Compose(
        [
            transforms.Resize(settings.image_size),
            transforms.CenterCrop(settings.image_size),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    images = torchvision_datasets.ImageFolder(settings.dataset.removeprefix("folder:"), transform)
    loader = DataLoader(
        images, settings.batch_size, shuffle=True, num_workers=LOADERS, persistent_workers=True
    )
    while True:
        for inputs_NCHW, labels_N in loader:
            training.step(inputs_NCHW, labels_N)
            yield None


def choose_memory_format(case: Case, folder: Path, artifacts: Path) -> Config:
    """Return the settings of a case with the memory format that a worker measures and chooses."""
    cache = WorkerCache(artifacts, Artifacts(str(artifacts)), CPU)
    chosen = cache.choose_memory_format(settings_of(case, folder, "auto"), "fp32")
    return settings_of(case, folder).model_copy(update={"memory_format": chosen})


def later_epochs(case: Case, folder: Path, pairs: int, scratch: Path) -> dict[str, list[float]]:
    """Return images per second of each peer in each window, after one window to warm up."""
    settings = choose_memory_format(case, write_jpegs(folder, case.files), scratch)
    peers = {
        "hpo": start_hpo(settings, scratch),
        "bare": start_bare(settings),
        "ImageFolder": start_loader(settings, TutorialTraining(settings)),
        "same step": start_loader(settings, Training(settings)),
    }
    speeds: dict[str, list[float]] = {name: [] for name in peers}
    for window in range(pairs + 1):
        for name, steps in peers.items():
            started = time.perf_counter()
            for _ in range(case.window_steps):
                next(steps)
            if window:
                images = case.window_steps * case.batch_size
                speeds[name].append(images / (time.perf_counter() - started))
    return speeds


def first_epochs(case: Case, folder: Path, pairs: int, scratch: Path) -> dict[str, list[float]]:
    """Return images per second of each peer's first epoch, with its start."""
    settings = choose_memory_format(case, write_jpegs(folder, case.first_files), scratch)
    steps = (
        round(0.8 * case.first_files) // case.batch_size
    )  # a tenth each is held out for validation and test
    starts: dict[str, Callable[[int], Iterator[object]]] = {
        "hpo": lambda pair: start_hpo(settings, scratch / f"pair{pair}"),
        "ImageFolder": lambda pair: start_loader(settings, TutorialTraining(settings)),
    }
    speeds: dict[str, list[float]] = {name: [] for name in starts}
    for pair in range(pairs):
        for name, start in starts.items():
            started = time.perf_counter()
            running = start(pair)
            for _ in range(steps):
                next(running)
            speeds[name].append(steps * case.batch_size / (time.perf_counter() - started))
            del running
    return speeds


def compare_speed(pairs: int) -> list[dict[str, object]]:
    """Measure all cases, print a table and return its rows."""
    torch.set_num_threads(core_count())
    precision.keep_freed_memory()
    peers = ("bare", "ImageFolder", "same step")
    names = ("case", "epoch", "hpo, images/s", *(f"hpo / {peer}" for peer in peers))
    table, rows = Table(*names, box=None), []
    for case in CASES:
        with tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            for epoch, measure in (("first", first_epochs), ("later", later_epochs)):
                speeds = measure(case, scratch / epoch, pairs, scratch / f"artifacts-{epoch}")
                ratios = {
                    peer: median_ratio(speeds["hpo"], speeds[peer]) for peer in speeds if peer != "hpo"
                }
                texts = {
                    peer: f"{m:.2f} ({low:.2f} to {high:.2f})" for peer, (m, low, high) in ratios.items()
                }
                case_name = f"{case.image_size} px"
                speed = f"{statistics.median(speeds['hpo']):.0f}"
                table.add_row(case_name, epoch, speed, *(texts.get(peer, "") for peer in peers))
                rows.append(
                    {
                        "image_size": case.image_size,
                        "batch_size": case.batch_size,
                        "epoch": epoch,
                        "images_per_second": speeds,
                        "hpo_to": {peer: each[0] for peer, each in ratios.items()},
                    }
                )
    Console(width=120).print(table)
    return rows


def median_ratio(these: list[float], others: list[float]) -> tuple[float, float, float]:
    """Return the median of the ratios of windows that were measured together, and their range."""
    ratios = [one / other for one, other in zip(these, others, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def be_measured(peer: str, folder: Path, artifacts: Path) -> None:
    """Make some steps, say so, and wait until the standard input ends."""
    torch.set_num_threads(1)
    precision.keep_freed_memory()
    settings = settings_of(CASES[0], folder)
    starts = {
        "random": lambda: start_measured(folder, artifacts, has_files=False),
        "hpo": lambda: start_measured(folder, artifacts, has_files=True),
        "ImageFolder": lambda: start_loader(settings, TutorialTraining(settings)),
    }
    running = starts[peer]()
    for _ in range(MEMORY_STEPS):
        next(running)
    print("ready", flush=True)
    sys.stdin.read()


def proportional_gib(peer: str, processes: int, folder: Path, artifacts: Path) -> float:
    """Return the memory of processes that make steps at the same time, with their children."""
    command = [sys.executable, "-m", "benchmarks.pictures", "--measured", peer]
    command += ["--folder", str(folder), "--artifacts", str(artifacts)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    everyone = [psutil.Process(each.pid) for each in running]
    everyone += [child for each in everyone for child in each.children(recursive=True)]
    used = sum(each.memory_full_info().pss for each in everyone)
    for process in running:
        process.communicate()
    return float(used) / 2**30


def compare_memory(repeats: int) -> list[dict[str, object]]:
    """Measure memory, print tables of medians and return their rows."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        large, artifacts = write_jpegs(Path(name, "large"), CASES[0].files), Path(name, "artifacts")
        table = Table("20,000 files at 64 px, GiB", "one process", "four processes", box=None)
        used = {
            (peer, count): [proportional_gib(peer, count, large, artifacts) for _ in range(repeats)]
            for peer in ("random", "hpo", "ImageFolder")
            for count in (1, 4)
        }
        for peer in ("random", "hpo", "ImageFolder"):
            one, four = used[peer, 1], used[peer, 4]
            table.add_row(peer, *(f"{statistics.median(each):.3f}" for each in (one, four)))
            rows.append({"peer": peer, "one_gib": one, "four_gib": four})
        added = [statistics.median(used["hpo", n]) - statistics.median(used["random", n]) for n in (1, 4)]
        table.add_row("hpo less random", *(f"{each:.3f}" for each in added))
        Console(width=100).print(table)
        table = Table("files of 64 x 64 pixels", "hpo, one process, GiB", box=None)
        for files in MEMORY_FILES:
            small = write_jpegs(Path(name, str(files)), files, (64, 64))
            sizes = [proportional_gib("hpo", 1, small, artifacts) for _ in range(repeats)]
            table.add_row(f"{files:,}", f"{statistics.median(sizes):.3f}")
            rows.append({"peer": "hpo", "files": files, "one_gib": sizes})
        Console(width=100).print(table)
    return rows


def main() -> None:
    """Measure, and print tables and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="windows of each peer, or repeats for memory")
    parser.add_argument("--memory", action="store_true", help="compare memory instead of speed")
    for hidden in ("--measured", "--folder", "--artifacts"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measured:
        be_measured(args.measured, Path(args.folder), Path(args.artifacts))
        return
    rows = compare_memory(args.pairs) if args.memory else compare_speed(args.pairs)
    print(json.dumps({"benchmark": "pictures", "memory": args.memory, "rows": rows}))


if __name__ == "__main__":
    main()
