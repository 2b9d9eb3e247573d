"""A study whose first trials all fail stops: nobody claims another trial, until they are retried."""

import pytest
from optuna.trial import TrialState

from hpo.store import control, failures, queue, status, studies
from tests.support import lease_worker
from tests.support.claims import Worker, expire_leases
from tests.support.lease_worker import NAME

PAUSE = {"hpo:paused": 1}


def claim(worker, most: int = 5):
    return queue.claim_trial(
        worker.store,
        worker.study_id,
        worker.owner,
        lease_seconds=60,
        max_attempts=1,
        max_failures=most,
        rungs=(1,),
    )


def fail(worker, count: int = 1) -> None:
    failure = {"class": "KeyError", "message": "x"}
    for _ in range(count):
        claim(worker).end(TrialState.FAIL, user_attributes={"failure": failure})


def has_stopped(worker, most: int = 2) -> bool:
    return failures.have_stopped_study(worker.store, worker.study_id, most)


def test_after_so_many_first_failures_no_trial_is_claimed(first):
    fail(first)
    assert not has_stopped(first)
    fail(first)
    assert has_stopped(first)
    assert claim(first, 2) is None
    assert not has_stopped(first, 3)
    assert not has_stopped(first, 0)
    assert claim(first, 0).number == 2


@pytest.mark.parametrize("better", [TrialState.COMPLETE, TrialState.PRUNED])
def test_one_trial_that_did_better_lets_the_study_continue(first, better):
    claim(first).end(better, value=0.5)
    fail(first, 2)
    assert not has_stopped(first, 1)


def test_a_trial_that_waits_at_a_rung_did_better(first):
    claim(first).release(system_attributes=PAUSE)
    fail(first)
    assert not has_stopped(first, 1)


def test_a_trial_that_still_runs_is_waited_for_unless_its_worker_is_gone(first, second, sql):
    running = claim(second)
    fail(first, 2)
    assert claim(first, 2) is None
    assert not has_stopped(first)
    expire_leases(sql)
    assert has_stopped(first)
    assert claim(first, 2) is None, "it would most likely fail, too"
    running.end(TrialState.COMPLETE, value=0.5)
    assert not has_stopped(first)


def test_retried_trials_and_as_many_others_run_again(first):
    fail(first, 2)
    control.retry_trials(first.store, NAME, None)
    assert not has_stopped(first)
    fail(first, 2)
    assert has_stopped(first)


def test_the_status_says_that_the_study_has_stopped_and_why(url):
    worker = Worker(url)
    studies.create_study(worker.store, lease_worker.definition(7), "text")
    fail(worker, 4)
    before = status.read_status(worker.store, NAME)
    fail(worker)
    now = status.read_status(worker.store, NAME)
    assert before.failure_stop is None
    assert before.waits == ("3 trials for workers: 'hpo launch study' starts some",)
    assert now.failure_stop == (
        "has stopped (search.max_failures): 5 of 7 trials failed, each time: KeyError: x; once the cause "
        "is gone, run 'hpo retry study --failed' and start it again"
    )
    assert now.waits == ("2 trials for 'hpo retry study --failed', as the first ones all failed",)


def test_a_complete_study_has_not_stopped(first):
    fail(first, 3)
    now = status.read_status(first.store, NAME)
    assert (now.state, now.failure_stop) == ("complete", None)
