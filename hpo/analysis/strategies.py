"""How search strategies compare: what they have found, and how soon, over many simulated studies.

What a strategy has found, after so many epochs of all trials together, is the best accuracy reported so
far; its regret is what the best accuracy that is known of has more. The target that strategies are to reach
is the median regret that random search has after ``TRAININGS`` whole trainings. A strategy that did not
reach it counts with all epochs and hours that it had, so its median is a lower bound.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.table import Table
from scipy import stats

from hpo.analysis import intervals, simulation, surrogate
from hpo.analysis.intervals import Interval
from hpo.analysis.simulation import BestSoFar, Simulation, Strategy
from hpo.analysis.surrogate import RecordedCurves, Surrogate
from hpo.study.checks import validate_record
from hpo.study.definition import Pruner, Sampler
from hpo.study.overrides import parse_value

Record = TypeVar("Record", Sampler, Pruner)

FULL_TRAININGS = 40  # whole trainings that a simulated study may take in all
SIGNIFICANCE = 0.05  # a difference less likely than this by chance is one
BUDGET_SHARES = (0.25, 0.5, 1.0)  # of its epochs after which regret is told


@dataclass(frozen=True, kw_only=True)
class SimulatedRuns:
    """A strategy's simulated studies, one per repeat."""

    strategy: str
    runs: tuple[tuple[BestSoFar, ...], ...]


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a strategy came to."""

    strategy: str
    regrets: tuple[Interval, ...]  # after SHARES of the epochs
    epochs: Interval  # to the target
    hours: Interval  # to the target, with all workers
    ratio: float  # of its median epochs to those of random search
    p: float  # that it needs no fewer epochs than random search (Mann-Whitney, one-sided)


def epoch_budget(recorded: RecordedCurves) -> int:
    """Give how many epochs a simulated study may take in all; a grid may run whole."""
    return max(FULL_TRAININGS, len(recorded.curves) * (not recorded.definition.searches)) * recorded.epochs


def simulate_strategy(
    known: Surrogate, strategy: Strategy, *, workers: int, seeds: Iterable[int]
) -> SimulatedRuns:
    """Simulate one study of a strategy for each seed."""
    most = epoch_budget(known.recorded)
    runs = (Simulation(known, strategy, seed=seed, workers=workers, most=most).run() for seed in seeds)
    return SimulatedRuns(strategy=strategy.name, runs=tuple(tuple(run) for run in runs))


def compare_searches(tried: Sequence[SimulatedRuns], known: Surrogate) -> list[SearchResult]:
    """Give what strategies came to; the first is random search, which sets the target."""
    most = epoch_budget(known.recorded)
    reached, epochs = _costs_to_target(tried, most), epochs_to_target(tried, most)
    return [
        SearchResult(
            strategy=each.strategy,
            regrets=tuple(
                _median_regret(each.runs, known.best_accuracy, round(share * most))
                for share in BUDGET_SHARES
            ),
            epochs=intervals.median_interval(epochs[each.strategy]),
            hours=intervals.median_interval([seconds / 3600 for _, seconds in reached[each.strategy]]),
            ratio=statistics.median(epochs[each.strategy]) / statistics.median(epochs[tried[0].strategy]),
            p=p_fewer_epochs(epochs[each.strategy], epochs[tried[0].strategy]),
        )
        for each in tried
    ]


def epochs_to_target(tried: Sequence[SimulatedRuns], most: int) -> dict[str, list[int]]:
    """Give the epochs to the target by strategy, one figure per repeat."""
    return {name: [epochs for epochs, _ in runs] for name, runs in _costs_to_target(tried, most).items()}


def _costs_to_target(tried: Sequence[SimulatedRuns], most: int) -> dict[str, list[tuple[int, float]]]:
    """Give epochs and seconds to the target."""
    target = statistics.median(run[-1].accuracy for run in tried[0].runs)
    found: dict[str, list[tuple[int, float]]] = {}
    for each in tried:
        for run in each.runs:
            at = next((found for found in run if found.accuracy >= target), None)
            epochs = (most, run[-1].seconds) if at is None else (at.epochs, at.seconds)
            found.setdefault(each.strategy, []).append(epochs)
    return found


def p_fewer_epochs(epochs: Sequence[float], others: Sequence[float]) -> float:
    """Give the probability that so much fewer epochs came about by chance."""
    return float(stats.mannwhitneyu(epochs, others, alternative="less").pvalue)


def _median_regret(runs: Sequence[Sequence[BestSoFar]], best: float, epochs: int) -> Interval:
    """Give the median regret after so many epochs."""
    return intervals.median_interval([best - run[min(epochs, len(run)) - 1].accuracy for run in runs])


def choose_strategies(recorded: RecordedCurves, sampler: str | None, pruner: str | None) -> list[Strategy]:
    """Give what is to be compared: Optuna's and random search, hpo's defaults, and what was asked for.

    ``sampler`` and ``pruner`` are written as in a study file; left out, they are the study's own. Raises
    DefinitionError.
    """
    search = recorded.definition.search
    by_default = simulation.study_strategy(recorded.definition, Sampler(), Pruner())
    asked = simulation.study_strategy(
        recorded.definition,
        search.sampler if sampler is None else _parse_option(Sampler, sampler, "sampler"),
        search.pruner if pruner is None else _parse_option(Pruner, pruner, "pruner"),
    )
    ours = {each.name: each for each in (by_default, asked)}
    return [*simulation.reference_strategies(recorded.definition, recorded.epochs), *ours.values()]


def _parse_option(kind: type[Record], text: str, flag: str) -> Record:
    value = parse_value(text)
    given = value if isinstance(value, dict) else {"name": value}
    return validate_record(kind, given, f"--{flag}", flag)


@dataclass(frozen=True, kw_only=True)
class GridResult:
    """What a pruner would have done to a grid, over all repeats."""

    strategy: str
    epochs: Interval  # that were run
    share: float  # of all of them, the median
    kept: int  # repeats in which the grid's winner still won
    repeats: int
    lost: Interval  # accuracy of the grid's winner, less that of the one found


def compare_pruners(tried: Sequence[SimulatedRuns], recorded: RecordedCurves) -> list[GridResult]:
    """Give what pruners would have saved of a grid, and whether its winner would still have won."""
    best = max(max(curve.accuracies) for curve in recorded.curves)
    whole = sum(len(curve.accuracies) for curve in recorded.curves)
    return [
        GridResult(
            strategy=each.strategy,
            epochs=intervals.median_interval([run[-1].epochs for run in each.runs]),
            share=statistics.median(run[-1].epochs for run in each.runs) / whole,
            kept=sum(max(run[-1].curve.accuracies) == best for run in each.runs),
            repeats=len(each.runs),
            lost=intervals.median_interval([best - run[-1].accuracy for run in each.runs]),
        )
        for each in tried
    ]


def describe_simulation(known: Surrogate, *, workers: int, repeats: int) -> Iterator[str]:
    """Say as lines what was simulated."""
    recorded = known.recorded
    many = f"{len(recorded.curves)} whole curves of {recorded.epochs} epochs"
    crew = f"{repeats} times with {workers} worker{'s' * (workers > 1)}"
    if not recorded.definition.searches:
        yield f"{many}, replayed {crew}, the first time as listed, then in random order"
        return
    yield f"{many}, searched {crew}, {epoch_budget(recorded)} epochs each"
    yield (
        f"between recorded settings a {surrogate.SURROGATE_NAME} tells the curve; it explains "
        f"{max(known.explained_variance, 0.0):.0%} of the variance of settings that it has not seen"
    )
    yield f"medians [their 95 % intervals]; best accuracy known of: {known.best_accuracy:.4f}"


def document(
    found: Sequence[SearchResult] | Sequence[GridResult], known: Surrogate, *, workers: int, repeats: int
) -> dict[str, Any]:
    """Give results as a JSON document."""
    recorded = known.recorded
    searches = recorded.definition.searches
    return {
        "curves": len(recorded.curves),
        "epochs": recorded.epochs,
        "surrogate": surrogate.SURROGATE_NAME if searches else None,
        "fidelity": known.explained_variance if searches else None,
        "best": known.best_accuracy,
        "workers": workers,
        "repeats": repeats,
        "budget": epoch_budget(recorded),
        "strategies": [dataclasses.asdict(each) for each in found],
        "advice": advice(found),
    }


def make_table(found: Sequence[SearchResult] | Sequence[GridResult], most: int) -> Table:
    """Give results as a table."""
    shares = [f"regret at {share * most:.0f}" for share in BUDGET_SHARES]
    heads = [*shares, "epochs to target", "hours", "of random's"]
    if isinstance(found[0], GridResult):
        heads = ["epochs run", "of all", "winner kept", "accuracy lost"]
    result = Table("strategy", *heads, box=None, padding=(0, 1))
    for each in found:
        result.add_row(each.strategy, *_cells(each))
    return result


def _cells(found: SearchResult | GridResult) -> list[str]:
    if isinstance(found, GridResult):
        kept = f"{found.kept} of {found.repeats}"
        return [
            _format_interval(found.epochs, ".0f"),
            f"{found.share:.0%}",
            kept,
            _format_interval(found.lost, ".4f"),
        ]
    regrets = [_format_interval(each, ".4f") for each in found.regrets]
    return [
        *regrets,
        _format_interval(found.epochs, ".0f"),
        _format_interval(found.hours, ".3g"),
        f"{found.ratio:.2f}",
    ]


def _format_interval(found: Interval, form: str) -> str:
    return f"{found.value:{form}} [{found.low:{form}} {found.high:{form}}]"


def advice(found: Sequence[SearchResult] | Sequence[GridResult]) -> str:
    """Say in a sentence what the results come to."""
    if isinstance(found[0], GridResult):
        safe = [each for each in found if isinstance(each, GridResult) and each.kept == each.repeats]
        least = min(safe, key=lambda each: each.share, default=None)
        if least is None:
            return "no pruner would have kept the winner in every repeat: run this grid whole"
        if least.share == 1:
            return "no pruner that kept the winner in every repeat would have spared an epoch"
        return f"{least.strategy} would have run {least.share:.0%} of the epochs, and kept the winner"
    results = [each for each in found if isinstance(each, SearchResult)]
    best = min(results, key=lambda each: each.epochs.value)
    if best.p * (len(results) - 1) > SIGNIFICANCE:  # the best of so many is lucky, too (Bonferroni)
        return "no strategy needed surely fewer epochs than random search; more --repeats may tell"
    return (
        f"{best.strategy} reached random search's target in {best.epochs.value:.0f} epochs, "
        f"{best.ratio:.2f} of what random search needed"
    )
