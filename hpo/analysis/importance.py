"""How much each parameter mattered: by several evaluators, with what a bootstrap makes of so few trials."""

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
TREES, BOOTSTRAP_TREES = 64, 16  # of fANOVA and MDI; fewer where a hundred forests grow
EQUAL_WARNING = "importances will be equal"  # Optuna's warning that PED-ANOVA's best trials are all of them
ALL_SAME = "all came to the same accuracy, which tells no parameter apart"
MOST_SAME = "too many came to the same accuracy to tell the best apart from the rest"


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much each parameter mattered, and how many trials say so."""

    evaluator: str
    trials: int
    importances: Mapping[str, float]
    left_out: tuple[str, ...]  # parameters that the evaluator says nothing of
    doubt: str  # why the shares say nothing; empty if they do


def study_importance(opened: Storage, name: str, evaluator: str) -> Importance:
    """Evaluate parameter importance over a study's complete trials; raises StoreError if it cannot be."""
    trials = complete_settings(status.read_trials(opened, name))
    if len(trials) < 2:
        raise StoreError(f"importance wants 2 complete trials at least, study '{name}' has {len(trials)}")
    return importance_of_trials(trials, evaluator)


def complete_settings(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Give the complete trials; of a repeated setting one, with the mean: copies would count as more."""
    merged = replicates.merge_replicates(trials, replicates.first_trial_numbers(trials))
    return [trial for trial in merged if trial.state == TrialState.COMPLETE]


def importance_of_trials(trials: Sequence[FrozenTrial], evaluator: str, trees: int = TREES) -> Importance:
    """Evaluate parameter importance over complete trials.

    PED-ANOVA asks what sets the best trials apart. Optuna takes the best tenth, which of 14 trials is
    one or two; here it is the best ten, but at most half and at least a tenth of them. Where too many came
    to the same the shares are equal, and in doubt. Raises StoreError where the evaluator cannot say.
    """
    from optuna import importance as importances  # imports scikit-learn, which takes a second

    quantile = min(max(10 / len(trials), 0.1), 0.5)
    evaluators: dict[str, Callable[[], importances.BaseImportanceEvaluator]] = {
        "ped-anova": lambda: importances.PedAnovaImportanceEvaluator(target_quantile=quantile),
        "fanova": lambda: importances.FanovaImportanceEvaluator(n_trees=trees, seed=0),
        "mdi": lambda: importances.MeanDecreaseImpurityImportanceEvaluator(n_trees=trees, seed=0),
    }
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            found = importances.get_param_importances(
                in_memory_study(trials), evaluator=evaluators[evaluator]()
            )
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"importance by {evaluator} over {len(trials)} trials: {error}") from error
    same = len({trial.value for trial in trials}) == 1
    alike = any(EQUAL_WARNING in str(each.message) for each in warned)
    searched = dict.fromkeys(parameter for trial in trials for parameter in trial.params)
    return Importance(
        evaluator=evaluator,
        trials=len(trials),
        importances={name: float(share) for name, share in found.items()},
        left_out=tuple(parameter for parameter in searched if parameter not in found),
        doubt=ALL_SAME if same else MOST_SAME if alike else "",
    )


def in_memory_study(trials: Iterable[FrozenTrial]) -> optuna.Study:
    """Give a study in memory of these trials; it is no news to anybody, so Optuna does not log it."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        made = optuna.create_study(direction="maximize")
    finally:
        optuna.logging.set_verbosity(before)
    made.add_trials(trials)
    return made


def resample_count(trials: int) -> int:
    """Give how often so many trials are drawn anew: 100 times, many trials less often, to save time."""
    return min(100, max(20, 3000 // trials))


def bootstrap_intervals(trials: Sequence[FrozenTrial], evaluator: str) -> dict[str, tuple[float, float]]:
    """Give each parameter's importance as 90 % of resamplings with replacement see it: low and high."""
    drawn = random.Random(0)
    shares: dict[str, list[float]] = {}
    for _ in range(resample_count(len(trials))):
        try:
            found = importance_of_trials(drawn.choices(trials, k=len(trials)), evaluator, BOOTSTRAP_TREES)
        except StoreError:
            continue  # such a draw holds one value of every parameter
        if found.doubt:
            continue
        for name, share in found.importances.items():
            shares.setdefault(name, []).append(share)
    return {name: _central_range(values) for name, values in shares.items() if len(values) > 1}


def _central_range(values: list[float]) -> tuple[float, float]:
    cut = quantiles(values, n=20, method="inclusive")
    return cut[0], cut[-1]
