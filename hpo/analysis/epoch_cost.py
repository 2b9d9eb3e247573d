"""The seconds of an epoch of each kind of training, for ``hpo plan``; each kind is measured once.

A kind is what ``KIND_OPTIONS`` name: how long a step takes depends on little else. Two more things matter.

* In the first ``freeze_epochs`` an epoch takes as long as with ``tune = "head"``, which is another kind.
* Settings of one kind may be augmented in different ways. Each way is timed without a model, and a batch
  takes longer by as much as its way takes longer than the one with which the kind was measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
AUGMENTATION_OPTIONS = ("augmentation", "auto_augment", "random_erasing", "mixup_alpha", "cutmix_alpha")


@dataclass(frozen=True, kw_only=True)
class EpochCost:
    """What an epoch costs."""

    seconds: float  # mean of all epochs
    peak_gib: float  # memory: of the GPU, or of this process


class EpochCosts:
    """The costs of a study's epochs on one device.

    Args:
        shape: The data set's image size, channels, classes and numbers of images.
        device: Where to measure.
        tell: Gets a text that says what is being measured, each time that it changes.
    """

    def __init__(self, shape: DatasetShape, device: torch.device, tell: Callable[[str], None]) -> None:
        self.shape, self.device, self.tell = shape, device, tell
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
        frozen = config.freeze_epochs / config.epochs if config.tune == "all" else 0.0
        head = self._measure(config.model_copy(update={"tune": "head"})) if frozen else whole
        if whole is None or head is None:
            return None
        step_seconds = (1 - frozen) * whole.step_seconds + frozen * head.step_seconds
        step_seconds += self._difference(config, ways)
        return EpochCost(
            seconds=steps * max(step_seconds, 0.0) + self.shape.selection * whole.image_seconds,
            peak_gib=whole.peak_gib,
        )

    def _measure(self, config: Config) -> MeasuredCost | None:
        kind = _kind(config)
        if kind not in self._kinds:
            self.tell(f"measuring {format_params(dict(zip(KIND_OPTIONS, kind, strict=True)))}")
            self._kinds[kind] = config, step_timing.measure_cost(config, self.shape, self.device)
        return self._kinds[kind][1]

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


def _kind(config: Config) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in KIND_OPTIONS)


def _way(config: Config) -> tuple[Any, ...]:
    """Return how images are augmented; how strong or frequent a change is does not matter for its time."""
    switches = (config.random_erasing > 0, config.mixup_alpha > 0, config.cutmix_alpha > 0)
    return (config.augmentation, config.auto_augment, *switches)
