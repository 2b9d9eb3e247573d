"""Where images come from: published data sets and scikit-learn's digits.

Published sets of image files are in ``file_sets``. The user's own images are in ``class_folders`` and
``image_list``.

**Copies of published sets.** Several workers may start at once on a fresh machine. Each data set has a lock
file in the data folder. A copy is read under a shared lock; the worker that comes first makes it under an
exclusive one. A worker that dies while making a copy leaves a partial file, which is never mistaken for a
complete one: torchvision checks the MD5 sums of CIFAR, SVHN and STL-10 at every start. It does not check
IDX files (MNIST) and image files, so these are renamed into place when they are complete.

Shape suffixes: N images, C channels (1 or 3), H rows, W columns.
"""

import contextlib
import fcntl
import http.client
import importlib.metadata
import io
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import datasets

from hpo import errors
from hpo.training import file_sets, image_files

logger = logging.getLogger(__name__)

# The files that a user without network access can put into the data folder, by data set.
_IDX_FILES = "{train,t10k}-images-idx3-ubyte.gz and {train,t10k}-labels-idx1-ubyte.gz"
_ARCHIVE_FILES = {
    "cifar10": ("cifar-10-python.tar.gz",),
    "cifar100": ("cifar-100-python.tar.gz",),
    "svhn": ("train_32x32.mat", "test_32x32.mat"),
    "stl10": ("stl10_binary.tar.gz",),
    **{
        name: tuple(archive.path for archive in each.archives) for name, each in file_sets.FILE_SETS.items()
    },
}
MANUAL_FILES = {
    **{name: " and ".join(files) for name, files in _ARCHIVE_FILES.items()},
    "mnist": f"mnist/{_IDX_FILES}",
    "fashion_mnist": f"fashion_mnist/{_IDX_FILES} (or install Debian's dataset-fashion-mnist)",
}
# Where torchvision downloads them from.
ORIGINS = {
    "cifar10": datasets.CIFAR10.url,
    "cifar100": datasets.CIFAR100.url,
    "svhn": datasets.SVHN.split_list["train"][0].rpartition("/")[0] + "/",
    "stl10": datasets.STL10.url,
    "mnist": datasets.MNIST.mirrors[0],
    "fashion_mnist": datasets.FashionMNIST.mirrors[0],
    **{name: each.origin for name, each in file_sets.FILE_SETS.items()},
}

STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


class LabelledSTL10(datasets.STL10):  # type: ignore[misc]  # torchvision has no types
    """STL-10 without its 100,000 unlabelled images, whose 2.6 GB torchvision would check at every start."""

    train_list = datasets.STL10.train_list[:2]


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceSplit:
    """One split as the source ships it: pixels, or files that have not been decoded yet."""

    images: Tensor | tuple[Path, ...]  # uint8 [N, C, H, W], or N files
    labels: NDArray[np.int64]  # [N], indices into Source.classes
    ignored_files: tuple[Path, ...] = ()  # files in the class folders that are not images

    @property
    def files(self) -> tuple[Path, ...]:
        """The files; none where the source ships pixels."""
        return () if isinstance(self.images, Tensor) else self.images

    def take(self, indices: NDArray[np.int64]) -> "SourceSplit":
        """Return the images at these indices."""
        if isinstance(self.images, Tensor):
            return SourceSplit(images=self.images[torch.from_numpy(indices)], labels=self.labels[indices])
        images = tuple(self.images[index] for index in indices)
        return SourceSplit(images=images, labels=self.labels[indices])

    def extended_by(self, other: "SourceSplit") -> "SourceSplit":
        """Return these images, and those of a split of the same source behind them."""
        labels = np.concatenate([self.labels, other.labels])
        if isinstance(self.images, Tensor) and isinstance(other.images, Tensor):
            return SourceSplit(images=torch.cat([self.images, other.images]), labels=labels)
        return SourceSplit(images=self.files + other.files, labels=labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What a data set consists of; splits that it does not ship are None."""

    classes: tuple[str, ...]
    train: SourceSplit
    valid: SourceSplit | None = None
    test: SourceSplit | None = None

    @property
    def shipped(self) -> tuple[SourceSplit, ...]:
        """The splits that it ships."""
        return tuple(split for split in (self.train, self.valid, self.test) if split is not None)

    def count_images(self) -> int:
        """Return the number of images of all its splits, whether a study uses them or not."""
        return sum(len(split.labels) for split in self.shipped)


def read_digits() -> Source:
    """Return scikit-learn's 1,797 digits as uint8 [N, 1, 8, 8]; the values 0..16 are scaled to 0..255.

    All of them are in ``train``.
    """
    # The file is read as load_digits does. Importing scikit-learn would take most of a second per worker.
    installed = importlib.metadata.distribution("scikit-learn")
    rows = np.loadtxt(str(installed.locate_file("sklearn/datasets/data/digits.csv.gz")), delimiter=",")
    pixels = np.rint(rows[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Source(classes=tuple("0123456789"), train=_source_split(pixels, rows[:, -1]))


def _source_split(images_NCHW: NDArray[np.uint8], labels_N: object) -> SourceSplit:
    pixels = torch.from_numpy(np.ascontiguousarray(images_NCHW))
    return SourceSplit(images=pixels, labels=np.asarray(labels_N, dtype=np.int64))


def read_published(name: str, root: Path) -> Source:
    """Read the copy of a published data set; if there is none, unpack an archive or download one.

    MNIST and Fashion-MNIST are also found where Debian installs them. The new copy and a lock file stay in
    ``root``.

    Args:
        name: One of ``MANUAL_FILES``.
        root: The data folder; created if a copy has to be made. To read one, it need not be writable.

    Raises:
        DataError: If there is no complete copy and none can be made, files of MNIST or Fashion-MNIST are
            damaged, or image files are missing in a copy that has been unpacked.
    """
    try:
        with _denied_as_data_error(name, root), dataset_lock(root, name, fcntl.LOCK_SH):
            source = _read_copy(name, root)
        return source or _download_and_read(name, root)
    # torchvision raises RuntimeError for a wrong checksum; most other errors are OSErrors.
    except (RuntimeError, OSError, EOFError, http.client.HTTPException) as cause:
        raise errors.DataError(
            f"{name}: no complete copy in {root}{_damaged_archives(name, root)}; downloading one failed "
            f"({short_message(cause)}); put {MANUAL_FILES[name]} from {ORIGINS[name]} there, or name the "
            "folder that has it with --data or HPO_DATA"
        ) from cause


def _damaged_archives(name: str, root: Path) -> str:
    """Return a clause for archives of a data set that are all there, and so of no use; else empty."""
    files = _ARCHIVE_FILES.get(name, ())
    if not files or not all((root / file).is_file() for file in files):
        return ""
    return f" although {MANUAL_FILES[name]} {'are' if len(files) > 1 else 'is'} there: damaged or not whole"


def has_copy(name: str, root: Path) -> bool:
    """Return whether there is a complete copy of a data set; always True for "digits".

    The whole copy is read; of sets of image files only the list. An archive that is still to be unpacked is
    no copy (``is_packed``), nor are damaged files of CIFAR, SVHN or STL-10. A lock file is created in
    ``root`` if it is a writable folder.

    Args:
        name: One of ``MANUAL_FILES``, or "digits".
        root: The data folder.

    Raises:
        DataError: If files of MNIST or Fashion-MNIST are damaged, or image files are missing; or if this
            user may not read the copy.
    """
    with _denied_as_data_error(name, root), dataset_lock(root, name, fcntl.LOCK_SH):
        return name == "digits" or _read_copy(name, root) is not None


def is_packed(name: str, root: Path) -> bool | None:
    """Return whether ``root`` has all archives of a data set as published; False if one is another file.

    None if one is missing, or the data set is used as it is packed. Each archive is read as a whole.

    Raises:
        DataError: If this user may not read an archive.
    """
    if name in file_sets.FILE_SETS:
        archives = [(each.path, each.md5) for each in file_sets.FILE_SETS[name].archives]
    else:
        kinds = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "stl10": datasets.STL10}
        archives = [(MANUAL_FILES[name], kinds[name].tgz_md5)] if name in kinds else []
    with _denied_as_data_error(name, root):
        return file_sets.are_packed(archives, root)


@contextlib.contextmanager
def _denied_as_data_error(name: str, root: Path) -> Iterator[None]:
    """Turn the error that a file may not be read into one line."""
    try:
        yield
    except PermissionError as cause:
        place = cause.filename or root
        raise errors.DataError(f"{name}: {place}: {cause.strerror}; hpo must be able to read it") from cause


def _download_and_read(name: str, root: Path) -> Source:
    """Make a copy and read it; an archive in ``root`` with the right checksum is only unpacked."""
    root.mkdir(parents=True, exist_ok=True)
    with dataset_lock(root, name, fcntl.LOCK_EX):
        source = _read_copy(name, root)  # another worker may have made it while this one waited
        if source is None:
            logger.info("downloading %s into %s (an archive in that folder is unpacked)", name, root)
            with _quiet_download():
                source = _read_copy(name, root, download=True)
    if source is None:
        raise RuntimeError("files are missing")
    return source


def short_message(cause: BaseException) -> str:
    """Return the last line of an error's message, where torchvision puts the cause; else its type."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    last = lines[-1] if lines else type(cause).__name__
    return last.removeprefix("<urlopen error ").removesuffix(">")


@contextlib.contextmanager
def dataset_lock(root: Path, name: str, kind: int) -> Iterator[None]:
    """Hold the data set's lock, ``LOCK_SH`` to read or ``LOCK_EX`` to write; waits for other workers."""
    with contextlib.ExitStack() as stack:
        try:
            # Opened for reading and writing: over NFS each kind of lock needs the matching mode.
            file = stack.enter_context((root / f".{name}.lock").open("a+"))
            fcntl.flock(file, kind)
        except OSError:
            if kind == fcntl.LOCK_EX:
                raise
            # The folder does not exist or is not writable: a reader needs no lock there.
        yield


def _read_copy(name: str, root: Path, *, download: bool = False) -> Source | None:
    """Read a complete copy, after downloading one if asked to; None if there is none."""
    if name in ("mnist", "fashion_mnist"):
        kind = datasets.MNIST if name == "mnist" else datasets.FashionMNIST
        if download:
            _download_idx(kind, root)
        debian = Path("/usr/share/datasets") / name.replace("_", "-")  # of dataset-fashion-mnist
        return _read_idx_copy(kind, [root / kind.__name__ / "raw", root / name, debian])
    if name in file_sets.FILE_SETS:
        if download:
            file_sets.make_copy(name, root)
        return _read_file_set(name, root)
    readers = {"svhn": _read_svhn, "stl10": _read_stl10}
    try:
        return readers[name](root, download) if name in readers else _read_cifar(name, root, download)
    except RuntimeError:  # torchvision: not there, or with a wrong checksum
        if download:
            raise
        return None


@contextlib.contextmanager
def _quiet_download() -> Iterator[None]:
    """Hide torchvision's progress bars, and give up on servers that stop responding."""
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


def _read_cifar(name: str, root: Path, download: bool) -> Source:
    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    train, test = (kind(root, train=part, download=download) for part in (True, False))
    splits = [_source_split(part.data.transpose(0, 3, 1, 2), part.targets) for part in (train, test)]
    return Source(classes=tuple(train.classes), train=splits[0], test=splits[1])


def _read_svhn(root: Path, download: bool) -> Source:
    parts = [datasets.SVHN(root, split=split, download=download) for split in ("train", "test")]
    train, test = (_source_split(part.data, part.labels) for part in parts)
    return Source(classes=tuple("0123456789"), train=train, test=test)


def _read_stl10(root: Path, download: bool) -> Source:
    parts = [LabelledSTL10(root, split=split, download=download) for split in ("train", "test")]
    train, test = (_source_split(part.data, part.labels) for part in parts)
    return Source(classes=STL10_CLASSES, train=train, test=test)


def _read_file_set(name: str, root: Path) -> Source | None:
    """List the images of a copy; None if there is none."""
    if (found := file_sets.list_copy(name, root)) is None:
        return None
    classes, listed = found
    by_split = {
        split: SourceSplit(
            images=tuple(path for path, _ in images),
            labels=np.array([label for _, label in images], dtype=np.int64),
        )
        for split, images in listed.items()
    }
    return Source(
        classes=classes,
        train=by_split["train"],
        valid=by_split.get("valid"),
        test=by_split.get("test"),
    )


def _read_idx_copy(kind: type[datasets.MNIST], folders: list[Path]) -> Source | None:
    """Read the first of the folders that has all four files, compressed or not."""
    for folder in folders:
        train, test = (_read_idx_split(folder, part) for part in ("train", "t10k"))
        if train and test:
            return Source(classes=tuple(kind.classes), train=train, test=test)
    return None


def _read_idx_split(folder: Path, part: str) -> SourceSplit | None:
    try:
        pixels = image_files.read_idx(folder / f"{part}-images-idx3-ubyte", dimensions=3)
        labels = image_files.read_idx(folder / f"{part}-labels-idx1-ubyte", dimensions=1)
        if len(pixels) != len(labels) or labels.max(initial=0) > 9:
            raise ValueError(f"{part} labels that do not belong to the images")
    except FileNotFoundError:
        return None
    except PermissionError:
        raise
    except (OSError, ValueError) as cause:
        raise errors.DataError(
            f"{folder}: damaged ({short_message(cause)}); replace or remove it"
        ) from cause
    return _source_split(pixels[:, None], labels)
