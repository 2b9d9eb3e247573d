"""Finished trials that were never run: rows for the benchmarks of the store."""

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import TrialState

from hpo.store import rows
from hpo.study import space

EPOCHS = 9  # of every trial in these benchmarks

BATCH = space.Range(low=8, high=64)
RATE = space.Range(low=1e-4, high=1.0, log=True)
DECAY = space.Range(low=0.0, high=0.3)
SPACE = (
    space.Parameter(name="optimizer", kind="choice", values=space.Choices(choices=("sgd", "adam"))),
    space.Parameter(name="lr", kind="float", values=RATE),
    space.Parameter(name="weight_decay", kind="float", values=DECAY),
    space.Parameter(name="batch_size", kind="int", values=BATCH),
)
# Name, distribution, and both ends of the range or both choices.
PARAMETERS: tuple[tuple[str, optuna.distributions.BaseDistribution, tuple[Any, Any]], ...] = tuple(
    (each.name, each.distribution(), (each.choices_or_bounds()[0], each.choices_or_bounds()[-1]))
    for each in SPACE
)


@dataclass(frozen=True, kw_only=True)
class SyntheticTrial:
    """The result of a trial that was never run."""

    state: TrialState
    epochs: int
    gain: float = 0.0  # its accuracy, less that of others after as many epochs
    system: Mapping[str, Any] = field(default_factory=dict)  # attributes


def insert_rows(connection: sa.Connection, table: Any, given: Iterator[dict[str, Any]]) -> None:
    """Insert rows, several thousand with one statement.

    Args:
        connection: An open connection to the database.
        table: The SQLAlchemy table.
        given: The rows, as a dict of values for each.
    """
    for chunk in iter(lambda: list(itertools.islice(given, 5000)), []):
        connection.execute(sa.insert(table), chunk)


def pruned_trials(count: int) -> list[SyntheticTrial]:
    """Return trials as a pruner leaves them: 40 % are complete, the others pruned."""
    dice, rung = random.Random(0), {"completed_rung_0": 1e-6}
    kept = [dice.random() < 0.4 for _ in range(count)]
    return [
        SyntheticTrial(state=TrialState.COMPLETE, epochs=EPOCHS, system=rung)
        if complete
        else SyntheticTrial(state=TrialState.PRUNED, epochs=dice.choice([1, 3]), system=rung)
        for complete in kept
    ]


def write_trials(connection: sa.Connection, ids: Sequence[int], trials: list[SyntheticTrial]) -> None:
    """Write parameters, reports, values, attributes and states of trials into existing rows.

    Args:
        connection: An open connection to the database.
        ids: Database ids of the trials.
        trials: Their results, in the same order.
    """
    dice, now = random.Random(0), datetime.now()
    given = list(zip(ids, trials, strict=True))
    parameters = ((trial_id, dice) for trial_id in ids)
    rows_of = {
        rows.params: itertools.starmap(_parameter_rows, parameters),
        rows.reports: itertools.starmap(_report_rows, given),
        rows.values: itertools.starmap(_value_rows, given),
        rows.system_attributes: itertools.starmap(_attribute_rows, given),
    }
    for table, found in rows_of.items():
        insert_rows(connection, table, itertools.chain.from_iterable(found))
    for state in {trial.state for trial in trials}:
        times = {"datetime_start": now, "datetime_complete": now if state.is_finished() else None}
        chosen = [trial_id for trial_id, trial in given if trial.state == state]
        for first in range(0, len(chosen), 5000):
            some = rows.trials.c.trial_id.in_(chosen[first : first + 5000])
            connection.execute(sa.update(rows.trials).where(some).values(state=state, **times))


def _parameter_rows(trial_id: int, dice: random.Random) -> Iterator[dict[str, Any]]:
    for name, distribution, (low, high) in PARAMETERS:
        drawn = dice.choice((low, high)) if name == "optimizer" else type(low)(dice.uniform(low, high))
        yield {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distribution.to_internal_repr(drawn),
            "distribution_json": optuna.distributions.distribution_to_json(distribution),
        }


def _report_rows(trial_id: int, trial: SyntheticTrial) -> Iterator[dict[str, Any]]:
    finite: Any = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
    for epoch in range(1, trial.epochs + 1):
        value = {"intermediate_value": trial.gain + epoch / 1e6, "intermediate_value_type": finite}
        yield {"trial_id": trial_id, "step": epoch, **value}


def _value_rows(trial_id: int, trial: SyntheticTrial) -> Iterator[dict[str, Any]]:
    if trial.state.is_finished():
        finite: Any = models.TrialValueModel.TrialValueType.FINITE
        value = trial.gain + trial.epochs / 1e6
        yield {"trial_id": trial_id, "objective": 0, "value": value, "value_type": finite}


def _attribute_rows(trial_id: int, trial: SyntheticTrial) -> Iterator[dict[str, Any]]:
    for key, value in trial.system.items():
        yield {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
