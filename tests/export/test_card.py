"""The code in a model card predicts as hpo does, without hpo."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from hpo.export import card, predict
from hpo.training import catalog, models
from tests.support.exported import (
    METRICS,
    TRAINING_FACTS,
    accuracy,
    card_code,
    export,
    run_cards,
    trials_of,
)


@pytest.mark.parametrize("number", [0, 1])
def test_a_round_trip_gives_the_stored_accuracy_to_the_last_digit(finished, labels, number, tmp_path):
    folder = tmp_path / "trial"
    finished.here("export", "digits", "--trial", str(number), "--to", str(folder))
    stored = trials_of(finished, "digits")[number].value
    plain = dict(zip(labels, run_cards({folder: labels}), strict=True))
    assert accuracy({file: label for file, (label, _) in plain.items()}, labels) == stored
    documents = finished.here("predict", str(folder), *labels, "--json", "--top", "1").json()
    predicted = {each["image"]: each["classes"][0] for each in documents}
    assert accuracy({file: prediction["label"] for file, prediction in predicted.items()}, labels) == stored
    for file, (_, probabilities) in plain.items():
        assert predicted[file]["probability"] == pytest.approx(max(probabilities), abs=1e-5)


def test_the_card_s_code_preprocesses_new_images_as_hpo_does(finished, tmp_path):
    export(finished, "shapes", tmp_path / "winner")
    files = sorted(map(str, (finished.path / "images").rglob("pic *.*")))
    documents = finished.here("predict", str(tmp_path / "winner"), *files, "--json", "--top", "2").json()
    for document, (label, probabilities) in zip(
        documents, run_cards({tmp_path / "winner": files}), strict=True
    ):
        predictions = document["classes"]
        assert predictions[0]["label"] == label, document["image"]
        found = [prediction["probability"] for prediction in predictions]
        assert found == pytest.approx(sorted(probabilities, reverse=True), abs=1e-5)


def test_torchvision_builds_every_family_with_the_shapes_that_hpo_builds():
    families = {
        re.sub(r"[0-9].*|_(tiny|small|large|base|t|s|b)\b.*", "", name): name
        for name in catalog.model_names()
    }
    names = [name for name in families.values() if not name.startswith("regnet")]
    assert len(names) > 15
    for name in names:
        ours = catalog.build_on_meta(name)
        head, _ = models.get_head(ours)
        with torch.device("meta"):
            plain = torchvision.models.get_model(name, **catalog.builder_arguments(name, 7))
        theirs = {key: tuple(tensor.shape) for key, tensor in plain.state_dict().items()}
        expected = {key: tuple(tensor.shape) for key, tensor in ours.state_dict().items()}
        for key in {f"{head}.weight", f"{head}.bias"} & expected.keys():
            expected[key] = (7, *expected[key][1:])
        assert theirs == expected, name


def odd_images(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.fromarray(rng.integers(0, 256, (37, 61, 3), dtype=np.uint8))
    noise.save(folder / "turned.jpg", exif=exif, quality=95)
    noise.convert("L").save(folder / "grey.png")
    noise.convert("RGBA").save(folder / "transparent.png")
    noise.convert("P").save(folder / "palette.gif")
    noise.convert("CMYK").save(folder / "print.jpg")
    noise.resize((300, 20)).save(folder / "long.png")
    Image.fromarray(rng.integers(0, 65536, (30, 50), dtype=np.uint16)).save(folder / "deep.png")
    return sorted(folder.iterdir())


@pytest.mark.filterwarnings("ignore:unclosed file")  # the card's code leaves the file open
@pytest.mark.parametrize("study", ["digits", "shapes"])
def test_the_card_s_code_preprocesses_any_image_as_training_does(finished, tmp_path, study, monkeypatch):
    export(finished, study, tmp_path / "winner")
    predictor = predict.Predictor(tmp_path / "winner")
    model_inputs: list[torch.Tensor] = []
    predictor.model.register_forward_pre_hook(lambda _, inputs: model_inputs.append(inputs[0]))
    monkeypatch.chdir(tmp_path / "winner")
    (tmp_path / "odd").mkdir()
    for file in odd_images(tmp_path / "odd"):
        Path("image.png").unlink(missing_ok=True)
        Path("image.png").symlink_to(file)
        names: dict[str, Any] = {}
        exec(card_code(Path()).rpartition("print(")[0], names)
        plain = names["prepare"](names["image"].convert("RGB"))
        predictor.predict(file, 1)
        ours = model_inputs.pop()[0]
        assert plain.shape == ours.shape == (3, 32, 32)
        assert (plain - ours).abs().max() < 2e-6, file.name  # a pixel's step is 0.017


@pytest.mark.parametrize(("weights", "how"), [("none", "trained from scratch"), ("imagenet", "fine-tuned")])
def test_the_card_says_whether_a_model_was_fine_tuned(weights, how):
    described = predict.Description(
        model="alexnet",
        arguments=catalog.builder_arguments("alexnet", 3),
        preprocessing=predict.Preprocessing(pixels=64, grey=False, image_size=64),
        settings={"dataset": "folder:none", "weights": weights},
        study="s",
        trial=0,
    )
    assert f"of the study s, {how} and chosen with hpo" in card.model_card(
        described, METRICS, TRAINING_FACTS
    )
