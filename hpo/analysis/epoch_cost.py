"""The seconds of an epoch of each kind of training, for ``hpo plan``; each kind is measured once.

A kind is what ``KIND_OPTIONS`` name; the time of a step depends on little else. Three more things matter.

* In the first ``freeze_epochs`` an epoch takes as long as with ``tune = "head"``, which is another kind.
* A step that would take longer than ``SLOW_STEP_SECONDS`` is not made: see ``CostsByBatchSize``.
  With another optimizer it takes a fixed time more or less, whatever the size of the batch.
* Settings of one kind may be augmented in different ways. Each way is timed without a model, and a batch
  takes longer by as much as its way takes longer than the one with which the kind was measured.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch

from hpo.analysis import step_timing
from hpo.analysis.formatting import format_params
from hpo.analysis.step_timing import MeasuredCost
from hpo.training import batches
from hpo.training.config import Config, is_augmented
from hpo.training.shapes import DatasetShape

KIND_OPTIONS = ("model", "optimizer", "image_size", "batch_size", "tune")
SLOW_STEP_SECONDS = 1.0
SMALL_BATCHES = (2, 4)  # images; batch norm needs two
AUGMENTATION_OPTIONS = ("augmentation", "auto_augment", "random_erasing", "mixup_alpha", "cutmix_alpha")


@dataclass(frozen=True, kw_only=True)
class EpochCost:
    """What an epoch costs."""

    seconds: float  # mean of all epochs
    pass_seconds: float  # to pass all images through the model once
    peak_gib: float  # memory: of the GPU, or of this process
    weights_bytes: int
    checkpoint_bytes: int


class CostsByBatchSize:
    """The costs of a kind of training by batch size, measured as long as a step is short.

    The cost of a larger batch is computed: a step takes a fixed time and a time for each image, and so does
    memory. A straight line through the two largest batches that were measured gives both. These are
    ``SMALL_BATCHES``, or larger ones, twice as large each time, as long as their steps are short.

    Args:
        measure: Measures the cost with a batch size; returns None if the training does not fit into memory.
        like: The costs with another optimizer. With it, a slow batch is theirs, and what the smallest batch
            costs more or less; one that does not fit there is measured as without it.
        slow_seconds: Longer steps are not made; None: ``SLOW_STEP_SECONDS``.
    """

    def __init__(
        self,
        measure: Callable[[int], MeasuredCost | None],
        like: "CostsByBatchSize | None" = None,
        slow_seconds: float | None = None,
    ) -> None:
        self._measure, self._like = measure, like
        self._slow_seconds = SLOW_STEP_SECONDS if slow_seconds is None else slow_seconds
        self._found: dict[int, MeasuredCost | None] = {}

    def find(self, size: int) -> MeasuredCost | None:
        """Return the cost with a batch size, or None if the training does not fit into the memory."""
        if (shifted := self._shifted(size)) and shifted.busy_seconds > self._slow_seconds:
            return shifted
        small = min(SMALL_BATCHES)
        while small < size and self._expected_seconds(size) > self._slow_seconds:
            if small > max(SMALL_BATCHES) and self._expected_seconds(small) > self._slow_seconds:
                break
            self._find_measured(small)
            small *= 2
        if self._expected_seconds(size) <= self._slow_seconds:
            return self._find_measured(size)
        return self._extended(size)

    def _shifted(self, size: int) -> MeasuredCost | None:
        """Return the cost with the other optimizer, shifted; None where there is none."""
        smallest = min(SMALL_BATCHES)
        if self._like is None or size <= smallest:
            return None
        own, small = self._find_measured(smallest), self._like.find(smallest)
        large = self._like.find(size)
        if own is None or small is None or large is None:
            return None

        def shift(before: float, after: float, here: float) -> float:
            return max(after + here - before, here)  # noise must not make a larger batch faster

        return replace(
            own,
            step_seconds=shift(small.step_seconds, large.step_seconds, own.step_seconds),
            busy_seconds=shift(small.busy_seconds, large.busy_seconds, own.busy_seconds),
            image_seconds=large.image_seconds,
            peak_gib=shift(small.peak_gib, large.peak_gib, own.peak_gib),
        )

    def _find_measured(self, size: int) -> MeasuredCost | None:
        if size not in self._found:
            self._found[size] = self._measure(size)
        return self._found[size]

    def _smaller(self, size: int) -> list[tuple[int, MeasuredCost]]:
        """Return the two largest measured batch sizes below ``size``, or fewer, with their costs."""
        known = [(other, cost) for other, cost in self._found.items() if cost and other < size]
        return sorted(known, key=lambda each: each[0])[-2:]

    def _expected_seconds(self, size: int) -> float:
        """Return the time that a step computes, as smaller batches tell; infinity where none was measured.

        What else runs on the machine does not change it. Small batches would suffer most from that.
        """
        if size in self._found or size <= min(SMALL_BATCHES):
            return 0.0
        cost = self._extended(size)
        return math.inf if cost is None else cost.busy_seconds

    def _extended(self, size: int) -> MeasuredCost | None:
        """Return the cost that smaller batches suggest; None where none was measured or fits."""
        smaller = self._smaller(size)
        is_too_large = any(cost is None for other, cost in self._found.items() if other < size)
        if is_too_large or not smaller:
            return None
        (first, low), (last, high) = smaller[0], smaller[-1]
        ratio = (size - last) / (last - first) if last > first else 0.0

        def extend(before: float, after: float) -> float:
            grown = ratio * (after - before)
            return after + grown if grown > 0 else after * size / last  # there is one point, or noise

        return replace(
            high,
            step_seconds=extend(low.step_seconds, high.step_seconds),
            busy_seconds=extend(low.busy_seconds, high.busy_seconds),
            peak_gib=high.peak_gib + max(ratio * (high.peak_gib - low.peak_gib), 0.0),
        )


class EpochCosts:
    """The costs of a study's epochs on one device.

    Args:
        shape: The data set's image size, channels, classes and numbers of images.
        device: Where to measure.
        tell: Gets a text that says what is being measured, each time that it changes.
        configs: The settings that will be asked for.
    """

    def __init__(
        self,
        shape: DatasetShape,
        device: torch.device,
        tell: Callable[[str], None],
        configs: Iterable[Config],
    ) -> None:
        self.shape, self.device, self.tell = shape, device, tell
        asked = [*configs]
        asked += [_head_only(each) for each in asked if _frozen_share(each)]
        self._total = len(set(map(_kind, asked)))
        self._lines: dict[tuple[Any, ...], dict[str, CostsByBatchSize]] = {}  # the inner by optimizer
        self._kinds: dict[tuple[Any, ...], tuple[Config, MeasuredCost | None]] = {}
        self._ways: dict[tuple[Any, ...], float] = {}

    def find(self, config: Config, ways: Sequence[Config]) -> EpochCost | None:
        """Return what an epoch of a trial costs, or None if the training does not fit into the memory.

        Args:
            config: The trial's settings.
            ways: Settings of the same kind, at least one; the mean of the ways in which they are augmented
                counts.
        """
        whole, steps = self._measure(config), len(batches.batch_bounds(self.shape.train, config.batch_size))
        frozen = _frozen_share(config)
        head = self._measure(_head_only(config)) if frozen else whole
        if whole is None or head is None:
            return None
        step_seconds = (1 - frozen) * whole.step_seconds + frozen * head.step_seconds
        step_seconds += self._difference(config, ways)
        return EpochCost(
            seconds=steps * max(step_seconds, 0.0) + self.shape.selection * whole.image_seconds,
            pass_seconds=(self.shape.train + self.shape.selection) * whole.image_seconds,
            peak_gib=whole.peak_gib,
            weights_bytes=whole.weights_bytes,
            checkpoint_bytes=whole.checkpoint_bytes,
        )

    def _measure(self, config: Config) -> MeasuredCost | None:
        kind = _kind(config)
        if kind not in self._kinds:
            what = format_params(dict(zip(KIND_OPTIONS, kind, strict=True)))
            self.tell(f"measuring {len(self._kinds) + 1} of {self._total}: {what}")
            self._kinds[kind] = config, self._measure_new(config)
        return self._kinds[kind][1]

    def _measure_new(self, config: Config) -> MeasuredCost | None:
        if config.compile:  # which takes far longer than steps, and again for each batch size
            return step_timing.measure_cost(config, self.shape, self.device)
        by_optimizer = self._lines.setdefault((config.model, config.image_size, config.tune), {})

        def measure(size: int) -> MeasuredCost | None:
            sized = config.model_copy(update={"batch_size": size})
            return step_timing.measure_cost(sized, self.shape, self.device)

        if config.optimizer not in by_optimizer:
            first = next(iter(by_optimizer.values()), None)
            by_optimizer[config.optimizer] = CostsByBatchSize(measure, first)
        return by_optimizer[config.optimizer].find(config.batch_size)

    def _difference(self, config: Config, ways: Sequence[Config]) -> float:
        """Return how much longer a batch takes in the mean of ``ways`` than when its kind was measured."""
        measured, _ = self._kinds[_kind(config)]
        if {_way(each) for each in ways} == {_way(measured)}:
            return 0.0
        return fmean(map(self._augmentation_seconds, ways)) - self._augmentation_seconds(measured)

    def _augmentation_seconds(self, config: Config) -> float:
        if not is_augmented(config):
            return 0.0
        way = (_way(config), config.image_size, config.batch_size)
        if way not in self._ways:
            options = {name: getattr(config, name) for name in AUGMENTATION_OPTIONS}
            used = {name: value for name, value in options.items() if value not in ("none", 0)}
            self.tell(f"measuring {format_params(used)}")
            self._ways[way] = step_timing.measure_augmentation(config, self.shape, self.device)
        return self._ways[way]


def _frozen_share(config: Config) -> float:
    """Return the share of the epochs in which the body is frozen, but not for good."""
    return config.freeze_epochs / config.epochs if config.tune == "all" else 0.0


def _head_only(config: Config) -> Config:
    return config.model_copy(update={"tune": "head"})


def _kind(config: Config) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in KIND_OPTIONS)


def _way(config: Config) -> tuple[Any, ...]:
    """Return how images are augmented; how strong or frequent a change is does not matter for its time."""
    switches = (config.random_erasing > 0, config.mixup_alpha > 0, config.cutmix_alpha > 0)
    return (config.augmentation, config.auto_augment, *switches)
