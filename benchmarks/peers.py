"""Compare how many epochs hpo and other tools need on recorded curves: random search, SMAC3, Syne Tune.

    python -m benchmarks.peers [--repeats 20] [--workers 1 8] [--curves FILE.csv ...] [--output FILE.jsonl]

``make bench-search-peers`` installs the tools and runs it. As in ``benchmarks.search``, a simulated study
may use as many epochs as 40 complete trainings have, and the target is the median best value of random
search at the end.
"""

import argparse
import concurrent.futures
import json
import os
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.peer_simulation import PeerSimulation
from benchmarks.search import CURVES, load_surrogate
from hpo.analysis import strategies
from hpo.analysis.intervals import Interval
from hpo.analysis.simulation import Simulation
from hpo.analysis.strategies import SimulatedRuns
from hpo.analysis.surrogate import Surrogate
from hpo.analysis.virtual_time import BestSoFar
from hpo.cli.console import open_console

OWN = {"random": 0, "hpo": -1}  # places among hpo's own strategies; random search sets the target
PEERS = {"SMAC3": "smac", "ASHABORE": "syne-tune"}  # search -> its package


@dataclass(frozen=True, kw_only=True)
class SimulatedStudy:
    """One simulated study."""

    run: tuple[BestSoFar, ...]
    cpu_seconds: float  # that the search took, real ones


def simulate(study: str, search: str, workers: int, seed: int) -> SimulatedStudy:
    """Simulate one study; called in a process of its own.

    Args:
        study: The file with its recorded curves.
        search: A key of ``OWN`` or of ``PEERS``.
        workers: How many trials run at the same time.
        seed: Of the search.
    """
    known = load_surrogate(Path(study))
    begun = time.process_time()
    if search in OWN:
        strategy = strategies.choose_strategies(known.recorded, None, None)[OWN[search]]
        budget = strategies.epoch_budget(known.recorded)
        run = Simulation(known, strategy, seed=seed, workers=workers, max_epochs=budget).run()
    else:
        run = _simulate_peer(known, search, workers=workers, seed=seed)
    return SimulatedStudy(run=tuple(run), cpu_seconds=time.process_time() - begun)


def _simulate_peer(known: Surrogate, search: str, *, workers: int, seed: int) -> Iterator[BestSoFar]:
    from benchmarks.peer_schedulers import SmacScheduler, SyneTuneScheduler  # not installed with hpo

    definition, epochs = known.recorded.definition, known.recorded.epochs
    budget = strategies.epoch_budget(known.recorded)
    scheduler: SmacScheduler | SyneTuneScheduler
    if search == "SMAC3":
        scheduler = SmacScheduler(definition, epochs=epochs, max_epochs=budget, seed=seed)
    else:
        scheduler = SyneTuneScheduler(definition, epochs=epochs, seed=seed)
    return PeerSimulation(known, scheduler, workers=workers, max_epochs=budget).run()


def compare(
    study: str, studies: dict[str, list[SimulatedStudy]], *, workers: int, console: Console
) -> list[dict[str, Any]]:
    """Print a table of the searches of a study, and return a record for each of them.

    Args:
        study: The file with its recorded curves.
        studies: For each search, random search first, a simulated study for each seed.
        workers: Of each simulated study.
        console: Where the table goes.
    """
    known = load_surrogate(Path(study))
    budget, metric = strategies.epoch_budget(known.recorded), known.recorded.metric
    tried = [
        SimulatedRuns(strategy=name, runs=tuple(each.run for each in of)) for name, of in studies.items()
    ]
    found = strategies.compare_searches(tried, known)
    epochs = strategies.epochs_to_target(tried, budget, metric)
    name, repeats = known.recorded.definition.name, len(tried[0].runs)
    console.print(f"{name}: {repeats} simulated studies with {workers} worker{'s' * (workers > 1)}")
    console.print(strategies.make_table(found, budget))
    return [
        {
            "benchmark": "peers",
            "study": name,
            "peer": each.strategy,
            "package": _describe_package(PEERS.get(each.strategy, "hpo-vision")),
            "workers": workers,
            "repeats": repeats,
            "budget": budget,
            "epochs": _rounded(each.epochs, 1),
            "hours": _rounded(each.hours, 4),
            "regrets": [_rounded(regret, 5) for regret in each.regrets],
            "over_random": round(each.ratio, 3),
            "p_random": each.p,
            "hpo_over_peer": round(statistics.median(epochs["hpo"]) / each.epochs.value, 3),
            "p_hpo": strategies.p_fewer_epochs(epochs["hpo"], epochs[each.strategy]),
            "epochs_each": epochs[each.strategy],  # by seed
            "best_each": [round(run[-1].value, 5) for run in runs.runs],
            "cpu_seconds": round(statistics.median(one.cpu_seconds for one in studies[each.strategy]), 2),
        }
        for each, runs in zip(found, tried, strict=True)
    ]


def _describe_package(name: str) -> str:
    """Return a package's name and its version."""
    return f"{name} {metadata.version(name)}"


def _rounded(interval: Interval, digits: int) -> list[float]:
    """Return a median and the limits of its interval."""
    return [round(number, digits) for number in (interval.value, interval.low, interval.high)]


def main() -> None:
    """Simulate the studies, and print a table and a line of JSON for each search."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--curves", nargs="+", default=[str(CURVES)], metavar="FILE")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--output", type=Path, metavar="FILE", help="appends the lines of JSON to it")
    given = parser.parse_args()
    searches = [*OWN, *given.peers]
    console = open_console()
    with concurrent.futures.ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for study in given.curves:
            for workers in given.workers:
                tasks = [(study, each, workers, seed) for each in searches for seed in range(given.repeats)]
                done = pool.map(simulate, *zip(*tasks, strict=True))
                studies: dict[str, list[SimulatedStudy]] = {each: [] for each in searches}
                for (_, each, _, _), one in zip(tasks, done, strict=True):
                    studies[each].append(one)
                _write(compare(study, studies, workers=workers, console=console), given.output)


def _write(records: Iterable[dict[str, Any]], output: Path | None) -> None:
    """Print records as lines of JSON, and append them to a file if there is one."""
    lines = "".join(json.dumps(record) + "\n" for record in records)
    print(lines, end="", flush=True)
    if output is not None:
        with output.open("a") as file:
            file.write(lines)


if __name__ == "__main__":
    main()
