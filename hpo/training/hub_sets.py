"""Data sets of the Hugging Face hub, ``hf:OWNER/NAME``: their images as files, copied once.

The library ``datasets`` (the extra ``hf``) knows how such a data set is stored: as Parquet files with
encoded images in them, as archives, as class folders. hpo asks it once. Each image is written, as the bytes
that it is stored as, to a file in the data folder (``hub_export``)::

    hf/OWNER--NAME/copy.json                  the revision, the classes, how many images there are
    hf/OWNER--NAME/train/CLASS/00000017.jpeg  the image of row 17

From then on the data set is a folder of the user's own images: it is scanned, decoded, planned and compared
with what a study began with as any other. Trials need neither the library nor a network, and no result
depends on the library's version. The price is the disk space of the encoded images.

A data set on the hub may change. A copy never does: it keeps the revision that it was made of. Should a
worker on another machine make its copy of a later revision, the fingerprint of the images differs, and it
refuses to continue the study (``store/study_images``).

A folder that ``datasets`` can load is named ``hf:./FOLDER`` and copied in the same way. Its "revision" is a
hash of the names, sizes and times of its files; if they change, a new copy replaces the old one.

A copy is made under the lock of its data set, in a hidden folder that is renamed when it is complete.
"""

import errno
import fcntl
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator

from hpo.errors import DataError, quote_value
from hpo.training import image_files
from hpo.training.class_folders import MissingImages
from hpo.training.data_facts import SplitName
from hpo.training.folder_scan import Progress
from hpo.training.sources import Source, SourceSplit, dataset_lock

COPIES = "hf"  # their folder in the data folder
FACTS_NAME = "copy.json"
_HUB_NAME = re.compile(r"(?P<place>[\w.-]+/[\w.-]+?)(:(?P<configuration>[^/:\s]+))?", re.ASCII)
_LOCAL = ("/", "./", "../", "~")  # what the name of a folder on this machine begins with


@dataclass(frozen=True, kw_only=True)
class HubSet:
    """What ``hf:`` names: a data set on the hub, or a folder that ``datasets`` can load."""

    where: str  # what messages begin with
    place: str  # OWNER/NAME or the path of the folder
    configuration: str | None = None  # of a data set that has several
    is_local: bool = False

    @property
    def copy_name(self) -> str:
        """The name of its copy in the folder of all copies."""
        if self.is_local:
            path = Path(self.place).resolve()
            return f"{path.name}-{hashlib.blake2b(bytes(path), digest_size=4).hexdigest()}"
        return "--".join(filter(None, (*self.place.split("/"), self.configuration)))


class CopyFacts(BaseModel):
    """What ``copy.json`` says of a copy."""

    model_config = ConfigDict(frozen=True)

    revision: str  # the commit on the hub; of a folder a hash of its state
    classes: Mapping[str, str] = Field(min_length=2)  # the folder of each, by name
    images: Mapping[SplitName, tuple[NonNegativeInt, ...]]  # number by class

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if "train" not in self.images or {len(each) for each in self.images.values()} != {
            len(self.classes)
        }:
            raise ValueError("the counts are not those of the classes")
        return self


def parse_name(name: str) -> HubSet:
    """Return what a name stands for.

    Args:
        name: OWNER/NAME, OWNER/NAME:CONFIGURATION or the path of a folder, which begins with ``/``, ``./``,
            ``../`` or ``~``.

    Raises:
        DataError: If it is neither.
    """
    where = f"train.dataset: {quote_value(f'hf:{name}')}"
    if name.startswith(_LOCAL):
        try:
            return HubSet(where=where, place=str(Path(name).expanduser()), is_local=True)
        except RuntimeError as cause:  # "~name", and no user has that name
            raise DataError(f"{where}: there is no such user; give the folder's path") from cause
    if (found := _HUB_NAME.fullmatch(name)) is None:
        raise DataError(
            f"{where}: want hf:OWNER/NAME or hf:OWNER/NAME:CONFIGURATION as on the hub, or hf:./FOLDER for "
            "a folder on this machine"
        )
    return HubSet(where=where, place=found["place"], configuration=found["configuration"])


def copy_folder(name: str, root: Path) -> Path:
    """Return where the copy of a data set lies, or will lie, in the data folder ``root``.

    Raises:
        DataError: As ``parse_name``.
    """
    return root / COPIES / parse_name(name).copy_name


def list_images(
    name: str, root: Path, progress: Progress | None = None, *, makes_copy: bool = True
) -> Source:
    """List the images of a copy, after making it if there is none; no image is decoded.

    Args:
        name: What follows ``hf:``.
        root: The data folder. To read a copy, it need not be writable.
        progress: Is called now and then while a copy is made.
        makes_copy: Whether to make one.

    Raises:
        MissingImages: If there is no copy, and ``makes_copy`` is false.
        DataError: If the name is wrong, a copy cannot be made, files of it are missing, or the data set
            does not consist of images with classes.
    """
    wanted = parse_name(name)
    folder = root / COPIES / wanted.copy_name
    lock = f"{COPIES}--{wanted.copy_name}"
    try:
        if wanted.is_local and not (Path(wanted.place).is_dir() or folder.is_dir()):
            raise MissingImages(f"{wanted.where}: there is no such folder")
        with dataset_lock(root, lock, fcntl.LOCK_SH):
            source = _list_copy(wanted, folder)
        if source is None and not makes_copy:
            raise MissingImages(f"{wanted.where}: no copy in {folder}")
        if source is None:
            root.mkdir(parents=True, exist_ok=True)
            with dataset_lock(root, lock, fcntl.LOCK_EX):
                source = _list_copy(wanted, folder) or _make_copy(wanted, folder, progress)
        return source
    except OSError as cause:
        place = quote_value(cause.filename) if cause.filename else folder
        raise DataError(f"{wanted.where}: {place}: {cause.strerror or cause}") from cause


def _make_copy(wanted: HubSet, folder: Path, progress: Progress | None) -> Source:
    from hpo.training import hub_export

    hub_export.write_copy(wanted, folder, progress or (lambda what, done, total: None))
    source = _list_copy(wanted, folder)
    if source is None:
        raise DataError(f"{wanted.where}: its files changed while they were copied; run again")
    return source


def _list_copy(wanted: HubSet, folder: Path) -> Source | None:
    """List the images of a copy; None if there is none, or it is not of the folder as it is now."""
    try:
        facts = CopyFacts.model_validate_json((folder / FACTS_NAME).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as cause:
        raise DataError(f"{wanted.where}: {folder / FACTS_NAME} is damaged; remove {folder}") from cause
    if wanted.is_local and Path(wanted.place).is_dir() and facts.revision != folder_state(wanted.place):
        return None
    splits = {name: _list_split(wanted, folder, name, facts) for name in facts.images}
    return Source(
        classes=tuple(facts.classes),
        train=splits["train"],
        valid=splits.get("valid"),
        test=splits.get("test"),
    )


def _list_split(wanted: HubSet, folder: Path, name: SplitName, facts: CopyFacts) -> SourceSplit:
    files: list[Path] = []
    counts = facts.images[name]
    for class_folder, count in zip(facts.classes.values(), counts, strict=True):
        place = folder / name / class_folder
        found = sorted(place.iterdir()) if place.is_dir() else []
        if len(found) != count:
            raise DataError(
                f"{wanted.where}: {place} has {len(found):,} images, but {count:,} were copied; remove "
                f"{folder}; then a new copy is made"
            )
        files += found
    return SourceSplit(images=tuple(files), labels=np.repeat(np.arange(len(counts)), counts))


def folder_state(path: str) -> str:
    """Return a hash of the names, sizes and times of the files in a folder.

    Raises:
        OSError: If one cannot be found; ``datasets`` would leave out a dead link without a word.
    """
    images, others = image_files.list_images(Path(path))
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(images + others):
        if not file.exists():
            raise OSError(errno.ENOENT, "a link to a file that does not exist; repair or remove it", file)
        stat = file.stat()
        digest.update(f"{file.relative_to(path)!r} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return f"folder {digest.hexdigest()}"
