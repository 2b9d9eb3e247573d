"""Where images come from: published data sets, scikit-learn's digits, and the user's own folders.

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
import re
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
from hpo.errors import quote_value
from hpo.training import image_files

logger = logging.getLogger(__name__)

# Names of folders that are splits, in lower case, and the split that each is.
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Names that look like a part of a data set too, but not like which one.
_PART_NAME = re.compile(
    r"(fold|split)[ _-]?\d+|seg[ _-]?(train|test|pred|val)"
    r"|(train|test|val|valid|validation)(ing)?[ _-]?(set|images|data|\d+)"
)
_LAYOUT = (
    "want one folder per class with its images, or folders train, valid and test with class folders in each"
)

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


def list_folder(folder_path: str) -> Source:
    """List the user's images in class folders, or in train, valid and test folders with class folders.

    No image is decoded. The classes are those of train, sorted by name; a class may lack its folder in
    valid or test. Hidden files and folders are skipped. The folders of splits may have any of the names
    ``SPLIT_FOLDERS``, in upper or lower case.

    Args:
        folder_path: The PATH of ``folder:PATH``; ``~`` is expanded.

    Raises:
        MissingFolder: If there is no such folder.
        DataError: If it has fewer than two classes, a class folder without images, a class that train
            lacks, other folders beside train, valid and test, or folders that look like splits or folds but
            are not laid out so; if it, or a folder in it, cannot be read.
    """
    try:
        return _list_class_folders(_existing_folder(folder_path))
    except OSError as cause:
        place = quote_value(cause.filename) if cause.filename else "the folder"
        raise errors.DataError(
            f"train.dataset: {quote_value(f'folder:{folder_path}')}: {place}: {cause.strerror or cause}; "
            "its images must be readable for the user who runs hpo"
        ) from cause


class MissingFolder(errors.DataError):
    """There is no folder of that name, on this machine."""


def _existing_folder(folder_path: str) -> Path:
    where = f"train.dataset: {quote_value(f'folder:{folder_path}')}"
    try:
        path = Path(folder_path).expanduser()
    except RuntimeError as error:  # "~name", and no user has that name
        user = quote_value(folder_path.split("/")[0])
        raise errors.DataError(f"{where}: there is no user {user}; give the folder's path") from error
    if not folder_path or not path.is_dir():
        raise MissingFolder(f"{where}: there is no such folder")
    return path


def _list_class_folders(path: Path) -> Source:
    parts = _split_folders(path)
    base = parts["train"] if parts else path
    classes = tuple(sub.name for sub in _visible_subfolders(base))
    if len(classes) < 2:
        found = f"one class folder only, '{classes[0]}'" if classes else "no class folders"
        raise errors.DataError(f"{base}: {found}; want two or more, each with the images of one class")
    _refuse_hidden_splits(base)
    splits = {name: _list_split(part, classes) for name, part in parts.items()}
    train = splits["train"] if parts else _list_split(base, classes)
    return Source(classes=classes, train=train, valid=splits.get("valid"), test=splits.get("test"))


def _split_folders(path: Path) -> dict[str, Path]:
    """Return the folders of splits by the split's name; empty if ``path`` contains class folders."""
    folders = _visible_subfolders(path)
    named = [(SPLIT_FOLDERS[sub.name.lower()], sub) for sub in folders if sub.name.lower() in SPLIT_FOLDERS]
    # A class may be called "train" too; then the folder contains images, not folders.
    nested = [split for split, sub in named if _visible_subfolders(sub)]
    if not nested:
        return {}
    if "train" not in nested:
        raise errors.DataError(f"{path}: class folders in {' and '.join(nested)}, but none in train")
    if others := [sub.name for sub in folders if sub.name.lower() not in SPLIT_FOLDERS]:
        raise errors.DataError(f"{path}: unexpected '{others[0]}' beside train; allowed there: valid, test")
    parts = dict(named)
    if len(parts) < len(named):
        names = ", ".join(sub.name for _, sub in named)
        raise errors.DataError(f"{path}: two folders for one split among {names}; keep one of each")
    return parts


def _refuse_hidden_splits(base: Path) -> None:
    """Refuse class folders that are splits or folds instead: accuracy would mean nothing."""
    folders = _visible_subfolders(base)
    names = {sub.name.lower() for sub in folders}
    unlikely = {name for name in names if name in SPLIT_FOLDERS or _PART_NAME.fullmatch(name)}
    if names & {"valid", "invalid"} == {"valid", "invalid"}:
        unlikely -= {"valid"}
    if unlikely != {"train"} and unlikely:
        first = next(sub.name for sub in folders if sub.name.lower() in unlikely)
        raise errors.DataError(
            f"{base}: '{first}' is named like a part of a data set, not a class; {_LAYOUT}"
        )
    inner = {frozenset(each.name for each in _visible_subfolders(sub)) for sub in folders}
    if len(inner) == 1 and len(common := sorted(inner.pop())) > 1:
        both = f"'{folders[0].name}' and '{folders[1].name}'"
        shown = ", ".join(common[:3]) + (", ..." if len(common) > 3 else "")
        raise errors.DataError(f"{base}: {both} hold the same folders ({shown}); {_LAYOUT}")


def _visible_subfolders(path: Path) -> list[Path]:
    """Return the subfolders, sorted, also linked ones; a dead link that names no image is refused."""
    visible = [sub for sub in path.iterdir() if not sub.name.startswith(".")]
    for sub in visible:
        if sub.suffix.lower() not in image_files.IMAGE_SUFFIXES and sub.is_symlink() and not sub.exists():
            raise errors.DataError(
                f"{sub}: a link to a folder or file that does not exist; repair or remove it"
            )
    return sorted(sub for sub in visible if sub.is_dir())


def _list_split(path: Path, classes: tuple[str, ...]) -> SourceSplit:
    """List the image files of a split, ordered by class, then by path; decode none."""
    found: list[tuple[Path, int]] = []
    ignored: list[Path] = []
    for folder in _visible_subfolders(path):
        if folder.name not in classes:
            raise errors.DataError(
                f"{folder}: no such class in train, only {errors.join_names(classes, 20)}"
            )
        files, others = image_files.list_images(folder)
        ignored += others
        if not files:
            raise errors.DataError(
                f"{folder}: no images in it; supported are {' '.join(image_files.IMAGE_SUFFIXES)}"
            )
        found += [(file, classes.index(folder.name)) for file in files]
    if not found:
        raise errors.DataError(f"{path}: no class folders; put some in or remove it")
    labels = np.array([label for _, label in found], dtype=np.int64)
    return SourceSplit(images=tuple(file for file, _ in found), labels=labels, ignored_files=tuple(ignored))
