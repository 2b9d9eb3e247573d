"""The container's files, against schemas and against hpo itself; no container is run here."""

import re
import shlex
import tomllib

import kubernetes_validate
import pytest
import typer
import yaml

from hpo.cli.main import app
from hpo.workers import supervisor
from tests.support.workplace import ROOT

MANIFEST = ROOT / "storage/worker-job.yaml"
CONTAINERFILE = (ROOT / "Containerfile").read_text()


@pytest.fixture
def job() -> dict:
    return yaml.safe_load(MANIFEST.read_text())


@pytest.mark.parametrize("version", ["1.32", "1.37"])
def test_the_manifest_is_a_job_as_kubernetes_knows_it(job, version):
    kubernetes_validate.validate(job, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_would_be_found(job):
    job["spec"]["podFailurePolicy"]["rules"][0]["onPodCondition"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.37", strict=True)


def test_the_manifest_tells_a_failure_that_no_restart_can_mend_from_the_others(job):
    spec = job["spec"]
    ignored, fatal = spec["podFailurePolicy"]["rules"]
    assert (ignored["action"], ignored["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert (fatal["action"], fatal["onExitCodes"]["values"]) == ("FailIndex", [supervisor.EXIT_FATAL])
    assert spec["completionMode"] == "Indexed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > supervisor.GRACE_SECONDS


def test_the_store_comes_from_a_secret_and_the_command_is_one_of_hpos(job):
    (worker,) = job["spec"]["template"]["spec"]["containers"]
    (store,) = worker["env"]
    assert store["name"] == "HPO_STORE"
    assert "secretKeyRef" in store["valueFrom"]
    verb, *args = worker["args"]
    typer.main.get_command(app).commands[verb].make_context(verb, args)  # a usage error raises


def test_the_image_copies_what_is_here_and_installs_an_extra_that_there_is():
    for line in re.findall(r"^COPY (.*)$", CONTAINERFILE, re.MULTILINE):
        *sources, _ = shlex.split(line)
        assert all((ROOT / source).exists() for source in sources)
    (extra,) = re.findall(r"'\.\[(\w+)\]'", CONTAINERFILE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]
    assert project["readme"] in CONTAINERFILE
