"""What workers tell of themselves while they have no trial."""

import dataclasses

import pytest

from hpo.store import control, plan, status
from hpo.store.waiting_workers import Presence, read_waiting_workers, tell_presence
from tests.support.claims import Worker, expire_leases
from tests.support.lease_worker import NAME


def owners(worker: Worker) -> list[str]:
    return [each.owner for each in read_waiting_workers(worker.store, worker.study_id)]


def elsewhere(worker: Worker, name: str) -> Worker:
    """Return another worker of the same store, on another host."""
    other = Worker(worker.store.location)
    other.owner = dataclasses.replace(worker.owner, host=name, process=f"boot-of-{name}/ns/1/1")
    return other


def presence_of(worker: Worker) -> Presence:
    return Presence(worker.store, worker.study_id, worker.owner, 60.0)


def test_a_worker_without_a_trial_is_there_until_it_ends(first):
    with tell_presence(first.store, first.study_id, first.owner, 60.0):
        (found,) = read_waiting_workers(first.store, first.study_id)
        assert (found.owner, found.host, found.device) == (first.owner.name, first.owner.host, "cpu")
        assert found.silent_seconds >= 0
    assert owners(first) == []


def test_a_worker_of_another_host_counts_until_its_time_is_over(first, sql):
    presence_of(elsewhere(first, "far")).renew()
    assert len(owners(first)) == 1
    sql("UPDATE hpo_workers SET expires = 1")
    assert owners(first) == []


def test_a_dead_process_of_this_machine_is_gone_at_once(first, sql):
    presence_of(first).renew()
    sql("UPDATE hpo_workers SET process = :name", name=f"{first.owner.process}0")
    assert owners(first) == []


def test_a_worker_that_ends_sweeps_those_that_died_long_ago(first, sql):
    presence_of(elsewhere(first, "far")).renew()
    sql("UPDATE hpo_workers SET expires = 1")
    with tell_presence(first.store, first.study_id, first.owner, 60.0):
        pass
    assert sql("SELECT count(*) FROM hpo_workers") == [(0,)]


def test_a_waiting_worker_writes_no_more_than_a_third_of_its_lease_demands(first, sql):
    presence = presence_of(first)
    presence.renew()
    before = sql("SELECT renewed FROM hpo_workers")
    presence.renew()
    assert sql("SELECT renewed FROM hpo_workers") == before


def test_a_worker_that_may_not_write_its_row_says_so_once_and_goes_on(first, sql, caplog):
    sql("DROP TABLE hpo_workers")
    with tell_presence(first.store, first.study_id, first.owner, 0.0) as presence:
        presence.renew()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("'hpo status' does not show this worker while it waits: ")


def test_deleting_the_study_deletes_its_workers(first, sql):
    presence_of(first).renew()
    first.store.delete_study(first.study_id)
    assert sql("SELECT count(*) FROM hpo_workers") == [(0,)]


def test_a_paused_study_shows_its_living_workers(first):
    presence_of(first).renew()
    control.set_order(first.store, NAME, plan.ORDER_PAUSED)
    now = status.read_status(first.store, NAME)
    assert [worker.owner for worker in now.waiting_workers] == [first.owner.name]
    assert now.waits == (f"3 trials for 'hpo resume {NAME}'", f"1 living worker for 'hpo resume {NAME}'")


def test_a_paused_study_without_workers_says_that_they_are_to_be_started_again(first):
    control.set_order(first.store, NAME, plan.ORDER_PAUSED)
    assert status.read_status(first.store, NAME).waits == (
        f"3 trials for 'hpo resume {NAME}', then 'hpo launch {NAME}'",
    )


def test_a_worker_that_has_claimed_a_trial_is_not_among_those_that_wait(first):
    presence_of(first).renew()
    first.claim()
    now = status.read_status(first.store, NAME)
    assert (now.state, now.waiting_workers) == ("running", ())


def test_workers_that_start_are_what_trials_wait_for(first):
    presence_of(first).renew()
    (phrase,) = status.read_status(first.store, NAME).waits
    assert phrase == "3 trials for 1 worker to take them, or to start"


@pytest.mark.parametrize("order", [plan.ORDER_PAUSED, plan.ORDER_STOPPED])
def test_under_an_order_the_trial_of_a_killed_worker_waits_to_be_resumed(first, sql, order):
    claim = first.claim()
    expire_leases(sql)
    control.set_order(first.store, NAME, order)
    now = status.read_status(first.store, NAME)
    assert (now.trials["waiting"], now.trials["running"]) == (3, 0)
    resumption = f"'hpo resume {NAME}', then 'hpo launch {NAME}'"
    assert now.waits == (
        f"2 trials for {resumption}",
        f"trial {claim.number} for {resumption}: {first.owner.name} is gone, or silent for too long",
    )
    assert now.holders == ()
    control.set_order(first.store, NAME, None)
    assert status.read_status(first.store, NAME).trials["running"] == 1
