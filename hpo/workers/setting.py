"""The setting of a trial: the values of its hyperparameters, from a listed point or from the sampler."""

from collections.abc import Callable, Mapping
from typing import Any

import optuna
from sqlalchemy.orm import Session

from hpo.search import pruners, samplers, untried
from hpo.store import plan, untried_settings
from hpo.store.history import History
from hpo.store.lease import Claim
from hpo.store.rows import Parameters
from hpo.study import space
from hpo.study.definition import Definition
from hpo.training.config import Config
from hpo.training.custom_config import CustomConfig


def choose_setting(
    claim: Claim, history: History, definition: Definition
) -> tuple[optuna.Trial, Config | CustomConfig, optuna.Study]:
    """Give a claimed trial its hyperparameters, and commit them.

    A resumed trial gets the values that it has. A listed point gets its own values, a queued setting or a
    replicate those that it fixes; the sampler adds nothing to them, and all other options are those of
    [train]. For any other trial the sampler proposes them; a setting that another trial has is replaced by
    one that none has (``hpo.search.untried``).

    Args:
        claim: The claim on the trial.
        history: The study's trials. The trial becomes the history's own.
        definition: The study.

    Returns:
        The trial, the settings that it trains with, and the study as its sampler and pruner see it.

    Raises:
        StoreError: If the study was deleted meanwhile, or the database stays unavailable or refuses the
            write.
        LeaseLost: If another worker has claimed the trial meanwhile.
        AllSettingsTried: If there is no such setting.
        TrialPruned: If the study is a grid, and the trial is neither one of its points nor a queued
            setting, or if another tool queued a setting that the study cannot train.
        ValueError: If the study is a grid, and another tool queued a trial without a parameter of [space].
    """
    attributes = history.begin_trial(claim.trial_id).system_attrs
    study = optuna.Study(
        definition.name,
        history,
        sampler=samplers.build_sampler(definition, claim.number, history.priors),
        pruner=pruners.build_pruner(definition),
    )
    trial = optuna.Trial(study, claim.trial_id)
    names = _fixed_names(definition, attributes)
    if names is not None:
        parameters = definition.parameters()
        _check_fixed(attributes.get("fixed_params", {}), parameters)
        setting = {name: space.suggest_value(trial, parameters[name]) for name in names}
    else:
        setting = space.suggest_setting(trial, definition.space, definition.train)
    is_proposed = names is None and bool(history.unwritten_parameters)
    if is_proposed and untried.setting_key(definition, setting) is not None:
        setting = _commit_untried(claim, history, trial)
    elif history.unwritten_parameters or history.unwritten_attributes:
        _commit(claim, history, history.unwritten_parameters)
    config = definition.trial_config(setting | attributes.get(plan.RUN_OPTIONS, {}))
    return trial, config, study


def _fixed_names(definition: Definition, attributes: Mapping[str, Any]) -> list[str] | None:
    """Return the parameters of a trial that gets none from the sampler, maybe none; None for any other."""
    if "grid_id" in attributes:
        point = definition.point_at(attributes["grid_id"])
        if point is None:
            raise optuna.TrialPruned("not one of the study's points")
        return list(point.hyperparameters())
    names = list(attributes.get("fixed_params", {}))
    is_ours = plan.RUN_OPTIONS in attributes  # another tool that fixes nothing leaves all to the sampler
    return names if names or is_ours else None


def _check_fixed(fixed: Mapping[str, Any], parameters: Mapping[str, space.Parameter]) -> None:
    """Raise ``optuna.TrialPruned`` if a queued setting has what the study cannot have."""
    for name, value in fixed.items():
        if name not in parameters:
            raise optuna.TrialPruned(f"its queued setting has {name!r}, which the study does not have")
        try:
            parameters[name].distribution().to_internal_repr(value)
        except (ValueError, TypeError, OverflowError) as error:
            message = f"its queued setting has {name} = {value!r}, which the study cannot have"
            raise optuna.TrialPruned(message) from error


def _commit(
    claim: Claim, history: History, parameters: Parameters | Callable[[Session], Parameters]
) -> None:
    claim.commit(parameters=parameters, system_attributes=history.unwritten_attributes)
    history.mark_written()


def _commit_untried(claim: Claim, history: History, trial: optuna.Trial) -> dict[str, Any]:
    """Commit the proposed parameters, or others if another trial has them, and return their values."""
    chosen: Parameters = {}

    def choose(session: Session) -> Parameters:
        nonlocal chosen
        proposed = history.unwritten_parameters
        chosen = untried_settings.choose_untried(session, claim.study_id, claim.trial_id, proposed)
        return chosen

    _commit(claim, history, choose)
    history.replace_parameters(chosen)
    trial._cached_frozen_trial = history.get_trial(claim.trial_id)
    return trial.params
