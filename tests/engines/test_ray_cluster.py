"""Workers of a real Ray with two nodes, each with a made-up GPU, on a real Postgres."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from hpo.workers import supervisor
from tests.engines import engine_study, ray_cluster
from tests.engines.engine_study import wait
from tests.support import postgres
from tests.support.databases import closed_engines
from tests.support.log_lines import messages
from tests.support.processes import descendants
from tests.support.workplace import Workplace

pytestmark = pytest.mark.engines
OWN = engine_study.OWN
PASSWORD = "sEcret-7/x"
RAY = ("--engine", "ray", "--devices", "cpu")


@pytest.fixture
def url() -> Iterator[str]:
    with postgres.running(password=PASSWORD) as running, closed_engines():
        yield sa.make_url(running.url).set(password=PASSWORD).render_as_string(hide_password=False)


@pytest.fixture
def ray() -> Iterator[ray_cluster.Cluster]:
    engine_study.require(ray_cluster.missing())
    with ray_cluster.running() as cluster:
        yield cluster


@pytest.fixture
def at(place, url) -> Workplace:
    settings = {"HPO_STORE": url, "HPO_LEASE_SECONDS": "5"}
    return Workplace(path=place.path, environment={**place.environment, **settings})


@contextlib.contextmanager
def launched(at: Workplace, *args: str, **settings: str) -> Iterator[Any]:
    """Run ``hpo launch`` with Ray, and kill its processes at the end of the block."""
    process = at.start("launch", "small", *RAY, *args, **settings)
    try:
        yield process
    finally:
        if process.poll() is None:
            for pid in [*descendants(process.pid), process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.communicate()


def actor_of(pid: int) -> int:
    """Return the parent process of a worker: its actor."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def has_died(pid: int) -> bool:
    path = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def last_worker(at: Workplace, node: str) -> int:
    """Return the worker that trained on a node last."""
    return next(line["pid"] for line in reversed(engine_study.progress(at.path)) if line["node"] == node)


def worker_in_second_epoch(at: Workplace, node: str) -> int | None:
    """Return the worker that trained on a node last, if that was the second epoch of its trial."""
    line = next((line for line in reversed(engine_study.progress(at.path)) if line["node"] == node), None)
    return line["pid"] if line and line["epoch"] == 2 else None


def test_ray_finishes_fourteen_points_although_an_actor_and_a_node_die(at, ray, url):
    epochs = 8
    engine_study.hold_after(at, 0)
    at.hpo("create", at.study(engine_study.study(epochs=epochs)))
    options = ("--workers", "2", "--option", f"address={ray.address}", "--option", "num_gpus=1")
    with launched(at, *options) as process:
        wait(lambda: engine_study.are_held(url, complete=0))
        engine_study.hold_after(at, 10)
        command_lines = engine_study.command_lines()
        worker = wait(lambda: worker_in_second_epoch(at, "r1"))
        os.kill(actor_of(worker), signal.SIGKILL)
        wait(lambda: has_died(worker))
        wait(lambda: engine_study.are_held(url, complete=10))  # also by the worker of the new actor
        worker = last_worker(at, "r2")
        ray.kill("r2")
        wait(lambda: has_died(worker))
        (at.path / "hold").unlink()
        out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    engine_study.check(url, epochs=epochs)
    attempts = [trial.user_attrs["attempts"] for trial in engine_study.trials(url)]
    assert sum(attempts) - len(attempts) >= 2, "trials of the dead actor and of the dead node resumed"
    assert list(engine_study.overlapping_epochs(at.path)) == []
    assert {line["device"] for line in engine_study.progress(at.path)} == {"0"}
    logs = "".join(
        path.read_text(errors="replace") for path in ray.session.glob("logs/**/*") if path.is_file()
    )
    assert PASSWORD not in command_lines + logs + out + err
    assert "complete, accuracy" in err
    print(json.dumps({"attempts": attempts, "epochs": len(engine_study.progress(at.path))}))


def test_ctrl_c_lets_rays_workers_save_and_two_share_a_device_only_where_asked(at, ray, url):
    at.hpo("create", at.study(engine_study.study(points=4, epochs=400)))
    half_devices = ("--option", "num_gpus=0.5", "--option", "num_cpus=0.5")
    half_devices += ("--option", f"address={ray.address}")
    with launched(at, "--workers", "4", "--grace-seconds", "300", *half_devices) as process:
        wait(lambda: len({line["pid"] for line in engine_study.progress(at.path)}) == 4)
        wait(lambda: next(engine_study.overlapping_epochs(at.path), None))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert err.count("released (asked to stop)") == 4
    assert [trial.state.name for trial in engine_study.trials(url)] == ["WAITING"] * 4
    epochs = [line["epoch"] for line in engine_study.progress(at.path)]
    assert len(epochs) == sum(len(trial.intermediate_values) for trial in engine_study.trials(url))


def test_a_local_ray_serves_an_sqlite_store_and_stops_on_a_fatal_error(place):
    engine_study.require(ray_cluster.missing())
    place.hpo("create", place.study(engine_study.study(points=2, epochs=2)))
    refused = place.hpo(
        "launch", "small", *RAY, "--option", "address=10.0.0.1:6379", code=supervisor.EXIT_FATAL
    )
    assert messages(refused.err)[0].startswith(
        "hpo: --engine ray, cluster 10.0.0.1:6379: an SQLite store works on one machine only"
    )
    (place.path / "own.py").rename(place.path / "renamed.py")
    # As in ``ray_cluster``: actors get on while other programs run.
    broken = place.hpo("launch", "small", *RAY, code=supervisor.EXIT_FATAL, RAY_worker_niceness="0")
    assert messages(broken.err)[-1].startswith("hpo: ")
    assert "own" in messages(broken.err)[-1]
    (place.path / "renamed.py").rename(place.path / "own.py")
    done = place.hpo("launch", "small", *RAY, RAY_worker_niceness="0")
    assert "trial 1 complete" in done.err
    study = optuna.load_study(study_name="small", storage=f"sqlite:///{place.path}/storage/hpo.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
