"""What the store adds to an epoch and to a trial, beside plain Optuna's ``study.optimize``, as ratios.

- *epoch*: report, verdict, checkpoint's name and renewal; plain Optuna: ``report`` and ``should_prune``
- *trial*: all else that it asks of the store: claim, four parameters, end; plain Optuna: ask, suggest, tell

Both run the same objective, which trains nothing, in one database, under TPE and Hyperband, with 0, 1,000
and 10,000 finished trials in their study; on SQLite, and on a Postgres server of its own with its usual
settings, so that a commit waits for the disk. No trial is pruned, so that all have as many epochs and
verdicts. Trials of the two take turns, since shared machines swing by a third from minute to minute;
figures are medians over the trials, with their range. Statements and transactions are counted in the last
one.

Run it with ``make bench``, or ``python -m benchmarks.store``.
"""

import argparse
import contextlib
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from hpo.store import lease, process, queue, rows, studies
from hpo.store.history import History
from hpo.store.lease_table import leases
from hpo.study import space
from hpo.study.definition import Definition, Pruner, Sampler, Search
from hpo.training.config import Config
from hpo.workers import pruning
from hpo.workers import trial as objective
from tests.support import postgres

EPOCHS = 9
SPARE = 100  # trials that wait, more than are run

BATCH = space.Range(low=8, high=64)
RATE = space.Range(low=1e-4, high=1.0, log=True)
DECAY = space.Range(low=0.0, high=0.3)
SPACE = (
    space.Parameter(name="optimizer", kind="choice", values=space.Choices(choices=("sgd", "adam"))),
    space.Parameter(name="lr", kind="float", values=RATE),
    space.Parameter(name="weight_decay", kind="float", values=DECAY),
    space.Parameter(name="batch_size", kind="int", values=BATCH),
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a trial that is made up has come to."""

    state: TrialState
    epochs: int
    gain: float = 0.0  # what its accuracy has beyond that of others after as many epochs
    system: Mapping[str, Any] = field(default_factory=dict)  # attributes


def definition(trials: int, pruner: str = "hyperband") -> Definition:
    """Give the study that both run."""
    return Definition(
        name="hpo",
        train=Config(dataset="digits", epochs=EPOCHS).model_dump(),
        space=SPACE,
        search=Search(
            trials=trials,
            sampler=Sampler(name="tpe"),
            pruner=Pruner(name=pruner, min_epochs=1, reduction_factor=3),
        ),
        points=(),
    )


def accuracy(number: int, epoch: int) -> float:
    """Make one up: each trial is better than all before it, so that none is pruned."""
    return (number + epoch / 10) / 20_000


@dataclass
class Costs:
    """What a peer's trials cost: milliseconds, statements and transactions by part, a row per trial."""

    engine: sa.Engine
    trials: list[dict[str, list[float]]] = field(default_factory=list)
    so_far: list[float] = field(default_factory=lambda: [0.0, 0, 0])

    def __post_init__(self) -> None:
        sa.event.listen(self.engine, "before_cursor_execute", self._statement)
        sa.event.listen(self.engine, "commit", self._commit)

    def _statement(self, _connection: Any, _cursor: Any, text: str, *_rest: Any) -> None:
        self.so_far[1] += not text.startswith("BEGIN")

    def _commit(self, _connection: Any) -> None:
        self.so_far[2] += 1

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add a block's costs to a part of the trial under way."""
        self.so_far[0] = 1e3 * time.perf_counter()
        before = tuple(self.so_far)
        yield
        self.so_far[0] = 1e3 * time.perf_counter()
        sums = self.trials[-1].setdefault(name, [0.0, 0, 0])
        for index, (start, end) in enumerate(zip(before, self.so_far, strict=True)):
            sums[index] += end - start

    def milliseconds(self, part: str) -> list[float]:
        """Give a part's time in each trial but the first, which warms up; an epoch's is the mean of all."""
        share = EPOCHS if part == "epoch" else 1
        return [trial[part][0] / share for trial in self.trials[1:]]

    def counts(self, part: str) -> tuple[float, float]:
        """Give the statements and the transactions of a part in the last trial."""
        share = EPOCHS if part == "epoch" else 1
        _, statements, transactions = self.trials[-1][part]
        return round(statements / share, 1), round(transactions / share, 1)


class Ours:
    """A worker's trials, as far as they concern the store."""

    def __init__(
        self,
        url: str,
        finished: int,
        trials: int,
        pruner: str = "hyperband",
        outcomes: Callable[[int], list[Outcome]] | None = None,
    ) -> None:
        self.made = definition(finished + trials + SPARE, pruner)
        self.opened = studies.open_storage(url, create=True)
        studies.create_study(self.opened, self.made, "benchmark")
        study_id = studies.find_study_id(self.opened, self.made.name)
        with self.opened.engine.begin() as connection:
            wanted = sa.select(rows.trials.c.trial_id).where(rows.trials.c.study_id == study_id)
            ids = connection.scalars(wanted.order_by(rows.trials.c.number).limit(finished)).all()
            fill(connection, ids, (outcomes or usual)(finished))
            given = {"study_id": study_id, "token": 1, "attempts": 1, "expires": 0.0, "renewed": 1.0}
            insert(connection, leases, ({"trial_id": one, "epoch": EPOCHS, **given} for one in ids))
        self.place: Any = SimpleNamespace(
            history=History(self.opened, study_id, self.made.name), definition=self.made
        )
        self.costs = Costs(self.opened.engine)

    def run(self) -> None:
        """Run a trial."""
        costs, history = self.costs, self.place.history
        costs.trials.append({})
        with costs.part("trial"):
            made = studies.read_definition(self.opened, self.made.name)
            who = process.current_owner("cpu")
            claim = queue.claim_trial(
                self.opened, history.study_id, who, lease_seconds=60.0, max_attempts=3
            )
            assert claim is not None
        with lease.keep_lease(claim):
            with costs.part("trial"):
                _, _, study = objective.choose_setting(claim, self.place)
                judge = pruning.TrialPruner(study, history, made)
            for epoch in range(1, EPOCHS + 1):
                with costs.part("epoch"):
                    report(claim, judge, epoch)
            with costs.part("trial"):
                claim.end(TrialState.COMPLETE, value=accuracy(claim.number, EPOCHS), forget_checkpoint=True)


def report(claim: lease.Claim, judge: pruning.TrialPruner, epoch: int) -> None:
    """Commit an epoch as a worker does, with the verdict on it."""
    value = accuracy(claim.number, epoch)
    judge.note_report(epoch, value)
    attributes = {
        "epochs": epoch,
        "best_epoch": epoch,
        "epoch_seconds": [0.1] * epoch,
        "wall_time_seconds": 0.1 * epoch,
        "hardware": {"device": "a processor", "host": "here", "torch": "2.10.0", "threads": 1},
        "checkpoint": f"hpo/0001/checkpoint-{epoch:04d}",
    }
    claim.commit(
        report=(epoch, value),
        checkpoint=attributes["checkpoint"],
        user_attributes=attributes,
        ask_pruner=judge.decide if epoch < EPOCHS else None,
    )
    if epoch < EPOCHS:
        judge.raise_if_pruned()


class Plain:
    """Plain Optuna's trials."""

    def __init__(self, url: str, finished: int, trials: int) -> None:
        self.study = optuna.create_study(
            study_name="plain",
            storage=url,
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=0),
            pruner=optuna.pruners.HyperbandPruner(1, EPOCHS, 3),
        )
        engine = self.study._storage._backend.engine
        new = {"study_id": self.study._study_id, "state": TrialState.RUNNING}
        with engine.begin() as connection:
            insert(connection, rows.trials, ({"number": number, **new} for number in range(finished)))
            wanted = sa.select(rows.trials.c.trial_id).where(rows.trials.c.study_id == new["study_id"])
            ids = connection.scalars(wanted.order_by(rows.trials.c.number)).all()
            fill(connection, ids, usual(finished))
        self.costs = Costs(engine)

    def run(self) -> None:
        """Run a trial; what is neither suggest, report nor should_prune is ask and tell."""
        self.costs.trials.append({})
        with self.costs.part("trial"):
            self.study.optimize(self._objective, n_trials=1)
        whole, epochs = self.costs.trials[-1]["trial"], self.costs.trials[-1]["epoch"]
        self.costs.trials[-1]["trial"] = [all_ - part for all_, part in zip(whole, epochs, strict=True)]

    def _objective(self, trial: optuna.Trial) -> float:
        for parameter in SPACE:
            space.suggest_value(trial, parameter)
        for epoch in range(1, EPOCHS + 1):
            with self.costs.part("epoch"):
                trial.report(accuracy(trial.number, epoch), epoch)
                assert epoch == EPOCHS or not trial.should_prune()
        return accuracy(trial.number, EPOCHS)


def insert(connection: sa.Connection, table: Any, given: Iterator[dict[str, Any]]) -> None:
    """Insert rows, thousands by one statement."""
    for chunk in iter(lambda: list(itertools.islice(given, 5000)), []):
        connection.execute(sa.insert(table), chunk)


def usual(count: int) -> list[Outcome]:
    """Give what trials come to under a pruner that ends them: 40 % are complete, the others pruned."""
    dice, rung = random.Random(0), {"completed_rung_0": 1e-6}
    kept = [dice.random() < 0.4 for _ in range(count)]
    return [
        Outcome(state=TrialState.COMPLETE, epochs=EPOCHS, system=rung)
        if complete
        else Outcome(state=TrialState.PRUNED, epochs=dice.choice([1, 3]), system=rung)
        for complete in kept
    ]


def fill(connection: sa.Connection, ids: Any, outcomes: list[Outcome]) -> None:
    """Give trials what they have when they have come to something."""
    dice, moment = random.Random(0), datetime.now()
    finite: Any = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
    given = list(zip(ids, outcomes, strict=True))
    known = [(each.name, each.distribution(), each.choices_or_bounds()) for each in SPACE]

    def params(one: int, _came: Outcome) -> Iterator[dict[str, Any]]:
        for name, distribution, (low, high) in known:
            choice = name == "optimizer"
            drawn = dice.choice((low, high)) if choice else type(low)(dice.uniform(low, high))
            yield {
                "trial_id": one,
                "param_name": name,
                "param_value": distribution.to_internal_repr(drawn),
                "distribution_json": optuna.distributions.distribution_to_json(distribution),
            }

    def reports(one: int, came: Outcome) -> Iterator[dict[str, Any]]:
        for epoch in range(1, came.epochs + 1):
            value = {"intermediate_value": came.gain + epoch / 1e6, "intermediate_value_type": finite}
            yield {"trial_id": one, "step": epoch, **value}

    def values(one: int, came: Outcome) -> Iterator[dict[str, Any]]:
        if came.state.is_finished():
            kind: Any = models.TrialValueModel.TrialValueType.FINITE
            value = came.gain + came.epochs / 1e6
            yield {"trial_id": one, "objective": 0, "value": value, "value_type": kind}

    def system(one: int, came: Outcome) -> Iterator[dict[str, Any]]:
        for key, value in came.system.items():
            yield {"trial_id": one, "key": key, "value_json": json.dumps(value)}

    makers = {
        rows.params: params,
        rows.reports: reports,
        rows.values: values,
        rows.system_attributes: system,
    }
    for table, make in makers.items():
        insert(connection, table, itertools.chain.from_iterable(itertools.starmap(make, given)))
    for state in {came.state for came in outcomes}:
        times = {"datetime_start": moment, "datetime_complete": moment if state.is_finished() else None}
        chosen = [one for one, came in given if came.state == state]
        for first in range(0, len(chosen), 5000):
            some = rows.trials.c.trial_id.in_(chosen[first : first + 5000])
            connection.execute(sa.update(rows.trials).where(some).values(state=state, **times))


Peers = dict[str, Ours | Plain]


def peers_of(url: str, finished: int, trials: int) -> Peers:
    """Give both, in one database, each with so many finished trials and enough that wait."""
    peers: Peers = {"hpo": Ours(url, finished, trials), "plain": Plain(url, finished, trials)}
    if not url.startswith("sqlite"):
        with peers["hpo"].costs.engine.connect() as connection:  # what a server does by itself in a minute
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")
    return peers


def row_of(database: str, finished: int, costs: dict[str, Costs]) -> dict[str, Any]:
    """Give a case's figures."""
    row: dict[str, Any] = {"database": database, "finished": finished}
    for part in ("epoch", "trial"):
        times = {peer: cost.milliseconds(part) for peer, cost in costs.items()}
        middle = {peer: statistics.median(each) for peer, each in times.items()}
        row[part] = {
            "milliseconds": times,
            "hpo/plain": middle["hpo"] / middle["plain"],
            "hpo": middle["hpo"],
            "statements, transactions": {peer: cost.counts(part) for peer, cost in costs.items()},
        }
    return row


def show(part: str, found: list[dict[str, Any]]) -> Table:
    """Make a part's table; the fourth column compares with the same database's first row."""
    table = Table(
        part, "plain, ms", "hpo, ms", "hpo / plain", "hpo / first", "statements (transactions)", box=None
    )
    first: dict[str, float] = {}
    for row in found:
        ours, times = row[part]["hpo"], row[part]["milliseconds"]
        first.setdefault(row["database"], ours)
        counts = row[part]["statements, transactions"]
        table.add_row(
            f"{row['database']}, {row['finished']:,} finished",
            *(spread(times[peer]) for peer in ("plain", "hpo")),
            f"{row[part]['hpo/plain']:.2f}",
            f"{ours / first[row['database']]:.1f}",
            ", ".join(f"{peer} {counts[peer][0]:g} ({counts[peer][1]:g})" for peer in ("plain", "hpo")),
        )
    return table


def spread(times: list[float]) -> str:
    """Give a median with its range."""
    return f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})"


def main() -> None:
    """Measure all cases; print two tables, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--windows", type=int, default=5, help="trials of each peer, in turn")
    parser.add_argument(
        "--finished", type=int, nargs="*", default=[0, 1000, 10000], help="trials in the study"
    )
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    cases: dict[tuple[str, int], Peers] = {}
    trials = given.windows + 1  # the first warms up
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        cluster = stack.enter_context(postgres.server())
        for finished in given.finished:
            cases["sqlite", finished] = peers_of(f"sqlite:///{folder}/{finished}.db", finished, trials)
        for finished in given.finished:
            url = stack.enter_context(postgres.database(cluster))
            cases["postgresql", finished] = peers_of(url, finished, trials)
        for _ in range(trials):
            for peers in cases.values():
                for peer in peers.values():
                    peer.run()
    found = []
    for (database, finished), peers in cases.items():
        found.append(row_of(database, finished, {name: peer.costs for name, peer in peers.items()}))
    for part in ("epoch", "trial"):
        Console(width=130).print(show(part, found))
    print(json.dumps({"benchmark": "store", "windows": given.windows, "rows": found}))


if __name__ == "__main__":
    main()
