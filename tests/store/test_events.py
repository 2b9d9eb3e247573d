"""The table of events: what people did to a study."""

import getpass
import socket

import pytest
from optuna.trial import TrialState

from hpo.errors import DefinitionError
from hpo.store import control, events, plan, studies
from hpo.study.definition import Point
from tests.support import lease_worker
from tests.support.lease_worker import NAME


def told(worker):
    found = events.read_events(worker.store, worker.study_id)
    return [(each.kind, each.trial, each.detail) for each in found]


def test_creating_and_extending_a_study_are_events_and_storing_it_again_is_none(first):
    studies.create_study(first.store, lease_worker.definition(3), "text")
    assert told(first) == [("created", None, "3 trials")]
    studies.create_study(first.store, lease_worker.definition(4), "text")
    assert told(first)[1:] == [("extended", None, "1 trial")]


def test_an_event_says_who_did_it(first):
    (created,) = events.read_events(first.store, first.study_id)
    assert created.actor == f"{getpass.getuser()}@{socket.gethostname()}"


def test_a_replaced_study_keeps_its_events(first):
    studies.create_study(first.store, lease_worker.definition(2), "text")  # fewer trials: no extension
    assert told(first) == [("created", None, "3 trials"), ("replaced", None, "2 trials")]


def test_orders_are_events_in_their_order(first):
    for order in (plan.ORDER_PAUSED, None, plan.ORDER_STOPPED):
        control.set_order(first.store, NAME, order)
    assert [kind for kind, *_ in told(first)] == ["created", "paused", "resumed", "stopped"]


def test_retrying_and_queuing_name_the_trial(first):
    first.claim().end(TrialState.FAIL)
    control.retry_trials(first.store, NAME, None)
    number = studies.enqueue_setting(first.store, NAME, Point(setting={"lr": 0.5}))
    assert told(first)[1:] == [("retried", 0, ""), ("queued", number, "")]


def test_a_refused_change_is_no_event(first):
    first.claim()
    with pytest.raises(DefinitionError):
        studies.create_study(first.store, lease_worker.definition(2), "text")
    assert len(told(first)) == 1
