"""Data sets as uint8 tensors, in stratified splits that every worker draws alike.

A source (torchvision's archives, IDX files, scikit-learn, a folder) says which images there are. They
are shuffled per class by ``split_seed``, dealt out to train, valid and test, and cut down to ``limit``;
only then are files of a folder decoded, so that a small limit on a large folder is quick.

Workers that start together on a fresh machine take turns: a copy is read under a shared lock on a
file in the data folder, and made under an exclusive one by whoever comes first. One that dies while
making it leaves a partial file behind, never one that passes for whole: torchvision checks CIFAR's and
SVHN's MD5 sums at every start, and IDX files, where it does not, are renamed into place when complete.
"""

import contextlib
import fcntl
import http.client
import io
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import datasets

from hpo import errors, images
from hpo.config import DATASETS, Config

logger = logging.getLogger(__name__)

# What a person without a network can put into the data folder, per data set.
_IDX_FILES = "{train,t10k}-images-idx3-ubyte.gz and {train,t10k}-labels-idx1-ubyte.gz"
_COPIES = {
    "cifar10": "cifar-10-python.tar.gz",
    "cifar100": "cifar-100-python.tar.gz",
    "svhn": "train_32x32.mat and test_32x32.mat",
    "mnist": f"mnist/{_IDX_FILES}",
    "fashion_mnist": f"fashion_mnist/{_IDX_FILES} (or install Debian's dataset-fashion-mnist)",
}

# Indices into a pool, per class, shuffled: the order in which a limit keeps them.
_Groups = list[NDArray[np.int64]]


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A data set in disjoint splits; ``valid`` is None where accuracy is measured on ``test``."""

    name: str
    classes: tuple[str, ...]
    train: Split
    valid: Split | None = None
    test: Split
    skipped: tuple[str, ...] = ()  # paths of image files left out as unreadable

    @property
    def selection(self) -> Split:
        """The split that settings are compared on: ``valid``, or ``test`` under selection "test"."""
        return self.test if self.valid is None else self.valid

    def to(self, device: torch.device | str) -> "Dataset":
        """Give the data set with all its splits on ``device``."""
        valid = None if self.valid is None else self.valid.to(device)
        return replace(self, train=self.train.to(device), valid=valid, test=self.test.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pool:
    """What a source ships as one split: pixels, or files yet to be decoded."""

    images: Tensor | tuple[Path, ...]  # uint8 [N, C, H, W], or N files
    labels: NDArray[np.int64]  # [N]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Source:
    classes: tuple[str, ...]
    train: _Pool
    valid: _Pool | None = None
    test: _Pool | None = None


def load(config: Config, root: Path) -> Dataset:
    """Load the data set that ``config`` names, split and limited as it says, onto the CPU.

    Images keep their size, but for those of a folder, which become squares of ``image_size``.

    Args:
        config: only the options in ``config.STUDY_WIDE`` and ``image_size`` count.
        root: folder of copies. A missing one is downloaded into it, or unpacked from an archive there;
            a lock file stays behind.

    Raises:
        DataError: unknown, not to be had, broken, or too small to split.
    """
    kind, colon, place = config.dataset.partition(":")
    if kind == "folder" and colon:
        return _drawn(_folder(place), config)
    if config.dataset not in DATASETS:
        hint = errors.suggestion(config.dataset, DATASETS)
        known = ", ".join((*DATASETS, "folder:PATH"))
        raise errors.DataError(f"train.dataset: no data set '{config.dataset}'{hint}; known: {known}")
    return _drawn(_digits() if config.dataset == "digits" else _copy(config.dataset, root), config)


def _digits() -> _Source:
    """Give scikit-learn's 1,797 digits of 8 by 8 pixels, 0..16 stretched to 0..255."""
    # Imported here: it takes half a second, which no other data set should pay.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return _Source(classes=tuple("0123456789"), train=_pool(pixels[:, None], bunch.target))


def _pool(images_NCHW: NDArray[np.uint8], labels_N: object) -> _Pool:
    pixels = torch.from_numpy(np.ascontiguousarray(images_NCHW))
    return _Pool(images=pixels, labels=np.asarray(labels_N, dtype=np.int64))


def _copy(name: str, root: Path) -> _Source:
    """Read the copy of a published data set, after unpacking or downloading one if there is none."""
    try:
        with _lock(root, name, fcntl.LOCK_SH):
            source = _read(name, root)
        return source or _made(name, root)
    # A wrong checksum is a RuntimeError of torchvision's, most others are OSErrors.
    except (RuntimeError, OSError, EOFError, http.client.HTTPException) as cause:
        raise errors.DataError(
            f"{name}: no complete copy in {root}, and downloading one failed ({_short(cause)}); "
            f"put {_COPIES[name]} there, or name the folder that has it with --data or HPO_DATA"
        ) from cause


def _made(name: str, root: Path) -> _Source:
    """Make a copy and read it; an archive in ``root`` with the right checksum is only unpacked."""
    root.mkdir(parents=True, exist_ok=True)
    with _lock(root, name, fcntl.LOCK_EX):
        source = _read(name, root)  # another worker may have made it while this one waited
        if source is None:
            logger.info("downloading %s into %s (an archive that lies there is unpacked)", name, root)
            with _quiet_network():
                source = _read(name, root, download=True)
    if source is None:
        raise RuntimeError("files are missing")
    return source


def _short(cause: BaseException) -> str:
    """Give the last line of an error's text, which is where torchvision puts the cause itself."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    last = lines[-1] if lines else type(cause).__name__
    return last.removeprefix("<urlopen error ").removesuffix(">")


@contextlib.contextmanager
def _lock(root: Path, name: str, kind: int) -> Iterator[None]:
    """Hold the data set's lock, ``LOCK_SH`` to read or ``LOCK_EX`` to write; waits for the others."""
    with contextlib.ExitStack() as held:
        try:
            # Open for both: over NFS each kind of lock asks for a file open that way.
            file = held.enter_context((root / f".{name}.lock").open("a+"))
            fcntl.flock(file, kind)
        except OSError:
            if kind == fcntl.LOCK_EX:
                raise
            # No folder yet, or one that cannot be written to: a reader needs no lock there.
        yield


def _read(name: str, root: Path, *, download: bool = False) -> _Source | None:
    """Read a complete copy, after downloading one if so asked; None where there is none."""
    if name in ("mnist", "fashion_mnist"):
        kind = datasets.MNIST if name == "mnist" else datasets.FashionMNIST
        if download:
            _download_idx(kind, root)
        debian = Path("/usr/share/datasets") / name.replace("_", "-")  # of dataset-fashion-mnist
        return _idx_copy(kind, [root / kind.__name__ / "raw", root / name, debian])
    try:
        return _svhn(root, download) if name == "svhn" else _cifar(name, root, download)
    except RuntimeError:  # torchvision's word for "not there, or with a wrong checksum"
        if download:
            raise
        return None


@contextlib.contextmanager
def _quiet_network() -> Iterator[None]:
    """Keep torchvision's progress bars off the terminal, and give up on servers that fall silent."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds without a byte
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _download_idx(kind: type[datasets.MNIST], root: Path) -> None:
    target = root / kind.__name__ / "raw"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as staging:
        kind(staging, download=True)
        for file in (Path(staging) / kind.__name__ / "raw").iterdir():
            os.replace(file, target / file.name)


def _cifar(name: str, root: Path, download: bool) -> _Source:
    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    train, test = (kind(root, train=part, download=download) for part in (True, False))
    pools = [_pool(part.data.transpose(0, 3, 1, 2), part.targets) for part in (train, test)]
    return _Source(classes=tuple(train.classes), train=pools[0], test=pools[1])


def _svhn(root: Path, download: bool) -> _Source:
    parts = [datasets.SVHN(root, split=split, download=download) for split in ("train", "test")]
    train, test = (_pool(part.data, part.labels) for part in parts)
    return _Source(classes=tuple("0123456789"), train=train, test=test)


def _idx_copy(kind: type[datasets.MNIST], folders: list[Path]) -> _Source | None:
    """Read the first of the folders that holds all four files, compressed or not."""
    for folder in folders:
        train, test = (_idx_pool(folder, part) for part in ("train", "t10k"))
        if train and test:
            return _Source(classes=tuple(kind.classes), train=train, test=test)
    return None


def _idx_pool(folder: Path, part: str) -> _Pool | None:
    try:
        pixels = images.read_idx(folder / f"{part}-images-idx3-ubyte", dimensions=3)
        labels = images.read_idx(folder / f"{part}-labels-idx1-ubyte", dimensions=1)
        if len(pixels) != len(labels) or labels.max(initial=0) > 9:
            raise ValueError(f"{part} labels that do not belong to the images")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as cause:
        raise errors.DataError(f"{folder}: broken ({_short(cause)}); replace or remove it") from cause
    return _pool(pixels[:, None], labels)


def _folder(place: str) -> _Source:
    """List a folder of class folders, or of train, valid and test folders that hold class folders."""
    path = Path(place).expanduser()
    if not place or not path.is_dir():
        raise errors.DataError(f"train.dataset: 'folder:{place}': there is no such folder")
    parts = [sub.name for sub in _subfolders(path)]
    # A class may be called "train" too; it then holds images rather than folders.
    nested = [name for name in ("train", "valid", "test") if name in parts and _subfolders(path / name)]
    if nested and "train" not in nested:
        raise errors.DataError(f"{path}: class folders in {' and '.join(nested)}, but none in train")
    if nested and (strangers := [name for name in parts if name not in ("train", "valid", "test")]):
        raise errors.DataError(f"{path}: '{strangers[0]}' lies beside train; allowed there: valid, test")
    base = path / "train" if nested else path
    classes = tuple(sub.name for sub in _subfolders(base))
    if len(classes) < 2:
        found = f"one class folder only, '{classes[0]}'" if classes else "no class folders"
        raise errors.DataError(f"{base}: {found}; needed are two or more, each with the images of a class")
    pools = {name: _listed(path / name, classes) for name in parts if nested}
    train = pools["train"] if nested else _listed(base, classes)
    return _Source(classes=classes, train=train, valid=pools.get("valid"), test=pools.get("test"))


def _subfolders(path: Path) -> list[Path]:
    return sorted(sub for sub in path.iterdir() if sub.is_dir() and not sub.name.startswith("."))


def _listed(path: Path, classes: tuple[str, ...]) -> _Pool:
    """List the image files of a split in the order of classes, then of paths; decode none."""
    found: list[tuple[Path, int]] = []
    for folder in _subfolders(path):
        if folder.name not in classes:
            raise errors.DataError(f"{folder}: no such class in train, only {', '.join(classes)}")
        files = images.files(folder)
        if not files:
            raise errors.DataError(f"{folder}: no images in it; read are {' '.join(images.SUFFIXES)}")
        found += [(file, classes.index(folder.name)) for file in files]
    if not found:
        raise errors.DataError(f"{path}: no class folders; put some in or remove it")
    labels = np.array([label for _, label in found], dtype=np.int64)
    return _Pool(images=tuple(file for file, _ in found), labels=labels)


def _drawn(source: _Source, config: Config) -> Dataset:
    """Draw the splits, limit them, and read what is in them."""
    rng = np.random.default_rng(config.split_seed)
    shipped = (source.train, source.valid, source.test)
    train, valid, test = (_shuffled(pool, len(source.classes), rng) for pool in shipped)
    held_out = max(1, round(config.valid_fraction * len(source.train.labels)))
    if source.test is None:
        test, train = _held_out(train, held_out, config.dataset)
    if source.valid is None and config.selection == "valid":
        valid, train = _held_out(train, held_out, config.dataset)
    chosen = [("train", source.train, train), ("test", source.test or source.train, test)]
    if config.selection == "valid":
        chosen.insert(1, ("valid", source.valid or source.train, valid))
    total = sum(map(len, train))
    limit = min(config.limit or total, total)
    skipped: list[str] = []
    splits = {
        name: _gathered(pool, _limited(groups, limit, total), config, skipped)
        for name, pool, groups in chosen
    }
    lost = sorted(set(range(len(source.classes))) - set(splits["train"].labels.tolist()))
    if skipped and lost and limit >= len(source.classes):
        raise errors.DataError(f"{config.dataset}: no readable {source.classes[lost[0]]} to train on")
    return Dataset(name=config.dataset, classes=source.classes, skipped=tuple(skipped), **splits)


def _shuffled(pool: _Pool | None, classes: int, rng: np.random.Generator) -> _Groups:
    labels = np.empty(0, dtype=np.int64) if pool is None else pool.labels
    return [rng.permutation(np.flatnonzero(labels == label)) for label in range(classes)]


def _dealt(groups: _Groups, shares: NDArray[np.int64]) -> tuple[_Groups, _Groups]:
    """Part the first so many of each class from the rest."""
    pairs = list(zip(groups, shares, strict=True))
    return [group[:share] for group, share in pairs], [group[share:] for group, share in pairs]


def _held_out(groups: _Groups, count: int, name: str) -> tuple[_Groups, _Groups]:
    """Part ``count`` images from the rest, of which every class keeps one."""
    sizes = np.array([len(group) for group in groups])
    shares = _shares(count, sizes, np.maximum(sizes - 1, 0))
    if not shares.any():
        raise errors.DataError(f"{name}: {sizes.sum()} images are too few to hold some out for evaluation")
    return _dealt(groups, shares)


def _limited(groups: _Groups, limit: int, total: int) -> _Groups:
    """Keep ``limit`` in ``total`` of the images, and one of each class where there are enough."""
    sizes = np.array([len(group) for group in groups])
    size = int(sizes.sum())
    shares = _shares(max(round(size * limit / total), min(len(groups), size, limit)), sizes, sizes)
    for missed in np.flatnonzero((shares == 0) & (sizes > 0)):
        if shares.max() > 1:
            shares[shares.argmax()] -= 1
            shares[missed] = 1
    return _dealt(groups, shares)[0]


def _shares(count: int, sizes: NDArray[np.int64], most: NDArray[np.int64]) -> NDArray[np.int64]:
    """Apportion ``count`` to classes in proportion to ``sizes`` by largest remainders, up to ``most``.

    In whole numbers, so that every platform gives a tie to the same class: the first.
    """
    shares, remainders = np.divmod(count * sizes, sizes.sum())
    shares = np.minimum(shares, most)
    order = np.argsort(-remainders, kind="stable")
    while (missing := min(count, most.sum()) - shares.sum()) > 0:
        shares[order[shares[order] < most[order]][:missing]] += 1
    return shares


def _gathered(pool: _Pool, groups: _Groups, config: Config, skipped: list[str]) -> Split:
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
            pixels[len(kept)] = torch.from_numpy(images.read(file, config.image_size))
            kept.append(place)
        except ValueError as cause:
            if config.corrupt == "refuse":
                raise errors.DataError(
                    f"{file}: not a readable image ({_short(cause)}); mend or remove it, "
                    'or set train.corrupt = "skip" to leave such files out'
                ) from cause
            logger.warning("%s: left out, not a readable image (%s)", file, _short(cause))
            skipped.append(str(file))
    if not kept:
        raise errors.DataError(f"{config.dataset}: not one image of a split is readable; see {skipped[-1]}")
    return Split(images=pixels[: len(kept)], labels=labels[kept])
