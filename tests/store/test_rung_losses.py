"""Places at a rung, as the database counts them."""

import math
import random

import pytest
from optuna.trial import TrialState

from hpo.search.asha import rungs_of
from hpo.search.early_stopping import STOPPED_EARLY
from hpo.store import changes, rung_losses, studies
from hpo.workers.pruning import Promotions
from tests.support.history_workers import NAME, Worker, study_of

ENTRIES = "SELECT rung, trial_id, loss FROM hpo_rung_losses ORDER BY rung, trial_id"


@pytest.fixture
def definition(url):
    definition = study_of(40, "random", "asha")
    studies.create_study(studies.open_storage(url, create=True), definition, "text")
    return definition


@pytest.fixture
def make_worker(url, definition):
    def make() -> Worker:
        worker = Worker(url, definition)
        worker.history.rungs = rungs_of(definition)
        return worker

    return make


def report(worker: Worker, *values: float) -> None:
    """Report epochs of the worker's trial."""
    for epoch, value in enumerate(values, 1):
        worker.pruner.note_report(epoch, value)
        worker.claim.commit(report=(epoch, value), ask_pruner=worker.pruner.decide)


def look_for_promotion(worker: Worker) -> None:
    """Do what a claim does before it claims."""
    with worker.storage.transaction() as session:
        Promotions(worker.history, worker.history.rung_table).lock_next_trial(session, (), True)


def enter(worker: Worker, number: int, loss: float, rung: int = 1) -> tuple[int, int]:
    """Return how many trials are at a rung once a trial is there, and how many are ahead of it."""
    with worker.storage.transaction() as session:
        found = rung_losses.enter(session, worker.history.study_id, number + 1, rung, loss)
    return found.trials, found.ahead


def test_the_database_ranks_by_loss_and_of_equal_trials_the_earlier_first(make_worker):
    worker, order = make_worker(), random.Random(5)
    losses: dict[int, float] = {}
    for number in order.sample(range(40), 40):
        losses[number] = order.choice([0.1, 0.2, 0.3, math.inf])
        ahead = sum((loss, other) < (losses[number], number) for other, loss in losses.items())
        assert enter(worker, number, losses[number]) == (len(losses), ahead)
    assert enter(worker, 7, -1.0) == (40, 0)  # another attempt was better
    assert enter(worker, 0, 0.5, rung=3) == (1, 0)


def test_a_decision_counts_what_others_have_just_reported_and_reads_none_of_it(make_worker, monkeypatch):
    mine, other = make_worker(), make_worker()
    mine.start()
    for _ in range(2):
        other.start()
        report(other, 1.0)
        other.claim.end(TrialState.COMPLETE, value=1.0)
    monkeypatch.setattr(changes.StudyChanges, "read", None)
    report(mine, 0.5)
    decision = mine.pruner.pause_decision
    assert (decision.rung, decision.rank, decision.trials) == (1, 3, 3)


def test_a_report_that_is_not_committed_leaves_no_entry(make_worker, sql):
    worker = make_worker()
    worker.start()
    worker.pruner.note_report(1, 0.5)

    def fail(session):
        worker.pruner.decide(session)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        worker.claim.commit(report=(1, 0.5), ask_pruner=fail)
    assert sql(ENTRIES) == []
    report(worker, 0.5)
    assert sql(ENTRIES) == [(1, 1, -0.5)]


def test_trials_without_an_entry_get_it_from_a_worker_that_reads_the_whole_study(make_worker, sql):
    """Those of an older hpo have none, nor has a trial for the rungs behind its early end."""
    worker = make_worker()
    low, high = worker.history.rungs.epochs
    worker.start()
    report(worker, *[0.25] * low, *[0.75] * (high - low))
    worker.claim.end(TrialState.PRUNED, value=0.75)
    worker.start()
    report(worker, *[0.5] * low)
    worker.claim.end(TrialState.COMPLETE, value=0.5, system_attributes={STOPPED_EARLY: low})
    found = [(low, 1, -0.25), (low, 2, -0.5), (high, 1, -0.75)]
    assert sql(ENTRIES) == found
    look_for_promotion(make_worker())
    assert sql(ENTRIES) == [*found, (high, 2, -0.5)]
    sql(f"DELETE FROM hpo_rung_losses WHERE rung = {high}")
    sql("UPDATE hpo_rung_losses SET loss = -2 WHERE trial_id = 1")
    look_for_promotion(make_worker())
    assert sql(ENTRIES) == [(low, 1, -2.0), *found[1:], (high, 2, -0.5)]


def test_the_entries_of_a_deleted_study_are_deleted(make_worker, sql):
    worker = make_worker()
    worker.start()
    report(worker, 0.5)
    studies.delete_study(worker.storage, NAME)
    assert sql(ENTRIES) == []
