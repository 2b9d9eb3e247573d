"""The user's own images in a list: a CSV or Parquet file with the columns path, label and maybe split.

Parquet is read by pyarrow, which is an optional dependency: the extra ``parquet``.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from hpo.errors import DataError, join_names, quote_value, suggestion
from hpo.training.class_folders import SPLIT_FOLDERS, MissingImages
from hpo.training.image_files import IMAGE_SUFFIXES
from hpo.training.sources import Source, SourceSplit, short_message

COLUMNS = ("path", "label", "split")
LIST_SUFFIXES = (".csv", ".parquet")
SHOWN = 20  # problems that one message tells


@dataclass(frozen=True, kw_only=True)
class Row:
    """An image in a list."""

    place: int  # its line in a CSV file; in a Parquet file its number, from 1
    path: Path
    label: str
    split: str


def list_images(list_path: str) -> Source:
    """List the images of a CSV or Parquet file; no image is read.

    The columns are ``path``, ``label`` and, optionally, ``split``, in any order; the first line of a CSV
    file names them. Paths are relative to the folder of the list. A split has one of the names
    ``SPLIT_FOLDERS``, in upper or lower case. Without the column all images are in train. The classes are
    the labels of train, sorted.

    Args:
        list_path: The FILE of ``list:FILE``, which ends in .csv or .parquet; ``~`` is expanded.

    Raises:
        MissingImages: If there is no such list.
        DataError: If the list cannot be read, has other columns, or anything in it is wrong: all problems
            are told with their lines or rows.
    """
    where = f"train.dataset: {quote_value(f'list:{list_path}')}"
    path = _existing_list(list_path, where)
    is_csv = path.suffix.lower() == ".csv"
    reading = _Reading(folder=path.parent, where=where, unit="line" if is_csv else "row")
    rows = list(_read_csv(path, reading) if is_csv else _read_parquet(path, reading))
    classes = tuple(sorted({row.label for row in rows if row.split == "train"}))
    reading.check_classes(rows, classes)
    if reading.problems:
        shown = sorted(reading.problems)[:SHOWN]
        more = len(reading.problems) - len(shown)
        told = "; ".join(f"{reading.unit} {place}: {problem}" for place, problem in shown)
        raise DataError(f"{where}: {told}{f'; and {more} more' if more else ''}")
    if len(classes) < 2:
        found = f"one label only, '{classes[0]}'" if classes else "no image to train on"
        raise DataError(f"{where}: {found}; want two labels or more in train")
    splits = {name: _make_split(rows, name, classes) for name in ("train", "valid", "test")}
    assert splits["train"] is not None
    return Source(classes=classes, train=splits["train"], valid=splits["valid"], test=splits["test"])


def _existing_list(list_path: str, where: str) -> Path:
    if Path(list_path).suffix.lower() not in LIST_SUFFIXES:
        raise DataError(f"{where}: want a CSV or Parquet file, whose name ends in .csv or .parquet")
    try:
        path = Path(list_path).expanduser()
        if path.is_file():
            return path
    except (RuntimeError, OSError) as cause:  # "~name", and no user has that name; a name that is too long
        reason = cause.strerror if isinstance(cause, OSError) else "there is no such user"
        raise DataError(f"{where}: {reason}; give the list's path") from cause
    raise MissingImages(f"{where}: there is no such file")


def _read_csv(path: Path, reading: "_Reading") -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from reading.read_lines(file)
    except UnicodeDecodeError as cause:
        found = f"not UTF-8 ({cause.reason} at byte {cause.start})"
        raise DataError(f"{reading.where}: {found}; save it so") from cause
    except OSError as cause:
        raise DataError(f"{reading.where}: {cause.strerror or cause}") from cause


def _read_parquet(path: Path, reading: "_Reading") -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{reading.where}: pyarrow is not installed; install it with: pip install "
            "'hpo-vision[parquet]', or in a checkout: pip install '.[parquet]'; or save the list as CSV"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            yield from reading.read_table(file)
    except (pyarrow.ArrowException, UnicodeDecodeError) as cause:
        raise DataError(f"{reading.where}: no Parquet file, or damaged ({short_message(cause)})") from cause
    except OSError as cause:
        raise DataError(f"{reading.where}: {cause.strerror or short_message(cause)}") from cause


@dataclass(kw_only=True)
class _Reading:
    """Reads the rows of a list, and collects what is wrong with them.

    Attributes:
        folder: Where the list lies.
        where: What messages begin with.
        unit: What its rows are called: line or row.
        problems: The lines or rows and what is wrong there.
    """

    folder: Path
    where: str
    unit: str
    problems: list[tuple[int, str]] = field(default_factory=list)
    _places: dict[Path, int] = field(default_factory=dict)  # by path: where it stands first

    def read_lines(self, file: TextIO) -> Iterator[Row]:
        """Yield the rows of a CSV file that are right.

        Raises:
            DataError: If the columns are others; then no row has a meaning.
        """
        columns: list[str] = []
        reader = csv.reader(file, strict=True)
        try:
            for cells in reader:
                if not columns:
                    columns = [cell.strip() for cell in cells]
                    _check_columns(columns, f"{self.where}: line 1", "the first line must be")
                elif cells:  # not a blank line
                    yield from self._read_row(columns, cells, reader.line_num)
        except csv.Error as cause:
            self._add(reader.line_num, str(cause))
        if not columns:
            raise DataError(
                f"{self.where}: the file is empty; its first line must be path,label or {_HEADER}"
            )

    def read_table(self, file: Any) -> Iterator[Row]:
        """Yield the rows of a ``pyarrow.parquet.ParquetFile`` that are right.

        Raises:
            DataError: If the columns are others, or have values of another type.
        """
        columns = list(file.schema_arrow.names)
        _check_columns(columns, self.where, "the columns must be")
        if others := [column for column in file.schema_arrow if not _is_text(column)]:
            found = " and ".join(f"column {each.name} has values of type {each.type}" for each in others)
            raise DataError(f"{self.where}: {found}; want text (string), for label also whole numbers")
        number = 0
        for batch in file.iter_batches():
            for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                number += 1
                texts = ["" if cell is None else str(cell) for cell in cells]
                yield from self._read_row(columns, texts, number)

    def _read_row(self, columns: list[str], cells: list[str], place: int) -> Iterator[Row]:
        if len(cells) != len(columns):
            self._add(place, f"{len(cells)} values for the {len(columns)} columns {','.join(columns)}")
            return
        values = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
        name, label = values["path"], values["label"]
        split = SPLIT_FOLDERS.get(values.get("split", "train").lower())
        found = len(self.problems)
        if name:
            self._check_file(name, place)
        else:
            self._add(place, "no path")
        if not label:
            self._add(place, "no label")
        if split is None:
            allowed = join_names(SPLIT_FOLDERS, len(SPLIT_FOLDERS))
            self._add(place, f"split {quote_value(values['split'])}; allowed: {allowed}")
        elif len(self.problems) == found:
            yield Row(place=place, path=self.folder / name, label=label, split=split)

    def _check_file(self, name: str, place: int) -> None:
        path = self.folder / name
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            self._add(place, f"{quote_value(name)} is no image; supported are {' '.join(IMAGE_SUFFIXES)}")
        elif not _is_file(path):
            self._add(place, f"there is no file {quote_value(name)} (paths begin at the list)")
        elif (first := self._places.setdefault(path, place)) != place:
            self._add(place, f"{quote_value(name)} is in {self.unit} {first} already")

    def check_classes(self, rows: list[Row], classes: tuple[str, ...]) -> None:
        """Note labels of valid and test that train lacks."""
        for row in rows:
            if classes and row.label not in classes:
                self._add(row.place, f"label {quote_value(row.label)} has no image in train")

    def _add(self, place: int, problem: str) -> None:
        self.problems.append((place, problem))


_HEADER = ",".join(COLUMNS)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or with a zero byte
        return False


def _is_text(column: Any) -> bool:
    """Return whether a column of a Parquet file has values of a type that its name allows."""
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    texts = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    allowed = (*texts, types.is_integer) if column.name == "label" else texts
    return any(is_kind(kind) for is_kind in allowed)


def _check_columns(columns: list[str], where: str, wanted: str) -> None:
    """Refuse a list with other columns."""
    for name in columns:
        if name not in COLUMNS:
            hint = suggestion(name, COLUMNS) or ";"
            raise DataError(f"{where}: column {quote_value(name)}{hint} {wanted} path,label or {_HEADER}")
    if lacking := [name for name in ("path", "label") if name not in columns]:
        raise DataError(f"{where}: no column {' and '.join(lacking)}; found {','.join(columns)}")
    if len(set(columns)) < len(columns):
        raise DataError(f"{where}: {','.join(columns)} names a column twice; remove one")


def _make_split(rows: list[Row], name: str, classes: tuple[str, ...]) -> SourceSplit | None:
    """Return the images of a split, ordered by class, then by path; None if the list has none."""
    index = {label: number for number, label in enumerate(classes)}
    own = sorted((index[row.label], str(row.path), row.path) for row in rows if row.split == name)
    if not own:
        return None
    labels = np.array([label for label, _, _ in own], dtype=np.int64)
    return SourceSplit(images=tuple(path for _, _, path in own), labels=labels)
