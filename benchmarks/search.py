"""How many epochs search strategies need, on recorded curves: hpo's, random search, Optuna's.

    python -m benchmarks.search [--repeats 50] [--curves FILE.csv]

Every strategy searches so many times, with 1 worker and with 8, for 40 whole trainings' worth of epochs
(``hpo simulate`` does the same for any study). The target is the median regret of random search at the end.
"""

import argparse
import concurrent.futures
import functools
import json
import os
from pathlib import Path

from hpo.analysis import strategies, surrogate
from hpo.analysis.strategies import SimulatedRuns
from hpo.analysis.surrogate import Surrogate
from hpo.cli.console import open_console

CURVES = Path(__file__).parent / "curves.csv"
PLAIN = "Optuna: TPE, median"  # plain Optuna's defaults


@functools.cache
def known(curves: Path) -> Surrogate:
    """Give the surrogate of a file's curves, one per process."""
    return Surrogate(surrogate.read_curves(curves))


def attempt(curves: Path, index: int, workers: int, repeats: int) -> SimulatedRuns:
    """Simulate one of the strategies, in a process of its own."""
    strategy = strategies.choose_strategies(known(curves).recorded, None, None)[index]
    return strategies.simulate_strategy(known(curves), strategy, workers=workers, seeds=range(repeats))


def main() -> None:
    """Compare the strategies, and print a table, the three ratios, and a JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--curves", type=Path, default=CURVES)
    given = parser.parse_args()
    recorded = known(given.curves).recorded
    count = len(strategies.choose_strategies(recorded, None, None))
    for workers in (1, 8):
        tasks = [(given.curves, index, workers, given.repeats) for index in range(count)]
        with concurrent.futures.ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            tried = list(pool.map(attempt, *zip(*tasks, strict=True)))
        print(
            "\n".join(
                strategies.describe_simulation(known(given.curves), workers=workers, repeats=given.repeats)
            )
        )
        found = strategies.compare_searches(tried, known(given.curves))
        open_console().print(strategies.make_table(found, strategies.epoch_budget(recorded)))
        print(
            json.dumps(
                {
                    "benchmark": "search",
                    "workers": workers,
                    **_ratios(found, tried, strategies.epoch_budget(recorded)),
                }
            ),
            flush=True,
        )


def _ratios(
    found: list[strategies.SearchResult], tried: list[SimulatedRuns], budget: int
) -> dict[str, float | str]:
    """Give hpo's epochs to the target over those of its peers, and how likely that is by chance."""
    needed = {result.strategy: result.epochs.value for result in found}
    ours = found[-1]
    plain = [name for name in needed if name.startswith("Optuna: ")]
    best = min(plain, key=lambda name: needed[name])
    epochs = strategies.epochs_to_target(tried, budget)
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
