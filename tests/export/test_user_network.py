"""A network of the user's own as an exported model: its code is needed, but not in the folder."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from hpo.errors import ArtifactError, DefinitionError
from hpo.export import predict
from tests.support.exported import card_code

OWN = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, 2)
        self.register_buffer("mask", torch.tensor([True, False] * 4))
        self.fc = nn.Linear(8, num_classes)

    def forward(self, images):
        return self.fc(self.body(images).mean((2, 3)) * self.mask)


net = Net
"""

STUDY = """
[train]
dataset = "digits"
image_size = 32
limit = 64
model = "own:net"
weights = "none"
epochs = 1
[search]
sampler = "grid"
[[points]]
lr = 0.05
"""

CARD_SCRIPT = """
import json, sys
sys.modules.update(dict.fromkeys(["hpo", "optuna", "safetensors"]))
exec(sys.argv[1])
print(json.dumps(probabilities.tolist()))
"""


@pytest.fixture
def exported(workplace):
    """Return a workplace with an image, the code of a network, and a folder with the exported model."""
    (workplace.path / "own.py").write_text(OWN)
    Image.linear_gradient("L").save(workplace.path / "image.png")
    workplace.here("create", workplace.study(STUDY))
    workplace.here("worker", "small")
    workplace.here("export", "small", "--to", "model")
    return workplace


def test_a_network_of_the_users_own_is_exported_and_predicts_with_its_code(exported):
    (document,) = exported.here("predict", "model", "image.png", "--json", "--top", "10").json()
    expected = {each["label"]: each["probability"] for each in document["classes"]}
    card = (exported.path / "model/README.md").read_text()
    assert "Python must find the function `own:net`, which builds the network" in card
    assert "- torchvision" not in card

    code = card_code(exported.path / "model")
    shutil.copy(exported.path / "image.png", exported.path / "model")
    done = subprocess.run(
        [sys.executable, "-c", CARD_SCRIPT, code],
        cwd=exported.path / "model",
        env={**os.environ, "PYTHONPATH": str(exported.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    label, probabilities = done.stdout.splitlines()
    assert label == max(expected, key=lambda each: expected[each])
    labels = (exported.path / "model/labels.txt").read_text().splitlines()
    assert dict(zip(labels, json.loads(probabilities), strict=True)) == pytest.approx(expected, abs=1e-5)


def test_an_exported_network_needs_its_code_and_never_runs_code_from_the_folder(exported, monkeypatch):
    folder = exported.path / "model"
    (exported.path / "own.py").rename(folder / "own.py")
    done = exported.here("predict", "model", "image.png", code=1)
    lost = f"hpo: model/config.json: model: 'own:net': no module 'own' in {exported.path} or in the environ"
    assert done.err.startswith(lost)
    monkeypatch.chdir(folder)
    with pytest.raises(ArtifactError, match=r"contains own\.py, the code of its network, which is n"):
        predict.Predictor(folder)

    found = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(found | {"model": "os:system"}))
    with pytest.raises(DefinitionError, match="'os:system' cannot be called with num_classes alone"):
        predict.Predictor(folder)
