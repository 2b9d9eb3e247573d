"""What is looked at before trials are put back, and what is said of those that are."""

import sys

import pytest
from optuna.trial import TrialState

import hpo
from hpo.cli import control as verbs
from hpo.store import process, queue, studies
from tests.support.images import write_images

IMAGES = {
    "name": "pets",
    "train": {"dataset": "folder:pets", "image_size": 32, "weights": "none", "model": "resnet18"},
    "space": {"lr": [0.1, 0.2]},
    "search": {"trials": 2},
}
OWN = "def climb(config, state):\n    yield 0.5, None\n"


def climb(config, state):
    yield 0.5, None


def stored_study(document, url, tmp_path):
    """Return a study of which trial 0 failed after two epochs, and trial 1 before its first."""
    places = {"artifacts": tmp_path / "artifacts", "data": tmp_path}
    study = hpo.create(document, store=url, **places)
    study_id = studies.find_study_id(study.storage, study.name)
    folder = studies.artifacts_folder(study.storage, study.name)
    for number in (0, 1):
        owner = process.current_owner("cpu")
        claim = queue.claim_trial(study.storage, study_id, owner, lease_seconds=60, max_attempts=1)
        if number == 0:
            name = f"{folder}/0000/checkpoint-0002-000009-001-{'a' * 64}.pt"
            claim.commit(report=(2, 0.5), user_attributes={"checkpoint": name})
        failure = {"class": "KeyError", "message": f"no file {number + 3}"}
        claim.end(TrialState.FAIL, user_attributes={"failure": failure})
    return study


def states(study) -> list[str]:
    return [trial.state for trial in study.trials()]


@pytest.fixture
def pets(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "pets", {"cat": 6, "dog": 6})
    return stored_study(IMAGES, url, tmp_path)


def test_retry_says_why_trials_failed_and_after_which_epoch_they_continue(pets, url, tmp_path, capsys):
    places = {"store_url": url, "artifacts": str(tmp_path / "artifacts"), "data": tmp_path}
    verbs.retry_trials("pets", None, True, **places)
    assert capsys.readouterr().out.splitlines() == [
        "trials 0, 1 of study pets will run again",
        "  trials 0, 1: KeyError: no file 3 to 4",
        "  trial 0 continues after epoch 2",
        "  trial 1 begins anew",
        "to run them: hpo launch pets",
    ]
    assert states(pets) == ["waiting", "waiting"]


def test_trials_of_other_images_are_not_put_back(pets, tmp_path):
    (tmp_path / "pets/dog").rename(tmp_path / "pets/wolf")
    with pytest.raises(
        hpo.HpoError, match="nothing is put back, it would fail again: folder:pets: not the"
    ):
        pets.retry()
    assert states(pets) == ["failed", "failed"]


def test_images_that_are_on_other_machines_only_are_not_checked(pets, tmp_path, capsys):
    (tmp_path / "pets").rename(tmp_path / "elsewhere")
    assert [(each.trial, each.reason, each.epochs) for each in pets.retry()] == [
        (0, "KeyError: no file 3", 2),
        (1, "KeyError: no file 4", 0),
    ]
    assert "folder:pets: not on this machine, so its images were not checked" in capsys.readouterr().err


def test_trials_of_an_objective_that_cannot_be_imported_are_not_put_back(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "retried_own.py").write_text(OWN)
    document = {"name": "own", "train": {"objective": "retried_own:climb"}, "space": {"x": [1, 2]}}
    study = stored_study(document | {"search": {"trials": 2}}, url, tmp_path)
    (tmp_path / "retried_own.py").unlink()
    monkeypatch.delitem(sys.modules, "retried_own")
    with pytest.raises(
        hpo.HpoError, match=r"^study 'own': nothing is put back.*no module 'retried_own' in"
    ):
        study.retry()
    assert states(study) == ["failed", "failed"]
    (tmp_path / "retried_own.py").write_text(OWN)
    assert [each.trial for each in study.retry(1)] == [1]


def test_retry_of_a_notebooks_study_says_how_a_notebook_runs_it(url, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["__main__"], "climb", climb, raising=False)
    document = {"name": "own", "train": {"objective": "__main__:climb"}, "space": {"x": [1, 2]}}
    stored_study(document | {"search": {"trials": 2}}, url, tmp_path)
    verbs.retry_trials("own", [0], False, store_url=url, artifacts=str(tmp_path / "artifacts"))
    assert capsys.readouterr().out.splitlines()[-1] == "to run them: study.run(objective=climb)"
