"""A study keeps to the images that it began with."""

import contextlib
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpo.artifacts.folders import Artifacts
from hpo.errors import ImagesChanged
from hpo.store import studies, study_images
from hpo.training.used_files import UsedFiles
from tests.support import lease_worker
from tests.support.databases import plain_sql
from tests.support.log_lines import without_context
from tests.support.processes import wait_for
from tests.support.workplace import Workplace, workplace_in

STUDY = """
[train]
dataset = "folder:./pets"
model = "squeezenet1_1"
image_size = 32
weights = "none"
precision = "fp32"
epochs = 1
lr = 0.01
[search]
sampler = "random"
pruner = "none"
trials = {trials}
[space]
batch_size = [4, 8, 16, 32]
"""


def add_images(place: Workplace, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name in ("cat", "dog"):
        folder = place.path / "pets" / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{seed}-{number}.bmp")


def stored(place: Workplace) -> str | None:
    """Return the attribute as it is in the database."""
    sql = plain_sql(f"sqlite:///{place.path}/storage/hpo.db")
    found = sql("SELECT value_json FROM study_system_attributes WHERE key = 'hpo:images'")
    return found[0][0] if found else None


@contextlib.contextmanager
def locked_store(file: Path) -> Iterator[None]:
    """Keep every other process from writing to a store of SQLite."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")


def lists(place: Workplace) -> list[Path]:
    return sorted((place.path / "storage/artifacts").glob("*/data-files-*.json"))


def states(place: Workplace) -> dict[str, int]:
    found = place.here("status", "small", "--json").json()["trials"]
    return {state: count for state, count in found.items() if count}


@pytest.fixture
def pets(workplace, once) -> Workplace:
    """Return a workplace with a study of one trial, which is complete."""

    def run(path: Path) -> None:
        place = workplace_in(path)
        add_images(place, 5, 0)
        place.here("create", place.study(STUDY.format(trials=1)))
        place.here("worker", "small")

    shutil.copytree(once("pets", run), workplace.path, dirs_exist_ok=True, copy_function=shutil.copy2)
    return workplace


def test_added_changed_and_removed_images_are_refused_by_every_verb_that_would_train_on_them(pets):
    longer = pets.study(STUDY.format(trials=3))
    pets.here("create", longer, "--set", "search.trials=2")
    changed, removed = pets.path / "pets/cat/0-0.bmp", pets.path / "pets/dog/0-4.bmp"
    before = {file: file.read_bytes() for file in (changed, removed)}
    changed.write_bytes(before[changed][:-1] + bytes([before[changed][-1] ^ 1]))  # of the same size
    removed.unlink()
    add_images(pets, 2, 1)
    for words, code in (
        (("worker", "small"), 78),
        (("run", longer), 1),
        (("create", longer), 1),
        (("run", longer, "--set", "search.trials=2"), 1),
    ):
        err = pets.here(*words, code=code).err
        assert without_context(err)[-1].startswith(
            "hpo: folder:./pets: not the images that study 'small' began with: 4 added ('cat/1-0.bmp', "
            "'cat/1-1.bmp', 'dog/1-0.bmp' and 1 more), 1 changed ('cat/0-0.bmp'), 1 removed "
            "('dog/0-4.bmp'). Results on different images cannot be compared: "
        )
        assert err.endswith("restore the images, or start a new study with --name\n")
        assert err.count("\n") == 1
    assert (
        "not the images that study 'small'" in pets.hpo("launch", "small", "--devices", "cpu", code=78).err
    )
    assert states(pets) == {"waiting": 1, "complete": 1}  # nothing was claimed, and nothing added
    others = ("--set", "train.dataset=folder:./others")
    (pets.path / "pets").rename(pets.path / "others")
    assert (
        "train.dataset: 'folder:./pets' -> 'folder:./others'"
        in pets.here("run", longer, *others, code=1).err
    )

    (pets.path / "others").rename(pets.path / "pets")
    for file in (pets.path / "pets").glob("*/1-*.bmp"):
        file.unlink()
    for file, content in before.items():
        file.write_bytes(content)
    pets.hpo("run", longer, "--devices", "cpu")
    assert states(pets) == {"complete": 3}


def test_of_two_workers_that_see_different_copies_one_is_refused(workplace):
    """The study was created where the folder is not, so the workers decide between them."""
    places = [workplace_in(workplace.path / name) for name in ("here", "there")]
    for seed, place in enumerate(places):
        place.path.mkdir()
        add_images(place, 5, seed)
    shared = {"HPO_STORE": f"sqlite:///{workplace.path}/hpo.db", "HPO_ARTIFACTS": f"{workplace.path}/files"}
    workplace.here("create", workplace.study(STUDY.format(trials=4)), **shared)
    with locked_store(workplace.path / "hpo.db"):
        processes = [place.start("worker", "small", **shared) for place in places]
        wait_for(lambda: len(list(workplace.path.glob("files/*/data-files-*.json"))) == 2)
    outputs = [each.communicate(timeout=300) for each in processes]
    assert sorted(each.returncode for each in processes) == [0, 78], outputs
    (err,) = (err for each, (_, err) in zip(processes, outputs, strict=True) if each.returncode == 78)
    assert "10 added ('cat/" in err
    assert "10 removed ('cat/" in err
    trials = workplace.here("trials", "small", "--json", **shared).json()
    assert [each["state"].lower() for each in trials] == ["complete"] * 4
    assert [each["user_attrs"]["attempts"] for each in trials] == [1] * 4  # the other one claimed none


def test_a_worker_killed_after_the_list_and_before_the_attribute_does_no_harm(workplace):
    add_images(workplace, 5, 0)
    (workplace.path / "pets").rename(workplace.path / "elsewhere")  # so that create knows nothing of it
    workplace.here("create", workplace.study(STUDY.format(trials=1)))
    (workplace.path / "elsewhere").rename(workplace.path / "pets")
    with locked_store(workplace.path / "storage/hpo.db"):
        worker = workplace.start("worker", "small")
        wait_for(lambda: lists(workplace))
        os.kill(worker.pid, signal.SIGKILL)
        worker.communicate()
    assert stored(workplace) is None
    add_images(workplace, 1, 1)
    workplace.here("worker", "small")
    assert states(workplace) == {"complete": 1}
    assert '"12 images, blake2b ' in str(stored(workplace))
    assert len(lists(workplace)) == 2
    assert "data-files" not in workplace.here("doctor", code=None).out


@pytest.mark.parametrize("damage", ["missing", "damaged", "a folder"])
def test_without_the_list_a_changed_folder_is_refused_without_names(pets, damage):
    (file,) = lists(pets)
    content = file.read_bytes()
    file.unlink()
    if damage == "damaged":
        file.write_bytes(content.replace(b"train", b"valid", 1))
    elif damage == "a folder":
        file.mkdir()
    add_images(pets, 1, 1)
    err = pets.here("run", pets.study(STUDY.format(trials=2)), code=1).err
    assert "then 10 images, now 12 images; their list cannot be read" in err
    assert err.count("\n") == 1
    assert "cat/" not in err


def test_a_study_without_a_fingerprint_gets_one_from_the_first_worker(pets):
    before, (file,) = stored(pets), lists(pets)
    file.unlink()
    sql = plain_sql(f"sqlite:///{pets.path}/storage/hpo.db")
    sql("DELETE FROM study_system_attributes WHERE key = 'hpo:images'")
    (pets.path / "pets").rename(pets.path / "elsewhere")
    pets.here("create", pets.study(STUDY.format(trials=2)))
    (pets.path / "elsewhere").rename(pets.path / "pets")
    assert stored(pets) is None
    pets.here("worker", "small")
    assert stored(pets) == before
    assert lists(pets) == [file]


def test_until_a_trial_has_run_an_epoch_create_takes_other_images(workplace):
    add_images(workplace, 5, 0)
    file = workplace.study(STUDY.format(trials=1))
    workplace.here("create", file)
    before = stored(workplace)
    add_images(workplace, 1, 1)
    refused = workplace.here("worker", "small", code=78).err
    assert "2 added" not in refused  # no worker has written the list
    assert refused.endswith(
        "no trial has run an epoch yet, so 'hpo create' with the study's file takes these images\n"
    )
    assert "study small already stored: 1 trials waiting" in workplace.here("create", file).out
    assert stored(workplace) not in (before, None)
    workplace.here("worker", "small")
    assert states(workplace) == {"complete": 1}


def test_published_data_sets_have_no_fingerprint(workplace):
    digits = STUDY.format(trials=1).replace("folder:./pets", "digits")
    workplace.here("create", workplace.study(digits), "--set", "train.limit=20")
    workplace.here("worker", "small")
    assert stored(workplace) is None
    assert lists(workplace) == []


def test_start_from_compares_images_not_paths(pets):
    text = STUDY.format(trials=2).replace('"random"', '"tpe"\nstart_from = ["small"]')
    file = pets.study(text, "later")

    def create(folder: str, *flags: str, code: int = 1) -> str:
        words = (file, "--set", f"train.dataset=folder:{folder}", "--name", f"from {folder[-4:]}", *flags)
        return pets.here("create", *words, code=code).err

    shutil.copytree(pets.path / "pets", pets.path / "moved")
    starts = "hpo: the sampler starts from 1 trial of study 'small'\n"
    assert create("moved", code=0) == starts
    assert "limit is nothing there and 8 here)" in create("moved", "--set", "train.limit=8", "--name", "x")
    add_images(pets, 1, 1)
    changed = create("./pets")
    assert "is not comparable ('folder:./pets' has other images now than it had there)" in changed
    shutil.copytree(pets.path / "pets", pets.path / "other")
    assert "is not comparable (dataset is 'folder:./pets' there and 'folder:other' here)" in create("other")
    sql = plain_sql(f"sqlite:///{pets.path}/storage/hpo.db")
    sql("UPDATE study_system_attributes SET value_json = '7' WHERE key = 'hpo:images'")
    assert create("./pets", "--name", "by-path", code=0) == starts


ONE, TWO, THREE = (UsedFiles(files={f"cat/{n}.png": "train 1 00"}).fingerprint for n in range(3))


def test_the_first_process_decides_and_only_a_study_that_has_not_begun_takes_others(first, second, url):
    stores, definition = [first.store, second.store], lease_worker.definition(3)
    assert study_images.read_images(first.store, definition).fingerprint is None
    with ThreadPoolExecutor(2) as pool:
        known = list(pool.map(study_images.set_images_once, stores, [definition] * 2, [ONE, TWO]))
    assert known[0] == known[1]
    assert known[0].fingerprint in (ONE, TWO)
    studies.create_study(first.store, definition, "text", THREE)
    assert study_images.read_images(second.store, definition).fingerprint == THREE
    studies.create_study(first.store, definition, "text")  # where the folder is not
    claim = second.claim()
    with pytest.raises(ImagesChanged):
        studies.create_study(first.store, definition, "text", ONE)
    studies.create_study(first.store, definition, "text", THREE)
    claim.release()
    studies.create_study(first.store, definition, "text", ONE)
    assert study_images.set_images_once(second.store, definition, TWO).fingerprint == ONE


def test_a_study_of_finish_must_have_the_images_of_its_source(first):
    definition = lease_worker.definition(3)
    finish = definition.model_copy(update={"name": "later", "finishes": definition.name})
    studies.create_study(first.store, finish, "text")
    known = study_images.set_images_once(first.store, finish, ONE)  # the source has none
    assert known == study_images.KnownImages(study="later", fingerprint=ONE)
    study_images.set_images_once(first.store, definition, TWO)
    known = study_images.set_images_once(first.store, finish, ONE)
    assert known == study_images.KnownImages(study=definition.name, fingerprint=TWO)


@pytest.mark.parametrize(
    "value", [7, "train 10 images, 2 classes, names 0123abcd", ONE + "x", "../" * 9, None]
)
def test_a_fingerprint_that_hpo_did_not_write_counts_as_none(first, value, tmp_path):
    definition = lease_worker.definition(3)
    study_id = studies.find_study_id(first.store, definition.name)
    first.store.set_study_system_attr(study_id, study_images.IMAGES, value)
    assert study_images.read_images(first.store, definition).fingerprint is None
    assert study_images.set_images_once(first.store, definition, ONE).fingerprint == ONE
    found = UsedFiles(files={"dog.png": "train 1 00"})
    error = study_images.changed_error(first.store, Artifacts(str(tmp_path)), definition, found)
    assert "then 1 images, now 1 images" in str(error)
