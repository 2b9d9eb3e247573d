"""Compare what the store adds to an epoch and to a trial with plain Optuna's ``study.optimize``, as ratios.

- *epoch*: report, the pruner's decision, the checkpoint's name, renewal of the lease; plain Optuna:
  ``report`` and ``should_prune``
- *trial*: everything else that a trial does with the store: claim, four parameters, end; plain Optuna:
  ask, suggest, tell

Both run the same objective, which trains nothing, in one database, with TPE and Hyperband. Their studies
have 0, 1,000 and 10,000 finished trials. They run on SQLite, and on a Postgres server of the benchmark's
own with default settings, so that a commit waits for the disk. No trial is pruned, so all have the same
number of epochs and of decisions. Trials of the two alternate, because the speed of shared machines
varies by a third from minute to minute. Figures are medians over the trials, with their range. Statements
and transactions are counted in the last trial.

Run it with ``make bench``, or ``python -m benchmarks.store``.
"""

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
import sqlalchemy as sa
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from benchmarks.synthetic_trials import (
    EPOCHS,
    SPACE,
    SyntheticTrial,
    insert_rows,
    pruned_trials,
    write_trials,
)
from hpo.store import lease, process, queue, rows, studies
from hpo.store.history import History
from hpo.store.tables import leases
from hpo.study import space
from hpo.study.definition import Definition
from hpo.study.search_options import Pruner, Sampler, Search
from hpo.training.config import Config
from hpo.workers import pruning
from hpo.workers.setting import choose_setting
from tests.support import postgres

PrunerName = Literal["asha", "hyperband"]

SPARE = 100  # waiting trials in addition to those that run


def make_definition(trials: int, pruner: PrunerName = "hyperband") -> Definition:
    """Return the study that both run, with so many trials."""
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
    """Return an accuracy that makes each trial better than all before it, so that none is pruned."""
    return (number + epoch / 10) / 20_000


@dataclass
class Costs:
    """The cost of a peer's trials: milliseconds, statements and transactions of each part."""

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
        """Add the cost of a block to a part of the current trial."""
        self.so_far[0] = 1e3 * time.perf_counter()
        before = tuple(self.so_far)
        yield
        self.so_far[0] = 1e3 * time.perf_counter()
        sums = self.trials[-1].setdefault(name, [0.0, 0, 0])
        for index, (start, end) in enumerate(zip(before, self.so_far, strict=True)):
            sums[index] += end - start

    def milliseconds(self, part: str) -> list[float]:
        """Return a part's time in each trial but the first, which warms up.

        The time of an epoch is the mean over all epochs.
        """
        share = EPOCHS if part == "epoch" else 1
        return [trial[part][0] / share for trial in self.trials[1:]]

    def counts(self, part: str) -> tuple[float, float]:
        """Return the statements and the transactions of a part in the last trial."""
        share = EPOCHS if part == "epoch" else 1
        _, statements, transactions = self.trials[-1][part]
        return round(statements / share, 1), round(transactions / share, 1)


class HpoTrials:
    """A worker's trials, as far as they use the store."""

    def __init__(
        self,
        url: str,
        finished: int,
        trials: int,
        pruner: PrunerName = "hyperband",
        make_trials: Callable[[int], list[SyntheticTrial]] = pruned_trials,
    ) -> None:
        self.definition = make_definition(finished + trials + SPARE, pruner)
        self.storage = studies.open_storage(url, create=True)
        studies.create_study(self.storage, self.definition, "benchmark")
        study_id = studies.find_study_id(self.storage, self.definition.name)
        with self.storage.engine.begin() as connection:
            wanted = sa.select(rows.trials.c.trial_id).where(rows.trials.c.study_id == study_id)
            ids = connection.scalars(wanted.order_by(rows.trials.c.number).limit(finished)).all()
            write_trials(connection, ids, make_trials(finished))
            given = {"study_id": study_id, "token": 1, "attempts": 1, "expires": 0.0, "renewed": 1.0}
            insert_rows(connection, leases, ({"trial_id": one, "epoch": EPOCHS, **given} for one in ids))
        self.history = History(self.storage, study_id, self.definition.name, self.definition.metric)
        self.costs = Costs(self.storage.engine)

    def run(self) -> None:
        """Run a trial."""
        costs, history = self.costs, self.history
        costs.trials.append({})
        with costs.part("trial"):
            definition = studies.read_definition(self.storage, self.definition.name)
            owner = process.current_owner("cpu")
            claim = queue.claim_trial(
                self.storage, history.study_id, owner, lease_seconds=60.0, max_attempts=3
            )
            assert claim is not None
        with lease.keep_lease(claim):
            with costs.part("trial"):
                _, _, study = choose_setting(claim, history, definition)
                pruner = pruning.TrialPruner(study, history, definition)
            for epoch in range(1, EPOCHS + 1):
                with costs.part("epoch"):
                    commit_report(claim, pruner, epoch)
            with costs.part("trial"):
                claim.end(TrialState.COMPLETE, value=accuracy(claim.number, EPOCHS), forget_checkpoint=True)


def commit_report(claim: lease.Claim, pruner: pruning.TrialPruner, epoch: int) -> None:
    """Commit an epoch as a worker does, with the pruner's decision."""
    value = accuracy(claim.number, epoch)
    pruner.note_report(epoch, value)
    attributes = {
        "epochs": epoch,
        "best_epoch": epoch,
        "epoch_seconds": [0.1] * epoch,
        "wall_time_seconds": 0.1 * epoch,
        "hardware": {"device": "a processor", "host": "here", "torch": "2.10.0", "threads": 1},
        "checkpoint": (checkpoint := f"hpo/0001/checkpoint-{epoch:04d}"),
    }
    claim.commit(
        report=(epoch, value),
        checkpoint=checkpoint,
        user_attributes=attributes,
        ask_pruner=pruner.decide if epoch < EPOCHS else None,
    )
    if epoch < EPOCHS:
        pruner.raise_if_pruned()


class PlainTrials:
    """Plain Optuna's trials."""

    def __init__(self, url: str, finished: int, trials: int) -> None:
        self.study = optuna.create_study(
            study_name="plain",
            storage=url,
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=0),
            pruner=optuna.pruners.HyperbandPruner(1, EPOCHS, 3),
        )
        storage: Any = self.study._storage
        engine = storage._backend.engine
        new = {"study_id": self.study._study_id, "state": TrialState.RUNNING}
        with engine.begin() as connection:
            insert_rows(connection, rows.trials, ({"number": number, **new} for number in range(finished)))
            wanted = sa.select(rows.trials.c.trial_id).where(rows.trials.c.study_id == new["study_id"])
            ids = connection.scalars(wanted.order_by(rows.trials.c.number)).all()
            write_trials(connection, ids, pruned_trials(finished))
        self.costs = Costs(engine)

    def run(self) -> None:
        """Run a trial; everything that is not report or should_prune counts as ask, suggest and tell."""
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


Peers = dict[str, HpoTrials | PlainTrials]


def make_peers(url: str, finished: int, trials: int) -> Peers:
    """Return both peers in one database, each with ``finished`` trials and enough waiting ones.

    Args:
        url: The database.
        finished: Finished trials of each study.
        trials: Trials that will be run.
    """
    peers: Peers = {"hpo": HpoTrials(url, finished, trials), "plain": PlainTrials(url, finished, trials)}
    if not url.startswith("sqlite"):
        with peers[
            "hpo"
        ].costs.engine.connect() as connection:  # a server does this by itself within a minute
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")
    return peers


def case_figures(database: str, finished: int, costs: dict[str, Costs]) -> dict[str, Any]:
    """Return the figures of a case, by peer."""
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


def make_table(part: str, found: list[dict[str, Any]]) -> Table:
    """Return a part's table; column "hpo / first" compares with the first row of the same database."""
    table = Table(
        part, "plain, ms", "hpo, ms", "hpo / plain", "hpo / first", "statements (transactions)", box=None
    )
    first: dict[str, float] = {}
    for row in found:
        milliseconds, times = row[part]["hpo"], row[part]["milliseconds"]
        first.setdefault(row["database"], milliseconds)
        counts = row[part]["statements, transactions"]
        table.add_row(
            f"{row['database']}, {row['finished']:,} finished",
            *(format_spread(times[peer]) for peer in ("plain", "hpo")),
            f"{row[part]['hpo/plain']:.2f}",
            f"{milliseconds / first[row['database']]:.1f}",
            ", ".join(f"{peer} {counts[peer][0]:g} ({counts[peer][1]:g})" for peer in ("plain", "hpo")),
        )
    return table


def format_spread(times: list[float]) -> str:
    """Format a median with its range."""
    return f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})"


def main() -> None:
    """Measure all cases, and print two tables and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--windows", type=int, default=5, help="trials of each peer, which alternate")
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
            cases["sqlite", finished] = make_peers(f"sqlite:///{folder}/{finished}.db", finished, trials)
        for finished in given.finished:
            url = stack.enter_context(postgres.database(cluster))
            cases["postgresql", finished] = make_peers(url, finished, trials)
        for _ in range(trials):
            for peers in cases.values():
                for peer in peers.values():
                    peer.run()
    found = []
    for (database, finished), peers in cases.items():
        found.append(case_figures(database, finished, {name: peer.costs for name, peer in peers.items()}))
    for part in ("epoch", "trial"):
        Console(width=130).print(make_table(part, found))
    print(json.dumps({"benchmark": "store", "windows": given.windows, "rows": found}))


if __name__ == "__main__":
    main()
