"""The trials of a study that is read again and again, as a live view does: only what changed is read.

Every change of a claimed trial renews its lease (``history``), and every other change of its state shows in
its own row. So one statement, which reads a row of each trial, tells which trials are to be read. What is
changed about a trial in neither of these ways (a note, weights that are removed) is not seen.
"""

from typing import Any

import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from hpo.store import rows
from hpo.store.attributes import check_trial
from hpo.store.rows import HEAD_COLUMNS, HEAD_TABLES, trials
from hpo.store.storage import Storage, retrying
from hpo.store.tables import leases
from hpo.store.trial_numbers import separate_numbers
from hpo.study.definition import Definition

_ALL = (
    sa.select(*HEAD_COLUMNS, leases.c.owner, leases.c.token, leases.c.renewed)
    .select_from(HEAD_TABLES.outerjoin(leases, leases.c.trial_id == trials.c.trial_id))
    .where(trials.c.study_id == sa.bindparam("study"))
    .order_by(trials.c.trial_id)
)


class TrialCache:
    """The trials of one study. Not for use by several threads at once."""

    def __init__(self) -> None:
        """Start empty; the first read reads everything."""
        self._study: tuple[int, Definition] | None = None
        self._known: dict[
            int, tuple[Any, FrozenTrial]
        ] = {}  # by id: its row when it was read, and the trial

    def read(
        self, storage: Storage, study_id: int, definition: Definition, folder: str | None
    ) -> list[FrozenTrial]:
        """Read the trials of a study.

        Args:
            storage: The storage that the study is in.
            study_id: Optuna's id of the study.
            definition: Its definition. If it is not that of the last read, everything is read.
            folder: Its folder in the artifacts, as for ``attributes.check_trial``.

        Returns:
            All trials by number, with checked attributes. One that did not change is the same object.

        Raises:
            StoreUnavailable: The database stays unavailable.
            StoreError: The database refuses the request.
        """
        if self._study != (study_id, definition):
            self._study, self._known = (study_id, definition), {}
        self._known = _read(storage, study_id, folder, self._known, len(definition.objectives))
        return separate_numbers([trial for _, trial in self._known.values()])


@retrying(reads=True)
def _read(
    storage: Storage,
    study_id: int,
    folder: str | None,
    known: dict[int, tuple[Any, FrozenTrial]],
    objectives: int,
) -> dict[int, tuple[Any, FrozenTrial]]:
    with storage.transaction() as session:
        return _read_changes(session, study_id, folder, known, objectives)


def _read_changes(
    session: Session,
    study_id: int,
    folder: str | None,
    known: dict[int, tuple[Any, FrozenTrial]],
    objectives: int,
) -> dict[int, tuple[Any, FrozenTrial]]:
    found = session.execute(_ALL, {"study": study_id}).all()
    changed = [row for row in found if _is_changed(row, known)]
    read = rows.build_trials(session, changed, with_user_attributes=True, objectives=objectives)
    new = {
        row.trial_id: (row, check_trial(trial, folder)) for row, trial in zip(changed, read, strict=True)
    }
    return {row.trial_id: new.get(row.trial_id) or known[row.trial_id] for row in found}


def _is_changed(row: Any, known: dict[int, tuple[Any, FrozenTrial]]) -> bool:
    """Return whether a trial is new or its row differs; one that another tool runs always is."""
    before = known.get(row.trial_id)
    return before is None or before[0] != row or (row.state == TrialState.RUNNING and row.owner is None)
