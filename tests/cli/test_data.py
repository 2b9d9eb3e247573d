"""``hpo data``, and what run, create and plan say of a folder before a study is stored."""

import hashlib
import io
import shutil

import pytest
from PIL import Image

from hpo.export.sheet import GAP_PIXELS, LABEL_PIXELS
from hpo.training import image_files
from tests.support.images import write_images
from tests.support.log_lines import messages, without_context

STUDY = """
[train]
dataset = "folder:pets"
image_size = 64
model = "resnet18"
weights = "none"
epochs = 1
[space]
lr = [0.01, 0.1]
[search]
trials = 1
"""


@pytest.fixture
def pets(workplace):
    for seed, part in enumerate(("train", "valid", "test")):
        write_images(workplace.path / "pets" / part, {"cat": 3, "dog": 2}, seed)
    return workplace


def test_the_images_of_each_class_and_what_is_odd_are_shown(pets):
    Image.new("RGBA", (200, 100)).save(pets.path / "pets/train/cat/clip.png")
    (pets.path / "pets/valid/dog/text.png").write_text("no image")
    shutil.copy(pets.path / "pets/train/cat/000.png", pets.path / "pets/test/cat/again.png")
    done = pets.here("data", pets.study(STUDY))
    assert [" ".join(line.split()) for line in done.out.splitlines()] == [
        "data set folder:pets: 17 of 18 images",
        "class training validation test all",
        "cat 4 3 4 11",
        "dog 2 2 2 6",
        "all 6 5 6 17",
        "formats 17 PNG",
        "modes 16 RGB, 1 RGBA",
        "pixels 24 x 20 smallest, 23 x 21 median, 200 x 100 largest",
        "transparent 1: pets/train/cat/clip.png",
        "unreadable 1: pets/valid/dog/text.png (none of the formats PNG, JPEG, BMP, WEBP, GIF, TIFF)",
        "folder:pets: 2 of 18 files have the same content as another one in different splits, such as "
        "'pets/train/cat/000.png (cat, training)' and 'pets/test/cat/again.png (cat, test)'; a trial would "
        "be measured on images that it was trained on: remove the copies, or move them into one split",
    ]
    assert not (pets.path / "storage").exists()


def test_files_that_are_all_transparent_are_not_named(pets):
    for path in (pets.path / "pets").glob("*/*/*.png"):
        Image.new("RGBA", (20, 20)).save(path)
    done = pets.here("data", pets.study(STUDY))
    assert "  transparent  all 15\n" in done.out


def test_create_hashes_and_plan_reads_each_file_once(pets, monkeypatch):
    shutil.copy(pets.path / "pets/train/cat/000.png", pets.path / "pets/test/cat/again.png")
    done = {"hash": 0, "header": 0}

    def count(what, function):
        def counted(*args):
            done[what] += 1
            return function(*args)

        return counted

    monkeypatch.setattr(hashlib, "file_digest", count("hash", hashlib.file_digest))
    monkeypatch.setattr(image_files, "read_header", count("header", image_files.read_header))
    study = pets.study(STUDY)
    assert "1 trials waiting" in pets.here("create", study).out
    assert done == {"hash": 16, "header": 16}
    pets.here("plan", study, "--devices", "cpu:1", "--set", "train.model=squeezenet1_1")
    assert done["header"] == 2 * 16


def test_the_same_as_json(pets):
    Image.new("P", (9, 9)).save(pets.path / "pets/train/cat/clip.gif", transparency=0)
    found = pets.here("data", pets.study(STUDY), "--json").json()
    assert found["dataset"] == "folder:pets"
    assert found["images"]["train"] == {"cat": 4, "dog": 2}
    assert found["scan"]["files"] == 16
    assert found["scan"]["formats"] == {"PNG": 15, "GIF": 1}
    assert found["scan"]["smallest"] == [9, 9]
    assert found["scan"]["transparent"] == ["pets/train/cat/clip.gif"]
    assert found["scan"]["unreadable"] == found["scan"]["same_in_several_splits"] == []
    digits = pets.here("data", "quickstart", "--json").json()
    assert digits["scan"] is None
    assert sum(sum(each.values()) for each in digits["images"].values()) == 1797


def test_a_sheet_shows_pictures_as_the_model_sees_them(pets):
    (pets.path / "pets/train/dog/text.png").write_text("no image")
    for file in (pets.path / "pets/train/cat").iterdir():
        Image.new("RGBA", (60, 20), (255, 0, 0, 128)).save(file)
    arguments = ("--set", "train.resize=pad", "--set", "train.transparency=black", "-o", "sheet.png")
    done = pets.here("data", pets.study(STUDY), *arguments)
    assert "Each is resized and padded to 64 by 64 pixels (image_size), with black behind" in done.out
    sheet = Image.open(io.BytesIO((pets.path / "sheet.png").read_bytes()))
    assert sheet.size == (3 * 64 + 2 * GAP_PIXELS, 2 * (LABEL_PIXELS + 64) + GAP_PIXELS)
    assert sheet.getpixel((32, LABEL_PIXELS + 5)) == (0, 0, 0)
    assert sheet.getpixel((32, LABEL_PIXELS + 32)) == (128, 0, 0)
    refused = pets.here("data", pets.study(STUDY), "-o", "pets", code=1)
    assert refused.err.endswith("\nhpo: -o pets: Is a directory\n")


def test_a_custom_objective_has_no_images_to_show(workplace):
    text = '[train]\nobjective = "math:sqrt"\n[search]\ntrials = 1\n[space]\nx = [1, 2]\n'
    done = workplace.here("data", workplace.study(text), code=1)
    assert done.err == "hpo: study 'small': its custom objective reads data of its own\n"


@pytest.mark.parametrize("verb", ["run", "create", "plan"])
def test_unreadable_files_are_told_at_once_before_a_study_is_stored(pets, verb):
    for name in ("train/cat/a.png", "valid/dog/b.png", "test/dog/c.png"):
        (pets.path / "pets" / name).write_text("no image")
    done = pets.here(verb, pets.study(STUDY), code=1)
    (line,) = without_context(done.err)
    assert line.startswith("hpo: folder:pets: 3 of 18 images cannot be read: pets/train/cat/a.png (none of")
    assert all(name in line for name in ("valid/dog/b.png", "test/dog/c.png", "train.corrupt"))
    assert not (pets.path / "storage").exists()


def test_workers_keep_decoded_pictures_in_the_artifacts_or_where_they_are_told(pets):
    cache = pets.path / "storage/artifacts/cache/images"
    pets.here("create", pets.study(STUDY), "--set", "train.cache=disk")
    done = pets.here("worker", "small", "--cache-gb", "0", code=78)
    (line,) = done.err.splitlines()
    assert "more than the 0.0 kB of --cache-gb; make room, raise --cache-gb, or set train.cache" in line
    pets.here("create", pets.study(STUDY), "--set", "train.cache=memory")
    assert "trial 0 complete" in pets.here("worker", "small").err
    assert not list(cache.glob("*"))
    pets.here("delete", "small", "--yes")
    pets.here("create", pets.study(STUDY))
    assert "trial 0 complete" in pets.here("worker", "small").err
    (copy,) = cache.glob("*.images")
    assert "1 copy" in pets.here("doctor", code=None).out
    pets.here("doctor", "--clear-cache", code=None)
    assert not copy.exists()


def test_a_worker_tells_damaged_files_once_and_decodes_no_folder_twice(pets):
    for name in ("train/cat/001.png", "valid/dog/000.png"):
        file = pets.path / "pets" / name
        file.write_bytes(file.read_bytes()[:300])
    done = pets.here("create", pets.study(STUDY))
    assert "cannot be read" not in done.err
    done = pets.here("worker", "small", code=78)
    (line,) = messages(done.err)
    assert line.startswith("hpo: folder:pets: 2 of 15 images cannot be read: pets/train/cat/001.png (image")
    assert "pets/valid/dog/000.png (image file is truncated" in line
    pets.here("delete", "small", "--yes")
    pets.here("create", pets.study(STUDY), "--set", "train.corrupt=skip")
    done = pets.here("worker", "small")
    assert "trial 0 complete" in done.err
    assert done.err.count("data: folder:pets: left out 2 of 15 images, which cannot be read") == 1


def test_create_tells_of_copies_and_of_a_folder_on_another_machine_nothing(pets):
    shutil.copy(pets.path / "pets/train/cat/000.png", pets.path / "pets/train/dog/copy.png")
    done = pets.here("create", pets.study(STUDY))
    assert "2 of 16 files have the same content as another one in different classes" in done.err
    elsewhere = pets.study(STUDY.replace("folder:pets", "folder:elsewhere"), "other")
    assert "strategy auto" in pets.here("create", elsewhere).err
