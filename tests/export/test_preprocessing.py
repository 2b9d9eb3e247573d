"""Training, ``hpo predict`` and the card's code without hpo make the same pixels of a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hpo.export import card, predict
from hpo.training import catalog, datasets, image_files, presets
from tests.support.data_sets import folder_config
from tests.support.exported import METRICS, TRAINING_FACTS
from tests.support.images import random_images

SIZE = 32


def odd_files(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    noise = Image.fromarray(random_images(37, 91, 4, seed=1), "RGBA")
    plain = noise.convert("RGB")
    noise.save(folder / "rgba.png")
    noise.save(folder / "rgba.webp", lossless=True)
    noise.convert("LA").save(folder / "la.png")
    palette = plain.quantize(64)
    palette.save(folder / "palette.png", transparency=bytes(range(0, 256, 4)))
    palette.save(folder / "one.gif", transparency=3)
    frames = [palette.transpose(Image.Transpose.ROTATE_180)]
    palette.save(folder / "moving.gif", save_all=True, append_images=frames, transparency=5)
    plain.convert("L").save(folder / "grey.png", transparency=7)
    exif = Image.Exif()
    exif[0x0112] = 6
    plain.save(folder / "turned.jpg", exif=exif, quality=95)
    noise.save(folder / "turned.png", exif=exif)
    plain.convert("CMYK").save(folder / "print.jpg")
    Image.fromarray(np.arange(30 * 50, dtype=np.uint16).reshape(30, 50) * 43).save(folder / "deep.png")
    plain.convert("1").save(folder / "bits.png")
    plain.resize((300, 20)).save(folder / "long.bmp")
    return sorted(folder.iterdir())


def description(**preprocessing: Any) -> predict.Description:
    return predict.Description(
        model="squeezenet1_1",
        arguments=catalog.builder_arguments("squeezenet1_1", 3),
        preprocessing=predict.Preprocessing(pixels=SIZE, grey=False, image_size=SIZE, **preprocessing),
        settings={"dataset": "folder:none"},
        study="s",
        trial=0,
    )


def card_pixels(described: predict.Description, file: Path) -> np.ndarray:
    """Return what the lines of the card that read and prepare an image make of a file, as bytes."""
    text = card.model_card(described, METRICS, TRAINING_FACTS)
    code = text.partition("```python\n")[2].partition("```")[0].splitlines()
    lines = [line for line in code if line.startswith(("import", "PIL", "image =", "prepare ="))]
    names: dict[str, Any] = {}
    exec("\n".join(lines).replace("image.png", str(file)), names)
    prepared = names["prepare"](names["image"].convert("RGB"))
    seen = described.preprocessing
    mean, std = (torch.tensor(each)[:, None, None] for each in (seen.mean, seen.std))
    return ((prepared * std + mean) * 255).round().to(torch.uint8).numpy()


@pytest.mark.filterwarnings("ignore:unclosed file")  # the card's code leaves the file open
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
@pytest.mark.parametrize(
    ("transparency", "interpolation"),
    [("white", "bilinear"), ("black", "bicubic"), ("drop", "bilinear"), ("drop", "bicubic")],
)
def test_a_file_has_the_same_pixels_everywhere(tmp_path, resize, transparency, interpolation):
    options = {"resize": resize, "transparency": transparency, "interpolation": interpolation}
    described = description(**options)
    for file in odd_files(tmp_path / "data/odd"):
        reading = described.preprocessing.reading
        assert reading == image_files.Reading(size=SIZE, **options)
        ours = image_files.read_image(file, reading).pixels
        assert np.array_equal(card_pixels(described, file), ours), file.name


def test_training_reads_files_as_the_exported_folder_says(tmp_path):
    for seed, name in enumerate(("a", "b")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            image = Image.fromarray(random_images(30, 50, 4, seed=(seed, number)), "RGBA")
            image.save(tmp_path / f"data/{name}/{number}.png")
    for resize, transparency in (("crop", "white"), ("pad", "black"), ("squash", "drop")):
        config = folder_config(
            tmp_path / "data", image_size=SIZE, resize=resize, transparency=transparency, selection="test"
        )
        dataset = datasets.load_dataset(config, tmp_path)
        reading = description(resize=resize, transparency=transparency).preprocessing.reading
        files = sorted((tmp_path / "data").rglob("*.png"))
        expected = {image_files.read_image(file, reading).pixels.tobytes() for file in files}
        trained = [*dataset.train.images, *dataset.test.images]
        assert {image.numpy().tobytes() for image in trained} == expected


@pytest.mark.filterwarnings("ignore:unclosed file")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_card_accepts_as_large_images_as_training_does(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.fromarray(random_images(40, 50, 3)).save(tmp_path / "a.png")
    described = description(max_pixels=2000)
    read = image_files.read_image(tmp_path / "a.png", described.preprocessing.reading)
    assert np.array_equal(card_pixels(described, tmp_path / "a.png"), read.pixels)
    with pytest.raises(Image.DecompressionBombError):
        card_pixels(description(max_pixels=1998), tmp_path / "a.png")


def test_a_folder_of_an_older_version_drops_transparency_and_crops():
    fields = {"pixels": 8, "grey": False, "image_size": 32}
    seen = predict.Preprocessing.model_validate(fields)
    assert (seen.resize, seen.transparency, seen.max_pixels) == ("crop", "drop", 179_000_000)
    assert seen.preset == presets.IMAGENET


def test_the_card_says_what_happens_to_an_image():
    def steps(**options: Any) -> str:
        text = card.model_card(description(**options), METRICS, TRAINING_FACTS)
        return text.partition("## Preprocessing")[2].partition("## Settings")[0]

    assert "convert to RGB without transparency" in steps()
    assert "convert to RGB with white behind transparent pixels" in steps(transparency="white")
    assert "resize the shorter side to 32 pixels" in steps()
    assert (
        "resize the longer side to 32 pixels (bilinear, antialiased); fill the square with black"
        in steps(resize="pad")
    )
    assert "resize both sides to 32 pixels" in steps(resize="squash")
    assert "resize the shorter side to 32 pixels (bicubic, antialiased)" in steps(interpolation="bicubic")
    assert "subtract [0.5, 0.5, 0.5], then divide" in steps(mean=(0.5, 0.5, 0.5))
