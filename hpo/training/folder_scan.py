"""One scan of image files before any is decoded: what they are, and what is wrong with them.

The headers are read by as many threads as there are cores. Files that a header shows to be unreadable are
found here; a file that is damaged further on is found when it is decoded.
"""

import itertools
import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hpo.errors import DataError, ImagesUnreadable, join_names
from hpo.training import image_files
from hpo.training.config import Config
from hpo.training.data_facts import SPLIT_WORDS, SplitName
from hpo.training.devices import core_count
from hpo.training.sources import SourceSplit, short_message
from hpo.training.used_files import UNREADABLE, ContentHashes

FILES_AT_ONCE = 64  # that a thread reads before it reports
NAMES_SHOWN = 5  # of the files of a kind, in a message

# Gets what is done, how many files are, and of how many; 0 if nobody knows.
Progress = Callable[[str, int, int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")
Sizes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """A file, and what its place makes it."""

    path: Path
    split: SplitName
    label: int


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A file that cannot be used, and why."""

    file: ListedFile
    reason: str
    is_too_large: bool = False
    may_pass: bool = False  # the file system failed, not the decoder

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.file.path


@dataclass(frozen=True, kw_only=True)
class FolderScan:
    """What the image files of a folder are."""

    name: str  # of the data set
    classes: tuple[str, ...]
    images: Mapping[SplitName, tuple[int, ...]]  # number of files by class, readable or not
    formats: Mapping[str, int]  # number of files by format, most frequent first
    modes: Mapping[str, int]  # the same by PIL's mode
    sizes: Sizes | None  # width and height of the smallest, the median and the largest image, by pixels
    transparent: tuple[Path, ...]  # with an alpha channel or a transparent colour
    animated: tuple[Path, ...]  # of which the first picture counts
    unreadable: tuple[Unreadable, ...]
    across_classes: tuple[tuple[ListedFile, ...], ...]  # groups of files with the same content
    across_splits: tuple[tuple[ListedFile, ...], ...]

    @property
    def total(self) -> int:
        """The number of files."""
        return sum(map(sum, self.images.values()))

    def check(self, corrupt: str) -> None:
        """Refuse unreadable files, all in one message, unless ``corrupt`` is ``skip``.

        Raises:
            DataError: If there are any.
        """
        if self.unreadable and corrupt == "refuse":
            raise unreadable_error(self.name, self.unreadable, self.total)

    def readable_images(self) -> dict[SplitName, tuple[int, ...]]:
        """Return the number of readable files by class."""
        lost = Counter((each.file.split, each.file.label) for each in self.unreadable)
        return {
            split: tuple(count - lost[split, label] for label, count in enumerate(counts))
            for split, counts in self.images.items()
        }

    def notes(self) -> Iterator[str]:
        """Yield a line on each kind of copies: in several classes, or in several splits."""
        others = tuple(group for group in self.across_splits if group not in self.across_classes)
        for groups, apart, where, advice in (
            (
                self.across_classes,
                "label",
                "in different classes",
                "at most one class is right: remove the others",
            ),
            (
                others,
                "split",
                "in different splits",
                "a trial would be measured on images that it was trained on: remove the copies, or move "
                "them into one split",
            ),
        ):
            if groups:
                pairs = itertools.pairwise(groups[0])
                pair = next(each for each in pairs if getattr(each[0], apart) != getattr(each[1], apart))
                first = " and ".join(f"'{_place(each, self.classes)}'" for each in pair)
                count = sum(map(len, groups))
                listed = "; 'hpo data STUDY --json' lists all" if count > len(pair) else ""
                yield (
                    f"{self.name}: {count} of {self.total} files have the same content as another one "
                    f"{where}, such as {first}{listed}; {advice}"
                )

    def document(self) -> dict[str, Any]:
        """Return the scan as a JSON document."""
        return {
            "files": self.total,
            "formats": dict(self.formats),
            "modes": dict(self.modes),
            "smallest": self.sizes and self.sizes[0],
            "median": self.sizes and self.sizes[1],
            "largest": self.sizes and self.sizes[2],
            "transparent": list(map(str, self.transparent)),
            "animated": list(map(str, self.animated)),
            "unreadable": [
                {"file": str(each.path), "reason": each.reason, "too_large": each.is_too_large}
                for each in self.unreadable
            ],
            "same_in_several_classes": [
                [str(each.path) for each in group] for group in self.across_classes
            ],
            "same_in_several_splits": [[str(each.path) for each in group] for group in self.across_splits],
        }


def unreadable_error(name: str, found: Sequence[Unreadable], total: int) -> DataError:
    """Return the error that names how many files are unreadable, the first of them, and what to do.

    It is an ``ImagesUnreadable`` unless a file system may have failed for a moment.
    """
    large = [each for each in found if each.is_too_large]
    advice = ["repair or remove them"] if len(large) < len(found) else ["make them smaller"]
    if large:
        advice.append("raise train.max_pixels")
    advice.append('set train.corrupt = "skip" to leave such files out')
    kind = DataError if any(each.may_pass for each in found) else ImagesUnreadable
    return kind(
        f"{name}: {len(found)} of {total} images cannot be read: {_name_files(found)}; "
        f"{', '.join(advice[:-1])}, or {advice[-1]}"
    )


def left_out_line(name: str, found: Sequence[Unreadable], total: int) -> str:
    """Return a line on the unreadable files that are left out."""
    return f"{name}: left out {len(found)} of {total} images, which cannot be read: {_name_files(found)}"


def _name_files(found: Sequence[Unreadable]) -> str:
    return join_names([f"{each.path} ({each.reason})" for each in found], NAMES_SHOWN)


def _place(file: ListedFile, classes: Sequence[str]) -> str:
    return f"{file.path} ({classes[file.label]}, {SPLIT_WORDS[file.split]})"


def scan_files(
    config: Config,
    classes: tuple[str, ...],
    drawn: Mapping[SplitName, SourceSplit],
    hashes: ContentHashes | None = None,
    progress: Progress | None = None,
) -> FolderScan:
    """Read the headers of files.

    Args:
        config: The data set's name, and ``max_pixels``.
        classes: Their names.
        drawn: The files by split.
        hashes: To look for files with the same content; None: do not. Only files of the same size are read
            for this, and only where they are in different classes or splits.
        progress: Is called now and then, in this thread.

    Raises:
        DataError: If the file system fails.
    """
    listed = list_files(drawn)
    tell = progress or (lambda what, done, total: None)
    headers: dict[ListedFile, image_files.Header] = {}
    unreadable: list[Unreadable] = []
    with image_files.without_pil_limits():
        for file, found in in_threads(
            listed, lambda each: _read_header(each, config.max_pixels), "reading headers", tell
        ):
            if isinstance(found, Unreadable):
                unreadable.append(found)
            else:
                headers[file] = found
    groups = [] if hashes is None else list(_equal_files(headers, hashes, tell))
    return FolderScan(
        name=config.dataset,
        classes=classes,
        images={name: _count(split, len(classes)) for name, split in drawn.items()},
        formats=dict(Counter(each.format for each in headers.values()).most_common()),
        modes=dict(Counter(each.mode for each in headers.values()).most_common()),
        sizes=_sizes(headers.values()),
        transparent=tuple(file.path for file, each in headers.items() if each.has_alpha),
        animated=tuple(file.path for file, each in headers.items() if each.is_animated),
        unreadable=tuple(unreadable),
        across_classes=tuple(group for group in groups if len({each.label for each in group}) > 1),
        across_splits=tuple(group for group in groups if len({each.split for each in group}) > 1),
    )


def list_files(drawn: Mapping[SplitName, SourceSplit]) -> list[ListedFile]:
    """Return the files of splits, one split behind another."""
    return [
        ListedFile(path=path, split=name, label=label)
        for name, split in drawn.items()
        for path, label in zip(split.files, split.labels.tolist(), strict=True)
    ]


def in_threads(
    items: Sequence[Item],
    function: Callable[[Item], Result],
    what: str,
    tell: Progress,
    *,
    files_at_once: int = FILES_AT_ONCE,
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with the function's result, in order, computed by as many threads as cores.

    The threads are at most a few batches ahead of the caller, so only these are in memory.

    Args:
        items: What the function is applied to.
        function: Is called in a thread.
        what: What is done, for ``tell``.
        tell: Is called after each batch, in this thread.
        files_at_once: Items of a batch.
    """

    def apply(batch: Sequence[Item]) -> list[tuple[Item, Result]]:
        return [(item, function(item)) for item in batch]

    batches = (items[first : first + files_at_once] for first in range(0, len(items), files_at_once))
    done, threads = 0, core_count()
    with ThreadPoolExecutor(threads) as pool:
        ahead = deque(pool.submit(apply, batch) for batch in itertools.islice(batches, 2 * threads))
        while ahead:
            results = ahead.popleft().result()
            ahead.extend(pool.submit(apply, batch) for batch in itertools.islice(batches, 1))
            done += len(results)
            tell(what, done, len(items))
            yield from results


def _read_header(file: ListedFile, max_pixels: int) -> image_files.Header | Unreadable:
    try:
        return image_files.read_header(file.path, max_pixels)
    except ValueError as cause:
        return unreadable(file, cause)


def unreadable(file: ListedFile, cause: ValueError) -> Unreadable:
    """Return the record of a file that ``image_files`` could not read."""
    failure = cause.__cause__
    return Unreadable(
        file=file,
        reason=short_message(cause),
        is_too_large=isinstance(cause, image_files.ImageTooLarge),
        may_pass=isinstance(failure, OSError) and failure.errno is not None,  # PIL's own have no number
    )


def _count(split: SourceSplit, classes: int) -> tuple[int, ...]:
    counts = Counter(split.labels.tolist())
    return tuple(counts[label] for label in range(classes))


def _sizes(headers: Iterable[image_files.Header]) -> Sizes | None:
    ordered = sorted(((each.width, each.height) for each in headers), key=lambda size: size[0] * size[1])
    if not ordered:
        return None
    return ordered[0], ordered[statistics.median_low(range(len(ordered)))], ordered[-1]


def _equal_files(
    headers: Mapping[ListedFile, image_files.Header], hashes: ContentHashes, tell: Progress
) -> Iterator[tuple[ListedFile, ...]]:
    """Yield the groups of files with the same content that are in several classes or splits."""
    by_size: dict[int, list[ListedFile]] = defaultdict(list)
    for file, header in headers.items():
        by_size[header.nbytes].append(file)
    candidates = [file for files in by_size.values() if _are_apart(files) for file in files]
    by_content: dict[str, list[ListedFile]] = defaultdict(list)
    for file, content in zip(candidates, hashes.describe(candidates, tell), strict=True):
        by_content[content].append(file)
    for content, files in by_content.items():
        if content != UNREADABLE and _are_apart(files):
            yield tuple(files)


def _are_apart(files: Iterable[ListedFile]) -> bool:
    """Return whether files are in several classes or splits."""
    pairs = itertools.pairwise((file.label, file.split) for file in files)
    return any(first != second for first, second in pairs)
