import threading
import uuid

import fsspec
import pytest
import torch

from hpo import config, store, studyfile, worker
from hpo.artifacts import Artifacts
from hpo.errors import ArtifactError

OWN = """
import torch


def climb(config, state):
    state = state or {"epoch": 0, "weight": torch.zeros(2)}
    while state["epoch"] < config.epochs:
        state["epoch"] += 1
        state["weight"] += 1
        yield state["epoch"] / 10, state
"""


def test_a_local_folder_is_the_artifacts_own(tmp_path):
    place = Artifacts(str(tmp_path / "artifacts"))
    folder = place.folder("study/0001")
    (folder.local / "a").write_text("x")
    folder.fetch()
    folder.publish()
    folder.mirror()
    folder.close()
    assert (tmp_path / "artifacts/study/0001/a").read_text() == "x"
    assert place.path("study/0001/a") == f"{tmp_path}/artifacts/study/0001/a"
    place.delete("study")
    place.delete("never was")
    assert list((tmp_path / "artifacts").iterdir()) == []


@pytest.mark.parametrize("kind", ["local", "url"])
def test_a_file_is_written_whole_and_read(kind, tmp_path):
    root = str(tmp_path / "artifacts") if kind == "local" else f"memory://{uuid.uuid4().hex}"
    place = Artifacts(root)
    assert place.look_up("cache/a/b") is None
    place.write("cache/a/b", b"one")
    place.write("cache/a/b", b"two")
    assert place.look_up("cache/a/b") == b"two"
    assert [path.rpartition("/")[2] for path in place.filesystem.ls(f"{root}/cache/a", detail=False)] == [
        "b"
    ]


def test_behind_a_url_files_are_fetched_published_and_taken_away():
    root = f"memory://{uuid.uuid4().hex}"
    place = Artifacts(root)
    memory = fsspec.filesystem("memory")
    first = place.folder("study/0001")
    first.fetch()
    (first.local / "a").write_text("x")
    (first.local / "half.draft").write_text("x")
    assert not memory.exists(f"{root}/study/0001/a")
    first.publish()
    assert memory.cat(f"{root}/study/0001/a") == b"x"
    assert not memory.exists(f"{root}/study/0001/half.draft")
    first.close()
    assert not first.local.exists()

    second = place.folder("study/0001")
    second.fetch()
    assert (second.local / "a").read_text() == "x"
    (second.local / "a").unlink()
    (second.local / "b").write_text("y")
    second.publish()
    second.mirror()
    assert memory.ls(f"{root}/study/0001", detail=False) == [
        f"{root.removeprefix('memory:/')}/study/0001/b"
    ]
    place.delete("study")
    assert not memory.exists(f"{root}/study")


def test_a_url_that_nobody_knows_is_refused_in_one_line():
    with pytest.raises(ArtifactError, match="--artifacts nosuch://x"):
        Artifacts("nosuch://x")


def test_a_trial_goes_on_from_a_checkpoint_behind_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "climbing.py").write_text(OWN)
    (tmp_path / "own.toml").write_text(
        '[train]\nobjective = "climbing:climb"\nepochs = 4\n'
        '[search]\nsampler = "grid"\n[[points]]\nspeed = 1\n'
    )
    definition = studyfile.load(tmp_path / "own.toml")
    assert definition.vocabulary is config.OWN
    opened = store.open_(f"sqlite:///{tmp_path}/hpo.db", create=True)
    store.create(opened, definition, "")
    root = f"memory://{uuid.uuid4().hex}"
    settings = worker.Settings(
        artifacts=Artifacts(root), data=tmp_path, device="cpu", shown_as="cpu", lease_seconds=60
    )
    stop = threading.Event()
    for event in worker.work(opened, "own", settings, stop):
        if getattr(event, "epoch", None) and event.epoch.number == 2:
            stop.set()
    assert event.state == "released"
    started, *_, last = worker.work(opened, "own", settings, threading.Event())
    assert (started.attempt, started.done) == (2, 2)
    assert (last.state, last.accuracy) == ("complete", 0.4)
    (trial,) = opened.get_all_trials(store.study_id(opened, "own"))
    assert trial.intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}
    place = Artifacts(root)
    with place.filesystem.open(place.path(trial.user_attrs["weights"])) as file:
        assert torch.load(file, weights_only=True)["weight"].tolist() == [4.0, 4.0]
    folder = trial.user_attrs["weights"].rpartition("/")[0]
    names = {path.rpartition("/")[2] for path in place.filesystem.ls(place.path(folder), detail=False)}
    assert {"epochs.csv", "settings.json"} < names
    assert sum(name.startswith("events.out") for name in names) == 2
    assert sum(name.startswith("weights-") for name in names) == 1
    assert not any(name.startswith("checkpoint-") for name in names)
    opened.engine.dispose()
