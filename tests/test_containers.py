"""The container files, checked against schemas and against hpo. No container is run."""

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
def test_the_manifest_is_a_valid_kubernetes_job(job, version):
    kubernetes_validate.validate(job, version, strict=True)


def test_validation_rejects_an_unknown_field(job):
    job["spec"]["podFailurePolicy"]["rules"][0]["onPodCondition"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.37", strict=True)


def test_the_manifest_fails_on_fatal_errors_and_ignores_disruptions(job):
    spec = job["spec"]
    ignored, fatal = spec["podFailurePolicy"]["rules"]
    assert (ignored["action"], ignored["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert (fatal["action"], fatal["onExitCodes"]["values"]) == ("FailIndex", [supervisor.EXIT_FATAL])
    assert spec["completionMode"] == "Indexed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > supervisor.GRACE_SECONDS


def test_the_manifest_takes_the_store_from_a_secret_and_runs_a_valid_command(job):
    (worker,) = job["spec"]["template"]["spec"]["containers"]
    (store,) = worker["env"]
    assert store["name"] == "HPO_STORE"
    assert "secretKeyRef" in store["valueFrom"]
    command, *args = worker["args"]
    typer.main.get_command(app).commands[command].make_context(command, args)  # raises on wrong usage


def test_the_image_copies_existing_files_and_installs_an_existing_extra():
    for line in re.findall(r"^COPY (.*)$", CONTAINERFILE, re.MULTILINE):
        *sources, _ = shlex.split(line)
        assert all((ROOT / source).exists() for source in sources)
    (extra,) = re.findall(r"'\.\[(\w+)\]'", CONTAINERFILE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]
    assert project["readme"] in CONTAINERFILE
