"""A study's plan as rows: its definition, and one WAITING trial for each part of its budget.

The budget is made once, under a lock, when a study is created or extended. Workers only ever take what is
WAITING, so it can neither overshoot nor lose a trial. Each trial says in a system attribute which part of
the budget it is; an extension makes the parts that are not there yet.

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
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpo import definition as definitions
from hpo.definition import Definition
from hpo.samplers import PointSampler

DEFINITION = "hpo:definition"  # system attribute of a study: its definition as JSON
PLAN = "hpo:plan"  # system attribute of a trial: which part of the budget it is, as "point 3"
ORDER = "hpo:order"  # system attribute of a study: what its workers are told
PRECISION = "hpo:precision"  # system attribute of a study: what its first worker computed in
PAUSED, STOPPED = "paused", "stopped"
RUN = "hpo:run"  # system attribute of a trial: the options of its point that are no hyperparameters


def set_attributes(session: Session, study_id: int, attributes: dict[str, Any], *, system: bool) -> None:
    """Write user or system attributes of a study."""
    kind: Any = models.StudySystemAttributeModel if system else models.StudyUserAttributeModel
    for key, value in attributes.items():
        row = session.query(kind).filter(kind.study_id == study_id, kind.key == key).one_or_none()
        if row is None:
            session.add(kind(study_id=study_id, key=key, value_json=json.dumps(value)))
        else:
            row.value_json = json.dumps(value)


def order_of(session: Session, study_id: int) -> str | None:
    """Give the order that a study is under, PAUSED or STOPPED; None if it may go on."""
    row = models.StudySystemAttributeModel
    found = session.query(row.value_json).filter(row.study_id == study_id, row.key == ORDER).one_or_none()
    order: str | None = json.loads(found[0]) if found else None
    return order


def make(session: Session, study_id: int, definition: Definition) -> list[int]:
    """Store a study's definition, make the WAITING trials that its budget lacks, give their numbers."""
    set_attributes(session, study_id, {DEFINITION: definitions.dumps(definition)}, system=True)
    _widen(session, study_id, definition)
    trial, attribute = models.TrialModel, models.TrialSystemAttributeModel
    planned = session.query(attribute.value_json).filter(
        attribute.key == PLAN, attribute.trial_id == trial.trial_id, trial.study_id == study_id
    )
    there = {json.loads(row[0]) for row in planned}
    first = session.query(sa.func.count(trial.trial_id)).filter(trial.study_id == study_id).scalar()
    lacking = [slot for slot in _slots(definition) if slot[0] not in there]
    for number, (key, user, system) in enumerate(lacking, start=first):
        made = trial(study_id=study_id, number=number, state=TrialState.WAITING)
        made.user_attributes = _rows(models.TrialUserAttributeModel, user)
        made.system_attributes = _rows(attribute, {PLAN: key, **system})
        session.add(made)
    return list(range(first, first + len(lacking)))


def _rows(kind: Any, attributes: dict[str, Any]) -> list[Any]:
    return [kind(key=key, value_json=json.dumps(value)) for key, value in attributes.items()]


def _slots(definition: Definition) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Give every trial of the budget: its key, user attributes and system attributes."""
    for index, point in enumerate(definition.points):
        fixed = {"fixed_params": definition.complete(point)}
        system = fixed if definition.searches else PointSampler.attributes(index)
        site = {} if point.site is None else {"site": point.site}
        yield f"point {index + 1}", {"point": index + 1, **site}, {**system, RUN: point.run_options()}
    for index, point in enumerate(definition.enqueued):
        fixed = {"fixed_params": definition.complete(point)}
        yield f"enqueued {index + 1}", {"enqueued": True}, {**fixed, RUN: point.run_options()}
    for index in range(definition.search.trials if definition.searches else 0):
        yield f"search {index + 1}", {}, {}


def _widen(session: Session, study_id: int, definition: Definition) -> None:
    """Give the parameters already stored the distribution that they have in the extended study.

    Optuna holds a parameter to one list of choices for ever, and stores a choice as its place in that
    list; a point with another model would end its trial.
    """
    param: Any = models.TrialParamModel
    for name, new in _by_name(definition).items():
        rows = session.query(param).filter(
            param.param_name == name,
            param.distribution_json != distributions.distribution_to_json(new),
            param.trial_id == models.TrialModel.trial_id,
            models.TrialModel.study_id == study_id,
        )
        for row in rows:
            old = distributions.json_to_distribution(row.distribution_json)
            row.param_value = new.to_internal_repr(old.to_external_repr(row.param_value))
            row.distribution_json = distributions.distribution_to_json(new)


def distributions_of(session: Session, trial_id: int) -> dict[str, BaseDistribution]:
    """Give the parameters of a trial's study as they are now, and until the transaction ends.

    Empty for a study of another tool. The study's row is share-locked, and an extension, which changes
    parameters already stored, has to lock it: what is written by this is widened with the rest, or wide.
    """
    study, trial, attribute = models.StudyModel, models.TrialModel, models.StudySystemAttributeModel
    locked = sa.select(study.study_id).join(trial, trial.study_id == study.study_id)
    locked = locked.where(trial.trial_id == trial_id).with_for_update(read=True, of=study)
    study_id = session.execute(locked).scalar_one()
    row = sa.select(attribute.value_json).where(attribute.study_id == study_id, attribute.key == DEFINITION)
    text = session.execute(row).scalar_one_or_none()
    return {} if text is None else _parsed(text)


@functools.lru_cache(maxsize=4)
def _parsed(text: str) -> dict[str, BaseDistribution]:
    return _by_name(definitions.loads(json.loads(text)))


def _by_name(definition: Definition) -> dict[str, BaseDistribution]:
    return {name: parameter.distribution() for name, parameter in definition.parameters().items()}
