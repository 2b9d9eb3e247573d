"""The code in a model card predicts as hpo does, without hpo."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image

from hpo.export import card, predict
from hpo.training import catalog, models, presets, transforms
from hpo.training.config import Config
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


def export_untrained(folder: Path, name: str, pixels: torch.Tensor) -> None:
    """Write the folder of a model with random weights; check that hpo's own predictor computes the same."""
    torch.manual_seed(0)
    folder.mkdir()
    preset = presets.Preset(mean=(0.5, 0.4, 0.3), std=(0.3, 0.2, 0.25), interpolation="bicubic")
    ours = models.build_model(Config(model=name, weights="none", image_size=64), 3)
    for layer in ours.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    # Without batch norm statistics, the activations of an untrained model vanish.
    ours(transforms.normalise(pixels, preset))
    ours.eval()
    safetensors.torch.save_file(ours.state_dict(), folder / predict.WEIGHTS)
    (folder / predict.LABELS).write_text("a\nb\nc\n")
    described = predict.Description(
        model=name,
        arguments=catalog.builder_arguments(name, 3),
        preprocessing=predict.Preprocessing(pixels=64, grey=False, image_size=64, **asdict(preset)),
        settings={"dataset": "folder:none"},
        study="s",
        trial=0,
    )
    (folder / predict.CONFIG).write_text(described.model_dump_json())
    (folder / "README.md").write_text(card.model_card(described, METRICS, TRAINING_FACTS))
    with torch.inference_mode():
        expected = ours(transforms.normalise(pixels, preset))
    assert torch.equal(predict.Predictor(folder).logits(pixels), expected), name


@pytest.mark.parametrize(
    "names",
    [
        # Together, because each process takes seconds to import torch.
        ["alexnet", "mnasnet0_5", "googlenet", "regnet_x_400mf"],
        pytest.param(["vgg16"], marks=pytest.mark.slow),
    ],
    ids="+".join,
)
def test_exported_models_of_any_family_predict_the_same_with_and_without_hpo(tmp_path, names):
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
    files = [tmp_path / "0.png", tmp_path / "1.png"]
    for name in names:
        export_untrained(tmp_path / name, name, pixels)
    printed = iter(run_cards({tmp_path / name: files for name in names}))
    for name in names:
        predictor = predict.Predictor(tmp_path / name)
        for file in files:
            label, probabilities = next(printed)
            predictions = predictor.predict(file, 3)
            assert predictions[0].label == label, name
            # Random weights amplify differences in a pixel's last bits.
            assert [prediction.probability for prediction in predictions] == pytest.approx(
                sorted(probabilities, reverse=True), abs=1e-3
            ), name
    assert next(printed, None) is None


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
