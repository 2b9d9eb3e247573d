"""Data sets of the Hugging Face hub become files once, whole or not at all."""

import errno
import io
import json
import logging
import shutil
import sys
import threading
from pathlib import Path

import datasets as library
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value
from PIL import Image

from hpo import errors
from hpo.training import class_folders, datasets, drawn_images, hub_export, hub_sets, own_images
from hpo.training.config import Config
from hpo.training.used_files import ContentHashes
from tests.support.data_sets import load_error
from tests.support.hub import (
    COUNTS,
    NAMES,
    commit,
    encoded,
    make_splits,
    running_hub,
    use_hub,
    write_parquet,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep the library's caches out of the home folder, and fail if they are used."""
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "library")
    yield
    assert not (tmp_path / "library").exists()


IMAGE, LABEL = library.Image(), ClassLabel(names=list(NAMES))


def list_images(tmp_path, **options):
    return hub_sets.list_images(str(tmp_path / "set"), tmp_path / "data", **options)


def message_of(tmp_path):
    with pytest.raises(errors.DataError) as raised:
        list_images(tmp_path)
    assert "\n" not in str(raised.value)
    left = tmp_path / "data/hf"
    assert not left.exists() or list(left.iterdir()) == []
    return str(raised.value)


def write_folders(folder):
    for place, (split, count) in enumerate(COUNTS.items()):
        for number in range(count):
            path = folder / split / NAMES[number % 2] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(number % 2, number + 100 * place))


WRITERS = {
    "parquet": lambda folder: write_parquet(folder, make_splits()),
    "saved": lambda folder: make_splits().save_to_disk(folder),
    "class folders": write_folders,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_images_are_copied_as_the_bytes_that_are_stored(tmp_path, kind, monkeypatch, capfd):
    WRITERS[kind](tmp_path / "set")
    capfd.readouterr()
    source = list_images(tmp_path)
    wanted = {
        (split, encoded(number % 2, number + 100 * place))
        for place, (split, count) in enumerate(COUNTS.items())
        for number in range(count)
    }
    splits = {"train": source.train, "validation": source.valid, "test": source.test}
    assert {(name, file.read_bytes()) for name, each in splits.items() for file in each.files} == wanted
    assert source.classes == (tuple(sorted(NAMES)) if kind == "class folders" else NAMES)
    for split in splits.values():
        assert [source.classes[label] for label in split.labels] == [
            file.parent.name for file in split.files
        ]
    assert capfd.readouterr() == ("", "")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert list_images(tmp_path).train.files == source.train.files


def test_a_copy_is_a_folder_of_own_images(tmp_path):
    write_parquet(tmp_path / "set", make_splits())
    config = Config(dataset=f"hf:{tmp_path / 'set'}", image_size=16)
    data = datasets.load_dataset(config, tmp_path / "data")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 12, "valid": 4, "test": 4}
    used = drawn_images.list_used_files(config, tmp_path / "data", ContentHashes())
    assert "train/zebra/00000000.png" in used.files
    copy = own_images.root_of(config.dataset, tmp_path / "data")
    assert sorted(class_folders.list_folder(str(copy)).train.files) == sorted(
        list_images(tmp_path).train.files
    )


def test_rows_without_a_label_are_left_out_and_told(tmp_path, caplog):
    hidden = make_splits({"train": 12}) | make_splits({"test": 4}, label=lambda count: [-1] * count)
    write_parquet(tmp_path / "set", DatasetDict(hidden | make_splits({"extra": 2})))
    source = list_images(tmp_path)
    assert source.test is None
    told = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert [each.rpartition(": ")[0].startswith("train.dataset: 'hf:") for each in told] == [True, True]
    assert told[0].endswith(": not used: split extra")
    assert told[1].endswith(": left out 4 rows of test, which have no label")


def test_bytes_that_are_no_image_are_told_by_the_scan(tmp_path):
    images = [{"bytes": encoded(n % 2, n) if n else b"no image", "path": None} for n in range(12)]
    images[3] = None
    write_parquet(tmp_path / "set", make_splits({"train": 12}, image=lambda count: images))
    config = Config(dataset=f"hf:{tmp_path / 'set'}", image_size=16)
    assert "1 of 11 images cannot be read: " in load_error(config, tmp_path / "data")


def test_jpegs_with_several_pictures_in_them_are_jpegs(tmp_path):
    file = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    frames[0].save(file, "MPO", save_all=True, append_images=frames[1:])
    images = [{"bytes": file.getvalue(), "path": None}] * 12
    write_parquet(tmp_path / "set", make_splits({"train": 12}, image=lambda count: images))
    assert {file.suffix for file in list_images(tmp_path).train.files} == {".jpeg"}


def test_classes_may_have_any_name(tmp_path):
    names = ("a/b", ".hidden", "..", "größe", "x" * 300, "x" * 299, "100%", "new\nline")
    write_parquet(tmp_path / "set", make_splits({"train": 32}, names))
    for _ in range(2):
        source = list_images(tmp_path)
        assert source.classes == names
        assert source.train.labels.tolist() == [label for label in range(8) for _ in range(4)]
    assert len({file.parent for file in source.train.files}) == 8


def test_a_changed_folder_is_copied_again_and_a_missing_one_is_not_needed(tmp_path):
    write_parquet(tmp_path / "set", make_splits())
    first = list_images(tmp_path)
    write_parquet(tmp_path / "set", make_splits({**COUNTS, "train": 14}))
    second = list_images(tmp_path)
    assert (len(first.train.files), len(second.train.files)) == (12, 14)
    shutil.rmtree(tmp_path / "set")
    assert list_images(tmp_path).train.files == second.train.files
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(class_folders.MissingImages, match="there is no such folder"):
        list_images(tmp_path)
    assert not (tmp_path / "data").exists()


def with_features(**features):
    rows = {name: [None, None] for name in features}
    return DatasetDict(train=Dataset.from_dict(rows, features=Features(features)))


REFUSED = {
    "no label": (
        with_features(image=IMAGE, text=Value("string"), tags=Sequence(LABEL)),
        "found image (Image), text (string), tags (List); write the images to class folders and name them",
    ),
    "two labels": (
        with_features(image=IMAGE, fine=LABEL, coarse=LABEL),
        "fine (ClassLabel), coarse (ClassLabel)",
    ),
    "no image": (with_features(label=LABEL), "found label (ClassLabel)"),
    "no train": (make_splits({"test": 4}), "no split train, only test"),
    "two splits for one": (
        make_splits({"train": 4, "val": 4, "validation": 4}),
        "two splits for valid among ",
    ),
    "one class": (
        make_splits({"train": 4}, label=lambda count: [1] * count),
        "one class only, 'ant' in train",
    ),
    "an untrained class": (
        DatasetDict(
            make_splits({"train": 4}, (*NAMES, "cow"), label=lambda count: [0, 1] * 2)
            | make_splits({"test": 3}, (*NAMES, "cow"))
        ),
        "no image of 'cow' in train, but some in other splits",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_data_set_that_cannot_be_trained_on_is_refused(tmp_path, name):
    splits, wanted = REFUSED[name]
    write_parquet(tmp_path / "set", splits)
    assert wanted in message_of(tmp_path)


def test_a_folder_that_datasets_cannot_read_is_refused(tmp_path):
    (tmp_path / "set").mkdir()
    assert "datasets cannot read it (The directory at" in message_of(tmp_path)
    (tmp_path / "set/train.parquet").write_bytes(b"no parquet")
    assert "datasets cannot read it (" in message_of(tmp_path)


def test_a_dead_link_is_refused(tmp_path):
    write_folders(tmp_path / "set")
    (tmp_path / "set/train/ant/link.png").symlink_to("missing.png")
    found = message_of(tmp_path)
    assert found.endswith(": a link to a file that does not exist; repair or remove it")


def test_a_full_disk_leaves_no_copy_and_what_a_killed_process_left_is_removed(tmp_path, monkeypatch):
    write_parquet(tmp_path / "set", make_splits())
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(full))
        assert "No space left on device" in message_of(tmp_path)
    copy = hub_sets.copy_folder(str(tmp_path / "set"), tmp_path / "data")
    left = copy.with_name(f".{copy.name}.1234.draft")
    left.mkdir()
    list_images(tmp_path)
    assert [each.name for each in copy.parent.iterdir()] == [copy.name]
    assert sorted(each.name for each in copy.iterdir()) == ["copy.json", "test", "train", "valid"]


def test_a_damaged_copy_is_refused(tmp_path):
    write_parquet(tmp_path / "set", make_splits())
    source = list_images(tmp_path)
    source.train.files[0].unlink()
    with pytest.raises(errors.DataError, match=r"zebra has 5 images, but 6 were copied; remove .*set-"):
        list_images(tmp_path)
    facts = hub_sets.copy_folder(str(tmp_path / "set"), tmp_path / "data") / "copy.json"
    for content in (
        "{",
        "[]",
        "\xff",
        json.dumps(json.loads(facts.read_text()) | {"images": {"train": [1]}}),
    ):
        facts.write_text(content)
        with pytest.raises(errors.DataError, match=r"copy\.json is damaged; remove "):
            list_images(tmp_path)


def test_threads_that_start_at_once_make_one_copy(tmp_path, caplog):
    write_parquet(tmp_path / "set", make_splits())
    caplog.set_level(logging.INFO)
    found = []
    threads = [threading.Thread(target=lambda: found.append(list_images(tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {each.train.files for each in found} == {found[0].train.files}
    assert len(found) == 4
    assert sum(each.message.startswith("copied 20 images of ") for each in caplog.records) == 1


@pytest.mark.parametrize("kind", ["parquet", "class folders"])
def test_a_set_of_the_hub_is_copied_at_one_commit(tmp_path, monkeypatch, kind):
    WRITERS[kind](tmp_path / "hub/zoo/small")
    (tmp_path / "hub/zoo/small/README.md").write_text("---\nlicense: mit\n---\n")
    with running_hub(tmp_path / "hub") as url:
        use_hub(url, tmp_path, monkeypatch)
        source = hub_sets.list_images("zoo/small", tmp_path)
    assert sorted(source.classes) == sorted(NAMES)
    labelled = {(file.read_bytes(), file.parent.name) for file in source.train.files}
    assert labelled == {(encoded(n % 2, n), NAMES[n % 2]) for n in range(12)}
    facts = json.loads((tmp_path / "hf/zoo--small/copy.json").read_text())
    assert facts["revision"] == f"commit {commit(tmp_path / 'hub/zoo/small')}"
    shutil.rmtree(tmp_path / "hub")
    assert hub_sets.list_images("zoo/small", tmp_path).train.files == source.train.files


def test_a_configuration_is_chosen_by_its_name(tmp_path, monkeypatch):
    for name, count in (("few", 4), ("many", 8)):
        write_parquet(tmp_path / f"hub/zoo/two/{name}", make_splits({"train": count}))
    listed = "".join(f"- config_name: {name}\n  data_files: {name}/data/*\n" for name in ("few", "many"))
    (tmp_path / "hub/zoo/two/README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    with running_hub(tmp_path / "hub") as url:
        use_hub(url, tmp_path, monkeypatch)
        assert len(hub_sets.list_images("zoo/two:many", tmp_path).train.files) == 8
        with pytest.raises(errors.DataError, match=r"available configs: \['few', 'many'\].* is named hf:"):
            hub_sets.list_images("zoo/two", tmp_path)
    assert (tmp_path / "hf/zoo--two--many").is_dir()


def test_a_set_that_cannot_be_had_is_told_in_one_line(tmp_path, monkeypatch, capfd):
    for url, wanted in (
        (None, "the hub has no data set zoo/none for this user; check the name, or log in with "),
        ("http://127.0.0.1:9", f"no copy in {tmp_path}/hf/zoo--none, and the hub cannot be reached ("),
    ):
        with running_hub(tmp_path) as running:
            use_hub(url or running, tmp_path, monkeypatch)
            with pytest.raises(errors.DataError) as raised:
                hub_sets.list_images("zoo/none", tmp_path)
        assert f"train.dataset: 'hf:zoo/none': {wanted}" in str(raised.value)
    assert capfd.readouterr() == ("", "")
    assert list((tmp_path / "hf").iterdir()) == []


def test_only_a_set_on_this_machine_may_refer_to_files_on_it(tmp_path):
    (tmp_path / "private.png").write_bytes(b"content")
    image = {"bytes": None, "path": str(tmp_path / "private.png")}
    assert hub_export.encoded_image(image, is_local=True) == b"content"
    assert hub_export.encoded_image(image, is_local=False) is None
    assert hub_export.encoded_image({**image, "path": f"file://{image['path']}"}, is_local=False) is None


@pytest.mark.parametrize("name", ["pets", "a/b/c", "a b/c", "a/b:", "a/b:c/d", "", "ä/b"])
def test_a_name_that_the_hub_cannot_have_is_refused(tmp_path, name):
    with pytest.raises(errors.DataError, match="want hf:OWNER/NAME or hf:OWNER/NAME:CONFIGURATION"):
        hub_sets.list_images(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_the_library_one_line_says_how_to_install_it(tmp_path, monkeypatch):
    write_parquet(tmp_path / "set", make_splits())
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'hpo-vision[hf]'" in message_of(tmp_path)
    with pytest.raises(class_folders.MissingImages, match="no copy in "):
        list_images(tmp_path, makes_copy=False)
