"""Records of the store as JSON documents and CSV.

Other programs read these formats, so fields and columns keep their names.
"""

import csv
import io
from collections.abc import Iterable
from typing import Any

from optuna.trial import FrozenTrial

from hpo.store.status import STATE_NAMES, BestTrial, Status
from hpo.study.points import ALIASES


def best_trial_document(found: BestTrial) -> dict[str, Any]:
    """Return a best trial for JSON: the fields of ``BestTrial``, without ``replicates`` and ``noise``.

    If the study repeats settings, ``replicates`` is an object: the numbers and accuracies of the setting's
    trials, how many of them diverged, their mean, and the noise as a standard deviation, null if unknown.
    """
    document = dict(vars(found))
    setting, noise = document.pop("replicates"), document.pop("noise")
    if setting is None:
        return document
    return document | {
        "replicates": {
            "trials": list(setting.trials),
            "accuracies": list(setting.accuracies),
            "diverged": setting.diverged,
            "mean": setting.mean,
            "noise": noise and noise.deviation,
        }
    }


def status_document(found: Status) -> dict[str, Any]:
    """Return a study's status for JSON: the fields of ``Status`` but for ``selection``.

    ``budgets`` is an object by option of ``[search]``, ``early_ends`` one by state (failed, pruned).
    ``seconds_left`` is rounded to tenths.
    """
    return {
        "study": found.study,
        "state": found.state,
        "trials": dict(found.trials),
        "budget": found.budget,
        "best": None if found.best is None else best_trial_document(found.best),
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
        "seconds_left": None if found.seconds_left is None else round(found.seconds_left, 1),
        "early_ends": {each.state: each.document() for each in found.early_ends},
        "budgets": {each.name: each.document() for each in found.budgets},
    }


def trial_document(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial for JSON: number, state, value, parameters, user attributes, accuracies by epoch."""
    return {
        "number": trial.number,
        "state": STATE_NAMES[trial.state],
        "value": trial.value,
        "params": trial.params,
        "user_attrs": trial.user_attrs,
        "intermediate_values": trial.intermediate_values,
    }


def trials_csv(trials: list[FrozenTrial], attributes: Iterable[str] = ()) -> str:
    """Return trials as CSV, one row each.

    The columns are number, state, value; the parameters by name; epochs, best_epoch, wall_time_seconds,
    attempts, point; the aliases of attributes (``points.ALIASES``); then the other attributes. A trial that
    lacks a value has an empty cell.

    Args:
        trials: The trials, in the order of the rows.
        attributes: Names of the attributes that the study's points have.

    Returns:
        The whole text, with a header row.
    """
    parameters = sorted({name for trial in trials for name in trial.params})
    facts = dict.fromkeys((*ALIASES, *attributes))  # an alias has its column in every study
    columns = ("epochs", "best_epoch", "wall_time_seconds", "attempts", "point", *facts)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "state", "value", *parameters, *columns])
    for trial in trials:
        row = [trial.number, STATE_NAMES[trial.state], trial.value]
        row += [trial.params.get(name) for name in parameters]
        writer.writerow(row + [trial.user_attrs.get(name) for name in columns])
    return text.getvalue()
