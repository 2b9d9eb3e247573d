"""Compare how fast search strategies find a Pareto front on recorded curves: hpo's and Optuna's.

    python -m benchmarks.fronts [--repeats 50] [--curves FILE.csv]

The objectives are the metric and the seconds of an epoch. Each strategy searches ``--repeats`` times, with
1 worker and with 8, for as many epochs as 40 complete trainings have. Optuna's do not prune: with several
objectives it cannot. What a study has found by some epoch is the hypervolume of what all its trials have
reached by then, as a share of the hypervolume of the recorded front.

Each of hpo's strategies is compared with an Optuna study that has the same sampler: its target is 95 % of
what that study has found in the end, by the median over the seeds.
"""

import argparse
import concurrent.futures
import functools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from optuna import samplers
from optuna.pruners import NopPruner
from rich.table import Table

from benchmarks.search import CURVES
from hpo.analysis import intervals, simulation, strategies
from hpo.analysis.recorded_curves import RecordedCurves, read_curves
from hpo.analysis.simulation import Simulation, Strategy
from hpo.analysis.surrogate import Surrogate
from hpo.cli.console import open_console
from hpo.search import pareto
from hpo.search.samplers import derive_seed
from hpo.study.search_options import Pruner, Sampler

SHARE = 0.95  # of what the unpruned studies find
MARGIN = 0.1  # the reference point lies so far beyond the front, as a share of its range
# Optuna's samplers, by the names of hpo's; each gets the study's seed and the trial's number.
UNPRUNED: dict[str, Callable[[int, int], samplers.BaseSampler]] = {
    "random": lambda seed, number: samplers.RandomSampler(seed=derive_seed(seed, number)),
    "tpe": lambda seed, number: samplers.TPESampler(seed=derive_seed(seed, number)),
    "nsgaii": lambda seed, number: samplers.NSGAIISampler(seed=derive_seed(seed, number)),
}


@functools.cache
def load_surrogate(curves: Path) -> Surrogate:
    """Return the surrogate of a file's curves, with two objectives; it is built once per process."""
    recorded = read_curves(curves)
    names = (recorded.metric.name, "epoch_seconds")
    search = recorded.definition.search.model_copy(update={"objectives": names})
    return Surrogate(
        replace(recorded, definition=recorded.definition.model_copy(update={"search": search}))
    )


def strategies_of(recorded: RecordedCurves) -> Iterator[Strategy]:
    """Yield, for each sampler, Optuna's strategy without a pruner, and hpo's with its default pruner."""
    for name, build in UNPRUNED.items():
        yield Strategy(
            name=f"Optuna: {name}, no pruner",
            sampler=build,
            pruner=lambda epochs: NopPruner(),
        )
        sampler = Sampler.model_validate({"name": name})
        yield simulation.study_strategy(recorded.definition, sampler, Pruner())


def recorded_front(recorded: RecordedCurves) -> pareto.Losses:
    """Return the losses of the recorded settings that none dominates."""
    losses_N2 = np.array(
        [
            (-recorded.metric.score(value), curve.total_seconds / len(curve.values))
            for curve in recorded.curves
            for value in (recorded.metric.best(curve.values),)
            if value is not None
        ]
    )
    front: pareto.Losses = losses_N2[pareto.front_numbers(losses_N2) == 0]
    return front


def found_over_epochs(simulated: Simulation, front_N2: pareto.Losses) -> Iterator[float]:
    """Simulate a study, and yield the share of the front's hypervolume that it has found by each epoch."""
    low_2, high_2 = front_N2.min(axis=0), front_N2.max(axis=0)
    reference_2 = np.full(2, 1 + MARGIN)

    def volume(losses: pareto.Losses) -> float:
        return pareto.hypervolume((losses - low_2) / (high_2 - low_2), reference_2)

    whole, found = volume(front_N2), 0.0
    reached: dict[int, tuple[float, ...]] = {}
    for end in simulated.epoch_ends():
        losses = simulated.reached(end.trial)
        if reached.get(end.trial) != losses:
            reached[end.trial] = losses
            found = volume(np.array(list(reached.values()))) / whole
        yield found


def simulate(curves: Path, index: int, workers: int, seed: int) -> list[float]:
    """Simulate one study of a strategy; called in a process of its own.

    Args:
        curves: File with the recorded curves.
        index: Index of the strategy.
        workers: Number of simulated workers.
        seed: Of the simulated study.

    Returns:
        What it has found by each epoch.
    """
    known = load_surrogate(curves)
    simulated = Simulation(
        known,
        list(strategies_of(known.recorded))[index],
        seed=seed,
        workers=workers,
        max_epochs=strategies.epoch_budget(known.recorded),
    )
    return list(found_over_epochs(simulated, recorded_front(known.recorded)))


def main() -> None:
    """Compare the strategies, and print a table and one line of JSON for each number of workers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--curves", type=Path, default=CURVES)
    given = parser.parse_args()
    recorded = load_surrogate(given.curves).recorded
    names = [strategy.name for strategy in strategies_of(recorded)]
    for workers in (1, 8):
        tasks = [
            (given.curves, index, workers, seed)
            for index in range(len(names))
            for seed in range(given.repeats)
        ]
        with concurrent.futures.ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            runs = list(pool.map(simulate, *zip(*tasks, strict=True)))
        found_SRE = np.array(runs).reshape(len(names), given.repeats, -1)
        _print_comparison(names, found_SRE, workers)


def _print_comparison(names: list[str], found_SRE: pareto.Losses, workers: int) -> None:
    """Print what strategies have found.

    Args:
        names: The strategies; each second one is hpo's, after the unpruned one that it is compared with.
        found_SRE: By strategy, repeat and epoch, the share of the hypervolume that was found.
        workers: Of each simulated study.
    """
    budget = found_SRE.shape[2]
    shown = [round(share * budget) for share in strategies.BUDGET_SHARES]
    table = Table("strategy", *(f"found at {each}" for each in shown), "epochs to target", "of the budget")
    shares = {}
    for index, name in enumerate(names):
        found_RE = found_SRE[index]
        target = SHARE * float(np.median(found_SRE[index - index % 2, :, -1]))
        # A study that does not reach the target counts with the whole budget.
        epochs_R = np.where(found_RE[:, -1] >= target, (found_RE >= target).argmax(axis=1) + 1, budget)
        needed = intervals.median_interval(epochs_R.tolist())
        shares[name] = round(needed.value / budget, 3)
        medians = [intervals.median_interval(found_RE[:, each - 1].tolist()) for each in shown]
        cells = [f"{each.value:.3f} [{each.low:.3f} {each.high:.3f}]" for each in medians]
        table.add_row(
            name, *cells, f"{needed.value:.0f} [{needed.low:.0f} {needed.high:.0f}]", f"{shares[name]:.2f}"
        )
    open_console().print(table)
    print(json.dumps({"benchmark": "fronts", "workers": workers, "share_of_budget": shares}), flush=True)


if __name__ == "__main__":
    main()
