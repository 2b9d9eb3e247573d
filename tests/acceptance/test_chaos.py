"""Fourteen points, four workers and whatever can die, through the real ``hpo launch``.

The study's objective is cheap but keeps a state, as training does: its weights after an epoch are a hash of
those before. So the weights' files say whether every epoch was run once, in order, from the right state.

``make soak`` runs the same for as long as wanted, with a seed of its own for each round, and with
databases that stay away for half a minute.
"""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from tests.support import postgres
from tests.support.databases import closed_engines
from tests.support.processes import wait_for
from tests.support.storm import KILLS, POINTS, STUDY, Storm, place_in, undisturbed


@pytest.fixture(scope="module")
def hashes(once: Callable[[str, Callable[[Path], None]], Path]) -> list[str]:
    def fill(path: Path) -> None:
        (path / "hashes.json").write_text(json.dumps(undisturbed(path)))

    return json.loads((once("undisturbed", fill) / "hashes.json").read_text())


def test_fourteen_points_survive_twenty_kills_and_come_to_the_same_bits(url, tmp_path, hashes):
    with Storm(tmp_path, url, seed=1) as storm:
        while sum(storm.kills.values()) < KILLS and storm.launcher.poll() is None:
            storm.kill()
        assert storm.launcher.wait(120) == 0, storm.said()
    storm.check(hashes)
    assert sum(storm.kills.values()) == KILLS
    assert storm.kills.keys() == {"claim", "epoch", "checkpoint", "tell"}
    assert "continues after epoch" in storm.said()


def test_a_worker_that_starts_while_the_database_is_unavailable_is_started_again(tmp_path, hashes):
    with postgres.running() as server, closed_engines(), Storm(tmp_path, server.url, 1) as storm:
        (pid, *_), *_ = wait_for(storm.running)
        server.stop("fast")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: "Connection refused; starting it again" in storm.said())
        server.start()
        assert storm.launcher.wait(120) == 0, storm.said()
        storm.check(hashes)


def test_six_launchers_at_once_on_an_empty_store_make_one_study_and_share_it(url, tmp_path):
    place = place_in(tmp_path)
    file = place.study(STUDY)
    command = ("run", file, "--set", "train.seconds=0.0", "--devices", "cpu:1")
    launchers = [place.start(*command, HPO_STORE=url) for _ in range(6)]
    outputs = [launcher.communicate(timeout=180) for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0] * 6, outputs
    assert not any("Traceback" in err for _, err in outputs)
    (study,) = optuna.get_all_study_summaries(url)
    trials = optuna.load_study(study_name=study.study_name, storage=url).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * POINTS
    assert {trial.user_attrs["attempts"] for trial in trials} == {1}
