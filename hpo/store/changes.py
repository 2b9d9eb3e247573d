"""What has changed in a study since a worker last looked at it, at the cost of what is new.

* Every change of a claimed trial renews its lease, so a look selects the leases renewed since the last one.
* State, attempt and epoch then tell what is new about a trial. With rungs, a running trial is read when it
  has passed another one: nobody is compared with it before the first one, or in between.
* A trial's parameters are read once, and within an attempt each of its reports is.
* Every ``FULL_READ_SECONDS`` the whole study is read, which also shows what other tools did.
* A trial that waits and was never claimed has nothing to learn from, and is left out.
"""

import bisect
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from hpo.store import rows
from hpo.store.rows import HEAD_COLUMNS, HEAD_TABLES, trials
from hpo.store.tables import leases

FULL_READ_SECONDS = 60.0  # from one read of the whole study to the next
# A lease says when it was renewed, not when that transaction was committed. A change whose commit took
# longer than this is seen when the whole study is read.
LATE_COMMIT_SECONDS = 2.0

# "study" is the study's id, "since" a time of renewal, "left" the id of a trial to read in any case.
_study: Any = sa.bindparam("study")
_of_lease = leases.c.trial_id == trials.c.trial_id
_VERSION = (leases.c.token, leases.c.epoch, leases.c.renewed)
_ALL_STARTED = (
    sa.select(*HEAD_COLUMNS, *_VERSION)
    .select_from(HEAD_TABLES.outerjoin(leases, _of_lease))
    .where(
        trials.c.study_id == _study,
        (trials.c.state != TrialState.WAITING) | leases.c.token.is_not(None),
    )
    .order_by(trials.c.trial_id)
)
_CHANGED = (
    sa.select(*HEAD_COLUMNS, *_VERSION)
    .select_from(HEAD_TABLES.join(leases, _of_lease))
    .where(
        leases.c.study_id == _study,
        (leases.c.renewed > sa.bindparam("since")) | (leases.c.trial_id == sa.bindparam("left")),
    )
    .order_by(trials.c.trial_id)
)


class _Version(NamedTuple):
    """What a trial was when it was last read."""

    state: TrialState
    attempt: int | None  # None: another tool's
    progress: int  # epochs; with rungs how many of these it has passed


@dataclass(kw_only=True)
class StudyChanges:
    """Reads the changes of a study; each of them once.

    Attributes:
        study_id: Optuna's id of the study.
        objectives: How many it has.
        with_user_attributes: Whether the trials get their user attributes.
        rungs: The only epochs at which running trials are looked at; None if they are at any time.
        has_read_all: Whether the last read was one of the whole study.
    """

    study_id: int
    objectives: int = 1
    with_user_attributes: bool = False
    rungs: Sequence[int] | None = None

    def __post_init__(self) -> None:
        self.has_read_all = False
        self._versions: dict[int, tuple[_Version, int]] = {}  # and the last epoch reported, by number
        self._newest_renewal = 0.0  # of the leases read so far, by the database's clock
        self._last_full_read = -math.inf  # by the worker's monotonic clock

    def forget(self, number: int) -> None:
        """Read a trial anew when it changes next, whatever was known about it."""
        self._versions.pop(number, None)

    def forget_all(self) -> None:
        """Read the whole study anew the next time."""
        self._versions, self._last_full_read = {}, -math.inf

    def read(
        self, session: Session, known: Callable[[int], FrozenTrial], own: FrozenTrial | None, left_id: int
    ) -> list[FrozenTrial]:
        """Read the trials that have changed since the last call.

        Args:
            session: The transaction to read in.
            known: Gives a trial by its number as the last call returned it.
            own: A trial to leave out; None for none.
            left_id: Optuna's id of a trial to look at even if its lease was not renewed; 0 for none.

        Returns:
            The trials that are new or have changed, by id.
        """
        now = time.monotonic()
        is_full = self.has_read_all = now - self._last_full_read > FULL_READ_SECONDS
        values: dict[str, Any] = {"study": self.study_id}
        if not is_full:
            values |= {"since": self._newest_renewal - LATE_COMMIT_SECONDS, "left": left_id}
        found = session.execute(_ALL_STARTED if is_full else _CHANGED, values).all()
        others = [row for row in found if own is None or row.number != own.number]
        changed = self._build_changed(session, others, known)
        self._newest_renewal = max([self._newest_renewal, *(row.renewed or 0.0 for row in found)])
        self._last_full_read = now if is_full else self._last_full_read
        return changed

    def _build_changed(
        self, session: Session, found: Sequence[Any], known: Callable[[int], FrozenTrial]
    ) -> list[FrozenTrial]:
        """Read the rest of those trials that have changed, as far as it is not known."""
        changed: list[Any] = []
        versions: dict[int, tuple[_Version, int]] = {}
        kept: dict[int, rows.Known] = {}
        for row in found:
            trial_id, number, state, *_, token, reported, _ = row  # HEAD_COLUMNS, and _VERSION
            version = self._version(state, token, epoch := reported or 0)
            before, last_epoch = self._versions.get(number, (None, 0))
            trial = None if before is None or token is None else known(number)
            has_parameters = trial is not None and bool(trial.params)  # a trial gets all of them at once
            if self.rungs is not None and state == TrialState.RUNNING and version.progress == 0:
                continue
            if version == before and (has_parameters or state != TrialState.RUNNING):
                continue
            changed.append(row)
            versions[number] = version, epoch
            if trial is not None and before is not None and has_parameters:
                is_same_attempt = version.attempt == before.attempt
                new_steps = range(last_epoch + 1, epoch + 1) if is_same_attempt else None
                kept[trial_id] = rows.Known(trial=trial, new_steps=new_steps)
        built = rows.build_trials(
            session,
            changed,
            known=kept,
            with_user_attributes=self.with_user_attributes,
            objectives=self.objectives,
        )
        self._versions |= versions
        return built

    def _version(self, state: TrialState, token: int | None, epoch: int) -> _Version:
        progress = epoch if self.rungs is None else bisect.bisect_right(self.rungs, epoch)
        return _Version(state, token, progress)
