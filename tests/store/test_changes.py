"""A look at a study reads what is new, and no more."""

import pytest
import sqlalchemy as sa

from hpo.store import changes, studies
from hpo.store.changes import StudyChanges
from hpo.store.tables import leases
from tests.support.history_workers import EPOCHS, Worker, study_of

pytestmark = pytest.mark.usefixtures("with_tables")


class Looker:
    """Looks at a study again and again, and keeps what it has seen."""

    def __init__(self, worker: Worker, **options) -> None:
        self.storage, self.seen = worker.storage, {}
        self.changes = StudyChanges(study_id=worker.history.study_id, **options)

    def look(self) -> list[tuple[int, list[int]]]:
        """Return the number of each trial that is new or has changed, and its reported epochs."""
        with self.storage.transaction() as session:
            found = self.changes.read(session, self.seen.__getitem__, None, 0)
        self.seen |= {trial.number: trial for trial in found}
        return [(trial.number, list(trial.intermediate_values)) for trial in found]


@pytest.fixture
def worker(url):
    definition = study_of(6, "random")
    studies.create_study(studies.open_storage(url, create=True), definition, "text")
    return Worker(url, definition)


def test_each_change_is_read_once(worker):
    looker = Looker(worker)
    worker.start()
    worker.step()
    assert looker.look() == [(0, [1])]
    assert looker.look() == []
    worker.step()
    worker.step()
    assert looker.look() == [(0, [1, 2, 3])]


def test_with_rungs_a_running_trial_is_read_when_it_has_passed_another_one(worker):
    looker = Looker(worker, rungs=(2, 4))
    worker.start()
    assert looker.look() == []
    seen = {}
    for epoch in range(1, EPOCHS + 1):
        worker.step()
        seen[epoch] = looker.look()
    assert {epoch: found for epoch, found in seen.items() if found} == {
        2: [(0, [1, 2])],
        4: [(0, [1, 2, 3, 4])],
        EPOCHS: [(0, [*range(1, EPOCHS + 1)])],  # it has ended
    }


def test_an_attempt_that_repeats_an_epoch_shows_its_own_report(worker):
    looker, other = Looker(worker), Worker(worker.url, worker.definition)
    worker.start()
    worker.step()
    worker.step()
    looker.look()
    with worker.storage.engine.begin() as connection:
        connection.execute(sa.update(leases).values(expires=0.0, attempts=0))
    other.start()
    other.claim.commit(report=(1, 0.125))
    looker.look()
    assert looker.seen[0].intermediate_values[1] == 0.125


def test_the_whole_study_is_read_after_a_while(worker, monkeypatch):
    looker = Looker(worker)
    worker.start()
    looker.look()
    with worker.storage.engine.begin() as connection:  # as a commit that came late
        connection.execute(sa.update(leases).values(epoch=1, renewed=0.0))
    assert looker.look() == []
    monkeypatch.setattr(changes, "FULL_READ_SECONDS", 0.0)
    assert looker.look() == [(0, [])]


def test_what_is_forgotten_is_read_again(worker):
    looker = Looker(worker)
    worker.start()
    worker.step()
    looker.look()
    looker.changes.forget_all()
    assert looker.look() == [(0, [1])]
