"""Controlling a study from Python."""

import pytest

import hpo
from hpo.store import queue, studies
from tests.support import lease_worker
from tests.support.api_study import NAME, climb


def test_orders_are_stored_and_lifted(study):
    assert study.pause()
    assert study.status().state == "paused"
    assert study.stop()
    assert study.status().state == "stopped"
    assert study.resume()
    assert study.status().state == "idle"


def test_a_complete_study_takes_no_orders(study):
    study.run(objective=climb, progress=False)
    assert [study.pause(), study.resume(), study.stop()] == [False] * 3
    assert study.status().state == "complete"


def test_a_setting_is_queued_and_runs_first(study):
    number = study.enqueue(speed=0.2, kind="b")
    assert number == 4
    study.run(objective=climb, progress=False)
    trial = study.trials()[number]
    assert (trial.params, trial.value) == ({"speed": 0.2, "kind": "b"}, pytest.approx(0.6))


def test_a_setting_that_the_study_cannot_run_is_refused(study):
    with pytest.raises(hpo.HpoError, match=rf"^study '{NAME}': setting\.sped"):
        study.enqueue(sped=0.2)
    with pytest.raises(hpo.HpoError, match=r"^speed: want a number"):
        study.enqueue(speed=None)
    assert len(study.trials()) == 4


def test_failed_trials_are_put_back(study):
    assert study.retry() == []
    with pytest.raises(hpo.HpoError, match="has no failed or stopped trial 1"):
        study.retry(1)

    def climb(config, state):
        raise RuntimeError("no luck")
        yield

    with pytest.raises(hpo.HpoError, match=f"study '{NAME}' has no complete trial"):
        study.run(objective=climb, progress=False)
    (again,) = study.retry(2)
    assert (again.trial, again.reason, again.epochs) == (2, "RuntimeError: no luck", 0)
    assert [each.trial for each in study.retry([1, 3])] == [1, 3]
    assert [each.trial for each in study.retry()] == [0]
    assert study.status().trials["waiting"] == 4


def test_a_study_is_deleted_with_its_files(study, tmp_path):
    study.run(objective=climb, progress=False)
    assert list((tmp_path / "artifacts").glob("small-*/0000"))
    assert study.delete() == ""
    assert not list((tmp_path / "artifacts").glob("small-*"))
    with pytest.raises(hpo.HpoError, match=NAME):
        study.status()


def test_a_study_with_a_worker_is_not_deleted(study, url):
    study_id = studies.find_study_id(study.storage, NAME)
    claim = lease_worker.claim_next(study.storage, study_id)
    assert claim is not None
    with pytest.raises(hpo.HpoError, match=f"run 'hpo stop {NAME}' first"):
        study.delete()
    claim.release()
    assert queue.has_open_trials(study.storage, study_id)
    study.delete()
