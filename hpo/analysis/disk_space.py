"""The disk space that a study takes, for ``hpo plan``: weights, checkpoints, decoded images.

* Each trial leaves its best epoch's weights. ``search.keep_weights`` limits how many searched trials keep
  them; of the others they are deleted when they have ended.
* A trial has its last ``KEPT_CHECKPOINTS`` checkpoints until it ends, and one more while it writes it. With
  rungs (``asha``, ``freeze_thaw``) each trial that waits at one keeps them, too.
* Image files are decoded once for each size, on each machine, unless ``train.cache`` is ``memory``.

All are upper bounds. Logs, curves and the database are not included: they are small beside them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpo.artifacts.folders import KEPT_CHECKPOINTS
from hpo.errors import format_bytes
from hpo.search import asha
from hpo.study.definition import Definition
from hpo.training import image_files
from hpo.training.config import Config, reads_files
from hpo.training.folder_scan import FolderScan
from hpo.training.shapes import KNOWN_SHAPES, DatasetShape

if TYPE_CHECKING:
    from hpo.analysis.cost import CostPart


@dataclass(frozen=True, kw_only=True)
class DiskSpace:
    """The disk space that a study takes at most, in bytes."""

    weights_bytes: int  # when it is complete
    weights_files: int  # trials that keep their weights
    kept_of: int  # trials in all
    listed_files: int  # trials of listed points, which all keep their weights
    checkpoints_bytes: int  # while it runs, with the weights of unfinished trials that are not kept
    images_bytes: int  # decoded, on each machine

    def lines(self) -> Iterator[str]:
        """Yield what takes space as lines of text."""
        yield f"disk: at most {format_bytes(self.weights_bytes)} for the weights of {self._kept()}"
        yield f"disk while it runs: {format_bytes(self.checkpoints_bytes)} more for unfinished trials"
        if self.images_bytes:
            yield f"disk of each machine: {format_bytes(self.images_bytes)} for decoded images (--cache-gb)"

    def _kept(self) -> str:
        """Return which trials keep their weights."""
        files, listed = self.weights_files, self.listed_files
        if files == self.kept_of:
            return f"{files} trial{'s' * (files != 1)}"
        others = f", and of {listed} listed" * (listed > 0)
        best = f"the best {files - listed} of {self.kept_of - listed} searched trials"
        return f"{best}{others} (search.keep_weights)"


def disk_space(
    definition: Definition, parts: Sequence["CostPart"], workers: int, images_bytes: int
) -> DiskSpace | None:
    """Return the disk space of a study; None if the size of its files is not known.

    Args:
        definition: The study.
        parts: Its trials, by kind of training.
        workers: How many trials run at the same time.
        images_bytes: Of the decoded images.
    """
    largest = max((part.weights_bytes for part in parts), default=0)
    if not largest:
        return None
    listed = [part for part in parts if part.point is not None]
    others = [part for part in parts if part.point is None]
    trials, searched, keep = _count_trials(parts), _count_trials(others), definition.search.keep_weights
    kept = searched if keep == "all" else min(keep, searched)
    waiting = max(trials - workers, 0) if asha.rungs_of(definition) is not None else 0
    files = workers * (KEPT_CHECKPOINTS + 1) + waiting * KEPT_CHECKPOINTS
    not_kept = min(workers + waiting, searched - kept)
    return DiskSpace(
        weights_bytes=round(_weights_bytes(listed) + min(kept * largest, _weights_bytes(others))),
        weights_files=trials - searched + kept,
        kept_of=trials,
        listed_files=trials - searched,
        checkpoints_bytes=files * max(part.checkpoint_bytes for part in parts) + not_kept * largest,
        images_bytes=images_bytes,
    )


def _count_trials(parts: Iterable["CostPart"]) -> int:
    return round(sum(part.trials for part in parts))


def _weights_bytes(parts: Iterable["CostPart"]) -> float:
    return sum(part.trials * part.weights_bytes for part in parts)


def decoded_bytes(configs: Iterable[Config], shape: DatasetShape, scan: FolderScan | None) -> int:
    """Return the size of the decoded images of some trials; 0 for a data set that is not in image files.

    Args:
        configs: The settings of the trials.
        shape: The size of their data set.
        scan: What the headers of the user's own images say.
    """
    copies: set[tuple[image_files.Reading, bool]] = set()
    train = others = 0
    for config in configs:
        if reads_files(config.dataset) and config.cache != "memory":
            train, others = shape.train, _other_images(config, shape, scan)
            training, measuring = image_files.readings_of(config)
            copies |= {(training, True), (measuring, False)}
    return sum(3 * reading.size**2 * (train if trains else others) for reading, trains in copies)


def _other_images(config: Config, shape: DatasetShape, scan: FolderScan | None) -> int:
    """Return the number of images that trials do not train on."""
    if scan is not None:
        return sum(sum(counts) for split, counts in scan.readable_images().items() if split != "train")
    if config.limit is None and config.dataset in KNOWN_SHAPES:
        return KNOWN_SHAPES[config.dataset].images - shape.train
    return 2 * shape.selection  # the test split is about as large
