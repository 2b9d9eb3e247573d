"""One study run by several engines, which share leases and orders through the store."""

import signal
import tempfile
from pathlib import Path

import pytest

from tests.engines import engine_study, ray_cluster, slurm_cluster
from tests.engines.engine_study import wait
from tests.support import postgres
from tests.support.databases import closed_engines
from tests.support.workplace import Workplace

pytestmark = pytest.mark.engines
OWN = engine_study.OWN
EPOCHS = 40  # so many that orders come before the study is complete, on a busy machine, too
# CPU workers; the options below reserve a made-up GPU for each.
GPU = ("--devices", "cpu", "--workers", "2")


@pytest.fixture
def clusters():
    engine_study.require(slurm_cluster.missing() or ray_cluster.missing())
    with (
        tempfile.TemporaryDirectory(prefix="hpo-slurm-") as folder,
        slurm_cluster.running(Path(folder)) as slurm,
        ray_cluster.running() as ray,
    ):
        yield slurm, ray


def test_a_study_runs_locally_then_by_slurm_then_by_ray(place, clusters):
    slurm, ray = clusters
    with postgres.running() as server, closed_engines():
        settings = {"HPO_STORE": server.url, "SLURM_CONF": slurm.environment["SLURM_CONF"]}
        at = Workplace(path=place.path, environment={**place.environment, **settings})
        at.hpo("create", at.study(engine_study.study(epochs=EPOCHS)))

        launcher = at.start("launch", "small", "--devices", "cpu:2")
        wait(lambda: len(engine_study.progress(at.path)) >= 6)
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(300) == 130
        launcher.communicate()

        at.hpo("launch", "small", "--engine", "slurm", *GPU, "--option", "gres=gpu:1")
        wait(lambda: {"n1", "n2"} < engine_study.nodes(at.path))
        at.here("pause", "small")
        wait(lambda: status(at)["workers"] == [])
        paused = len(engine_study.progress(at.path))
        assert status(at)["state"] == "paused"
        assert len(slurm.run("squeue", "-h", "-r", "-t", "RUNNING").splitlines()) == 2, "the workers wait"
        at.here("resume", "small")
        wait(lambda: len(engine_study.progress(at.path)) > paused and status(at)["trials"]["complete"])
        at.here("stop", "small")
        wait(lambda: slurm.run("squeue", "-h") == "")
        stopped = status(at)
        assert (stopped["state"], stopped["workers"]) == ("stopped", [])
        assert 0 < stopped["trials"]["complete"] < 14
        at.here("resume", "small")

        options = ("--option", "num_gpus=1", "--option", f"address={ray.address}")
        at.hpo("launch", "small", "--engine", "ray", *GPU, *options)
        engine_study.check(server.url, epochs=EPOCHS)
        assert sum(trial.user_attrs["attempts"] for trial in engine_study.trials(server.url)) > 14
        assert len(engine_study.progress(at.path)) == 14 * EPOCHS, "no epoch ran twice"
        assert engine_study.nodes(at.path) == {"here", "n1", "n2", "r1", "r2"}
        assert all(one["node"] == "here" for one, _ in engine_study.overlapping_epochs(at.path))


def status(at: Workplace) -> dict:
    return at.here("status", "small", "--json").json()
