"""Claims: which trial, the processes that died, the limit of attempts."""

import dataclasses
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from hpo.store import lease, process, queue, studies
from hpo.store.lease import LeaseLost
from tests.support import lease_worker
from tests.support.claims import LEASE, Worker, claim_numbers, expire_leases, trial
from tests.support.processes import wait_for
from tests.support.stored_study import plain

# Claim


def test_a_claim_sets_a_trial_running_and_creates_its_lease(url, first, sql):
    before = time.time()
    claim = first.claim(seconds=60.0)
    after = time.time()
    assert (claim.number, claim.token, claim.checkpoint) == (0, 1, None)
    ((owner, token, attempts, expires, checkpoint, epoch),) = sql(LEASE)
    assert (owner, token, attempts) == (f"{socket.gethostname()}/{os.getpid()}", 1, 1)
    assert (checkpoint, epoch) == (None, 0)
    assert before + 59 < expires < after + 61  # the database runs on this machine
    found = trial(url)
    assert found.state == TrialState.RUNNING
    assert found.datetime_start is not None
    assert found.user_attrs["attempts"] == 1
    assert [t.state for t in plain(url).trials[1:]] == [TrialState.WAITING] * 2


def test_two_workers_never_get_the_same_trial(first, second):
    claims = [worker.claim() for worker in (first, second, first, second)]
    assert [claim and claim.number for claim in claims] == [0, 1, 2, None]


def test_workers_that_claim_concurrently_get_different_trials(url, first, sql):
    studies.create_study(first.store, lease_worker.definition(24), "text")
    workers = [Worker(url) for _ in range(6)]
    start, got = threading.Barrier(len(workers)), []

    def claim_all(worker):
        start.wait()
        while claim := worker.claim():
            got.append(claim.number)

    threads = [threading.Thread(target=claim_all, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(24))
    assert sql("SELECT DISTINCT token FROM hpo_leases") == [(1,)]


def test_interrupted_trials_are_claimed_first_then_listed_settings_then_the_rest(first):
    studies.create_study(
        first.store, lease_worker.definition(3, {"lr": 0.5}), "text"
    )  # the point is trial 3
    assert first.claim().number == 3
    interrupted = first.claim()
    assert interrupted.number == 0
    studies.create_study(first.store, lease_worker.definition(3, {"lr": 0.5}, {"lr": 0.25}), "text")
    interrupted.release()
    assert claim_numbers(first, 5) == [0, 4, 1, 2, None]


def test_a_setting_enqueued_by_plain_optuna_is_claimed(url, first):
    plain(url).enqueue_trial({"lr": 0.25})
    claim = first.claim()
    assert claim.number == 3
    with lease.keep_lease(claim):
        asked = optuna.Trial(first.study(), claim.trial_id)
        assert asked.suggest_float("lr", 1e-4, 1.0, log=True) == 0.25
        claim.end(TrialState.COMPLETE, value=0.5)
    assert (trial(url, 3).value, trial(url, 3).params) == (0.5, {"lr": 0.25})


def test_a_trial_run_by_another_tool_is_not_claimed(url, first):
    foreign = plain(url).ask()  # takes trial 0
    assert foreign.number == 0
    claims = [first.claim() for _ in range(3)]
    assert [claim and claim.number for claim in claims] == [1, 2, None]
    for claim in claims[:2]:
        claim.end(TrialState.COMPLETE, value=0.5)
    assert not queue.has_open_trials(first.store, first.study_id)
    assert first.leases() == []
    plain(url).tell(0, 0.75)
    assert trial(url).value == 0.75


def test_a_study_has_open_trials_until_every_trial_has_ended(first):
    claims = [first.claim() for _ in range(3)]
    assert first.claim() is None
    for claim in claims:
        assert queue.has_open_trials(first.store, first.study_id)
        claim.end(TrialState.PRUNED)
    assert not queue.has_open_trials(first.store, first.study_id)


def test_leases_are_listed_with_owner_attempt_epoch_and_remaining_time(first, second, sql):
    claim = first.claim(seconds=60)
    claim.commit(checkpoint="c", report=(2, 0.5), user_attributes={})
    second.claim(seconds=30)
    one, two = first.leases()
    assert (one.trial, one.host, one.device, one.attempt, one.epoch) == (
        0,
        socket.gethostname(),
        "cpu",
        1,
        2,
    )
    assert 30 < one.expires_in_seconds <= 60
    assert (two.trial, two.epoch) == (1, 0)
    assert 0 < two.expires_in_seconds <= 30
    expire_leases(sql)
    assert all(each.expires_in_seconds < 0 for each in first.leases())


# Dead processes


@pytest.fixture
def sleeper():
    """Return a process of this machine that does nothing."""
    with subprocess.Popen(["sleep", "600"]) as child:
        yield child
        child.kill()


def set_owner_process(worker: Worker, pid: int) -> None:
    worker.owner = dataclasses.replace(worker.owner, pid=pid, process=process.process_name(pid))


def test_the_trial_of_a_dead_local_process_can_be_claimed_at_once(first, second, sleeper):
    set_owner_process(first, sleeper.pid)
    late = first.claim(seconds=3600)
    assert second.claim().number == 1
    sleeper.kill()
    wait_for(lambda: process.is_dead(first.owner.process))  # a zombie: nobody has waited for it yet
    taken = second.claim()
    assert (taken.number, taken.token) == (0, 2)
    with pytest.raises(LeaseLost):
        late.commit(checkpoint="c", report=None, user_attributes={})


@pytest.mark.parametrize("change", ["namespace", "none"])
def test_a_process_that_cannot_be_checked_keeps_its_lease_until_it_expires(first, second, sql, change):
    name = f"another-boot/pid:[1]/{2**22 + 1}/1" if change == "namespace" else ""
    first.owner = dataclasses.replace(first.owner, process=name)
    first.claim(seconds=3600)
    assert claim_numbers(second, 3) == [1, 2, None]
    expire_leases(sql)
    assert second.claim().number == 0


def test_a_process_that_reuses_an_id_does_not_keep_the_old_lease(first, second, sleeper):
    set_owner_process(first, sleeper.pid)
    there, _, started = first.owner.process.rpartition("/")
    first.owner = dataclasses.replace(first.owner, process=f"{there}/{int(started) - 1}")
    first.claim(seconds=3600)
    assert second.claim().number == 0


def test_a_stopped_process_is_not_dead(sleeper):
    name = process.process_name(sleeper.pid)
    assert name.startswith(process.process_namespace())
    sleeper.send_signal(signal.SIGSTOP)
    wait_for(lambda: " T " in Path(f"/proc/{sleeper.pid}/stat").read_text())
    assert not process.is_dead(name)
    sleeper.send_signal(signal.SIGCONT)


# The limit of attempts


def test_a_trial_whose_attempts_die_before_a_checkpoint_fails_with_the_reason(url, first, sql):
    for attempt in range(1, 4):
        claim = first.claim(max_attempts=3)
        assert (claim.number, claim.token) == (0, attempt)
        expire_leases(sql)
    assert first.claim(max_attempts=3).number == 1
    failed = trial(url)
    assert failed.state == TrialState.FAIL
    assert failed.user_attrs["failure"] == {
        "class": "lost",
        "message": "3 attempts in a row died without a new checkpoint",
    }
    assert failed.user_attrs["attempts"] == 3
    with pytest.raises(LeaseLost):
        claim.commit(checkpoint="late", report=None, user_attributes={})


def test_a_checkpoint_resets_the_count_of_attempts(first, sql):
    for _ in range(5):
        claim = first.claim(max_attempts=2)
        assert claim.number == 0
        claim.commit(checkpoint=f"c{claim.token}", report=None, user_attributes={})
        expire_leases(sql)


def test_a_released_attempt_is_not_counted_as_dead(first):
    for _ in range(5):
        claim = first.claim(max_attempts=2)
        assert claim.number == 0
        claim.release()
