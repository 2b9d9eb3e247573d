"""One study by several engines: orders and leases speak through the store."""

import signal
import tempfile
from pathlib import Path

import pytest

from tests.engines import ray_cluster, replay, slurm_cluster
from tests.support import postgres
from tests.support.databases import closed_engines
from tests.support.processes import wait_for
from tests.support.workplace import Workplace

pytestmark = pytest.mark.engines
OWN = replay.OWN
GPU = ("--devices", "cpu", "--workers", "2")  # CPU workers; the option below has each hold a made-up GPU


@pytest.fixture
def clusters():
    replay.want(slurm_cluster.missing() or ray_cluster.missing())
    with (
        tempfile.TemporaryDirectory(prefix="hpo-slurm-") as folder,
        slurm_cluster.running(Path(folder)) as slurm,
        ray_cluster.running() as ray,
    ):
        yield slurm, ray


def test_a_study_begins_here_goes_on_with_slurm_and_ends_with_ray(place, clusters):
    slurm, ray = clusters
    with postgres.running() as server, closed_engines():
        settings = {"HPO_STORE": server.url, "SLURM_CONF": slurm.environment["SLURM_CONF"]}
        at = Workplace(path=place.path, environment={**place.environment, **settings})
        at.hpo("create", at.study(replay.study()))

        launcher = at.start("launch", "small", "--devices", "cpu:2")
        wait_for(lambda: len(replay.progress(at.path)) >= 6)
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(30) == 130
        launcher.communicate()

        at.hpo("launch", "small", "--engine", "slurm", *GPU, "--option", "gres=gpu:1")
        wait_for(lambda: {"n1", "n2"} < replay.nodes(at.path))
        at.hpo("pause", "small")
        wait_for(lambda: status(at)["workers"] == [])
        paused = len(replay.progress(at.path))
        assert status(at)["state"] == "paused"
        assert len(slurm.ask("squeue", "-h", "-r", "-t", "RUNNING").splitlines()) == 2, "they wait"
        at.hpo("resume", "small")
        wait_for(lambda: len(replay.progress(at.path)) > paused)
        at.hpo("stop", "small")
        wait_for(lambda: slurm.ask("squeue", "-h") == "")
        stopped = status(at)
        assert (stopped["state"], stopped["workers"]) == ("stopped", [])
        assert 0 < stopped["trials"]["complete"] < 14
        at.hpo("resume", "small")

        options = ("--option", "num_gpus=1", "--option", f"address={ray.address}")
        at.hpo("launch", "small", "--engine", "ray", *GPU, *options)
        replay.check(server.url)
        assert sum(trial.user_attrs["attempts"] for trial in replay.trials(server.url)) > 14
        assert len(replay.progress(at.path)) == 14 * replay.EPOCHS, "no epoch was run twice"
        assert replay.nodes(at.path) == {"here", "n1", "n2", "r1", "r2"}
        assert all(one["node"] == "here" for one, _ in replay.shared(at.path))


def status(at: Workplace) -> dict:
    return at.hpo("status", "small", "--json").json()
