"""Copying a data set of the Hugging Face hub into image files: the only part that needs ``datasets``.

The library reads as a stream, so there is no second copy in its cache, and a data set need not fit into
memory. Its messages, progress bars and warnings are kept from the terminal: hpo tells in one line what was
left out, or why there is no copy.
"""

import contextlib
import glob
import io
import logging
import os
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from PIL import Image

from hpo.artifacts import durable
from hpo.errors import DataError, error_text, escape_surrogates, join_names
from hpo.training import hub_sets, image_files
from hpo.training.class_folders import SPLIT_FOLDERS
from hpo.training.data_facts import SplitName
from hpo.training.folder_scan import FILES_AT_ONCE, Progress
from hpo.training.hub_sets import CopyFacts, HubSet
from hpo.training.sources import short_message

logger = logging.getLogger(__name__)

NAMES_SHOWN = 20  # of columns or splits, in a message
NAME_LENGTH = 60  # characters of a class's name in the name of its folder
SAVED = ("dataset_dict.json", "state.json")  # by which Dataset.save_to_disk marks a folder
TIMEOUT_SECONDS = 30.0
QUIET_LOGGERS = ("datasets", "huggingface_hub", "httpx", "httpx2")  # the last two tell of each request
_INSTEAD = "write the images to class folders and name them folder:PATH"


def write_copy(wanted: HubSet, target: Path, tell: Progress) -> None:
    """Write the images of a data set and what is known of them to ``target``, or nothing.

    The caller holds the data set's lock. A copy that is there is replaced, once the new one is complete.

    Args:
        wanted: The data set.
        target: The folder of the copy.
        tell: Is called now and then, in this thread.

    Raises:
        DataError: If ``datasets`` is not installed, the data set cannot be read, or it does not consist of
            images with classes.
        OSError: If the copy cannot be written.
    """
    for left in target.parent.glob(f".{glob.escape(target.name)}.*{durable.DRAFT_SUFFIX}"):
        shutil.rmtree(left, ignore_errors=True)  # of a process that died
    logger.info("copying the images of %s into %s", wanted.place, target)
    with durable.atomic_folder(target) as draft:
        with _quiet_library(wanted) as library, _as_data_error(wanted):
            opened = _Reader(wanted=wanted, library=library).open(cache=draft / ".cache", target=target)
            facts = _Copy(wanted, opened, draft, tell).write()
        shutil.rmtree(draft / ".cache", ignore_errors=True)
        durable.write_file(draft / hub_sets.FACTS_NAME, facts.model_dump_json(indent=1).encode())
        os.sync()  # once for all images: an fsync of each takes minutes
        if target.exists():
            shutil.rmtree(target)
    total = sum(map(sum, facts.images.values()))
    logger.info("copied %d images of %s (%s)", total, wanted.place, facts.revision)


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A data set as the library opened it."""

    revision: str
    splits: Mapping[SplitName, Any]  # iterables of rows
    image_column: str
    label_column: str
    classes: tuple[str, ...]


class _Copy:
    """Writes the images of one data set to files."""

    def __init__(self, wanted: HubSet, opened: _Opened, target: Path, tell: Progress) -> None:
        self.wanted, self.opened, self.target, self.tell = wanted, opened, target, tell
        self.folders = _class_folders(opened.classes)
        self.counts: Counter[tuple[SplitName, int]] = Counter()

    def write(self) -> CopyFacts:
        """Write all images, and return what is known of them.

        Raises:
            DataError: If too few classes have images to train on.
        """
        with image_files.without_pil_limits():
            for name, rows in self.opened.splits.items():
                self._write_split(name, rows)
        self._check_classes()
        chosen = [label for label in range(len(self.folders)) if self.counts["train", label]]
        counts = {name: tuple(self.counts[name, label] for label in chosen) for name in self.opened.splits}
        return CopyFacts(
            revision=self.opened.revision,
            classes={self.opened.classes[label]: self.folders[label] for label in chosen},
            images={name: each for name, each in counts.items() if any(each)},
        )

    def _write_split(self, name: SplitName, rows: Any) -> None:
        lacking: Counter[str] = Counter()
        for number, row in enumerate(rows):
            label = row[self.opened.label_column]
            content = encoded_image(row[self.opened.image_column], is_local=self.wanted.is_local)
            if not isinstance(label, int) or not 0 <= label < len(self.folders):
                lacking["label"] += 1
            elif content is None:
                lacking["image"] += 1
            else:
                folder = self.target / name / self.folders[label]
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{number:08}{_suffix(content)}").write_bytes(content)
                self.counts[name, label] += 1
            if number % FILES_AT_ONCE == 0:
                self.tell("copying images", self.counts.total(), 0)
        for what, count in lacking.items():
            logger.warning(
                "%s: left out %d rows of %s, which have no %s", self.wanted.where, count, name, what
            )

    def _check_classes(self) -> None:
        """Refuse a data set that cannot be trained on."""
        names = self.opened.classes
        trained = {label for (split, label), count in self.counts.items() if split == "train" and count}
        if len(trained) < 2:
            found = f"one class only, '{names[min(trained)]}'" if trained else "no image"
            raise DataError(f"{self.wanted.where}: {found} in train; want two classes or more")
        if unknown := sorted({label for _, label in self.counts} - trained):
            shown = join_names((f"'{names[label]}'" for label in unknown), NAMES_SHOWN)
            raise DataError(
                f"{self.wanted.where}: no image of {shown} in train, but some in other splits; {_INSTEAD}"
            )


def _class_folders(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the name of each class's folder: its own, as far as files may be called so."""
    folders: list[str] = []
    for label, name in enumerate(classes):
        short = re.sub(r"[/%\x00-\x1f]|^\.", lambda found: f"%{ord(found[0]):02X}", name)[:NAME_LENGTH]
        folders.append(f"{short}%{label}" if not short or short in folders else short)
    return tuple(folders)


def encoded_image(image: Mapping[str, Any] | None, *, is_local: bool) -> bytes | None:
    """Return the encoded bytes of an image; None if the row has none.

    A data set on the hub may refer to files of the hub (``hf://...``, ``zip://A.png::hf://...``), but to
    none on this machine.
    """
    if image is not None and image["bytes"] is not None:
        return bytes(image["bytes"])
    path = None if image is None else image["path"]
    if path is None or not (is_local or path.rpartition("::")[2].startswith("hf://")):
        return None
    with fsspec.open(path, "rb") as file:
        return bytes(file.read())


def _suffix(content: bytes) -> str:
    """Return the suffix of an image's format; of what is no image, which the scan tells of, ``.bin``."""
    try:
        with Image.open(io.BytesIO(content), formats=image_files.IMAGE_FORMATS) as image:
            return ".jpeg" if image.format == "MPO" else f".{str(image.format).lower()}"
    except Exception:  # PIL's decoders raise nearly any exception for a damaged file
        return ".bin"


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Opens a data set with the library, and finds out which splits and columns are meant."""

    wanted: HubSet
    library: Any  # the module

    def open(self, *, cache: Path, target: Path) -> _Opened:
        """Open the data set.

        Args:
            cache: A folder for what the library keeps, which nobody needs afterwards.
            target: Where the copy will be.

        Raises:
            DataError: If it cannot be found, or has other splits or columns.
        """
        revision, found = self._load(cache, target)
        splits = self._find_splits(found)
        features = splits["train"].features or {}
        image, label = self._find_columns(features)
        return _Opened(
            revision=revision,
            splits={
                name: self._without_decoding(each, image).select_columns([image, label])
                for name, each in splits.items()
            },
            image_column=image,
            label_column=label,
            classes=tuple(map(escape_surrogates, features[label].names)),
        )

    def _without_decoding(self, split: Any, column: str) -> Any:
        if isinstance(split, self.library.IterableDataset):
            return split.decode(False)
        return split.cast_column(column, self.library.Image(decode=False))

    def _load(self, cache: Path, target: Path) -> tuple[str, Any]:
        """Return the revision, and the splits by the library's names."""
        wanted, options = self.wanted, {"streaming": True, "cache_dir": str(cache)}
        if not wanted.is_local:
            commit = _hub_revision(wanted, target)
            found = self.library.load_dataset(
                wanted.place, wanted.configuration, revision=commit, **options
            )
            return f"commit {commit}", found
        folder, state = Path(wanted.place), hub_sets.folder_state(wanted.place)
        if any((folder / name).exists() for name in SAVED):
            return state, self.library.load_from_disk(wanted.place)
        return state, self.library.load_dataset(wanted.place, **options)

    def _find_splits(self, found: Any) -> dict[SplitName, Any]:
        """Return the splits that hpo uses, under its names for them."""
        where = self.wanted.where
        if not isinstance(found, Mapping):  # a single split, saved to a disk
            return {"train": found}
        splits: dict[SplitName, Any] = {}
        ignored = []
        for name, split in found.items():
            if (own := SPLIT_FOLDERS.get(str(name).lower())) is None:
                ignored.append(str(name))
            elif own in splits:
                raise DataError(f"{where}: two splits for {own} among {', '.join(found)}; {_INSTEAD}")
            else:
                splits[own] = split
        if "train" not in splits:
            shown = join_names(map(str, found), NAMES_SHOWN)
            raise DataError(f"{where}: no split train, only {shown}; {_INSTEAD}")
        if ignored:
            logger.warning("%s: not used: split %s", where, join_names(ignored, NAMES_SHOWN))
        return splits

    def _find_columns(self, features: Mapping[str, Any]) -> tuple[str, str]:
        """Return the column of images and that of labels."""
        images = [name for name, each in features.items() if isinstance(each, self.library.Image)]
        labels = [name for name, each in features.items() if isinstance(each, self.library.ClassLabel)]
        if len(images) == len(labels) == 1:
            return images[0], labels[0]
        described = (f"{name} ({_describe_feature(each)})" for name, each in features.items())
        raise DataError(
            f"{self.wanted.where}: want one column of type Image and one of type ClassLabel; found "
            f"{join_names(described, NAMES_SHOWN) or 'no columns'}; {_INSTEAD}"
        )


def _describe_feature(feature: Any) -> str:
    kind = type(feature).__name__
    return str(feature.dtype) if kind == "Value" else kind


def _hub_revision(wanted: HubSet, target: Path) -> str:
    """Return the commit that the data set's main branch is at.

    Raises:
        DataError: If there is no such data set, or the hub cannot be asked.
    """
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return str(huggingface_hub.HfApi().dataset_info(wanted.place, timeout=TIMEOUT_SECONDS).sha)
    except RepositoryNotFoundError as cause:
        raise DataError(
            f"{wanted.where}: the hub has no data set {wanted.place} for this user; check the name, or log "
            "in with 'hf auth login' if it is private or has terms to accept"
        ) from cause
    except Exception as cause:  # of the library that it uses for HTTP, which is not always the same one
        raise DataError(
            f"{wanted.where}: no copy in {target}, and the hub cannot be reached "
            f"({short_message(cause)}); put the copy of another machine there, or load the files of a "
            "folder with hf:./FOLDER"
        ) from cause


@contextlib.contextmanager
def _as_data_error(wanted: HubSet) -> Iterator[None]:
    """Turn whatever the library raises into one line, but for errors of our own files."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as cause:
        if isinstance(cause, OSError) and cause.errno is not None:
            raise
        reason = error_text(cause) if isinstance(cause, ValueError) else short_message(cause)
        chooses = isinstance(cause, ValueError) and not wanted.is_local  # its text names what there is
        advice = "; a configuration is named hf:OWNER/NAME:CONFIGURATION" if chooses else ""
        raise DataError(f"{wanted.where}: datasets cannot read it ({reason}){advice}") from cause


@contextlib.contextmanager
def _quiet_library(wanted: HubSet) -> Iterator[Any]:
    """Import ``datasets``; hide its messages and those of ``huggingface_hub`` within the block."""
    try:
        import datasets
        import huggingface_hub.utils
    except ImportError as error:
        raise DataError(
            f"{wanted.where}: no copy in the data folder yet; to make it, install the library datasets "
            "with: pip install 'hpo-vision[hf]', or in a checkout: pip install '.[hf]'"
        ) from error
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    datasets.disable_progress_bars()
    huggingface_hub.utils.disable_progress_bars()  # type: ignore[attr-defined]
    loggers = [logging.getLogger(name) for name in QUIET_LOGGERS]
    before = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield datasets
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
