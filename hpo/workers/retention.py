"""Retention: of which trials the weights are kept, where a study says so (``search.keep_weights``).

A trial that is not among the best K complete ones will never be, whatever else ends: so each worker, when
its trial has ended, removes what it sees to be of no use, and two that do it at once do no harm. Where
settings are repeated the best trial of each of the best K settings stays, and all of a setting that is
still being repeated. The name goes from the store first; a crash between the two leaves a file that no row
names, which is garbage.
"""

import contextlib
import json

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpo.artifacts.folders import Artifacts
from hpo.errors import ArtifactError
from hpo.search import replicates
from hpo.store.storage import Storage, retrying


def prune_weights(storage: Storage, study_id: int, artifacts: Artifacts, kept: int) -> None:
    """Remove the weights of every trial that has ended well but for the best ``kept`` complete ones.

    A trial that failed or diverged keeps its own: it can be put back.
    """
    for name in _forget_weights(storage, study_id, kept):
        with contextlib.suppress(OSError, ArtifactError):  # a file too many harms nobody
            artifacts.remove(name)


@retrying()
def _forget_weights(storage: Storage, study_id: int, kept: int) -> list[str]:
    """Take the names of what is not to be kept out of the store, and give them."""
    trial, attribute = models.TrialModel, models.TrialUserAttributeModel
    failed = sa.select(attribute.trial_id).where(attribute.key == "failure")
    ended = (
        sa.select(trial.trial_id, trial.number, attribute.value_json)
        .join(attribute, attribute.trial_id == trial.trial_id)
        .where(
            trial.study_id == study_id,
            trial.state.in_([TrialState.COMPLETE, TrialState.PRUNED]),
            trial.trial_id.not_in(failed),
            attribute.key == "weights",
            attribute.value_json != "null",
        )
    )
    with storage.transaction() as session:
        found = session.execute(ended).all()  # first: one that ends meanwhile may be the best
        stays = trials_to_keep(session, study_id, kept)
        others = [row for row in found if row.number not in stays]
        if others:
            named = attribute.trial_id.in_([row.trial_id for row in others]) & (attribute.key == "weights")
            session.execute(sa.update(attribute).where(named).values(value_json="null"))
        return [json.loads(row.value_json) for row in others]


def trials_to_keep(session: Session, study_id: int, kept: int) -> set[int]:
    """Give the numbers of the trials whose weights stay."""
    trial, value, attribute = models.TrialModel, models.TrialValueModel, models.TrialSystemAttributeModel
    marked = (attribute.trial_id == trial.trial_id) & (attribute.key == replicates.REPLICATE_OF)
    rows = session.execute(
        sa.select(trial.number, trial.state, value.value, attribute.value_json)
        .outerjoin(value, value.trial_id == trial.trial_id)
        .outerjoin(attribute, marked)
        .where(trial.study_id == study_id)
    ).all()
    repeats = {row.number: json.loads(row.value_json) for row in rows if row.value_json is not None}
    under_way = {repeats[r.number] for r in rows if r.number in repeats and not r.state.is_finished()}
    complete = (row for row in rows if row.state == TrialState.COMPLETE and row.value is not None)
    pruned = [row.number for row in rows if row.state == TrialState.PRUNED]
    ranked = replicates.rank_settings({row.number: row.value for row in complete}, repeats, pruned)
    settled: list[int] = []
    others: set[int] = set()
    for each in ranked:
        first = repeats.get(each.trials[0], each.trials[0])
        if first in under_way:
            others.update(each.trials)
        else:
            settled.append(each.trials[0])
    return {*settled[:kept], *others}
