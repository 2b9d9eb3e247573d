"""Compare an epoch with two peers in the same run, as ratios.

- *bare*: forward, backward and optimizer step on one batch that is on the device already, with torch's
  fused optimizer, in the faster one of the two memory formats
- *tutorial*: the loop of PyTorch's transfer-learning tutorial: PIL transforms, DataLoader, ``.item()``

``hpo`` trains in the format that it measures and chooses itself. Windows of all peers alternate, because
the speed of shared machines varies by a third from minute to minute. Figures are medians over the
windows, with their range. The last column compares evaluation, per image, with a bare forward pass in
batches of the same size.

Run it with ``make bench``, or ``python -m benchmarks.epoch``.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils import data as torch_data
from torchvision import transforms

from hpo.artifacts.folders import Artifacts
from hpo.training import batches, loop, models, optimizers, parameter_groups, precision
from hpo.training.config import Config
from hpo.training.precision import ComputeSettings
from hpo.training.transforms import normalise, resize
from hpo.workers.cache import WorkerCache

CPU = torch.device("cpu")
BATCH = 16
CASES = {  # images per window: half a second of them, or a single batch that takes a second
    ("resnet18", 32): 64,
    ("resnet18", 64): 32,
    ("resnet18", 224): 16,
    ("alexnet", 64): 16,
    ("alexnet", 224): 16,
    ("vgg16", 32): 16,
}

Peers = dict[str, Callable[[], float]]


class Pictures(torch_data.Dataset[tuple[torch.Tensor, int]]):
    """A split as PIL images, transformed one by one."""

    def __init__(self, split: batches.Split, size: int) -> None:
        self.pictures = [Image.fromarray(i.squeeze(0).numpy()).convert("RGB") for i in split.images]
        self.labels = split.labels
        self.transform = transforms.Compose(
            [
                transforms.Resize((size, size)),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pictures[index]), int(self.labels[index])


def settings_of(name: str, size: int) -> Config:
    """Return the settings of a case, with as many images as a window has."""
    return Config(
        dataset="digits",
        model=name,
        image_size=size,
        weights="none",
        limit=CASES[name, size],
        batch_size=BATCH,
        epochs=1000,  # so long that measuring the memory formats is worth it
    )


def peers(settings: Config, folder: Path) -> Peers:
    """Return each peer as a function that runs one window and returns its images per second."""
    cache = WorkerCache(folder, Artifacts(str(folder / "artifacts")), CPU)
    dataset = cache.load_dataset(settings)
    how = ComputeSettings(memory_format=cache.choose_memory_format(settings, "fp32"))
    run = loop.TrainingRun(
        settings, dataset, CPU, compute_settings=how, build_model=cache.templates.build_seeded
    )
    split = dataset.train
    return {
        **{
            f"bare, {name}": bare_window(settings, split, ComputeSettings(memory_format=name))
            for name in precision.MEMORY_FORMATS
        },
        "hpo": _hpo(run),
        "tutorial": tutorial_window(settings, split),
        "forward": _forward(run, preprocess(settings, split.images, how)),
        "evaluation": lambda: _evaluation(run, split),
    }


def preprocess(settings: Config, images_NCHW: torch.Tensor, how: ComputeSettings) -> torch.Tensor:
    """Return a model's input, as training prepares it."""
    return normalise(how.prepare_batch(resize(images_NCHW, settings.image_size)))


def _hpo(run: loop.TrainingRun) -> Callable[[], float]:
    epochs = run.epochs()

    def window() -> float:
        epoch = next(epochs)
        assert epoch is not None  # there are no pauses
        assert epoch.images_per_second is not None
        return epoch.images_per_second  # of training alone

    return window


def _evaluation(run: loop.TrainingRun, split: batches.Split) -> float:
    started = time.perf_counter()
    run.evaluate(split)
    return len(split) / (time.perf_counter() - started)


def _forward(run: loop.TrainingRun, inputs: torch.Tensor) -> Callable[[], float]:
    def window() -> float:
        run.model.eval()
        started = time.perf_counter()
        with torch.inference_mode():
            run.model(inputs)
        return len(inputs) / (time.perf_counter() - started)

    return window


def bare_window(settings: Config, split: batches.Split, how: ComputeSettings) -> Callable[[], float]:
    """Return a function that repeats a step on one batch, as often as a split has steps.

    It returns images per second.
    """
    module = how.prepare_model(models.build_model(settings, 10))
    updates, loss = (
        optimizers.build_optimizer(settings, parameter_groups.group_parameters(module, settings)),
        optimizers.loss_function(settings),
    )
    inputs = preprocess(settings, split.images[:BATCH], how)
    labels = split.labels[:BATCH]

    def window() -> float:
        module.train()
        started = time.perf_counter()
        for _ in range(len(split) // BATCH):
            updates.zero_grad()
            loss(module(inputs), labels).backward()  # type: ignore[no-untyped-call]  # torch has not annotated it
            updates.step()
        return len(split) // BATCH * BATCH / (time.perf_counter() - started)

    return window


def tutorial_window(settings: Config, split: batches.Split) -> Callable[[], float]:
    """Return a function that trains on a split once and returns images per second."""
    module, loss = models.build_model(settings, 10), optimizers.loss_function(settings)
    updates = torch.optim.SGD(module.parameters(), lr=settings.lr, momentum=settings.momentum)
    loader = torch_data.DataLoader(Pictures(split, settings.image_size), BATCH, shuffle=True)

    def window() -> float:
        module.train()
        total, correct, started = 0.0, 0, time.perf_counter()
        for inputs, labels in loader:
            updates.zero_grad()
            outputs = module(inputs)
            value = loss(outputs, labels)
            value.backward()  # type: ignore[no-untyped-call]  # nor this
            updates.step()
            total += value.item() * len(labels)
            correct += int((outputs.argmax(1) == labels).sum().item())
        return len(split) / (time.perf_counter() - started)

    return window


def measure(name: str, size: int, windows: int) -> dict[str, list[float]]:
    """Return the images per second of each peer in each window, after one window to warm up."""
    with tempfile.TemporaryDirectory() as folder:
        given = peers(settings_of(name, size), Path(folder))
    speeds: dict[str, list[float]] = {peer: [] for peer in given}
    for window in range(windows + 1):
        for peer, run in given.items():
            speed = run()
            if window:
                speeds[peer].append(speed)
    return speeds


def main() -> None:
    """Measure all cases, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--windows", type=int, default=5, help="windows of each peer, which alternate")
    windows = parser.parse_args().windows
    torch.set_num_threads(1)
    precision.keep_freed_memory()  # for all peers, because they share a process
    names = ("case", "best bare, images/s", "hpo / bare", "tutorial / bare", "evaluation / forward")
    table, rows = Table(*names, box=None), []
    for name, size in CASES:
        speeds = measure(name, size, windows)
        middle = {peer: statistics.median(each) for peer, each in speeds.items()}
        best = max((f"bare, {each}" for each in precision.MEMORY_FORMATS), key=middle.__getitem__)
        ratios = {
            "hpo/bare": middle["hpo"] / middle[best],
            "tutorial/bare": middle["tutorial"] / middle[best],
            "evaluation/forward": middle["evaluation"] / middle["forward"],
        }
        spread = f"{middle[best]:.1f} ({min(speeds[best]):.1f} to {max(speeds[best]):.1f})"
        table.add_row(f"{name} at {size}", spread, *(f"{ratio:.2f}" for ratio in ratios.values()))
        rows.append({"model": name, "image_size": size, "images_per_second": speeds, "ratios": ratios})
    Console(width=100).print(table)
    print(json.dumps({"benchmark": "epoch", "batch_size": BATCH, "windows": windows, "rows": rows}))


if __name__ == "__main__":
    main()
