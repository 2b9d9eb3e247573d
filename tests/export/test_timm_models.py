"""Models of timm from their study to an exported folder, which needs timm and torch but no hpo."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from hpo.export import predict
from tests.support.exported import accuracy, card_code, run_cards, trials_of, write_selection
from tests.support.timm_models import FAMILIES, SLOW_FAMILIES
from tests.support.workplace import workplace_in

STUDY = """
[train]
dataset = "digits"
image_size = 32
limit = 60
memory_format = "contiguous"
weights = "none"
epochs = 1
lr = 0.01
[search]
sampler = "grid"
"""


def train_and_export(path: Path, names: Iterable[str]) -> None:
    """Train one epoch of each model and export it; run each card's code on the images of its accuracy.

    Writes what was found for each model to ``found.json``, by its name.
    """
    workplace = workplace_in(path)
    points = (f'[[points]]\nmodel = "timm/{name}"\n' for name in names)
    workplace.here("create", workplace.study(STUDY + "".join(points), "digits"))
    workplace.here("worker", "digits")
    labels = write_selection(path, limit=60)
    found = {}
    for number, name in enumerate(names):
        workplace.here("export", "digits", "--trial", str(number), "--to", name)
        documents = workplace.here("predict", name, *labels, "--json", "--top", "10").json()
        found[name] = {"value": trials_of(workplace, "digits")[number].value, "predicted": documents}
    printed = iter(run_cards({path / name: labels for name in names}))
    for name in names:
        found[name]["printed"] = [next(printed) for _ in labels]
    (path / "found.json").write_text(json.dumps({"labels": labels, "models": found}))


def assert_alike(path: Path, name: str) -> None:
    """Check that hpo and the card's code answer as the model did when its accuracy was measured."""
    found = json.loads((path / "found.json").read_text())
    labels, model = found["labels"], found["models"][name]
    answers = dict(zip(labels, model["printed"], strict=True))
    assert accuracy({file: label for file, (label, _) in answers.items()}, labels) == model["value"]
    classes = (path / name / "labels.txt").read_text().splitlines()
    for document in model["predicted"]:
        label, probabilities = answers[document["image"]]
        assert document["classes"][0]["label"] == label
        predicted = {each["label"]: each["probability"] for each in document["classes"]}
        assert predicted == pytest.approx(dict(zip(classes, probabilities, strict=True)), abs=1e-5)


@pytest.fixture(scope="module")
def trained(once) -> Path:
    """Return a folder in which every family was trained and exported; tests only read it."""
    return once("timm", lambda path: train_and_export(path, FAMILIES))


@pytest.mark.parametrize("name", FAMILIES)
def test_an_exported_model_answers_as_in_training_with_and_without_hpo(trained, name):
    assert_alike(trained, name)


@pytest.mark.slow
def test_larger_exported_models_answer_as_in_training_with_and_without_hpo(tmp_path):
    train_and_export(tmp_path, SLOW_FAMILIES)
    for name in SLOW_FAMILIES:
        assert_alike(tmp_path, name)


def test_the_folder_says_which_model_of_timm_it_is_and_for_which_image_size(trained):
    folder = trained / "test_vit"
    described = predict.Predictor(folder).description
    assert described.model == "timm/test_vit"
    assert described.arguments == {"num_classes": 10, "img_size": 32}
    assert 'model = timm.create_model("test_vit", num_classes=10, img_size=32).eval()' in card_code(folder)
    assert "\n- timm\n" in (folder / "README.md").read_text()
    assert predict.Predictor(trained / "test_resnet").description.arguments == {"num_classes": 10}


def test_a_folder_with_a_model_that_timm_lacks_is_refused(trained, tmp_path):
    described = json.loads((trained / "test_vit/config.json").read_text()) | {"model": "timm/nothing"}
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(predict.ArtifactError, match="torchvision, timm/NAME, or package"):
        predict.Predictor(tmp_path)
