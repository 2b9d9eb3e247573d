"""The splits of a data set of image files: decoded, or found decoded.

Shape suffix: N images.
"""

import functools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from hpo.errors import DataError, ImagesUnreadable
from hpo.training import decoded_cache, decoding, folder_scan, image_files
from hpo.training.batches import Split
from hpo.training.config import Config
from hpo.training.data_facts import SplitName
from hpo.training.decoded_cache import DecodedCache, DecodedImages
from hpo.training.folder_scan import ListedFile, Progress
from hpo.training.sources import SourceSplit


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedSplits:
    """The splits of a data set, and what was found on the way."""

    splits: Mapping[SplitName, Split]
    skipped: tuple[str, ...]  # paths of the files that were left out as unreadable
    notes: tuple[str, ...]  # lines on what is odd about the images


def read_splits(
    classes: tuple[str, ...],
    drawn: Mapping[SplitName, SourceSplit],
    config: Config,
    cache: DecodedCache | None,
    progress: Progress | None = None,
) -> DecodedSplits:
    """Decode the files of all splits alike, or those to train on by themselves.

    Args:
        classes: The names of the classes.
        drawn: The files of each split.
        config: The settings of a trial.
        cache: Keeps decoded images, unless ``config.cache`` is ``memory``; None: nothing does.
        progress: Is called now and then while files are decoded; None: log lines are written.

    Raises:
        DataError: If images are unreadable; where they are left out, if nothing is left of a split, or of a
            class to train on.
        CacheUnusable, StopRequested: As ``decoded_cache.load_images``.
    """
    read_headers = functools.cache(functools.partial(folder_scan.scan_files, config, classes, drawn))
    training, others = image_files.readings_of(config)
    readings: dict[image_files.Reading, list[SplitName]] = {}
    for name in drawn:
        readings.setdefault(training if name == "train" else others, []).append(name)
    read: dict[SplitName, Split] = {}
    skipped: list[str] = []
    notes: list[str] = []
    for reading, names in readings.items():
        files = folder_scan.list_files({name: drawn[name] for name in names})
        stop = cache.stop if cache else threading.Event()
        job = decoding.job_of(config, files, reading, stop, progress)
        try:
            decoded = decoded_cache.load_images(job, config.cache, cache, read_headers)
        except ImagesUnreadable:
            if len(readings) > 1:  # find those of all splits, to tell of them in one message
                everything = replace(job, files=tuple(folder_scan.list_files(drawn)))
                decoding.decode(everything, lambda pixels_3SS: None)
            raise
        decoding.check_splits(job, decoded.report, names)
        read |= _cut(decoded, names, decoded.report.kept(files))
        skipped += (str(each.path) for each in decoded.report.unreadable(files))
        notes += decoding.describe_images(job, decoded.report)
    wanted, found = (set(labels.tolist()) for labels in (drawn["train"].labels, read["train"].labels))
    if lost := sorted(wanted - found):
        raise DataError(f"{config.dataset}: no readable {classes[lost[0]]} to train on")
    return DecodedSplits(splits=read, skipped=tuple(skipped), notes=tuple(notes))


def _cut(
    decoded: DecodedImages, names: Sequence[SplitName], files: Sequence[ListedFile]
) -> dict[SplitName, Split]:
    """Return splits as parts of one tensor, one behind another."""
    found: dict[SplitName, Split] = {}
    first = 0
    for name in names:
        labels_N = torch.tensor([file.label for file in files if file.split == name], dtype=torch.int64)
        images = decoded.pixels_N3SS[first : first + len(labels_N)]
        found[name] = Split(images=images, labels=labels_N, mapping=decoded.mapping)
        first += len(labels_N)
    return found
