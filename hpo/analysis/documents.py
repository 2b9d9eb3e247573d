"""Results and trials as records, which the Python API returns and ``--json`` prints, and as CSV.

Other programs read these formats, so fields and columns keep their names.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial

from hpo.analysis.formatting import short_repr
from hpo.analysis.health import Problem
from hpo.analysis.records import TrialRecord
from hpo.analysis.results import SettingResult
from hpo.store.budgets import Budget
from hpo.store.failures import EarlyEnd
from hpo.store.lease_info import LeaseInfo
from hpo.store.rows import STATE_NAMES
from hpo.store.status import Status
from hpo.store.waiting_workers import WaitingWorker
from hpo.study.points import ALIASES


@dataclass(frozen=True, kw_only=True)
class Replicates:
    """The trials of a setting in a study that repeats settings.

    Attributes:
        trials: Their numbers, the best first.
        values: Their values, in this order.
        accuracies: The same values if the metric is the accuracy; else None.
        diverged: How many more diverged.
        mean: The mean of the values.
        noise: How much the seed alone changes values, as a standard deviation; None if unknown.
    """

    trials: tuple[int, ...]
    values: tuple[float, ...]
    accuracies: tuple[float, ...] | None
    diverged: int
    mean: float
    noise: float | None

    def document(self) -> dict[str, Any]:
        """Return the fields for JSON; ``accuracies`` only if the metric is the accuracy."""
        found = vars(self) | {"trials": list(self.trials), "values": list(self.values)}
        if self.accuracies is None:
            return {name: value for name, value in found.items() if name != "accuracies"}
        return found | {"accuracies": list(self.accuracies)}


@dataclass(frozen=True, kw_only=True)
class BestSetting:
    """One of the best settings of a study: an entry of ``hpo best --json``.

    The JSON document leaves out what a study does not have: ``accuracy`` under another metric,
    ``replicates`` where settings are not repeated, and either ``metric``, ``direction`` and ``value``, or
    with several objectives the fields in their place.

    Attributes:
        study: The study's name.
        trial: The number of the setting's first trial. Facts on one run are its, but for ``weights``.
        metric: What ``value`` is; with several objectives the first metric among them.
        direction: ``maximize`` or ``minimize``, of the metric.
        value: The mean over ``seeds`` seeds.
        directions: With several objectives the direction of each, by name; else None.
        values: With several objectives the value of each, by name; else None.
        on_front: With several objectives, whether the setting is on the Pareto front; else None.
        knee: With several objectives, whether it is the knee of the front; else None.
        accuracy: The value if the metric is the accuracy; else None.
        images: How many images the value was measured on; None if unknown.
        seeds: How many runs the value is the mean of.
        best_epoch: The epoch with the value, from 1.
        epochs: How many epochs the trial has reported.
        params: The setting.
        wall_time_seconds: Training and evaluation of the trial, all attempts.
        hardware: Device, host and version of torch, as the worker stored them.
        weights: The name of the best run's weights in the artifacts; None if they were not kept.
        low: Lower end of the 95 % interval of the value; None if unknown.
        high: Upper end of it.
        baseline: The value that guessing gives; None if unknown.
        tied: The trials of all settings with this value; empty if there is no other.
        replicates: The setting's runs in a study that repeats settings; else None.
    """

    study: str
    trial: int
    metric: str
    direction: str
    value: float
    directions: Mapping[str, str] | None
    values: Mapping[str, float] | None
    on_front: bool | None
    knee: bool | None
    accuracy: float | None
    images: int | None
    seeds: int
    best_epoch: int | None
    epochs: int | None
    params: Mapping[str, Any]
    wall_time_seconds: float | None
    hardware: Mapping[str, Any] | None
    weights: str | None
    low: float | None
    high: float | None
    baseline: float | None
    tied: tuple[int, ...]
    replicates: Replicates | None

    def __repr__(self) -> str:
        return short_repr(
            self, "study", "trial", "metric", "value", "values", "low", "high", "seeds", "params"
        )

    def document(self) -> dict[str, Any]:
        """Return the fields that the study has, for JSON."""
        with_one, with_several = ("metric", "direction", "value"), _SEVERAL
        left_out = {*(with_one if self.values is not None else with_several)}
        left_out |= {name for name in ("accuracy", "replicates") if getattr(self, name) is None}
        found = {name: value for name, value in vars(self).items() if name not in left_out}
        if self.replicates is not None:
            found["replicates"] = self.replicates.document()
        return found | {"tied": list(self.tied)}


_SEVERAL = ("directions", "values", "on_front", "knee")  # fields in a study with several objectives


def best_setting_record(found: SettingResult) -> BestSetting:
    """Return a setting's result as other programs get it."""
    trial, interval, several = found.trial, found.interval, found.has_several_goals
    names = [each.name for each in found.goals]
    is_accuracy = found.metric.name == "accuracy"
    return BestSetting(
        study=found.study,
        trial=trial.number,
        metric=found.metric.name,
        direction=found.metric.direction,
        value=found.value,
        directions={each.name: each.direction for each in found.goals} if several else None,
        values=dict(zip(names, found.objectives, strict=True)) if several else None,
        on_front=found.is_on_front if several else None,
        knee=found.is_knee if several else None,
        accuracy=found.value if is_accuracy else None,
        images=found.images,
        seeds=len(found.runs),
        best_epoch=trial.best_epoch,
        epochs=trial.epochs or None,
        params=trial.params,
        wall_time_seconds=trial.wall_seconds or None,
        hardware=trial.hardware_facts,
        weights=found.weights,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        baseline=trial.baseline,
        tied=found.tied,
        replicates=_replicates(found) if found.is_repeated else None,
    )


def _replicates(found: SettingResult) -> Replicates:
    return Replicates(
        trials=tuple(each.number for each in found.runs),
        values=found.values,
        accuracies=found.values if found.metric.name == "accuracy" else None,
        diverged=found.diverged,
        mean=found.value,
        noise=None if found.noise is None else found.noise.deviation,
    )


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """A study at one moment, with its best setting: what ``hpo status --json`` prints.

    Attributes:
        study: The study's name.
        state: ``running``, ``paused``, ``stopped``, ``complete`` or ``idle``; ``unreadable`` if another
            version of hpo made it, which ``reason`` then explains.
        problems: What is wrong, the failed trials first; empty if nothing is.
        trials: Number of trials by state: waiting, running, complete, pruned, failed.
        budget: Number of trials that are planned; None if unreadable.
        best: The best setting; with several objectives the knee of the Pareto front. None before a trial is
            complete.
        workers: The workers that hold a trial.
        waiting_workers: The living workers that have no trial now.
        waits: A phrase for everything that waits, saying what it waits for.
        left_out_trials: Number of searched trials that were removed: every setting has a trial.
        seconds_left: An estimate; None if there is none.
        early_ends: The trials that failed or were pruned, by state, with the commonest reason.
        budgets: The budgets that are set besides the number of trials, by option of ``[search]``.
        logs: Folder of the workers' log files; None if there is none here, or if it was not asked for.
        reason: Why the study cannot be read; empty if it can.
    """

    study: str
    state: str
    problems: tuple[Problem, ...] = ()
    trials: Mapping[str, int] = field(default_factory=dict)
    budget: int | None = None
    best: BestSetting | None = None
    workers: tuple[LeaseInfo, ...] = ()
    waiting_workers: tuple[WaitingWorker, ...] = ()
    waits: tuple[str, ...] = ()
    left_out_trials: int = 0
    seconds_left: float | None = None
    early_ends: Mapping[str, EarlyEnd] = field(default_factory=dict)
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    logs: str | None = None
    reason: str = ""

    def __repr__(self) -> str:
        return short_repr(self, "study", "state", "trials", "budget", "best")

    def document(self) -> dict[str, Any]:
        """Return the fields for JSON but for ``logs``; with the reason if the study is unreadable."""
        return {
            "study": self.study,
            "state": self.state,
            **({"reason": self.reason} if self.reason else {}),
            "problems": [vars(problem) for problem in self.problems],
            "trials": dict(self.trials),
            "budget": self.budget,
            "best": self.best and self.best.document(),
            "workers": [_worker_document(worker) for worker in self.workers],
            "waiting_workers": [vars(worker) for worker in self.waiting_workers],
            "waits": list(self.waits),
            "left_out_trials": self.left_out_trials,
            "seconds_left": self.seconds_left,
            "early_ends": {name: each.document() for name, each in self.early_ends.items()},
            "budgets": {name: each.document() for name, each in self.budgets.items()},
        }


_WORKER_FIELDS = (
    "owner",
    "host",
    "device",
    "trial",
    "attempt",
    "epoch",
    "expires_in_seconds",
    "silent_seconds",
    "report_seconds",
)


def _worker_document(worker: LeaseInfo) -> dict[str, Any]:
    return {name: getattr(worker, name) for name in _WORKER_FIELDS}


def study_status(
    found: Status, best: SettingResult | None, problems: tuple[Problem, ...], logs: str | None = None
) -> StudyStatus:
    """Return a study's status and best result as other programs get them.

    Args:
        found: The status. Its ``seconds_left`` is rounded to tenths.
        best: The best setting; None if no trial is complete.
        problems: What is wrong with it.
        logs: The folder of its logs; None if there is none.
    """
    return StudyStatus(
        study=found.study,
        state=found.state,
        problems=problems,
        trials=dict(found.trials),
        budget=found.budget,
        best=None if best is None else best_setting_record(best),
        workers=found.workers,
        waiting_workers=found.waiting_workers,
        waits=found.waits,
        left_out_trials=found.left_out_trials,
        seconds_left=None if found.seconds_left is None else round(found.seconds_left, 1),
        early_ends={each.state: each for each in found.early_ends},
        budgets={each.name: each for each in found.budgets},
        logs=logs,
    )


@dataclass(frozen=True, kw_only=True)
class StudyTrial:
    """A trial of a study: an entry of ``hpo trials --json``.

    Attributes:
        number: Its number in the study, from 0.
        state: waiting, running, complete, pruned or failed.
        value: Its value; None before it ends, if it failed, or with several objectives.
        values: With several objectives their values, in their order; else None.
        params: Its setting.
        user_attrs: What hpo and others stored with it, such as ``wall_time_seconds`` and ``weights``.
        intermediate_values: The value after each epoch, from 1.
    """

    number: int
    state: str
    value: float | None
    values: tuple[float, ...] | None
    params: Mapping[str, Any]
    user_attrs: Mapping[str, Any]
    intermediate_values: Mapping[int, float]

    def __repr__(self) -> str:
        return short_repr(self, "number", "state", "value", "values", "params")

    def document(self) -> dict[str, Any]:
        """Return the fields for JSON: ``values`` with several objectives, else ``value``."""
        left_out = "value" if self.values is not None else "values"
        return {name: value for name, value in vars(self).items() if name != left_out}


def study_trial(trial: FrozenTrial) -> StudyTrial:
    """Return a trial as other programs get it."""
    several = trial.values is not None and len(trial.values) > 1
    return StudyTrial(
        number=trial.number,
        state=STATE_NAMES[trial.state],
        value=None if several else trial.value,
        values=tuple(trial.values) if several else None,
        params=trial.params,
        user_attrs=trial.user_attrs,
        intermediate_values=trial.intermediate_values,
    )


def trials_table(
    trials: Sequence[FrozenTrial], found: Sequence[TrialRecord], attributes: Iterable[str] = ()
) -> tuple[list[str], list[list[Any]]]:
    """Return trials as a table, one row each, for CSV and for pandas.

    The columns are number, state, value; the parameters by name; epochs, best_epoch, wall_time_seconds,
    attempts, point; the aliases of attributes (``points.ALIASES``); the other attributes; then best_value,
    images, baseline, start and end (local, ISO 8601). What a trial lacks is None. With several objectives
    there is last a column for each, ``values_accuracy`` and so on, with what the trial has reached by its
    last epoch.

    Args:
        trials: The trials, in the order of the rows.
        found: Their records.
        attributes: Names of the attributes that the study's points have.

    Returns:
        The names of the columns, and the rows.
    """
    parameters = sorted({name for each in found for name in each.params})
    facts = tuple(dict.fromkeys((*ALIASES, *attributes)))  # an alias has its column in every study
    columns = ("epochs", "best_epoch", "wall_time_seconds", "attempts", "point", *facts)
    objectives = list(dict.fromkeys(name for each in found for name in each.reached))
    last = ("best_value", "images", "baseline", "start", "end", *(f"values_{name}" for name in objectives))
    rows = [
        [
            *(each.number, each.state, each.value),
            *(each.params.get(name) for name in parameters),
            *(each.epochs or None, each.best_epoch, each.wall_seconds or None, each.attempts or None),
            *(trial.user_attrs.get(name) for name in ("point", *facts)),
            *(each.best_value, each.images if each.curve else None, each.baseline),
            *map(_local_text, (trial.datetime_start, trial.datetime_complete)),
            *(each.reached.get(name) for name in objectives),
        ]
        for trial, each in zip(trials, found, strict=True)
    ]
    return ["number", "state", "value", *parameters, *columns, *last], rows


def _local_text(moment: datetime | None) -> str | None:
    """Return a local moment, as Optuna stores it, in ISO 8601 with its offset from UTC."""
    return None if moment is None else moment.astimezone().isoformat(timespec="seconds")


def trials_csv(
    trials: Sequence[FrozenTrial], found: Sequence[TrialRecord], attributes: Iterable[str] = ()
) -> str:
    """Return the table of ``trials_table`` as CSV with a header row; what a trial lacks is empty."""
    columns, rows = trials_table(trials, found, attributes)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
