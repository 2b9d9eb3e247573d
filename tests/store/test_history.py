"""The history that samplers and pruners see: the same as plain Optuna's, but only changes are read."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from hpo.search import samplers
from hpo.store import changes, control, lease, rows, studies
from hpo.store.storage import Storage
from hpo.store.tables import leases
from hpo.training.metric import METRICS
from tests.support.history_workers import EPOCHS, OptunaWorker, Worker, accuracy, study_of
from tests.support.lease_worker import NAME

pytestmark = pytest.mark.usefixtures("with_tables")


def visible_fields(trials: list[FrozenTrial]) -> list[object]:
    """Return the fields of trials that a sampler or pruner can see."""
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
def test_proposals_and_pruning_equal_those_of_plain_optuna(url, sampler, pruner, trials):
    """Two workers run epochs in random order, and two workers on plain Optuna do the same."""
    definition = study_of(trials, sampler, pruner)
    studies.create_study(studies.open_storage(url, create=True), definition, "text")
    plain = optuna.create_study(study_name=NAME, direction="maximize")  # in memory
    pairs = [(Worker(url, definition), OptunaWorker(plain, definition)) for _ in range(2)]
    order, started = random.Random(1), 0
    while started < trials or any(worker.claim for worker, _ in pairs):
        worker, reference = order.choice(pairs)
        if worker.claim is not None:
            worker.step()
            reference.step()
            assert (worker.claim is None) == (reference.trial is None)
        elif started < trials:
            started += 1
            worker.history.follow(definition)
            worker.start()
            reference.start()
            assert worker.trial.params == reference.trial.params
    ours = optuna.load_study(study_name=NAME, storage=url)
    assert visible_fields(ours.trials) == visible_fields(plain.trials)
    states = {trial.state for trial in plain.trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED} or pruner == "patient"


# What samplers and pruners see


def finish(worker: Worker) -> None:
    worker.start()
    while worker.claim is not None:
        worker.step()


@pytest.fixture
def definition(url):
    definition = study_of(6, "random")
    studies.create_study(studies.open_storage(url, create=True), definition, "text")
    return definition


def test_the_history_has_the_trials_of_plain_optuna_except_waiting_ones(url, definition):
    first, second = Worker(url, definition), Worker(url, definition)
    finish(first)
    second.start()
    second.step()
    second.claim.release()
    third = Worker(url, definition)
    third.start()  # resumes the released trial
    finish(second)
    first.start()
    for worker in (first, third):
        visible = worker.history.get_all_trials(worker.history.study_id, deepcopy=False)
        stored = optuna.load_study(study_name=NAME, storage=url).trials
        assert visible_fields(visible) == visible_fields(
            [trial for trial in stored if trial.state != TrialState.WAITING]
        )
        assert [t.datetime_start for t in visible] == [t.datetime_start for t in stored[: len(visible)]]
        assert [t.datetime_complete for t in visible] == [
            t.datetime_complete for t in stored[: len(visible)]
        ]


def test_a_released_trial_is_visible_with_its_rungs(url):
    definition = study_of(4, "random", "hyperband")
    studies.create_study(studies.open_storage(url, create=True), definition, "text")
    first, second, third = (Worker(url, definition) for _ in range(3))
    first.start()
    second.start()
    second.step()
    second.claim.release()
    visible = first.history.get_all_trials(first.history.study_id)
    assert [trial.system_attrs.get("completed_rung_0") for trial in visible] == [
        None,
        accuracy(second.trial, 1),
    ]
    assert visible[1].state == TrialState.WAITING
    third.start()
    assert third.history.own_trial.intermediate_values == {1: accuracy(second.trial, 1)}


def test_a_retried_trial_becomes_the_workers_own_trial_again(url, definition):
    worker = Worker(url, definition)
    study_id = worker.history.study_id

    def start() -> list[str]:
        worker.start()
        return [trial.state.name for trial in worker.history.get_all_trials(study_id)]

    assert start() == ["RUNNING"]
    worker.claim.end(TrialState.FAIL, user_attributes={"failure": {}})
    assert start() == ["FAIL", "RUNNING"]
    worker.claim.end(TrialState.COMPLETE, value=0.5)
    assert control.retry_trials(worker.storage, NAME, None) == [0]
    assert start() == ["RUNNING", "COMPLETE"]
    worker.claim.end(TrialState.COMPLETE, value=0.5)
    assert start() == ["COMPLETE", "COMPLETE", "RUNNING"]


def test_trials_of_another_tool_are_seen_at_the_next_full_read(url, definition, monkeypatch):
    worker = Worker(url, definition)
    finish(worker)
    worker.start()

    def states() -> list[str]:
        with worker.storage.transaction() as session, worker.history.read_within(session):
            return [trial.state.name for trial in worker.history.get_all_trials(1)]

    assert states() == ["COMPLETE", "RUNNING"]
    foreign = optuna.load_study(study_name=NAME, storage=url)
    foreign.add_trial(optuna.trial.create_trial(value=0.5))
    assert states() == ["COMPLETE", "RUNNING"]
    monkeypatch.setattr(changes, "FULL_READ_SECONDS", 0.0)
    assert states() == ["COMPLETE", "RUNNING", "COMPLETE"]


@pytest.mark.parametrize("pruner", ["hyperband", "median", "none", "asha", "freeze_thaw"])
def test_the_whole_study_is_read_once_as_long_as_its_definition_stays(url, definition, pruner):
    worker, definition = Worker(url, definition), study_of(9, pruner=pruner)
    for trial in range(3):
        worker.history.follow(definition)
        with worker.storage.transaction() as session:
            assert worker.history.read_between_trials(session) == (trial == 0)
        finish(worker)


def test_a_running_trial_is_looked_at_when_it_has_passed_a_rung_of_hyperband(url, definition):
    looking, other = Worker(url, definition), Worker(url, definition)
    looking.history.follow(study_of(9, pruner="hyperband"))
    other.start()
    seen = []
    for _ in range(4):
        other.claim.commit(report=(1 + other.epoch, 0.5))
        other.epoch += 1
        looking.history.read_again()
        seen.append([each.last_step for each in looking.history.trials()])
    assert seen == [[1], [1], [3], [3]]
    looking.history.follow(study_of(9, pruner="median"))
    looking.history.read_again()
    other.claim.end(TrialState.COMPLETE, value=0.5)
    looking.history.read_again()
    assert [each.state.name for each in looking.history.trials()] == ["COMPLETE"]


def test_trials_that_wait_or_run_at_a_rung_count_among_the_newest(url, definition, monkeypatch):
    """Else what a sampler sees, and computes, grows with the number of workers."""
    monkeypatch.setattr(samplers, "BEST_TRIALS", 1)
    monkeypatch.setattr(samplers, "NEWEST_TRIALS", 2)
    definition = study_of(9, pruner="asha")
    workers = [Worker(url, definition) for _ in range(6)]
    for worker, loss in zip(workers, (0.5, 0.1, 0.4, 0.3, 0.2), strict=False):
        worker.start()
        worker.claim.commit(report=(1, 1.0 - loss))
    workers[5].history.follow(definition)
    workers[5].start()
    seen = workers[5].history.get_all_trials(1)
    assert [(each.number, each.state.name) for each in seen] == [
        (1, "PRUNED"),
        (3, "PRUNED"),
        (4, "PRUNED"),
    ]


def test_a_trial_lost_to_another_worker_has_the_other_workers_result(url, definition, monkeypatch):
    monkeypatch.setattr(changes, "LATE_COMMIT_SECONDS", 0.0)
    first, second, third = (Worker(url, definition) for _ in range(3))
    first.start()
    lost = first.trial.number
    expire(first.storage, first.claim)
    second.start()
    assert second.trial.number == lost
    second.epoch = EPOCHS - 1
    second.step()
    third.start()
    with first.storage.transaction() as session, first.history.read_within(session):
        assert len(first.history.trials()) == 2  # its own and the third worker's: the loss is not known yet
    with pytest.raises(lease.LeaseLost):
        first.step()
    first.start()
    seen = first.history.get_all_trials(1)[lost]
    assert (seen.state, list(seen.intermediate_values)) == (TrialState.COMPLETE, [EPOCHS])


def expire(storage: Storage, claim: lease.Claim) -> None:
    with storage.engine.begin() as connection:
        ours = leases.c.trial_id == claim.trial_id
        connection.execute(sa.update(leases).where(ours).values(expires=0.0, attempts=0))


# Number of transactions and statements


@contextmanager
def counted(storage: Storage) -> Iterator[dict[str, int]]:
    """Count a block's writing transactions, reading transactions and statements."""
    counts, begun = {"writes": 0, "reads": 0, "statements": 0}, {"writes": False}

    def execute(connection, cursor, statement, *rest):
        counts["statements"] += not statement.startswith("BEGIN")
        begun["writes"] |= statement.startswith(("INSERT", "UPDATE", "DELETE"))

    def commit(connection):
        counts["writes" if begun["writes"] else "reads"] += 1
        begun["writes"] = False

    sa.event.listen(storage.engine, "before_cursor_execute", execute)
    sa.event.listen(storage.engine, "commit", commit)
    try:
        yield counts
    finally:
        sa.event.remove(storage.engine, "before_cursor_execute", execute)
        sa.event.remove(storage.engine, "commit", commit)


def test_an_epoch_takes_one_transaction_of_four_statements_in_any_study(url):
    definition = study_of(40, "tpe", "hyperband")
    studies.create_study(studies.open_storage(url, create=True), definition, "text")
    worker, other = Worker(url, definition), Worker(url, definition)
    for _ in range(12):
        finish(other)
    worker.start()
    while worker.epoch < 5:
        rung = worker.epoch + 1 in (1, 3)  # a rung of some bracket
        report = {"epochs": worker.epoch + 1, "wall_time_seconds": 1.0, "hardware": {"host": "here"}}
        worker.epoch += 1
        with counted(worker.storage) as counts:
            worker.pruner.note_report(worker.epoch, 0.99)
            worker.claim.commit(
                report=(worker.epoch, 0.99),
                checkpoint="c",
                user_attributes=report,
                ask_pruner=worker.pruner.decide,
            )
            worker.pruner.raise_if_pruned()
        assert (counts["writes"], counts["reads"]) == (1, 0)
        assert rung or counts["statements"] == 4
        assert counts["statements"] <= 6


def test_a_trial_starts_with_two_writes_and_ends_with_one(url):
    definition = study_of(40, "tpe", "hyperband")
    studies.create_study(studies.open_storage(url, create=True), definition, "text")
    worker = Worker(url, definition)
    for _ in range(11):
        finish(worker)
    with counted(worker.storage) as counts:
        worker.start()
    assert counts["writes"] == 2  # the claim, and all parameters
    assert counts["reads"] == 3  # dead workers, the claimed trial, the history
    with counted(worker.storage) as counts:
        worker.claim.end(TrialState.COMPLETE, value=0.5, user_attributes={"a": 1}, forget_checkpoint=True)
    assert (counts["writes"], counts["reads"]) == (1, 0)


def test_finished_trials_are_read_once(url, definition, monkeypatch):
    worker, other = Worker(url, study_of(6)), Worker(url, definition)
    read: list[int] = []
    build_trials = rows.build_trials

    def counting(session, heads, **options):
        read.extend(head.trial_id for head in heads)
        return build_trials(session, heads, **options)

    monkeypatch.setattr(rows, "build_trials", counting)
    for _ in range(3):
        finish(other)
    read.clear()
    worker.start()
    worker.history.get_all_trials(1)
    assert sorted(read) == [1, 2, 3, 4]  # three finished trials, and its own
    worker.step()
    with worker.storage.transaction() as session, worker.history.read_within(session):
        worker.history.get_all_trials(1)
    assert sorted(read) == [1, 2, 3, 4]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_trial_that_ends_during_a_read_is_never_finished_without_its_value(url, definition):
    worker, other = Worker(url, definition), Worker(url, definition)
    other.start()
    ending = [other.claim]

    def end(_connection, _cursor, text, *_rest) -> None:
        if "trial_values" in text and ending:
            ending.pop().end(TrialState.COMPLETE, value=0.5)

    sa.event.listen(worker.storage.engine, "after_cursor_execute", end)
    with worker.storage.transaction() as session:
        (found,) = rows.read_trials(session, [other.claim.trial_id])
        assert (found.state, found.values) == (TrialState.RUNNING, None)
        (found,) = rows.read_trials(session, [other.claim.trial_id])
        assert (found.state, found.values) == (TrialState.COMPLETE, [0.5])


def test_a_sampler_sees_the_best_and_newest_trials_and_a_pruner_sees_all(url, definition, monkeypatch):
    monkeypatch.setattr(samplers, "BEST_TRIALS", 1)
    monkeypatch.setattr(samplers, "NEWEST_TRIALS", 2)
    worker = Worker(url, definition)
    for _ in range(5):
        finish(worker)
    worker.start()
    finished = (TrialState.COMPLETE, TrialState.PRUNED)
    seen = worker.history.get_all_trials(1, states=finished)
    best = max(worker.history.trials()[:3], key=lambda each: samplers.rank_key(each, METRICS["accuracy"]))
    assert [trial.number for trial in seen] == [best.number, 3, 4]
    with worker.storage.transaction() as session, worker.history.read_within(session):
        assert len(worker.history.get_all_trials(1, states=finished)) == 5
