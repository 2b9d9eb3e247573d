"""The images that a study began with: trials on other images cannot be compared with its first ones.

The record is a system attribute of the study. It follows the folder or list until a trial has reported
an epoch, so that unreadable files can be removed; from then on it stays.
"""

import json

import sqlalchemy as sa
from optuna.storages._rdb import models

from hpo.errors import DataError, StoreError, quote_value
from hpo.store import plan
from hpo.store.storage import Storage, retrying
from hpo.store.study_rows import find_study
from hpo.study.definition import Definition

IMAGES = "hpo:images"  # system attribute of a study: which images its folder or list had, as one line


@retrying()
def check_images(storage: Storage, definition: Definition, found: str) -> None:
    """Check that a study's folder still has the images that its first trials were trained on.

    A study of ``hpo finish`` must have those of the study that it finishes.

    Args:
        storage: The storage that the study is in.
        definition: The study.
        found: What the folder or list has now, as ``own_images.describe_images`` returns it.

    Raises:
        DataError: The folder or list has other images.
        StoreUnavailable: The database stays unavailable.
        StoreError: The study was deleted meanwhile, or the database refuses the write.
    """
    with storage.transaction() as session:
        origin = definition.finishes and find_study(session, definition.finishes, lock=True)
        study = origin or find_study(session, definition.name, lock=True)
        if study is None:
            raise StoreError(f"study '{definition.name}' was deleted meanwhile")
        attribute = models.StudySystemAttributeModel
        row = attribute.find_by_study_and_key(study, IMAGES, session)
        began = None if row is None else json.loads(str(row.value_json))
        if began == found:
            return
        of_study = models.TrialModel.study_id == study.study_id
        reports = sa.select(models.TrialIntermediateValueModel.trial_id).join(models.TrialModel)
        if began is None or session.execute(reports.where(of_study).limit(1)).first() is None:
            plan.set_study_attributes(session, study.study_id, {IMAGES: found}, system=True)
            return
        raise DataError(
            f"{definition.train['dataset']}: its images have changed since study '{study.study_name}' "
            f"began. Then: {quote_value(began)}; now: {quote_value(found)}. Results on different images "
            "cannot be compared: restore the images, or start a new study with --name"
        )
