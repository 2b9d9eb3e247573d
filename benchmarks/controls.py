"""Compare a training step that has one control of fine-tuning with the bare step, as ratios.

The bare step is hpo's own without the control, of the same model on the same images. Windows of all
alternate, because the speed of shared machines varies; a ratio is that of two windows that follow each
other closely. Figures are medians over the windows, with their range. ``layer_decay`` alone makes ten
groups of parameters of ResNet18, with ``decay_norms`` twenty. With ``freeze_epochs`` it is the step of a
frozen epoch.

Run it with ``make bench``, or ``python -m benchmarks.controls``.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from hpo.training import batches, datasets, loop
from hpo.training.config import Config

CPU = torch.device("cpu")
BATCH, CLASSES = 16, 10
MODELS = {"resnet18": 32, "convnext_tiny": 32}  # pixels

# What is measured -> the model, and the options
CASES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "clip_grad_norm": ("resnet18", {"clip_grad_norm": 1.0}),
    "accumulate_steps": ("resnet18", {"accumulate_steps": 4}),
    "ema_decay": ("resnet18", {"ema_decay": 0.99}),
    "head_lr_multiplier": ("resnet18", {"head_lr_multiplier": 10.0}),
    "decay_norms": ("resnet18", {"decay_norms": False, "weight_decay": 0.01}),
    "layer_decay": ("resnet18", {"layer_decay": 0.75}),
    "layer_decay, decay_norms": (
        "resnet18",
        {"layer_decay": 0.75, "decay_norms": False, "weight_decay": 0.01},
    ),
    "freeze_epochs": ("resnet18", {"freeze_epochs": 1000}),
    "drop_path": ("convnext_tiny", {"drop_path": 0.2}),
}


def step_seconds(model: str, steps: int, options: Mapping[str, Any]) -> Iterator[float]:
    """Yield the seconds of a training step, the mean of a window of ``steps``; one window is warm-up."""
    size = MODELS[model]
    settings = Config(
        model=model, weights="none", image_size=size, batch_size=BATCH, epochs=100_000, **options
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (steps * BATCH, 3, size, size), dtype=torch.uint8, generator=generator)
    train = batches.Split(images=images, labels=torch.arange(len(images)) % CLASSES)
    few = batches.Split(images=images[:BATCH], labels=train.labels[:BATCH])
    dataset = datasets.Dataset(
        name="x", classes=tuple(map(str, range(CLASSES))), train=train, valid=few, test=few
    )
    epochs = loop.TrainingRun(settings, dataset, CPU).epochs()
    next(epochs)
    for epoch in epochs:
        assert epoch is not None
        yield epoch.train_seconds / steps


def measure(windows: int, steps: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return the median seconds of a bare step by model, and the ratios of each case to it."""
    bare = {model: step_seconds(model, steps, {}) for model in MODELS}
    runs = {case: step_seconds(model, steps, options) for case, (model, options) in CASES.items()}
    seconds: dict[str, list[float]] = {model: [] for model in MODELS}
    ratios: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(windows):
        for case, (model, _) in CASES.items():
            seconds[model].append(next(bare[model]))
            ratios[case].append(next(runs[case]) / seconds[model][-1])
    return {model: statistics.median(found) for model, found in seconds.items()}, ratios


def main() -> None:
    """Measure all controls, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--windows", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="steps of a window")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seconds, ratios = measure(given.windows, given.steps)
    table = Table(title=f"a step with a control, by the bare step (median of {given.windows} windows)")
    for name in ("control", "model", "bare ms", "ratio", "range"):
        table.add_column(name, justify="left" if name in ("control", "model") else "right")
    for case, found in ratios.items():
        model, _ = CASES[case]
        table.add_row(
            *(case, model, f"{1000 * seconds[model]:.1f}", f"{statistics.median(found):.3f}"),
            f"{min(found):.2f} to {max(found):.2f}",
        )
    Console(width=100).print(table)
    medians = {case: round(statistics.median(found), 4) for case, found in ratios.items()}
    print(json.dumps({"benchmark": "controls", "windows": given.windows, "ratios": medians}))


if __name__ == "__main__":
    main()
