"""Where images come from: published data sets and scikit-learn's digits.

The user's own folders are in ``class_folders``.

**Copies of published sets.** Several workers may start at once on a fresh machine. Each data set has a lock
file in the data folder. A copy is read under a shared lock; the worker that comes first makes it under an
exclusive one. A worker that dies while making a copy leaves a partial file, which is never mistaken for a
complete one: torchvision checks the MD5 sums of CIFAR and SVHN at every start. It does not check IDX files
(MNIST), so these are renamed into place when they are complete.

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
from torchvision.datasets.utils import check_integrity

from hpo import errors
from hpo.training import image_files

logger = logging.getLogger(__name__)

# The files that a user without network access can put into the data folder, by data set.
_IDX_FILES = "{train,t10k}-images-idx3-ubyte.gz and {train,t10k}-labels-idx1-ubyte.gz"
MANUAL_FILES = {
    "cifar10": "cifar-10-python.tar.gz",
    "cifar100": "cifar-100-python.tar.gz",
    "svhn": "train_32x32.mat and test_32x32.mat",
    "mnist": f"mnist/{_IDX_FILES}",
    "fashion_mnist": f"fashion_mnist/{_IDX_FILES} (or install Debian's dataset-fashion-mnist)",
}
# Where torchvision downloads them from.
ORIGINS = {
    "cifar10": datasets.CIFAR10.url,
    "cifar100": datasets.CIFAR100.url,
    "svhn": datasets.SVHN.split_list["train"][0].rpartition("/")[0] + "/",
    "mnist": datasets.MNIST.mirrors[0],
    "fashion_mnist": datasets.FashionMNIST.mirrors[0],
}


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
        DataError: If there is no complete copy and none can be made, or files of MNIST or Fashion-MNIST are
            damaged.
    """
    try:
        with _dataset_lock(root, name, fcntl.LOCK_SH):
            source = _read_copy(name, root)
        return source or _download_and_read(name, root)
    # torchvision raises RuntimeError for a wrong checksum; most other errors are OSErrors.
    except (RuntimeError, OSError, EOFError, http.client.HTTPException) as cause:
        raise errors.DataError(
            f"{name}: no complete copy in {root}, and downloading one failed ({short_message(cause)}); "
            f"put {MANUAL_FILES[name]} from {ORIGINS[name]} there, or name the folder that has it with "
            "--data or HPO_DATA"
        ) from cause


def has_copy(name: str, root: Path) -> bool:
    """Return whether there is a complete copy of a data set; always True for "digits".

    The whole copy is read. An archive of CIFAR that is still to be unpacked is no copy (``is_packed``), nor
    are damaged files of CIFAR or SVHN. A lock file is created in ``root`` if it is a writable folder.

    Args:
        name: One of ``MANUAL_FILES``, or "digits".
        root: The data folder.

    Raises:
        DataError: If files of MNIST or Fashion-MNIST are damaged.
    """
    with _dataset_lock(root, name, fcntl.LOCK_SH):
        return name == "digits" or _read_copy(name, root) is not None


def is_packed(name: str, root: Path) -> bool | None:
    """Return whether ``root`` has the archive of a data set as published; False if another file is there.

    None if there is no such file, or the data set is used as it is packed. The whole archive is read.
    """
    if name not in ("cifar10", "cifar100") or not (root / MANUAL_FILES[name]).is_file():
        return None
    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    return bool(check_integrity(root / MANUAL_FILES[name], kind.tgz_md5))


def _download_and_read(name: str, root: Path) -> Source:
    """Make a copy and read it; an archive in ``root`` with the right checksum is only unpacked."""
    root.mkdir(parents=True, exist_ok=True)
    with _dataset_lock(root, name, fcntl.LOCK_EX):
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
def _dataset_lock(root: Path, name: str, kind: int) -> Iterator[None]:
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
    try:
        return _read_svhn(root, download) if name == "svhn" else _read_cifar(name, root, download)
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
    except (OSError, ValueError) as cause:
        raise errors.DataError(
            f"{folder}: damaged ({short_message(cause)}); replace or remove it"
        ) from cause
    return _source_split(pixels[:, None], labels)
