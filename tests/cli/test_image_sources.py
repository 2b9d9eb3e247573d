"""Trials on published image files and on a list of own images, from the command line."""

import json
import os

import pytest

from tests.support.file_sets import pack_file_set, write_file_set
from tests.support.images import write_images

STUDY = """
[train]
dataset = "{}"
image_size = 32
model = "squeezenet1_1"
weights = "none"
epochs = 1
batch_size = 4
[search]
trials = 1
sampler = "random"
pruner = "none"
[space]
lr = [0.01, 0.1]
"""


def facts_of_trained(place, count):
    """Return what is stored about the images of a study whose trials are complete."""
    states = [each["state"] for each in place.here("trials", "small", "--json").json()]
    assert states == ["complete"] * count
    (file,) = place.path.glob("storage/artifacts/small-*/data.json")
    return json.loads(file.read_text())


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("oxford_pets", {"train": [4, 4, 5], "valid": [0, 1, 1], "test": [2, 2, 2]}),
        ("imagenette", {"train": [4, 4, 5], "valid": [2, 2, 2], "test": [0, 1, 1]}),
    ],
)
def test_a_trial_runs_on_archives_in_the_data_folder(workplace, monkeypatch, name, images):
    data = workplace.path / "storage/data"
    write_file_set(name, data, monkeypatch)
    pack_file_set(name, data, monkeypatch)
    text = STUDY.format(name) + "[[points]]\nlr = 0.1\nimage_size = 48\n"
    workplace.here("create", workplace.study(text))
    workplace.here("worker", "small")
    facts = facts_of_trained(workplace, 2)
    assert {split: sorted(counts) for split, counts in facts["images"].items()} == images
    assert facts["transparency"] == "white"


def test_the_images_of_a_published_set_are_shown_and_planned(workplace, monkeypatch):
    write_file_set("eurosat", workplace.path / "storage/data", monkeypatch)
    study = workplace.study(STUDY.format("eurosat"))
    done = workplace.here("data", study)
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[0] == "data set eurosat: 18 images"
    assert "all 14 2 2 18" in lines
    assert "formats 17 JPEG, 1 GIF" in lines
    forecast = workplace.here("plan", study, "--devices", "cpu:1", "--json").json()
    assert forecast
    found = workplace.here("doctor", code=None).out
    assert "eurosat" in found
    assert "stl10" in found


@pytest.fixture
def pets(workplace):
    write_images(workplace.path / "lists/pictures", {"cat": 6, "dog": 6})
    write_list(workplace)
    return workplace


def write_list(place, swapped=0):
    lines = [
        f"pictures/{pet}/{number:03}.png,{'dog' if number < swapped else pet}"
        for pet in ("cat", "dog")
        for number in range(6)
    ]
    (place.path / "lists/pets.csv").write_text("\n".join(["path,label", *lines]))


def test_a_study_of_a_list_keeps_to_the_labels_that_it_began_with(pets):
    text = STUDY.format("list:lists/pets.csv")
    pets.here("create", pets.study(text))
    pets.here("worker", "small")
    images = facts_of_trained(pets, 1)["images"]
    assert {split: sum(counts) for split, counts in images.items()} == {"train": 10, "valid": 1, "test": 1}
    pets.here("create", longer := pets.study(text.replace("trials = 1", "trials = 2")))
    write_list(pets, swapped=1)
    for args, code in ((("create", longer), 1), (("worker", "small"), 78)):
        err = pets.here(*args, code=code).err
        assert "list:lists/pets.csv: not the images that study 'small' began with: 1 changed (" in err
    write_list(pets)
    pets.here("worker", "small")
    assert pets.here("status", "small", "--json").json()["trials"]["complete"] == 2
    pets.here("export", "small", "--to", "winner")
    settings = json.loads((pets.path / "winner/config.json").read_text())["settings"]
    assert settings["dataset"] == "list:pets.csv", "an exported folder does not tell where the list was"


def test_a_wrong_list_is_refused_before_a_study_is_stored(pets):
    (pets.path / "lists/pets.csv").write_text("path,label\npictures/cat/000.png,\npictures/cat/9.png,cat\n")
    for verb in ("create", "run", "plan", "data"):
        err = pets.here(verb, pets.study(STUDY.format("list:lists/pets.csv")), code=1).err
        assert "list:lists/pets.csv': line 2: no label; line 3: there is no file" in err
    assert "storage" not in os.listdir(pets.path)


def test_a_list_may_be_on_the_workers_machine_alone(workplace):
    study = workplace.study(STUDY.format("list:elsewhere.csv"))
    workplace.here("create", study)
    err = workplace.here("worker", "small", code=78).err
    assert "train.dataset: 'list:elsewhere.csv': there is no such file" in err
    assert "there is no such file" in workplace.here("run", study, code=1).err
