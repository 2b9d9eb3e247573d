"""Compare the time of each augmentation of a batch with a training step, and with torchvision's transforms.

- *hpo*: one option alone, on a batch in memory, on one thread: the median of 30 batches.
- *step*: a whole training step of ResNet18 at 224 pixels without augmentation, on the same thread: the
  median. Steps are made between the options, because the speed of shared machines varies.
- *torchvision*: the transform of the same name for one PIL image at a time, in a ``DataLoader`` with two
  worker processes; mixup (on floats, as it wants) and CutMix on its batches. The mean time of 30 batches,
  without a training step that would compete for the cores. "none" is what such a loader costs anyway.

Images have 224 pixels; those of ``resized_crop`` have 336, as image files have then. Run it with ``make
bench``, or ``python -m benchmarks.augmentation``.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import v2

from hpo.training import augmentation, batches, datasets, image_files, loop, mixing
from hpo.training.config import Config

CPU = torch.device("cpu")
SIZE, LARGE_SIZE, BATCH, CLASSES = 224, round(224 * image_files.TRAINING_SCALE), 16, 10
Pair = tuple[Tensor, Tensor]

# Option and value -> torchvision's transform of an image, or of a batch
CASES: dict[tuple[str, str | float], v2.Transform] = {
    ("augmentation", "flip"): v2.RandomHorizontalFlip(),
    ("augmentation", "crop+flip"): v2.Compose(
        [v2.RandomCrop(SIZE, padding=SIZE // 8), v2.RandomHorizontalFlip()]
    ),
    ("augmentation", "resized_crop"): v2.Compose(
        [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()]
    ),
    ("auto_augment", "randaugment"): v2.RandAugment(),
    ("auto_augment", "trivialaugment"): v2.TrivialAugmentWide(),
    ("random_erasing", 1.0): v2.Compose([v2.PILToTensor(), v2.RandomErasing(1.0)]),
    ("mixup_alpha", 0.2): v2.MixUp(alpha=0.2, num_classes=CLASSES),
    ("cutmix_alpha", 1.0): v2.CutMix(alpha=1.0, num_classes=CLASSES),
}


def random_images(count: int, size: int) -> Tensor:
    """Return images uint8 [N, 3, S, S] with structure at several scales."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return (255 * smooth).to(torch.uint8)


class Pictures(Dataset[Pair]):
    """PIL images in memory, each with a transform of its own."""

    def __init__(
        self, images_NCHW: Tensor, transform: Callable[[Image.Image], object] | None, count: int
    ) -> None:
        self.count = count
        self.pictures = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in images_NCHW]
        self.transform = transform

    def __len__(self) -> int:
        """Return how many images are drawn."""
        return self.count

    def __getitem__(self, index: int) -> Pair:
        """Return an image as a tensor, and a label."""
        picture: object = self.pictures[index % len(self.pictures)]
        if self.transform is not None:
            picture = self.transform(picture)  # type: ignore[arg-type]  # PIL's, as it comes from the list
        tensor = picture if isinstance(picture, Tensor) else v2.functional.pil_to_tensor(picture)
        return tensor, torch.tensor(index % CLASSES)


def median_milliseconds(function: Callable[[], object], repeats: int) -> float:
    """Return the median time of a call, after one that warms up."""
    function()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return 1000.0 * statistics.median(seconds)


def hpo_milliseconds(config: Config, repeats: int) -> float:
    """Return the time in which a batch is augmented and mixed."""
    images_NCHW = random_images(BATCH, LARGE_SIZE if config.augmentation == "resized_crop" else SIZE)
    labels_N, generator = torch.arange(BATCH) % CLASSES, torch.Generator().manual_seed(0)

    def change() -> object:
        return mixing.mix(augmentation.augment(images_NCHW, config, generator), labels_N, config, generator)

    return median_milliseconds(change, repeats)


def loader_milliseconds(transform: v2.Transform | None, *, side: int, repeats: int) -> float:
    """Return the mean time of a batch from a loader with two workers."""
    is_mixing = isinstance(transform, v2.MixUp | v2.CutMix)
    count = (repeats + 4) * BATCH  # the last batches would come from one worker alone
    images = Pictures(random_images(BATCH, side), None if is_mixing else transform, count)

    def collate(pairs: list[Pair]) -> object:
        batch = default_collate(pairs)
        return transform(batch[0].float(), batch[1]) if is_mixing and transform is not None else batch

    batches = iter(DataLoader(images, BATCH, num_workers=2, collate_fn=collate))
    next(batches)  # the workers have started
    started = time.perf_counter()
    for _ in range(repeats):
        next(batches)
    return 1000.0 * (time.perf_counter() - started) / repeats


def step_milliseconds(steps: int) -> Iterator[float]:
    """Yield the time of one training step after another, without augmentation."""
    config = Config(weights="none", image_size=SIZE, batch_size=BATCH, epochs=steps + 1)
    split = batches.Split(images=random_images(BATCH, SIZE), labels=torch.arange(BATCH) % CLASSES)
    names = tuple(map(str, range(CLASSES)))
    dataset = datasets.Dataset(name="x", classes=names, train=split, valid=split, test=split)
    epochs = loop.TrainingRun(config, dataset, CPU).epochs()
    next(epochs)  # warms up
    for epoch in epochs:
        assert epoch is not None
        yield 1000.0 * epoch.train_seconds  # of one step


def main() -> None:
    """Measure all options, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30, help="batches of each option")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    steps = step_milliseconds(len(CASES))
    base = loader_milliseconds(None, side=SIZE, repeats=repeats)
    measured = []
    for (option, value), transform in CASES.items():
        config = Config.model_validate({"image_size": SIZE, option: value})
        side = LARGE_SIZE if value == "resized_crop" else SIZE
        peer = loader_milliseconds(transform, side=side, repeats=repeats)
        measured.append((option, value, hpo_milliseconds(config, repeats), peer, next(steps)))
    step = statistics.median(each[-1] for each in measured)
    table = Table("option", "hpo, ms", "hpo / step", "torchvision, ms", "torchvision / hpo", box=None)
    table.add_row("none", "", "", f"{base:.3g}", "")
    rows = []
    for option, value, hpo, peer, _ in measured:
        texts = (f"{hpo:.3g}", f"{hpo / step:.3f}", f"{peer:.3g}", f"{peer / hpo:.1f}")
        table.add_row(f"{option} = {value}", *texts)
        ratios = {"hpo/step": hpo / step, "torchvision/hpo": peer / hpo}
        rows.append({"option": option, "value": value, "ratios": ratios})
    Console(width=120).print(table)
    print(f"a step of ResNet18 with {BATCH} images of {SIZE} pixels takes {step:.0f} ms")
    print(json.dumps({"benchmark": "augmentation", "step_ms": step, "none_ms": base, "rows": rows}))


if __name__ == "__main__":
    main()
