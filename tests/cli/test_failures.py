"""What people read of trials that failed or were pruned."""

import json
from pathlib import Path

import pytest

from tests.support.log_lines import messages, parse_lines
from tests.support.workplace import Workplace, workplace_in

OWN = """
import optuna


def fragile(config, state):
    if config.x in config.broken:
        raise ValueError(f"no picture {config.x} in this folder\\nor below it")
    if config.x == 5:
        raise optuna.TrialPruned("no better than guessing")
    yield config.x / 10, None
"""

STUDY = """
[train]
objective = "own:fragile"
epochs = 1
broken = {broken}
[search]
sampler = "grid"
pruner = "none"
max_failures = 0
"""
POINTS = "".join(f"[[points]]\nx = {x}\n" for x in range(6))


def run_points(path: Path, broken: list[int]) -> str:
    """Run six trials in a folder, of which those of ``broken`` fail; return what their worker prints."""
    place = workplace_in(path)
    (path / "own.py").write_text(OWN.replace("config.broken", str(broken)))
    study = place.study(STUDY.replace("broken = {broken}\n", "") + POINTS)
    place.here("create", study)
    return place.here("worker", "small").err


@pytest.fixture(scope="module")
def partly_failed(once) -> Workplace:
    """Return a workplace where four trials of six failed and one is pruned. Tests only read it."""
    return workplace_in(once("partly-failed", lambda path: run_points(path, [0, 1, 2, 4])))


@pytest.fixture(scope="module")
def all_failed(once) -> Workplace:
    """Return a workplace where all six trials failed. Tests only read it."""
    return workplace_in(once("all-failed", lambda path: run_points(path, [*range(6)])))


def test_a_worker_says_where_a_traceback_is_and_prints_none(tmp_path):
    printed = run_points(tmp_path, [3])
    assert "hpo: trial 3 failed (ValueError: no picture 3 in this folder)" in messages(printed)
    (file,) = tmp_path.glob("storage/artifacts/*/0003/traceback.txt")
    assert [line.message for line in parse_lines(printed) if line.level == "ERROR"] == [
        f"trial 3: its traceback is in {file}"
    ]
    assert "ValueError: no picture 3 in this folder" in file.read_text()


def failure_lines(place: Workplace) -> list[str]:
    """Return the lines on failures that each verb has to show."""
    (folder,) = (each for each in (place.path / "storage/artifacts").iterdir() if each.name != "added")
    assert (folder / "0000/traceback.txt").is_file()
    return [
        "4 of 6 trials failed, each time: ValueError: no picture 0 to 4 in this folder",
        f"  traceback of trial 0: {folder}/0000/traceback.txt",
        "  once the cause is gone: hpo retry small --failed, then run the study again",
    ]


def test_run_best_and_status_say_how_many_trials_failed_and_why(partly_failed):
    lines = failure_lines(partly_failed)
    problem = f"problem: {lines[0]}; once the cause is gone: 'hpo retry small --failed'; traceback:"
    expected = {"run small.toml": "\n".join(lines), "best small": "\n".join(lines), "status small": problem}
    for words, told in expected.items():
        done = partly_failed.here(*words.split())
        assert told in done.out, words
        assert "1 of 6 trials was stopped early (pruned): no better than guessing" in done.out, words
    early = partly_failed.here("status", "small", "--json").json()["early_ends"]
    assert early["failed"] == {
        "count": 4,
        "reason": "ValueError: no picture 0 to 4 in this folder",
        "reason_count": 4,
        "first_trial": 0,
    }
    assert early["pruned"]["count"] == 1
    assert "4 of 6 trials failed" in partly_failed.here("launch", "small").err
    assert json.loads(partly_failed.here("best", "small", "--json").out)["trial"] == 3


def test_the_report_says_how_many_trials_failed_and_why(partly_failed):
    partly_failed.here("report", "small", "-o", "page.html")
    page = (partly_failed.path / "page.html").read_text()
    assert "<li>4 of 6 trials failed, each time: ValueError: no picture 0 to 4 in this folder</li>" in page
    assert "hpo retry small --failed" in page


def test_a_study_of_which_every_trial_failed_says_so_and_exits_with_1(all_failed):
    for words in (["run", "small.toml"], ["launch", "small"]):
        done = all_failed.here(*words, code=1)
        assert "none of its 6 trials succeeded" in done.err
        assert "6 of 6 trials failed, each time: ValueError: no picture 0 to 5 in this folder" in done.err
        assert "nothing to do" not in done.err
    assert "6 of 6 trials failed" in all_failed.here("best", "small", code=1).err


def test_failures_fit_narrow_terminals(partly_failed):
    for columns in (40, 80):
        out = partly_failed.here("status", "small", COLUMNS=str(columns)).out
        lines = out.splitlines()
        assert max(len(line) for line in lines if not line.startswith("logs:")) <= columns
        assert "4 of 6 trials failed, each time:" in " ".join(out.split())
