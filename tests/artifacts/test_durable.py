"""Files that are complete under their final name, and what a killed writer leaves."""

import subprocess
import sys

from hpo.artifacts import durable
from hpo.artifacts.folders import Artifacts
from tests.support.workplace import ROOT

WRITER = """
import sys
from pathlib import Path
from hpo.artifacts import durable

with durable.atomic_file(Path(sys.argv[1])) as draft:
    draft.file.write(b"half")
    draft.file.flush()
    print("writes", flush=True)
    sys.stdin.read()
    draft.name = "whole"
"""


def start_writer(folder) -> subprocess.Popen:
    """Start a process that writes a file until its input ends, and wait until it does."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, folder], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdout.readline() == b"writes\n"
    return writer


def test_what_a_killed_process_was_writing_is_removed_when_its_trial_is_taken_up(tmp_path):
    folder = tmp_path / "artifacts/study/0000"
    with start_writer(folder) as killed, start_writer(folder) as living:
        killed.kill()
        killed.wait()
        assert len(list(folder.glob("*.draft"))) == 2
        Artifacts(str(tmp_path / "artifacts")).open_folder("study/0000")
        assert len(list(folder.glob("*.draft"))) == 1
        living.communicate(b"")
    assert [path.name for path in folder.iterdir()] == ["whole"]


def test_a_folder_or_a_link_is_not_taken_for_a_file_that_was_being_written(tmp_path):
    (tmp_path / "folder.draft").mkdir()
    (tmp_path / "kept").touch()
    (tmp_path / "link.draft").symlink_to(tmp_path / "kept")
    durable.remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"folder.draft", "kept", "link.draft"}
