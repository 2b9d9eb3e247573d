"""Compare how many epochs search strategies need on recorded curves: hpo's, random search, Optuna's.

    python -m benchmarks.search [--repeats 50] [--curves FILE.csv]

Each strategy searches ``--repeats`` times, with 1 worker and with 8, for as many epochs as 40 complete
trainings have. (``hpo simulate`` does the same for any study.) The target is the median regret of random
search at the end.
"""

import argparse
import concurrent.futures
import functools
import json
import os
from pathlib import Path

from hpo.analysis import strategies
from hpo.analysis.recorded_curves import read_curves
from hpo.analysis.strategies import SimulatedRuns
from hpo.analysis.surrogate import Surrogate
from hpo.cli.console import open_console
from hpo.training.metric import Metric

CURVES = Path(__file__).parent / "curves.csv"
PLAIN = "Optuna: TPE, median"  # plain Optuna's defaults


@functools.cache
def load_surrogate(curves: Path) -> Surrogate:
    """Return the surrogate of a file's curves; it is built once per process."""
    return Surrogate(read_curves(curves))


def simulate(curves: Path, index: int, workers: int, repeats: int) -> SimulatedRuns:
    """Simulate one of the strategies; called in a process of its own.

    Args:
        curves: File with the recorded curves.
        index: Index of the strategy.
        workers: Number of simulated workers.
        repeats: Number of simulated studies.
    """
    strategy = strategies.choose_strategies(load_surrogate(curves).recorded, None, None)[index]
    return strategies.simulate_strategy(
        load_surrogate(curves), strategy, workers=workers, seeds=range(repeats)
    )


def main() -> None:
    """Compare the strategies, and print a table and one line of JSON with the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--curves", type=Path, default=CURVES)
    given = parser.parse_args()
    recorded = load_surrogate(given.curves).recorded
    count = len(strategies.choose_strategies(recorded, None, None))
    for workers in (1, 8):
        tasks = [(given.curves, index, workers, given.repeats) for index in range(count)]
        with concurrent.futures.ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            tried = list(pool.map(simulate, *zip(*tasks, strict=True)))
        print(
            "\n".join(
                strategies.describe_simulation(
                    load_surrogate(given.curves), workers=workers, repeats=given.repeats
                )
            )
        )
        found = strategies.compare_searches(tried, load_surrogate(given.curves))
        open_console().print(strategies.make_table(found, strategies.epoch_budget(recorded)))
        print(
            json.dumps(
                {
                    "benchmark": "search",
                    "workers": workers,
                    **_ratios(found, tried, strategies.epoch_budget(recorded), recorded.metric),
                }
            ),
            flush=True,
        )


def _ratios(
    found: list[strategies.SearchResult], tried: list[SimulatedRuns], budget: int, metric: Metric
) -> dict[str, float | str]:
    """Return the ratios of hpo's epochs to the target to those of its peers, with their p values."""
    needed = {result.strategy: result.epochs.value for result in found}
    ours = found[-1]
    plain = [name for name in needed if name.startswith("Optuna: ")]
    best = min(plain, key=lambda name: needed[name])
    epochs = strategies.epochs_to_target(tried, budget, metric)
    return {
        "hpo": ours.strategy,
        "over_random": round(ours.ratio, 3),
        "p_random": ours.p,
        "over_optuna_defaults": round(ours.epochs.value / needed[PLAIN], 3),
        "p_optuna_defaults": strategies.p_fewer_epochs(epochs[ours.strategy], epochs[PLAIN]),
        "best_of_optuna": best,
        "over_best_of_optuna": round(ours.epochs.value / needed[best], 3),
        "p_best_of_optuna": strategies.p_fewer_epochs(epochs[ours.strategy], epochs[best]),
    }


if __name__ == "__main__":
    main()
