"""``hpo predict``: images that cannot be read, and folders whose files are wrong."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from hpo.errors import ArtifactError, DataError, HpoError
from hpo.export import predict


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
        "hpo: pictures: no images in this folder; supported are .png .jpg .jpeg .bmp .webp .gif .tif .tiff",
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


CONFIG = {
    "model": "squeezenet1_1",
    "arguments": {"num_classes": 2},
    "preprocessing": {"pixels": 8, "grey": False, "image_size": 32},
    "settings": {},
    "study": "s",
    "trial": 0,
}
WRONG = [
    ("model", "../../x"),
    ("model", "os.system"),
    ("model", None),
    ("model", ["resnet18"]),
    ("arguments", {"num_classes": 0}),
    ("arguments", {"num_classes": -1}),
    ("arguments", {"num_classes": 10**12}),
    ("arguments", {"num_classes": "x"}),
    ("arguments", {"num_classes": float("nan")}),
    ("arguments", {"num_classes": 2, "weights": True}),
    ("arguments", {}),
    ("arguments", []),
    ("preprocessing", {"pixels": 0, "grey": False, "image_size": 32}),
    ("preprocessing", {"pixels": 10**9, "grey": False, "image_size": 32}),
    ("preprocessing", {"pixels": 8, "grey": False, "image_size": 2**40}),
    ("preprocessing", {"pixels": 8, "grey": False, "image_size": "/etc"}),
    ("preprocessing", None),
    ("settings", 5),
    ("trial", "../x"),
]


def refusal(folder) -> str:
    with pytest.raises(ArtifactError) as refused:
        predict.Predictor(folder)
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_description_that_hpo_does_not_write_is_refused_before_a_model_is_built(tmp_path, key, value):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {key: value}))
    assert f"config.json: {key}" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "9" * 5000, "\ud800", "null"])
def test_a_description_that_is_no_object_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogatepass"))
    assert "config.json: " in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 8, b"\x08" + b"\0" * 7 + b"{}", b"[" * 1000])
def test_weights_that_are_no_safetensors_are_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "labels.txt").write_text("a\nb\n")
    assert "cannot build squeezenet1_1 from it; export it again" in refusal(tmp_path)


def test_an_image_that_is_larger_than_allowed_is_refused_with_where_to_raise_that(winner, labels, tmp_path):
    copy = tmp_path / "winner"
    shutil.copytree(winner, copy)
    settings = json.loads((copy / "config.json").read_text())
    settings["preprocessing"]["max_pixels"] = 63
    (copy / "config.json").write_text(json.dumps(settings))
    file = next(iter(labels))
    with pytest.raises(DataError) as refused:
        predict.Predictor(copy).predict(Path(file), 1)
    assert str(refused.value) == (
        f"{file}: 8 x 8 pixels, more than the 63 of max_pixels; to predict it, raise that in "
        f"{copy / 'config.json'}"
    )
