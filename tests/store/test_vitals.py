"""Signs of life of a study."""

import pytest

from hpo.store import control
from hpo.store.vitals import read_vitals
from tests.support import lease_worker


def vitals(worker):
    return read_vitals(worker.store, worker.study_id)


def test_a_study_of_which_no_trial_was_claimed_was_never_alive(first):
    assert (vitals(first).idle_seconds, vitals(first).clock_offsets) == (None, {})


def test_a_study_is_idle_since_the_last_renewal_of_any_lease(first, second, sql):
    first.claim()
    second.claim().release("told to")
    assert vitals(first).idle_seconds < 60
    sql("UPDATE hpo_leases SET renewed = renewed - 1000 * trial_id")
    assert 1000 <= vitals(first).idle_seconds < 1060


def test_a_study_changed_when_somebody_last_did_something_to_it(first, sql):
    assert vitals(first).changed_seconds < 60
    sql("UPDATE hpo_events SET moment = moment - 1000")
    assert 1000 <= vitals(first).changed_seconds < 1060
    control.set_order(first.store, lease_worker.NAME, None)
    assert vitals(first).changed_seconds < 60


def test_the_clock_of_a_host_is_compared_with_the_databases(first, second, sql):
    first.claim()
    assert vitals(first).clock_offsets[first.owner.host] == pytest.approx(0.0, abs=5.0)
    second.claim()
    sql("UPDATE hpo_attempts SET host = 'far', began = began + 3600 WHERE trial_id = 2")
    offsets = vitals(first).clock_offsets
    assert offsets["far"] == pytest.approx(-3600.0, abs=5.0)
    assert offsets[first.owner.host] == pytest.approx(0.0, abs=5.0)


def test_the_newest_trial_of_a_host_tells_its_clock(first, second, sql):
    first.claim()
    second.claim()
    sql("UPDATE hpo_attempts SET began = began - 3600 WHERE trial_id = 1")  # before its clock was set
    assert vitals(first).clock_offsets[first.owner.host] == pytest.approx(0.0, abs=5.0)
