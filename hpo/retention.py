"""Retention: of which trials the weights are kept, where a study says so (``search.keep_weights``).

A trial that is not among the best K complete ones will never be, whatever else ends: so each worker, when
its trial has ended, removes what it sees to be of no use, and two that do it at once do no harm. The name
goes from the store first; a crash between the two leaves a file that no row names, which is garbage.
"""

import contextlib
import json

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import TrialState

from hpo.artifacts import Artifacts
from hpo.errors import ArtifactError
from hpo.storage import Store, asking


def thin(opened: Store, study_id: int, artifacts: Artifacts, kept: int) -> None:
    """Remove the weights of every trial that has ended well but for the best ``kept`` complete ones.

    A trial that failed or diverged keeps its own: it can be put back.
    """
    for name in _forgotten(opened, study_id, kept):
        with contextlib.suppress(OSError, ArtifactError):  # a file too many harms nobody
            artifacts.remove(name)


@asking()
def _forgotten(opened: Store, study_id: int, kept: int) -> list[str]:
    """Take the names of what is not to be kept out of the store, and give them."""
    trial, value, attribute = models.TrialModel, models.TrialValueModel, models.TrialUserAttributeModel
    failed = sa.select(attribute.trial_id).where(attribute.key == "failure")
    ended = (
        sa.select(trial.trial_id, trial.state, attribute.value_json)
        .join(attribute, attribute.trial_id == trial.trial_id)
        .outerjoin(value, value.trial_id == trial.trial_id)
        .where(
            trial.study_id == study_id,
            trial.state.in_([TrialState.COMPLETE, TrialState.PRUNED]),
            trial.trial_id.not_in(failed),
            attribute.key == "weights",
            attribute.value_json != "null",
        )
        .order_by(trial.state != TrialState.COMPLETE, value.value.desc(), trial.number)
    )
    with opened.transaction() as session:
        rows = session.execute(ended).all()
        complete = sum(row.state == TrialState.COMPLETE for row in rows)
        others = rows[min(kept, complete) :]
        if others:
            named = attribute.trial_id.in_([row.trial_id for row in others]) & (attribute.key == "weights")
            session.execute(sa.update(attribute).where(named).values(value_json="null"))
        return [json.loads(row.value_json) for row in others]
