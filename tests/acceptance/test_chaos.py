"""Fourteen points, four workers and whatever can die, through the real ``hpo launch``.

The study's objective is cheap but keeps a state, as training does: its weights after an epoch are a hash of
those before. So the weights' files say whether every epoch was run once, in order, from the right state.

``make soak`` runs the same for as long as wanted, with a seed of its own for each round, and with
databases that stay away for half a minute.
"""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from tests import conftest
from tests.acceptance.test_run import descendants
from tests.conftest import wait_for
from tests.support import postgres

OWN = """
import hashlib
import time
import torch


def step(weight, config, epoch):
    text = f"{config.speed} {epoch} {weight.tolist()}".encode()
    return torch.tensor(list(hashlib.sha256(text).digest()), dtype=torch.float32)


def chain(config, state):
    state = state or {"epoch": 0, "weight": torch.zeros(32)}
    while state["epoch"] < config.epochs:
        time.sleep(config.seconds)
        state["epoch"] += 1
        state["weight"] = step(state["weight"], config, state["epoch"])
        yield 1 - 1 / (1 + state["epoch"] * config.speed), state
"""

EPOCHS, POINTS, WORKERS, KILLS = 12, 14, 4, 20
LEASE_SECONDS = 5.0

STUDY = f"""
[train]
objective = "own:chain"
epochs = {EPOCHS}
seconds = 0.25

[search]
sampler = "grid"
max_attempts = 1000
""" + "".join(f"[[points]]\nspeed = {number}.0\n" for number in range(1, POINTS + 1))


class Storm:
    """A launched study, and what strikes it; a context in which its launcher runs."""

    def __init__(self, path: Path, url: str, seed: int) -> None:
        self.place, self.url, self.chance = place_in(path), url, random.Random(seed)
        self.sql = conftest.asking(url)
        self.kills: Counter[str] = Counter()
        self.place.here("create", self.place.study(STUDY), HPO_STORE=url)

    def __enter__(self) -> "Storm":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.launcher.poll() is None:
            for pid in [*descendants(self.launcher.pid), self.launcher.pid]:
                os.kill(pid, signal.SIGKILL)
            self.launcher.wait()

    def start(self) -> None:
        settings = {"HPO_STORE": self.url, "HPO_LEASE_SECONDS": str(LEASE_SECONDS)}
        with (self.place.path / "err").open("a") as err:
            self.launcher = subprocess.Popen(
                [*conftest.HPO, "launch", "small", "--devices", f"cpu:{WORKERS}"],
                cwd=self.place.path,
                env={**self.place.environment, **settings},
                stdin=subprocess.DEVNULL,
                stderr=err,
            )

    def said(self) -> str:
        return (self.place.path / "err").read_text()

    def running(self) -> list[tuple[int, int, int, int]]:
        """Give worker, trial, attempt and reported epoch of every lease that is held by a live process."""
        rows = self.sql(
            "SELECT owner, number, token, epoch FROM hpo_leases JOIN trials USING (trial_id) "
            "WHERE owner IS NOT NULL AND state = 'RUNNING' ORDER BY number"
        )
        held = [(int(owner.rpartition("/")[2]), *rest) for owner, *rest in rows]
        return [row for row in held if Path(f"/proc/{row[0]}").exists()]

    def victim(self, moment: str) -> int | None:
        """Give a worker at a moment: just after its claim, writing a file, at its last epoch, or any."""
        held = self.running()
        if moment == "claim":
            held = [row for row in held if row[1:3] not in self.seen]
            self.seen |= {row[1:3] for row in held}
        elif moment == "checkpoint":
            names = (path.parent.name for path in self.place.path.glob("storage/artifacts/*/*/*.draft"))
            writing = {int(name) for name in names}
            held = [row for row in held if row[1] in writing]
        elif moment == "tell":
            held = [row for row in held if row[3] >= EPOCHS - 1]
        return self.chance.choice(held)[0] if held else None

    def kill(self) -> None:
        """Kill a worker at a moment drawn by chance; at any, where that moment does not come."""
        self.seen = {row[1:3] for row in self.running()}
        moment = self.chance.choice(["claim", "epoch", "checkpoint", "tell"])
        end = time.monotonic() + 3.0
        pid = None
        while pid is None and self.launcher.poll() is None:
            if time.monotonic() > end:
                moment = "epoch"
            pid = self.victim(moment)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.kills[moment] += 1
            time.sleep(self.chance.uniform(0.0, 0.5))

    def freeze(self) -> None:
        """Stop a worker for longer than its lease, then wake it."""
        pid = self.victim("epoch")
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                time.sleep(LEASE_SECONDS + self.chance.uniform(0.5, 2.0))
                os.kill(pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill the launcher, whose workers then save and leave, and start another one at once."""
        if self.launcher.poll() is None:
            self.launcher.kill()
            self.launcher.wait()
            self.start()

    def check(self, hashes: list[str] | None = None) -> None:
        """Check what is promised whatever died."""
        trials = optuna.load_study(study_name="small", storage=self.url).trials
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * POINTS
        assert [trial.params for trial in trials] == [{"speed": float(n)} for n in range(1, POINTS + 1)]
        for trial in trials:
            assert sorted(trial.intermediate_values) == list(range(1, EPOCHS + 1))
            assert trial.value == max(trial.intermediate_values.values())
        rows = self.sql("SELECT trial_id, step, count(*) FROM trial_intermediate_values GROUP BY 1, 2")
        assert [count for _, _, count in rows] == [1] * (POINTS * EPOCHS)
        assert self.sql("SELECT count(*) FROM hpo_leases WHERE owner IS NOT NULL") == [(0,)]
        if hashes is not None:
            assert [digest(self.place, trial) for trial in trials] == hashes


def digest(place: conftest.Workplace, trial: optuna.trial.FrozenTrial) -> str:
    path = place.path / "storage/artifacts" / trial.user_attrs["weights"]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def place_in(path: Path) -> conftest.Workplace:
    path.mkdir(exist_ok=True)
    (path / "own.py").write_text(OWN)
    return conftest.Workplace(path=path, environment=dict(os.environ))


@pytest.fixture(scope="module")
def hashes(once: Callable[[str, Callable[[Path], None]], Path]) -> list[str]:
    def fill(path: Path) -> None:
        (path / "hashes.json").write_text(json.dumps(undisturbed(path)))

    return json.loads((once("undisturbed", fill) / "hashes.json").read_text())


def undisturbed(path: Path) -> list[str]:
    """Give the hashes of the weights of a run that nothing disturbed."""
    place = place_in(path)
    place.hpo("run", place.study(STUDY), "--set", "train.seconds=0.0", "--devices", "cpu:1")
    study = optuna.load_study(study_name="small", storage=f"sqlite:///{place.path}/storage/hpo.db")
    return [digest(place, trial) for trial in study.trials]


def test_fourteen_points_survive_twenty_kills_and_come_to_the_same_bits(url, tmp_path, hashes):
    with Storm(tmp_path, url, seed=1) as storm:
        while sum(storm.kills.values()) < KILLS and storm.launcher.poll() is None:
            storm.kill()
        assert storm.launcher.wait(120) == 0, storm.said()
    storm.check(hashes)
    assert sum(storm.kills.values()) == KILLS
    assert storm.kills.keys() == {"claim", "epoch", "checkpoint", "tell"}
    assert "goes on after epoch" in storm.said()


def test_a_worker_that_starts_while_the_database_is_away_is_started_again(tmp_path, hashes):
    with postgres.running() as server, conftest.closed_engines(), Storm(tmp_path, server.url, 1) as storm:
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
