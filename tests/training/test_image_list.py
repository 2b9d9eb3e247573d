"""Images in a CSV or Parquet file: read as it says, or everything that is wrong in it is told at once."""

import csv
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from hpo import errors
from hpo.training import datasets, drawn_images, image_list, own_images
from hpo.training.config import Config
from hpo.training.used_files import ContentHashes
from tests.support.data_sets import keys, load_error
from tests.support.images import write_images

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture
def pets(tmp_path):
    write_images(tmp_path / "pictures", {"cat": 6, "dog": 6})
    return tmp_path


def write_list(folder, *lines, name="pets.csv", encoding="utf-8"):
    (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
    return f"list:{folder / name}"


def write_parquet(folder, name="pets.parquet", **columns):
    parquet.write_table(pyarrow.table(columns), folder / name)
    return f"list:{folder / name}"


def to_parquet(folder, *lines):
    """Write the rows of a CSV file as Parquet; what is left out is null."""
    names, *rows = csv.reader(lines)
    columns = {
        name: pyarrow.array([row[at] or None for row in rows], pyarrow.string())
        for at, name in enumerate(names)
    }
    return write_parquet(folder, **columns)


def pet_lines(split=lambda number: ""):
    return [
        f"pictures/{pet}/{number:03}.png,{pet}{split(number)}"
        for pet in ("dog", "cat")
        for number in range(6)
    ]


def list_error(place):
    with pytest.raises(errors.DataError) as raised:
        own_images.list_images(place, Path())
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_list_without_splits_is_read_as_the_same_folder_is(pets):
    listed = Config(dataset=write_list(pets, "path,label", *pet_lines()), image_size=16)
    folder = Config(dataset=f"folder:{pets / 'pictures'}", image_size=16)
    one, other = (datasets.load_dataset(each, pets) for each in (listed, folder))
    assert one.classes == other.classes == ("cat", "dog")
    for name, split in one.splits.items():
        assert keys(split) == keys(other.splits[name])
        assert split.labels.tolist() == other.splits[name].labels.tolist()


def test_splits_labels_and_paths_are_those_of_the_list(pets, monkeypatch):
    part = ("Training", "train", "train", "VAL", "validation", "test")
    lines = pet_lines(lambda number: f",{part[number]}")
    lines[-1] = f'{pets / "pictures/cat/005.png"},"cat",testing'  # an absolute path
    monkeypatch.chdir(pets)
    place = write_list(
        pets, "label,split,path", *(",".join(line.split(",")[i] for i in (1, 2, 0)) for line in lines)
    )
    for name in (place, "list:pets.csv"):
        source = own_images.list_images(name, Path())
        assert source.valid is not None
        assert source.test is not None
        for split, numbers in ((source.train, "012"), (source.valid, "34"), (source.test, "5")):
            found = [(path.parent.name, path.stem[-1]) for path in split.files]
            assert found == [(pet, number) for pet in ("cat", "dog") for number in numbers]
            assert split.labels.tolist() == [0] * len(numbers) + [1] * len(numbers)
            assert all(path.is_file() for path in split.files)


def test_what_spreadsheets_add_is_ignored(pets):
    lines = [line.replace(",", " , ") for line in pet_lines()]
    place = write_list(pets, "path , label", *lines, "", encoding="utf-8-sig")
    assert len(own_images.list_images(place, Path()).train.files) == 12


def test_everything_wrong_is_told_at_once_with_its_line(pets, monkeypatch):
    monkeypatch.chdir(pets)  # a long path would be shortened
    (pets / "pictures/notes.txt").touch()
    lines = pet_lines(lambda number: ",train")
    lines[0] = "pictures/dog/000.png,dog,tset"
    lines[2] = "pictures/dog/missing.png,dog,train"
    lines[3] = ",dog,train"
    lines[4] = "pictures/dog/004.png, ,train"
    lines[5] = "pictures/notes.txt,dog,train"
    lines[6] = "pictures/cat/000.png,cat"
    lines[8] = "pictures/cat/001.png,cat,train"
    lines[9] = "pictures/cat/003.png,bird,valid"
    message = list_error(write_list(Path(), "path,label,split", *lines))
    assert message.startswith("train.dataset: 'list:pets.csv': line 2: split 'tset'; allowed: train, ")
    assert message.partition("testing; ")[2].split("; line ") == [
        "line 4: there is no file 'pictures/dog/missing.png' (paths begin at the list)",
        "5: no path",
        "6: no label",
        "7: 'pictures/notes.txt' is no image; supported are .png .jpg .jpeg .bmp .webp .gif .tif .tiff",
        "8: 2 values for the 3 columns path,label,split",
        "10: 'pictures/cat/001.png' is in line 9 already",
        "11: label 'bird' has no image in train",
    ]


def test_a_parquet_file_is_read_as_the_same_csv_file_is(pets):
    part = ("train", "Training", "train", "VAL", "valid", "test")
    lines = [
        "label,path,split",
        *(f"{pet},pictures/{pet}/{n:03}.png,{part[n]}" for pet in ("dog", "cat") for n in range(6)),
    ]
    one, other = (
        own_images.list_images(each, Path())
        for each in (write_list(pets, *lines), to_parquet(pets, *lines))
    )
    assert one.classes == other.classes == ("cat", "dog")
    for name in ("train", "valid", "test"):
        assert getattr(one, name).files == getattr(other, name).files
        assert getattr(one, name).labels.tolist() == getattr(other, name).labels.tolist()


def test_labels_in_parquet_may_be_numbers_or_categories(pets):
    paths = [line.partition(",")[0] for line in pet_lines()]
    numbers = pyarrow.array([7] * 6 + [12] * 6, pyarrow.int16())
    names = pyarrow.array(["dog"] * 6 + ["cat"] * 6).dictionary_encode()
    assert own_images.list_images(write_parquet(pets, path=paths, label=numbers), Path()).classes == (
        "12",
        "7",
    )
    assert own_images.list_images(write_parquet(pets, path=paths, label=names), Path()).classes == (
        "cat",
        "dog",
    )


def test_everything_wrong_in_parquet_is_told_at_once_with_its_row(pets, monkeypatch):
    monkeypatch.chdir(pets)
    lines = [f"{line},train" for line in pet_lines()]
    lines[0] = "pictures/dog/000.png,dog,tset"
    lines[3], lines[5] = ",dog,train", "pictures/dog/004.png,,"
    message = list_error(to_parquet(Path(), "path,label,split", *lines))
    assert message.startswith("train.dataset: 'list:pets.parquet': row 1: split 'tset'; allowed: train, ")
    assert message.partition("testing; ")[2].split("; row ")[:4] == [
        "row 4: no path",
        "6: 'pictures/dog/004.png' is in row 5 already",
        "6: no label",
        "6: split ''; allowed: train, training, valid, val, validation, test, testing",
    ]


def test_a_parquet_file_of_another_form_is_refused(pets, monkeypatch):
    found = list_error(write_parquet(pets, path=["a.png"], label=[0.5], split=[1]))
    assert "column label has values of type double and column split has values of type int64; want" in found
    found = list_error(write_parquet(pets, path=["a.png"], labels=["cat"]))
    assert "column 'labels'; did you mean 'label'? the columns must be path,label or " in found
    assert "no image to train on" in list_error(to_parquet(pets, "path,label"))
    monkeypatch.chdir(pets)  # long paths are shortened
    whole = (pets / "pets.parquet").read_bytes()
    for content in (b"", b"path,label", whole[:-20], whole[:4] + b"\xff" * 20 + whole[24:]):
        (pets / "bad.parquet").write_bytes(content)
        assert "'list:bad.parquet': " in list_error("list:bad.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'hpo-vision[parquet]'" in list_error(f"list:{pets}/pets.parquet")


def test_of_many_problems_the_first_are_told_and_the_others_counted(pets):
    message = list_error(write_list(pets, "path,label", *(f"{number}.png,cat" for number in range(50))))
    assert message.count("there is no file") == image_list.SHOWN
    assert message.endswith(f"; and {50 - image_list.SHOWN} more")


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ([], "the file is empty; its first line must be path,label or path,label,split"),
        (["path,label"], "no image to train on"),
        (["path;label"], "line 1: column 'path;label'"),
        (["path,label,splits"], "line 1: column 'splits'; did you mean 'split'? the first line must be "),
        (["path,split"], "line 1: no column label; found path,split"),
        (["path,label,path"], "names a column twice"),
        (["path,label", "pictures/cat/000.png,cat"], "one label only, 'cat'"),
        (["path,label", 'pictures/cat/000.png,"cat'], "line 2: unexpected end of data"),
        (["path,label", f"{'x' * 300}.png,cat"], "line 2: there is no file"),
        (["path,label", "pictures/\0.png,cat"], "line 2: "),
    ],
)
def test_a_list_of_another_form_is_refused(pets, lines, wanted):
    assert wanted in list_error(write_list(pets, *lines))


def test_a_file_that_is_no_list_is_refused(pets):
    for name, wanted in (
        ("pets.txt", "want a CSV or Parquet file, whose name ends in .csv or .parquet"),
        ("missing.parquet", "there is no such file"),
        ("~nosuchuser/pets.csv", "there is no such user"),
        (f"{'x' * 300}.csv", "File name too long"),
        ("missing.csv", "there is no such file"),
    ):
        assert wanted in list_error(f"list:{name}")
    (pets / "latin.csv").write_bytes("path,label\nä.png,cat\n".encode("latin-1"))
    assert "not UTF-8" in list_error(f"list:{pets}/latin.csv")


def test_unreadable_images_of_a_list_are_refused_or_skipped(pets):
    (pets / "pictures/cat/002.png").write_bytes(b"no image")
    config = Config(dataset=write_list(pets, "path,label", *pet_lines()), image_size=16)
    assert "1 of 12 images cannot be read" in load_error(config, pets)
    left = datasets.load_dataset(config.model_copy(update={"corrupt": "skip"}), pets)
    assert left.skipped == (f"{pets}/pictures/cat/002.png",)


def test_the_fingerprint_of_a_list_depends_on_paths_labels_splits_and_contents_alone(pets):
    def used_files(*lines, name="pets.csv"):
        config = Config(dataset=write_list(pets, *lines, name=name))
        return drawn_images.list_used_files(config, Path(), ContentHashes())

    lines = pet_lines()
    began = used_files("path,label", *lines)
    assert began.fingerprint.startswith("12 images, blake2b ")
    assert used_files("path,label", *reversed(lines), name="other.csv") == began
    swapped = [lines[0].replace(",dog", ",cat"), *lines[1:]]
    assert "1 changed" in began.describe_changes(used_files("path,label", *swapped))
    moved = [f"{line},{'test' if number == 0 else 'train'}" for number, line in enumerate(lines)]
    assert used_files("path,label,split", *moved) != began
    (pets / "pictures/cat/002.png").write_bytes((pets / "pictures/cat/001.png").read_bytes())
    assert "1 changed ('pictures/cat/002.png')" in began.describe_changes(used_files("path,label", *lines))
