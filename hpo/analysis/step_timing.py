"""The time and memory of training steps on random images, from which ``hpo plan`` computes its forecast.

No weights are downloaded, and no image of a published data set is read.
"""

import contextlib
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hpo.training import augmentation, devices, image_files, loop, mixing, models, precision
from hpo.training.batches import Split
from hpo.training.config import Config, reads_files
from hpo.training.datasets import Dataset
from hpo.training.shapes import DatasetShape

MAX_STEPS = 6  # of each kind of training or augmentation; the first one only warms up
MAX_STEP_SECONDS = 3.0  # in all, after which no further step is made
SLOW_SECONDS = 1.0  # of an evaluation, which is then not repeated to warm up
GOOD_ENOUGH = 0.05  # relative standard error of the mean step, below which no further step is made


@dataclass(frozen=True, kw_only=True)
class MeasuredCost:
    """The time and memory of one kind of training on one device."""

    step_seconds: float
    image_seconds: float  # to evaluate one image
    peak_gib: float  # memory: of the GPU, or of this process
    busy_seconds: float = 0.0  # of a step, in which the device computed, whatever else runs on it
    weights_bytes: int = 0  # of the file with a trial's weights
    checkpoint_bytes: int = 0


def measure_cost(config: Config, shape: DatasetShape, device: torch.device) -> MeasuredCost | None:
    """Time a few training steps and the evaluation of one batch, on random images.

    The time of a step is the median, without the first step if there are others. Errors other than a
    lack of memory pass through.

    Args:
        config: The kind of training. Of its weights only the layers and the preset are used, of its epochs
            and limit nothing. All layers are trained that it does not freeze for good.
        shape: The data set's image size, channels and classes; its numbers of images are not used.
        device: Where to train.

    Returns:
        The cost, or None if the training does not fit into the memory.
    """
    settings = config.model_copy(update={"epochs": 1, "freeze_epochs": 0, "limit": None})
    dataset = _random_dataset(config, shape).to(device)
    memory_format = "contiguous" if config.memory_format == "auto" else config.memory_format
    compute_settings = precision.ComputeSettings(
        precision=precision.default_precision(device) if config.precision == "auto" else config.precision,
        memory_format=memory_format,
        compile=config.compile,
        cuda_graphs=config.cuda_graphs,
    )
    try:
        with track_peak_memory(device) as peak:
            run = loop.TrainingRun(
                settings,
                dataset,
                device,
                compute_settings=compute_settings,
                build_model=models.build_untrained_model,
                wants_pause=lambda: True,  # an epoch ends after each step
            )
            steps, busy = _time_steps(run, device)
            evaluation_seconds = _time_evaluation(run, device)
            weights_bytes, checkpoint_bytes = map(count_bytes, (run.weights(), run.state()))
    except (torch.OutOfMemoryError, MemoryError):
        return None
    return MeasuredCost(
        step_seconds=statistics.median(_counted(steps)),
        image_seconds=evaluation_seconds / len(dataset.test),
        peak_gib=peak[0],
        busy_seconds=statistics.median(_counted(busy)),
        weights_bytes=weights_bytes,
        checkpoint_bytes=checkpoint_bytes,
    )


def measure_augmentation(config: Config, shape: DatasetShape, device: torch.device) -> float:
    """Return the median seconds in which a batch of random training images is augmented and mixed.

    Args:
        config: The options of augmentation, the image size and the batch size.
        shape: The data set's image size and channels.
        device: Where to augment.
    """
    split = _random_split(config.batch_size, _training_side(config, shape), shape)
    images_NCHW, labels_N = split.images.to(device), split.labels.to(device)
    generator = torch.Generator().manual_seed(0)
    seconds: list[float] = []
    while not is_good_enough(seconds):
        started = precision.synchronized_time(device)
        mixing.mix(augmentation.augment(images_NCHW, config, generator), labels_N, config, generator)
        seconds.append(precision.synchronized_time(device) - started)
    return statistics.median(_counted(seconds))


def _random_dataset(config: Config, shape: DatasetShape) -> Dataset:
    """Return random images for MAX_STEPS steps, and a batch to evaluate."""
    batch = _random_split(max(config.batch_size, 2), shape.pixels, shape)
    return Dataset(
        name=config.dataset,
        classes=tuple(map(str, range(shape.classes))),
        train=_random_split((MAX_STEPS + 1) * len(batch), _training_side(config, shape), shape),
        valid=batch,
        test=batch,
    )


def _random_split(images: int, side: int, shape: DatasetShape) -> Split:
    size = (images, shape.channels, side, side)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    return Split(images=pixels, labels=torch.arange(images) % shape.classes)


def _training_side(config: Config, shape: DatasetShape) -> int:
    """Return the side in pixels that training images have before they are augmented."""
    return image_files.readings_of(config)[0].size if reads_files(config.dataset) else shape.pixels


def _time_steps(run: loop.TrainingRun, device: torch.device) -> tuple[list[float], list[float]]:
    """Return the seconds of each step, of as many as are needed, and those in which the device computed."""
    steps: list[float] = []
    busy: list[float] = []
    before = _read_clocks(device)
    for _ in run.epochs():
        after = _read_clocks(device)
        steps.append(after[0] - before[0])
        busy.append(after[1] - before[1])
        if is_good_enough(busy):
            break
        before = _read_clocks(device)
    return steps, busy


def _read_clocks(device: torch.device) -> tuple[float, float]:
    """Return the time, and how long the device has computed for this process: a GPU is taken as its own."""
    now = precision.synchronized_time(device)
    return now, now if device.type == "cuda" else time.process_time() / torch.get_num_threads()


def is_good_enough(steps: Sequence[float]) -> bool:
    """Return whether the mean of these steps is known well enough, or took too long already.

    Args:
        steps: The seconds of each step, from the first one on.
    """
    counted = _counted(steps)
    if len(steps) >= MAX_STEPS or sum(counted) >= MAX_STEP_SECONDS:
        return True
    if len(steps) < 3:
        return False
    error = statistics.stdev(counted) / math.sqrt(len(counted))
    return error <= GOOD_ENOUGH * statistics.fmean(counted)


def _counted(steps: Sequence[float]) -> Sequence[float]:
    """Return the steps without the first one, which warms up, unless it is the only one."""
    return steps[1:] or steps


def _time_evaluation(run: loop.TrainingRun, device: torch.device) -> float:
    """Return the seconds to evaluate the selection split; what is not slow is done once more, warmed up."""
    seconds = 0.0
    for _ in range(2):
        started = precision.synchronized_time(device)
        run.evaluate(run.selection_split)
        if (seconds := precision.synchronized_time(device) - started) > SLOW_SECONDS:
            break
    return seconds


def count_bytes(value: Any) -> int:
    """Return the bytes of all tensors in a state, however it is nested."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(count_bytes, value.values()))
    return sum(map(count_bytes, value)) if isinstance(value, list | tuple) else 0


@contextlib.contextmanager
def track_peak_memory(device: torch.device) -> Iterator[list[float]]:
    """Measure the highest memory use within a ``with`` block.

    On a GPU this is the memory that PyTorch reserved there. On a CPU it is the resident memory of this
    process; where the kernel cannot reset its record (not Linux), the highest value since the process
    started.

    Yields:
        A list that holds the peak in GiB once the block is left; it stays empty if the block raises.
    """
    found: list[float] = []
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        precision.return_freed_memory()  # of the kind of training measured before
        with contextlib.suppress(OSError):  # not Linux
            Path("/proc/self/clear_refs").write_text("5")
    yield found
    if device.type == "cuda":
        found.append(torch.cuda.max_memory_reserved(device) / 2**30)
    else:
        found.append(devices.peak_memory_bytes() / 2**30)
