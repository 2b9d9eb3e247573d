"""A study that is read again and again: the trials that a whole read gives, but only changes are read."""

import contextlib
from collections.abc import Iterator

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.store import control, status, studies
from hpo.store.storage import Storage
from hpo.store.trial_cache import TrialCache
from tests.support import lease_worker
from tests.support.lease_worker import NAME, claim_next

pytestmark = pytest.mark.usefixtures("with_tables")


@contextlib.contextmanager
def rows_of_reports_read(storage: Storage) -> Iterator[list[int]]:
    """Count, while the block runs, the trials whose reports are read."""
    found: list[int] = []

    def note(_connection, _cursor, statement, parameters, *_) -> None:
        if "FROM trial_intermediate_values" in statement:
            found.append(len(parameters[0]) if isinstance(parameters, dict) else len(parameters))

    sa.event.listen(storage.engine, "before_cursor_execute", note)
    yield found
    sa.event.remove(storage.engine, "before_cursor_execute", note)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_only_changed_trials_are_read_again_and_all_are_right(url):
    storage, other = (studies.open_storage(url, create=False) for _ in range(2))
    studies.create_study(storage, lease_worker.definition(6, {"lr": 0.5}), "text")
    study_id, cache = studies.find_study_id(storage, NAME), TrialCache()

    def read(changed: list[int]) -> None:
        before = {trial.number: trial for trial in read.trials}
        with rows_of_reports_read(storage) as counts:
            read.trials = status.read_snapshot(storage, NAME, cache).trials
        assert read.trials == status.read_trials(other, NAME)
        assert [t.number for t in read.trials if before.get(t.number) is not t] == changed
        assert sum(counts) == len(changed)

    read.trials = []
    read(list(range(7)))
    read([])
    first, second = claim_next(other, study_id), claim_next(other, study_id)
    assert first is not None
    assert second is not None
    read([0, 1])
    first.commit(report=(1, 0.3), user_attributes={"epochs": 1, "wall_time_seconds": 2.0})
    read([0])
    first.end(TrialState.COMPLETE, value=0.3)
    second.end(TrialState.FAIL, user_attributes={"failure": {"class": "x", "message": "no"}})
    read([0, 1])
    control.retry_trials(other, NAME, [1])
    read([1])
    plain = optuna.load_study(study_name=NAME, storage=url)
    plain.enqueue_trial({"lr": 0.01})
    read([7])
    foreign = plain.ask()
    read([foreign.number])
    foreign.report(0.1, 1)
    read([foreign.number])
    plain.tell(foreign, 0.1)
    read([foreign.number])
    read([])
    # Points may change the distributions of all trials.
    studies.create_study(other, lease_worker.definition(6, {"lr": 0.5}, {"lr": 0.25}), "text")
    read(list(range(9)))
