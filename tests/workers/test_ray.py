"""The options of --engine ray, without Ray; tests/engines runs workers on a real Ray."""

import errno
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hpo.errors import EngineError
from hpo.training.devices import WorkerDevice
from hpo.workers import ray
from hpo.workers.supervisor import DEFAULT_SUPERVISION, WorkerGroup


def start_supervision(**options: str) -> None:
    group = WorkerGroup(study="small", workers=1, gpus=None, settings={}, options=options)
    next(ray.supervise_actors(group, Path("logs"), threading.Event(), print))


def test_without_ray_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # marks the module as missing
    with pytest.raises(
        EngineError, match=r"Ray is not installed; install it with: pip install 'hpo-vision\[ray\]'"
    ):
        start_supervision()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"num_gpu": "1"}, "--option num_gpu: want KEY=VALUE of address, accelerator_type, num_cpus, "),
        ({"num_gpus": ""}, "--option num_gpus: want KEY=VALUE of address, "),
        ({"num_gpus": "half"}, "--option num_gpus=half: want a number, as num_gpus=0.5"),
    ],
)
def test_an_unknown_or_invalid_option_is_refused_in_one_line(options, line, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", object())  # the options are checked before Ray is used
    with pytest.raises(EngineError) as refused:
        start_supervision(**options)
    assert str(refused.value).startswith(line)


def test_an_actor_tells_a_missing_folder_from_a_worker_that_cannot_start(tmp_path, monkeypatch):
    def refused(*args, **options):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", refused)
    device = WorkerDevice(name="cpu", threads=1)
    absent, found = (
        ray.WorkerActor().supervise(
            "small", device, {}, str(folder), tmp_path / "logs", DEFAULT_SUPERVISION
        )
        for folder in (tmp_path / "absent", tmp_path)
    )
    assert absent.endswith("absent: No such file or directory; every node needs the same folders")
    assert f": no worker starts on cpu: {sys.executable}: Resource temporarily unavailable; " in found


def test_the_address_option_takes_precedence_over_rays_variable(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert ray.cluster_address({"address": "auto"}) == "auto"
    assert ray.cluster_address({}) == "head:6379"
    monkeypatch.delenv("RAY_ADDRESS")
    assert ray.cluster_address({}) is None
