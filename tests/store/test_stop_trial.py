"""Orders to one trial of a study: stopping it, and putting it back."""

import optuna
import pytest
from optuna.trial import TrialState

from hpo.errors import StoreError
from hpo.store import control, events, plan, status, studies
from tests.support import lease_worker
from tests.support.lease_worker import NAME

POINT = {"lr": 0.5}


@pytest.fixture
def listed(first):
    """Return a worker whose study lists a point before the trials that it searches."""
    studies.create_study(first.store, lease_worker.definition(3, POINT), "text")
    return first


def trial_of(worker, number):
    return status.read_trials(worker.store, NAME)[number]


def test_the_worker_of_a_stopped_trial_learns_it_with_its_next_report(first):
    claim, other = first.claim(), first.claim()
    claim.commit(report=(1, 0.25))
    assert control.stop_trial(first.store, NAME, claim.number) is False
    assert claim.commit(report=(2, 0.5)) == plan.TRIAL_STOPPED
    assert other.commit(report=(1, 0.5)) is None
    assert trial_of(first, claim.number).state == TrialState.RUNNING
    told = events.read_events(first.store, first.study_id)
    assert [(each.kind, each.trial) for each in told] == [("created", None), ("stopped", claim.number)]


def test_a_waiting_trial_is_stopped_at_once_with_its_last_value_and_keeps_its_checkpoint(first):
    claim = first.claim()
    rate = lease_worker.definition().parameters()["lr"].distribution()
    claim.commit(report=(1, 0.5), checkpoint="study/0000/one.pt", parameters={"lr": (0.5, rate)})
    claim.commit(report=(2, 0.25))
    claim.release()
    assert control.stop_trial(first.store, NAME, claim.number) is True
    stopped = trial_of(first, claim.number)
    assert (stopped.state, stopped.value) == (TrialState.PRUNED, 0.25)
    assert stopped.user_attrs["pruned"] == "stopped by hand"
    assert stopped.datetime_complete is not None
    assert first.claim().number != claim.number
    assert control.retry_trials(first.store, NAME, [claim.number]) == [claim.number]
    assert "pruned" not in trial_of(first, claim.number).user_attrs
    again = first.claim()
    assert (again.number, again.token, again.checkpoint) == (claim.number, 2, "study/0000/one.pt")
    assert again.commit(report=(3, 0.75)) is None


def test_a_listed_setting_that_has_not_begun_is_pruned_with_its_parameters_and_can_run_later(listed):
    (number,) = (each.number for each in status.read_trials(listed.store, NAME) if each.user_attrs)
    control.stop_trial(listed.store, NAME, number)
    stopped = trial_of(listed, number)
    assert (stopped.state, stopped.value, stopped.params) == (TrialState.PRUNED, None, POINT)
    assert control.retry_trials(listed.store, NAME, None) == [], "only its number puts it back"
    control.retry_trials(listed.store, NAME, [number])
    assert listed.claim().number == number


def test_a_trial_without_a_setting_of_another_tool_or_that_has_ended_is_not_stopped(first, url):
    claim = first.claim()
    claim.end(TrialState.COMPLETE, value=0.5)
    foreign = optuna.load_study(study_name=NAME, storage=url).ask().number
    last = len(status.read_trials(first.store, NAME)) - 1
    for number, message in (
        (claim.number, "is complete: there is nothing to stop"),
        (foreign, "is run by another tool"),
        (last, "has no setting yet"),
        (99, "has no trial 99"),
    ):
        with pytest.raises(StoreError, match=message):
            control.stop_trial(first.store, NAME, number)
    assert len(events.read_events(first.store, first.study_id)) == 1


def test_a_failed_trial_that_was_to_be_stopped_runs_on_when_it_is_retried(first):
    claim = first.claim()
    control.stop_trial(first.store, NAME, claim.number)
    claim.end(TrialState.FAIL)
    control.retry_trials(first.store, NAME, None)
    assert first.claim().commit(report=(1, 0.5)) is None
