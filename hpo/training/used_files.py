"""The files of a folder that a study uses, with a hash of each: what makes two folders the same images.

A file counts by its path within the folder, its split, its size and its content. The options that decide
which files are used, and which pixels they become, are not in the list: they are part of the study's
definition, and whoever compares two lists compares these, too.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hpo.errors import DataError, join_names, quote_value

if TYPE_CHECKING:
    # It imports torchvision, which takes a second or two; not every worker needs it.
    from hpo.training.folder_scan import ListedFile, Progress

HASH_BYTES = 8  # of one file's content
FINGERPRINT_BYTES = 16
UNREADABLE = "-"  # in the place of size and hash
NAMES_SHOWN = 3  # of the files of a kind, in a message


@dataclass(frozen=True, kw_only=True)
class UsedFiles:
    """The files that a study uses.

    Attributes:
        files: By path within the folder: split, size in bytes and hash, such as ``train 812 93ab...``. A
            file that is missing or may not be read has ``-`` in the place of size and hash.
    """

    files: Mapping[str, str]

    def dump(self) -> bytes:
        """Return the list as JSON in ASCII; equal lists give the same bytes."""
        return json.dumps(self.files, sort_keys=True, indent=0).encode()

    @functools.cached_property
    def fingerprint(self) -> str:
        """The number of files and a hash of the list."""
        digest = hashlib.blake2b(self.dump(), digest_size=FINGERPRINT_BYTES).hexdigest()
        return f"{len(self.files)} images, blake2b {digest}"

    @classmethod
    def load(cls, content: bytes, fingerprint: str) -> Self | None:
        """Return the list that ``dump`` made; None unless it has this fingerprint."""
        if hashlib.blake2b(content, digest_size=FINGERPRINT_BYTES).hexdigest() != fingerprint.split()[-1]:
            return None
        return cls(files=json.loads(content))

    def describe_changes(self, now: "UsedFiles") -> str:
        """Return how many files were added, changed and removed since, and the first of each.

        Args:
            now: The files now; they differ from these.
        """
        both = sorted(self.files.keys() & now.files.keys())
        kinds = {
            "added": sorted(now.files.keys() - self.files.keys()),
            "changed": [name for name in both if _content(self.files[name]) != _content(now.files[name])],
            "removed": sorted(self.files.keys() - now.files.keys()),
        }
        if not any(kinds.values()):  # else it follows from the others
            kinds["in another split"] = [name for name in both if self.files[name] != now.files[name]]
        return ", ".join(
            f"{len(names)} {kind} ({join_names(map(quote_value, names), NAMES_SHOWN)})"
            for kind, names in kinds.items()
            if names
        )


def _content(entry: str) -> str:
    return entry.partition(" ")[2]


class ContentHashes:
    """Hashes of files; a file is read again only if its size, times or place on the disk changed.

    There may be millions of files, and each worker has its own hashes. So they are in arrays, of 16 bytes
    per file. A dictionary takes twenty times as much, and its small objects keep the memory of those from
    being freed that were made beside them.
    """

    def __init__(self) -> None:
        # Hashes of what stat said, in order, and the contents' hashes beside them.
        self._states = np.empty(0, dtype=np.uint64)
        self._contents = np.empty(0, dtype=np.uint64)

    def list_files(
        self,
        root: Path,
        files: Sequence["ListedFile"],
        progress: "Progress | None" = None,
        labels: Sequence[str] | None = None,
    ) -> UsedFiles:
        """Return the list of files, hashed by as many threads as there are cores.

        Args:
            root: The folder that their paths begin at.
            files: The files.
            progress: Is called now and then, in this thread.
            labels: The names of the classes, if a file's path does not tell its class.

        Raises:
            DataError: If the file system fails.
        """
        described = self.describe(files, progress)
        return UsedFiles(files=dict(_entries(root, zip(files, described, strict=True), labels)))

    def describe(self, files: Sequence["ListedFile"], progress: "Progress | None" = None) -> list[str]:
        """Return size and hash of each file, such as ``812 93ab...``, or ``UNREADABLE``.

        Raises:
            DataError: If the file system fails.
        """
        from hpo.training import folder_scan

        tell = progress or (lambda what, done, total: None)
        read: dict[int, int] = {}  # what the arrays lack
        try:
            found = folder_scan.in_threads(
                files, functools.partial(self._describe, read), "hashing files", tell
            )
            described = [each for _, each in found]
        except OSError as error:
            place = quote_value(error.filename) if error.filename else "a file"
            raise DataError(f"{place}: {error.strerror or error}; its content must be readable") from error
        self._remember(read)
        return described

    def _describe(self, read: dict[int, int], file: "ListedFile") -> str:
        """Return size and hash of a file's content, and put what had to be read into ``read``."""
        try:
            stat = file.path.stat()
            state = _hash_state(stat)
            content = self._find(state)
            if content is None:
                with file.path.open("rb") as opened:
                    content = _number(hashlib.file_digest(opened, _new_hash))
                read[state] = content
            return f"{stat.st_size} {content:0{2 * HASH_BYTES}x}"
        except (FileNotFoundError, PermissionError):  # one more unreadable file, which the scan tells of
            return UNREADABLE

    def _find(self, state: int) -> int | None:
        index = int(np.searchsorted(self._states, np.uint64(state)))
        is_known = index < len(self._states) and int(self._states[index]) == state
        return int(self._contents[index]) if is_known else None

    def _remember(self, read: Mapping[int, int]) -> None:
        added = [np.fromiter(each, np.uint64, len(read)) for each in (read.keys(), read.values())]
        states, indices = np.unique(np.concatenate([added[0], self._states]), return_index=True)
        self._states, self._contents = states, np.concatenate([added[1], self._contents])[indices]


def _hash_state(stat: os.stat_result) -> int:
    """Return a hash of a file's place on the disk, size and times; it changes with the content."""
    state = f"{stat.st_dev} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
    digest = _new_hash()
    digest.update(state.encode())
    return _number(digest)


def _number(digest: Any) -> int:
    return int.from_bytes(digest.digest(), "big")


def _new_hash() -> Any:  # typeshed has another type for what file_digest takes
    return hashlib.blake2b(digest_size=HASH_BYTES)


def _entries(
    root: Path, found: Iterable[tuple["ListedFile", str]], labels: Sequence[str] | None
) -> Iterable[tuple[str, str]]:
    for file, described in found:
        label = "" if labels is None else f" {labels[file.label]}"
        yield Path(os.path.relpath(file.path, root)).as_posix(), f"{file.split} {described}{label}"
