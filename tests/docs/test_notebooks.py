"""The documentation's notebooks run from their first cell to their last, in a real Jupyter kernel."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support import postgres
from tests.support.pages import DOCS
from tests.support.s3 import BUCKET, KEYS, S3, running_s3
from tests.support.workplace import ROOT

pytestmark = pytest.mark.processes

NOTEBOOKS = sorted(path.stem for path in (DOCS / "notebooks").glob("*.ipynb"))
STORE = "postgresql://hpo_worker@db.example/hpo?sslmode=require"
# What the tests add to a notebook's overrides, so that it takes seconds.
SMALL = {
    "quickstart": {"train.limit": 64},
    "own-images": {
        "train.weights": "none",
        "train.model": "resnet18",
        "train.image_size": 32,
        "train.epochs": 1,
        "train.limit": 64,
        "search.trials": 2,
    },
}
RUN = """
import sys
import nbclient, nbformat

notebook = nbformat.reads(sys.stdin.read(), 4)
nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
print(nbformat.writes(notebook))
"""


@pytest.fixture
def s3() -> Iterator[S3]:
    with running_s3() as server:
        yield server


def source(name: str) -> dict:
    return json.loads((DOCS / "notebooks" / f"{name}.ipynb").read_text())


def run(place, text: str, **settings: str) -> str:
    """Run a notebook in a folder, and return it with its outputs."""
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=place.path,
        env={**place.environment, "PYTHONPATH": str(ROOT), **settings},
        input=text,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_without_outputs(name):
    for cell in source(name)["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize(
    "name",
    [
        "quickstart",
        "own-images",
        "own-objective",
        pytest.param("fourteen-points", marks=pytest.mark.slow),
    ],
)
def test_a_notebook_runs_on_an_empty_folder(workplace, name):
    text = json.dumps(source(name))
    for key, value in SMALL.get(name, {}).items():
        added = json.dumps(f'overrides={{"{key}": {json.dumps(value)}, ')[1:-1]
        assert "overrides={" in text
        text = text.replace("overrides={", added)
    assert "is <b>complete</b>" in run(workplace, text)


@pytest.mark.postgres
def test_the_worker_on_colab_completes_a_study_that_is_stored_elsewhere(workplace, cluster, s3):
    with postgres.database(cluster) as url:
        elsewhere = {**KEYS, "AWS_ENDPOINT_URL": s3.url(), "HPO_STORE": url}
        elsewhere["HPO_ARTIFACTS"] = f"s3://{BUCKET}/vision"
        small = ("--set", "search.trials=1", "--set", "train.epochs=1", "--set", "train.limit=64")
        workplace.here("create", "quickstart", "--name", "finetune", *small, **elsewhere)
        text = json.dumps(source("colab-worker"))
        assert STORE in text
        text = text.replace(STORE, url).replace("s3://bucket/", f"s3://{BUCKET}/")
        run(workplace, text, **elsewhere)
        assert "finetune is complete" in workplace.here("status", "finetune", **elsewhere).out
    assert any(name.endswith(".safetensors") for name in s3.names())
    assert not (workplace.path / "storage/artifacts").exists()
