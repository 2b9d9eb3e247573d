import errno
import os
import tempfile
import threading
import uuid
from typing import ClassVar

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from hpo.analysis import timeline
from hpo.artifacts import scratch
from hpo.artifacts.folders import Artifacts
from hpo.errors import ArtifactError, ArtifactsUnavailable
from hpo.store import status, studies
from hpo.study.file import load_study_file
from hpo.training import option_tables
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


def test_a_local_folder_is_used_in_place(tmp_path):
    artifacts = Artifacts(str(tmp_path / "artifacts"))
    folder = artifacts.open_folder("study-0123abcd/0001")
    (folder.path / "a").write_text("x")
    folder.fetch()
    folder.publish()
    folder.remove_deleted()
    folder.close()
    assert (tmp_path / "artifacts/study-0123abcd/0001/a").read_text() == "x"
    assert artifacts.path("study-0123abcd/0001/a") == f"{tmp_path}/artifacts/study-0123abcd/0001/a"
    artifacts.delete_study_folder("study-0123abcd")
    artifacts.delete_study_folder("none-0123abcd")
    assert list((tmp_path / "artifacts").iterdir()) == []


@pytest.mark.parametrize("kind", ["local", "url"])
def test_a_file_is_written_atomically_and_read(kind, tmp_path):
    root = str(tmp_path / "artifacts") if kind == "local" else f"memory://{uuid.uuid4().hex}"
    artifacts = Artifacts(root)
    assert artifacts.read_or_none("cache/a/b") is None
    artifacts.write("cache/a/b", b"one")
    artifacts.write("cache/a/b", b"two")
    assert artifacts.read_or_none("cache/a/b") == b"two"
    assert [
        path.rpartition("/")[2] for path in artifacts.filesystem.ls(f"{root}/cache/a", detail=False)
    ] == ["b"]


def test_files_at_a_url_are_fetched_published_and_removed():
    root = f"memory://{uuid.uuid4().hex}"
    artifacts = Artifacts(root)
    memory = fsspec.filesystem("memory")
    first = artifacts.open_folder("study-0123abcd/0001")
    first.fetch()
    (first.path / "a").write_text("x")
    (first.path / "half.draft").write_text("x")
    assert not memory.exists(f"{root}/study-0123abcd/0001/a")
    first.publish()
    assert memory.cat(f"{root}/study-0123abcd/0001/a") == b"x"
    assert not memory.exists(f"{root}/study-0123abcd/0001/half.draft")
    first.close()
    assert not first.path.exists()

    second = artifacts.open_folder("study-0123abcd/0001")
    second.fetch()
    assert (second.path / "a").read_text() == "x"
    (second.path / "a").unlink()
    (second.path / "b").write_text("y")
    second.publish()
    second.remove_deleted()
    assert memory.ls(f"{root}/study-0123abcd/0001", detail=False) == [
        f"{root.removeprefix('memory:/')}/study-0123abcd/0001/b"
    ]
    artifacts.delete_study_folder("study-0123abcd")
    assert not memory.exists(f"{root}/study-0123abcd")


def test_a_folder_removes_only_files_that_it_published_not_those_of_the_next_attempt():
    # Like a worker that lost its trial between a commit and the removal of outdated files.
    artifacts = Artifacts(f"memory://{uuid.uuid4().hex}")
    old_attempt = artifacts.open_folder("study-0123abcd/0001")
    (old_attempt.path / "old").write_text("x")
    old_attempt.publish()
    next_attempt = artifacts.open_folder("study-0123abcd/0001")
    next_attempt.fetch()
    (next_attempt.path / "new").write_text("y")
    next_attempt.publish()
    (old_attempt.path / "old").unlink()
    old_attempt.remove_deleted()
    assert artifacts.list_names("study-0123abcd/0001") == ["new"]
    old_attempt.close()
    next_attempt.close()


def test_matching_files_are_removed_even_if_others_published_them():
    artifacts = Artifacts(f"memory://{uuid.uuid4().hex}")
    artifacts.write("study-0123abcd/0001/checkpoint-1", b"x")
    artifacts.write("study-0123abcd/0001/weights-1", b"x")
    folder = artifacts.open_folder("study-0123abcd/0001")
    folder.remove_matching(lambda name: name.startswith("checkpoint"))
    assert artifacts.list_names("study-0123abcd/0001") == ["weights-1"]
    folder.close()


def test_fetched_files_are_not_published_again():
    artifacts = Artifacts(f"memory://{uuid.uuid4().hex}")
    artifacts.write("study-0123abcd/0001/a", b"x")
    folder = artifacts.open_folder("study-0123abcd/0001")
    folder.fetch()
    artifacts.remove("study-0123abcd/0001/a")
    (folder.path / "b").write_text("y")
    folder.publish()
    assert artifacts.list_names("study-0123abcd/0001") == ["b"]
    folder.close()


class FlakyFileSystem(MemoryFileSystem):
    """A remote file system whose writes raise the given errors, one after the other."""

    protocol = "flaky"
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]
    failures: ClassVar[list[Exception]] = []

    def pipe_file(self, path, value, **kwargs):
        if self.failures:
            raise self.failures.pop(0)
        super().pipe_file(path, value, **kwargs)


@pytest.fixture
def flaky() -> type[FlakyFileSystem]:
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    FlakyFileSystem.failures = []
    return FlakyFileSystem


def test_a_worker_waits_for_unavailable_artifacts_but_other_commands_do_not(flaky, caplog):
    artifacts = Artifacts("flaky://a")
    temporary = [TimeoutError("no response"), OSError(errno.EBUSY, "slow down")]
    flaky.failures = [*temporary]
    with pytest.raises(ArtifactsUnavailable, match=r"^flaky://a/b: no response$"):
        artifacts.write("b", b"x")
    flaky.failures, artifacts.retry_seconds = [*temporary], 60.0
    artifacts.write("b", b"x")
    assert artifacts.read("b") == b"x"
    first, last = caplog.messages
    assert first == "flaky://a/b: no response; trying again"
    assert "is back after" in last


def test_permanent_errors_are_reported_at_once(flaky):
    artifacts = Artifacts("flaky://a")
    artifacts.retry_seconds = 60.0
    errors = [
        PermissionError("no permission"),
        OSError(errno.ENOSPC, "no room"),
        ValueError("no such name"),
    ]
    for error in errors:
        flaky.failures = [error]
        with pytest.raises(ArtifactError, match=r"^flaky://a/b: no") as raised:
            artifacts.write("b", b"x")
        assert not isinstance(raised.value, ArtifactsUnavailable)


def test_artifacts_that_do_not_respond_when_opened_are_reported_in_one_line():
    with pytest.raises(ArtifactError, match=r"^--artifacts ftp://127.0.0.1:1/x: Connection refused$"):
        Artifacts("ftp://127.0.0.1:1/x")


def test_a_url_with_an_unknown_protocol_is_refused_in_one_line():
    with pytest.raises(ArtifactError, match="--artifacts nosuch://x"):
        Artifacts("nosuch://x")


def test_a_trial_resumes_from_a_checkpoint_at_a_url(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text(
        '[train]\nobjective = "own:climb"\nepochs = 4\n[search]\nsampler = "grid"\n[[points]]\nspeed = 1\n'
    )
    definition = load_study_file(tmp_path / "own.toml")
    assert definition.option_table is option_tables.CUSTOM_OPTIONS
    storage = studies.open_storage(f"sqlite:///{tmp_path}/hpo.db", create=True)
    studies.create_study(storage, definition, "")
    root = f"memory://{uuid.uuid4().hex}"
    settings = worker.WorkerSettings(
        artifacts=Artifacts(root), data=tmp_path, device="cpu", shown_as="cpu", lease_seconds=60
    )
    stop = threading.Event()
    for event in worker.run_worker(storage, "own", settings, stop):
        if getattr(event, "epoch", None) and event.epoch.number == 2:
            stop.set()
    assert event.state == "released"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    abandoned = scratch.make_folder()
    os.close(abandoned.lock)
    started, *_, last = worker.run_worker(storage, "own", settings, threading.Event())
    assert (started.attempt, started.epochs_done) == (2, 2)
    assert not abandoned.path.exists()
    assert (last.state, last.value) == ("complete", 0.4)
    (trial,) = storage.get_all_trials(studies.find_study_id(storage, "own"))
    assert trial.intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}
    artifacts = Artifacts(root)
    with artifacts.filesystem.open(artifacts.path(trial.user_attrs["weights"])) as file:
        assert torch.load(file, weights_only=True)["weight"].tolist() == [4.0, 4.0]
    folder = trial.user_attrs["weights"].rpartition("/")[0]
    names = {
        path.rpartition("/")[2] for path in artifacts.filesystem.ls(artifacts.path(folder), detail=False)
    }
    assert {"epochs.csv", "settings.json"} < names
    assert sum(name.startswith("events.out") for name in names) == 2
    assert sum(name.startswith("weights-") for name in names) == 1
    assert not any(name.startswith("checkpoint-") for name in names)
    storage.engine.dispose()


def test_a_worker_without_the_checkpoint_warns_and_restarts_the_trial(place, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text(
        '[train]\nobjective = "own:climb"\nepochs = 4\n[search]\nsampler = "grid"\n[[points]]\nspeed = 1\n'
    )
    storage = studies.open_storage(f"sqlite:///{tmp_path}/hpo.db", create=True)
    studies.create_study(storage, load_study_file(tmp_path / "own.toml"), "")
    one, other = (Artifacts(f"memory://{uuid.uuid4().hex}") for _ in range(2))
    options = {"data": tmp_path, "device": "cpu", "shown_as": "cpu", "lease_seconds": 60}
    stop = threading.Event()
    for event in worker.run_worker(storage, "own", worker.WorkerSettings(artifacts=one, **options), stop):
        if getattr(event, "epoch", None):
            stop.set()
    assert caplog.messages == []
    events = worker.run_worker(
        storage, "own", worker.WorkerSettings(artifacts=other, **options), threading.Event()
    )
    assert next(events).epochs_done == 0
    (lease,) = status.read_status(storage, "own").workers
    assert lease.epoch == 0
    folder = f"{other.path('')}/own-"
    begin, line = caplog.messages
    assert begin.startswith(f"trials of the study have run, but {folder}")
    assert line.startswith(
        f"trial 0 starts again from its first epoch: its checkpoint is missing or damaged in {folder}"
    )
    list(events)
    told = [(each.event, each.reason) for each in timeline.read_timeline(storage, "own")]
    assert [event for event, _ in told[2:]] == ["released", "claimed", "complete"]
    assert f"as its checkpoint was missing or damaged in {folder}" in told[-1][1]
    storage.engine.dispose()


def test_trials_that_pause_and_are_never_promoted_keep_their_weights_at_a_url(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN.replace('["epoch"] / 10', '["epoch"] / 10 - config.speed'))
    (tmp_path / "own.toml").write_text(
        '[train]\nobjective = "own:climb"\nepochs = 4\n[space]\nspeed = { low = 0.1, high = 0.5 }\n'
        '[search]\nsampler = "random"\ntrials = 6\nkeep_weights = "all"\n'
        'pruner = { name = "asha", min_epochs = 1, reduction_factor = 2 }\n'
    )
    storage = studies.open_storage(f"sqlite:///{tmp_path}/hpo.db", create=True)
    studies.create_study(storage, load_study_file(tmp_path / "own.toml"), "")
    artifacts = Artifacts(f"memory://{uuid.uuid4().hex}")
    settings = worker.WorkerSettings(
        artifacts=artifacts, data=tmp_path, device="cpu", shown_as="cpu", lease_seconds=60
    )
    reported = list(worker.run_worker(storage, "own", settings, threading.Event()))
    assert any(getattr(event, "state", "") == "paused" for event in reported)
    trials = storage.get_all_trials(studies.find_study_id(storage, "own"))
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}
    for trial in trials:
        folder, _, weights = trial.user_attrs["weights"].rpartition("/")
        assert weights in artifacts.list_names(folder)
        assert not any(name.startswith("checkpoint-") for name in artifacts.list_names(folder))
    storage.engine.dispose()
