"""The history that samplers and pruners see: plain Optuna's, at the price of what is new."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from hpo.search import pruners, samplers
from hpo.store import control, history, lease, process, queue, rows, studies
from hpo.store.history import History
from hpo.store.lease_table import leases
from hpo.store.storage import Storage
from hpo.study import space
from hpo.study.definition import Definition, Pruner, Sampler
from hpo.workers import pruning
from hpo.workers.setting import choose_setting
from tests.support import lease_worker
from tests.support.lease_worker import NAME

EPOCHS = 9


def study_of(trials: int, sampler: str = "tpe", pruner: str = "none") -> Definition:
    made = lease_worker.definition(trials)
    choice = space.Parameter(name="optimizer", kind="choice", values=space.Choices(choices=("sgd", "adam")))
    search = made.search.model_copy(
        update={
            "sampler": Sampler(name=sampler),
            "pruner": Pruner(name=pruner, min_epochs=1, reduction_factor=3),
        }
    )
    train = {**made.train, "epochs": EPOCHS}
    return made.model_copy(update={"train": train, "space": (choice, *made.space), "search": search})


def accuracy(trial: FrozenTrial | optuna.Trial, epoch: int) -> float:
    """Make one up that has ups and downs, and that some settings are better at."""
    noise = random.Random(f"{trial.number}/{epoch}").random() / 5
    return trial.params["lr"] / 2 + (trial.params["optimizer"] == "sgd") / 5 + epoch / 50 + noise


@dataclass
class Worker:
    """A worker that keeps its history from trial to trial; ``step`` runs one epoch of its trial."""

    url: str
    made: Definition
    claim: lease.Claim | None = None
    epoch: int = 0
    opened: Storage = field(init=False)
    history: History = field(init=False)

    def __post_init__(self) -> None:
        self.opened = studies.open_storage(self.url, create=False)
        self.history = History(self.opened, studies.find_study_id(self.opened, NAME), NAME)

    def start(self) -> None:
        who = process.current_owner("cpu")
        self.claim = queue.claim_trial(
            self.opened, self.history.study_id, who, lease_seconds=60, max_attempts=1
        )
        self.trial, _, study = choose_setting(self.claim, self.history, self.made)
        self.judge = pruning.TrialPruner(study, self.history, self.made)
        self.epoch = 0

    def step(self) -> None:
        self.epoch += 1
        report = (self.epoch, accuracy(self.trial, self.epoch))
        self.judge.note_report(*report)
        last = self.epoch == EPOCHS
        self.claim.commit(report=report, ask_pruner=None if last else self.judge.decide)
        try:
            if last:
                self.claim.end(TrialState.COMPLETE, value=report[1])
                self.claim = None
            else:
                self.judge.raise_if_pruned()
        except pruning.TrialPrunedByRule as pruned:
            self.claim.end(TrialState.PRUNED, value=report[1], system_attributes=pruned.attributes)
            self.claim = None


@dataclass
class Twin:
    """The same as plain Optuna does it, in a study of its own."""

    study: optuna.Study
    made: Definition
    trial: optuna.Trial | None = None
    epoch: int = 0

    def start(self) -> None:
        number = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = samplers.build_sampler(self.made, number)
        self.study.pruner = pruners.build_pruner(self.made)
        if isinstance(self.study.pruner, pruners.CachedHyperbandPruner):
            settings = self.made.search.pruner
            self.study.pruner = optuna.pruners.HyperbandPruner(
                settings.min_epochs, EPOCHS, settings.reduction_factor
            )
        self.pruner = self.study.pruner
        self.trial = self.study.ask()
        for parameter in self.made.space:
            space.suggest_value(self.trial, parameter)
        self.epoch = 0

    def step(self) -> None:
        self.epoch += 1
        self.study.pruner = self.pruner
        self.trial.report(accuracy(self.trial, self.epoch), self.epoch)
        if self.epoch == EPOCHS:
            self.study.tell(self.trial, accuracy(self.trial, self.epoch))
            self.trial = None
        elif self.trial.should_prune():
            self.study.tell(self.trial, state=TrialState.PRUNED)
            self.trial = None


def seen(trials: list[FrozenTrial]) -> list[object]:
    """Give what a sampler or pruner can see of trials."""
    found = []
    for t in trials:
        system = {key: value for key, value in t.system_attrs.items() if not key.startswith("hpo:")}
        found.append(
            (t.number, t.state, t.params, t.distributions, t.values, t.intermediate_values, system)
        )
    return found


@pytest.mark.parametrize(
    ("sampler", "pruner", "trials"),
    [
        ("tpe", "hyperband", 22),
        ("random", "hyperband", 22),
        ("qmc", "median", 14),
        ("gp", "percentile", 13),
        ("tpe", "patient", 13),
    ],
)
def test_proposals_and_pruning_are_those_of_plain_optuna(url, tmp_path, sampler, pruner, trials):
    """Two workers whose epochs come in any order, beside two that are plain Optuna."""
    made = study_of(trials, sampler, pruner)
    studies.create_study(studies.open_storage(url, create=True), made, "text")
    plain = optuna.create_study(
        study_name=NAME, storage=f"sqlite:///{tmp_path}/twin.db", direction="maximize"
    )
    pairs = [(Worker(url, made), Twin(plain, made)) for _ in range(2)]
    order, started = random.Random(1), 0
    while started < trials or any(worker.claim for worker, _ in pairs):
        worker, twin = order.choice(pairs)
        if worker.claim is not None:
            worker.step()
            twin.step()
            assert (worker.claim is None) == (twin.trial is None)
        elif started < trials:
            started += 1
            worker.start()
            twin.start()
            assert worker.trial.params == twin.trial.params
    ours = optuna.load_study(study_name=NAME, storage=url)
    assert seen(ours.trials) == seen(plain.trials)
    states = {trial.state for trial in plain.trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED} or pruner == "patient"


# What it shows


def finish(worker: Worker) -> None:
    worker.start()
    while worker.claim is not None:
        worker.step()


@pytest.fixture
def made(url):
    made = study_of(6, "random")
    studies.create_study(studies.open_storage(url, create=True), made, "text")
    return made


def test_it_shows_what_plain_optuna_shows_but_for_what_holds_nothing(url, made):
    first, second = Worker(url, made), Worker(url, made)
    finish(first)
    second.start()
    second.step()
    second.claim.release()
    third = Worker(url, made)
    third.start()  # goes on with the one released
    finish(second)
    first.start()
    for worker in (first, third):
        shown = worker.history.get_all_trials(worker.history.study_id, deepcopy=False)
        there = optuna.load_study(study_name=NAME, storage=url).trials
        assert seen(shown) == seen([trial for trial in there if trial.state != TrialState.WAITING])
        assert [t.datetime_start for t in shown] == [t.datetime_start for t in there[: len(shown)]]
        assert [t.datetime_complete for t in shown] == [t.datetime_complete for t in there[: len(shown)]]


def test_a_trial_that_was_released_is_shown_with_its_rungs(url):
    made = study_of(4, "random", "hyperband")
    studies.create_study(studies.open_storage(url, create=True), made, "text")
    first, second, third = (Worker(url, made) for _ in range(3))
    first.start()
    second.start()
    second.step()
    second.claim.release()
    shown = first.history.get_all_trials(first.history.study_id)
    assert [trial.system_attrs.get("completed_rung_0") for trial in shown] == [
        None,
        accuracy(second.trial, 1),
    ]
    assert shown[1].state == TrialState.WAITING
    third.start()
    assert third.history.own_trial.intermediate_values == {1: accuracy(second.trial, 1)}


def test_a_trial_that_failed_and_was_put_back_is_its_workers_own_again(url, made):
    worker = Worker(url, made)
    study_id = worker.history.study_id

    def start() -> list[str]:
        worker.start()
        return [trial.state.name for trial in worker.history.get_all_trials(study_id)]

    assert start() == ["RUNNING"]
    worker.claim.end(TrialState.FAIL, user_attributes={"failure": {}})
    assert start() == ["FAIL", "RUNNING"]
    worker.claim.end(TrialState.COMPLETE, value=0.5)
    assert control.retry_trials(worker.opened, NAME, None) == [0]
    assert start() == ["RUNNING", "COMPLETE"]
    worker.claim.end(TrialState.COMPLETE, value=0.5)
    assert start() == ["COMPLETE", "COMPLETE", "RUNNING"]


def test_what_another_tool_does_is_seen_with_the_whole_study(url, made, monkeypatch):
    worker = Worker(url, made)
    finish(worker)
    worker.start()

    def states() -> list[str]:
        with worker.opened.transaction() as session, worker.history.read_within(session):
            return [trial.state.name for trial in worker.history.get_all_trials(1)]

    assert states() == ["COMPLETE", "RUNNING"]
    foreign = optuna.load_study(study_name=NAME, storage=url)
    foreign.add_trial(optuna.trial.create_trial(value=0.5))
    assert states() == ["COMPLETE", "RUNNING"]
    monkeypatch.setattr(history, "FULL_READ_SECONDS", 0.0)
    assert states() == ["COMPLETE", "RUNNING", "COMPLETE"]


def test_a_trial_lost_to_another_worker_is_seen_as_the_other_left_it(url, made, monkeypatch):
    monkeypatch.setattr(history, "LATE_COMMIT_SECONDS", 0.0)
    first, second, third = (Worker(url, made) for _ in range(3))
    first.start()
    lost = first.trial.number
    expire(first.opened, first.claim)
    second.start()
    assert second.trial.number == lost
    second.epoch = EPOCHS - 1
    second.step()
    third.start()
    with first.opened.transaction() as session, first.history.read_within(session):
        assert len(first.history.trials()) == 2  # its own and the third's: it has not noticed yet
    with pytest.raises(lease.LeaseLost):
        first.step()
    first.start()
    seen = first.history.get_all_trials(1)[lost]
    assert (seen.state, list(seen.intermediate_values)) == (TrialState.COMPLETE, [EPOCHS])


def expire(opened: Storage, claim: lease.Claim) -> None:
    with opened.engine.begin() as connection:
        ours = leases.c.trial_id == claim.trial_id
        connection.execute(sa.update(leases).where(ours).values(expires=0.0, attempts=0))


# What it costs


@contextmanager
def counted(opened: Storage) -> Iterator[dict[str, int]]:
    """Count the transactions of a block that write, those that read, and the statements."""
    counts, begun = {"writes": 0, "reads": 0, "statements": 0}, {"writes": False}

    def execute(connection, cursor, statement, *rest):
        counts["statements"] += not statement.startswith("BEGIN")
        begun["writes"] |= statement.startswith(("INSERT", "UPDATE", "DELETE"))

    def commit(connection):
        counts["writes" if begun["writes"] else "reads"] += 1
        begun["writes"] = False

    sa.event.listen(opened.engine, "before_cursor_execute", execute)
    sa.event.listen(opened.engine, "commit", commit)
    try:
        yield counts
    finally:
        sa.event.remove(opened.engine, "before_cursor_execute", execute)
        sa.event.remove(opened.engine, "commit", commit)


def test_an_epoch_is_one_transaction_of_four_statements_whatever_the_study_holds(url):
    made = study_of(40, "tpe", "hyperband")
    studies.create_study(studies.open_storage(url, create=True), made, "text")
    worker, other = Worker(url, made), Worker(url, made)
    for _ in range(12):
        finish(other)
    worker.start()
    while worker.epoch < 5:
        rung = worker.epoch + 1 in (1, 3)  # in one bracket or another
        report = {"epochs": worker.epoch + 1, "wall_time_seconds": 1.0, "hardware": {"host": "here"}}
        worker.epoch += 1
        with counted(worker.opened) as counts:
            worker.judge.note_report(worker.epoch, 0.99)
            worker.claim.commit(
                report=(worker.epoch, 0.99),
                checkpoint="c",
                user_attributes=report,
                ask_pruner=worker.judge.decide,
            )
            worker.judge.raise_if_pruned()
        assert (counts["writes"], counts["reads"]) == (1, 0)
        assert rung or counts["statements"] == 4
        assert counts["statements"] <= 6


def test_a_trial_starts_with_two_writes_and_ends_with_one(url):
    made = study_of(40, "tpe", "hyperband")
    studies.create_study(studies.open_storage(url, create=True), made, "text")
    worker = Worker(url, made)
    for _ in range(11):
        finish(worker)
    with counted(worker.opened) as counts:
        worker.start()
    assert counts["writes"] == 2  # the claim, and all parameters
    assert counts["reads"] == 3  # the dead, the claimed trial, the history
    with counted(worker.opened) as counts:
        worker.claim.end(TrialState.COMPLETE, value=0.5, user_attributes={"a": 1}, forget_checkpoint=True)
    assert (counts["writes"], counts["reads"]) == (1, 0)


def test_what_has_finished_is_read_once(url, made, monkeypatch):
    worker, other = Worker(url, study_of(6)), Worker(url, made)
    read: list[int] = []
    frozen = rows.build_trials

    def counting(session, heads, **options):
        read.extend(head.trial_id for head in heads)
        return frozen(session, heads, **options)

    monkeypatch.setattr(rows, "build_trials", counting)
    for _ in range(3):
        finish(other)
    read.clear()
    worker.start()
    worker.history.get_all_trials(1)
    assert sorted(read) == [1, 2, 3, 4]  # three that have finished, and its own
    worker.step()
    with worker.opened.transaction() as session, worker.history.read_within(session):
        worker.history.get_all_trials(1)
    assert sorted(read) == [1, 2, 3, 4]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_trial_that_ends_while_it_is_read_is_not_finished_without_its_value(url, made):
    worker, other = Worker(url, made), Worker(url, made)
    other.start()
    ending = [other.claim]

    def end(_connection, _cursor, text, *_rest) -> None:
        if "trial_values" in text and ending:
            ending.pop().end(TrialState.COMPLETE, value=0.5)

    sa.event.listen(worker.opened.engine, "after_cursor_execute", end)
    with worker.opened.transaction() as session:
        (found,) = rows.read_trials(session, [other.claim.trial_id])
        assert (found.state, found.values) == (TrialState.RUNNING, None)
        (found,) = rows.read_trials(session, [other.claim.trial_id])
        assert (found.state, found.values) == (TrialState.COMPLETE, [0.5])


def test_a_sampler_sees_the_best_and_the_newest_and_a_pruner_sees_all(url, made, monkeypatch):
    monkeypatch.setattr(samplers, "BEST_TRIALS", 1)
    monkeypatch.setattr(samplers, "NEWEST_TRIALS", 2)
    worker = Worker(url, made)
    for _ in range(5):
        finish(worker)
    worker.start()
    finished = (TrialState.COMPLETE, TrialState.PRUNED)
    seen = worker.history.get_all_trials(1, states=finished)
    best = max(worker.history.trials()[:3], key=samplers.rank_key)
    assert [trial.number for trial in seen] == [best.number, 3, 4]
    with worker.opened.transaction() as session, worker.history.read_within(session):
        assert len(worker.history.get_all_trials(1, states=finished)) == 5
