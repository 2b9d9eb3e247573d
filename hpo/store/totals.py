"""Totals of every study in a store, for who watches them: aggregates that the database computes.

They are read often, so no trial is read whole.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpo.store import attributes, plan, rows, tables
from hpo.store.lease_table import database_time
from hpo.store.rows import dialect_of, reports, trials, values
from hpo.store.storage import Storage, retrying
from hpo.store.tables import attempts, events, leases, workers

_studies: Any = models.StudyModel.__table__
_attributes: Any = models.StudySystemAttributeModel.__table__
_directions: Any = models.StudyDirectionModel.__table__
_METRIC_NAMES = "study:metric_names"  # Optuna's own: a list with a name for each objective
_Counts = Mapping[int, Mapping[Any, int]]  # by the study's id, then by what was told apart


@dataclass(frozen=True, kw_only=True)
class HeldTrial:
    """The worker of a running trial whose lease has not expired, and its last signs of life.

    Attributes:
        worker: Host and process id.
        device: The device that it trains on.
        heartbeat_seconds: Since it last renewed the lease; 0 at least.
        report_seconds: Since it last reported an epoch or, before that, claimed the trial; None if an older
            version of hpo claimed it.
    """

    worker: str
    device: str
    heartbeat_seconds: float
    report_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class StudyTotals:
    """What the database counts of a study.

    Attributes:
        name: The study's name.
        order: ``paused`` or ``stopped`` if there is such an order, else None.
        trials: Number of trials by the names of ``rows.STATE_NAMES``.
        reports: Number of epochs that trials have reported.
        attempts: Number of attempts that have ended, by outcome (see ``store.attempts``).
        retried: How often somebody set a trial back.
        waiting_workers: Number of living workers without a trial.
        held_trials: The living workers with one.
        best: The best value of a complete trial in each objective, by the objective's name.
    """

    name: str
    order: str | None
    trials: Mapping[str, int]
    reports: int
    attempts: Mapping[str, int]
    retried: int
    waiting_workers: int
    held_trials: tuple[HeldTrial, ...]
    best: Mapping[str, float]


@retrying(reads=True)
def read_totals(storage: Storage) -> list[StudyTotals]:
    """Read the totals of each study of hpo, by name.

    What is counted in tables that an older store lacks is 0.

    Args:
        storage: The storage to read.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    with storage.transaction() as session:
        own = sa.select(_attributes.c.study_id).where(_attributes.c.key == plan.DEFINITION)
        wanted = sa.select(_studies.c.study_id, _studies.c.study_name).where(_studies.c.study_id.in_(own))
        found = session.execute(wanted.order_by(_studies.c.study_name)).all()
        read = _Aggregates(session)
        return [read.of_study(row.study_id, row.study_name) for row in found]


class _Aggregates:
    """The aggregates of all studies of a store, each read with one statement."""

    def __init__(self, session: Session) -> None:
        self._session, self._now = session, database_time(dialect_of(session))
        self._attributes = self._read_attributes()
        self._trials = self._count(trials.c.study_id, trials.c.state)
        reported = reports.join(trials, trials.c.trial_id == reports.c.trial_id)
        self._reports = self._count(trials.c.study_id, source=reported)
        self._best = self._read_best()
        version = tables.read_version(session.connection())
        self._held = self._read_held_trials(has_reports=version >= 3)
        self._attempts, self._retried = ({}, {}) if version < 2 else self._count_attempts()
        self._waiting = {} if version < 3 else self._count(workers.c.study_id, where=self._lives(workers))

    def of_study(self, study_id: int, name: str) -> StudyTotals:
        """Return the totals of a study."""
        states, outcomes = self._trials.get(study_id, {}), self._attempts.get(study_id, {})
        named = attributes.parse_json(self._attributes.get((study_id, _METRIC_NAMES)))
        names = dict(enumerate(named if isinstance(named, list) else ()))
        return StudyTotals(
            name=name,
            order=attributes.parse_order(self._attributes.get((study_id, plan.ORDER))),
            trials={text: states.get(state, 0) for state, text in rows.STATE_NAMES.items()},
            reports=sum(self._reports.get(study_id, {}).values()),
            attempts={text: count for text, count in outcomes.items() if attributes.is_text(text)},
            retried=sum(self._retried.get(study_id, {}).values()),
            waiting_workers=sum(self._waiting.get(study_id, {}).values()),
            held_trials=tuple(self._held.get(study_id, ())),
            best={str(names.get(index, index)): best for index, best in self._best.get(study_id, ())},
        )

    def _read_attributes(self) -> Mapping[tuple[int, str], str]:
        wanted = _attributes.c.key.in_((plan.ORDER, _METRIC_NAMES))
        found = sa.select(_attributes.c.study_id, _attributes.c.key, _attributes.c.value_json).where(wanted)
        return {(row.study_id, row.key): row.value_json for row in self._session.execute(found)}

    def _count(self, study: Any, kind: Any = None, *, source: Any = None, where: Any = True) -> _Counts:
        """Return numbers of rows by study and, if ``kind`` is a column, by its values."""
        told_apart = [study] if kind is None else [study, kind]
        chosen = sa.select(*told_apart, sa.func.count()).where(where).group_by(*told_apart)
        found: dict[int, dict[Any, int]] = defaultdict(dict)
        for study_id, *kinds, count in self._session.execute(
            chosen if source is None else chosen.select_from(source)
        ):
            found[study_id][kinds[0] if kinds else None] = count
        return found

    def _count_attempts(self) -> tuple[_Counts, _Counts]:
        """Return the numbers of attempts by outcome, and how often a trial was set back."""
        return (
            self._count(attempts.c.study_id, attempts.c.outcome),
            self._count(events.c.study_id, where=events.c.kind == "retried"),
        )

    def _lives(self, table: Any) -> Any:
        return table.c.expires > self._now

    def _read_held_trials(self, *, has_reports: bool) -> Mapping[int, list[HeldTrial]]:
        reported = self._now - leases.c.reported if has_reports else sa.null()
        wanted = sa.select(
            leases.c.study_id,
            leases.c.owner,
            leases.c.device,
            (self._now - leases.c.renewed).label("heartbeat"),
            reported.label("report"),
        )
        wanted = wanted.join(trials, trials.c.trial_id == leases.c.trial_id).where(
            trials.c.state == TrialState.RUNNING, leases.c.owner.is_not(None), self._lives(leases)
        )
        found: dict[int, list[HeldTrial]] = defaultdict(list)
        for row in self._session.execute(wanted):
            found[row.study_id].append(
                HeldTrial(
                    worker=row.owner,
                    device=row.device,
                    heartbeat_seconds=max(row.heartbeat, 0.0),
                    report_seconds=None if row.report is None else max(row.report, 0.0),
                )
            )
        return found

    def _read_best(self) -> Mapping[int, list[tuple[int, float]]]:
        """Return the best finite values of complete trials by study, each with its objective's index."""
        is_minimized = _directions.c.direction == StudyDirection.MINIMIZE
        best = sa.case((is_minimized, sa.func.min(values.c.value)), else_=sa.func.max(values.c.value))
        of_study = (_directions.c.study_id == trials.c.study_id) & (
            _directions.c.objective == values.c.objective
        )
        wanted = (
            sa.select(trials.c.study_id, values.c.objective, best.label("best"))
            .select_from(values.join(trials, trials.c.trial_id == values.c.trial_id))
            .join(_directions, of_study)
            .where(trials.c.state == TrialState.COMPLETE, values.c.value.is_not(None))
            .group_by(trials.c.study_id, values.c.objective, _directions.c.direction)
        )
        found: dict[int, list[tuple[int, float]]] = defaultdict(list)
        for row in self._session.execute(wanted):
            found[row.study_id].append((row.objective, row.best))
        return found
