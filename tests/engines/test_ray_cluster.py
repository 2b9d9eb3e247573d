"""Workers by a real Ray: clusters of two nodes with a made-up GPU each, on a real Postgres."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from hpo.workers import supervisor
from tests.engines import ray_cluster, replay
from tests.support import postgres
from tests.support.databases import closed_engines
from tests.support.processes import descendants, wait_for
from tests.support.workplace import Workplace

pytestmark = pytest.mark.engines
OWN = replay.OWN
PASSWORD = "sEcret-7/x"
RAY = ("--engine", "ray", "--devices", "cpu")


@pytest.fixture
def url() -> Iterator[str]:
    with postgres.running(password=PASSWORD) as running, closed_engines():
        yield sa.make_url(running.url).set(password=PASSWORD).render_as_string(hide_password=False)


@pytest.fixture
def ray() -> Iterator[ray_cluster.Cluster]:
    replay.want(ray_cluster.missing())
    with ray_cluster.running() as cluster:
        yield cluster


@pytest.fixture
def at(place, url) -> Workplace:
    settings = {"HPO_STORE": url, "HPO_LEASE_SECONDS": "5"}
    return Workplace(path=place.path, environment={**place.environment, **settings})


@contextlib.contextmanager
def launched(at: Workplace, *args: str, **settings: str) -> Iterator[Any]:
    """Run ``hpo launch`` by Ray; nothing of it outlives the block."""
    process = at.start("launch", "small", *RAY, *args, **settings)
    try:
        yield process
    finally:
        if process.poll() is None:
            for pid in [*descendants(process.pid), process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.communicate()


def holder(pid: int) -> int:
    """Give the process that a worker is the child of: its actor."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_gone(pid: int) -> bool:
    path = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def latest(at: Workplace, node: str) -> int:
    """Give the worker that trained on a node last."""
    return next(line["pid"] for line in reversed(replay.progress(at.path)) if line["node"] == node)


def beginner(at: Workplace, node: str) -> int | None:
    """Give the worker that trained on a node last, if its trial has come to the second epoch of many."""
    line = next((line for line in reversed(replay.progress(at.path)) if line["node"] == node), None)
    return line["pid"] if line and line["epoch"] == 2 else None


def test_ray_finishes_fourteen_points_though_an_actor_and_a_node_die(at, ray, url):
    epochs = 8
    at.hpo("create", at.study(replay.study(epochs=epochs)))
    asked = ("--workers", "2", "--option", f"address={ray.address}", "--option", "num_gpus=1")
    with launched(at, *asked) as process:
        wait_for(lambda: len(replay.nodes(at.path)) == 2, 120)
        seen = replay.command_lines()
        orphan = wait_for(lambda: beginner(at, "r1"))
        os.kill(holder(orphan), signal.SIGKILL)
        wait_for(lambda: is_gone(orphan), 15)
        wait_for(lambda: latest(at, "r1") != orphan, 60)
        orphan = wait_for(lambda: beginner(at, "r2"))
        ray.kill("r2")
        wait_for(lambda: is_gone(orphan), 15)
        out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    replay.check(url, epochs=epochs)
    attempts = [trial.user_attrs["attempts"] for trial in replay.trials(url)]
    assert sum(attempts) - len(attempts) >= 2, "trials of the actor and of the node that died went on"
    assert list(replay.shared(at.path)) == []
    assert {line["device"] for line in replay.progress(at.path)} == {"0"}
    logs = "".join(
        path.read_text(errors="replace") for path in ray.session.glob("logs/**/*") if path.is_file()
    )
    assert PASSWORD not in seen + logs + out + err
    assert "complete, accuracy" in err
    print(json.dumps({"attempts": attempts, "epochs": len(replay.progress(at.path))}))


def test_ctrl_c_lets_rays_workers_save_and_two_share_a_device_only_where_asked(at, ray, url):
    at.hpo("create", at.study(replay.study(points=4, epochs=400)))
    halves = ("--option", f"address={ray.address}", "--option", "num_gpus=0.5", "--option", "num_cpus=0.5")
    with launched(at, "--workers", "4", *halves) as process:
        wait_for(lambda: len({line["pid"] for line in replay.progress(at.path)}) == 4, 120)
        wait_for(lambda: next(replay.shared(at.path), None), 30)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert time.monotonic() - begun < supervisor.GRACE_SECONDS + 10
    assert err.count("released (asked to stop)") == 4
    assert [trial.state.name for trial in replay.trials(url)] == ["WAITING"] * 4
    epochs = [line["epoch"] for line in replay.progress(at.path)]
    assert len(epochs) == sum(len(trial.intermediate_values) for trial in replay.trials(url))


def test_ray_alone_on_this_machine_serves_an_sqlite_store_and_ends_where_no_restart_helps(place):
    replay.want(ray_cluster.missing())
    place.hpo("create", place.study(replay.study(points=2, epochs=2)))
    refused = place.hpo(
        "launch", "small", *RAY, "--option", "address=10.0.0.1:6379", code=supervisor.EXIT_FATAL
    )
    assert refused.err.startswith(
        "hpo: --engine ray, cluster 10.0.0.1:6379: an SQLite store works on one machine only"
    )
    (place.path / "own.py").rename(place.path / "away.py")
    broken = place.hpo("launch", "small", *RAY, code=supervisor.EXIT_FATAL)
    assert broken.err.splitlines()[-1].startswith("hpo: ")
    assert "own" in broken.err.splitlines()[-1]
    (place.path / "away.py").rename(place.path / "own.py")
    done = place.hpo("launch", "small", *RAY)
    assert "trial 1 complete" in done.err
    study = optuna.load_study(study_name="small", storage=f"sqlite:///{place.path}/storage/hpo.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
