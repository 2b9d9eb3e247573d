"""How much each parameter mattered, by several evaluators, with bootstrap intervals for small studies."""

import copy
import math
import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import StoreError
from hpo.search import replicates
from hpo.search.replicates import REPLICATE_OF
from hpo.store import status, studies
from hpo.store.attributes import RUN_OPTIONS
from hpo.store.storage import Storage

EVALUATORS = ("ped-anova", "fanova", "mdi")
TREES = 64  # of fANOVA's and MDI's forests
BOOTSTRAP_TREES = 16  # the same where a hundred forests are grown
ALL_SAME = "all came to the same value, which tells no parameter apart"
MOST_SAME = "too many came to the same value to tell the best apart from the rest"
NONE_VARIES = "no parameter has two values among them"
TOO_FAR = "their values are too far apart to calculate with"
DASHBOARD_DIFFERS = (
    "The graph of optuna-dashboard may differ: it compares the best tenth of the trials with the rest, "
    "counts each seed of a setting as a trial, and shows shares also where the trials cannot tell."
)


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much each parameter mattered, and by how many trials."""

    evaluator: str
    trials: int
    importances: Mapping[str, float]  # shares that add up to 1, the highest first; none if in doubt
    left_out: tuple[str, ...]  # parameters for which the evaluator has no share
    doubt: str  # why there are no shares; else empty


def study_importance(storage: Storage, name: str, evaluator: str) -> Importance:
    """Evaluate the importance of the parameters over a study's complete trials, one for each setting.

    With several objectives it is that for the first metric among them.

    Args:
        storage: Where the study is stored.
        name: The study's name.
        evaluator: One of ``EVALUATORS``.

    Raises:
        StoreError: The study does not exist, is another tool's and has several objectives, or has fewer
            than two complete settings; or the evaluator fails.
        StoreUnavailable: The database cannot be reached.
    """
    directions = storage.get_study_directions(studies.find_study_id(storage, name))
    chosen = 0
    if len(directions) > 1:
        definition = studies.read_definition(storage, name)
        chosen = definition.objectives.index(definition.metric)
    trials = complete_settings(status.read_trials(storage, name), chosen)
    if len(trials) < 2:
        some = "one complete setting" if trials else "no complete setting"
        raise StoreError(f"study '{name}' has {some}; importance needs at least 2")
    return importance_of_trials(trials, evaluator, maximize=directions[chosen] != StudyDirection.MINIMIZE)


def complete_settings(trials: list[FrozenTrial], objective: int = 0) -> list[FrozenTrial]:
    """Return the complete trials that have a value, one for each setting, with one objective.

    A setting that was run with several seeds is one trial with the mean: copies would count several times.
    A setting of which a seed diverged is left out.

    Args:
        trials: All trials of a study.
        objective: The index of the objective whose values the trials get.
    """
    merged = replicates.merge_replicates(trials, first_of_seeds(trials))
    done = [each for each in merged if each.state == TrialState.COMPLETE and each.values is not None]
    return [_with_objective(each, objective) for each in done]


def _with_objective(trial: FrozenTrial, objective: int) -> FrozenTrial:
    if len(trial.values) == 1:
        return trial
    single = copy.copy(trial)
    single.values = [trial.values[objective]]
    return single


def first_of_seeds(trials: Iterable[FrozenTrial]) -> dict[int, int]:
    """Return, by the number of each other seed of a setting, the number of the setting's first trial.

    These are replicates, and complete trials of listed points that differ in the seed alone, as in a study
    of ``hpo finish``.
    """
    found, firsts = {}, dict[str, int]()
    for trial in trials:
        options = dict(trial.system_attrs.get(RUN_OPTIONS, {}))
        if REPLICATE_OF in trial.system_attrs:
            found[trial.number] = trial.system_attrs[REPLICATE_OF]
        elif options.pop("seed", None) is not None and trial.state == TrialState.COMPLETE:
            key = repr(sorted((trial.params | options).items()))
            if (first := firsts.setdefault(key, trial.number)) != trial.number:
                found[trial.number] = first
    return found


def explain_doubt(trials: Sequence[FrozenTrial], *, maximize: bool = True) -> str:
    """Return why no evaluator can tell the importance of parameters from these trials; else "".

    The reasons are parameters that all have one value, equal values of the metric, values whose squares
    cannot be calculated with, and fewer trials than parameters that vary, and one more.

    Args:
        trials: Complete trials with values, such as ``complete_settings`` returns.
        maximize: Whether higher values are better.
    """
    values = sorted((trial.values[0] for trial in trials), reverse=maximize)
    if len(trials) < 2:
        return ""
    given: dict[str, set[str]] = {}
    for trial in trials:
        for name, value in trial.params.items():
            given.setdefault(name, set()).add(repr(value))
    varying = sum(len(each) > 1 for each in given.values())
    if not varying:
        return NONE_VARIES
    spread = values[0] - values[-1]
    if not math.isfinite(spread * spread * len(values)):
        return TOO_FAR
    if not spread:
        return ALL_SAME
    if values[math.ceil(_best_share(len(values)) * len(values)) - 1] == values[-1]:
        return MOST_SAME
    if len(trials) > varying + 1:
        return ""
    what = "what one parameter does" if varying == 1 else f"{varying} parameters apart"
    remedy = "run more, or prune none (search.pruner = 'none'), since only complete trials count"
    return f"{len(trials)} trials cannot tell {what}: {remedy}"


def _best_share(trials: int) -> float:
    """Return the share of the trials that count as the best: ten of them, from a tenth to a half."""
    return min(max(10 / trials, 0.1), 0.5)


def importance_of_trials(
    trials: Sequence[FrozenTrial], evaluator: str, trees: int = TREES, *, maximize: bool = True
) -> Importance:
    """Evaluate the importance of the parameters over complete trials.

    PED-ANOVA (Watanabe et al. 2023) asks which parameters set the best trials apart. Optuna takes the best
    tenth as the best, which is one or two of 14 trials; here it is the best ten trials, but at least a
    tenth and at most half of all. Where ``explain_doubt`` has a reason, there are no shares. Parameters
    that not every trial has are left out.

    Args:
        trials: Two complete trials or more, with values.
        evaluator: One of ``EVALUATORS``.
        trees: The trees of a forest, for ``fanova`` and ``mdi``.
        maximize: Whether higher values are better.

    Raises:
        StoreError: The evaluator cannot compute importances for these trials.
    """
    from optuna import importance  # imports scikit-learn, which takes a second

    if doubt := explain_doubt(trials, maximize=maximize):
        return Importance(evaluator=evaluator, trials=len(trials), importances={}, left_out=(), doubt=doubt)
    quantile = _best_share(len(trials))
    evaluators: dict[str, Callable[[], importance.BaseImportanceEvaluator]] = {
        "ped-anova": lambda: importance.PedAnovaImportanceEvaluator(target_quantile=quantile),
        "fanova": lambda: importance.FanovaImportanceEvaluator(n_trees=trees, seed=0),
        "mdi": lambda: importance.MeanDecreaseImpurityImportanceEvaluator(n_trees=trees, seed=0),
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Optuna, on how it takes trials that lack a parameter
            study = in_memory_study(trials, maximize=maximize)
            found = importance.get_param_importances(study, evaluator=evaluators[evaluator]())
    except (RuntimeError, TypeError, ValueError) as error:  # TypeError: choices that are lists
        raise StoreError(f"importance by {evaluator} over {len(trials)} trials: {error}") from error
    searched = dict.fromkeys(parameter for trial in trials for parameter in trial.params)
    return Importance(
        evaluator=evaluator,
        trials=len(trials),
        importances={name: float(share) for name, share in found.items()},
        left_out=tuple(parameter for parameter in searched if parameter not in found),
        doubt="",
    )


def in_memory_study(trials: Iterable[FrozenTrial], *, maximize: bool = True) -> optuna.Study:
    """Return a study in memory with these trials; Optuna logs nothing about it."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize" if maximize else "minimize")
    finally:
        optuna.logging.set_verbosity(before)
    study.add_trials(trials)
    return study


def resample_count(trials: int) -> int:
    """Return how many bootstrap samples to draw: 100, or fewer of more than 30 trials, but at least 20."""
    return min(100, max(20, 3000 // trials))


def bootstrap_intervals(
    trials: Sequence[FrozenTrial], evaluator: str, *, maximize: bool = True
) -> dict[str, tuple[float, float]]:
    """Return the central 90 % of each parameter's importance over bootstrap samples of the trials.

    ``resample_count`` samples are drawn, always the same ones. Those for which the evaluator fails or
    doubts its shares are left out. Forests have ``BOOTSTRAP_TREES`` trees.

    Args:
        trials: Two complete trials or more.
        evaluator: One of ``EVALUATORS``.
        maximize: Whether higher values are better.

    Returns:
        Low and high by parameter. A parameter that fewer than two samples have a share for is left out.
    """
    generator = random.Random(0)
    shares: dict[str, list[float]] = {}
    for _ in range(resample_count(len(trials))):
        sample = generator.choices(trials, k=len(trials))
        try:
            found = importance_of_trials(sample, evaluator, BOOTSTRAP_TREES, maximize=maximize)
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
