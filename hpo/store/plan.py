"""A study's plan as rows: its definition, and one WAITING trial for each part of its budget.

The budget is made once, under a lock, when a study is created or extended. Workers only ever take what is
WAITING, so it can neither overshoot nor lose a trial. Each trial says in a system attribute which part of
the budget it is; an extension makes the parts that are not there yet. Replicates alone come later: whether
a setting is repeated is known when its first trial ends.

Everything here happens in the transaction of the caller, who holds the study's row locked.
"""

import functools
import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from optuna import distributions
from optuna.distributions import BaseDistribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from hpo.search.asha import is_prunable
from hpo.search.replicates import REPLICATE_OF
from hpo.search.samplers import PointSampler
from hpo.store import rows
from hpo.store.rows import Parameters
from hpo.study.definition import Definition, dump_definition, load_definition

DEFINITION = "hpo:definition"  # system attribute of a study: its definition as JSON
PLAN = "hpo:plan"  # system attribute of a trial: which part of the budget it is, as "point 3"
ORDER = "hpo:order"  # system attribute of a study: what its workers are told
PRECISION = "hpo:precision"  # system attribute of a study: what its first worker computed in
ORDER_PAUSED, ORDER_STOPPED = "paused", "stopped"
RUN_OPTIONS = "hpo:run"  # system attribute of a trial: the options of its point that are no hyperparameters


def set_study_attributes(
    session: Session, study_id: int, attributes: dict[str, Any], *, system: bool
) -> None:
    """Write user or system attributes of a study."""
    kind: Any = models.StudySystemAttributeModel if system else models.StudyUserAttributeModel
    for key, value in attributes.items():
        row = session.query(kind).filter(kind.study_id == study_id, kind.key == key).one_or_none()
        if row is None:
            session.add(kind(study_id=study_id, key=key, value_json=json.dumps(value)))
        else:
            row.value_json = json.dumps(value)


def order_statement(study_id: Any) -> Any:
    """Give the statement that reads the order that a study is under, as JSON; no row, or null: none."""
    row: Any = models.StudySystemAttributeModel.__table__
    return sa.select(row.c.value_json).where(row.c.study_id == study_id, row.c.key == ORDER)


_ORDER = order_statement(sa.bindparam("study"))


def read_order(session: Session, study_id: int) -> str | None:
    """Give the order that a study is under, PAUSED or STOPPED; None if it may go on."""
    found: str | None = json.loads(
        session.execute(_ORDER, {"study": study_id}).scalar_one_or_none() or "null"
    )
    return found


def write_plan(session: Session, study_id: int, definition: Definition) -> list[int]:
    """Store a study's definition, make the WAITING trials that its budget lacks, give their numbers."""
    set_study_attributes(session, study_id, {DEFINITION: dump_definition(definition)}, system=True)
    _update_stored_distributions(session, study_id, definition)
    trial, attribute = models.TrialModel, models.TrialSystemAttributeModel
    planned = session.query(attribute.value_json).filter(
        attribute.key == PLAN, attribute.trial_id == trial.trial_id, trial.study_id == study_id
    )
    there = {json.loads(row[0]) for row in planned}
    lacking = (slot for slot in _planned_trials(definition) if slot[0] not in there)
    return _add_waiting_trials(
        session, study_id, [(user, {PLAN: key, **system}) for key, user, system in lacking]
    )


def add_replicates(session: Session, study_id: int, first: FrozenTrial, definition: Definition) -> None:
    """Make the other trials of a setting whose ``first`` one has just ended as complete, if it is worth it.

    A study that prunes repeats a setting if it is in the better half of those that are complete; points
    that no pruner ends are repeated whatever they come to. Called once, within the first one's end.
    """
    search = definition.search
    if search.replicates == 1 or REPLICATE_OF in first.system_attrs:
        return
    session.execute(_STUDY.with_for_update(), {"study": study_id})
    prunes = search.pruner.name != "none" and is_prunable(first, search.prune_points)
    if prunes and not _is_in_better_half(session, study_id, first._trial_id):
        return
    run = first.system_attrs.get(RUN_OPTIONS, {})
    seed = run.get("seed", definition.trial_config({}).seed)
    # The caller may know the study from before it was extended.
    copied = ("point", *_stored_definition(session, study_id).attribute_names)
    user = {key: value for key, value in first.user_attrs.items() if key in copied}
    user |= {"repeats": first.number}
    system = {REPLICATE_OF: first.number, "fixed_params": first.params}
    seeds = [(seed + index) % 2**31 for index in range(1, search.replicates)]
    _add_waiting_trials(
        session, study_id, [(user, {**system, RUN_OPTIONS: {**run, "seed": each}}) for each in seeds]
    )


def _is_in_better_half(session: Session, study_id: int, trial_id: int) -> bool:
    accuracies = session.execute(_COMPLETE, {"study": study_id}).all()
    own = next(row.value for row in accuracies if row.trial_id == trial_id)
    better = sum(1 for row in accuracies if row.value > own)
    return better < (len(accuracies) + 1) // 2


def _add_waiting_trials(
    session: Session, study_id: int, made: list[tuple[dict[str, Any], dict[str, Any]]]
) -> list[int]:
    """Add WAITING trials, each with user and system attributes, and give their numbers."""
    trial = models.TrialModel
    first = session.query(sa.func.count(trial.trial_id)).filter(trial.study_id == study_id).scalar()
    for number, (user, system) in enumerate(made, start=first):
        row = trial(study_id=study_id, number=number, state=TrialState.WAITING)
        row.user_attributes = _attribute_rows(models.TrialUserAttributeModel, user)
        row.system_attributes = _attribute_rows(models.TrialSystemAttributeModel, system)
        session.add(row)
    return list(range(first, first + len(made)))


def _attribute_rows(kind: Any, attributes: dict[str, Any]) -> list[Any]:
    return [kind(key=key, value_json=json.dumps(value)) for key, value in attributes.items()]


def _planned_trials(definition: Definition) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Give every trial of the budget: its key, user attributes and system attributes."""
    for index, point in enumerate(definition.points):
        fixed = {"fixed_params": definition.complete_hyperparameters(point)}
        system = fixed if definition.searches else PointSampler.point_attributes(index)
        yield (
            f"point {index + 1}",
            {"point": index + 1, **point.attributes},
            {**system, RUN_OPTIONS: point.run_options()},
        )
    for index, point in enumerate(definition.enqueued):
        fixed = {"fixed_params": definition.complete_hyperparameters(point)}
        yield (
            f"enqueued {index + 1}",
            {"enqueued": True, **point.attributes},
            {**fixed, RUN_OPTIONS: point.run_options()},
        )
    for index in range(definition.search.trials if definition.searches else 0):
        yield f"search {index + 1}", {}, {}


def _update_stored_distributions(session: Session, study_id: int, definition: Definition) -> None:
    """Give the parameters already stored the distribution that they have in the extended study.

    Optuna holds a parameter to one list of choices for ever, and stores a choice as its place in that
    list; a point with another model would end its trial.
    """
    param: Any = models.TrialParamModel
    for name, new in _distributions_by_name(definition).items():
        found = session.query(param).filter(
            param.param_name == name,
            param.distribution_json != distributions.distribution_to_json(new),
            param.trial_id == models.TrialModel.trial_id,
            models.TrialModel.study_id == study_id,
        )
        for row in found:
            old = distributions.json_to_distribution(row.distribution_json)
            row.param_value = new.to_internal_repr(old.to_external_repr(row.param_value))
            row.distribution_json = distributions.distribution_to_json(new)


_studies: Any = models.StudyModel.__table__
_attributes: Any = models.StudySystemAttributeModel.__table__
_STUDY = sa.select(_studies.c.study_id).where(_studies.c.study_id == sa.bindparam("study"))
_LOCK = _STUDY.with_for_update(read=True)
# The complete trials of a study with their values, but for replicates.
_COMPLETE = (
    sa.select(rows.values.c.trial_id, rows.values.c.value)
    .join(rows.trials, rows.trials.c.trial_id == rows.values.c.trial_id)
    .where(
        rows.trials.c.study_id == sa.bindparam("study"),
        rows.trials.c.state == TrialState.COMPLETE,
        ~sa.exists().where(
            rows.system_attributes.c.trial_id == rows.trials.c.trial_id,
            rows.system_attributes.c.key == REPLICATE_OF,
        ),
    )
)
_DEFINITION = sa.select(_attributes.c.value_json).where(
    _attributes.c.study_id == sa.bindparam("study"), _attributes.c.key == DEFINITION
)


def with_current_distributions(session: Session, study_id: int, parameters: Parameters) -> Parameters:
    """Give parameters under the distributions that their study has now, and until the transaction ends.

    A worker may know the study from before it was extended. The study's row is share-locked, and an
    extension, which changes parameters already stored, has to lock it: what is written after this is
    widened with the rest, or wide. The lock comes first: what the same statement read would be older.
    """
    session.execute(_LOCK, {"study": study_id})
    planned = _parse_distributions(session.execute(_DEFINITION, {"study": study_id}).scalar_one())
    return {
        name: (planned[name].to_internal_repr(known.to_external_repr(value)), planned[name])
        for name, (value, known) in parameters.items()
    }


def _stored_definition(session: Session, study_id: int) -> Definition:
    return load_definition(json.loads(session.execute(_DEFINITION, {"study": study_id}).scalar_one()))


@functools.lru_cache(maxsize=4)
def _parse_distributions(text: str) -> dict[str, BaseDistribution]:
    return _distributions_by_name(load_definition(json.loads(text)))


def _distributions_by_name(definition: Definition) -> dict[str, BaseDistribution]:
    return {name: parameter.distribution() for name, parameter in definition.parameters().items()}
