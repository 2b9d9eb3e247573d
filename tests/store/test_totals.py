"""Totals of studies, computed by the database."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.store import control, plan, studies
from hpo.store.totals import read_totals
from hpo.store.waiting_workers import Presence
from tests.support import lease_worker
from tests.support.claims import expire_leases
from tests.support.lease_worker import NAME


def count_statements(storage, work: Callable[[], object]) -> int:
    """Return how many statements the storage executes during some work."""
    executed: list[str] = []

    def note(_connection, _cursor, statement, *_):
        executed.append(statement)

    sa.event.listen(storage.engine, "before_cursor_execute", note)
    work()
    sa.event.remove(storage.engine, "before_cursor_execute", note)
    return len(executed)


def test_a_study_is_counted_as_its_trials_and_workers_are(first, second):
    done, held = first.claim(), second.claim()
    done.commit(report=(1, 0.25))
    done.commit(report=(2, 0.5))
    done.end(TrialState.COMPLETE, value=0.5)
    held.commit(report=(1, 0.9))
    Presence(first.store, first.study_id, first.owner, 60.0).renew()
    (found,) = read_totals(first.store)
    assert found.trials == {"waiting": 1, "running": 1, "complete": 1, "pruned": 0, "failed": 0}
    assert (found.name, found.order, found.reports, found.waiting_workers) == (NAME, None, 3, 1)
    assert found.attempts == {"complete": 1}
    assert found.best == {"accuracy": 0.5}
    (worker,) = found.held_trials
    assert (worker.worker, worker.device) == (second.owner.name, "cpu")
    assert 0 <= worker.heartbeat_seconds < 60
    assert 0 <= worker.report_seconds < 60


def test_orders_and_retries_are_told(first):
    first.claim().end(TrialState.FAIL)
    control.retry_trials(first.store, NAME, None)
    control.set_order(first.store, NAME, plan.ORDER_PAUSED)
    (found,) = read_totals(first.store)
    assert (found.order, found.retried, found.attempts) == ("paused", 1, {"failed": 1})


def test_a_lease_that_has_expired_is_nobodys(first, sql):
    first.claim()
    expire_leases(sql)
    assert read_totals(first.store)[0].held_trials == ()


@pytest.mark.parametrize(("metric", "best"), [("accuracy", 0.75), ("loss", 0.25)])
def test_the_best_value_follows_the_direction_and_is_finite(first, metric, best):
    definition = lease_worker.definition(4)
    train = definition.train | {"metric": metric}
    studies.create_study(
        first.store, definition.model_copy(update={"name": "other", "train": train}), "text"
    )
    study = first.study()._storage
    study_id = studies.find_study_id(first.store, "other")
    for value in (0.25, 0.75, float("inf") if metric == "accuracy" else float("-inf")):
        trial_id = study.create_new_trial(study_id)
        study.set_trial_state_values(trial_id, TrialState.COMPLETE, [value])
    found = {each.name: each for each in read_totals(first.store)}
    assert found["other"].best == {metric: best}
    assert found[NAME].best == {}


def test_further_studies_and_trials_need_no_further_statements(first):
    few = count_statements(first.store, lambda: read_totals(first.store))
    larger = lease_worker.definition(100).model_copy(update={"name": "large"})
    studies.create_study(first.store, larger, "text")
    assert count_statements(first.store, lambda: read_totals(first.store)) == few


def test_studies_of_other_tools_are_left_out(first):
    first.store.create_new_study(first.study().directions, "foreign")
    assert [each.name for each in read_totals(first.store)] == [NAME]


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_store_has_no_totals_of_tables_that_it_lacks(first, sql, version):
    first.claim()
    sql("ALTER TABLE hpo_leases DROP COLUMN reported")
    sql("DROP TABLE hpo_workers")
    if version == 2:
        sql("UPDATE hpo_schema SET version = 2")
    else:
        for table in ("hpo_attempts", "hpo_events", "hpo_schema"):
            sql(f"DROP TABLE {table}")
    (found,) = read_totals(first.store)
    assert found.trials["running"] == 1
    assert [each.report_seconds for each in found.held_trials] == [None]
