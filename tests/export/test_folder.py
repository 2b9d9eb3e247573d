"""Exported models: the folder works without hpo, and predicts with the accuracy that the study measured."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import optuna
import pytest
import safetensors.torch
import torch
import torchvision
import yaml
from PIL import Image, ImageDraw

from hpo.artifacts.folders import Artifacts
from hpo.errors import HpoError
from hpo.export import card, predict
from hpo.export.folder import export_trial
from hpo.store import studies
from hpo.training import catalog, datasets, models, transforms
from hpo.training.config import Config
from tests.support.workplace import HPO, ROOT, Workplace, workplace_in

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

OWN = """
import torch

def climb(config, state):
    yield 0.5, {"epoch": 1, "weight": torch.zeros(2)}
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
    accuracy=0.5,
    split="valid",
    images=2,
    note="on the validation split",
    optimistic=False,
    epoch=1,
    epochs=1,
    accuracies=[0.5],
    wall_time_seconds=1.0,
    epoch_seconds=[1.0],
    hardware={},
)
TRAINING_FACTS = card.TrainingFacts(labels=["a", "b", "c"], images={"train": 2}, skipped=0, params={})


def draw_shape(kind: int, size: tuple[int, int], seed: int) -> Image.Image:
    """Draw a bright circle, square or triangle on a dark background."""
    rng = np.random.default_rng((kind, seed))
    image = Image.new("RGB", size, tuple(rng.integers(0, 60, 3).tolist()))
    draw, (x, y), side = ImageDraw.Draw(image), (size[0] // 2, size[1] // 2), min(size) // 3
    box, color = (x - side, y - side, x + side, y + side), tuple(rng.integers(150, 256, 3).tolist())
    if kind == 0:
        draw.ellipse(box, fill=color)
    elif kind == 1:
        draw.rectangle(box, fill=color)
    else:
        draw.polygon([(x, y - side), (x - side, y + side), (x + side, y + side)], fill=color)
    return image


def draw_images(folder: Path, names: tuple[str, ...], count: int) -> None:
    """Draw a folder of class folders, with images of different sizes, formats and modes."""
    kinds = (("jpg", "RGB"), ("png", "L"), ("png", "RGBA"), ("gif", "P"), ("JPG", "RGB"), ("webp", "RGB"))
    for kind, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            suffix, mode = kinds[number % len(kinds)]
            image = draw_shape(kind, (40 + 7 * number % 50, 40 + 11 * number % 60), number)
            image.convert(mode).save(folder / name / f"pic {number}.{suffix}")


def run_studies(path: Path) -> None:
    """Run a study on the digits and one on an image folder, and export the best trial of the digits."""
    workplace = workplace_in(path)
    draw_images(path / "images", ("Dreiecke ∆", "a|b"), 8)
    for name, text in (("digits", DIGITS), ("shapes", FOLDER.format(path / "images"))):
        workplace.here("create", workplace.study(text, name))
        workplace.here("worker", name)
    workplace.hpo("export", "digits", "--to", "winner")
    split = datasets.load_dataset(Config(dataset="digits", limit=300), path).selection
    (path / "selection").mkdir()
    for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        Image.fromarray(image[0].numpy()).save(path / f"selection/{number:03} {int(label)}.png")


@pytest.fixture(scope="module")
def finished(once) -> Workplace:
    """Return a workplace with both studies finished; tests only read it."""
    return workplace_in(once("exported", run_studies))


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


@pytest.fixture(scope="module")
def winner(finished) -> Path:
    """Return the folder of the digits' best trial, exported by the command."""
    return finished.path / "winner"


@pytest.fixture(scope="module")
def labels(finished) -> dict[str, str]:
    """Return the class of each image that accuracy was measured on, by the path of its file."""
    files = sorted((finished.path / "selection").iterdir())
    return {str(file): file.stem.partition(" ")[2] for file in files}


def card_code(winner: Path) -> str:
    """Return the Python code in a folder's model card."""
    code = (winner / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert len(code.splitlines()) == 10
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


# -- The round trip --------------------------------------------------------------------------------


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


def test_the_best_trial_is_exported_unless_another_is_named(finished, winner, tmp_path):
    best = finished.here("best", "digits", "--json").json()
    config = json.loads((winner / "config.json").read_text())
    assert (config["study"], config["trial"]) == ("digits", best["trial"])
    metrics = json.loads((winner / "metrics.json").read_text())
    assert (metrics["accuracy"], metrics["epoch"]) == (best["accuracy"], best["best_epoch"])
    trial = trials_of(finished, "digits")[best["trial"]]
    assert metrics["accuracies"] == list(trial.intermediate_values.values())
    other = tmp_path / "other"
    done = finished.here("export", "digits", "--trial", "1", "--to", str(other))
    assert done.out.startswith(f"trial 1 of study digits is in {other}\n")
    settings = json.loads((other / "config.json").read_text())["settings"]
    assert (settings["model"], settings["lr"], settings["epochs"]) == ("squeezenet1_1", 0.001, 1)


def test_a_pruned_trial_is_exported_with_the_accuracy_of_its_weights_epoch(finished, workplace):
    shutil.copytree(finished.path / "storage", workplace.path / "storage")
    database = f"sqlite:///{workplace.path}/storage/hpo.db"
    with studies.open_storage(database, create=False).transaction() as session:
        session.connection().exec_driver_sql("UPDATE trials SET state = 'PRUNED'")
        session.connection().exec_driver_sql("UPDATE trial_values SET value = 0.123")
    refused = export_error(workplace, "digits", workplace.path / "best")
    assert (
        "no complete trial yet; 'hpo export digits --trial 0' takes the best so far, which is pruned"
        in refused
    )
    export(workplace, "digits", workplace.path / "pruned", 0)
    trial = trials_of(workplace, "digits")[0]
    metrics = json.loads((workplace.path / "pruned/metrics.json").read_text())
    assert metrics["accuracy"] == trial.intermediate_values[trial.user_attrs["best_epoch"]]
    assert metrics["state"] == "pruned"
    assert (
        "| trial | pruned: it did not run all of its epochs |"
        in (workplace.path / "pruned/README.md").read_text()
    )


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
    ours = models.build_model(Config(model=name, weights="none", image_size=64), 3)
    for layer in ours.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    # Without batch norm statistics, the activations of an untrained model vanish.
    ours(transforms.normalise(pixels))
    ours.eval()
    safetensors.torch.save_file(ours.state_dict(), folder / predict.WEIGHTS)
    (folder / predict.LABELS).write_text("a\nb\nc\n")
    described = predict.Description(
        model=name,
        arguments=catalog.builder_arguments(name, 3),
        preprocessing=predict.Preprocessing(pixels=64, grey=False, image_size=64),
        settings={"dataset": "folder:none"},
        study="s",
        trial=0,
    )
    (folder / predict.CONFIG).write_text(described.model_dump_json())
    (folder / "README.md").write_text(card.model_card(described, METRICS, TRAINING_FACTS))
    with torch.inference_mode():
        expected = ours(transforms.normalise(pixels))
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


# -- Preprocessing ---------------------------------------------------------------------------------


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


# -- The folder ------------------------------------------------------------------------------------


def test_the_folder_is_complete_and_its_files_agree(finished, winner, labels):
    names = {"README.md", "config.json", "labels.txt", "metrics.json", "model.safetensors"}
    assert set(os.listdir(winner)) == names
    assert (winner / "labels.txt").read_text() == "".join(f"{digit}\n" for digit in range(10))
    assert not [name for name in os.listdir(finished.path) if "draft" in name]
    best = finished.here("best", "digits", "--json").json()
    weights = finished.path / "storage/artifacts" / best["weights"]
    assert (winner / "model.safetensors").read_bytes() == weights.read_bytes()
    _, block, text = (winner / "README.md").read_text().split("---\n", 2)
    (entry,) = yaml.safe_load(block)["model-index"]
    (result,) = entry["results"]
    assert result["dataset"] == {"name": "digits", "type": "images", "split": "validation"}
    assert result["metrics"][0]["value"] == best["accuracy"]
    measured = f"{best['accuracy']:.4f} on the validation split ({len(labels)} images)"
    assert f"| accuracy | {measured} |" in text
    for word in (
        f"digits, trial {best['trial']}",
        "seconds",
        "torch",
        "| lr | 0.0",
        "convert to grey",
        "8 pixels",
    ):
        assert word in text, word


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


def test_an_accuracy_that_was_chosen_on_the_test_split_is_marked(finished, tmp_path):
    done = finished.here("export", "shapes", "--to", str(tmp_path / "shapes"))
    assert "on the test split, which it was also chosen on: optimistic" in done.out
    metrics = json.loads((tmp_path / "shapes/metrics.json").read_text())
    assert (metrics["split"], metrics["optimistic"]) == ("test", True)
    text = (tmp_path / "shapes/README.md").read_text()
    assert "which it was also chosen on: optimistic" in text.partition("## ")[0], "the block of metadata"
    assert "which it was also chosen on: optimistic" in text.partition("## How good")[2]


def test_the_folder_reveals_no_host_name_or_local_path(finished, tmp_path):
    export(finished, "shapes", tmp_path / "given")
    trial = trials_of(finished, "shapes")[0]
    for name in ("README.md", "config.json", "metrics.json"):
        text = (tmp_path / "given" / name).read_text()
        assert str(finished.path) not in text
        assert f'"{trial.user_attrs["hardware"]["host"]}"' not in text
    settings = json.loads((tmp_path / "given/config.json").read_text())["settings"]
    assert settings["dataset"] == "folder:images"
    assert (tmp_path / "given/labels.txt").read_text() == "Dreiecke ∆\na|b\n"
    assert r"Classes: Dreiecke ∆, a\|b" in (tmp_path / "given/README.md").read_text()


def test_a_target_that_is_not_an_empty_folder_is_left_unchanged(finished, winner, tmp_path):
    before = {name: (winner / name).stat().st_mtime_ns for name in os.listdir(winner)}
    (tmp_path / "file").write_text("mine")
    for target in (winner, tmp_path / "file"):
        words = f"--to {target}: exists and is not an empty folder; choose a new folder"
        assert export_error(finished, "digits", target) == words
    assert {name: (winner / name).stat().st_mtime_ns for name in os.listdir(winner)} == before
    assert (tmp_path / "file").read_text() == "mine"
    assert export_error(finished, "digits", tmp_path / "file/below").endswith("below: Not a directory")
    (tmp_path / "empty").mkdir()
    export(finished, "digits", tmp_path / "empty")
    assert (tmp_path / "empty/model.safetensors").exists()


def test_damaged_weights_are_refused_and_leave_no_files(finished, tmp_path):
    artifacts = tmp_path / "artifacts"
    shutil.copytree(finished.path / "storage/artifacts", artifacts)
    weights = artifacts / trials_of(finished, "digits")[0].user_attrs["weights"]
    weights.write_bytes(weights.read_bytes()[:-100])
    refused = export_error(finished, "digits", tmp_path / "to/winner", 0, str(artifacts))
    assert refused.startswith(f"{weights}: is damaged, or not the weights of trial 0")
    weights.unlink()
    refused = export_error(finished, "digits", tmp_path / "to/winner", 0, str(artifacts))
    assert refused == f"{weights}: no such file; --artifacts or HPO_ARTIFACTS says where they are"
    assert os.listdir(tmp_path / "to") == []


def test_a_trial_with_artifacts_at_a_url_is_exported(finished, tmp_path):
    root = f"memory://{uuid.uuid4().hex}"
    artifacts = finished.path / "storage/artifacts"
    fsspec.filesystem("memory").put(f"{artifacts}/", f"{root}/", recursive=True)
    found = export(finished, "digits", tmp_path / "winner", 1, root)
    assert found.accuracy == trials_of(finished, "digits")[1].value
    assert predict.Predictor(tmp_path / "winner").description.model == "squeezenet1_1"
    refused = export_error(finished, "digits", tmp_path / "other", 1, "memory://nowhere")
    assert refused.startswith("memory:///nowhere/digits-")
    assert "settings.json: no such file" in refused


# -- Trials that cannot be exported ----------------------------------------------------------------


def test_missing_trials_and_trials_without_weights_are_refused_and_others_suggested(workplace):
    workplace.here("create", workplace.study(DIGITS, "digits"))
    target = workplace.path / "winner"
    for number, words in (
        (None, "study 'digits' has no complete trial yet"),
        (9, "study 'digits' has no trial 9"),
        (1, "trial 1 of study 'digits' is waiting and has no weights; with weights: none yet"),
    ):
        assert export_error(workplace, "digits", target, number).startswith(words)
    done = workplace.here("export", "digit", "--to", "winner", code=1)
    assert done.err == "hpo: no study 'digit' in the store; did you mean 'digits'? there are: digits\n"
    assert not target.exists()


def test_for_a_custom_objective_the_weights_file_is_named(place):
    text = '[train]\nobjective = "own:climb"\nepochs = 1\n[search]\nsampler = "grid"\n[[points]]\nx = 1\n'
    place.here("create", place.study(text))
    place.here("worker", "small")
    done = place.here("export", "small", "--to", "winner", code=1)
    assert done.err.startswith("hpo: study 'small' has a custom objective (own:climb)")
    assert done.err.count("\n") == 1
    assert torch.load(done.err.split()[-1], weights_only=True)["epoch"] == 1


# -- Predicting ------------------------------------------------------------------------------------


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_predicted(workplace, winner, labels):
    first, second, *_ = labels
    (workplace.path / "no.png").write_text("no image")
    (workplace.path / "pictures").mkdir()
    given = ("no.png", "gone.png", "pictures", "x" * 300)
    done = workplace.here("predict", str(winner), first, *given, second, code=1)
    assert [line.partition(": ")[0] for line in done.out.splitlines()] == [first, second]
    assert re.fullmatch(
        r"\d [01]\.\d{3}, \d [01]\.\d{3}, \d [01]\.\d{3}", done.out.splitlines()[0].split(": ")[1]
    )
    assert done.err.splitlines() == [
        "hpo: no.png: not a readable image (none of the formats PNG, JPEG, BMP, WEBP, GIF, TIFF)",
        "hpo: gone.png: not a readable image (No such file or directory)",
        "hpo: pictures: is a folder; give the images in it, for example pictures/*.jpg",
        f"hpo: '{'x' * 76}...: File name too long",
    ]
    documents = workplace.here("predict", str(winner), "gone.png", first, "--json", code=1).json()
    assert documents[0] == {
        "image": "gone.png",
        "error": "gone.png: not a readable image (No such file or directory)",
    }
    probabilities = [prediction["probability"] for prediction in documents[1]["classes"]]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)
    every = workplace.here("predict", str(winner), first, "--json", "--top", "99").json()[0]["classes"]
    assert len(every) == 10
    assert sum(prediction["probability"] for prediction in every) == pytest.approx(1)


def test_an_image_whose_name_is_not_utf8_is_predicted(workplace, winner, labels):
    name = os.fsdecode(b"\xff.png")
    shutil.copy(next(iter(labels)), workplace.path / name)
    done = workplace.hpo("predict", str(winner), name)
    assert done.out.startswith("?.png: ")


def test_a_folder_that_was_not_exported_or_is_incomplete_is_reported(finished, winner, tmp_path):
    def message(folder: Path) -> str:
        with pytest.raises(HpoError) as raised:
            predict.Predictor(folder)
        return str(raised.value)

    done = finished.here("predict", "digits", "x.png", code=1)
    assert done.err == "hpo: digits: not a folder written by 'hpo export NAME --to FOLDER'\n"
    assert "not a folder written by 'hpo export" in message(finished.path)
    copy = tmp_path / "winner"
    shutil.copytree(winner, copy)
    config = (copy / "config.json").read_text()
    found = json.loads(config)["model"]
    other = {"resnet18": "resnet34", "squeezenet1_1": "squeezenet1_0"}[found]
    (copy / "config.json").write_text(config.replace(f'"{found}"', f'"{other}"', 1))
    assert f"cannot build {other} from it" in message(copy)
    (copy / "config.json").write_text(config.replace('"pixels": 8', '"pixels": "eight"'))
    assert "config.json: preprocessing.pixels: " in message(copy)
    (copy / "config.json").write_text("{")
    assert "config.json: its text: Invalid JSON" in message(copy)
    (copy / "config.json").write_text(config)
    (copy / "labels.txt").write_text("one\n")
    assert "want 10 lines, one per class, found 1" in message(copy)
    (copy / "model.safetensors").unlink()
    assert "model.safetensors" in message(copy)


# -- Image folders ---------------------------------------------------------------------------------


def tutorial() -> list[str]:
    section = (ROOT / "README.md").read_text().partition("## Your own images")[2].partition("\n## ")[0]
    commands = [block for block in section.split("```")[1::2] if "hpo run" in block]
    return commands[0].strip().splitlines()


def test_the_readmes_tutorial_runs_unchanged(workplace):
    draw_images(workplace.path / "my-images", ("cats", "große Hunde", "two words"), 12)
    (workplace.path / "my-images/cats/notes.txt").write_text("not an image")
    scaled = {"train.weights": "none", "train.model": "resnet18", "train.image_size": "32"}
    scaled |= {"train.epochs": "1", "search.trials": "1"}
    hpo = workplace.path / "bin/hpo"
    hpo.parent.mkdir()
    hpo.write_text(f'#!/bin/sh\nexec {shlex.join(HPO)} "$@"\n')
    hpo.chmod(0o755)
    commands = tutorial()
    assert [command.split()[1] for command in commands] == ["run", "report", "export", "predict"]
    for command in commands:
        if command.startswith("hpo run"):
            command += " --devices cpu:1" + "".join(
                f" --set {key}={value}" for key, value in scaled.items()
            )
        environment = {**workplace.environment, "PATH": f"{hpo.parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            command, shell=True, cwd=workplace.path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if command.startswith("hpo run"):
            assert "ignored 1 file of other kinds, such as my-images/cats/notes.txt" in done.stderr
    photographs = list((workplace.path / "my-images").glob("*/*.jpg"))
    assert len(done.stdout.splitlines()) == len(photographs)
    assert "große Hunde 0." in done.stdout


def test_a_mistyped_folder_is_reported_before_a_study_is_stored(workplace):
    flags = ("--set", "train.weights=none", "--set", "train.dataset=folder:./my-imagse")
    done = workplace.here("run", "finetune", *flags, code=1)
    assert done.err == "hpo: train.dataset: 'folder:./my-imagse': there is no such folder\n"
    assert os.listdir(workplace.path) == []


@pytest.mark.parametrize("name", ["~nosuchuser/x", "x" * 300])
def test_create_refuses_a_folder_that_no_machine_can_have(workplace, name):
    flags = ("--set", "train.weights=none", "--set", f"train.dataset=folder:{name}")
    done = workplace.here("create", "finetune", *flags, code=1)
    assert done.err.startswith(f"hpo: train.dataset: 'folder:{name[:9]}")
    assert done.err.count("\n") == 1
    assert os.listdir(workplace.path) == []


def test_a_class_with_too_few_images_to_be_measured_is_named(tmp_path, caplog):
    draw_images(tmp_path, ("cats", "dogs"), 12)
    draw_images(tmp_path, ("one",), 1)
    datasets.load_dataset(Config(dataset=f"folder:{tmp_path}", image_size=16), tmp_path)
    assert "accuracy is measured without 'one': too few images" in caplog.text
    assert "ignored" not in caplog.text
