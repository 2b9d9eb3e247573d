"""What --engine ray takes, without Ray; tests/engines has a real Ray run workers."""

import sys
import threading

import pytest

from hpo.errors import EngineError
from hpo.workers import ray
from hpo.workers.supervisor import WorkerGroup


def begin(**options: str) -> None:
    crew = WorkerGroup(study="small", workers=1, gpus=None, settings={}, options=options)
    next(ray.supervise_actors(crew, threading.Event(), print))


def test_without_ray_one_line_says_how_to_have_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as Python marks what is not to be found
    with pytest.raises(
        EngineError, match=r"Ray is not installed; install it with: pip install 'hpo-vision\[ray\]'"
    ):
        begin()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"num_gpu": "1"}, "--option num_gpu: want KEY=VALUE of address, accelerator_type, num_cpus, "),
        ({"num_gpus": ""}, "--option num_gpus: want KEY=VALUE of address, "),
        ({"num_gpus": "half"}, "--option num_gpus=half: want a number, as num_gpus=0.5"),
    ],
)
def test_an_option_that_ray_does_not_know_is_refused_in_one_line(options, line, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", object())  # the options are read before Ray is asked
    with pytest.raises(EngineError) as refused:
        begin(**options)
    assert str(refused.value).startswith(line)


def test_a_cluster_is_named_by_the_option_before_rays_own_variable(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert ray.cluster_address({"address": "auto"}) == "auto"
    assert ray.cluster_address({}) == "head:6379"
    monkeypatch.delenv("RAY_ADDRESS")
    assert ray.cluster_address({}) is None
