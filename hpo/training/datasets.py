"""Data sets as uint8 tensors, in stratified splits that are the same in every worker.

The images that a study uses are drawn first (``drawn_images``). Only then are image files decoded
(``decoded_splits``), so a small limit on a large folder is fast.

Shape suffixes: N images, C channels (1 or 3), H rows, W columns.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpo import errors
from hpo.training import decoded_splits, drawn_images, image_files, sources
from hpo.training.batches import Split
from hpo.training.config import Config, reads_files
from hpo.training.data_facts import SPLIT_WORDS, SplitName, describe_share
from hpo.training.decoded_cache import DecodedCache
from hpo.training.folder_scan import FolderScan, Progress
from hpo.training.metric import TOP
from hpo.training.shapes import DatasetShape, known_shape


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A data set in disjoint splits.

    For a trial with a ``FinalConfig``, ``train`` also contains what is ``valid`` for the study's trials.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    valid: Split | None = None  # None where trials are measured on test
    test: Split
    available: int | None = None  # images of the source, used here or not; None: not known
    skipped: tuple[str, ...] = ()  # paths of image files that were left out as unreadable
    notes: tuple[str, ...] = ()  # lines on what the user of image files may not expect

    @property
    def selection(self) -> Split:
        """The split on which trials are measured: ``valid``, or ``test`` if there is none."""
        return self.test if self.valid is None else self.valid

    @property
    def selection_name(self) -> SplitName:
        """The name of the split on which trials are measured."""
        return "test" if self.valid is None else "valid"

    @property
    def nbytes(self) -> int:
        """The size of the images of all splits in bytes."""
        return sum(split.images.nbytes for split in self.splits.values())

    @property
    def own_bytes(self) -> int:
        """How much of this is in the process's own memory or on its GPU: mapped images are not."""
        return sum(split.images.nbytes for split in self.splits.values() if split.mapping is None)

    @property
    def is_on_gpu(self) -> bool:
        """Whether the images are on a GPU."""
        return self.train.images.is_cuda

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the data set with all its splits on ``device``."""
        valid = None if self.valid is None else self.valid.to(device)
        return replace(self, train=self.train.to(device), valid=valid, test=self.test.to(device))

    @property
    def splits(self) -> dict[SplitName, Split]:
        """The splits that exist, by name."""
        by_name: dict[SplitName, Split | None] = {
            "train": self.train,
            "valid": self.valid,
            "test": self.test,
        }
        return {name: split for name, split in by_name.items() if split is not None}

    def count_images(self) -> dict[SplitName, Tensor]:
        """Return the number of images of each class by split, int64 [K] on the CPU."""
        return {name: split.count_classes(len(self.classes)) for name, split in self.splits.items()}

    def summary(self) -> str:
        """Return in one line how many images are used, how unequal classes are, and what guessing gives."""
        counts = self.count_images()
        counts_K, selected_K = torch.stack([*counts.values()]).sum(0), counts[self.selection_name]
        by_split = ", ".join(f"{int(each.sum())} {SPLIT_WORDS[name]}" for name, each in counts.items())
        share = describe_share(int(counts_K.sum()), self.available)
        names = [errors.quote_value(name) for name in self.classes]
        smallest, largest = (
            f"{int(counts_K[k])} of {names[k]}" for k in (int(counts_K.argmin()), int(counts_K.argmax()))
        )
        guess = int(selected_K.argmax())
        return (
            f"{share} in {len(names)} classes: {by_split}; from {smallest} to {largest}; "
            f"always answering {names[guess]} gives accuracy "
            f"{int(selected_K[guess]) / len(self.selection):.4f} on the "
            f"{SPLIT_WORDS[self.selection_name]} split"
        )

    def describe(self) -> dict[str, Any]:
        """Return what must be known to use a model trained on this data set.

        Returns:
            Plain values, which are stored as JSON: ``classes``, ``channels`` (1 if the images are grey),
            ``pixels`` (the side of the square images), ``images`` (their number by split, without the
            splits that do not exist) and ``skipped`` (the number of unreadable files).
        """
        _, channels, pixels, _ = self.selection.images.shape  # training images may be larger
        return {
            "classes": list(self.classes),
            "channels": channels,
            "pixels": pixels,
            "images": {name: len(split) for name, split in self.splits.items()},
            "skipped": len(self.skipped),
        }


def load_dataset(
    config: Config, root: Path, cache: DecodedCache | None = None, progress: Progress | None = None
) -> Dataset:
    """Load the data set that ``config`` names onto the CPU, split and limited.

    Images keep their size, except those in files: they become squares of ``image_size``, and those to train
    on larger ones if ``augmentation`` is ``resized_crop``.

    Args:
        config: Only the options that decide which images there are and how they are read matter.
        root: The data folder with the copies of published data sets. If a copy is missing, it is unpacked
            from an archive in this folder, or downloaded, as in ``sources.read_published``.
        cache: Keeps decoded image files, unless ``config.cache`` is ``memory``; None: nothing does.
        progress: Is called now and then while image files are decoded; None: log lines are written.

    Raises:
        CacheUnusable: With ``cache = "disk"``, if the decoded images cannot be kept.
        StopRequested: If the cache's ``stop`` was set.
        DataError: If the data set is unknown, not available, damaged, or too small to split; if a folder or
            list is not as ``class_folders`` or ``image_list`` allows; if images are unreadable, or with
            ``corrupt = "skip"`` all images of a split are, or all of a class to train on.
    """
    drawn = drawn_images.draw_images(config, root)
    if not reads_files(config.dataset):
        read = {name: _to_tensors(split) for name, split in drawn.splits.items()}
        return _make_dataset(config.dataset, drawn.source, read)
    decoded = decoded_splits.read_splits(drawn.source.classes, drawn.splits, config, cache, progress)
    dataset = _make_dataset(config.dataset, drawn.source, decoded.splits, decoded.skipped)
    notes = (*decoded.notes, *_describe_files(drawn.source, dataset, config))
    return replace(dataset, notes=notes)


def _to_tensors(split: sources.SourceSplit) -> Split:
    assert isinstance(split.images, Tensor)
    return Split(images=split.images, labels=torch.from_numpy(split.labels))


def check_metric(metric: str, dataset: Dataset) -> None:
    """Check that a metric has a value on the images that trials are measured on.

    Raises:
        DataError: If it has none.
    """
    classes, present = (
        len(dataset.classes),
        int((dataset.selection.count_classes(len(dataset.classes)) > 0).sum()),
    )
    found = {
        "auroc": (present < 2, "two classes or more in the split that trials are measured on"),
        "top5_accuracy": (classes <= TOP, f"more than {TOP} classes"),
    }
    lacks, wanted = found.get(metric, (False, ""))
    if lacks:
        count = present if metric == "auroc" else classes
        raise errors.DataError(
            f"train.metric: {metric} needs {wanted}; '{dataset.name}' has {count}; choose another metric, "
            "such as balanced_accuracy"
        )


def dataset_shape(config: Config, root: Path, scan: FolderScan | None = None) -> DatasetShape:
    """Return the size of what ``load_dataset`` would return.

    A data set that hpo knows by name is neither read nor downloaded for this. Of other images only the
    headers are read, so images that are damaged further on count as readable.

    Args:
        config: The trial's settings.
        root: The data folder; not used for a data set whose size is known.
        scan: What the headers say, if they were read already.

    Raises:
        DataError: If a data set that has to be loaded cannot be, or is unknown.
    """
    if (known := known_shape(config)) is not None:
        return known
    scan = scan or drawn_images.draw_images(config, root).scan()
    scan.check(config.corrupt)
    counts = {name: sum(each) for name, each in scan.readable_images().items()}
    return DatasetShape(
        train=counts["train"],
        selection=counts["valid" if "valid" in counts else "test"],
        pixels=config.image_size,
        channels=3,
        classes=len(scan.classes),
    )


def _describe_files(source: sources.Source, dataset: Dataset, config: Config) -> Iterator[str]:
    """Yield lines on what the user who made a folder or list may not expect."""
    ignored = [file for split in source.shipped for file in split.ignored_files]
    if ignored:
        yield (
            f"{dataset.name}: ignored {len(ignored)} file{'s' * (len(ignored) > 1)} of other kinds, such "
            f"as {ignored[0]}; supported are {' '.join(image_files.IMAGE_SUFFIXES)}"
        )
    measured = set(dataset.selection.labels.tolist())
    missing = [name for label, name in enumerate(dataset.classes) if label not in measured]
    if missing and config.limit is None:
        names = errors.join_names([f"'{name}'" for name in missing], 10)
        yield (
            f"{dataset.name}: trials are measured without {names}: too few images; put in ten or more of "
            "each class"
        )


def _make_dataset(
    name: str, source: sources.Source, read: Mapping[SplitName, Split], skipped: tuple[str, ...] = ()
) -> Dataset:
    return Dataset(
        name=name,
        classes=source.classes,
        train=read["train"],
        valid=read.get("valid"),
        test=read["test"],
        available=source.count_images(),
        skipped=skipped,
    )
