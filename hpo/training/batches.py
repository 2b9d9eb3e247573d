"""A split's images, and reading batches of them ahead of the training steps.

Images that are on the step's device already are indexed there. All others are gathered by a thread while
the steps before run: it reads what is not in memory yet, and copies batches to a GPU through pinned memory,
on a stream of its own. So a step on a GPU waits neither for the disk nor for the copy.

Shape suffixes: N images, C channels, H rows, W columns.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from hpo.training.decoded_cache import MappedImages

MIN_LAST_BATCH = 4  # images
AHEAD = 3  # batches that are read ahead

Indices = Tensor | slice


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Images with their labels, on one device; ``features`` puts features in the place of the images."""

    images: Tensor  # uint8 [N, C, H, W], contiguous, C 1 or 3
    labels: Tensor  # int64 [N], indices into Dataset.classes
    mapping: MappedImages | None = None  # of which the images are a part; None: they are in memory

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def count_classes(self, classes: int) -> Tensor:
        """Return the number of images of each class on the CPU, int64 [K], given their number K."""
        return torch.bincount(self.labels.cpu(), minlength=classes)

    def to(self, device: torch.device | str) -> "Split":
        """Return the split on ``device``; mapped images are mapped no longer on another one."""
        images = self.images.to(device)
        return Split(
            images=images,
            labels=self.labels.to(device),
            mapping=self.mapping if images is self.images else None,
        )

    def batch(self, chosen: Indices) -> tuple[Tensor, Tensor]:
        """Return the chosen images and labels on the split's device.

        Args:
            chosen: A slice, or int64 indices on the split's device.

        Returns:
            images_NCHW (uint8) and labels_N (int64); a slice gives views, not copies.
        """
        images_NCHW = self.images[chosen]
        if self.mapping is not None:
            self.mapping.touch(images_NCHW.nbytes)
        return images_NCHW, self.labels[chosen]

    def gather(self, chosen: Indices, *, pinned: bool) -> tuple[Tensor, Tensor]:
        """Return copies of the chosen images and labels of a split on the CPU.

        NumPy copies, in the calling thread alone: torch would start threads of its own for a caller that is
        not the main thread, and they would compete with the training step's.

        Args:
            chosen: A slice, or int64 indices.
            pinned: Whether the copies are in pinned memory.
        """
        rows = np.arange(len(self))[chosen] if isinstance(chosen, slice) else chosen.numpy()
        images_NCHW = torch.empty(
            (len(rows), *self.images.shape[1:]), dtype=self.images.dtype, pin_memory=pinned
        )
        labels_N = torch.empty(len(rows), dtype=self.labels.dtype, pin_memory=pinned)
        np.take(self.images.numpy(), rows, axis=0, out=images_NCHW.numpy(), mode="clip")
        np.take(self.labels.numpy(), rows, out=labels_N.numpy(), mode="clip")
        if self.mapping is not None:
            self.mapping.touch(images_NCHW.nbytes)
        return images_NCHW, labels_N


def batch_bounds(images: int, size: int) -> list[tuple[int, int]]:
    """Return the first and the past-the-end index of each batch; the last one may have another size.

    Fewer than ``MIN_LAST_BATCH`` remaining images are added to the batch before them. Batch norm cannot
    normalise a single value, and the statistics of two or three images give a step that damages the model:
    the accuracy of ResNet18 on digits of 32 pixels fell from 0.9 to 0.1.

    Args:
        images: Number of images, at least 1.
        size: Images per batch.
    """
    starts = list(range(0, images, size))
    if len(starts) > 1 and images - starts[-1] < min(MIN_LAST_BATCH, size):
        starts.pop()
    return list(zip(starts, [*starts[1:], images], strict=True))


def read_batches(
    split: Split, batches: Iterable[Indices], device: torch.device
) -> Generator[tuple[Tensor, Tensor]]:
    """Yield batches of a split on ``device``; close the iterator to end early.

    Args:
        split: Images, or features, on any device.
        batches: Which images each batch has: a slice, or int64 indices on the split's device.
        device: Where the batches are needed.

    Yields:
        images_NCHW (uint8) and labels_N (int64).
    """
    if split.mapping is None and split.images.device.type == device.type:
        for chosen in batches:
            yield split.batch(chosen)
    else:
        yield from _read_ahead(split, batches, device)


def _read_ahead(
    split: Split, batches: Iterable[Indices], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    reader = _GpuReader(split, device) if device.type == "cuda" else _Reader(split)
    waiting = iter(batches)
    with ThreadPoolExecutor(1, "hpo-batches") as thread:
        ahead: deque[Future[_Batch]] = deque()
        try:
            while True:
                ahead.extend(
                    thread.submit(reader.read, chosen) for chosen in islice(waiting, AHEAD - len(ahead))
                )
                if not ahead:
                    return
                yield reader.receive(ahead.popleft().result())
        finally:
            thread.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, kw_only=True)
class _Batch:
    images: Tensor
    labels: Tensor
    copied: torch.cuda.Event | None = None  # on a GPU: when both are there


class _Reader:
    """Gathers batches for the CPU."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def read(self, chosen: Indices) -> _Batch:
        """Gather a batch; in the reading thread."""
        images_NCHW, labels_N = self.split.gather(chosen, pinned=False)
        return _Batch(images=images_NCHW, labels=labels_N)

    def receive(self, batch: _Batch) -> tuple[Tensor, Tensor]:
        """Return a batch that can be used; in the training thread."""
        return batch.images, batch.labels


class _GpuReader(_Reader):
    """Gathers batches and copies them to a GPU, on a stream of its own."""

    def __init__(self, split: Split, device: torch.device) -> None:
        super().__init__(split)
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has not annotated it

    def read(self, chosen: Indices) -> _Batch:
        images_NCHW, labels_N = self.split.gather(chosen, pinned=True)
        with torch.cuda.stream(self.stream):
            batch = _Batch(
                images=images_NCHW.to(self.device, non_blocking=True),
                labels=labels_N.to(self.device, non_blocking=True),
                copied=torch.cuda.Event(),  # type: ignore[no-untyped-call]  # nor this
            )
            assert batch.copied is not None
            batch.copied.record(self.stream)
        return batch

    def receive(self, batch: _Batch) -> tuple[Tensor, Tensor]:
        assert batch.copied is not None
        current = torch.cuda.current_stream(self.device)
        current.wait_event(batch.copied)
        for tensor in (batch.images, batch.labels):
            tensor.record_stream(current)  # else its memory could be used again by the copying stream
        return batch.images, batch.labels
