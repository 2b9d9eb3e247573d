"""The share of a search's epochs that are run if its pruner stops every trial that it may stop.

The shares follow from the pruners' rules. How well early accuracies predict final ones is not considered.
What the pruner freeze_thaw stops follows from no rule; its share was measured.
"""

import math
import statistics

from hpo.study.search_options import Pruner

# The shares of freeze_thaw: of the epochs after ``min_epochs``, and of trials that end whole. In simulated
# studies of 20, 50 and 100 trials of 20 to 30 epochs (14 of benchmarks/synthetic_studies.py), which began
# with 1 or 2 epochs, the mean was 0.08 to 0.17 of these epochs and 0.04 to 0.09 of the trials.
CONTINUED_SHARE, WHOLE_SHARE = 1 / 8, 1 / 15


def run_share(pruner: Pruner, epochs: int, replicates: int = 1) -> float:
    """Return the share of a searched setting's epochs that are run if the pruner stops all that it may.

    - asha: one trial in ``reduction_factor`` passes each rung;
    - hyperband: the same, averaged over its brackets, whose first rungs lie later and later;
    - median and percentile: the others stop right after ``min_epochs``;
    - freeze_thaw: all run ``min_epochs``, and ``CONTINUED_SHARE`` of the epochs after that;
    - patient and none: all epochs are run.

    Replicates are run to their end: with a pruner those of the better half of the trials that end whole,
    without one all.

    Args:
        pruner: The study's pruner.
        epochs: The epochs of a trial.
        replicates: The seeds of each setting.

    Returns:
        A share from 0 to 1.
    """
    if pruner.name == "none":
        return 1.0
    run, whole = _first_trial_share(pruner, epochs)
    return (run + (replicates - 1) * whole / 2) / replicates


def _first_trial_share(pruner: Pruner, epochs: int) -> tuple[float, float]:
    """Return two shares of the settings' first trials: of epochs run, and of trials that end whole."""
    first, factor = min(pruner.min_epochs, epochs), pruner.reduction_factor
    if pruner.name == "patient":
        return 1.0, 1.0
    if pruner.name == "freeze_thaw":
        return (first + (epochs - first) * CONTINUED_SHARE) / epochs, WHOLE_SHARE if first < epochs else 1.0
    if pruner.name in ("median", "percentile"):
        kept = 0.5 if pruner.name == "median" else pruner.percentile / 100
        return kept + (1 - kept) * first / epochs, kept
    brackets = int(math.log(epochs / first, factor) + 1e-9) + 1 if pruner.name == "hyperband" else 1
    shares = [_halving_share(first * factor**bracket, factor, epochs) for bracket in range(brackets)]
    run, whole = (statistics.fmean(each) for each in zip(*shares, strict=True))
    return run, whole


def _halving_share(first: int, factor: int, epochs: int) -> tuple[float, float]:
    """Return the same two shares for successive halving with its first rung after ``first`` epochs."""
    rung = min(first, epochs)
    run, passed = float(rung), 1.0
    while rung < epochs:
        passed, first = passed / factor, first * factor
        run += passed * (min(first, epochs) - rung)
        rung = min(first, epochs)
    return run / epochs, passed
