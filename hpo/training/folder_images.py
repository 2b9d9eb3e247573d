"""Reading the image files that a study uses, and telling what is odd about them.

Shape suffixes: N images, S side length of a square image.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from hpo.errors import DataError
from hpo.training import folder_scan, image_files
from hpo.training.config import Config
from hpo.training.data_facts import SPLIT_WORDS, SplitName
from hpo.training.folder_scan import FolderScan, ListedFile, Unreadable
from hpo.training.sources import SourceSplit

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class FolderImages:
    """Reads the splits of a folder one after another, and remembers what is odd about their images.

    Attributes:
        config: The settings of a trial.
        scan: What the headers of the files say.
        unreadable: The files that were left out so far.
    """

    config: Config
    scan: FolderScan
    unreadable: list[Unreadable] = field(default_factory=list)
    _transparent: list[Path] = field(default_factory=list)
    _half_cropped: list[Path] = field(default_factory=list)

    def read(self, name: SplitName, split: SourceSplit) -> tuple[Tensor, Tensor]:
        """Return the readable images of a split, uint8 [N, 3, S, S], and their labels, int64 [N]."""
        files, size = folder_scan.list_split(name, split), self.config.image_size
        pixels = torch.empty((len(files), 3, size, size), dtype=torch.uint8)
        labels = torch.tensor(list(self._read_into(pixels, files)), dtype=torch.int64)
        return pixels[: len(labels)], labels

    def _read_into(self, pixels_N3SS: Tensor, files: Sequence[ListedFile]) -> Iterator[int]:
        """Read the images one behind another; yield the label of each that is readable."""
        reading = image_files.reading_of(self.config)
        known = {each.path: each for each in self.scan.unreadable}
        next_free = 0
        for file in files:
            if file.path in known:
                self.unreadable.append(known[file.path])
                continue
            try:
                picture = image_files.read_image(file.path, reading)
            except ValueError as cause:
                self.unreadable.append(folder_scan.unreadable(file, cause))
                continue
            if picture.is_transparent:
                self._transparent.append(file.path)
            if picture.is_half_cropped:
                self._half_cropped.append(file.path)
            pixels_N3SS[next_free] = torch.from_numpy(picture.pixels)
            next_free += 1
            yield file.label

    def check(self, labels: Mapping[SplitName, Tensor]) -> None:
        """Refuse unreadable images, all in one message, unless the study leaves them out.

        Args:
            labels: Of the images that were read, by split.

        Raises:
            DataError: If there are any; or, where they are left out, if a split has no image without them.
        """
        if self.unreadable and self.config.corrupt == "refuse":
            raise folder_scan.unreadable_error(self.scan.name, self.unreadable, self.scan.total)
        for name, labels_N in labels.items():
            if not len(labels_N):
                line = folder_scan.left_out_line(self.scan.name, self.unreadable, self.scan.total)
                raise DataError(f"{line}; so the {SPLIT_WORDS[name]} split has no image")

    def warn(self) -> None:
        """Log a line on the images left out, and on those that the model does not see as people do."""
        name, total = self.scan.name, self.scan.total
        if self.unreadable:
            logger.warning("%s", folder_scan.left_out_line(name, self.unreadable, total))
        for files, what in (
            (
                self._transparent,
                "transparent parts, which get the colour hidden there; to put them on white, set "
                'train.transparency = "white"',
            ),
            (
                self._half_cropped,
                "one side over twice the other, so over half is cut off; to keep all of them, set "
                'train.resize = "pad" or "squash"',
            ),
        ):
            if files:
                first = f"such as {files[0]}"
                logger.warning("%s: %d of %d images, %s, have %s", name, len(files), total, first, what)
