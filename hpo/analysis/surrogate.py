"""What settings come to, from curves recorded before: of a study's whole trials, or of a file.

A recorded setting has its own curve. Between settings a random forest tells the accuracy after each epoch
and the seconds, a surrogate of the kind that Eggensperger et al. (2015, "Efficient Benchmarking of
Hyperparameter Optimizers via Surrogates") found best. ``fidelity`` says how far it is to be trusted.
"""

import csv
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import CurvesError
from hpo.search.replicates import REPLICATE_OF
from hpo.store import status, studies
from hpo.store.storage import Storage
from hpo.study import space
from hpo.study.definition import Definition, Search
from hpo.study.space import Choices, Parameter, Setting, Value

MIN_CURVES = 10  # curves from which anything can be told
TREES = 50
FOLDS = 10  # of the cross-validation
SAMPLED_SETTINGS = 1000  # settings, among which the best is looked for
SURROGATE_NAME = "random forest"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What a setting comes to."""

    accuracies: tuple[float, ...]  # after epoch 1, 2, ...
    total_seconds: float  # of all its epochs


@dataclass(frozen=True, kw_only=True)
class RecordedCurves:
    """Whole curves of one study, all of the same length."""

    definition: Definition  # of a file's: with the space that its rows span
    settings: tuple[Setting, ...]
    curves: tuple[Curve, ...]

    @property
    def epochs(self) -> int:
        """The length of each curve."""
        return len(self.curves[0].accuracies)


def curves_of_study(opened: Storage, name: str) -> RecordedCurves:
    """Give the whole curves of a study: its complete trials, of as many epochs as the longest has.

    Raises StoreError if there is no such study, CurvesError if it has too few.
    """
    definition = studies.read_definition(opened, name)
    firsts = (t for t in status.read_trials(opened, name) if REPLICATE_OF not in t.system_attrs)
    whole = [trial for trial in firsts if trial.state == TrialState.COMPLETE]
    longest = max((len(trial.intermediate_values) for trial in whole), default=0)
    whole = [trial for trial in whole if len(trial.intermediate_values) == longest]
    fewest = MIN_CURVES if definition.searches else 2
    if len(whole) < fewest or not longest:
        raise CurvesError(
            f"study '{name}' has {len(whole)} whole curves; want {fewest}: trials that no pruner ended "
            'early. Run one with pruner = "none", or name a file with --curves'
        )
    return RecordedCurves(
        definition=definition,
        settings=tuple(trial.params for trial in whole),
        curves=tuple(_curve_of_trial(trial) for trial in whole),
    )


def _curve_of_trial(trial: FrozenTrial) -> Curve:
    reported = trial.intermediate_values
    return Curve(
        accuracies=tuple(reported[step] for step in sorted(reported)),
        total_seconds=float(trial.user_attrs.get("wall_time_seconds", len(reported))),
    )


def read_curves(path: Path) -> RecordedCurves:
    """Read a file of curves: a column per parameter, ``seconds`` (of all epochs), then 1, 2, ...

    Rows are settings, an empty field a parameter that a setting does not have. Raises CurvesError.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CurvesError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    names = list(rows[0]) if rows else []
    epochs = [name for name in names if name.isdigit()]
    if "seconds" not in names or epochs != [str(number) for number in range(1, len(epochs) + 1)]:
        raise CurvesError(
            f"{path}: want a column per parameter, then 'seconds', then 1, 2, ... for the accuracy after "
            f"each epoch; found {', '.join(names) or 'nothing'}"
        )
    if len(rows) < MIN_CURVES:
        raise CurvesError(f"{path}: {len(rows)} settings; want {MIN_CURVES} or more")
    parameters = [name for name in names if name != "seconds" and name not in epochs]
    settings = [{n: _parse_value(row[n]) for n in parameters if row[n]} for row in rows]
    curves = []
    for line, row in enumerate(rows, start=2):
        seconds, *accuracies = (_parse_number(row[name], path, line, name) for name in ("seconds", *epochs))
        curves.append(Curve(accuracies=tuple(accuracies), total_seconds=seconds))
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


def write_curves(recorded: RecordedCurves, path: Path) -> None:
    """Write curves as the file that ``read`` reads."""
    names = [parameter.name for parameter in recorded.definition.space]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*names, "seconds", *range(1, recorded.epochs + 1)])
        for setting, curve in zip(recorded.settings, recorded.curves, strict=True):
            accuracies = [f"{accuracy:.4f}" for accuracy in curve.accuracies]
            writer.writerow(
                [*(setting.get(n, "") for n in names), f"{curve.total_seconds:.2f}", *accuracies]
            )


def _parse_value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"True": True, "False": False}.get(text, text)


def _parse_number(text: str | None, path: Path, line: int, name: str) -> float:
    try:
        found = float(text or "")
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise CurvesError(f"{path}:{line}: {name}: want a number, found '{text or ''}'")
    return found


def _spanned_space(names: Sequence[str], settings: Sequence[Setting]) -> tuple[Parameter, ...]:
    """Give the space that settings span; what some lack hangs on the choice that tells which."""
    found = []
    for name in names:
        having = [setting for setting in settings if name in setting]
        made = space.covering_parameter(name, [setting[name] for setting in having])
        lacking = [setting for setting in settings if name not in setting]
        for other in names if lacking else ():
            with_, without = ({s.get(other) for s in part} for part in (having, lacking))
            told = space.infer_kind(with_ | without) == "choice" and None not in with_ | without
            if other != name and told and not with_ & without:
                when = {other: tuple(sorted(with_, key=str))}
                made = made.model_copy(update={"values": made.values.model_copy(update={"when": when})})
                break
        found.append(made)
    return space.sort_by_condition(found)


class Surrogate:
    """Tells what any setting of a space comes to."""

    def __init__(self, recorded: RecordedCurves) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of each study that is simulated
        self.recorded = recorded
        self.space = list(recorded.definition.parameters().values())
        self._known_curves = {
            _setting_key(s): c for s, c in zip(recorded.settings, recorded.curves, strict=True)
        }
        self._targets = np.array([[*curve.accuracies, curve.total_seconds] for curve in recorded.curves])

    def predict_curve(self, setting: Setting) -> Curve:
        """Give a setting's curve."""
        known = self._known_curves.get(_setting_key(setting))
        if known is not None:
            return known
        # The forest's own predict takes ten times as long for a single setting.
        asked = np.array([self._encode(setting)], dtype=np.float32)
        told = np.mean([tree.tree_.predict(asked)[0, :, 0] for tree in self._forest.estimators_], axis=0)
        *accuracies, seconds = told
        return Curve(accuracies=tuple(map(float, accuracies)), total_seconds=float(seconds))

    @functools.cached_property
    def best_accuracy(self) -> float:
        """The best accuracy that is known of: of the recorded settings and of ``DRAWN`` random ones."""
        best = max(max(curve.accuracies) for curve in self.recorded.curves)
        if not self.recorded.definition.searches:
            return best
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        train = self.recorded.definition.train
        drawn = (space.suggest_setting(study.ask(), self.space, train) for _ in range(SAMPLED_SETTINGS))
        told = self._forest.predict(np.array([self._encode(setting) for setting in drawn]))
        return max(best, float(told[:, :-1].max()))

    @functools.cached_property
    def explained_variance(self) -> float:
        """The share of the variance of best accuracies that it explains of settings it has not seen."""
        from sklearn.model_selection import KFold, cross_val_predict

        settings, best = self._features, self._targets[:, :-1].max(axis=1)
        folds = KFold(min(FOLDS, len(best)), shuffle=True, random_state=0)
        told = cross_val_predict(self._new_forest(), settings, self._targets, cv=folds)[:, :-1].max(axis=1)
        return float(1 - ((told - best) ** 2).sum() / ((best - best.mean()) ** 2).sum())

    @functools.cached_property
    def _features(self) -> Any:
        return np.array([self._encode(setting) for setting in self.recorded.settings])

    @functools.cached_property
    def _forest(self) -> Any:
        return self._new_forest().fit(self._features, self._targets)

    def _new_forest(self) -> Any:
        from sklearn.ensemble import RandomForestRegressor

        return RandomForestRegressor(TREES, random_state=0)

    def _encode(self, setting: Setting) -> list[float]:
        """Give a setting as numbers: one per choice, a place from 0 to 1 in a range, -1 for none."""
        found: list[float] = []
        for parameter in self.space:
            value, values = setting.get(parameter.name), parameter.values
            if isinstance(values, Choices):
                found += [float(value == choice) for choice in values.choices]
            elif isinstance(value, int | float):
                scale = math.log if values.log else float
                low, high = scale(values.low), scale(values.high)
                found.append((scale(value) - low) / ((high - low) or 1.0))
            else:
                found.append(-1.0)
        return found


def _setting_key(setting: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(setting.items()))
