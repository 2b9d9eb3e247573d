"""Log lines of real workers: on stderr and in their files, as text and as JSON."""

import json
import logging
import os
import signal
from pathlib import Path

import pytest

from hpo.log_records import OBJECTIVE, SUPERVISOR, format_json, parse_line, trial_of
from tests.support import postgres
from tests.support.databases import closed_engines
from tests.support.log_lines import messages, parse_lines
from tests.support.processes import descendants, wait_for
from tests.support.workplace import epochs_reported

pytestmark = pytest.mark.processes

OWN = """
import os
import pathlib
import time
import warnings


def speaks(config, state):
    print("printed by", config.kind)
    os.write(2, b"written without Python\\n")
    warnings.warn("careful")
    pathlib.Path(config.kind).touch()
    while not all(pathlib.Path(kind).exists() for kind in "abc"):
        time.sleep(0.02)
    yield 0.5, None


def lasts(config, state):
    for epoch in range(state or 0, config.epochs):
        time.sleep(0.05)
        yield 0.5, epoch + 1
"""
STUDY = """
[train]
objective = "own:speaks"
epochs = 1

[search]
sampler = "grid"

[[points]]
kind = "a"

[[points]]
kind = "b"

[[points]]
kind = "c"
"""
LONG = """
[train]
objective = "own:lasts"
epochs = 1000

[search]
sampler = "grid"

[[points]]
kind = "a"
"""


@pytest.fixture
def place(workplace):
    (workplace.path / "own.py").write_text(OWN)
    return workplace


def log_files(place) -> list[Path]:
    return sorted(place.path.glob("storage/artifacts/*/logs/*.log"))


def parse_json(text: str) -> list[logging.LogRecord]:
    """Return the records of lines of JSON; fails at the first line that is none."""
    found = []
    for line in text.splitlines():
        record = parse_line(line)
        assert record is not None, line
        assert format_json(record) == line
        found.append(record)
    return found


def test_workers_have_a_file_each_and_what_all_of_them_warn_of_is_shown_once(place):
    done = place.hpo("run", place.study(STUDY), "--devices", "cpu:3")
    shown = parse_lines(done.err)
    files = [parse_lines(file.read_text()) for file in log_files(place)]
    assert f"; logs: {log_files(place)[0].parent}" in done.err
    assert len(files) == 3
    for lines in files:
        said = [str(line) for line in lines]
        assert said[0] == "hpo: a worker starts on cpu"
        (printed,) = [line for line in lines if line.source == "objective"]
        kind, trial = printed.message.removeprefix("printed by "), printed.trial
        assert trial == str("abc".index(kind))
        ours = [str(line) for line in lines if line.trial == trial]
        assert "output: written without Python" in ours
        assert sum(each.startswith("own: UserWarning: careful (") for each in ours) == 1
        assert f"hpo: trial {trial} complete, accuracy 0.5000" in said
    assert sum(line.message.startswith("UserWarning: careful (") for line in shown) == 1
    assert sorted(line.message for line in shown if line.source == "objective") == [
        f"printed by {kind}" for kind in "abc"
    ]
    folder = log_files(place)[0].parent
    assert f"logs: {folder}" in place.here("status", "small").out
    place.here("delete", "small", "--yes")
    assert not folder.exists()


def test_the_worker_that_replaces_a_killed_one_continues_its_file(place):
    place.here("create", place.study(LONG))
    settings = {"HPO_LOG_FORMAT": "json", "HPO_LEASE_SECONDS": "2"}
    words = ("launch", "small", "--devices", "cpu:1", "--backoff-seconds", "0.1")
    launcher = place.start(*words, **settings)
    wait_for(lambda: epochs_reported(place) >= 3)
    (killed,) = descendants(launcher.pid)
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: "attempt 2" in log_files(place)[0].read_text())
    launcher.terminate()
    _, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 143
    (file,) = log_files(place)
    records = parse_json(file.read_text())
    assert {record.process for record in records} > {killed}
    (death,) = [record for record in records if "died of SIGKILL" in record.getMessage()]
    assert (death.name, death.process, trial_of(death)) == (SUPERVISOR, killed, 0)
    shown = parse_json(err)
    assert [format_json(record) for record in shown if record.name != "hpo"] == [
        format_json(record) for record in records if record.name != "hpo"
    ]
    assert shown[-1].getMessage().startswith("stopped with 0 of 1 trials done; ")


def test_a_worker_that_somebody_else_stops_is_told_apart_from_one_that_died(place):
    place.here("create", place.study(LONG))
    words = ("launch", "small", "--devices", "cpu:1", "--backoff-seconds", "0.1")
    launcher = place.start(*words)
    wait_for(lambda: epochs_reported(place) >= 3)
    (stopped,) = descendants(launcher.pid)
    os.kill(stopped, signal.SIGTERM)
    wait_for(lambda: "attempt 2" in log_files(place)[0].read_text(), 300)
    launcher.terminate()
    _, err = launcher.communicate(timeout=300)
    assert launcher.returncode == 143
    (line,) = [each for each in parse_lines(err) if "starting it again" in each.message]
    assert (line.level, line.process, line.trial) == ("WARNING", str(stopped), "0")
    assert line.message == (
        f"a worker on cpu (process {stopped}, trial 0) was asked to stop by SIGTERM or SIGHUP, not by this "
        "command, and has exited; starting it again in 0.1 s"
    )
    assert str(line) in messages(log_files(place)[0].read_text())


def test_a_worker_of_its_own_writes_the_same_lines_without_a_file(place):
    (place.path / "b").touch()
    (place.path / "c").touch()
    place.here("create", place.study(STUDY))
    done = place.hpo("worker", "small", "--log-format", "json")
    lines = done.err.splitlines()
    assert lines.count("written without Python") == 3, "what passes by Python is as it was"
    records = parse_json("\n".join(line for line in lines if line.startswith("{")))
    assert len(records) > 6
    assert [trial_of(record) for record in records if record.name == OBJECTIVE] == [0, 1, 2]
    assert {json.loads(format_json(record))["study"] for record in records} == {"small"}
    assert log_files(place) == []


def test_a_level_leaves_out_what_is_less_important(place):
    (place.path / "b").touch()
    (place.path / "c").touch()
    one = STUDY.partition('[[points]]\nkind = "b"')[0]
    done = place.hpo("run", place.study(one), "--devices", "cpu:1", HPO_LOG_LEVEL="warning")
    for text in (done.err, *(file.read_text() for file in log_files(place))):
        assert {line.level for line in parse_lines(text)} == {"WARNING"}
        assert sum("UserWarning: careful" in line for line in messages(text)) == 1


@pytest.mark.postgres
def test_a_stopped_database_is_named_once_and_not_called_invalid_data(place):
    with postgres.running() as server, closed_engines():
        place.here("create", place.study(LONG), HPO_STORE=server.url)
        process = place.start("run", "small.toml", "--devices", "cpu:1", HPO_STORE=server.url)
        wait_for(lambda: log_files(place) and " epoch 3/" in log_files(place)[0].read_text())
        server.stop("fast")
        wait_for(lambda: "trying again" in log_files(place)[0].read_text())
        server.start()
        wait_for(lambda: "is back after" in log_files(place)[0].read_text())
        process.terminate()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    about = [
        line for line in parse_lines(err) if "trying again" in line.message or "is back" in line.message
    ]
    assert {line.level for line in about} == {"WARNING"}
    assert "invalid data" not in err
