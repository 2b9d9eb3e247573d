"""The log files of workers: locks, sizes, disks that fail."""

import logging
import socket

import pytest

from hpo.log_records import new_record
from hpo.workers import log_files
from hpo.workers.log_files import LogFolder
from tests.support.disks import fill, mounted_disk
from tests.support.log_lines import messages
from tests.support.network import require_root


def open_folder(path, told=None) -> LogFolder:
    return LogFolder(path, "text", [].append if told is None else told.append)


def test_each_worker_has_a_file_and_the_next_launch_continues_it(tmp_path):
    names = [f"{socket.gethostname()}-{number}.log" for number in (1, 2)]
    for text in ("first", "second"):
        folder = open_folder(tmp_path / "logs")
        files = [folder.open_file(), folder.open_file()]
        for file in files:
            file.handle(new_record(text))
            file.close()
    assert sorted(each.name for each in (tmp_path / "logs").iterdir()) == names
    for name in names:
        assert messages((tmp_path / "logs" / name).read_text()) == ["hpo: first", "hpo: second"]


@pytest.mark.parametrize("torn", ["", "2026-12-01T03:12:45.681+00:00 WARN", "é" * 9])
def test_a_line_that_a_full_disk_has_torn_is_dropped_when_the_file_is_continued(tmp_path, torn):
    path = tmp_path / f"{socket.gethostname()}-1.log"
    for text in ("first", "second", "third"):
        file = open_folder(tmp_path).open_file()
        file.handle(new_record(text))
        file.close()
        with path.open("ab") as half:
            half.write(torn.encode()[:-1])
    whole = path.read_text(errors="replace").rpartition("\n")[0]
    assert messages(whole) == ["hpo: first", "hpo: second", "hpo: third"]


def test_launches_at_the_same_time_have_different_files(tmp_path):
    folders = [open_folder(tmp_path), open_folder(tmp_path)]
    files = [folder.open_file() for folder in (*folders, *folders)]
    for number, file in enumerate(files):
        file.handle(new_record(str(number)))
        file.close()
    assert sorted(messages(path.read_text()) for path in tmp_path.iterdir()) == [
        [f"hpo: {number}"] for number in range(4)
    ]


def test_a_file_has_a_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(log_files, "MAX_BYTES", 1000)
    file = open_folder(tmp_path).open_file()
    for number in range(100):
        file.handle(new_record(str(number)))
    file.close()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 1000
    last = messages((tmp_path / f"{socket.gethostname()}-1.log").read_text())[-1]
    assert last == "hpo: 99"


def test_a_folder_that_cannot_be_made_is_told_once_and_stops_nobody(tmp_path):
    (tmp_path / "logs").write_text("a file")
    told: list[logging.LogRecord] = []
    folder = open_folder(tmp_path / "logs", told)
    for _ in range(2):
        folder.open_file().handle(new_record("lost"))
    (record,) = told
    assert record.getMessage() == (
        f"log files in {tmp_path / 'logs'} cannot be written (File exists); the workers go on"
    )


@pytest.mark.slow
def test_a_full_disk_is_told_once_and_stops_nobody(tmp_path):
    require_root("mount", "umount")
    with mounted_disk(tmp_path / "disk", 8) as disk:
        told: list[logging.LogRecord] = []
        folder = open_folder(disk, told)
        files = [folder.open_file(), folder.open_file()]
        fill(disk)
        for _ in range(1000):
            for file in files:
                file.handle(new_record("x" * 1000))
        for file in files:
            file.close()
    (record,) = told
    assert "No space left on device" in record.getMessage()
