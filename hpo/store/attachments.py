"""Files that users attach to studies and trials, which optuna-dashboard and Optuna record as attributes.

The key of a record holds the file's id; its text is JSON in JSON. All files are in one folder of the
artifacts (``optuna_store``), so only these records say whose a file is.
"""

import json
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models

from hpo.store import attributes
from hpo.store.rows import system_attributes, trials
from hpo.store.storage import Storage, retrying

_study_attributes: Any = models.StudySystemAttributeModel.__table__
_RECORDS = sa.union_all(
    sa.select(_study_attributes.c.study_id, _study_attributes.c.key, _study_attributes.c.value_json),
    sa.select(trials.c.study_id, system_attributes.c.key, system_attributes.c.value_json).join(
        trials, trials.c.trial_id == system_attributes.c.trial_id
    ),
).subquery()
_IS_RECORD = _RECORDS.c.key.like("artifacts:%") | _RECORDS.c.key.like("dashboard:artifacts:%")


@retrying(reads=True)
def attached_files(storage: Storage) -> dict[int, set[str]]:
    """Return the ids of the files that are attached to each study or its trials, by the study's id.

    A file belongs to several studies if another tool has copied one of them.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    found: dict[int, set[str]] = {}
    with storage.transaction() as session:
        for study_id, key, text in session.execute(sa.select(_RECORDS).where(_IS_RECORD)):
            artifact_id = attributes.parse_attachment(key, attributes.parse_json(text))
            if artifact_id is not None:
                found.setdefault(study_id, set()).add(artifact_id)
    return found


@retrying()
def forget_file(storage: Storage, study_id: int, trial_id: int | None, artifact_id: str) -> None:
    """Remove the record of an attached file, also that of a trial that has ended, which Optuna refuses.

    The record becomes what optuna-dashboard writes for a removed file.

    Args:
        storage: The storage that the study is in.
        study_id: Optuna's id of the study.
        trial_id: Optuna's id of the trial; None for a file of the study.
        artifact_id: The id of the file.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the write.
    """
    removed, key = json.dumps("null"), f"artifacts:{artifact_id}"
    of_study = _study_attributes.c.study_id == study_id
    old_key = f"dashboard:artifacts:{trial_id}:{artifact_id}"  # an earlier optuna-dashboard's, of a trial
    is_record = _study_attributes.c.key == (key if trial_id is None else old_key)
    with storage.transaction() as session:
        session.execute(sa.update(_study_attributes).where(of_study, is_record).values(value_json=removed))
        if trial_id is not None:
            its = (system_attributes.c.trial_id == trial_id) & (system_attributes.c.key == key)
            session.execute(sa.update(system_attributes).where(its).values(value_json=removed))
