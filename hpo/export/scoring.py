"""The images that ``hpo predict`` is given, also in folders, and how well a model answers them.

Of a folder all images below it are predicted. If it has folders that are named like classes of the model,
the images in these are of that class, and the answers are scored.

Shape suffix: K classes.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpo.analysis import class_tables, intervals
from hpo.analysis.sections import Table
from hpo.errors import DataError, join_names, quote_value
from hpo.training import image_files
from hpo.training.confusion import Confusion

NAMES_SHOWN = 5  # of folders that are no class, in a message


@dataclass(frozen=True, kw_only=True)
class GivenImage:
    """An image to predict."""

    path: Path
    label: str | None = None  # its class, if a folder names it


def find_images(given: Path, labels: Collection[str]) -> list[GivenImage]:
    """Return the image at a path, or the images of a folder and all folders below it, in order.

    Whatever is no folder counts as an image.

    Args:
        given: A file or a folder.
        labels: The names of the model's classes.

    Raises:
        DataError: If it is a folder that cannot be listed or has no image.
    """
    try:
        if not given.is_dir():
            return [GivenImage(path=given)]
        files, _ = image_files.list_images(given)
    except OSError as error:
        place = error.filename or given
        raise DataError(f"{quote_value(str(place))}: {error.strerror or error}") from error
    if not files:
        suffixes = " ".join(image_files.IMAGE_SUFFIXES)
        raise DataError(f"{given}: no images in this folder; supported are {suffixes}")
    tops = [file.relative_to(given).parts[0] for file in files]  # the file itself, if it lies in no folder
    return [
        GivenImage(path=file, label=top if top in labels and file.parent != given else None)
        for file, top in zip(files, tops, strict=True)
    ]


def unscored_line(given: Path, images: Sequence[GivenImage]) -> str | None:
    """Return a line on the folders beside class folders that are no class; None if there are none."""
    others = [each.path.relative_to(given) for each in images if each.label is None]
    if not others or len(others) == len(images):
        return None
    names = dict.fromkeys(path.parts[0] if len(path.parts) > 1 else "." for path in others)
    shown = join_names([quote_value(name) for name in names], NAMES_SHOWN)
    return f"{given}: {len(others)} of {len(images)} images are not scored: no class is called {shown}"


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well a model answered images whose classes are known."""

    right: int
    images: int
    unread: int  # images of known classes that could not be read, so they are not scored
    classes: Table  # a row for each class of the model with images or answers: n, precision, recall, F1

    def summary(self) -> str:
        """Return the accuracy in one line, with its interval."""
        found = intervals.fraction_interval(self.right / self.images, self.images)
        left_out = f"; {self.unread} of {self.images + self.unread} are left out as unreadable"
        return (
            f"accuracy {found.value:.4f}: {self.right} of {self.images} images of known classes are right "
            f"(95 % interval {found.low:.4f} to {found.high:.4f}){left_out if self.unread else ''}"
        )


def score_answers(answers: Iterable[tuple[str, str | None]], labels: Sequence[str]) -> Score | None:
    """Score answers; None if there are none.

    Args:
        answers: The class of each image, and the most probable class by the model; None instead of the
            latter: the image could not be read.
        labels: The names of the model's classes.
    """
    matrix_KK = np.zeros((len(labels), len(labels)), np.int64)
    index = {label: number for number, label in enumerate(labels)}
    unread = 0
    for label, answer in answers:
        if answer is None:
            unread += 1
        else:
            matrix_KK[index[label], index[answer]] += 1
    if not matrix_KK.any():
        return None
    table = class_tables.class_table(Confusion.from_matrix("test", labels, matrix_KK))
    seen = (matrix_KK.sum(0) + matrix_KK.sum(1)) > 0
    rows = tuple(row for row, has_any in zip(table.rows, seen, strict=True) if has_any)
    return Score(
        right=int(matrix_KK.trace()),
        images=int(matrix_KK.sum()),
        unread=unread,
        classes=Table(columns=table.columns, rows=rows),
    )
