"""Compare search strategies on many studies, synthetic and recorded ones, in virtual time.

    python -m benchmarks.many_studies [--half chosen|reported] [--studies 12] [--seeds 5] [--workers 1 8]

Strategies are chosen on one half of the studies and reported on the other. The chosen half has the even
synthetic studies (``synthetic_studies``), curves.csv and curves-icons.csv, the other one the odd ones and
curves-clipart.csv.
Each strategy searches each study ``--seeds`` times, for as many epochs as ``--trainings`` whole trainings
have.

The target of a study is what random search without a pruner finds in ``TARGET_TRAININGS`` whole
trainings, the median over ``TARGET_SEEDS`` seeds. A search that does not reach it counts with its whole
budget, so such figures are lower bounds. Regret is 0 at the best value known, and 1 at the median of random
settings.

``--output FILE`` appends one line of JSON for each search; ``--read FILE`` prints the tables of one.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.search import load_surrogate
from benchmarks.synthetic_studies import OTHER_STUDIES, STUDIES, SyntheticStudy
from hpo.analysis import simulation
from hpo.analysis.simulation import Simulation, Strategy
from hpo.analysis.surrogate import Surrogate
from hpo.cli.console import open_console
from hpo.search.curve_forecast import has_begun
from hpo.search.curve_model import Prior
from hpo.search.rank_prior import learn_priors
from hpo.study.definition import Definition
from hpo.study.search_options import Pruner, Sampler

HERE = Path(__file__).parent
RECORDED = {"chosen": ("curves", "curves-icons"), "reported": ("curves-clipart",)}
TARGET_TRAININGS, TARGET_SEEDS = 40, 21
SHOWN_TRAININGS = (2.5, 5, 10, 20, 40)  # whole trainings after which regret is shown
AFTER = ", after another study: "  # in the name of a strategy that starts from ranks of another study
REFERENCE = "hpo: tpe, asha from epoch 2 by 4"  # that ratios are to
RESAMPLES = 2000  # of studies, for intervals

Search = dict[str, Any]  # one simulated search, as a line of JSON has it


def study_names(half: str, count: int) -> list[str]:
    """Return the recorded studies of a half, and synthetic ones up to a count."""
    numbers = range(half == "reported", STUDIES, 2)
    return [*RECORDED[half], *(f"synthetic-{number}" for number in numbers)][:count]


@functools.lru_cache(maxsize=2)
def load_study(name: str) -> Surrogate | SyntheticStudy:
    """Return a study by its name; it is built once per process."""
    if name.startswith("synthetic-"):
        return SyntheticStudy(int(name.removeprefix("synthetic-")))
    return load_surrogate(HERE / f"{name}.csv")


def strategies_of(definition: Definition, epochs: int, with_gp: bool) -> Iterator[Strategy]:
    """Yield the strategies that are compared, hpo's and plain Optuna's; the first is random search."""
    yield from (
        each
        for each in simulation.reference_strategies(definition, epochs)
        if not each.name.startswith("1 epoch")
    )
    yield _freeze_thaw(definition)
    pairs = [("tpe", Pruner()), ("random", Pruner())]
    pairs += [("gp", Pruner()), ("gp", Pruner(name="none"))] if with_gp else []
    for name, pruner in pairs:
        yield simulation.study_strategy(definition, Sampler.model_validate({"name": name}), pruner)


def _find_strategy(known: Surrogate | SyntheticStudy, name: str) -> Strategy:
    before, _, other = name.partition(AFTER)
    definition, epochs = known.recorded.definition, known.recorded.epochs
    if isinstance(known, SyntheticStudy) and other:
        strategy = _freeze_thaw(definition, _learn_from(known.seed, other))
        return dataclasses.replace(strategy, name=name)
    return next(each for each in strategies_of(definition, epochs, with_gp=True) if each.name == before)


def _freeze_thaw(definition: Definition, priors: tuple[Prior, ...] = ()) -> Strategy:
    sampler = Sampler.model_validate({"name": "freeze_thaw"})
    pruner = Pruner.model_validate({"name": "freeze_thaw"})
    return simulation.study_strategy(definition, sampler, pruner, priors)


@functools.lru_cache(maxsize=2)
def _learn_from(seed: int, other: str) -> tuple[Prior, ...]:
    """Return what a search of another study says after ten whole trainings."""
    there = SyntheticStudy(seed, other)
    definition = there.recorded.definition
    run = Simulation(there, _freeze_thaw(definition), seed=0, workers=1, max_epochs=10 * there.epochs)
    list(run.run())
    return learn_priors(definition, [(definition, list(filter(has_begun, run.stored_trials())))])


@functools.cache
def target_of(name: str) -> tuple[float, float]:
    """Return the target of a study, and the value of the median random setting, both as scores."""
    known = load_study(name)
    score, epochs = known.recorded.metric.score, known.recorded.epochs
    strategy = next(simulation.reference_strategies(known.recorded.definition, epochs))
    ends = []
    for seed in range(TARGET_SEEDS):
        budget = TARGET_TRAININGS * epochs
        run = Simulation(known, strategy, seed=1000 + seed, workers=1, max_epochs=budget).run()
        ends.append(score(list(run)[-1].value))
    bests = (max(map(score, curve.values)) for curve in known.recorded.curves)
    return statistics.median(ends), statistics.median(bests)


def search(name: str, strategy_name: str, workers: int, seed: int, trainings: int) -> Search:
    """Simulate one search; called in a process of its own.

    Returns:
        What it was, how many whole trainings and virtual seconds it took until the target (null if it did
        not reach it) and in all, its regrets after ``SHOWN_TRAININGS``, and the processor seconds it cost.
    """
    known = load_study(name)
    epochs, score = known.recorded.epochs, known.recorded.metric.score
    target, median = target_of(name)
    strategy = _find_strategy(known, strategy_name)
    began = time.process_time()
    run = list(Simulation(known, strategy, seed=seed, workers=workers, max_epochs=trainings * epochs).run())
    hit = next((each for each in run if score(each.value) >= target), None)
    best = score(known.best_value)
    shown = [round(share * epochs) for share in SHOWN_TRAININGS if share <= trainings]
    return {
        "study": name,
        "strategy": strategy_name,
        "workers": workers,
        "seed": seed,
        "trainings": None if hit is None else hit.epochs / epochs,
        "seconds": None if hit is None else hit.seconds,
        "all_trainings": run[-1].epochs / epochs,
        "all_seconds": run[-1].seconds,
        "regrets": [
            (best - score(run[min(each, len(run)) - 1].value)) / ((best - median) or 1.0) for each in shown
        ],
        "processor_seconds": round(time.process_time() - began, 2),
    }


def mean_by_study(searches: Iterable[Search], key: str) -> dict[str, float]:
    """Return the mean over the seeds by study: of trainings or seconds to the target."""
    found: dict[str, list[float]] = defaultdict(list)
    for each in searches:
        found[each["study"]].append(each[f"all_{key}"] if each[key] is None else each[key])
    return {study: statistics.fmean(values) for study, values in found.items()}


def ratio_interval(ours: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """Return the ratio of two means over the same studies, with a 95 % interval by resampling studies."""
    ours_S, others_S = np.array(ours), np.array(others)
    rows = np.random.default_rng(0).integers(len(ours_S), size=(RESAMPLES, len(ours_S)))
    ratios = ours_S[rows].mean(axis=1) / others_S[rows].mean(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(ours_S.mean() / others_S.mean()), float(low), float(high)


def make_table(searches: Sequence[Search]) -> Table:
    """Return searches with the same number of workers as a table, a row for each strategy."""
    by_strategy: dict[str, list[Search]] = defaultdict(list)
    for each in searches:
        by_strategy[each["strategy"]].append(each)
    regrets = max((each["regrets"] for each in searches), key=len)
    columns = ["trainings to target", "of tpe, asha's", "seconds, of tpe, asha's", "worst study"]
    columns += [f"regret at {share:g}" for share in SHOWN_TRAININGS[: len(regrets)]]
    table = Table("strategy", *columns, "worst", "not reached", "s each", box=None, padding=(0, 1))
    reference = {key: mean_by_study(by_strategy[REFERENCE], key) for key in ("trainings", "seconds")}
    means = {name: mean_by_study(found, "trainings") for name, found in by_strategy.items()}
    for name in sorted(means, key=lambda name: statistics.fmean(means[name].values())):
        found, studies = by_strategy[name], list(means[name])
        cells = [f"{statistics.fmean(means[name].values()):.2f}"]
        for key in ("trainings", "seconds"):
            ours = mean_by_study(found, key)
            others = [reference[key][study] for study in studies]
            if key == "seconds":  # studies differ in their seconds by orders of magnitude
                ours = {study: ours[study] / reference[key][study] for study in studies}
                others = [1.0] * len(studies)
            ratio, low, high = ratio_interval([ours[study] for study in studies], others)
            cells.append(f"{ratio:.2f} [{low:.2f} {high:.2f}]")
        worst = max(means[name], key=lambda study: means[name][study])
        cells.append(f"{means[name][worst]:.1f} {worst}")
        by_study: dict[str, list[list[float]]] = defaultdict(list)
        for each in found:
            by_study[each["study"]].append(each["regrets"])
        regrets_SB = np.array([np.mean(each, axis=0) for each in by_study.values()])
        cells += [f"{mean:.3f}" for mean in regrets_SB.mean(axis=0)]
        cells.append(f"{regrets_SB[:, -1].max():.3f}")
        cells.append(f"{sum(each['trainings'] is None for each in found)} of {len(found)}")
        cells.append(f"{statistics.fmean(each['processor_seconds'] for each in found):.1f}")
        table.add_row(name, *cells)
    return table


def main() -> None:
    """Simulate the searches, or read them, and print a table for each number of workers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--half", choices=RECORDED, default="reported")
    parser.add_argument("--studies", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--trainings", type=int, default=TARGET_TRAININGS)
    parser.add_argument("--gp", action="store_true", help="also hpo's sampler gp")
    parser.add_argument("--warm", action="store_true", help="also freeze_thaw with start_from, by ranks")
    parser.add_argument("--only", default="", help="only strategies with this in their names")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--read", type=Path)
    given = parser.parse_args()
    if given.trainings < SHOWN_TRAININGS[0]:
        parser.error(f"--trainings: want {SHOWN_TRAININGS[0]:g} or more, where regret is shown first")
    if given.read is not None:
        found = [json.loads(line) for line in given.read.read_text().splitlines()]
    else:
        found = _simulate_all(given)
    for workers in sorted({each["workers"] for each in found}):
        some = [each for each in found if each["workers"] == workers]
        print(f"{workers} worker{'s' * (workers > 1)}, {len({each['study'] for each in some})} studies")
        open_console().print(make_table(some))


def _simulate_all(given: argparse.Namespace) -> list[Search]:
    tasks = []
    for name in study_names(given.half, given.studies):
        recorded = load_study(name).recorded
        names = [each.name for each in strategies_of(recorded.definition, recorded.epochs, given.gp)]
        if given.warm and name.startswith("synthetic-"):
            model = next(each for each in names if "freeze_thaw" in each)
            names += [f"{model}{AFTER}{other}" for other in OTHER_STUDIES]
        for strategy in names:
            if given.only in strategy or strategy == REFERENCE:
                for workers in given.workers:
                    tasks += [
                        (name, strategy, workers, seed, given.trainings) for seed in range(given.seeds)
                    ]
    found = []
    with concurrent.futures.ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for each in pool.map(search, *zip(*tasks, strict=True), chunksize=given.seeds):
            found.append(each)
            if given.output is not None:
                with given.output.open("a") as file:
                    file.write(json.dumps(each) + "\n")
    return found


if __name__ == "__main__":
    main()
