"""Which images of a data set a study uses, and in which split each of them is; none is decoded.

A source (``sources``, ``own_images``) lists the images. They are shuffled per class with the seed
``split_seed``, divided into train, valid and test, and reduced to ``limit``, by what is in ``splits``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpo import errors
from hpo.training import folder_scan, own_images, sources, splits
from hpo.training.config import DATASETS, OWN_DATASETS, Config, FinalConfig, has_own_images
from hpo.training.data_facts import SplitName
from hpo.training.folder_scan import FolderScan, ListedFile, Progress
from hpo.training.used_files import ContentHashes, UsedFiles


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnImages:
    """The images that a study uses. Who wants to know several things of them draws them once."""

    config: Config
    root: Path  # the data folder
    source: sources.Source
    splits: Mapping[SplitName, sources.SourceSplit]

    @property
    def files(self) -> list[ListedFile]:
        """The files; none where the source ships pixels."""
        return folder_scan.list_files(self.splits)

    def scan(self, hashes: ContentHashes | None = None, progress: Progress | None = None) -> FolderScan:
        """Read the headers of the files.

        Args:
            hashes: To look for files with the same content; None: do not.
            progress: Is called now and then.

        Raises:
            DataError: If the file system fails.
        """
        return folder_scan.scan_files(self.config, self.source.classes, self.splits, hashes, progress)

    def list_used_files(self, hashes: ContentHashes, progress: Progress | None = None) -> UsedFiles:
        """Return the user's own files with a hash of each.

        Args:
            hashes: Knows the files that did not change since it last read them.
            progress: Is called now and then.

        Raises:
            DataError: If the file system fails.
        """
        dataset = self.config.dataset
        labels = None if own_images.has_class_in_path(dataset) else self.source.classes
        return hashes.list_files(own_images.root_of(dataset, self.root), self.files, progress, labels)


def draw_images(
    config: Config, root: Path, progress: Progress | None = None, *, makes_copy: bool = True
) -> DrawnImages:
    """Find the images of a data set, and draw the splits.

    Args:
        config: Only ``dataset`` and the options that decide on splits matter.
        root: The data folder, as for ``datasets.load_dataset``.
        progress: Is called now and then while a set of the Hugging Face hub is copied.
        makes_copy: Whether to make such a copy.

    Raises:
        MissingImages: If the user's own images are not here.
        DataError: As ``find_source``, or if there are too few images to split.
    """
    source = find_source(config, root, progress, makes_copy=makes_copy)
    return DrawnImages(config=config, root=root, source=source, splits=draw_splits(source, config))


def list_used_files(config: Config, root: Path, hashes: ContentHashes) -> UsedFiles:
    """Return which of the user's own files a study uses, with a hash of each.

    A trial of ``hpo finish`` uses those of the study's trials, so it has the same list.

    Args:
        config: Its ``dataset`` must be the user's own images (``config.has_own_images``).
        root: The data folder.
        hashes: Knows the files that did not change since it last read them.

    Raises:
        DataError: As ``draw_images``, or if the file system fails.
    """
    if isinstance(config, FinalConfig):
        config = Config(**config.model_dump() | {"selection": "valid"})
    return draw_images(config, root).list_used_files(hashes)


def find_source(
    config: Config, root: Path, progress: Progress | None = None, *, makes_copy: bool = True
) -> sources.Source:
    """Return the images of a data set: pixels, or files that have not been read.

    Args:
        config: Only ``dataset`` matters.
        root: The data folder, as for ``datasets.load_dataset``; the hub's sets are copied into it.
        progress: Is called now and then while such a copy is made.
        makes_copy: Whether to make one.

    Raises:
        MissingImages: If the user's own images are not here.
        DataError: If the data set is unknown or not available, or not as ``class_folders``, ``image_list``
            or ``hub_sets`` allows.
    """
    if has_own_images(config.dataset):
        return own_images.list_images(config.dataset, root, progress, makes_copy=makes_copy)
    if config.dataset not in DATASETS:
        hint = errors.suggestion(config.dataset, DATASETS)
        known = ", ".join((*DATASETS, *OWN_DATASETS.values()))
        raise errors.DataError(f"train.dataset: no data set '{config.dataset}'{hint or ';'} known: {known}")
    if config.dataset == "digits":
        return sources.read_digits()
    return sources.read_published(config.dataset, root)


def draw_splits(source: sources.Source, config: Config) -> dict[SplitName, sources.SourceSplit]:
    """Draw the splits and limit them; no file is read.

    Returns:
        The images of each split, in the source's order. For a ``FinalConfig`` those of "valid" come behind
        those of "train".
    """
    rng = np.random.default_rng(config.split_seed)
    shipped = (source.train, source.valid, source.test)
    train, valid, test = (_shuffle(split, len(source.classes), rng) for split in shipped)
    held_out = max(1, round(config.valid_fraction * len(source.train.labels)))
    if source.test is None:
        test, train = splits.hold_out(train, held_out, config.dataset)
    if source.valid is None and config.selection != "test":
        valid, train = splits.hold_out(train, held_out, config.dataset)
    chosen: dict[SplitName, tuple[sources.SourceSplit, splits.ClassIndices]] = {
        "train": (source.train, train),
        "valid": (source.valid or source.train, valid),
        "test": (source.test or source.train, test),
    }
    if config.selection == "test":
        del chosen["valid"]
    total = sum(map(len, train))
    limit = min(config.limit or total, total)
    drawn = {
        name: split.take(np.sort(np.concatenate(splits.apply_limit(indices, limit, total))))
        for name, (split, indices) in chosen.items()
    }
    if isinstance(config, FinalConfig):
        drawn["train"] = drawn["train"].extended_by(drawn.pop("valid"))
    return drawn


def _shuffle(
    split: sources.SourceSplit | None, classes: int, rng: np.random.Generator
) -> splits.ClassIndices:
    labels = np.empty(0, dtype=np.int64) if split is None else split.labels
    return splits.shuffle_per_class(labels, classes, rng)
