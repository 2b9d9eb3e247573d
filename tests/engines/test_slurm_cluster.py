"""Workers by a real Slurm with two nodes, on a real Postgres with a password."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.engines import engine_study, slurm_cluster
from tests.support import postgres
from tests.support.databases import closed_engines
from tests.support.processes import wait_for
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
    wait_for(lambda: jobs(slurm) == [], 60)


def logs(at: Workplace, task: int | str = "*") -> str:
    paths = at.path.glob(f"storage/artifacts/*/logs/slurm-*_{task}.log")
    return "".join(path.read_text() for path in sorted(paths))


def state(at: Workplace) -> str:
    return at.hpo("status", "small", "--json").json()["state"]


def jobs(slurm) -> list[list[str]]:
    """Return task, state and node of every job that waits or runs."""
    return [line.split() for line in slurm.run("squeue", "-h", "-r", "-o", "%i %t %N").splitlines()]


def test_slurm_finishes_fourteen_points_although_a_job_is_requeued_and_a_node_dies(at, slurm, url):
    epochs = 8
    at.hpo("create", at.study(engine_study.study(epochs=epochs)))
    job = at.hpo("launch", "small", *GPU, "--workers", "2").out.split()[1].rstrip(":")
    wait_for(lambda: len(engine_study.nodes(at.path)) == 2, 60)
    outputs = [engine_study.command_lines(), slurm.run("scontrol", "show", "job", job)]
    assert at.hpo("status", "small", "--json").json()["logs"] == str(next(at.path.glob("**/logs")))
    outputs.append(slurm.run("scontrol", "write", "batch_script", f"{job}_0", "-"))

    # Well before the last epoch: otherwise the worker completes the trial instead of releasing it.
    wait_for(lambda: "epoch 2/" in logs(at, task=0).splitlines()[-1], 60)
    before = len(engine_study.progress(at.path))
    slurm.run("scontrol", "requeue", f"{job}_0")
    wait_for(lambda: len(engine_study.progress(at.path)) >= before + 5, 60)
    wait_for(lambda: len(jobs(slurm)) == 2 and all(each[1] == "R" for each in jobs(slurm)), 60)
    outputs.append(logs(at))
    assert "released" in outputs[-1], "the worker of the requeued job released its trial"

    wait_for(lambda: "n2" in {line["node"] for line in engine_study.progress(at.path)[-3:]}, 60)
    slurm.kill("n2")
    wait_for(lambda: state(at) == "complete", 120)
    engine_study.check(url, epochs=epochs)
    attempts = [trial.user_attrs["attempts"] for trial in engine_study.trials(url)]
    assert sum(attempts) - len(attempts) >= 2, (
        "a trial of the requeued job resumed, and one of the dead node"
    )
    assert list(engine_study.overlapping_epochs(at.path)) == []
    assert {line["device"] for line in engine_study.progress(at.path)} == {"0"}
    assert PASSWORD not in "".join([*outputs, logs(at)])
    print(json.dumps({"attempts": attempts, "epochs": len(engine_study.progress(at.path))}))


def test_at_the_time_limit_a_worker_saves_and_its_job_is_requeued_unless_cancelled(at, slurm, url):
    planned = 400
    at.hpo("create", at.study(engine_study.study(points=1, epochs=planned, seconds=0.2)))
    # Slurm signals the job ninety seconds before the limit of two minutes.
    job = at.hpo("launch", "small", *GPU, "--option", "time=2").out.split()[1].rstrip(":")
    wait_for(lambda: "attempt 2" in logs(at), 90)
    assert "released (asked to stop)" in logs(at)
    assert "Restarts=0" not in slurm.run("scontrol", "show", "job", f"{job}_0")
    trained = [line["epoch"] for line in engine_study.progress(at.path)]
    wait_for(lambda: len(engine_study.progress(at.path)) > len(trained))
    slurm.run("scancel", job)
    wait_for(lambda: jobs(slurm) == [], 60)
    epochs = [line["epoch"] for line in engine_study.progress(at.path)]
    assert epochs == list(range(1, len(epochs) + 1)), "no epoch ran twice"
    (trial,) = engine_study.trials(url)
    assert trial.state.name == "WAITING"
    assert sorted(trial.intermediate_values) == epochs
