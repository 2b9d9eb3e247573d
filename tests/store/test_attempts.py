"""The table of attempts: who ran a trial, from when until when, and how each attempt ended."""

import dataclasses
import time

import pytest
from optuna.trial import TrialState

from hpo.store import attempts, control, restarts, studies
from hpo.store.lease import LeaseLost
from hpo.store.lease_info import read_leases
from tests.support import lease_worker
from tests.support.claims import expire_leases


def told(worker):
    found = attempts.read_attempts(worker.store, worker.study_id)
    return [(each.trial, each.attempt, each.outcome, each.epochs, each.reason) for each in found]


def test_an_attempt_says_who_ran_it_where_and_since_when(first):
    first.owner = dataclasses.replace(
        first.owner, device="cuda:1", hardware="NVIDIA H200", versions={"torch": "2.14"}
    )
    before = time.time()
    first.claim()
    (found,) = attempts.read_attempts(first.store, first.study_id)
    assert (found.trial, found.attempt, found.owner) == (0, 1, first.owner.name)
    assert (found.device, found.hardware, found.versions) == ("cuda:1", "NVIDIA H200", {"torch": "2.14"})
    assert before - 1 < found.began < time.time() + 1  # the database runs on this machine
    assert (found.ended, found.seconds, found.outcome, found.epochs) == (None, None, None, None)


@pytest.mark.parametrize(
    ("state", "outcome"),
    [(TrialState.COMPLETE, "complete"), (TrialState.PRUNED, "pruned"), (TrialState.FAIL, "failed")],
)
def test_the_end_of_a_trial_ends_its_attempt_in_the_same_transaction(first, state, outcome):
    claim = first.claim()
    claim.commit(report=(2, 0.5))

    def fail(session):
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        claim.end(state, reason="why", in_transaction=fail)
    assert told(first) == [(0, 1, None, None, "")]
    claim.end(state, reason="why")
    assert told(first) == [(0, 1, outcome, 2, "why")]
    (found,) = attempts.read_attempts(first.store, first.study_id)
    assert 0 <= found.seconds < 60


def test_released_and_paused_attempts_are_told_apart(first):
    first.claim().release("asked to stop")
    first.claim().release("place 1 of 3", system_attributes={"hpo:paused_at_rung": 1})
    assert told(first) == [(0, 1, "released", 0, "asked to stop"), (0, 2, "paused", 0, "place 1 of 3")]


def test_a_dead_attempt_ends_at_its_last_sign_of_life_when_the_trial_is_claimed_again(first, second, sql):
    first.claim().commit(report=(3, 0.5))
    expire_leases(sql)
    sql("UPDATE hpo_leases SET renewed = renewed - 100")
    ((renewed,),) = sql("SELECT renewed FROM hpo_leases")
    assert told(first) == [(0, 1, None, None, "")]
    second.claim()
    silent = "it was silent for longer than its lease"
    assert told(first) == [(0, 1, "died", 3, silent), (0, 2, None, None, "")]
    assert attempts.read_attempts(first.store, first.study_id)[0].ended == renewed


def test_an_attempt_that_began_again_says_so_before_it_says_why_it_ended(first, sql):
    first.claim().commit(report=(3, 0.5), checkpoint="study/0000/checkpoint")
    expire_leases(sql)
    again = first.claim()
    restarts.write_restart(again, "its checkpoint is missing")
    (lease,) = read_leases(first.store, first.study_id)
    assert (lease.epoch, again.checkpoint) == (0, "study/0000/checkpoint")
    assert told(first)[1:] == [(0, 2, None, None, "its checkpoint is missing")]
    again.release("asked to stop")
    assert told(first)[1:] == [(0, 2, "released", 0, "its checkpoint is missing; asked to stop")]
    assert first.claim().checkpoint == "study/0000/checkpoint"  # for a worker that has the file


def test_a_study_has_progress_once_an_epoch_is_reported_and_not_when_a_trial_is_claimed(first):
    claim = first.claim()
    assert not restarts.has_progress(first.store, first.study_id)
    claim.commit(report=(1, 0.5))
    assert restarts.has_progress(first.store, first.study_id)


def test_a_worker_that_lost_its_trial_changes_no_attempt(first, second, sql):
    claim = first.claim()
    expire_leases(sql)
    second.claim()
    before = told(first)
    with pytest.raises(LeaseLost):
        claim.end(TrialState.COMPLETE, value=1.0, reason="late")
    claim.release("late")
    assert told(first) == before


def test_a_trial_that_dies_too_often_has_all_its_attempts(first, sql):
    for _ in range(3):
        first.claim(max_attempts=2)
        expire_leases(sql)
    assert [(trial, attempt, outcome) for trial, attempt, outcome, *_ in told(first)] == [
        (0, 1, "died"),
        (0, 2, "died"),
        (1, 1, None),
    ]


def test_an_acknowledgement_that_was_lost_writes_no_second_attempt(first):
    claim = first.claim()
    claim.end(TrialState.COMPLETE, value=0.5, reason="first")
    claim.end(TrialState.COMPLETE, value=0.5, reason="second")
    assert told(first) == [(0, 1, "complete", 0, "first")]


def test_attempts_of_one_trial_can_be_read_alone(first):
    first.claim()
    first.claim()
    assert [each.trial for each in attempts.read_attempts(first.store, first.study_id, 1)] == [1]


def test_a_retried_trial_keeps_its_attempts(first):
    first.claim().end(TrialState.FAIL, reason="boom")
    control.retry_trials(first.store, lease_worker.NAME, [0])
    first.claim()
    assert told(first) == [(0, 1, "failed", 0, "boom"), (0, 2, None, None, "")]


def test_deleting_a_trial_with_any_tool_deletes_its_attempts(first, sql):
    first.claim()
    sql("DELETE FROM hpo_leases")
    for table in ("trial_user_attributes", "trial_system_attributes", "trial_params"):
        sql(f"DELETE FROM {table}")
    sql("DELETE FROM trials WHERE number = 0")
    assert sql("SELECT * FROM hpo_attempts") == []


def test_deleting_a_study_deletes_its_attempts_and_events(first, sql):
    first.claim()
    studies.delete_study(first.store, lease_worker.NAME)
    assert sql("SELECT * FROM hpo_attempts") == sql("SELECT * FROM hpo_events") == []
