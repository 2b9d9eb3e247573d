"""A study's plan as rows: its definition, and one WAITING trial for each part of its budget.

All trials of the budget are made at once, under a lock, when a study is created or extended. Workers only
ever take trials that are WAITING, so a study can neither exceed its budget nor lose a trial. A system
attribute of each trial says which part of the budget it is; an extension makes the missing parts. Only
replicates come later, because whether a setting is repeated is known when its first trial ends.

Everything here happens in the transaction of the caller, who has locked the study's row.
"""

import contextlib
import functools
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import sqlalchemy as sa
from optuna import distributions
from optuna.distributions import BaseDistribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from hpo.search import pareto
from hpo.search.asha import is_prunable
from hpo.search.replicates import REPLICATE_OF
from hpo.search.samplers import PointSampler
from hpo.store import attributes, rows, stored_values
from hpo.store.rows import Parameters
from hpo.study.definition import Definition, dump_definition, load_definition

DEFINITION = "hpo:definition"  # system attribute of a study: its definition as JSON
PLAN = "hpo:plan"  # system attribute of a trial: its part of the budget, such as "point 3"
ORDER = "hpo:order"  # system attribute of a study: the order to its workers, or null
PRECISION = "hpo:precision"  # system attribute of a study: the precision that its first worker chose
RETRIED = "hpo:retried"  # system attribute of a study: another value after each ``control.retry_trials``
STOPPED_TRIAL = "hpo:stopped_by_hand"  # system attribute of a trial: true if it is to end, or was ended so
TRIAL_STOPPED = "stopped by hand"  # the order to the worker of such a trial, and why it is pruned
ORDER_PAUSED, ORDER_STOPPED = attributes.ORDER_PAUSED, attributes.ORDER_STOPPED
RUN_OPTIONS = attributes.RUN_OPTIONS


def set_study_attributes(session: Session, study_id: int, given: dict[str, Any], *, system: bool) -> None:
    """Write attributes of a study, over those that have the same keys.

    Args:
        session: The session of the caller's transaction.
        study_id: Optuna's id of the study.
        given: Values that JSON can hold, by key.
        system: Write system attributes rather than user attributes.
    """
    kind: Any = models.StudySystemAttributeModel if system else models.StudyUserAttributeModel
    for key, value in given.items():
        row = session.query(kind).filter(kind.study_id == study_id, kind.key == key).one_or_none()
        if row is None:
            session.add(kind(study_id=study_id, key=key, value_json=json.dumps(value)))
        else:
            row.value_json = json.dumps(value)


def order_statement(study_id: Any) -> Any:
    """Return the SELECT of a study's order as JSON; no row, or ``null``, means that there is none.

    Args:
        study_id: Optuna's id of the study, or an SQL expression for it.
    """
    row: Any = models.StudySystemAttributeModel.__table__
    return sa.select(row.c.value_json).where(row.c.study_id == study_id, row.c.key == ORDER)


_ORDER = order_statement(sa.bindparam("study"))


def read_order(session: Session, study_id: int) -> str | None:
    """Return a study's order, ``ORDER_PAUSED`` or ``ORDER_STOPPED``; None if the study may continue."""
    return attributes.parse_order(session.execute(_ORDER, {"study": study_id}).scalar_one_or_none())


def write_plan(session: Session, study_id: int, definition: Definition) -> list[int]:
    """Store a study's definition, and make the WAITING trials that are missing in its budget.

    Parameters that are already stored are converted to the distributions of the definition.

    Args:
        session: The session of a transaction that has locked the study's row.
        study_id: Optuna's id of the study.
        definition: The new definition; it may extend the stored one.

    Returns:
        The numbers of the new trials, ascending; the trials of enqueued points come after those of listed
        points, and before the searched ones.
    """
    store_definition(session, study_id, definition)
    _update_stored_distributions(session, study_id, definition)
    model, attribute = models.TrialModel, models.TrialSystemAttributeModel
    planned = session.query(attribute.value_json).filter(
        attribute.key == PLAN, attribute.trial_id == model.trial_id, model.study_id == study_id
    )
    existing = {row[0] for row in planned}
    lacking = (trial for trial in _planned_trials(definition) if json.dumps(trial[0]) not in existing)
    return _add_waiting_trials(
        session, study_id, [(user, {PLAN: key, **system}) for key, user, system in lacking]
    )


def add_replicates(session: Session, study_id: int, first: FrozenTrial, definition: Definition) -> None:
    """Make the other trials of a setting whose first trial has just completed, if it is to be repeated.

    A study that prunes repeats a setting only if it is in the better half of the complete ones. Points that
    no pruner may end are always repeated. Called once, in the transaction that ends the first trial, after
    its state and value are written.

    Args:
        session: The session of that transaction; this locks the study's row in it.
        study_id: Optuna's id of the study.
        first: The setting's first trial, as it was before its end. A replicate gets no replicates.
        definition: The study's definition as the worker knows it.

    Raises:
        DefinitionError: A newer version of hpo has extended the study meanwhile.
    """
    search = definition.search
    if search.replicates == 1 or REPLICATE_OF in first.system_attrs:
        return
    stored = lock_definition(session, study_id)  # the caller may know it from before it was extended
    prunes = search.pruner.name != "none" and is_prunable(first, search.prune_points)
    if prunes and not _is_in_better_half(session, study_id, first._trial_id, stored):
        return
    run = first.system_attrs.get(RUN_OPTIONS, {})
    seed = run.get("seed", definition.trial_config({}).seed)
    copied = ("point", *stored.attribute_names)
    user = {key: value for key, value in first.user_attrs.items() if key in copied}
    user |= {"repeats": first.number}
    system = {REPLICATE_OF: first.number, "fixed_params": first.params}
    seeds = [(seed + index) % 2**31 for index in range(1, search.replicates)]
    _add_waiting_trials(
        session, study_id, [(user, {**system, RUN_OPTIONS: {**run, "seed": each}}) for each in seeds]
    )


def _is_in_better_half(session: Session, study_id: int, trial_id: int, definition: Definition) -> bool:
    """Return whether fewer than half of the complete trials are better; those on better fronts."""
    found: dict[int, list[float]] = defaultdict(list)
    for row in session.execute(_COMPLETE, {"study": study_id}):
        found[row.trial_id].append(-definition.objectives[row.objective].score(row.value))
    losses = {each: of_it for each, of_it in found.items() if len(of_it) == len(definition.objectives)}
    fronts = dict(zip(losses, pareto.front_numbers(np.array(list(losses.values()))), strict=True))
    better = sum(1 for front in fronts.values() if front < fronts[trial_id])
    return better < (len(fronts) + 1) // 2


def _add_waiting_trials(
    session: Session, study_id: int, made: list[tuple[dict[str, Any], dict[str, Any]]]
) -> list[int]:
    """Add WAITING trials, each with its user and system attributes, and return their numbers.

    A statement adds many rows: objects of Optuna's tables would take four times as long for 100,000 trials.
    """
    trials, last = rows.trials, sa.select(sa.func.max(rows.trials.c.number))
    before = session.execute(last.where(trials.c.study_id == study_id)).scalar_one()
    first = 0 if before is None else before + 1  # not the count: trials may have been removed
    numbers = range(first, first + len(made))
    if not made:
        return []
    waiting = [{"study_id": study_id, "number": each, "state": TrialState.WAITING} for each in numbers]
    added = session.execute(sa.insert(trials).returning(trials.c.number, trials.c.trial_id), waiting)
    ids = {row.number: row.trial_id for row in added}
    for position, table in enumerate((rows.user_attributes, rows.system_attributes)):
        attributes = [
            {"trial_id": ids[number], "key": key, "value_json": json.dumps(value)}
            for number, each in zip(numbers, made, strict=True)
            for key, value in each[position].items()
        ]
        if attributes:
            session.execute(sa.insert(table), attributes)
    return list(numbers)


def _planned_trials(definition: Definition) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield every trial of the budget: its part of the budget, user attributes and system attributes."""
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
    # Trials that were removed, since there was no setting left for them, are not made again.
    for index in range(0 if definition.left_out_trials else definition.searched_trials):
        yield f"search {index + 1}", {}, {}


def _update_stored_distributions(session: Session, study_id: int, definition: Definition) -> None:
    """Convert the parameters already stored to the distributions of the extended study.

    Optuna allows a parameter only one list of choices that never changes, and stores a choice as its index
    in that list. Without this, a point with a new model would end its trial with an error.
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
            given, _ = stored_values.parse_parameters([(name, row.param_value, row.distribution_json)])
            if name in given:
                with contextlib.suppress(ValueError):  # not one of the new choices, whoever wrote it
                    row.param_value = new.to_internal_repr(given[name])
                    row.distribution_json = distributions.distribution_to_json(new)


_studies: Any = models.StudyModel.__table__
_attributes: Any = models.StudySystemAttributeModel.__table__
_STUDY = sa.select(_studies.c.study_id).where(_studies.c.study_id == sa.bindparam("study"))
_LOCK = _STUDY.with_for_update(read=True)
# The complete trials of a study with their values, without replicates.
_COMPLETE = (
    sa.select(rows.values.c.trial_id, rows.values.c.objective, rows.values.c.value)
    .join(rows.trials, rows.trials.c.trial_id == rows.values.c.trial_id)
    .where(
        rows.trials.c.study_id == sa.bindparam("study"),
        rows.trials.c.state == TrialState.COMPLETE,
        rows.values.c.value.is_not(None),
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
    """Convert parameters to the distributions that their study has now, until the transaction ends.

    A worker may know the study from before it was extended. This share-locks the study's row, and an
    extension, which converts the stored parameters, has to lock it. So what is written after this either is
    converted with the rest or already has the new distributions. The lock is a statement of its own, before
    the read: one statement that did both would read what was there before it waited.

    Args:
        session: The session of a fenced transaction.
        study_id: Optuna's id of the study.
        parameters: Internal value and distribution, by name.

    Returns:
        The same parameters with the current distributions.

    Raises:
        DefinitionError: A newer version of hpo has extended the study meanwhile.
    """
    session.execute(_LOCK, {"study": study_id})
    planned = _parse_distributions(session.execute(_DEFINITION, {"study": study_id}).scalar_one())
    return {
        name: (planned[name].to_internal_repr(known.to_external_repr(value)), planned[name])
        for name, (value, known) in parameters.items()
    }


def lock_definition(session: Session, study_id: int) -> Definition:
    """Lock a study's row until the caller's transaction ends, and return the definition stored then.

    Raises:
        DefinitionError: A newer version of hpo has extended the study.
    """
    session.execute(_STUDY.with_for_update(), {"study": study_id})
    return load_definition(json.loads(session.execute(_DEFINITION, {"study": study_id}).scalar_one()))


def store_definition(session: Session, study_id: int, definition: Definition) -> None:
    """Write a study's definition in a transaction that has locked the study's row."""
    set_study_attributes(session, study_id, {DEFINITION: dump_definition(definition)}, system=True)


@functools.lru_cache(maxsize=4)
def _parse_distributions(text: str) -> dict[str, BaseDistribution]:
    return _distributions_by_name(load_definition(json.loads(text)))


def _distributions_by_name(definition: Definition) -> dict[str, BaseDistribution]:
    return {name: parameter.distribution() for name, parameter in definition.parameters().items()}
