"""Temporary folders of trials whose artifacts are behind a URL."""

import fcntl
import os
import shutil
import tempfile

import pytest

from hpo.artifacts import scratch


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_killed_process_leaves_a_folder_that_the_next_one_removes(tmp_path):
    killed, alive = scratch.make_folder(), scratch.make_folder()
    for folder in (killed, alive):
        (folder.path / "checkpoint.pt").write_bytes(b"state")
    (tmp_path / "hpo-other").mkdir()
    (tmp_path / f"{scratch.PREFIX}link").symlink_to(tmp_path / "hpo-other")
    os.close(killed.lock)  # as the end of its process does
    scratch.remove_abandoned()
    left = {alive.path.name, "hpo-other", f"{scratch.PREFIX}link"}
    assert {path.name for path in tmp_path.iterdir()} == left
    assert (alive.path / "checkpoint.pt").exists()
    alive.remove()
    assert not alive.path.exists()


def test_a_folder_that_is_removed_before_it_is_locked_is_made_again(monkeypatch):
    lock, removed = fcntl.flock, []

    def lock_late(descriptor, kind):
        if not removed:
            removed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            shutil.rmtree(removed[0])
        lock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    folder = scratch.make_folder()
    assert folder.path.is_dir()
    assert str(folder.path) not in removed
    folder.remove()
