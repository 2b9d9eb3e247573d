"""The training part of an epoch, beside two peers in the same run, as ratios.

- *bare*: forward, backward and optimizer step on one batch that lies on the device already
- *tutorial*: the loop of PyTorch's transfer-learning tutorial: PIL transforms, DataLoader, ``.item()``

Windows of the three are interleaved, since shared machines swing by a third from minute to minute;
figures are medians over the windows, with their range. Run it with ``make bench``, or
``python -m benchmarks.epoch``.
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

from hpo import data, images, model, optimizer, train
from hpo.config import Config

CASES = (("resnet18", 32), ("resnet18", 64), ("alexnet", 64), ("vgg16", 32))
BATCH = 16
PER_WINDOW = {"vgg16": 64}  # images; 160 for the others


class Pictures(torch_data.Dataset):
    """A split as PIL images, transformed one by one."""

    def __init__(self, split: data.Split, size: int) -> None:
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


def peers(settings: Config, split: data.Split) -> dict[str, Callable[[], float]]:
    """Give each peer as a function that trains one window and gives its images per second."""
    run = train.Run(
        settings,
        data.Dataset(name="digits", classes=tuple("0123456789"), train=split, test=split),
        torch.device("cpu"),
    )
    return {
        "bare": _bare(settings, split),
        "hpo": lambda: _hpo(run),
        "tutorial": _tutorial(settings, split),
    }


def _hpo(run: train.Run) -> float:
    for _ in run._train_epoch():
        pass
    speed = len(run.train) / run.seconds
    run.step, run.seconds = 0, 0.0
    return speed


def _bare(settings: Config, split: data.Split) -> Callable[[], float]:
    module = model.build(settings, 10)
    updates, loss = optimizer.build(settings, module.parameters()), optimizer.loss(settings)
    inputs = images.normalise(images.resize(split.images[:BATCH], settings.image_size))
    labels = split.labels[:BATCH]

    def window() -> float:
        module.train()
        started = time.perf_counter()
        for _ in range(len(split) // BATCH):
            updates.zero_grad()
            loss(module(inputs), labels).backward()
            updates.step()
        return len(split) // BATCH * BATCH / (time.perf_counter() - started)

    return window


def _tutorial(settings: Config, split: data.Split) -> Callable[[], float]:
    module = model.build(settings, 10)
    updates, loss = optimizer.build(settings, module.parameters()), optimizer.loss(settings)
    loader = torch_data.DataLoader(Pictures(split, settings.image_size), BATCH, shuffle=True)

    def window() -> float:
        module.train()
        total, correct, started = 0.0, 0, time.perf_counter()
        for inputs, labels in loader:
            updates.zero_grad()
            outputs = module(inputs)
            value = loss(outputs, labels)
            value.backward()
            updates.step()
            total += value.item() * len(labels)
            correct += int((outputs.argmax(1) == labels).sum().item())
        return len(split) / (time.perf_counter() - started)

    return window


def measure(name: str, size: int, windows: int) -> dict[str, list[float]]:
    """Give each peer's images per second in each window, after one to warm up."""
    settings = Config(
        dataset="digits",
        model=name,
        image_size=size,
        weights="none",
        limit=PER_WINDOW.get(name, 160),
        batch_size=BATCH,
    )
    with tempfile.TemporaryDirectory() as folder:
        split = data.load(settings, Path(folder)).train
    given = peers(settings, split)
    speeds: dict[str, list[float]] = {peer: [] for peer in given}
    for window in range(windows + 1):
        for peer, run in given.items():
            speed = run()
            if window:
                speeds[peer].append(speed)
    return speeds


def main() -> None:
    """Measure all cases; print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--windows", type=int, default=5, help="interleaved windows of each peer")
    windows = parser.parse_args().windows
    torch.set_num_threads(1)
    table = Table("case", "bare, images/s", "hpo / bare", "tutorial / bare", "hpo / tutorial", box=None)
    rows = []
    for name, size in CASES:
        speeds = measure(name, size, windows)
        middle = {peer: statistics.median(each) for peer, each in speeds.items()}
        ratios = {
            "hpo/bare": middle["hpo"] / middle["bare"],
            "tutorial/bare": middle["tutorial"] / middle["bare"],
            "hpo/tutorial": middle["hpo"] / middle["tutorial"],
        }
        spread = f"{middle['bare']:.1f} ({min(speeds['bare']):.1f} to {max(speeds['bare']):.1f})"
        table.add_row(f"{name} at {size}", spread, *(f"{ratio:.2f}" for ratio in ratios.values()))
        rows.append({"model": name, "image_size": size, "images_per_second": speeds, "ratios": ratios})
    Console().print(table)
    print(json.dumps({"benchmark": "epoch", "batch_size": BATCH, "windows": windows, "rows": rows}))


if __name__ == "__main__":
    main()
