"""Data sets as uint8 tensors, in stratified splits that every worker draws alike.

A source says which images there are. They are shuffled per class by ``split_seed``, dealt out to train,
valid and test, and cut down to ``limit``; only then are files of a folder decoded, so that a small limit
on a large folder is quick.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpo import errors
from hpo.training import sources, transforms
from hpo.training.config import DATASETS, Config, FinalConfig

logger = logging.getLogger(__name__)

# Indices into a pool, per class, shuffled: the order in which a limit keeps them.
_ClassIndices = list[NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Images with their labels, on one device."""

    images: Tensor  # uint8 [N, C, H, W], contiguous, C 1 or 3
    labels: Tensor  # int64 [N], indices into Dataset.classes

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        """Give the split on ``device``."""
        return Split(images=self.images.to(device), labels=self.labels.to(device))

    def batch(self, chosen: Tensor | slice, device: torch.device) -> tuple[Tensor, Tensor]:
        """Give chosen images and labels on ``device``; indices lie where the split does.

        From a split that stayed in the host's memory they cross over pinned memory, while the host goes on.
        """
        images_NCHW, labels_N = self.images[chosen], self.labels[chosen]
        if images_NCHW.device.type == device.type:
            return images_NCHW, labels_N
        pinned = (images_NCHW.pin_memory(), labels_N.pin_memory())
        return pinned[0].to(device, non_blocking=True), pinned[1].to(device, non_blocking=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A data set in disjoint splits; ``valid`` is None where accuracy is measured on ``test``.

    For a ``Final`` trial what a study has as ``valid`` is part of ``train``.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    valid: Split | None = None
    test: Split
    skipped: tuple[str, ...] = ()  # paths of image files left out as unreadable

    @property
    def selection(self) -> Split:
        """The split that accuracy is measured on: ``valid``, or ``test`` where there is none."""
        return self.test if self.valid is None else self.valid

    @property
    def nbytes(self) -> int:
        """Count the bytes of all images."""
        splits = (self.train, self.valid, self.test)
        return sum(split.images.nbytes for split in splits if split is not None)

    def to_if_it_fits(self, device: torch.device) -> "Dataset":
        """Give the data set on ``device``, if it fits into half of what is free there; else as it is."""
        if device.type == "cuda" and 2 * self.nbytes > torch.cuda.mem_get_info(device)[0]:
            return self
        return self.to(device)

    def to(self, device: torch.device | str) -> "Dataset":
        """Give the data set with all its splits on ``device``."""
        valid = None if self.valid is None else self.valid.to(device)
        return replace(self, train=self.train.to(device), valid=valid, test=self.test.to(device))

    def describe(self) -> dict[str, Any]:
        """Say what must be known to use a model that was trained on it, as plain values.

        ``pixels`` is the side of its square images, ``channels`` 1 where they are grey.
        """
        splits = {"train": self.train, "valid": self.valid, "test": self.test}
        _, channels, pixels, _ = self.train.images.shape
        return {
            "classes": list(self.classes),
            "channels": channels,
            "pixels": pixels,
            "images": {name: len(split) for name, split in splits.items() if split is not None},
            "skipped": len(self.skipped),
        }


def load_dataset(config: Config, root: Path) -> Dataset:
    """Load the data set that ``config`` names, split and limited as it says, onto the CPU.

    Images keep their size, but for those of a folder, which become squares of ``image_size``.

    Args:
        config: only the options that decide which images there are, and ``image_size``, count.
        root: folder of copies. A missing one is downloaded into it, or unpacked from an archive there;
            a lock file stays behind.

    Raises:
        DataError: unknown, not to be had, broken, or too small to split.
    """
    kind, colon, place = config.dataset.partition(":")
    if kind == "folder" and colon:
        source = sources.list_folder(place)
        drawn = _draw_splits(source, config)
        _warn_about_folder(source, drawn, config)
        return drawn
    if config.dataset not in DATASETS:
        hint = errors.suggestion(config.dataset, DATASETS)
        known = ", ".join((*DATASETS, "folder:PATH"))
        raise errors.DataError(f"train.dataset: no data set '{config.dataset}'{hint or ';'} known: {known}")
    return _draw_splits(
        sources.read_digits()
        if config.dataset == "digits"
        else sources.read_published(config.dataset, root),
        config,
    )


# Images to train on and to test on, pixels, channels and classes of the published sets.
PUBLISHED_SHAPES = {
    "cifar10": (50_000, 10_000, 32, 3, 10),
    "cifar100": (50_000, 10_000, 32, 3, 100),
    "svhn": (73_257, 26_032, 32, 3, 10),
    "mnist": (60_000, 10_000, 28, 1, 10),
    "fashion_mnist": (60_000, 10_000, 28, 1, 10),
}


@dataclass(frozen=True, kw_only=True)
class DatasetShape:
    """How much a data set is, and of what kind."""

    train: int  # images
    selection: int
    pixels: int
    channels: int
    classes: int


def dataset_shape(config: Config, root: Path) -> DatasetShape:
    """Give the shape of what ``load`` would give; a published set is not read or downloaded for it."""
    if config.dataset not in PUBLISHED_SHAPES:
        found = load_dataset(config, root)
        _, channels, pixels, _ = found.train.images.shape
        return DatasetShape(
            train=len(found.train),
            selection=len(found.selection),
            pixels=pixels,
            channels=channels,
            classes=len(found.classes),
        )
    total, test, pixels, channels, classes = PUBLISHED_SHAPES[config.dataset]
    held_out = round(config.valid_fraction * total) if config.selection == "valid" else 0
    train = total - held_out
    limit = min(config.limit or train, train)
    selection = max(round((held_out or test) * limit / train), min(classes, limit))
    return DatasetShape(train=limit, selection=selection, pixels=pixels, channels=channels, classes=classes)


def check_folder(config: Config) -> None:
    """Look for the class folders of a ``folder:PATH``, without reading an image; raises DataError."""
    sources.list_folder(config.dataset.partition(":")[2])


def _warn_about_folder(source: sources.Source, drawn: Dataset, config: Config) -> None:
    """Say what a person who made the folder may not expect."""
    pools = [pool for pool in (source.train, source.valid, source.test) if pool is not None]
    others = [file for pool in pools for file in pool.ignored_files]
    if others:
        logger.warning(
            "%s: passed over %d file%s of other kinds, as %s; read are %s",
            *(
                drawn.name,
                len(others),
                "s" * (len(others) > 1),
                others[0],
                " ".join(transforms.IMAGE_SUFFIXES),
            ),
        )
    there = set(drawn.selection.labels.tolist())
    unseen = [name for label, name in enumerate(drawn.classes) if label not in there]
    if unseen and config.limit is None:
        logger.warning(
            "%s: accuracy is measured without %s: too few images; put in ten or more of each class",
            *(drawn.name, ", ".join(f"'{name}'" for name in unseen)),
        )


def _draw_splits(source: sources.Source, config: Config) -> Dataset:
    """Draw the splits, limit them, and read what is in them."""
    rng = np.random.default_rng(config.split_seed)
    shipped = (source.train, source.valid, source.test)
    train, valid, test = (_shuffle_per_class(pool, len(source.classes), rng) for pool in shipped)
    held_out = max(1, round(config.valid_fraction * len(source.train.labels)))
    if source.test is None:
        test, train = _hold_out(train, held_out, config.dataset)
    if source.valid is None and config.selection != "test":
        valid, train = _hold_out(train, held_out, config.dataset)
    chosen = [("train", source.train, train), ("test", source.test or source.train, test)]
    if config.selection != "test":
        chosen.insert(1, ("valid", source.valid or source.train, valid))
    total = sum(map(len, train))
    limit = min(config.limit or total, total)
    skipped: list[str] = []
    splits = {
        name: _read_split(pool, _apply_limit(groups, limit, total), config, skipped)
        for name, pool, groups in chosen
    }
    if isinstance(config, FinalConfig):
        splits["train"] = _concatenate(splits["train"], splits.pop("valid"))
    lost = sorted(set(range(len(source.classes))) - set(splits["train"].labels.tolist()))
    if skipped and lost and limit >= len(source.classes):
        raise errors.DataError(f"{config.dataset}: no readable {source.classes[lost[0]]} to train on")
    return Dataset(name=config.dataset, classes=source.classes, skipped=tuple(skipped), **splits)


def _concatenate(first: Split, second: Split) -> Split:
    images_NCHW = torch.cat([first.images, second.images])
    return Split(images=images_NCHW, labels=torch.cat([first.labels, second.labels]))


def _shuffle_per_class(
    pool: sources.SourceSplit | None, classes: int, rng: np.random.Generator
) -> _ClassIndices:
    labels = np.empty(0, dtype=np.int64) if pool is None else pool.labels
    return [rng.permutation(np.flatnonzero(labels == label)) for label in range(classes)]


def _split_at(groups: _ClassIndices, shares: NDArray[np.int64]) -> tuple[_ClassIndices, _ClassIndices]:
    """Part the first so many of each class from the rest."""
    pairs = list(zip(groups, shares, strict=True))
    return [group[:share] for group, share in pairs], [group[share:] for group, share in pairs]


def _hold_out(groups: _ClassIndices, count: int, name: str) -> tuple[_ClassIndices, _ClassIndices]:
    """Part ``count`` images from the rest, of which every class keeps one."""
    sizes = np.array([len(group) for group in groups])
    shares = _apportion(count, sizes, np.maximum(sizes - 1, 0))
    if not shares.any():
        raise errors.DataError(f"{name}: {sizes.sum()} images are too few to hold some out for evaluation")
    return _split_at(groups, shares)


def _apply_limit(groups: _ClassIndices, limit: int, total: int) -> _ClassIndices:
    """Keep ``limit`` in ``total`` of the images, and one of each class where there are enough."""
    sizes = np.array([len(group) for group in groups])
    size = int(sizes.sum())
    shares = _apportion(max(round(size * limit / total), min(len(groups), size, limit)), sizes, sizes)
    for missed in np.flatnonzero((shares == 0) & (sizes > 0)):
        if shares.max() > 1:
            shares[shares.argmax()] -= 1
            shares[missed] = 1
    return _split_at(groups, shares)[0]


def _apportion(count: int, sizes: NDArray[np.int64], limits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Apportion ``count`` to classes in proportion to ``sizes`` by largest remainders, up to ``most``.

    In whole numbers, so that every platform gives a tie to the same class: the first.
    """
    shares, remainders = np.divmod(count * sizes, sizes.sum())
    shares = np.minimum(shares, limits)
    order = np.argsort(-remainders, kind="stable")
    while (missing := min(count, limits.sum()) - shares.sum()) > 0:
        shares[order[shares[order] < limits[order]][:missing]] += 1
    return shares


def _read_split(
    pool: sources.SourceSplit, groups: _ClassIndices, config: Config, skipped: list[str]
) -> Split:
    """Read the images of a split in the source's order; unreadable ones are added to ``skipped``."""
    indices = torch.from_numpy(np.sort(np.concatenate(groups)))
    labels = torch.from_numpy(pool.labels)[indices]
    if isinstance(pool.images, Tensor):
        return Split(images=pool.images[indices], labels=labels)
    pixels = torch.empty((len(indices), 3, config.image_size, config.image_size), dtype=torch.uint8)
    kept: list[int] = []
    for place, index in enumerate(indices.tolist()):
        file = pool.images[index]
        try:
            pixels[len(kept)] = torch.from_numpy(transforms.read_image(file, config.image_size))
            kept.append(place)
        except ValueError as cause:
            if config.corrupt == "refuse":
                raise errors.DataError(
                    f"{file}: not a readable image ({sources.short_message(cause)}); mend or remove it, "
                    'or set train.corrupt = "skip" to leave such files out'
                ) from cause
            logger.warning("%s: left out, not a readable image (%s)", file, sources.short_message(cause))
            skipped.append(str(file))
    if not kept:
        raise errors.DataError(f"{config.dataset}: not one image of a split is readable; see {skipped[-1]}")
    return Split(images=pixels[: len(kept)], labels=labels[kept])
