"""The setting of a trial: the values of its hyperparameters, from a listed point or from the sampler."""

import optuna

from hpo.search import pruners, samplers
from hpo.store import plan
from hpo.store.history import History
from hpo.store.lease import Claim
from hpo.study import space
from hpo.study.definition import Definition
from hpo.training.config import Config, CustomConfig


def choose_setting(
    claim: Claim, history: History, definition: Definition
) -> tuple[optuna.Trial, Config | CustomConfig, optuna.Study]:
    """Give a claimed trial its hyperparameters, and commit them.

    A resumed trial gets the values that it has. A listed point gets its own values, a queued setting or a
    replicate those that it fixes; the sampler adds nothing to them, and all other options are those of
    [train]. For any other trial the sampler proposes them.

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
        TrialPruned: If the study is a grid, and the trial is neither a point nor a queued setting.
        ValueError: If the study is a grid, and the queued setting names no hyperparameter although [space]
            has some.
    """
    attributes = history.begin_trial(claim.trial_id).system_attrs
    study = optuna.Study(
        definition.name,
        history,
        sampler=samplers.build_sampler(definition, claim.number),
        pruner=pruners.build_pruner(definition),
    )
    trial = optuna.Trial(study, claim.trial_id)
    if "grid_id" in attributes:
        names = list(definition.points[attributes["grid_id"]].hyperparameters())
    else:
        names = list(attributes.get("fixed_params", {}))
    if names:
        parameters = definition.parameters()
        setting = {name: space.suggest_value(trial, parameters[name]) for name in names}
    else:
        setting = space.suggest_setting(trial, definition.space, definition.train)
    if history.unwritten_parameters or history.unwritten_attributes:
        claim.commit(
            parameters=history.unwritten_parameters, system_attributes=history.unwritten_attributes
        )
        history.mark_written()
    config = definition.trial_config(setting | attributes.get(plan.RUN_OPTIONS, {}))
    return trial, config, study
