"""Search strategies compared: what they find, and how soon, over many simulated studies.

The regret of a strategy, after a number of epochs of all trials together, is how much better the best value
known is than the best reported so far. The target that strategies have to reach is the median best value of
random search at the end of its budget, ``FULL_TRAININGS`` whole trainings. A simulated study that does not
reach the target counts with the whole budget of epochs and the hours that it had, so the median of such a
strategy is a lower bound.
"""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.table import Table
from scipy import stats

from hpo.analysis import intervals, simulation, surrogate
from hpo.analysis.intervals import Interval
from hpo.analysis.recorded_curves import RecordedCurves
from hpo.analysis.simulation import Simulation, Strategy
from hpo.analysis.surrogate import Surrogate
from hpo.analysis.virtual_time import BestSoFar
from hpo.errors import DefinitionError
from hpo.search import untried
from hpo.study.checks import validate_record
from hpo.study.overrides import parse_value
from hpo.study.search_options import Pruner, Sampler
from hpo.training.metric import Metric

Record = TypeVar("Record", Sampler, Pruner)

FULL_TRAININGS = 40  # whole trainings that the budget of a simulated study allows
SIGNIFICANCE = 0.05  # a p-value below this is a difference
BUDGET_SHARES = (0.25, 0.5, 1.0)  # shares of the budget after which regret is shown


@dataclass(frozen=True, kw_only=True)
class SimulatedRuns:
    """The simulated studies of a strategy, one for each seed."""

    strategy: str
    runs: tuple[tuple[BestSoFar, ...], ...]  # for each study, the best so far after each epoch


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """How a strategy compares with random search."""

    strategy: str
    regrets: tuple[Interval, ...]  # medians after BUDGET_SHARES of the epochs
    epochs: Interval  # median until the target is reached
    hours: Interval  # the same in virtual hours, with all workers
    ratio: float  # of its median epochs to those of random search
    p: float  # of the one-sided Mann-Whitney test that it needs fewer epochs than random search


@dataclass(frozen=True, kw_only=True)
class GridResult:
    """What a pruner saves in a grid, and whether the grid's winner survives, over all repeats."""

    strategy: str
    epochs: Interval  # median of the epochs that are run
    share: float  # of all epochs, the median
    kept: int  # repeats in which the winner is still found
    repeats: int
    lost: Interval  # median of how much worse the trial found is than the winner


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How strategies compare on recorded curves: what ``hpo simulate --json`` prints."""

    curves: int  # that are whole
    epochs: int  # of each curve
    surrogate: str | None  # what predicts the curves of other settings; None for a grid
    fidelity: float | None  # the share of the variance that it explains; None for a grid
    best: float  # value that is known
    workers: int  # of each simulated study
    repeats: int  # simulated studies of each strategy
    budget: int  # epochs of each simulated study
    strategies: Sequence[SearchResult] | Sequence[GridResult]  # the reference first
    advice: str  # which strategy to take


def epoch_budget(recorded: RecordedCurves) -> int:
    """Return how many epochs a simulated study may run in all.

    It is that of ``FULL_TRAININGS`` whole trainings; a larger grid may run whole, and a search of fewer
    settings no more than these.
    """
    if not recorded.definition.searches:
        return max(FULL_TRAININGS, len(recorded.curves)) * recorded.epochs
    every = untried.possible_settings(recorded.definition, FULL_TRAININGS)
    return (FULL_TRAININGS if every is None else len(every)) * recorded.epochs


def simulate_strategy(
    known: Surrogate, strategy: Strategy, *, workers: int, seeds: Iterable[int]
) -> SimulatedRuns:
    """Simulate one study of a strategy for each seed.

    Args:
        known: Gives the curve of each setting.
        strategy: Chooses the settings and stops trials.
        workers: How many trials of a study run at the same time.
        seeds: Of the sampler, and of the order of a grid.
    """
    budget = epoch_budget(known.recorded)
    runs = (
        Simulation(known, strategy, seed=seed, workers=workers, max_epochs=budget).run() for seed in seeds
    )
    return SimulatedRuns(strategy=strategy.name, runs=tuple(tuple(run) for run in runs))


def compare_searches(tried: Sequence[SimulatedRuns], known: Surrogate) -> list[SearchResult]:
    """Compare strategies with random search.

    Args:
        tried: The simulated studies of each strategy. The first strategy is random search, which sets the
            target.
        known: The surrogate that they ran on.

    Returns:
        A result for each strategy, random search included, in the same order.
    """
    budget = epoch_budget(known.recorded)
    metric = known.recorded.metric
    costs, epochs = _costs_to_target(tried, budget, metric), epochs_to_target(tried, budget, metric)
    of_random = epochs[tried[0].strategy]
    return [
        SearchResult(
            strategy=each.strategy,
            regrets=tuple(
                _median_regret(each.runs, known, round(share * budget)) for share in BUDGET_SHARES
            ),
            epochs=intervals.median_interval(epochs[each.strategy]),
            hours=intervals.median_interval([seconds / 3600 for _, seconds in costs[each.strategy]]),
            ratio=statistics.median(epochs[each.strategy]) / statistics.median(of_random),
            p=p_fewer_epochs(epochs[each.strategy], of_random),
        )
        for each in tried
    ]


def epochs_to_target(tried: Sequence[SimulatedRuns], budget: int, metric: Metric) -> dict[str, list[int]]:
    """Return the epochs until the target is reached, by strategy: one number for each simulated study.

    Args:
        tried: The simulated studies of each strategy; those of the first set the target.
        budget: The epochs to count for a study that does not reach the target.
        metric: What their values are of.
    """
    costs = _costs_to_target(tried, budget, metric)
    return {strategy: [epochs for epochs, _ in each] for strategy, each in costs.items()}


def _costs_to_target(
    tried: Sequence[SimulatedRuns], budget: int, metric: Metric
) -> dict[str, list[tuple[int, float]]]:
    """Return epochs and virtual seconds until the target is reached, by strategy."""
    target = statistics.median(metric.score(run[-1].value) for run in tried[0].runs)
    costs: dict[str, list[tuple[int, float]]] = {}
    for each in tried:
        for run in each.runs:
            reached = next((best for best in run if metric.score(best.value) >= target), None)
            cost = (budget, run[-1].seconds) if reached is None else (reached.epochs, reached.seconds)
            costs.setdefault(each.strategy, []).append(cost)
    return costs


def p_fewer_epochs(epochs: Sequence[float], others: Sequence[float]) -> float:
    """Return the p-value of the one-sided Mann-Whitney U test that ``epochs`` are fewer than ``others``.

    Args:
        epochs: The epochs to the target of a strategy, one number for each simulated study.
        others: Those of the strategy to compare with.
    """
    return float(stats.mannwhitneyu(epochs, others, alternative="less").pvalue)


def _median_regret(runs: Sequence[Sequence[BestSoFar]], known: Surrogate, epochs: int) -> Interval:
    """Return the median regret after so many epochs, or at the end of a study that ran fewer."""
    score = known.recorded.metric.score
    best = score(known.best_value)
    return intervals.median_interval([best - score(run[min(epochs, len(run)) - 1].value) for run in runs])


def choose_strategies(recorded: RecordedCurves, sampler: str | None, pruner: str | None) -> list[Strategy]:
    """Return the strategies to compare: the reference ones, hpo's defaults, and the one asked for.

    Args:
        recorded: The recorded study.
        sampler: As in a study file: a name or an inline table. None: the study's own.
        pruner: The same for the pruner.

    Returns:
        The strategies, the reference first. The one asked for replaces hpo's defaults if it has the same
        name.

    Raises:
        DefinitionError: A sampler or pruner does not exist, or cannot search, or the study lists its
            points; or one of its options is not allowed.
    """
    search = recorded.definition.search
    tried = search.sampler if sampler is None else _parse_option(Sampler, sampler, "sampler")
    if recorded.definition.searches and tried.name == "grid":
        raise DefinitionError(
            "--sampler grid: runs listed points only; want tpe, freeze_thaw, gp, nsgaii, qmc or random"
        )
    if not recorded.definition.searches and tried.name != "grid":
        raise DefinitionError(
            f"--sampler {tried.name}: this study runs its listed points, in whatever order; leave it out"
        )
    defaults = simulation.study_strategy(recorded.definition, Sampler(), Pruner())
    asked = simulation.study_strategy(
        recorded.definition,
        tried,
        search.pruner if pruner is None else _parse_option(Pruner, pruner, "pruner"),
    )
    ours = {each.name: each for each in (defaults, asked)}
    return [*simulation.reference_strategies(recorded.definition, recorded.epochs), *ours.values()]


def _parse_option(kind: type[Record], text: str, flag: str) -> Record:
    value = parse_value(text)
    given = value if isinstance(value, dict) else {"name": value}
    return validate_record(kind, given, f"--{flag}", flag)


def compare_pruners(tried: Sequence[SimulatedRuns], recorded: RecordedCurves) -> list[GridResult]:
    """Return what pruners would have saved of a grid, and whether its winner would still have won.

    The winner survives, too, if another point with the same best value is found.

    Args:
        tried: The simulated studies of each pruner.
        recorded: The grid's curves.

    Returns:
        A result for each pruner, in the same order.
    """
    score = recorded.metric.score
    best = max(score(value) for curve in recorded.curves for value in curve.values)
    whole = sum(len(curve.values) for curve in recorded.curves)
    return [
        GridResult(
            strategy=each.strategy,
            epochs=intervals.median_interval([run[-1].epochs for run in each.runs]),
            share=statistics.median(run[-1].epochs for run in each.runs) / whole,
            kept=sum(max(map(score, run[-1].curve.values)) == best for run in each.runs),
            repeats=len(each.runs),
            lost=intervals.median_interval([best - score(run[-1].value) for run in each.runs]),
        )
        for each in tried
    ]


def compare_strategies(
    known: Surrogate,
    chosen: Iterable[Strategy],
    *,
    workers: int,
    repeats: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Simulate strategies, and compare them with the first of them.

    Args:
        known: Gives the curve of each setting.
        chosen: The strategies, as ``choose_strategies`` returns them.
        workers: Of each simulated study.
        repeats: Simulated studies of each strategy, at least two.
        tell: Gets a text for each strategy when it begins.
    """
    recorded, tried = known.recorded, []
    for strategy in chosen:
        tell(f"{strategy.name}, {repeats} times")
        tried.append(simulate_strategy(known, strategy, workers=workers, seeds=range(repeats)))
    searches = recorded.definition.searches
    found = compare_searches(tried, known) if searches else compare_pruners(tried, recorded)
    return Comparison(
        curves=len(recorded.curves),
        epochs=recorded.epochs,
        surrogate=surrogate.SURROGATE_NAME if searches else None,
        fidelity=known.explained_variance if searches else None,
        best=known.best_value,
        workers=workers,
        repeats=repeats,
        budget=epoch_budget(recorded),
        strategies=found,
        advice=advice(found),
    )


def describe_simulation(known: Surrogate, *, workers: int, repeats: int) -> Iterator[str]:
    """Say what was simulated.

    Args:
        known: The surrogate.
        workers: Of each simulated study.
        repeats: Simulated studies of each strategy.

    Yields:
        Lines of text.
    """
    recorded = known.recorded
    curves = f"{len(recorded.curves)} whole curves of {recorded.epochs} epoch{'s' * (recorded.epochs != 1)}"
    times = f"{repeats} times with {workers} worker{'s' * (workers > 1)}"
    if len(recorded.hardware) > 1:
        kinds = "; ".join(recorded.hardware)
        yield f"times are of several kinds of hardware, so hours mean little: {kinds}"
    if not recorded.definition.searches:
        yield f"{curves}, replayed {times}, the first time as listed, then in random order"
        return
    yield f"{curves}, searched {times}, {epoch_budget(recorded)} epochs each"
    yield (
        f"between recorded settings a {surrogate.SURROGATE_NAME} predicts the curve; it explains "
        f"{max(known.explained_variance, 0.0):.0%} of the variance of settings that it has not seen"
    )
    yield f"medians [95 % intervals]; best {recorded.metric.label} known: {known.best_value:.4f}"


def make_table(found: Sequence[SearchResult] | Sequence[GridResult], budget: int) -> Table:
    """Return results as a table for the terminal.

    Args:
        found: The result of each strategy, at least one.
        budget: The epochs of a simulated study (``epoch_budget``).
    """
    shares = [f"regret at {share * budget:.0f}" for share in BUDGET_SHARES]
    columns = [*shares, "epochs to target", "hours", "of random's"]
    if isinstance(found[0], GridResult):
        columns = ["epochs run", "of all", "winner kept", "value lost"]
    table = Table("strategy", *columns, box=None, padding=(0, 1))
    for each in found:
        table.add_row(each.strategy, *_cells(each))
    return table


def _cells(found: SearchResult | GridResult) -> list[str]:
    if isinstance(found, GridResult):
        kept = f"{found.kept} of {found.repeats}"
        epochs, lost = _format_interval(found.epochs, ".0f"), _format_interval(found.lost, ".4f")
        return [epochs, f"{found.share:.0%}", kept, lost]
    regrets = [_format_interval(each, ".4f") for each in found.regrets]
    epochs, hours = _format_interval(found.epochs, ".0f"), _format_interval(found.hours, ".3g")
    return [*regrets, epochs, hours, f"{found.ratio:.2f}"]


def _format_interval(interval: Interval, spec: str) -> str:
    return f"{interval.value:{spec}} [{interval.low:{spec}} {interval.high:{spec}}]"


def advice(found: Sequence[SearchResult] | Sequence[GridResult]) -> str:
    """Return the conclusion from the results, as one sentence.

    Of searches, the best is the one with the fewest epochs to the target. It has to be surer than one
    alone: its p-value is multiplied by the number of strategies compared with random search (Bonferroni).
    Of pruners, it is the one that runs the fewest epochs and keeps the winner in every repeat.
    """
    if isinstance(found[0], GridResult):
        return _pruner_advice([each for each in found if isinstance(each, GridResult)])
    results = [each for each in found if isinstance(each, SearchResult)]
    best = min(results, key=lambda each: each.epochs.value)
    if best.p * (len(results) - 1) > SIGNIFICANCE:
        return "no strategy needed surely fewer epochs than random search; more --repeats may tell"
    return (
        f"{best.strategy} reached random search's target in {best.epochs.value:.0f} epochs, "
        f"{best.ratio:.2f} of what random search needed"
    )


def _pruner_advice(found: Sequence[GridResult]) -> str:
    safe = [each for each in found if each.kept == each.repeats]
    cheapest = min(safe, key=lambda each: each.share, default=None)
    if cheapest is None:
        return "no pruner would have kept the winner in every repeat: run this grid whole"
    if cheapest.share == 1:
        return "no pruner that kept the winner in every repeat would have spared an epoch"
    return f"{cheapest.strategy} would have run {cheapest.share:.0%} of the epochs, and kept the winner"
