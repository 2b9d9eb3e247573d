"""Giving a searched trial a setting of its own, within the fenced transaction that writes its parameters.

The study's row is locked before the other trials' settings are read. So of two workers whose samplers
propose the same setting at once, the second one sees the first one's, and takes another. Only settings
without a continuous value need this (``hpo.search.untried``).

When every possible setting is tried, the trials that wait for one are removed (``remove_searched_trials``),
and the definition remembers their number. A crash before that leaves a claimed trial without parameters,
which the next worker claims again, with the same outcome.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError
from sqlalchemy.orm import Session

from hpo.search import untried
from hpo.search.asha import LISTED_ATTRIBUTES
from hpo.search.untried import SettingKey
from hpo.store import plan, rows, stored_values
from hpo.store.notifications import notify_workers
from hpo.store.rows import CHUNK_TRIALS, Parameters, trials
from hpo.store.tables import leases
from hpo.study.definition import Definition, Point
from hpo.study.space import Value


class AllSettingsTried(Exception):
    """Every setting that the study can propose has a trial: there is none left for this one."""


def choose_untried(session: Session, study_id: int, trial_id: int, proposed: Parameters) -> Parameters:
    """Return the parameters that a trial gets: those proposed, or the nearest that no other trial has.

    Args:
        session: The session of the trial's fenced transaction; this locks the study's row in it.
        study_id: Optuna's id of the study.
        trial_id: Optuna's id of the trial.
        proposed: What the sampler proposes; no value from a continuous range.

    Raises:
        AllSettingsTried: There is no such setting.
        DefinitionError: A newer version of hpo has extended the study meanwhile.
    """
    definition = plan.lock_definition(session, study_id)
    setting = {name: known.to_external_repr(value) for name, (value, known) in proposed.items()}
    tried = set(_tried_settings(session, study_id, trial_id, definition))
    chosen = untried.nearest_untried(definition, setting, tried, seed=trial_id)
    if chosen is None:
        raise AllSettingsTried
    kinds = {parameter.name: parameter.distribution() for parameter in definition.space}
    return {name: (kinds[name].to_internal_repr(value), kinds[name]) for name, value in chosen.items()}


def _tried_settings(
    session: Session, study_id: int, trial_id: int, definition: Definition
) -> Iterator[SettingKey]:
    """Yield the keys of the settings that points list, or that other trials have."""
    yield from untried.listed_keys(definition)
    found = session.execute(_SEARCHED_PARAMETERS, {"study": study_id, "own": trial_id}).all()
    searched: dict[int, dict[str, Value]] = {}
    for row in found:
        parameter = (row.param_name, row.param_value, row.distribution_json)
        searched.setdefault(row.trial_id, {}).update(stored_values.parse_parameters([parameter])[0])
    for setting in searched.values():
        key = untried.setting_key(definition, setting)
        if key is not None:
            yield key


def remove_searched_trials(session: Session, study_id: int, own_trial_id: int) -> int:
    """Remove the worker's own trial, and those that wait for a setting and were never claimed.

    The definition counts them as left out. A trial that another session is just claiming stays: it finds no
    setting either, and removes itself.

    Args:
        session: The session of the own trial's fenced transaction; this locks the study's row in it.
        study_id: Optuna's id of the study.
        own_trial_id: Optuna's id of the own trial.

    Returns:
        The number of trials removed.
    """
    definition = plan.lock_definition(session, study_id)
    waiting = session.execute(_WAITING_FOR_SETTING, {"study": study_id}).scalars().all()
    removed = [own_trial_id, *waiting]
    left_out = definition.left_out_trials + len(removed)
    plan.store_definition(session, study_id, definition.model_copy(update={"left_out_trials": left_out}))
    tables = [table for table in models.BaseModel.metadata.sorted_tables if "trial_id" in table.c]
    for first in range(0, len(removed), CHUNK_TRIALS):
        chunk = removed[first : first + CHUNK_TRIALS]
        for table in (leases, *reversed(tables)):
            session.execute(sa.delete(table).where(table.c.trial_id.in_(chunk)))
    notify_workers(session, study_id)
    return len(removed)


def trial_of_setting(
    definition: Definition, trials: Iterable[FrozenTrial], point: Point
) -> FrozenTrial | None:
    """Return the first trial with a setting given by hand, if one has it; its seed and epochs count, too.

    What either of the two leaves out has the value of ``[train]``.

    Args:
        definition: The study.
        trials: Its trials.
        point: The setting, which the study can run.
    """
    wanted = definition.trial_config(point.setting)
    for trial in trials:
        setting = trial.params or definition.listed_setting(trial.system_attrs)
        run = trial.system_attrs.get(plan.RUN_OPTIONS, {})
        with contextlib.suppress(ValidationError):  # another tool's trial may have any parameters
            if (setting or run) and definition.trial_config({**setting, **run}) == wanted:
                return trial
    return None


_attribute: Any = rows.system_attributes


def _has_attribute(*keys: str) -> sa.ColumnElement[bool]:
    return sa.exists().where(_attribute.c.trial_id == trials.c.trial_id, _attribute.c.key.in_(keys))


# The parameters of all trials that a sampler gave their setting, but for one. Listed points and replicates
# have RUN_OPTIONS: their epochs and seed.
_SEARCHED_PARAMETERS = (
    sa.select(
        rows.params.c.trial_id,
        rows.params.c.param_name,
        rows.params.c.param_value,
        rows.params.c.distribution_json,
    )
    .join(trials, trials.c.trial_id == rows.params.c.trial_id)
    .where(
        trials.c.study_id == sa.bindparam("study"),
        trials.c.trial_id != sa.bindparam("own"),
        ~_has_attribute(plan.RUN_OPTIONS),
    )
)
_WAITING_FOR_SETTING = (
    sa.select(trials.c.trial_id)
    .where(
        trials.c.study_id == sa.bindparam("study"),
        trials.c.state == TrialState.WAITING,
        ~sa.exists().where(leases.c.trial_id == trials.c.trial_id),
        _has_attribute(plan.PLAN),
        ~_has_attribute(*LISTED_ATTRIBUTES),
    )
    .with_for_update(of=trials, skip_locked=True)
)
