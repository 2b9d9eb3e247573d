import errno
import threading
import uuid
from typing import ClassVar

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from hpo.artifacts.folders import Artifacts
from hpo.errors import ArtifactError, ArtifactsUnavailable
from hpo.store import studies
from hpo.study import file as studyfile
from hpo.training import config
from hpo.workers import worker

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
    folder = place.open_folder("study/0001")
    (folder.path / "a").write_text("x")
    folder.fetch()
    folder.publish()
    folder.remove_deleted()
    folder.close()
    assert (tmp_path / "artifacts/study/0001/a").read_text() == "x"
    assert place.path("study/0001/a") == f"{tmp_path}/artifacts/study/0001/a"
    place.delete_folder("study")
    place.delete_folder("never was")
    assert list((tmp_path / "artifacts").iterdir()) == []


@pytest.mark.parametrize("kind", ["local", "url"])
def test_a_file_is_written_whole_and_read(kind, tmp_path):
    root = str(tmp_path / "artifacts") if kind == "local" else f"memory://{uuid.uuid4().hex}"
    place = Artifacts(root)
    assert place.read_or_none("cache/a/b") is None
    place.write("cache/a/b", b"one")
    place.write("cache/a/b", b"two")
    assert place.read_or_none("cache/a/b") == b"two"
    assert [path.rpartition("/")[2] for path in place.filesystem.ls(f"{root}/cache/a", detail=False)] == [
        "b"
    ]


def test_behind_a_url_files_are_fetched_published_and_taken_away():
    root = f"memory://{uuid.uuid4().hex}"
    place = Artifacts(root)
    memory = fsspec.filesystem("memory")
    first = place.open_folder("study/0001")
    first.fetch()
    (first.path / "a").write_text("x")
    (first.path / "half.draft").write_text("x")
    assert not memory.exists(f"{root}/study/0001/a")
    first.publish()
    assert memory.cat(f"{root}/study/0001/a") == b"x"
    assert not memory.exists(f"{root}/study/0001/half.draft")
    first.close()
    assert not first.path.exists()

    second = place.open_folder("study/0001")
    second.fetch()
    assert (second.path / "a").read_text() == "x"
    (second.path / "a").unlink()
    (second.path / "b").write_text("y")
    second.publish()
    second.remove_deleted()
    assert memory.ls(f"{root}/study/0001", detail=False) == [
        f"{root.removeprefix('memory:/')}/study/0001/b"
    ]
    place.delete_folder("study")
    assert not memory.exists(f"{root}/study")


def test_a_folder_takes_away_what_it_put_there_and_nothing_of_the_attempt_after_it():
    """As a worker does that lost its trial between a commit and the removal of what it made old."""
    place = Artifacts(f"memory://{uuid.uuid4().hex}")
    late = place.open_folder("study/0001")
    (late.path / "old").write_text("x")
    late.publish()
    next_ = place.open_folder("study/0001")
    next_.fetch()
    (next_.path / "new").write_text("y")
    next_.publish()
    (late.path / "old").unlink()
    late.remove_deleted()
    assert place.list_names("study/0001") == ["new"]
    late.close()
    next_.close()


def test_what_matches_is_removed_whoever_made_it():
    place = Artifacts(f"memory://{uuid.uuid4().hex}")
    place.write("study/0001/checkpoint-1", b"x")
    place.write("study/0001/weights-1", b"x")
    folder = place.open_folder("study/0001")
    folder.remove_matching(lambda name: name.startswith("checkpoint"))
    assert place.list_names("study/0001") == ["weights-1"]
    folder.close()


def test_what_was_fetched_is_not_published_again():
    place = Artifacts(f"memory://{uuid.uuid4().hex}")
    place.write("study/0001/a", b"x")
    folder = place.open_folder("study/0001")
    folder.fetch()
    place.remove("study/0001/a")
    (folder.path / "b").write_text("y")
    folder.publish()
    assert place.list_names("study/0001") == ["b"]
    folder.close()


class Stormy(MemoryFileSystem):
    """A place elsewhere that fails so many times, one time after the other."""

    protocol = "stormy"
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]
    failures: ClassVar[list[Exception]] = []

    def pipe_file(self, path, value, **kwargs):
        if self.failures:
            raise self.failures.pop(0)
        super().pipe_file(path, value, **kwargs)


@pytest.fixture
def stormy() -> type[Stormy]:
    fsspec.register_implementation("stormy", Stormy, clobber=True)
    Stormy.failures = []
    return Stormy


def test_a_worker_waits_for_unavailable_artifacts_and_nobody_else_does(stormy, caplog):
    place = Artifacts("stormy://a")
    away = [TimeoutError("no answer"), OSError(errno.EBUSY, "slow down")]
    stormy.failures = [*away]
    with pytest.raises(ArtifactsUnavailable, match=r"^stormy://a/b: no answer$"):
        place.write("b", b"x")
    stormy.failures, place.retry_seconds = [*away], 60.0
    place.write("b", b"x")
    assert place.read("b") == b"x"
    first, last = caplog.messages
    assert first == "stormy://a/b: no answer; trying again"
    assert "is back after" in last


def test_what_no_waiting_mends_is_reported_at_once(stormy):
    place = Artifacts("stormy://a")
    place.retry_seconds = 60.0
    errors = [PermissionError("not you"), OSError(errno.ENOSPC, "no room"), ValueError("no such name")]
    for error in errors:
        stormy.failures = [error]
        with pytest.raises(ArtifactError, match=r"^stormy://a/b: no") as met:
            place.write("b", b"x")
        assert not isinstance(met.value, ArtifactsUnavailable)


def test_artifacts_that_do_not_answer_when_opened_are_reported_in_one_line():
    with pytest.raises(ArtifactError, match=r"^--artifacts ftp://127.0.0.1:1/x: Connection refused$"):
        Artifacts("ftp://127.0.0.1:1/x")


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
    definition = studyfile.load_study_file(tmp_path / "own.toml")
    assert definition.option_table is config.CUSTOM_OPTIONS
    opened = studies.open_storage(f"sqlite:///{tmp_path}/hpo.db", create=True)
    studies.create_study(opened, definition, "")
    root = f"memory://{uuid.uuid4().hex}"
    settings = worker.WorkerSettings(
        artifacts=Artifacts(root), data=tmp_path, device="cpu", shown_as="cpu", lease_seconds=60
    )
    stop = threading.Event()
    for event in worker.run_worker(opened, "own", settings, stop):
        if getattr(event, "epoch", None) and event.epoch.number == 2:
            stop.set()
    assert event.state == "released"
    started, *_, last = worker.run_worker(opened, "own", settings, threading.Event())
    assert (started.attempt, started.epochs_done) == (2, 2)
    assert (last.state, last.accuracy) == ("complete", 0.4)
    (trial,) = opened.get_all_trials(studies.find_study_id(opened, "own"))
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


def test_a_worker_that_fetches_a_checkpoint_from_elsewhere_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "climbing.py").write_text(OWN)
    (tmp_path / "own.toml").write_text(
        '[train]\nobjective = "climbing:climb"\nepochs = 4\n'
        '[search]\nsampler = "grid"\n[[points]]\nspeed = 1\n'
    )
    opened = studies.open_storage(f"sqlite:///{tmp_path}/hpo.db", create=True)
    studies.create_study(opened, studyfile.load_study_file(tmp_path / "own.toml"), "")
    one, other = (Artifacts(f"memory://{uuid.uuid4().hex}") for _ in range(2))
    told = {"data": tmp_path, "device": "cpu", "shown_as": "cpu", "lease_seconds": 60}
    stop = threading.Event()
    for event in worker.run_worker(opened, "own", worker.WorkerSettings(artifacts=one, **told), stop):
        if getattr(event, "epoch", None):
            stop.set()
    assert caplog.messages == []
    started, *_ = worker.run_worker(
        opened, "own", worker.WorkerSettings(artifacts=other, **told), threading.Event()
    )
    assert started.epochs_done == 0
    (line,) = caplog.messages
    assert line.startswith(f"trial 0 begins anew: its checkpoint is not in {other.path('')}/own-")
    opened.engine.dispose()


def test_trials_that_pause_and_are_never_promoted_keep_their_weights_behind_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "climbing.py").write_text(OWN.replace('["epoch"] / 10', '["epoch"] / 10 - config.speed'))
    (tmp_path / "own.toml").write_text(
        '[train]\nobjective = "climbing:climb"\nepochs = 4\n[space]\nspeed = { low = 0.1, high = 0.5 }\n'
        '[search]\nsampler = "random"\ntrials = 6\n'
        'pruner = { name = "asha", min_epochs = 1, reduction_factor = 2 }\n'
    )
    opened = studies.open_storage(f"sqlite:///{tmp_path}/hpo.db", create=True)
    studies.create_study(opened, studyfile.load_study_file(tmp_path / "own.toml"), "")
    place = Artifacts(f"memory://{uuid.uuid4().hex}")
    settings = worker.WorkerSettings(
        artifacts=place, data=tmp_path, device="cpu", shown_as="cpu", lease_seconds=60
    )
    ended = list(worker.run_worker(opened, "own", settings, threading.Event()))
    assert any(getattr(event, "state", "") == "paused" for event in ended)
    trials = opened.get_all_trials(studies.find_study_id(opened, "own"))
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}
    for trial in trials:
        folder, _, weights = trial.user_attrs["weights"].rpartition("/")
        assert weights in place.list_names(folder)
        assert not any(name.startswith("checkpoint-") for name in place.list_names(folder))
    opened.engine.dispose()
