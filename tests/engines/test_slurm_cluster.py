"""Workers by a real Slurm with two nodes, on a real Postgres with a password."""

import contextlib
import json
import socket
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.engines import engine_study, slurm_cluster
from tests.engines.engine_study import wait
from tests.support import postgres
from tests.support.databases import closed_engines
from tests.support.log_lines import LogLine, parse_lines
from tests.support.workplace import Workplace

pytestmark = pytest.mark.engines
OWN = engine_study.OWN
PASSWORD = "sEcret-7/x"
# CPU workers that reserve a made-up GPU.
GPU = ("--engine", "slurm", "--devices", "cpu", "--option", "gres=gpu:1")


@pytest.fixture(scope="module")
def slurm() -> Iterator[slurm_cluster.Cluster]:
    engine_study.require(slurm_cluster.missing())
    with tempfile.TemporaryDirectory(prefix="hpo-slurm-") as folder, contextlib.ExitStack() as stack:
        yield stack.enter_context(slurm_cluster.running(Path(folder)))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres.running(password=PASSWORD) as running:
        yield sa.make_url(running.url).set(password=PASSWORD).render_as_string(hide_password=False)


@pytest.fixture
def url(server) -> Iterator[str]:
    with closed_engines(), postgres.database(server) as created:
        yield created


@pytest.fixture
def at(place, slurm, url) -> Iterator[Workplace]:
    """Yield a workplace whose commands use this Slurm and this store; cancel its jobs afterwards."""
    settings = {"HPO_STORE": url, "HPO_LEASE_SECONDS": "5", "SLURM_CONF": slurm.environment["SLURM_CONF"]}
    yield Workplace(path=place.path, environment={**place.environment, **settings})
    slurm.run("scancel", "--user", "root")
    wait(lambda: jobs(slurm) == [])


def logs(at: Workplace, task: int | str = "*") -> str:
    paths = at.path.glob(f"storage/artifacts/*/logs/slurm-*_{task}.log")
    return "".join(path.read_text() for path in sorted(paths))


def log_lines(at: Workplace) -> list[LogLine]:
    """Return the lines of all logs, but for those in which Slurm says that it ends a task."""
    every = logs(at).splitlines()
    return parse_lines("\n".join(line for line in every if not line.startswith("slurmstepd-")))


def told(at: Workplace) -> list[tuple[str, int, str]]:
    """Return event, attempt and reason of all that happened to trials."""
    found = at.hpo("events", "small", "--json").json()
    return [(e["event"], e["attempt"], e.get("reason", "")) for e in found if "attempt" in e]


def state(at: Workplace) -> str:
    return at.hpo("status", "small", "--json").json()["state"]


def jobs(slurm) -> list[list[str]]:
    """Return task, state and node of every job that waits or runs."""
    return [line.split() for line in slurm.run("squeue", "-h", "-r", "-o", "%i %t %N").splitlines()]


def minutes_run(slurm, job: str) -> int:
    """Return for how many whole minutes a job has run."""
    (line,) = slurm.run("squeue", "-h", "-j", job, "-o", "%S").splitlines()
    return int(time.time() - datetime.fromisoformat(line).timestamp()) // 60


def test_slurm_finishes_fourteen_points_although_a_job_is_requeued_and_a_node_dies(at, slurm, url):
    epochs = 8
    engine_study.hold_after(at, 0)
    at.hpo("create", at.study(engine_study.study(epochs=epochs)))
    job = at.hpo("launch", "small", *GPU, "--workers", "2").out.split()[1].rstrip(":")
    wait(lambda: engine_study.are_held(url, complete=0))
    outputs = [engine_study.command_lines(), slurm.run("scontrol", "show", "job", job)]
    assert at.hpo("status", "small", "--json").json()["logs"] == str(next(at.path.glob("**/logs")))
    outputs.append(slurm.run("scontrol", "write", "batch_script", f"{job}_0", "-"))

    engine_study.hold_after(at, 10)
    # Well before the last epoch: otherwise the worker completes the trial instead of releasing it.
    wait(lambda: "epoch 2/" in logs(at, task=0).splitlines()[-1])
    slurm.run("scontrol", "requeue", f"{job}_0")
    wait(lambda: engine_study.are_held(url, complete=10))  # also by the requeued job
    outputs.append(logs(at))
    assert "released" in outputs[-1], "the worker of the requeued job released its trial"

    slurm.kill("n2")
    (at.path / "hold").unlink()
    wait(lambda: state(at) == "complete")
    engine_study.check(url, epochs=epochs)
    attempts = [trial.user_attrs["attempts"] for trial in engine_study.trials(url)]
    assert sum(attempts) - len(attempts) >= 2, (
        "a trial of the requeued job resumed, and one of the dead node"
    )
    assert list(engine_study.overlapping_epochs(at.path)) == []
    assert {line["device"] for line in engine_study.progress(at.path)} == {"0"}
    lines = log_lines(at)
    assert {line.study for line in lines} == {"small"}
    assert {line.trial for line in lines} >= {str(number) for number in range(14)}
    assert PASSWORD not in "".join([*outputs, logs(at)])
    print(json.dumps({"attempts": attempts, "epochs": len(engine_study.progress(at.path))}))


def test_at_the_time_limit_a_worker_saves_and_its_job_is_requeued_unless_cancelled(at, slurm, url):
    at.hpo("create", at.study(engine_study.study(points=1, epochs=4000, seconds=0.2)))
    job = at.hpo("launch", "small", *GPU).out.split()[1].rstrip(":")
    wait(lambda: len(engine_study.progress(at.path)) >= 3)
    # Slurm signals the job ninety seconds before its limit.
    slurm.run("scontrol", "update", f"jobid={job}_0", f"timelimit={minutes_run(slurm, job) + 2}")
    wait(lambda: "released (asked to stop)" in logs(at))
    wait(lambda: "Restarts=0" not in slurm.run("scontrol", "show", "job", f"{job}_0"))
    slurm.run("scontrol", "update", f"jobid={job}_0", "timelimit=60")
    wait(lambda: "attempt 2" in logs(at))
    trained = [line["epoch"] for line in engine_study.progress(at.path)]
    wait(lambda: len(engine_study.progress(at.path)) > len(trained))
    slurm.run("scancel", job)
    wait(lambda: jobs(slurm) == [])
    epochs = [line["epoch"] for line in engine_study.progress(at.path)]
    assert epochs == list(range(1, len(epochs) + 1)), "no epoch ran twice"
    (trial,) = engine_study.trials(url)
    assert trial.state.name == "WAITING"
    *_, last = told(at)
    assert told(at)[:3] == [("claimed", 1, ""), ("released", 1, "asked to stop"), ("claimed", 2, "")]
    assert last == ("released", trial.user_attrs["attempts"], "asked to stop")
    assert sorted(trial.intermediate_values) == epochs


@contextlib.contextmanager
def another_password(at: Workplace, url: str) -> Iterator[None]:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("ALTER ROLE postgres PASSWORD 'another'")
        try:
            yield
        finally:
            connection.exec_driver_sql(f"ALTER ROLE postgres PASSWORD '{PASSWORD}'")
    engine.dispose()


@contextlib.contextmanager
def no_objective(at: Workplace, url: str) -> Iterator[None]:
    (at.path / "own.py").rename(at.path / "renamed.py")
    yield
    (at.path / "renamed.py").rename(at.path / "own.py")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (another_password, "password authentication failed"),
        (no_objective, "train.objective: no module 'own'"),
    ],
)
def test_an_error_that_no_restart_mends_ends_a_task_with_78_and_slurm_leaves_it_ended(
    at, slurm, url, broken, said
):
    at.hpo("create", at.study(engine_study.study(points=1, epochs=1)))
    job = at.hpo("launch", "small", *GPU, "--option", "hold=").out.split()[1].rstrip(":")
    with broken(at, url):
        slurm.run("scontrol", "release", job)
        wait(lambda: jobs(slurm) == [])
    ended = slurm.run("scontrol", "show", "job", f"{job}_0")
    assert {"JobState=FAILED", "ExitCode=78:0", "Requeue=1", "Restarts=0"} < set(ended.split())
    (line,) = log_lines(at)
    assert (line.level, line.study, line.trial, line.source) == ("ERROR", "small", "-", "hpo")
    assert line.host == socket.gethostname()
    assert said in line.message
    assert PASSWORD not in line.message
    at.hpo("launch", "small", *GPU)
    wait(lambda: state(at) == "complete")
