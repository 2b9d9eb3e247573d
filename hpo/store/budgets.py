"""A study's budgets besides its number of trials: how much is used, and whether an epoch may begin.

All workers share them, through the database alone. What counts as used:

* ``epochs``: the epochs that trials have reported. One trained again after a crash counts once.
* ``device_hours``: the wall time of training and evaluation that trials have reported (their attribute
  ``wall_time_seconds``), over all workers. The running epoch, the loading of data, and what a crash lost
  are not included.
* ``deadline``: the database's time, which is the same for all.
* ``target``: the best value that a trial has reported; before the first the worst that there can be.

They are checked in the transaction that claims a trial and in the one that commits an epoch. So no further
transaction is needed, and a study without budgets pays nothing. Each lease that has not expired counts as a
running epoch. If these leave no room in ``epochs``, no other epoch begins: that budget is met, not
exceeded, unless Postgres commits another claim at the same moment, which this transaction cannot see. The
other budgets are exceeded by what was running.
"""

import functools
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from hpo.store import attributes
from hpo.store.lease_table import database_time
from hpo.store.rows import dialect_of, reports, trials, user_attributes
from hpo.store.storage import Storage, retrying
from hpo.store.tables import leases
from hpo.study.definition import BudgetLimits
from hpo.training.metric import Metric


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One budget of a study at one moment.

    Attributes:
        name: The budget's option of ``[search]``.
        used: How much is used, in the unit of the limit; for a deadline the time now. It is
            infinite for a target before the first report, if there is no worst value.
        limit: The limit: a number of epochs, hours, seconds since 1970, or a value.
        metric: What the values are of.
    """

    name: str
    used: float
    limit: float
    metric: Metric

    @property
    def is_used_up(self) -> bool:
        """Whether ``used`` has reached ``limit``: nothing is left, or the target is met."""
        if self.name == "target":
            return self.metric.score(self.used) >= self.metric.score(self.limit)
        return self.used >= self.limit

    def __str__(self) -> str:
        if self.name == "deadline":
            return f"deadline {_format_time(self.limit)}, now {_format_time(self.used)}"
        if self.name == "target":
            reached = f"{self.used:.4f}" if math.isfinite(self.used) else "none"
            return f"{self.metric.label} {reached} of {self.limit:g}"
        if self.name == "device_hours":
            return f"{self.used:.4g} of {self.limit:g} device hours"
        return f"{self.used} of {self.limit} epochs"

    @property
    def advice(self) -> str:
        """A text that says that the budget is used up, and how to continue; only for one that is."""
        option = f"search.{self.name}"
        end = {"deadline": "past", "target": "reached"}.get(self.name, "used up")
        return (
            f"{option} is {end} ({self}); to continue, raise it in the study file, or "
            f"with --set {option}=..., and 'hpo run' the file again"
        )

    def document(self) -> dict[str, Any]:
        """Return ``used`` and ``limit`` for JSON; for a deadline as ISO 8601 texts in UTC."""
        if self.name == "deadline":
            return {"used": _format_time(self.used), "limit": _format_time(self.limit)}
        return {"used": self.used if math.isfinite(self.used) else None, "limit": self.limit}


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@retrying(reads=True)
def read_budgets(storage: Storage, study_id: int, limits: BudgetLimits | None) -> tuple[Budget, ...]:
    """Read how much of a study's budgets is used.

    Args:
        storage: The storage that the study is in.
        study_id: Optuna's id of the study.
        limits: The limits; None if the study has no budgets.

    Returns:
        The budgets, in the order of ``limits``; none, without a look at the database, if there are none.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    if limits is None:
        return ()
    with storage.transaction() as session:
        return _as_budgets(_read_usage(session, study_id, limits), limits)


def blocking_reason(
    session: Session, study_id: int, limits: BudgetLimits | None, *, has_lease: bool
) -> str | None:
    """Return the reason why no epoch may begin, as of the caller's transaction.

    Args:
        session: The session of the caller's transaction.
        study_id: Optuna's id of the study.
        limits: The limits; None if the study has no budgets.
        has_lease: The caller has renewed a lease of the study in this transaction, and so already counts
            as a running epoch.

    Returns:
        A text about the first such budget, such as ``at its limit, 12 of 12 epochs``; None if an epoch may
        begin.
    """
    if limits is None:
        return None
    used = _read_usage(session, study_id, limits)
    for budget in _as_budgets(used, limits):
        running = used.running + (not has_lease) if budget.name == "epochs" else 0
        if budget.is_used_up or (running and budget.used + running > budget.limit):
            return f"at its limit, {budget}"
    return None


def _as_budgets(used: sa.Row[Any], limits: BudgetLimits) -> tuple[Budget, ...]:
    worst = limits.metric.limits[limits.metric.is_minimized]  # before the first report
    known = {name: value for name, value in used._mapping.items() if value is not None}
    return tuple(
        Budget(name=name, used=known.get(name, worst), limit=limit, metric=limits.metric)
        for name, limit in limits.values.items()
    )


def _read_usage(session: Session, study_id: int, limits: BudgetLimits) -> sa.Row[Any]:
    """Read what is used of each budget, by name, and how many epochs are ``running``."""
    statement = _usage_statement(dialect_of(session), tuple(limits.values), limits.metric.is_minimized)
    return session.execute(statement, {"study": study_id}).one()


@functools.cache
def _usage_statement(dialect: str, names: tuple[str, ...], is_minimized: bool) -> Any:
    study: Any = sa.bindparam("study")
    ours, clock = trials.c.study_id == study, database_time(dialect)
    reported = reports.join(trials, trials.c.trial_id == reports.c.trial_id)
    attributed = user_attributes.join(trials, trials.c.trial_id == user_attributes.c.trial_id)
    stored = user_attributes.c.value_json
    is_number = stored.regexp_match(attributes.SECONDS_PATTERN)  # in a CASE, which Postgres evaluates first
    seconds = sa.func.sum(sa.case((is_number, sa.cast(stored, sa.Double)), else_=0.0))
    timed = user_attributes.c.key == "wall_time_seconds"
    count = sa.func.count()
    used = {
        "epochs": sa.select(count).select_from(reported).where(ours),
        "device_hours": sa.select(sa.func.coalesce(seconds / 3600.0, 0.0))
        .select_from(attributed)
        .where(ours, timed),
        "deadline": sa.select(clock),
        "target": sa.select((sa.func.min if is_minimized else sa.func.max)(reports.c.intermediate_value))
        .select_from(reported)
        .where(ours),
        "running": sa.select(count)
        .select_from(leases)
        .where(leases.c.study_id == study, leases.c.owner.is_not(None), leases.c.expires > clock),
    }
    return sa.select(*(used[name].scalar_subquery().label(name) for name in (*names, "running")))
