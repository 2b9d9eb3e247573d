"""``hpo.Model`` and ``Study.export``: the same pixels and probabilities as the command."""

import numpy as np
import pytest
from PIL import Image

import hpo
from tests.support.databases import closed_engines
from tests.support.exported import run_studies
from tests.support.workplace import workplace_in


@pytest.fixture(scope="module")
def place(once):
    """Return a folder with two complete studies and an exported model."""
    return workplace_in(once("exported", run_studies))


@pytest.fixture(scope="module")
def images(place):
    """Return the files of some images."""
    return sorted((place.path / "selection").iterdir())[:6]


@pytest.fixture(scope="module")
def shapes(place, tmp_path_factory):
    """Return the folder of a model of colour images, exported from Python."""
    folder = tmp_path_factory.mktemp("shapes") / "model"
    with closed_engines():
        store = f"sqlite:///{place.path}/storage/hpo.db"
        study = hpo.load("shapes", store, artifacts=place.path / "storage/artifacts")
        metrics = study.export(folder)
        assert (metrics.study, metrics.trial, metrics.value) == ("shapes", 0, study.best()[0].value)
        with pytest.raises(hpo.HpoError, match="exists and is not an empty folder"):
            study.export(folder, trial=0)
        with pytest.raises(hpo.HpoError, match="has no trial 9"):
            study.export(folder.parent / "other", trial=9)
    return folder


def test_probabilities_are_those_of_the_command(place, images):
    model = hpo.Model(place.path / "winner")
    printed = place.here("predict", "winner", *map(str, images), "--top", "10", "--json").json()
    found = model.predict(images)
    assert [list(each.probabilities.items()) for each in found] == [
        [(each["label"], each["probability"]) for each in document["classes"]] for document in printed
    ]
    assert all(each.label == max(each.probabilities, key=each.probabilities.get) for each in found)
    assert all(each.probability == each.probabilities[each.label] for each in found)


def test_paths_images_and_arrays_give_the_same_bits(place, shapes):
    files = sorted((place.path / "images").glob("*/*"))[:5]
    model = hpo.Model(str(shapes))
    expected = model.predict(files)
    opened = []
    for file in files:
        with Image.open(file) as image:
            opened.append(image.convert("RGB"))
    assert model.predict([str(file) for file in files]) == expected
    assert model.predict(opened) == expected
    assert model.predict([np.array(each) for each in opened]) == expected
    assert [model.predict(each)[0] for each in opened] == expected
    same_size = np.stack([np.array(each.resize((40, 30))) for each in opened])
    assert model.predict(same_size) == model.predict(list(same_size))
    assert len(model.predict(same_size)) == 5


def test_an_image_in_memory_is_turned_upright_and_stays_as_it_is(shapes, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    for name in ("turned.jpg", "turned.tif"):
        Image.fromarray(pixels).save(tmp_path / name, exif=exif)
        with Image.open(tmp_path / name) as opened:
            model = hpo.Model(shapes)
            assert model.predict(opened) == model.predict(tmp_path / name)
            assert opened.size == (30, 20) or opened.format == "TIFF"  # PIL turns these when it loads them


def test_all_unreadable_images_are_told_at_once(shapes, tmp_path, images):
    (tmp_path / "text.png").write_text("no image")
    model = hpo.Model(shapes)
    with pytest.raises(hpo.HpoError) as raised:
        model.predict([images[0], tmp_path / "text.png", tmp_path / "gone.png"])
    message = str(raised.value)
    assert message.startswith(f"2 images cannot be used: {tmp_path}/text.png: not a readable image")
    assert f"{tmp_path}/gone.png: not a readable image (No such file or directory)" in message
    with pytest.raises(hpo.HpoError, match=r"^images\[1\]: not a usable image \(.*white"):
        model.predict([images[0], Image.new("F", (9, 9))])


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((9, 9)), r"float64 \[9, 9\]"),
        (np.zeros((3, 9, 9), np.uint8), r"uint8 \[3, 9, 9\]"),
        (np.zeros((0, 9, 9, 3), np.uint8), r"uint8 \[0, 9, 9, 3\]"),
        ([1], "int"),
    ],
)
def test_what_is_no_image_is_refused(shapes, image, found):
    with pytest.raises(hpo.HpoError, match=rf"^images\[0\]: want an? .*, found {found}$"):
        hpo.Model(shapes).predict(image)


def test_a_folder_that_was_not_exported_is_refused(tmp_path):
    with pytest.raises(hpo.HpoError, match="not a folder written by 'hpo export"):
        hpo.Model(tmp_path)


def test_a_model_says_what_it_is(place):
    assert repr(hpo.Model(place.path / "winner")).endswith("winner'): resnet18, 10 classes")
