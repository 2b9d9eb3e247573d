"""The user's own images in a list: a CSV file with the columns path, label and, optionally, split."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from hpo.errors import DataError, join_names, quote_value, suggestion
from hpo.training.class_folders import SPLIT_FOLDERS, MissingImages
from hpo.training.image_files import IMAGE_SUFFIXES
from hpo.training.sources import Source, SourceSplit

COLUMNS = ("path", "label", "split")
SHOWN = 20  # problems that one message tells


@dataclass(frozen=True, kw_only=True)
class Row:
    """An image in a list."""

    line: int
    path: Path
    label: str
    split: str


def list_images(list_path: str) -> Source:
    """List the images of a CSV file; no image is read.

    The first line names the columns ``path``, ``label`` and, optionally, ``split``, in any order. Paths are
    relative to the folder of the list. A split has one of the names ``SPLIT_FOLDERS``, in upper or lower
    case. Without the column all images are in train. The classes are the labels of train, sorted.

    Args:
        list_path: The FILE.csv of ``list:FILE.csv``; ``~`` is expanded.

    Raises:
        MissingImages: If there is no such list.
        DataError: If the list cannot be read, has other columns, or anything in it is wrong: all problems
            are told with their lines.
    """
    where = f"train.dataset: {quote_value(f'list:{list_path}')}"
    path = _existing_list(list_path, where)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reading = _Reading(folder=path.parent)
            rows = list(reading.read(file, where))
    except UnicodeDecodeError as cause:
        raise DataError(f"{where}: not UTF-8 ({cause.reason} at byte {cause.start}); save it so") from cause
    except OSError as cause:
        raise DataError(f"{where}: {cause.strerror or cause}") from cause
    classes = tuple(sorted({row.label for row in rows if row.split == "train"}))
    reading.check_classes(rows, classes)
    if reading.problems:
        shown = sorted(reading.problems)[:SHOWN]
        more = len(reading.problems) - len(shown)
        told = "; ".join(f"line {line}: {problem}" for line, problem in shown)
        raise DataError(f"{where}: {told}{f'; and {more} more' if more else ''}")
    if len(classes) < 2:
        found = f"one label only, '{classes[0]}'" if classes else "no image to train on"
        raise DataError(f"{where}: {found}; want two labels or more in train")
    splits = {name: _make_split(rows, name, classes) for name in ("train", "valid", "test")}
    assert splits["train"] is not None
    return Source(classes=classes, train=splits["train"], valid=splits["valid"], test=splits["test"])


def _existing_list(list_path: str, where: str) -> Path:
    if Path(list_path).suffix.lower() != ".csv":
        raise DataError(
            f"{where}: want a CSV file, whose name ends in .csv; to make one of a Parquet file, use "
            "pandas.read_parquet(...).to_csv(..., index=False)"
        )
    try:
        path = Path(list_path).expanduser()
        if path.is_file():
            return path
    except (RuntimeError, OSError) as cause:  # "~name", and no user has that name; a name that is too long
        reason = cause.strerror if isinstance(cause, OSError) else "there is no such user"
        raise DataError(f"{where}: {reason}; give the list's path") from cause
    raise MissingImages(f"{where}: there is no such file")


@dataclass(kw_only=True)
class _Reading:
    """Reads the rows of a list, and collects what is wrong with them.

    Attributes:
        folder: Where the list lies.
        problems: The lines and what is wrong there.
    """

    folder: Path
    problems: list[tuple[int, str]] = field(default_factory=list)
    _lines: dict[Path, int] = field(default_factory=dict)  # by path: where it stands first

    def read(self, file: TextIO, where: str) -> Iterator[Row]:
        """Yield the rows that are right.

        Raises:
            DataError: If the columns are others; then no row has a meaning.
        """
        columns: list[str] = []
        reader = csv.reader(file, strict=True)
        try:
            for cells in reader:
                if not columns:
                    columns = [cell.strip() for cell in cells]
                    _check_columns(columns, where)
                elif cells:  # not a blank line
                    yield from self._read_row(columns, cells, reader.line_num)
        except csv.Error as cause:
            self._add(reader.line_num, str(cause))
        if not columns:
            raise DataError(f"{where}: the file is empty; its first line must be path,label or {_HEADER}")

    def _read_row(self, columns: list[str], cells: list[str], line: int) -> Iterator[Row]:
        if len(cells) != len(columns):
            self._add(line, f"{len(cells)} values for the {len(columns)} columns {','.join(columns)}")
            return
        values = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
        name, label = values["path"], values["label"]
        split = SPLIT_FOLDERS.get(values.get("split", "train").lower())
        found = len(self.problems)
        if name:
            self._check_file(name, line)
        else:
            self._add(line, "no path")
        if not label:
            self._add(line, "no label")
        if split is None:
            allowed = join_names(SPLIT_FOLDERS, len(SPLIT_FOLDERS))
            self._add(line, f"split {quote_value(values['split'])}; allowed: {allowed}")
        elif len(self.problems) == found:
            yield Row(line=line, path=self.folder / name, label=label, split=split)

    def _check_file(self, name: str, line: int) -> None:
        path = self.folder / name
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            self._add(line, f"{quote_value(name)} is no image; supported are {' '.join(IMAGE_SUFFIXES)}")
        elif not _is_file(path):
            self._add(line, f"there is no file {quote_value(name)} (paths begin at the list)")
        elif (first := self._lines.setdefault(path, line)) != line:
            self._add(line, f"{quote_value(name)} is in line {first} already")

    def check_classes(self, rows: list[Row], classes: tuple[str, ...]) -> None:
        """Note labels of valid and test that train lacks."""
        for row in rows:
            if classes and row.label not in classes:
                self._add(row.line, f"label {quote_value(row.label)} has no image in train")

    def _add(self, line: int, problem: str) -> None:
        self.problems.append((line, problem))


_HEADER = ",".join(COLUMNS)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or with a zero byte
        return False


def _check_columns(columns: list[str], where: str) -> None:
    """Refuse a list with other columns."""
    for name in columns:
        if name not in COLUMNS:
            hint = suggestion(name, COLUMNS) or ";"
            raise DataError(
                f"{where}: line 1: column {quote_value(name)}{hint} the first line must be path,label or "
                f"{_HEADER}"
            )
    if lacking := [name for name in ("path", "label") if name not in columns]:
        raise DataError(f"{where}: line 1: no column {' and '.join(lacking)}; found {','.join(columns)}")
    if len(set(columns)) < len(columns):
        raise DataError(f"{where}: line 1: {','.join(columns)} names a column twice; remove one")


def _make_split(rows: list[Row], name: str, classes: tuple[str, ...]) -> SourceSplit | None:
    """Return the images of a split, ordered by class, then by path; None if the list has none."""
    index = {label: number for number, label in enumerate(classes)}
    own = sorted((index[row.label], str(row.path), row.path) for row in rows if row.split == name)
    if not own:
        return None
    labels = np.array([label for label, _, _ in own], dtype=np.int64)
    return SourceSplit(images=tuple(path for _, _, path in own), labels=labels)
