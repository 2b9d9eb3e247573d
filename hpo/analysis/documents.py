"""Results and trials as JSON documents and CSV.

Other programs read these formats, so fields and columns keep their names.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from hpo.analysis.records import TrialRecord
from hpo.analysis.results import SettingResult
from hpo.store.status import STATE_NAMES, Status
from hpo.study.points import ALIASES


def best_trial_document(found: SettingResult) -> dict[str, Any]:
    """Return a setting's result for JSON.

    With several objectives it has ``values`` and ``directions`` by objective in place of ``value`` and
    ``metric``, and says whether the setting is on the front, and its knee. Otherwise:

    ``value`` is the mean over ``seeds`` seeds of what ``metric`` names; ``direction`` says whether that is
    maximized or minimized. ``accuracy`` is the same value where that is the metric. ``low`` and ``high``
    are its 95 % interval, null if unknown. ``trial`` is the setting's first trial, and the facts on one run
    are its, but for ``weights``, which are those of the best one. ``tied`` lists the trials of all settings
    with this value, empty if there is no other.

    If the study repeats settings, ``replicates`` is an object: the numbers and values of the setting's
    trials (also as ``accuracies`` where that is the metric), how many of them diverged, their mean, and the
    noise as a standard deviation, null if unknown.
    """
    trial, interval = found.trial, found.interval
    document = {
        "study": found.study,
        "trial": trial.number,
        **_value_fields(found),
        **({"accuracy": found.value} if found.metric.name == "accuracy" else {}),
        "images": found.images,
        "seeds": len(found.runs),
        "best_epoch": trial.best_epoch,
        "epochs": trial.epochs or None,
        "params": trial.params,
        "wall_time_seconds": trial.wall_seconds or None,
        "hardware": trial.hardware_facts,
        "weights": found.weights,
        "low": interval and interval.low,
        "high": interval and interval.high,
        "baseline": trial.baseline,
        "tied": list(found.tied),
    }
    if not found.is_repeated:
        return document
    return document | {
        "replicates": {
            "trials": [each.number for each in found.runs],
            "values": list(found.values),
            **({"accuracies": list(found.values)} if found.metric.name == "accuracy" else {}),
            "diverged": found.diverged,
            "mean": found.value,
            "noise": found.noise and found.noise.deviation,
        }
    }


def _value_fields(found: SettingResult) -> dict[str, Any]:
    """Return what a setting is compared by: its value, or with several objectives the value of each."""
    if not found.has_several_goals:
        metric = found.metric
        return {"metric": metric.name, "direction": metric.direction, "value": found.value}
    names = [each.name for each in found.goals]
    return {
        "directions": {each.name: each.direction for each in found.goals},
        "values": dict(zip(names, found.objectives, strict=True)),
        "on_front": found.is_on_front,
        "knee": found.is_knee,
    }


def status_document(found: Status, best: SettingResult | None) -> dict[str, Any]:
    """Return a study's status and best result for JSON: the fields of ``Status`` but for ``selection``.

    ``budgets`` is an object by option of ``[search]``, ``early_ends`` one by state (failed, pruned).
    ``seconds_left`` is rounded to tenths.
    """
    return {
        "study": found.study,
        "state": found.state,
        "trials": dict(found.trials),
        "budget": found.budget,
        "best": None if best is None else best_trial_document(best),
        "workers": [
            {
                "owner": worker.owner,
                "host": worker.host,
                "device": worker.device,
                "trial": worker.trial,
                "attempt": worker.attempt,
                "epoch": worker.epoch,
                "expires_in_seconds": worker.expires_in_seconds,
                "silent_seconds": worker.silent_seconds,
            }
            for worker in found.workers
        ],
        "waits": list(found.waits),
        "left_out_trials": found.left_out_trials,
        "seconds_left": None if found.seconds_left is None else round(found.seconds_left, 1),
        "early_ends": {each.state: each.document() for each in found.early_ends},
        "budgets": {each.name: each.document() for each in found.budgets},
    }


def unreadable_document(name: str, reason: str) -> dict[str, Any]:
    """Return a study whose definition cannot be read, in the form of ``status_document``.

    Its state is ``unreadable``, ``reason`` says why, and the other fields are null or empty.
    """
    empty: dict[str, Any] = {"trials": {}, "budget": None, "best": None, "workers": [], "waits": []}
    rest: dict[str, Any] = {"seconds_left": None, "budgets": {}, "early_ends": {}, "left_out_trials": 0}
    return {"study": name, "state": "unreadable", "reason": reason, **empty, **rest}


def trial_document(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial for JSON: number, state, value, parameters, user attributes, values by epoch.

    With several objectives it has ``values``, a list in their order, in place of ``value``.
    """
    several = trial.values is not None and len(trial.values) > 1
    return {
        "number": trial.number,
        "state": STATE_NAMES[trial.state],
        **({"values": trial.values} if several else {"value": trial.value}),
        "params": trial.params,
        "user_attrs": trial.user_attrs,
        "intermediate_values": trial.intermediate_values,
    }


def trials_csv(
    trials: list[FrozenTrial], found: Sequence[TrialRecord], attributes: Iterable[str] = ()
) -> str:
    """Return trials as CSV, one row each.

    The columns are number, state, value; the parameters by name; epochs, best_epoch, wall_time_seconds,
    attempts, point; the aliases of attributes (``points.ALIASES``); the other attributes; then best_value,
    images and baseline. A trial that lacks a value has an empty cell. With several objectives there is last
    a column for each, ``values_accuracy`` and so on, with what the trial has reached by its last epoch.

    Args:
        trials: The trials, in the order of the rows.
        found: Their records.
        attributes: Names of the attributes that the study's points have.

    Returns:
        The whole text, with a header row.
    """
    parameters = sorted({name for each in found for name in each.params})
    facts = tuple(dict.fromkeys((*ALIASES, *attributes)))  # an alias has its column in every study
    columns = ("epochs", "best_epoch", "wall_time_seconds", "attempts", "point", *facts)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    objectives = list(dict.fromkeys(name for each in found for name in each.reached))
    last = ("best_value", "images", "baseline", *(f"values_{name}" for name in objectives))
    writer.writerow(["number", "state", "value", *parameters, *columns, *last])
    for trial, each in zip(trials, found, strict=True):
        writer.writerow(
            [
                *(each.number, each.state, each.value),
                *(each.params.get(name) for name in parameters),
                *(each.epochs or None, each.best_epoch, each.wall_seconds or None, each.attempts or None),
                *(trial.user_attrs.get(name) for name in ("point", *facts)),
                *(each.best_value, each.images if each.curve else None, each.baseline),
                *(each.reached.get(name) for name in objectives),
            ]
        )
    return text.getvalue()
