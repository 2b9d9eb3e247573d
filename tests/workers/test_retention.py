"""A study can keep the weights of only its best trials."""

import threading
from pathlib import Path

import pytest
from optuna.trial import TrialState

from hpo.artifacts.folders import Artifacts
from hpo.store import control, lease, process, queue, studies
from hpo.store.storage import Storage
from hpo.workers import retention
from tests.support import lease_worker
from tests.support.lease_worker import NAME

FOLDER, WEIGHTS = "f-0123abcd", "weights-0001-001.pt"
OUTCOMES = [  # state, value, failure
    (TrialState.COMPLETE, 0.5, None),
    (TrialState.COMPLETE, 0.9, None),
    (TrialState.PRUNED, 0.95, None),
    (TrialState.COMPLETE, 0.5, None),
    (TrialState.COMPLETE, 0.2, None),
    (TrialState.PRUNED, None, {"class": "diverged"}),
    (TrialState.FAIL, None, {"class": "RuntimeError"}),
]
STUDY = lease_worker.definition(len(OUTCOMES) + 1)


@pytest.fixture
def storage(url):
    storage = studies.open_storage(url, create=True)
    studies.create_study(storage, STUDY, "text")
    return storage


def claim_with_weights(storage: Storage, folder: Path) -> lease.Claim:
    """Claim a trial and store weights for it."""
    study_id = studies.find_study_id(storage, NAME)
    claim = queue.claim_trial(
        storage, study_id, process.current_owner("cpu"), lease_seconds=60, max_attempts=1
    )
    name = f"{FOLDER}/{claim.number:04d}/{WEIGHTS}"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).touch()
    claim.commit(user_attributes={"weights": name})
    return claim


def test_the_best_trials_and_those_that_can_be_retried_keep_their_weights(storage, tmp_path):
    study_id, artifacts = studies.find_study_id(storage, NAME), Artifacts(str(tmp_path))
    for state, value, failure in [*OUTCOMES, (None, None, None)]:
        claim = claim_with_weights(storage, tmp_path)
        if state is not None:
            claim.end(state, value=value, user_attributes={"failure": failure} if failure else {})
    kept = {1: [1, 5, 6, 7], 2: [0, 1, 5, 6, 7], 9: [0, 1, 3, 4, 5, 6, 7]}
    for count in sorted(kept, reverse=True):
        retention.prune_weights(storage, study_id, artifacts, FOLDER, count, STUDY)
        trials = storage.get_all_trials(study_id)
        assert [trial.number for trial in trials if trial.user_attrs["weights"]] == kept[count]
        assert sorted(int(path.parent.name) for path in tmp_path.rglob(WEIGHTS)) == kept[count]
    (tmp_path / FOLDER / "0001" / WEIGHTS).unlink()
    retention.prune_weights(
        storage, study_id, artifacts, FOLDER, 1, STUDY
    )  # a file that is missing is not an error


def test_listed_trials_keep_their_weights_and_take_no_place_of_the_best_searched_ones(url, tmp_path):
    storage, study = studies.open_storage(url, create=True), lease_worker.definition(3, {"lr": 0.5})
    studies.create_study(storage, study, "text")
    study_id = studies.find_study_id(storage, NAME)
    for value in (0.95, 0.2, 0.9, 0.3):  # the listed one first
        claim_with_weights(storage, tmp_path).end(TrialState.COMPLETE, value=value)
    retention.prune_weights(storage, study_id, Artifacts(str(tmp_path)), FOLDER, 1, study)
    assert sorted(path.parent.name for path in tmp_path.rglob(WEIGHTS)) == ["0000", "0002"]


def test_a_trial_that_was_stopped_by_hand_keeps_its_weights(storage, tmp_path):
    study_id = studies.find_study_id(storage, NAME)
    stopped = claim_with_weights(storage, tmp_path)
    control.stop_trial(storage, NAME, stopped.number)
    stopped.end(TrialState.PRUNED, value=0.1)
    for value in (0.2, 0.9):
        claim_with_weights(storage, tmp_path).end(TrialState.COMPLETE, value=value)
    retention.prune_weights(storage, study_id, Artifacts(str(tmp_path)), FOLDER, 1, STUDY)
    assert sorted(path.parent.name for path in tmp_path.rglob(WEIGHTS)) == ["0000", "0002"]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)  # SQLite's writers wait for each other
def test_a_trial_that_ends_while_weights_are_pruned_keeps_its_own(storage, url, tmp_path, monkeypatch):
    study_id = studies.find_study_id(storage, NAME)
    worse = claim_with_weights(storage, tmp_path)
    better = claim_with_weights(studies.open_storage(url, create=False), tmp_path)
    worse.end(TrialState.COMPLETE, value=0.5)
    best = retention.trials_to_keep

    def meanwhile(*asked):
        found = best(*asked)
        other = threading.Thread(target=better.end, args=(TrialState.COMPLETE,), kwargs={"value": 0.9})
        other.start()
        other.join()
        return found

    monkeypatch.setattr(retention, "trials_to_keep", meanwhile)
    retention.prune_weights(storage, study_id, Artifacts(str(tmp_path)), FOLDER, 1, STUDY)
    monkeypatch.setattr(retention, "trials_to_keep", best)
    retention.prune_weights(storage, study_id, Artifacts(str(tmp_path)), FOLDER, 1, STUDY)
    assert [path.parent.name for path in tmp_path.rglob(WEIGHTS)] == ["0001"]


def test_only_weights_in_the_trials_own_folder_are_removed(storage, tmp_path):
    victims = [
        "victim-0123abcd/0000/" + WEIGHTS,
        f"{FOLDER}/0009/{WEIGHTS}",
        "../outside",
        f"{FOLDER}/0000/a",
    ]
    root = tmp_path / "root"
    for name in victims:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    study_id = studies.find_study_id(storage, NAME)
    claims = [
        queue.claim_trial(storage, study_id, process.current_owner("cpu"), lease_seconds=60, max_attempts=1)
        for _ in range(5)
    ]
    for claim, name in zip(claims, [*victims, victims[0]], strict=True):
        claim.commit(user_attributes={"weights": name})
        claim.end(TrialState.COMPLETE, value=claim.number / 10)
    retention.prune_weights(storage, study_id, Artifacts(str(root)), FOLDER, 1, STUDY)
    assert all((root / name).exists() for name in victims)
    assert [bool(each.user_attrs.get("weights")) for each in storage.get_all_trials(study_id)[:5]] == [
        *[False] * 4,
        True,
    ]
