"""Folders of images as data sets."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpo import errors
from hpo.training import datasets, drawn_images
from hpo.training.config import Config
from hpo.training.used_files import ContentHashes
from tests.support.data_sets import assert_well_formed, counts, folder_config, keys, load_error
from tests.support.disks import folder_without_rights
from tests.support.images import draw_images, write_images

pytestmark = pytest.mark.usefixtures("no_network")


def test_a_folder_of_class_folders_is_split_in_three(tmp_path):
    write_images(tmp_path, {"dog": 20, "cat": 30})
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.txt").touch()
    (tmp_path / "cat/.hidden.png").touch()
    (tmp_path / "cat/notes.txt").touch()
    dataset = datasets.load_dataset(folder_config(tmp_path), tmp_path)
    assert_well_formed(dataset, 3, 16)
    assert dataset.classes == ("cat", "dog")
    assert [counts(split, 2) for split in (dataset.train, dataset.valid, dataset.test)] == [
        [24, 16],
        [3, 2],
        [3, 2],
    ]
    assert len(set(keys(dataset.train) + keys(dataset.valid) + keys(dataset.test))) == 50
    assert dataset.skipped == ()
    assert dataset.summary() == (
        "50 images in 2 classes: 40 training, 5 validation, 5 test; from 20 of 'dog' to 30 of 'cat'; "
        "always answering 'cat' gives accuracy 0.6000 on the validation split"
    )
    limited = datasets.load_dataset(folder_config(tmp_path, limit=20), tmp_path)
    assert limited.summary().startswith("24 of 50 images in 2 classes: 20 training, 2 validation, 2 test; ")


def test_folders_named_train_valid_and_test_are_kept_apart(tmp_path):
    for seed, (part, number) in enumerate((("train", 6), ("valid", 3), ("test", 2))):
        write_images(tmp_path / part, {"cat": number, "dog": number}, seed)
    dataset = datasets.load_dataset(folder_config(tmp_path), tmp_path)
    assert [counts(split, 2) for split in (dataset.train, dataset.valid, dataset.test)] == [
        [6, 6],
        [3, 3],
        [2, 2],
    ]
    assert datasets.load_dataset(folder_config(tmp_path, selection="test"), tmp_path).valid is None


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [(("train",), (32, 4, 4)), (("train", "valid"), (36, 4, 4)), (("train", "test"), (36, 4, 4))],
)
def test_a_missing_split_is_taken_from_train(tmp_path, parts, sizes):
    for seed, part in enumerate(parts):
        number = 20 if part == "train" else 2
        write_images(tmp_path / part, {"cat": number, "dog": number}, seed)
    dataset = datasets.load_dataset(folder_config(tmp_path), tmp_path)
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == sizes


def test_a_class_may_be_called_train(tmp_path):
    write_images(tmp_path, {"train": 10, "plane": 10, "car": 10})
    assert datasets.load_dataset(folder_config(tmp_path), tmp_path).classes == ("car", "plane", "train")


def test_classes_may_be_called_valid_and_invalid(tmp_path):
    write_images(tmp_path, {"valid": 10, "invalid": 10})
    assert datasets.load_dataset(folder_config(tmp_path), tmp_path).classes == ("invalid", "valid")


@pytest.mark.parametrize("names", [("Training", "Testing"), ("TRAIN", "TEST"), ("train", "test")])
def test_folders_of_splits_are_found_in_any_spelling(tmp_path, names):
    for part, number in zip(names, (10, 2), strict=True):
        write_images(tmp_path / part, {"cat": number, "dog": number})
    dataset = datasets.load_dataset(folder_config(tmp_path), tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert [counts(split, 2) for split in (dataset.train, dataset.valid, dataset.test)] == [
        [9, 9],
        [1, 1],
        [2, 2],
    ]


@pytest.mark.parametrize("name", ["val", "Val", "validation", "valid"])
def test_a_validation_folder_has_any_of_its_usual_names(tmp_path, name):
    write_images(tmp_path / "train", {"cat": 10, "dog": 10})
    write_images(tmp_path / name, {"cat": 3, "dog": 4})
    assert counts(datasets.load_dataset(folder_config(tmp_path), tmp_path).valid, 2) == [3, 4]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ("seg_train/cat", "seg_train/dog", "seg_test/cat", "seg_test/dog"),
            "'seg_test' is named like a part",
        ),
        (("fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"), "'fold1' is named like a part"),
        (("a/cat", "a/dog", "b/cat", "b/dog"), "'a' and 'b' hold the same folders (cat, dog)"),
        (("cats", "dogs", "test"), "'test' is named like a part"),
        (("train", "Test"), "'Test' is named like a part"),
        (("train/cat", "train/dog", "val/cat", "valid/cat"), "two folders for one split"),
        (("Val/cat", "Val/dog", "test/cat"), "but none in train"),
    ],
)
def test_folders_that_look_like_splits_are_refused_with_the_layout(tmp_path, folders, message):
    write_images(tmp_path, dict.fromkeys(folders, 1))
    refused = load_error(folder_config(tmp_path), tmp_path)
    assert message in refused
    assert ("one folder per class" in refused) == ("part of" in refused or "the same" in refused)


def test_linked_folders_count_and_dead_links_are_unreadable(tmp_path):
    write_images(tmp_path / "store", {"cat": 10, "dog": 10})
    pets = tmp_path / "pets"
    pets.mkdir()
    (pets / "cat").symlink_to(tmp_path / "store/cat")
    (pets / "dog").mkdir()
    (pets / "dog/more").symlink_to(tmp_path / "store/dog")
    dataset = datasets.load_dataset(folder_config(pets), tmp_path)
    assert sum(map(len, (dataset.train, dataset.valid, dataset.test))) == 20
    (pets / "dog/gone.jpg").symlink_to(tmp_path / "gone.jpg")
    assert "gone.jpg (a link to a file that does not exist)" in load_error(folder_config(pets), tmp_path)
    (pets / "bird").symlink_to(tmp_path / "store/bird")
    assert "bird: a link to a folder or file that does not exist" in load_error(
        folder_config(pets), tmp_path
    )


def test_transparent_and_wide_pictures_are_counted_in_one_line_each(tmp_path):
    write_images(tmp_path, {"cat": 10, "dog": 10})
    for number in range(3):
        Image.new("RGBA", (40, 30), (1, 2, number, 4)).save(tmp_path / f"cat/clip{number}.png")
    Image.new("RGB", (90, 30)).save(tmp_path / "dog/wide.png")
    lines = datasets.load_dataset(folder_config(tmp_path, transparency="drop"), tmp_path).notes
    assert sum("3 of 24 images, such as" in line and "transparent parts" in line for line in lines) == 1
    assert sum("1 of 24 images, such as" in line and "over half is cut off" in line for line in lines) == 1
    assert len(lines) == 2
    for options in ({"resize": "pad"}, {"resize": "squash", "transparency": "black"}):
        assert not datasets.load_dataset(folder_config(tmp_path, **options), tmp_path).notes


def test_a_folder_is_relative_to_the_working_directory_or_the_home(tmp_path, monkeypatch):
    write_images(tmp_path / "pets", {"cat": 5, "dog": 5})
    monkeypatch.chdir(tmp_path)
    relative = datasets.load_dataset(folder_config("pets"), tmp_path / "root")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    at_home = datasets.load_dataset(folder_config("~/pets"), tmp_path / "root")
    assert keys(relative.train) == keys(at_home.train)
    assert relative.name == "folder:pets"


def test_photographs_and_images_of_other_modes_are_read(tmp_path):
    write_images(tmp_path, {"cat": 5, "dog": 5})
    exif = Image.Exif()
    exif[0x0112] = 3
    photograph = np.zeros((16, 16, 3), np.uint8)
    photograph[:8] = 255
    Image.fromarray(photograph).save(tmp_path / "cat/photograph.JPG", exif=exif, quality=95)
    Image.new("L", (40, 30), 7).save(tmp_path / "cat/grey.png")
    Image.new("RGBA", (40, 30), (1, 2, 3, 4)).save(tmp_path / "cat/transparent.png")
    dataset = datasets.load_dataset(
        folder_config(tmp_path, valid_fraction=0.01, selection="test"), tmp_path
    )
    found = {tuple(image[:, 15, 8].tolist()) for image in dataset.train.images}
    assert (7, 7, 7) in found
    assert (251, 251, 251) in found  # nearly transparent, on white
    assert any(image[:, :7].max() < 20 and image[:, 9:].min() > 230 for image in dataset.train.images)


def corrupt_folder(path):
    write_images(path, {"cat": 10, "dog": 10})
    broken = path / "cat/004.png"
    broken.write_bytes(broken.read_bytes()[:300])
    return broken


def test_a_corrupt_image_is_refused_with_the_option_that_skips_it(tmp_path):
    broken = corrupt_folder(tmp_path)
    message = load_error(folder_config(tmp_path), tmp_path)
    assert str(broken) in message
    assert 'train.corrupt = "skip"' in message


def test_corrupt_images_are_left_out_and_named_if_that_is_asked_for(tmp_path):
    broken = corrupt_folder(tmp_path)
    dataset = datasets.load_dataset(folder_config(tmp_path, corrupt="skip"), tmp_path)
    assert dataset.skipped == (str(broken),)
    splits = (dataset.train, dataset.valid, dataset.test)
    assert sum(map(len, splits)) == 19
    assert np.sum([counts(split, 2) for split in splits], axis=0).tolist() == [9, 10]
    (line,) = dataset.notes
    assert "left out 1 of 20 images, which cannot be read" in line
    assert str(broken) in line
    assert_well_formed(dataset, 3, 16)


def test_all_unreadable_files_are_told_at_once(tmp_path):
    broken = corrupt_folder(tmp_path)
    (tmp_path / "dog/005.png").write_bytes(b"no image")
    (tmp_path / "dog/gone.jpg").symlink_to(tmp_path / "gone.jpg")
    Image.new("F", (20, 20)).save(tmp_path / "dog/float.tif")
    message = load_error(folder_config(tmp_path), tmp_path)
    assert message.startswith(f"folder:{tmp_path}: 4 of 22 images cannot be read: ")
    for name, reason in (
        (broken, "image file is truncated"),
        (tmp_path / "dog/005.png", "none of the formats"),
        (tmp_path / "dog/gone.jpg", "a link to a file that does not exist"),
        (tmp_path / "dog/float.tif", "floating-point grey"),
    ):
        assert f"{name} ({reason}" in message
    assert message.endswith(
        '; repair or remove them, or set train.corrupt = "skip" to leave such files out'
    )
    dataset = datasets.load_dataset(folder_config(tmp_path, corrupt="skip"), tmp_path)
    assert len(dataset.skipped) == 4


def test_a_picture_that_is_too_large_is_refused_with_the_option_that_allows_it(tmp_path):
    write_images(tmp_path, {"cat": 10, "dog": 10})
    Image.new("L", (400, 300)).save(tmp_path / "cat/large.png")
    message = load_error(folder_config(tmp_path, max_pixels=119_999), tmp_path)
    assert "cat/large.png" in message
    assert "400 x 300 pixels, more than the 119,999 of max_pixels" in message
    assert "raise train.max_pixels" in message
    dataset = datasets.load_dataset(folder_config(tmp_path, max_pixels=119_999, corrupt="skip"), tmp_path)
    assert dataset.skipped == (str(tmp_path / "cat/large.png"),)


def test_a_class_without_a_readable_image_is_refused(tmp_path):
    write_images(tmp_path, {"cat": 5, "dog": 5})
    for file in (tmp_path / "dog").iterdir():
        file.write_bytes(b"no image")
    assert "dog" in load_error(folder_config(tmp_path, corrupt="skip"), tmp_path)


def test_only_images_within_the_limit_are_decoded(tmp_path):
    write_images(tmp_path, {"cat": 40, "dog": 40})
    (tmp_path / "cat/007.png").write_bytes(b"no image")
    assert "007.png" in load_error(folder_config(tmp_path), tmp_path)
    assert len(datasets.load_dataset(folder_config(tmp_path, limit=8), tmp_path).train) == 8


def test_folders_that_are_not_data_sets_are_refused_by_name(tmp_path):
    def message(name):
        return load_error(folder_config(tmp_path / name), tmp_path)

    assert "no such folder" in message("nowhere")
    assert "no such folder" in load_error(Config(dataset="folder:"), tmp_path)
    (tmp_path / "none").mkdir()
    assert f"{tmp_path / 'none'}: no class folders" in message("none")
    write_images(tmp_path / "one", {"cat": 3})
    assert "one class folder only, 'cat'" in message("one")
    write_images(tmp_path / "empty", {"cat": 3, "dog": 0})
    assert f"{tmp_path / 'empty/dog'}: no images in it" in message("empty")
    write_images(tmp_path / "few", {"cat": 1, "dog": 1})
    assert "too few" in message("few")


def test_split_folders_that_do_not_fit_together_are_refused(tmp_path):
    write_images(tmp_path / "valid", {"cat": 2, "dog": 2})
    assert "train" in load_error(folder_config(tmp_path), tmp_path)
    write_images(tmp_path / "train", {"cat": 3, "bird": 3})
    message = load_error(folder_config(tmp_path), tmp_path)
    assert f"{tmp_path / 'valid/dog'}: no such class in train, only bird, cat" in message
    (tmp_path / "valid").rename(tmp_path / "extra")
    assert "unexpected 'extra' beside train; allowed there: valid, test" in load_error(
        folder_config(tmp_path), tmp_path
    )
    (tmp_path / "extra").rename(tmp_path / "train/dog")
    (tmp_path / "test").mkdir()
    assert "no class folders" in load_error(folder_config(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("~nosuchuser/x", "there is no user '~nosuchuser'"),
        ("x" * 300, "File name too long"),
        ("missing", "there is no such folder"),
    ],
)
def test_a_folder_that_cannot_be_read_is_refused_in_one_line(path, reason):
    with pytest.raises(errors.DataError) as raised:
        drawn_images.list_used_files(folder_config(path), Path(), ContentHashes())
    assert "train.dataset: 'folder:" in str(raised.value)
    assert reason in str(raised.value)
    assert len(str(raised.value)) < 500


def test_an_unreadable_subfolder_is_refused_by_its_name():
    with folder_without_rights() as folder:
        write_images(folder, {"a": 3, "b": 3})
        (folder / "b" / "inner").mkdir(mode=0)
        with pytest.raises(errors.DataError, match=r"inner.*Permission denied"):
            drawn_images.list_used_files(folder_config(folder), Path(), ContentHashes())


def test_a_class_with_too_few_images_to_be_measured_is_named(tmp_path):
    draw_images(tmp_path, ("cats", "dogs"), 12)
    draw_images(tmp_path, ("one",), 1)
    (line,) = datasets.load_dataset(Config(dataset=f"folder:{tmp_path}", image_size=16), tmp_path).notes
    assert "trials are measured without 'one': too few images" in line
