"""How much each parameter mattered, by several evaluators, with bootstrap intervals for small studies."""

import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import StoreError
from hpo.search import replicates
from hpo.store import status
from hpo.store.storage import Storage

EVALUATORS = ("ped-anova", "fanova", "mdi")
TREES = 64  # of fANOVA's and MDI's forests
BOOTSTRAP_TREES = 16  # the same where a hundred forests are grown
EQUAL_WARNING = "importances will be equal"  # Optuna's, where PED-ANOVA's best trials are all of them
ALL_SAME = "all came to the same accuracy, which tells no parameter apart"
MOST_SAME = "too many came to the same accuracy to tell the best apart from the rest"


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much each parameter mattered, and by how many trials."""

    evaluator: str
    trials: int
    importances: Mapping[str, float]  # shares that add up to 1, the highest first
    left_out: tuple[str, ...]  # parameters for which the evaluator has no share
    doubt: str  # why the shares mean nothing; empty if they do


def study_importance(storage: Storage, name: str, evaluator: str) -> Importance:
    """Evaluate the importance of the parameters over a study's complete trials, one for each setting.

    Args:
        storage: Where the study is stored.
        name: The study's name.
        evaluator: One of ``EVALUATORS``.

    Raises:
        StoreError: The study does not exist, has fewer than two complete settings, or the evaluator fails.
        StoreUnavailable: The database cannot be reached.
    """
    trials = complete_settings(status.read_trials(storage, name))
    if len(trials) < 2:
        raise StoreError(f"study '{name}' has {len(trials)} complete trials; importance needs at least 2")
    return importance_of_trials(trials, evaluator)


def complete_settings(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the complete trials, one for each setting.

    A setting that was run with several seeds is one trial with the mean: copies would count several times.
    A setting of which a seed diverged is left out.
    """
    merged = replicates.merge_replicates(trials, replicates.first_trial_numbers(trials))
    return [trial for trial in merged if trial.state == TrialState.COMPLETE]


def importance_of_trials(trials: Sequence[FrozenTrial], evaluator: str, trees: int = TREES) -> Importance:
    """Evaluate the importance of the parameters over complete trials.

    PED-ANOVA (Watanabe et al. 2023) asks which parameters set the best trials apart. Optuna takes the best
    tenth as the best, which is one or two of 14 trials; here it is the best ten trials, but at least a
    tenth and at most half of all. If all trials have the same value, or too many for PED-ANOVA, ``doubt``
    says so. Parameters that not every trial has are left out.

    Args:
        trials: Two complete trials or more, with values.
        evaluator: One of ``EVALUATORS``.
        trees: The trees of a forest, for ``fanova`` and ``mdi``.

    Raises:
        StoreError: The evaluator cannot compute importances for these trials.
    """
    from optuna import importance  # imports scikit-learn, which takes a second

    quantile = min(max(10 / len(trials), 0.1), 0.5)
    evaluators: dict[str, Callable[[], importance.BaseImportanceEvaluator]] = {
        "ped-anova": lambda: importance.PedAnovaImportanceEvaluator(target_quantile=quantile),
        "fanova": lambda: importance.FanovaImportanceEvaluator(n_trees=trees, seed=0),
        "mdi": lambda: importance.MeanDecreaseImpurityImportanceEvaluator(n_trees=trees, seed=0),
    }
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            study = in_memory_study(trials)
            found = importance.get_param_importances(study, evaluator=evaluators[evaluator]())
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"importance by {evaluator} over {len(trials)} trials: {error}") from error
    searched = dict.fromkeys(parameter for trial in trials for parameter in trial.params)
    return Importance(
        evaluator=evaluator,
        trials=len(trials),
        importances={name: float(share) for name, share in found.items()},
        left_out=tuple(parameter for parameter in searched if parameter not in found),
        doubt=_doubt(trials, caught),
    )


def _doubt(trials: Sequence[FrozenTrial], caught: Iterable[warnings.WarningMessage]) -> str:
    """Return why the shares mean nothing, by the trials' values and Optuna's warnings; else ""."""
    if len({trial.value for trial in trials}) == 1:
        return ALL_SAME
    return MOST_SAME if any(EQUAL_WARNING in str(each.message) for each in caught) else ""


def in_memory_study(trials: Iterable[FrozenTrial]) -> optuna.Study:
    """Return a study in memory that maximizes, with these trials; Optuna logs nothing about it."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize")
    finally:
        optuna.logging.set_verbosity(before)
    study.add_trials(trials)
    return study


def resample_count(trials: int) -> int:
    """Return how many bootstrap samples to draw: 100, or fewer of more than 30 trials, but at least 20."""
    return min(100, max(20, 3000 // trials))


def bootstrap_intervals(trials: Sequence[FrozenTrial], evaluator: str) -> dict[str, tuple[float, float]]:
    """Return the central 90 % of each parameter's importance over bootstrap samples of the trials.

    ``resample_count`` samples are drawn, always the same ones. Those for which the evaluator fails or
    doubts its shares are left out. Forests have ``BOOTSTRAP_TREES`` trees.

    Args:
        trials: Two complete trials or more.
        evaluator: One of ``EVALUATORS``.

    Returns:
        Low and high by parameter. A parameter that fewer than two samples have a share for is left out.
    """
    generator = random.Random(0)
    shares: dict[str, list[float]] = {}
    for _ in range(resample_count(len(trials))):
        sample = generator.choices(trials, k=len(trials))
        try:
            found = importance_of_trials(sample, evaluator, BOOTSTRAP_TREES)
        except StoreError:
            continue  # this sample has a single value of every parameter
        if found.doubt:
            continue
        for name, share in found.importances.items():
            shares.setdefault(name, []).append(share)
    return {name: _central_range(values) for name, values in shares.items() if len(values) > 1}


def _central_range(values: list[float]) -> tuple[float, float]:
    """Return the 5 % and the 95 % quantile."""
    limits = quantiles(values, n=20, method="inclusive")
    return limits[0], limits[-1]
