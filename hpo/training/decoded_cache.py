"""The image files of a study, decoded once per machine for all its workers.

A *copy* holds the pixels of a list of files at one size. It is one file in the cache's folder::

    3f2a61.images          one image behind another, then the report as JSON, then its length in 8 bytes
    3f2a61.images.draft    a copy that is being made, or whose maker died

**Validity.** The name is a hash of everything that decides the pixels: the contents of the files in their
order, the options of ``image_files.Reading``, and the version of Pillow. So a copy never becomes outdated,
and may be removed at any time.

**Crashes.** A copy gets its name when it is complete and on the disk. Its maker holds a lock on the draft
(flock), which ends with the process. So a draft without a lock has lost its maker: the next worker that
needs the copy begins it again, and whoever needs room removes it.

**Concurrency.** A worker that needs a copy which another one is making waits for it. A worker holds a
shared lock on each copy that it uses, so that nobody removes it to make room.

**Memory.** The pixels are mapped into memory, so they are in the page cache, which all processes share and
the system shrinks as needed. Pages that a process has touched count as its own in most tools, and in limits
that are based on them. So after each ``MAX_MAPPED_BYTES`` the process gives its pages back; those in the
page cache stay.

Shape suffixes: N images, S side length of a square image.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import mmap
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

import PIL
import torch
from torch import Tensor

from hpo.artifacts import durable
from hpo.artifacts.folders import Artifacts
from hpo.errors import CacheUnusable, DataError, StopRequested, format_bytes
from hpo.training import decoding
from hpo.training.decoding import DecodingReport, Job
from hpo.training.devices import DEFAULT_CACHE_GB
from hpo.training.folder_scan import FolderScan
from hpo.training.used_files import ContentHashes

FOLDER = "cache/images"
SUFFIX = ".images"
MAX_MAPPED_BYTES = 256 * 2**20
FREE_BYTES, FREE_SHARE = 2**30, 0.05  # of the disk that copies leave free: the smaller of the two
LENGTH_BYTES = 8  # of the report's length, at the end of a copy
WAIT_SECONDS = 0.2  # between two checks of whether another process has made a copy
KEY_VERSION = 1  # increased with any change of the code that changes pixels

logger = logging.getLogger(__name__)


def cache_folder(artifacts: Artifacts) -> Path:
    """Return the folder of this machine's copies; it is not created.

    It is in the artifacts. If these are behind a URL, it is in the user's cache folder.
    """
    if artifacts.is_local:
        return Path(artifacts.root, FOLDER)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError:  # the user has no home folder
            base = Path(tempfile.gettempdir(), f"cache-{os.geteuid()}")
    return base / "hpo" / FOLDER


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedImages:
    """The pixels of the readable files of a job, in the files' order."""

    pixels_N3SS: Tensor  # uint8
    report: DecodingReport
    mapping: "MappedImages | None"  # None: they are in this process's own memory


def load_images(
    job: Job,
    place: Literal["auto", "memory", "disk"],
    cache: "DecodedCache | None",
    read_headers: Callable[[], FolderScan],
) -> DecodedImages:
    """Return decoded images: from the cache, where they are put if needed, or from this process's memory.

    Args:
        job: The files, and how they are decoded.
        place: As ``Config.cache``.
        cache: None: the images are decoded into memory.
        read_headers: Scans the files; it is called before any is decoded.

    Raises:
        DataError: If images are unreadable, unless the study leaves them out.
        CacheUnusable: With ``disk``, if the cache has no room or cannot be written.
        StopRequested: If ``job.stop`` was set.
    """
    cache = None if place == "memory" else cache
    if cache is not None and (found := cache.find(job)) is not None:
        decoding.check_report(job, found.report)
        return _mapped(found)
    own = set(job.files)
    job = replace(job, known={each.file: each for each in read_headers().unreadable if each.file in own})
    if job.known and job.corrupt == "refuse":
        decoding.decode(job, lambda pixels_3SS: None)  # raises; it finds the other unreadable files, too
    if cache is not None:
        try:
            return _mapped(cache.make(job))
        except OSError as error:
            where = error.filename or cache.folder
            problem = f"{job.name}: its decoded images cannot be kept: {where}: {error.strerror or error}"
            if place == "disk":
                raise CacheUnusable(
                    f'{problem}; make room, raise --cache-gb, or set train.cache = "memory"'
                ) from error
            logger.warning("%s; each worker keeps them in its own memory", problem)
    pixels_N3SS, report = decoding.decode_into_memory(job)
    return DecodedImages(pixels_N3SS=pixels_N3SS, report=report, mapping=None)


def _mapped(found: "MappedImages") -> DecodedImages:
    return DecodedImages(pixels_N3SS=found.pixels_N3SS, report=found.report, mapping=found)


class NoRoom(OSError):
    """A copy would exceed the cache's size, or fill the disk."""


class MappedImages:
    """The pixels of a copy, mapped into memory; they are read when they are used.

    Args:
        file: The copy, open and locked. It may be closed: the map keeps its lock.
        size: Side of an image in pixels.

    Raises:
        ValueError: If the file is damaged.
        OSError: If it cannot be mapped.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        end = len(self._map) - LENGTH_BYTES
        begin = end - int.from_bytes(self._map[max(end, 0) :], "little")
        self.report = DecodingReport.model_validate_json(self._map[max(begin, 0) : max(end, 0)])
        count, rest = divmod(begin, 3 * size * size)
        if rest:
            raise ValueError("the images have another size")
        self.pixels_N3SS = torch.empty((0, 3, size, size), dtype=torch.uint8)
        if count:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*not writable.*")  # nobody writes to images
                flat = torch.frombuffer(self._map, dtype=torch.uint8, count=begin)
            self.pixels_N3SS = flat.view(count, 3, size, size)
        self._touched_bytes = 0

    def touch(self, nbytes: int) -> None:
        """Count the bytes of images that are used, and give the mapped pages back now and then."""
        self._touched_bytes += nbytes
        if self._touched_bytes > MAX_MAPPED_BYTES:
            self.give_back()

    def give_back(self) -> None:
        """Give this process's pages back; whoever uses an image again finds it in the page cache."""
        self._map.madvise(mmap.MADV_DONTNEED)
        self._touched_bytes = 0


@dataclass(frozen=True, kw_only=True)
class CacheSize:
    """What is in the cache."""

    copies: int
    drafts: int  # copies that are being made, or whose maker died
    nbytes: int

    def describe(self) -> str:
        """Return a text such as "3 copies, 1 of them unfinished, 1.24 GB"."""
        total = self.copies + self.drafts
        drafts = f", {self.drafts} of them unfinished" if self.drafts else ""
        return f"{total} {'copy' if total == 1 else 'copies'}{drafts}, {format_bytes(self.nbytes)}"


class DecodedCache:
    """The decoded images of one machine.

    Args:
        folder: Where the copies are; it is created when there is something to put into it.
        max_bytes: How much they may take. The copies that were not used for longest are removed first.
        hashes: Knows the contents of files that have not changed since they were read.
        stop: When set, making a copy or waiting for one ends.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int = int(DEFAULT_CACHE_GB * 1e9),
        hashes: ContentHashes | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.hashes = hashes or ContentHashes()
        self.stop = stop or threading.Event()

    def find(self, job: Job) -> MappedImages | None:
        """Return the copy of a job's images; None if there is none, or it cannot be read."""
        return self._open(self._path(job), job.reading.size)

    def make(self, job: Job) -> MappedImages:
        """Decode a job's images into a copy, or wait for another process that does.

        Raises:
            StopRequested: If ``stop`` was set.
            DataError: If images are unreadable, as for ``decoding.decode``.
            NoRoom: If the copy would exceed the cache's size, or fill the disk.
            OSError: If it cannot be written, or the disk has no locks.
        """
        path, size = self._path(job), job.reading.size
        draft = path.with_name(path.name + durable.DRAFT_SUFFIX)
        self.folder.mkdir(parents=True, exist_ok=True)
        while True:
            if (found := self._open(path, size)) is not None:
                return found
            with draft.open("a+b") as file:
                if self._lock(draft, file):
                    if (found := self._open(path, size)) is None:
                        return self._write(job, path, file)
                    draft.unlink()  # another process made the copy between the two checks
                    return found

    def measure(self) -> CacheSize:
        """Return how many copies and drafts there are, and how much they take."""
        found = self._files()
        return CacheSize(
            copies=sum(path.name.endswith(SUFFIX) for path, _ in found),
            drafts=sum(durable.is_draft(path.name) for path, _ in found),
            nbytes=sum(stat.st_size for _, stat in found),
        )

    def clear(self) -> int:
        """Remove all copies and drafts that no process uses; return how many bytes that frees."""
        return sum(stat.st_size for path, stat in self._files() if _remove_unused(path))

    def _path(self, job: Job) -> Path:
        reading = {**asdict(job.reading), "pillow": PIL.__version__, "version": KEY_VERSION}
        digest = hashlib.blake2b(json.dumps(reading, sort_keys=True).encode(), digest_size=16)
        for content in self.hashes.describe(job.files):
            digest.update(f"\n{content}".encode())
        return self.folder / f"{digest.hexdigest()}{SUFFIX}"

    def _open(self, path: Path, size: int) -> MappedImages | None:
        try:
            with path.open("rb") as file:
                with contextlib.suppress(OSError):  # a disk without locks
                    fcntl.flock(file, fcntl.LOCK_SH)
                found = MappedImages(file, size)
        except (OSError, ValueError):  # missing, or damaged: whoever makes it again replaces it
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the time of its last use
        return found

    def _lock(self, draft: Path, file: BinaryIO) -> bool:
        """Wait for the lock of a draft; return False once its maker has renamed or removed it instead.

        A maker that has renamed it keeps a lock on it as long as it uses the copy.
        """
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return _is_at(draft, file)
            if not _is_at(draft, file):
                return False
            if self.stop.wait(WAIT_SECONDS):
                raise StopRequested("stopped while another worker decoded the images")

    def _write(self, job: Job, path: Path, file: BinaryIO) -> MappedImages:
        """Write a copy into its draft, which is open and locked, and give it its name."""
        draft = Path(file.name)
        try:
            self._make_room(job.nbytes, keep=draft)
            file.truncate(0)
            report = decoding.decode(job, lambda pixels_3SS: file.write(pixels_3SS.tobytes()))
            if self._path(job) != path:
                raise DataError(f"{job.name}: its images changed while they were decoded; run it again")
            content = report.model_dump_json().encode()
            file.write(content + len(content).to_bytes(LENGTH_BYTES, "little"))
            file.flush()
            os.fsync(file.fileno())
            draft.rename(path)
            durable.fsync_folder(self.folder)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink()
            with contextlib.suppress(OSError):
                file.truncate(0)  # what is still in its buffer may not fit on the disk either
            raise
        fcntl.flock(file, fcntl.LOCK_SH)
        return MappedImages(file, job.reading.size)

    def _make_room(self, nbytes: int, keep: Path) -> None:
        """Remove abandoned drafts, then the copies not used for longest, until another one fits."""
        if nbytes > self.max_bytes:
            raise NoRoom(
                errno.ENOSPC,
                f"{format_bytes(nbytes)} are more than the {format_bytes(self.max_bytes)} of --cache-gb",
            )
        found = [(path, stat) for path, stat in self._files() if path != keep]
        total = sum(stat.st_size for _, stat in found)
        for path, stat in sorted(found, key=lambda each: (_is_copy(each[0]), each[1].st_mtime)):
            is_abandoned = not _is_copy(path)
            if (is_abandoned or not self._fits(nbytes, total)) and _remove_unused(path):
                total -= stat.st_size
        if total + nbytes > self.max_bytes:
            raise NoRoom(
                errno.ENOSPC,
                f"{format_bytes(nbytes)} do not fit beside the {format_bytes(total)} in use within the "
                f"{format_bytes(self.max_bytes)} of --cache-gb",
            )
        if not self._fits(nbytes, total):
            free = shutil.disk_usage(self.folder).free
            raise NoRoom(
                errno.ENOSPC,
                f"{format_bytes(nbytes)} do not fit, {format_bytes(free)} are free",
            )

    def _fits(self, nbytes: int, total: int) -> bool:
        disk = shutil.disk_usage(self.folder)
        spare = min(FREE_BYTES, int(FREE_SHARE * disk.total))
        return total + nbytes <= self.max_bytes and nbytes + spare <= disk.free

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        return list(_files_with_stat(self.folder))


def _files_with_stat(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for pattern in (f"*{SUFFIX}", f"*{SUFFIX}{durable.DRAFT_SUFFIX}"):
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):  # removed meanwhile
                yield path, path.stat()


def _is_copy(path: Path) -> bool:
    return path.name.endswith(SUFFIX)


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Return whether an open file still has its name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _remove_unused(path: Path) -> bool:
    """Remove a copy or a draft, unless a process uses it or it belongs to somebody else."""
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, file):
                path.unlink()
            return True
    except OSError:
        return False
