"""Decoding the image files that a study uses, by all cores, and telling what is odd about them.

Threads decode: Pillow releases the interpreter's lock meanwhile. On two cores they read JPEGs of 500 x 375
pixels 1.6 to 2.1 times as fast as one thread. Decoding JPEGs with torchvision would save a fifth to a half
of the time at most, and needs a second way to read all other files.

Shape suffixes: N images, S side length of a square image.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from hpo.errors import DataError, StopRequested, format_bytes
from hpo.training import folder_scan, image_files
from hpo.training.config import Config
from hpo.training.data_facts import SPLIT_WORDS, SplitName
from hpo.training.devices import free_memory_bytes
from hpo.training.folder_scan import ListedFile, Progress, Unreadable
from hpo.training.image_files import Picture, Reading

BATCH_BYTES = 4 * 2**20  # of pixels that a thread decodes before it passes them on
SECONDS_BETWEEN_LINES = 15.0  # of progress

logger = logging.getLogger(__name__)


class LeftOut(BaseModel):
    """A file that could not be decoded."""

    model_config = ConfigDict(frozen=True)

    index: int  # in the list of files
    reason: str
    is_too_large: bool = False
    may_pass: bool = False  # the file system failed, not the decoder


class DecodingReport(BaseModel):
    """What decoding a list of files has shown; files are given by their indices in the list."""

    model_config = ConfigDict(frozen=True)

    left_out: tuple[LeftOut, ...]
    transparent: tuple[int, ...]  # parts were transparent; now they have the colour that was hidden there
    half_cropped: tuple[int, ...]  # the centre crop cut off more than half

    def unreadable(self, files: Sequence[ListedFile]) -> list[Unreadable]:
        """Return the files that were left out, given the list of all."""
        return [
            Unreadable(
                file=files[each.index],
                reason=each.reason,
                is_too_large=each.is_too_large,
                may_pass=each.may_pass,
            )
            for each in self.left_out
        ]

    def kept(self, files: Sequence[ListedFile]) -> list[ListedFile]:
        """Return the files that were decoded, in the order of the list."""
        lost = {each.index for each in self.left_out}
        return [file for index, file in enumerate(files) if index not in lost]


@dataclass(frozen=True, kw_only=True)
class Job:
    """The files to decode, and how."""

    name: str  # of the data set
    files: tuple[ListedFile, ...]
    reading: Reading
    corrupt: str  # refuse: a file that cannot be decoded is an error; skip: it is left out
    known: Mapping[ListedFile, Unreadable]  # files whose headers show that they cannot be decoded
    stop: threading.Event
    progress: Progress | None = None  # is told how far decoding is; None: it is logged now and then

    @property
    def image_bytes(self) -> int:
        """The size of the pixels of one image."""
        return 3 * self.reading.size**2

    @property
    def nbytes(self) -> int:
        """The size of the pixels of all files."""
        return len(self.files) * self.image_bytes


def job_of(
    config: Config,
    files: Sequence[ListedFile],
    reading: Reading,
    stop: threading.Event,
    progress: Progress | None = None,
) -> Job:
    """Return the job of decoding the files of a trial's data set, of which no header has been read."""
    return Job(
        name=config.dataset,
        files=tuple(files),
        reading=reading,
        corrupt=config.corrupt,
        known={},
        stop=stop,
        progress=progress,
    )


def decode(job: Job, write: Callable[[NDArray[np.uint8]], object]) -> DecodingReport:
    """Decode files by as many threads as there are cores, and pass on the pixels in the files' order.

    Args:
        job: The files, and how they are decoded.
        write: Gets the pixels of each image, [3, S, S], in this thread.

    Raises:
        StopRequested: If ``stop`` was set.
        DataError: If images are unreadable, all in one message, unless the study leaves them out.
    """
    left_out: list[LeftOut] = []
    transparent: list[int] = []
    half_cropped: list[int] = []
    tell = job.progress or _LoggedProgress(job)

    def read(file: ListedFile) -> Picture | Unreadable | None:
        return None if job.stop.is_set() else job.known.get(file) or _read(file, job.reading)

    with image_files.without_pil_limits():
        at_once = max(1, min(folder_scan.FILES_AT_ONCE, BATCH_BYTES // job.image_bytes))
        results = folder_scan.in_threads(job.files, read, "decoding", tell, files_at_once=at_once)
        for index, (_, found) in enumerate(results):
            if found is None:
                raise StopRequested(f"{job.name}: stopped while its images were decoded")
            if isinstance(found, Unreadable):
                left_out.append(_left_out(index, found))
                continue
            if found.is_transparent:
                transparent.append(index)
            if found.is_half_cropped:
                half_cropped.append(index)
            write(found.pixels)
    report = DecodingReport(
        left_out=tuple(left_out), transparent=tuple(transparent), half_cropped=tuple(half_cropped)
    )
    check_report(job, report)
    return report


def check_report(job: Job, report: DecodingReport) -> None:
    """Refuse files that could not be decoded, all in one message, unless the study leaves them out.

    Raises:
        DataError: If there are any.
    """
    if report.left_out and job.corrupt == "refuse":
        raise folder_scan.unreadable_error(job.name, report.unreadable(job.files), len(job.files))


class _LoggedProgress:
    """Logs how far decoding is, now and then."""

    def __init__(self, job: Job) -> None:
        self.name = job.name
        self.next_line_at = time.monotonic() + SECONDS_BETWEEN_LINES

    def __call__(self, what: str, done: int, total: int) -> None:
        if time.monotonic() >= self.next_line_at:
            logger.info("%s: %s images, %d of %d done", self.name, what, done, total)
            self.next_line_at = time.monotonic() + SECONDS_BETWEEN_LINES


def _read(file: ListedFile, reading: Reading) -> Picture | Unreadable:
    try:
        return image_files.decode_image(file.path, reading)
    except ValueError as cause:
        return folder_scan.unreadable(file, cause)


def _left_out(index: int, found: Unreadable) -> LeftOut:
    return LeftOut(
        index=index, reason=found.reason, is_too_large=found.is_too_large, may_pass=found.may_pass
    )


def decode_into_memory(job: Job) -> tuple[Tensor, DecodingReport]:
    """Decode files into this process's own memory.

    Returns:
        The pixels of the readable images, uint8 [N, 3, S, S], and the report.

    Raises:
        StopRequested: If ``stop`` was set.
        DataError: If images are unreadable, as for ``decode``, or do not fit into the free memory.
    """
    if job.nbytes > (free := free_memory_bytes()):
        raise DataError(
            f"{job.name}: its {len(job.files)} images take {format_bytes(job.nbytes)} at "
            f"{job.reading.size} px, and {format_bytes(free)} of memory are free; make room for them on "
            "the disk of --artifacts, or use a smaller train.image_size or train.limit"
        )
    size = job.reading.size
    pixels_N3SS = np.empty((len(job.files), 3, size, size), dtype=np.uint8)
    free_rows = iter(pixels_N3SS)

    def write(pixels_3SS: NDArray[np.uint8]) -> None:
        next(free_rows)[...] = pixels_3SS

    report = decode(job, write)
    return torch.from_numpy(pixels_N3SS[: len(job.files) - len(report.left_out)]), report


def check_splits(job: Job, report: DecodingReport, splits: Sequence[SplitName]) -> None:
    """Refuse a data set of which a split has no readable image.

    Raises:
        DataError: If one has none.
    """
    left = {file.split for file in report.kept(job.files)}
    for name in splits:
        if name not in left:
            line = folder_scan.left_out_line(job.name, report.unreadable(job.files), len(job.files))
            raise DataError(f"{line}; so the {SPLIT_WORDS[name]} split has no image")


def describe_images(job: Job, report: DecodingReport) -> Iterator[str]:
    """Yield a line on the images left out, and on those that the model does not see as people do."""
    total = len(job.files)
    if report.left_out:
        yield folder_scan.left_out_line(job.name, report.unreadable(job.files), total)
    for indices, what in _oddities(report):
        first = f"such as {job.files[indices[0]].path}"
        yield f"{job.name}: {len(indices)} of {total} images, {first}, have {what}"


def _oddities(report: DecodingReport) -> Iterator[tuple[tuple[int, ...], str]]:
    if report.transparent:
        yield (
            report.transparent,
            "transparent parts, which get the colour hidden there; to put them on white, set "
            'train.transparency = "white"',
        )
    if report.half_cropped:
        yield (
            report.half_cropped,
            "one side over twice the other, so over half is cut off; to keep all of them, set "
            'train.resize = "pad" or "squash"',
        )
