"""Search a space with any sampler and pruner, with made-up accuracies."""

import math

import optuna
from optuna.trial import TrialState

from hpo.search import pruners, samplers
from hpo.study import file, space
from hpo.study.definition import Definition

SPACE = {
    "optimizer": ["sgd", "adam"],
    "lr": {"low": 1e-4, "high": 0.1, "log": True},
    "momentum": {"low": 0.0, "high": 0.9, "when": {"optimizer": "sgd"}},
    "weight_decay": {"low": 0.0, "high": 0.3, "step": 0.1},
    "batch_size": {"low": 8, "high": 64, "step": 8},
    "tune": ["all", "head"],
}


def study_of(space=SPACE, epochs=9, points=(), train=None, **search) -> Definition:
    fixed = {"epochs": epochs} if epochs else {}
    document = {"name": "s", "train": fixed | (train or {}), "space": space, "search": search}
    return file.parse_document(document | {"points": list(points)}, "s.toml")


def ask(definition: Definition, study: optuna.Study) -> tuple[optuna.Trial, dict[str, space.Value]]:
    """Return the study's next trial and its setting, as a worker creates them."""
    study.sampler = samplers.build_sampler(definition, len(study.trials))
    study.pruner = pruners.build_pruner(definition)
    trial = study.ask()
    setting: dict[str, space.Value] = {}
    for parameter in definition.space:
        if space.is_active(parameter, definition.train | setting):
            setting[parameter.name] = space.suggest_value(trial, parameter)
    return trial, setting


def accuracy(setting: dict[str, space.Value], epoch: int, epochs: int) -> float:
    """Return a made-up accuracy: best at lr = 0.01, and falling after epoch 3 if all layers are tuned."""
    peak = 1 / (1 + abs(math.log10(setting["lr"]) + 2))
    return peak * (6 - epoch if setting["tune"] == "all" and epoch > 3 else epoch) / epochs


def run(definition: Definition, study: optuna.Study, trials: int) -> None:
    for _ in range(trials):
        trial, setting = ask(definition, study)
        epochs = definition.trial_config(setting).epochs
        for epoch in range(1, epochs + 1):
            trial.report(accuracy(setting, epoch, epochs), epoch)
            if epoch < epochs and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, accuracy(setting, epochs, epochs))


def maximizing() -> optuna.Study:
    return optuna.create_study(study_name="s", direction="maximize")
