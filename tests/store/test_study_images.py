"""A study keeps to the images that it began with."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpo.errors import DataError
from hpo.store import studies, study_images
from tests.support.workplace import Workplace, workplace_in

STUDY = """
[train]
dataset = "folder:./pets"
model = "squeezenet1_1"
image_size = 32
weights = "none"
epochs = 1
lr = 0.01
[search]
sampler = "random"
pruner = "none"
trials = {trials}
[space]
batch_size = [8, 16]
"""


def add_images(place: Workplace, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name in ("cat", "dog"):
        folder = place.path / "pets" / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{seed}-{number}.png")


def run_pets(path: Path) -> None:
    place = workplace_in(path)
    add_images(place, 5, 0)
    place.here("create", place.study(STUDY.format(trials=1)))
    place.here("worker", "small")


def test_a_study_is_not_continued_on_other_images(tmp_path):
    run_pets(tmp_path)
    place = workplace_in(tmp_path)
    place.here("create", place.study(STUDY.format(trials=2)))
    add_images(place, 50, 1)
    err = place.here("worker", "small", code=78).err
    assert "folder:./pets: its images have changed since study 'small' began" in err
    assert "Then: 'train 10 images, 2 classes, names " in err
    assert "now: 'train 110 images, 2 classes, names " in err
    for file in (tmp_path / "pets").glob("*/1-*.png"):
        file.unlink()
    place.here("worker", "small")
    assert place.here("status", "small", "--json").json()["trials"]["complete"] == 2


def test_images_may_change_until_a_trial_has_reported(tmp_path):
    place = workplace_in(tmp_path)
    add_images(place, 5, 0)
    place.here("create", place.study(STUDY.format(trials=1)))
    storage = studies.open_storage(f"sqlite:///{tmp_path}/storage/hpo.db", create=False)
    definition = studies.read_definition(storage, "small")
    for found in ("one", "two", "two"):
        study_images.check_images(storage, definition, found)
    study = studies.find_study_id(storage, "small")
    assert storage.get_study_system_attrs(study)[study_images.IMAGES] == "two"
    number = storage.create_new_trial(study)
    storage.set_trial_intermediate_value(number, 1, 0.5)
    study_images.check_images(storage, definition, "two")
    with pytest.raises(DataError, match=r"Then: 'two'; now: 'three'"):
        study_images.check_images(storage, definition, "three")
    finish = definition.model_copy(update={"name": "small-finish", "finishes": "small"})
    with pytest.raises(DataError, match=r"study 'small' began"):
        study_images.check_images(storage, finish, "three")
