"""Studies to export, and what a user without hpo runs in the folder."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
import pytest
from PIL import Image

from hpo.artifacts.folders import Artifacts
from hpo.errors import HpoError
from hpo.export import card
from hpo.export.folder import export_trial
from hpo.store import studies
from hpo.training import datasets
from hpo.training.config import Config
from tests.support.images import draw_images
from tests.support.workplace import Workplace, workplace_in

DIGITS = """
[train]
dataset = "digits"
image_size = 32
limit = 300
weights = "none"
epochs = 2
[search]
sampler = "grid"
[[points]]
model = "resnet18"
lr = 0.01
[[points]]
model = "squeezenet1_1"
lr = 0.001
epochs = 1
"""

FOLDER = """
[train]
dataset = "folder:{}"
image_size = 32
weights = "none"
selection = "test"
epochs = 1
[search]
sampler = "grid"
[[points]]
model = "resnet18"
lr = 0.01
"""

# What a user without hpo runs in each folder: the card's code as it is printed, and for each further image
# its part from the reading of the image on.
CARD_SCRIPT = """
import json, os, sys
sys.modules.update(dict.fromkeys(["hpo", "optuna", "safetensors"]))
from pathlib import Path

for folder, code, files in json.loads(sys.argv[1]):
    os.chdir(folder)
    names = {}
    for file in files:
        Path("image.png").symlink_to(file)
        exec(code, names)
        print(json.dumps(names["probabilities"].tolist()))
        Path("image.png").unlink()
        code = code[code.index("image = "):]
"""

METRICS = card.Metrics(
    chosen="the best of the search",
    study="s",
    trial=0,
    state="complete",
    metric="accuracy",
    value=0.5,
    split="valid",
    images=2,
    note="on the validation split",
    optimistic=False,
    epoch=1,
    epochs=1,
    values=[0.5],
    wall_time_seconds=1.0,
    epoch_seconds=[1.0],
    hardware={},
)
TRAINING_FACTS = card.TrainingFacts(labels=["a", "b", "c"], images={"train": 2}, skipped=0, params={})


def run_studies(path: Path) -> None:
    """Run a study on the digits and one on an image folder, and export the best trial of the digits."""
    workplace = workplace_in(path)
    draw_images(path / "images", ("Dreiecke ∆", "a|b"), 8)
    for name, text in (("digits", DIGITS), ("shapes", FOLDER.format(path / "images"))):
        workplace.here("create", workplace.study(text, name))
        workplace.here("worker", name)
    workplace.here("export", "digits", "--to", "winner")
    write_selection(path, limit=300)


def write_selection(path: Path, limit: int) -> dict[str, str]:
    """Write the digits that accuracy is measured on as files; return the class of each by its path."""
    split = datasets.load_dataset(Config(dataset="digits", limit=limit), path).selection
    (path / "selection").mkdir()
    labels = {}
    for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        file = path / f"selection/{number:03} {int(label)}.png"
        Image.fromarray(image[0].numpy()).save(file)
        labels[str(file)] = str(int(label))
    return labels


def export(
    workplace: Workplace, name: str, target: Path, number: int | None = None, root: str = ""
) -> card.Metrics:
    """Export in this process, because starting a new one takes seconds."""
    storage = studies.open_storage(f"sqlite:///{workplace.path}/storage/hpo.db", create=False)
    try:
        artifacts = Artifacts(root or str(workplace.path / "storage/artifacts"))
        return export_trial(storage, name, number, artifacts, target)
    finally:
        storage.engine.dispose()


def export_error(
    workplace: Workplace, name: str, target: Path, number: int | None = None, root: str = ""
) -> str:
    with pytest.raises(HpoError) as raised:
        export(workplace, name, target, number, root)
    return str(raised.value)


def trials_of(workplace: Workplace, name: str) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{workplace.path}/storage/hpo.db"
    return optuna.load_study(study_name=name, storage=storage).trials


def card_code(winner: Path) -> str:
    """Return the Python code in a folder's model card."""
    code = (winner / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert len(code.splitlines()) <= 12
    return code


def run_cards(images: dict[Path, Iterable[Any]]) -> list[tuple[str, list[float]]]:
    """Return the label that the code of each folder's card prints for each image, and all probabilities.

    Args:
        images: The images to classify, by the folder of the model. One process reads all of them.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    work = [(str(folder), card_code(folder), [*map(str, files)]) for folder, files in images.items()]
    command = [sys.executable, "-c", CARD_SCRIPT, json.dumps(work)]
    done = subprocess.run(command, cwd=next(iter(images)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    return [
        (label, json.loads(numbers)) for label, numbers in zip(printed[::2], printed[1::2], strict=True)
    ]


def accuracy(found: dict[str, str], labels: dict[str, str]) -> float:
    assert found.keys() == labels.keys()
    return sum(found[file] == label for file, label in labels.items()) / len(labels)
