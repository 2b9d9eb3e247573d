"""Weights retention: which trials keep their weights, unless all do (``search.keep_weights``).

A setting that is not among the best K searched ones will never be, whatever ends later. So each worker,
when its trial has ended, removes the weights that are of no more use. Two workers that do this at once do
no harm. With replicates, the best trial of each of the best K settings keeps its weights, and so do all
trials of a setting whose replicates are not all done. Listed points, settings that were queued by hand, and
their replicates always keep theirs.

The name is removed from the database first, then the file. A crash between the two leaves a file that no
row names, which is garbage.
"""

import contextlib
from collections import defaultdict
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy.orm import Session, aliased

from hpo.artifacts import names
from hpo.artifacts.folders import Artifacts
from hpo.errors import ArtifactError
from hpo.search import replicates
from hpo.search.asha import LISTED_ATTRIBUTES
from hpo.store import attributes, plan
from hpo.store.storage import Storage, retrying
from hpo.study.definition import Definition


def prune_weights(
    storage: Storage, study_id: int, artifacts: Artifacts, folder: str, keep: int, definition: Definition
) -> None:
    """Remove the weights of complete and pruned searched trials, except those of the best ones.

    A trial that failed, diverged or was stopped by hand keeps its weights: it can be retried. The attribute
    ``weights`` of the others becomes null, then their files are removed; a file that cannot be removed
    stays, and so does one that is not in its trial's own folder.

    Args:
        storage: The database.
        study_id: The id of the study.
        artifacts: Where the files are.
        folder: The study's own folder in the artifacts.
        keep: How many searched trials keep their weights; with replicates, how many settings.
        definition: The study.

    Raises:
        StoreError: If the database stays unavailable, or refuses the write.
    """
    for number, name in _forget_weights(storage, study_id, keep, definition).items():
        if names.is_weights_of(name, folder, number):
            with contextlib.suppress(OSError, ArtifactError):  # a file too many does no harm
                artifacts.remove(name)


@retrying()
def _forget_weights(storage: Storage, study_id: int, keep: int, definition: Definition) -> dict[int, Any]:
    """Remove the names of weights that are not kept from the database, and return them by trial number."""
    trial, attribute = models.TrialModel, models.TrialUserAttributeModel
    system = models.TrialSystemAttributeModel
    failure = aliased(attribute)
    has_failed = sa.exists().where(failure.trial_id == trial.trial_id, failure.key == "failure")
    is_stopped = sa.exists().where(system.trial_id == trial.trial_id, system.key == plan.STOPPED_TRIAL)
    ended = (
        sa.select(trial.trial_id, trial.number, attribute.value_json)
        .join(attribute, attribute.trial_id == trial.trial_id)
        .where(
            trial.study_id == study_id,
            trial.state.in_([TrialState.COMPLETE, TrialState.PRUNED]),
            ~has_failed,
            ~is_stopped,
            attribute.key == "weights",
            attribute.value_json != "null",
        )
    )
    with storage.transaction() as session:
        found = session.execute(ended).all()  # read first: a trial that ends meanwhile may be the best
        is_ranked_by_value = len(definition.objectives) == 1 and definition.search.replicates == 1
        among = {row.number for row in found} if is_ranked_by_value else None
        kept = trials_to_keep(session, study_id, keep, definition, among)
        others = [row for row in found if row.number not in kept]
        if others:
            named = attribute.trial_id.in_([row.trial_id for row in others]) & (attribute.key == "weights")
            session.execute(sa.update(attribute).where(named).values(value_json="null"))
        return {row.number: attributes.parse_json(row.value_json) for row in others}


def trials_to_keep(
    session: Session, study_id: int, keep: int, definition: Definition, among: Collection[int] | None = None
) -> set[int]:
    """Return the numbers of the trials that keep their weights: listed ones, and the best searched ones.

    Args:
        session: The transaction to read in.
        study_id: The id of the study.
        keep: The number of searched settings whose best trial keeps its weights; with several objectives
            the knee of the Pareto front, which ``hpo export`` takes, is the first of them. A setting whose
            replicates are not all done does not count; all its complete trials are returned.
        definition: The study.
        among: The numbers of the trials to choose from, where no other trial can change the choice: with
            one objective and no replicates. None: all trials of the study are read.
    """
    trial, value, attribute = models.TrialModel, models.TrialValueModel, models.TrialSystemAttributeModel
    is_mark = (attribute.trial_id == trial.trial_id) & (attribute.key == replicates.REPLICATE_OF)
    rows = session.execute(
        sa.select(trial.number, trial.state, value.value, attribute.value_json)
        .outerjoin(value, value.trial_id == trial.trial_id)
        .outerjoin(attribute, is_mark)
        .where(_is_among(study_id, among))
        .order_by(value.objective)
    ).all()
    parsed = {row.number: attributes.parse_first_trial(row.value_json, row.number) for row in rows}
    first_of = {number: first for number, first in parsed.items() if first is not None}
    unfinished = {first_of[r.number] for r in rows if r.number in first_of and not r.state.is_finished()}
    values: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row.state == TrialState.COMPLETE and row.value is not None:
            values[row.number].append(row.value)
    pruned = {row.number for row in rows if row.state == TrialState.PRUNED}
    objectives, metric = definition.objectives, definition.metric
    whole = {number: each for number, each in values.items() if len(each) == len(objectives)}
    ranked = replicates.rank_by_dominance(objectives, metric, whole, first_of, pruned)
    knee = replicates.find_knee(objectives, whole, ranked)
    listed = _with_a_given_setting(session, study_id, among) - first_of.keys()
    best: list[int] = []
    kept = {row.number for row in rows if first_of.get(row.number, row.number) in listed}
    for setting in sorted(ranked, key=lambda each: each is not knee):
        first = first_of.get(setting.trials[0], setting.trials[0])
        if first in unfinished:
            kept.update(setting.trials)
        elif first not in listed:
            best.append(setting.trials[0])
    return {*best[:keep], *kept}


def _with_a_given_setting(session: Session, study_id: int, among: Collection[int] | None) -> set[int]:
    """Return the numbers of the trials whose setting no sampler proposed: listed ones, and replicates."""
    trial, attribute = models.TrialModel, models.TrialSystemAttributeModel
    found = sa.select(trial.number).join(attribute, attribute.trial_id == trial.trial_id)
    given = attribute.key.in_(LISTED_ATTRIBUTES)
    return set(session.execute(found.where(_is_among(study_id, among), given)).scalars())


def _is_among(study_id: int, among: Collection[int] | None) -> sa.ColumnElement[bool]:
    is_of_study = models.TrialModel.study_id == study_id
    return is_of_study if among is None else is_of_study & models.TrialModel.number.in_(among)
