"""A fingerprint of each study, which tells a cache of ended trials when it is out of date.

Optuna's cache never reads an ended trial again. That is wrong after ``hpo retry``, after a study was
extended, and after one was deleted and SQLite gave its ids to a new one. Each of these changes the
fingerprint.
"""

from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models

from hpo.store import plan
from hpo.store.rows import trials
from hpo.store.storage import Storage, retrying

_studies: Any = models.StudyModel.__table__
_attributes: Any = models.StudySystemAttributeModel.__table__


def _attribute_of_study(key: str) -> sa.ScalarSelect[Any]:
    of_study = _attributes.c.study_id == _studies.c.study_id
    return sa.select(_attributes.c.value_json).where(of_study, _attributes.c.key == key).scalar_subquery()


def _of_first_trial(column: str) -> sa.ScalarSelect[Any]:
    found = sa.select(trials.c[column]).where(trials.c.study_id == _studies.c.study_id)
    return found.order_by(trials.c.trial_id).limit(1).scalar_subquery()


_FINGERPRINTS = sa.select(
    _studies.c.study_id,
    _studies.c.study_name,
    _attribute_of_study(plan.DEFINITION),
    _attribute_of_study(plan.RETRIED),
    _of_first_trial("trial_id"),
    _of_first_trial("datetime_start"),
)


@retrying(reads=True)
def read_fingerprints(storage: Storage) -> dict[int, tuple[Any, ...]]:
    """Return the fingerprint of each study; what it costs does not depend on how many trials there are.

    If a study's entry is missing from a later result, or differs there, what a cache knows of its ended
    trials is out of date.

    Args:
        storage: The storage to read.

    Returns:
        By the study's id: its id, name and definition, the mark of the last ``control.retry_trials``, and
        id and start of its first trial, which differ between two studies that have the same id in turn.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    with storage.transaction() as session:
        return {row.study_id: tuple(row) for row in session.execute(_FINGERPRINTS)}
