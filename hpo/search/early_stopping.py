"""Trials that ended before their last epoch because their value had stopped rising; they are complete.

Such a trial is a finished one. At a rung behind its last epoch it has its best value, and so it has for a
model of the curves after the epoch that would have been its last.
"""

from optuna.trial import FrozenTrial, TrialState

STOPPED_EARLY = "hpo:stopped_early"  # system attribute of a trial: for how many epochs no value was better


def has_stopped_early(trial: FrozenTrial) -> bool:
    """Return whether a trial is complete although it has not trained all its epochs."""
    return trial.state == TrialState.COMPLETE and STOPPED_EARLY in trial.system_attrs


def describe_early_stop(last_epoch: int, patience: int) -> str:
    """Return why a trial stopped.

    Args:
        last_epoch: The last epoch that it trained.
        patience: The number of epochs up to it without a better value.
    """
    epochs = "1 epoch" if patience == 1 else f"{patience} epochs"
    return f"stopped after epoch {last_epoch}: no better value for {epochs}"
