"""Published data sets of image files: read from a copy, made from archives, refused where not whole."""

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import STL10

from hpo import errors
from hpo.training import datasets, drawn_images, file_sets, shapes, sources
from hpo.training.config import DATASETS, FILE_DATASETS, Config, FinalConfig
from hpo.training.used_files import ContentHashes
from tests.support.data_sets import assert_well_formed, load_error
from tests.support.disks import folder_without_rights
from tests.support.file_sets import (
    CLASSES,
    COUNTS,
    SPLIT_RED,
    pack_file_set,
    write_file_set,
    write_stl10,
)
from tests.support.file_sets import green as green_of

pytestmark = pytest.mark.usefixtures("no_network")

PUBLISHED = dict(file_sets.FILE_SETS)  # before the fixture changes their addresses


def colours(split):
    """Return the red and green of the images of a split, each of one colour."""
    return [tuple(image.float().mean((1, 2))[:2].round().int().tolist()) for image in split.images]


def assert_is_copy(dataset, name):
    assert dataset.classes == CLASSES[name]
    assert_well_formed(dataset, 3, 16)
    shipped = COUNTS[name]
    for split, each in dataset.splits.items():
        origin = split if split in shipped else "train"  # a split that is not published is held out
        for (red, green), label in zip(colours(each), each.labels.tolist(), strict=True):
            assert abs(red - SPLIT_RED[origin]) < 8, (split, red)
            assert abs(green - green_of(label, len(dataset.classes))) < 8, (split, green, label)
    for split in ("valid", "test"):
        if split in shipped:
            assert len(dataset.splits[split]) == shipped[split] * len(dataset.classes)
    total = sum(len(each) for each in dataset.splits.values())
    assert total == sum(shipped.values()) * len(dataset.classes)


@pytest.mark.parametrize("name", FILE_DATASETS)
def test_a_copy_is_read_in_its_published_splits_without_a_network(tmp_path, monkeypatch, name):
    write_file_set(name, tmp_path, monkeypatch)
    assert_is_copy(datasets.load_dataset(Config(dataset=name, image_size=16), tmp_path), name)
    assert sources.has_copy(name, tmp_path)


@pytest.mark.parametrize("name", FILE_DATASETS)
def test_archives_in_the_data_folder_are_unpacked_without_a_network(tmp_path, monkeypatch, name):
    write_file_set(name, tmp_path, monkeypatch)
    pack_file_set(name, tmp_path, monkeypatch)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert not sources.has_copy(name, tmp_path)
    assert sources.is_packed(name, tmp_path) is True
    assert_is_copy(datasets.load_dataset(Config(dataset=name, image_size=16), tmp_path), name)
    assert all(path.is_file() for path in before), "archives stay"
    assert not list(tmp_path.glob(".*.unpacked"))


@pytest.mark.parametrize("name", ["oxford_pets", "imagenette"])
def test_an_unfinished_copy_is_replaced(tmp_path, monkeypatch, name):
    write_file_set(name, tmp_path, monkeypatch)
    pack_file_set(name, tmp_path, monkeypatch)
    known = file_sets.FILE_SETS[name]
    (tmp_path / known.folders[0]).mkdir()
    (tmp_path / known.folders[0] / "half.jpg").touch()
    (tmp_path / f".{name}.unpacked/of a worker that died").mkdir(parents=True)
    assert not sources.has_copy(name, tmp_path)
    assert_is_copy(datasets.load_dataset(Config(dataset=name, image_size=16), tmp_path), name)
    assert not (tmp_path / known.folders[0] / "half.jpg").exists()
    assert not (tmp_path / f".{name}.unpacked").exists()


@pytest.mark.parametrize("name", FILE_DATASETS)
def test_a_copy_with_fewer_images_than_were_published_is_refused(tmp_path, monkeypatch, name):
    write_file_set(name, tmp_path, monkeypatch)
    published = shapes.KNOWN_SHAPES[name].images
    folder = tmp_path / file_sets.FILE_SETS[name].folders[0]
    next(path for path in sorted(folder.rglob("*")) if path.suffix in (".jpg", ".JPEG")).unlink()
    message = load_error(Config(dataset=name), tmp_path)
    assert message.startswith(f"{name}: the copy in {tmp_path} has {published - 1} images, but {published}")
    assert file_sets.FILE_SETS[name].folders[0] in message
    with pytest.raises(errors.DataError, match="were published"):
        sources.has_copy(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("food101", "food-101/meta/train.json"),
        ("oxford_pets", "oxford-iiit-pet/annotations/test.txt"),
        ("dtd", "dtd/dtd/labels/val1.txt"),
    ],
)
@pytest.mark.parametrize("content", [b"half", b"\xff", b"[]"])
def test_damaged_annotations_are_told(tmp_path, monkeypatch, name, file, content):
    write_file_set(name, tmp_path, monkeypatch)
    (tmp_path / file).write_bytes(content)
    assert load_error(Config(dataset=name), tmp_path).startswith(
        f"{name}: the copy in {tmp_path} is damaged ("
    )


def test_a_copy_that_may_not_be_read_is_told(monkeypatch):
    with folder_without_rights() as root:
        write_file_set("eurosat", root, monkeypatch)
        (root / "eurosat/2750").chmod(0)
        message = load_error(Config(dataset="eurosat"), root)
        (root / "eurosat/2750").chmod(0o700)
    assert message == f"eurosat: {root}/eurosat/2750: Permission denied; hpo must be able to read it"


def test_a_damaged_archive_is_not_unpacked(tmp_path, monkeypatch):
    write_file_set("eurosat", tmp_path, monkeypatch)
    pack_file_set("eurosat", tmp_path, monkeypatch)
    archive = tmp_path / "eurosat/EuroSAT.zip"
    archive.write_bytes(archive.read_bytes()[:-1])
    assert sources.is_packed("eurosat", tmp_path) is False
    message = load_error(Config(dataset="eurosat"), tmp_path)
    assert "put eurosat/EuroSAT.zip from https://huggingface.co/" in message
    assert not (tmp_path / "eurosat/2750").exists()


@pytest.mark.parametrize("name", FILE_DATASETS)
@pytest.mark.parametrize(
    "options", [{}, {"selection": "test"}, {"limit": 12}, {"selection": "test", "limit": 9}]
)
def test_the_known_shape_is_that_of_the_loaded_data_set(tmp_path, monkeypatch, name, options):
    write_file_set(name, tmp_path, monkeypatch)
    configs = [Config(dataset=name, image_size=8, **options)]
    if "selection" not in options:
        configs.append(FinalConfig(dataset=name, image_size=8, **options))
    for config in configs:
        loaded, shape = datasets.load_dataset(config, tmp_path), datasets.dataset_shape(config, tmp_path)
        assert (shape.train, shape.selection) == (len(loaded.train), len(loaded.selection))
        assert (shape.classes, shape.channels, shape.pixels) == (len(loaded.classes), 3, 8)


def test_files_are_read_as_those_of_a_folder(tmp_path, monkeypatch):
    write_file_set("eurosat", tmp_path, monkeypatch)
    file = next((tmp_path / "eurosat/2750/Forest").iterdir())
    Image.new("RGBA", (40, 20)).save(file, "PNG")
    padded = Config(dataset="eurosat", image_size=16, resize="pad", transparency="black")
    scan = drawn_images.draw_images(padded, tmp_path).scan(ContentHashes())
    assert (scan.total, scan.transparent) == (18, (file,))
    images = [
        each for split in datasets.load_dataset(padded, tmp_path).splits.values() for each in split.images
    ]
    assert sum(not image.any() for image in images) == 1
    file.write_bytes(b"no image")
    assert "1 of 18 images cannot be read" in load_error(padded, tmp_path)
    left = datasets.load_dataset(padded.model_copy(update={"corrupt": "skip"}), tmp_path)
    assert left.skipped == (str(file),)
    small = padded.model_copy(update={"corrupt": "skip", "max_pixels": 64})
    assert "18 of 18 images" in load_error(small.model_copy(update={"corrupt": "refuse"}), tmp_path)


def test_stl10_is_read_without_its_unlabelled_images(tmp_path, monkeypatch):
    pixels = write_stl10(tmp_path, monkeypatch)
    dataset = datasets.load_dataset(Config(dataset="stl10"), tmp_path)
    assert_well_formed(dataset, 3, 96)
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (36, 4, 20)
    assert np.array_equal(dataset.test.images.numpy(), pixels["test"])
    assert dataset.test.labels.tolist() == [n % 10 for n in range(20)]
    assert dataset.classes[0] == "airplane"
    assert len(dataset.classes) == 10
    (tmp_path / "stl10_binary/train_y.bin").write_bytes(b"half")
    assert "stl10: no complete copy" in load_error(Config(dataset="stl10"), tmp_path)


def test_what_is_known_of_published_sets_is_torchvisions():
    known = {each.path: each for file_set in PUBLISHED.values() for each in file_set.archives}
    sets = {name: file_set.kind for name, file_set in PUBLISHED.items()}
    flowers, pets = sets["flowers102"], sets["oxford_pets"]
    for name, md5 in flowers._file_dict.values():
        assert (known[f"flowers-102/{name}"].url, known[f"flowers-102/{name}"].md5) == (
            flowers._download_url_prefix + name,
            md5,
        )
    assert [(each.url, each.md5) for each in PUBLISHED["oxford_pets"].archives] == [*pets._RESOURCES]
    food, dtd = known["food-101.tar.gz"], known["dtd/dtd-r1.0.1.tar.gz"]
    assert (food.url, food.md5) == (sets["food101"]._URL, sets["food101"]._MD5)
    assert (dtd.url, dtd.md5) == (sets["dtd"]._URL, sets["dtd"]._MD5)
    imagenette = known["imagenette2.tgz"]
    assert (imagenette.url, imagenette.md5) == sets["imagenette"]._ARCHIVES["full"]
    assert [name for name, _ in sources.LabelledSTL10.train_list] == ["train_X.bin", "train_y.bin"]
    assert STL10.train_list[2][0] == "unlabeled_X.bin"


def test_every_data_set_known_by_name_has_a_shape_and_a_place():
    assert set(shapes.KNOWN_SHAPES) == set(DATASETS)
    assert {*sources.MANUAL_FILES, "digits"} == {*sources.ORIGINS, "digits"} == set(DATASETS)
    assert set(file_sets.FILE_SETS) == set(FILE_DATASETS)
