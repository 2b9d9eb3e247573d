"""Published data sets that are image files: where their copies lie, and which images are in which split.

torchvision lists the images, in its own layout. They are read like those of a folder.

Published splits are used as they are: train of all sets (trainval of oxford_pets) is ``train``; val of
flowers102, dtd (its first partition) and imagenette is ``valid``; test of flowers102, oxford_pets, food101
and dtd is ``test``. The others are drawn from ``train`` by ``datasets``: valid of oxford_pets and food101,
test of imagenette, both of eurosat, which is published in one piece.

**Making a copy.** torchvision takes a folder for complete as soon as it exists. So archives are unpacked in
a folder beside it, and what they contain is renamed into place. A worker that dies before that leaves a
copy that torchvision finds incomplete; the next one replaces it. A copy that somebody else unpacked must
have as many images as were published.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchvision import datasets
from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from hpo.errors import DataError
from hpo.training.data_facts import SplitName
from hpo.training.shapes import KNOWN_SHAPES

Listed = list[tuple[Path, int]]  # image files, and the indices of their classes


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file as it is published."""

    url: str
    md5: str
    folder: str = "."  # where it lies, and where it is unpacked, in the data folder

    @property
    def path(self) -> str:
        """Where it lies in the data folder."""
        return f"{self.folder}/{self.url.rpartition('/')[2]}".removeprefix("./")

    @property
    def is_packed(self) -> bool:
        """Whether it has to be unpacked; MATLAB's files are used as they are."""
        return not self.url.endswith(".mat")


@dataclass(frozen=True, kw_only=True)
class FileSet:
    """A published data set of image files."""

    kind: Callable[..., Any]  # torchvision's class
    list_images: Callable[[Any], Iterable[tuple[Any, int]]]  # of an object of that class
    splits: Mapping[SplitName, str | None]  # torchvision's names of them; None: it has no splits
    archives: tuple[Archive, ...]
    folders: tuple[str, ...]  # what the archives contain, in the data folder

    @property
    def origin(self) -> str:
        """The address of its archive, or of the folder of its archives."""
        first = self.archives[0].url
        return first if len(self.archives) == 1 else f"{first.rpartition('/')[0]}/"


_FLOWERS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
_PETS = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"
_EUROSAT = (
    "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/"
)

# Addresses and MD5 sums are torchvision's.
FILE_SETS = {
    "flowers102": FileSet(
        kind=datasets.Flowers102,
        list_images=lambda found: zip(found._image_files, found._labels, strict=True),
        splits={"train": "train", "valid": "val", "test": "test"},
        archives=(
            Archive(
                url=f"{_FLOWERS}102flowers.tgz",
                md5="52808999861908f626f3c1f4e79d11fa",
                folder="flowers-102",
            ),
            Archive(
                url=f"{_FLOWERS}imagelabels.mat",
                md5="e0620be6f572b9609742df49c70aed4d",
                folder="flowers-102",
            ),
            Archive(
                url=f"{_FLOWERS}setid.mat", md5="a5357ecc9cb78c4bef273ce3793fc85c", folder="flowers-102"
            ),
        ),
        folders=("flowers-102/jpg",),
    ),
    "oxford_pets": FileSet(
        kind=datasets.OxfordIIITPet,
        list_images=lambda found: zip(found._images, found._labels, strict=True),
        splits={"train": "trainval", "test": "test"},
        archives=(
            Archive(
                url=f"{_PETS}images.tar.gz",
                md5="5c4f3ee8e5d25df40f4fd59a7f44e54c",
                folder="oxford-iiit-pet",
            ),
            Archive(
                url=f"{_PETS}annotations.tar.gz",
                md5="95a8c909bbe2e81eed6a22bccdf3f68f",
                folder="oxford-iiit-pet",
            ),
        ),
        folders=("oxford-iiit-pet/images", "oxford-iiit-pet/annotations"),
    ),
    "food101": FileSet(
        kind=datasets.Food101,
        list_images=lambda found: zip(found._image_files, found._labels, strict=True),
        splits={"train": "train", "test": "test"},
        archives=(
            Archive(
                url="http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                md5="85eeb15f3717b99a5da872d97d918f87",
            ),
        ),
        folders=("food-101/images", "food-101/meta"),
    ),
    "eurosat": FileSet(
        kind=datasets.EuroSAT,
        list_images=lambda found: found.samples,
        splits={"train": None},
        archives=(
            Archive(url=f"{_EUROSAT}EuroSAT.zip", md5="c8fa014336c82ac7804f0398fcb19387", folder="eurosat"),
        ),
        folders=("eurosat/2750",),
    ),
    "dtd": FileSet(
        kind=datasets.DTD,
        list_images=lambda found: zip(found._image_files, found._labels, strict=True),
        splits={"train": "train", "valid": "val", "test": "test"},
        archives=(
            Archive(
                url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
                md5="fff73e5086ae6bdbea199a49dfb8a4c1",
                folder="dtd",
            ),
        ),
        folders=("dtd/dtd",),
    ),
    "imagenette": FileSet(
        kind=datasets.Imagenette,
        list_images=lambda found: found._samples,
        splits={"train": "train", "valid": "val"},
        archives=(
            Archive(
                url="https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz",
                md5="fe2fc210e6bb7c5664d602c3cd71e612",
            ),
        ),
        folders=("imagenette2",),
    ),
}


def list_copy(name: str, root: Path) -> tuple[tuple[str, ...], dict[SplitName, Listed]] | None:
    """List the images of the copy in the data folder by split; None if there is none.

    No image is read.

    Args:
        name: One of ``FILE_SETS``.
        root: The data folder.

    Returns:
        The names of the classes, and the images of the splits that are published.

    Raises:
        DataError: If images are missing, or what says their classes is damaged or cannot be read.
    """
    known = FILE_SETS[name]
    advice = f"remove {' and '.join(known.folders)} there; then the next trial makes a new copy"
    try:
        found = {
            split: known.kind(root) if theirs is None else known.kind(root, split=theirs)
            for split, theirs in known.splits.items()
        }
        listed: dict[SplitName, Listed] = {
            split: [(Path(path), int(label)) for path, label in known.list_images(each)]
            for split, each in found.items()
        }
        present = sum(path.is_file() for images in listed.values() for path, _ in images)
    except (RuntimeError, FileNotFoundError):  # torchvision: not there, or only a part of it
        return None
    except OSError as cause:
        place = cause.filename or root
        raise DataError(f"{name}: {place}: {cause.strerror}; hpo must be able to read it") from cause
    except (ValueError, LookupError, AttributeError, TypeError) as cause:  # torchvision checks no format
        raise DataError(f"{name}: the copy in {root} is damaged ({cause}); {advice}") from cause
    if present != (published := KNOWN_SHAPES[name].images):
        raise DataError(
            f"{name}: the copy in {root} has {present:,} images, but {published:,} were published; {advice}"
        )
    return tuple(map(_class_name, found["train"].classes)), listed


def _class_name(given: str | tuple[str, ...]) -> str:
    """Return the name of a class; of several (Imagenette) the first."""
    return given if isinstance(given, str) else given[0]


def make_copy(name: str, root: Path) -> None:
    """Download the archives that are missing or damaged, and unpack all of them.

    The caller holds the data set's lock. An incomplete copy is replaced. The archives stay.

    Args:
        name: One of ``FILE_SETS``.
        root: The data folder.

    Raises:
        RuntimeError: If a download has a wrong checksum.
        OSError: If a download fails, or a file cannot be written.
    """
    known, unpacked = FILE_SETS[name], root / f".{name}.unpacked"
    for archive in known.archives:
        download_url(archive.url, root / archive.folder, md5=archive.md5)
    shutil.rmtree(unpacked, ignore_errors=True)  # of a worker that died
    try:
        for archive in known.archives:
            if archive.is_packed:
                extract_archive(root / archive.path, unpacked / archive.folder)
        for folder in known.folders:
            place = root / folder
            if place.exists():
                shutil.rmtree(place)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(unpacked / folder, place)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def are_packed(archives: Iterable[tuple[str, str]], root: Path) -> bool | None:
    """Return whether published files lie in the data folder undamaged; None if one of them is missing.

    Args:
        archives: Their paths in the data folder, and their MD5 sums.
        root: The data folder.
    """
    listed = [(root / path, md5) for path, md5 in archives]
    if not listed or not all(path.is_file() for path, _ in listed):
        return None
    return all(check_integrity(path, md5) for path, md5 in listed)
