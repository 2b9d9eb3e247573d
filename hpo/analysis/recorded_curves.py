"""Recorded curves: read from a study's complete trials, or from a CSV file, and written to one.

The file has one row for each setting, and these columns: one for each parameter, then ``seconds`` (of the
whole training), then ``1``, ``2``, ... for the accuracy, or another metric, after each epoch.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hpo.analysis import records
from hpo.analysis.records import TrialRecord
from hpo.errors import CurvesError, quote_value
from hpo.store import status, studies
from hpo.store.storage import Storage
from hpo.study import space
from hpo.study.definition import Definition
from hpo.study.search_options import Search
from hpo.study.space import Parameter, Setting, Value
from hpo.training.metric import Metric

MIN_CURVES = 10  # fewer say nothing about a search
MIN_GRID_CURVES = 2  # fewer leave nothing to choose from in a grid
LARGEST = 1e30  # a number beyond it is no measurement, and overflows where it is squared as float32


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The values and the time of one setting's whole training."""

    values: tuple[float, ...]  # of the study's metric, after epoch 1, 2, ...
    total_seconds: float  # of all its epochs


@dataclass(frozen=True, kw_only=True)
class RecordedCurves:
    """Whole curves of one study, at least one, all of the same number of epochs."""

    definition: Definition  # if read from a file: with the space that its rows span
    settings: tuple[Setting, ...]
    curves: tuple[Curve, ...]  # in the order of the settings
    hardware: tuple[str, ...] = ()  # the kinds on which their times were measured, as far as it is known

    @property
    def metric(self) -> Metric:
        """What the values of the curves are of."""
        return self.definition.metric

    @property
    def epochs(self) -> int:
        """The number of epochs of each curve."""
        return len(self.curves[0].values)


class CurveSource(Protocol):
    """Gives the curve of any setting of a study: a ``Surrogate``, or a made-up study."""

    @property
    def recorded(self) -> RecordedCurves:
        """The study's definition, and the curves that are known."""

    def predict_curve(self, setting: Setting) -> Curve:
        """Return the curve of a setting."""


def curves_of_study(storage: Storage, name: str) -> RecordedCurves:
    """Read the whole curves of a study: its complete trials with as many epochs as the longest has.

    Replicates are left out, and curves with values that are not finite. Where no time was recorded, an
    epoch counts as one second.

    Args:
        storage: Where the study is stored.
        name: The study's name.

    Raises:
        StoreError: There is no such study, or another tool made it.
        StoreUnavailable: The database cannot be reached.
        CurvesError: It has fewer than ``MIN_CURVES`` whole curves, or ``MIN_GRID_CURVES`` of listed points;
            or ``hpo finish`` made it, whose runs report their last epoch alone; or it has several
            objectives.
    """
    definition = studies.read_definition(storage, name)
    if definition.finishes is not None:
        source = definition.finishes
        raise CurvesError(f"study '{name}' has no curves, since 'hpo finish' made it; simulate '{source}'")
    if definition.search.objectives:
        raise CurvesError(
            f"study '{name}' has several objectives, and 'hpo simulate' compares strategies by one; run a "
            "study without search.objectives, or name a file with --curves"
        )
    found = records.complete_records(records.trial_records(definition, status.read_trials(storage, name)))
    whole = [each for each in found if each.replicate_of is None and _is_finite(each)]
    longest = max((len(each.curve) for each in whole), default=0)
    whole = [each for each in whole if len(each.curve) == longest]
    needed = MIN_CURVES if definition.searches else MIN_GRID_CURVES
    if len(whole) < needed or not longest:
        raise CurvesError(
            f"study '{name}' has {len(whole)} whole curves; want {needed}: trials that no pruner ended "
            'early. Run a study with pruner = "none", or name a file with --curves'
        )
    if definition.searches and not definition.space:  # it lists points, and then searches what they span
        definition = definition.model_copy(update={"space": tuple(definition.parameters().values())})
    return RecordedCurves(
        definition=definition,
        settings=tuple(dict(each.params) for each in whole),
        curves=tuple(_curve_of_trial(each) for each in whole),
        hardware=tuple(dict.fromkeys(each.hardware for each in whole if each.hardware is not None)),
    )


def _is_finite(found: TrialRecord) -> bool:
    return all(map(math.isfinite, found.curve.values()))


def _curve_of_trial(found: TrialRecord) -> Curve:
    """Return a trial's curve. If no time was recorded, an epoch counts as one second."""
    return Curve(
        values=tuple(found.curve.values()), total_seconds=found.wall_seconds or float(len(found.curve))
    )


def read_curves(path: Path) -> RecordedCurves:
    """Read a file of curves. An empty field is a parameter that the setting does not have.

    The definition bears the file's name and searches the space that the settings span.

    Args:
        path: The file: CSV in UTF-8, with or without a byte order mark.

    Raises:
        CurvesError: The file cannot be read, lacks the columns of parameters, seconds and epochs or has one
            twice, has fewer than ``MIN_CURVES`` rows, a row of another length, or a value that is not
            allowed.
    """
    names, rows = _read_rows(path)
    epochs = [name for name in names if name.isdigit()]
    parameters = [name for name in names if name != "seconds" and name not in epochs]
    if "seconds" not in names or epochs != [str(number) for number in range(1, len(epochs) + 1)]:
        found = quote_value(", ".join(names) or None)
        raise CurvesError(
            f"{path}:1: want a column per parameter, then 'seconds', then 1, 2, ... for the accuracy after "
            f"each epoch; found {found}"
        )
    if not epochs or not parameters or "" in names:
        raise CurvesError(f"{path}:1: want a name for each column, a parameter, and an epoch '1' at least")
    if len(rows) < MIN_CURVES:
        raise CurvesError(f"{path}: {len(rows)} settings; want {MIN_CURVES} or more")
    settings, curves = [], []
    for line, row in rows:
        settings.append({n: _parse_value(row[n], path, line, n) for n in parameters if row[n]})
        seconds, *values = (_parse_number(row[name], path, line, name) for name in ("seconds", *epochs))
        if seconds < 0:
            raise CurvesError(f"{path}:{line}: seconds: want 0 or more, found {seconds:g}")
        curves.append(Curve(values=tuple(values), total_seconds=seconds))
    empty = [name for name in parameters if not any(name in setting for setting in settings)]
    if empty:
        raise CurvesError(f"{path}: column '{empty[0]}' has no value; remove it")
    return RecordedCurves(
        definition=Definition(
            name=path.stem,
            train={"objective": "recorded:curves", "epochs": len(epochs), "seed": 0},
            space=_spanned_space(parameters, settings),
            search=Search(),
        ),
        settings=tuple(settings),
        curves=tuple(curves),
    )


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the names of the columns, and each row that is not blank with the number of its line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            names = next(reader, [])
            found = [(reader.line_num, row) for row in reader if row]
    except UnicodeDecodeError as error:
        raise CurvesError(f"{path}: is not text in UTF-8; want a CSV file") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise CurvesError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    except csv.Error as error:
        raise CurvesError(f"{path}:{reader.line_num}: {error}; want a CSV file") from error
    double = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if double:
        raise CurvesError(f"{path}:1: column {quote_value(double[0])} is there twice")
    for line, row in found:
        if len(row) != len(names):
            raise CurvesError(f"{path}:{line}: want {len(names)} fields, as in line 1; found {len(row)}")
    return names, [(line, dict(zip(names, row, strict=True))) for line, row in found]


def write_curves(recorded: RecordedCurves, path: Path) -> None:
    """Write curves as a file that ``read_curves`` reads; a file that exists is replaced.

    Values are written with four decimals, seconds with two.

    Raises:
        OSError: The file cannot be written.
    """
    names = [parameter.name for parameter in recorded.definition.space]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*names, "seconds", *range(1, recorded.epochs + 1)])
        for setting, curve in zip(recorded.settings, recorded.curves, strict=True):
            values = [f"{value:.4f}" for value in curve.values]
            given = [setting.get(name, "") for name in names]
            writer.writerow([*given, f"{curve.total_seconds:.2f}", *values])


def _parse_value(text: str, path: Path, line: int, name: str) -> Value:
    """Return a field as an integer, a float or a truth value if it reads as one, else as text."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if abs(value) < LARGEST:
            return value
        raise CurvesError(f"{path}:{line}: {name}: want a finite number, found {quote_value(text)}")
    return {"True": True, "False": False}.get(text, text)


def _parse_number(text: str, path: Path, line: int, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < LARGEST:
        raise CurvesError(f"{path}:{line}: {name}: want a finite number, found {quote_value(text)}")
    return number


def _spanned_space(names: Sequence[str], settings: Sequence[Setting]) -> tuple[Parameter, ...]:
    """Return the space that settings span.

    A parameter that some settings lack becomes conditional on the first choice that tells the settings with
    it from those without.
    """
    return space.sort_by_condition([_spanned_parameter(name, names, settings) for name in names])


def _spanned_parameter(name: str, names: Sequence[str], settings: Sequence[Setting]) -> Parameter:
    having = [setting for setting in settings if name in setting]
    lacking = [setting for setting in settings if name not in setting]
    parameter = space.covering_parameter(name, [setting[name] for setting in having])
    for other in names if lacking else ():
        with_it, without = ({setting.get(other) for setting in part} for part in (having, lacking))
        all_values = with_it | without
        is_choice = space.infer_kind(all_values) == "choice" and None not in all_values
        if other != name and is_choice and not with_it & without:
            when = {other: tuple(sorted(with_it, key=str))}
            values = parameter.values.model_copy(update={"when": when})
            return parameter.model_copy(update={"values": values})
    return parameter
