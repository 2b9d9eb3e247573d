"""One scan of a folder before its images are decoded."""

import shutil

import pytest
from PIL import Image

from hpo import errors
from hpo.training import datasets, drawn_images
from hpo.training.used_files import ContentHashes
from tests.support.data_sets import folder_config
from tests.support.images import write_images

pytestmark = pytest.mark.usefixtures("no_network")


def names(paths) -> list[str]:
    return [path.name for path in paths]


def scan(path, **options):
    return drawn_images.draw_images(folder_config(path, **options), path).scan(ContentHashes())


@pytest.fixture
def pets(tmp_path):
    for seed, part in enumerate(("train", "valid", "test")):
        write_images(tmp_path / part, {"cat": 3, "dog": 2}, seed)
    return tmp_path


def test_a_scan_counts_files_formats_modes_and_sizes_without_decoding(pets, monkeypatch):
    Image.new("L", (300, 200)).save(pets / "train/cat/wide.jpg")
    Image.new("RGB", (4, 5)).save(pets / "test/dog/small.bmp")
    monkeypatch.setattr(Image.Image, "load", None)
    found = scan(pets)
    assert found.classes == ("cat", "dog")
    assert found.images == {"train": (4, 2), "valid": (3, 2), "test": (3, 3)}
    assert found.total == 17
    assert found.formats == {"PNG": 15, "JPEG": 1, "BMP": 1}
    assert found.modes == {"RGB": 16, "L": 1}
    assert found.sizes is not None
    assert (found.sizes[0], found.sizes[2]) == ((4, 5), (300, 200))
    assert 400 <= found.sizes[1][0] * found.sizes[1][1] <= 600
    assert found.unreadable == found.transparent == found.animated == ()
    assert list(found.notes()) == []


def test_transparent_and_animated_files_are_found(pets):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(pets / "train/cat/moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(pets / "train/cat/pages.tif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (8, 8)).save(pets / "train/dog/alpha.png")
    Image.new("P", (9, 8)).save(pets / "train/dog/palette.png", transparency=0)
    Image.new("L", (9, 9)).save(pets / "train/dog/grey.png", transparency=0)
    found = scan(pets)
    assert names(found.transparent) == ["alpha.png", "grey.png", "palette.png"]
    assert names(found.animated) == ["moving.gif", "pages.tif"]


def test_everything_that_headers_show_to_be_unreadable_is_told_at_once(pets):
    (pets / "train/cat/text.png").write_text("no image")
    (pets / "valid/cat/gone.png").symlink_to(pets / "gone.png")
    Image.new("I", (8, 8)).save(pets / "test/dog/deep.tif")
    Image.new("RGB", (100, 90)).save(pets / "train/dog/large.png")
    found = scan(pets, max_pixels=8999)
    assert names(each.path for each in found.unreadable) == [
        *("text.png", "large.png", "gone.png", "deep.tif")
    ]
    assert found.readable_images() == {"train": (3, 2), "valid": (3, 2), "test": (3, 2)}
    with pytest.raises(errors.DataError) as refused:
        found.check("refuse")
    message = str(refused.value)
    assert message.startswith(f"folder:{pets}: 4 of 19 images cannot be read: ")
    assert "large.png (100 x 90 pixels, more than the 8,999 of max_pixels)" in message
    assert message.endswith(
        "; repair or remove them, raise train.max_pixels, or set train.corrupt = "
        '"skip" to leave such files out'
    )
    found.check("skip")


def test_only_a_failing_file_system_may_be_worth_another_try(pets):
    (pets / "train/cat/text.png").write_text("no image")
    with pytest.raises(errors.ImagesUnreadable):
        scan(pets).check("refuse")
    (pets / "train/cat/gone.png").symlink_to(pets / "gone.png")  # its disk may be mounted later
    with pytest.raises(errors.DataError) as refused:
        scan(pets).check("refuse")
    assert not isinstance(refused.value, errors.ImagesUnreadable)


def test_many_unreadable_files_are_counted_and_the_first_are_named(pets):
    for number in range(50):
        (pets / f"train/cat/{number:03} broken.png").write_text("no image")
    with pytest.raises(errors.DataError) as refused:
        scan(pets).check("refuse")
    assert "50 of 65 images cannot be read" in str(refused.value)
    assert "004 broken.png (none of the formats" in str(refused.value)
    assert "005 broken.png" not in str(refused.value)
    assert " and 45 more; repair" in str(refused.value)


def test_copies_in_several_classes_or_splits_are_told(pets):
    shutil.copy(pets / "train/cat/000.png", pets / "train/dog/copy.png")
    shutil.copy(pets / "train/cat/001.png", pets / "test/cat/again.png")
    shutil.copy(pets / "train/cat/002.png", pets / "train/cat/harmless.png")
    found = scan(pets)
    assert [names(each.path for each in group) for group in found.across_classes] == [
        ["000.png", "copy.png"]
    ]
    assert [names(each.path for each in group) for group in found.across_splits] == [
        ["001.png", "again.png"]
    ]
    first, second = found.notes()
    assert "2 of 18 files have the same content as another one in different classes, such as" in first
    assert "copy.png (dog, training)'; at most one class is right" in first
    assert "in different splits" in second
    assert "again.png (cat, test)'" in second


def test_of_many_copies_two_that_are_apart_are_named(pets):
    for number in range(3):
        shutil.copy(pets / "train/cat/000.png", pets / f"train/cat/copy{number}.png")
    shutil.copy(pets / "train/cat/000.png", pets / "test/cat/zz.png")
    found = scan(pets)
    (line,) = found.notes()
    assert "(cat, training)' and" in line
    assert "zz.png (cat, test)'; 'hpo data STUDY --json' lists all; a trial" in line
    (listed,) = found.document()["same_in_several_splits"]
    assert len(listed) == 5


def test_only_files_that_the_study_uses_are_scanned(tmp_path):
    write_images(tmp_path, {"cat": 40, "dog": 40})
    found = scan(tmp_path, limit=8)
    dataset = datasets.load_dataset(folder_config(tmp_path, limit=8), tmp_path)
    assert found.total == sum(map(len, dataset.splits.values())) < 20
    assert {name: sum(each) for name, each in found.images.items()} == {
        name: len(split) for name, split in dataset.splits.items()
    }


def test_progress_is_reported_until_every_file_is_decoded(pets):
    told: list[tuple[str, int, int]] = []
    datasets.load_dataset(folder_config(pets), pets, progress=lambda *each: told.append(each))
    assert told[-1] == ("decoding", 15, 15)


def test_progress_is_reported_until_every_file_is_read(tmp_path):
    write_images(tmp_path, {"cat": 80, "dog": 80})
    shutil.copy(tmp_path / "cat/000.png", tmp_path / "dog/copy.png")
    told: list[tuple[str, int, int]] = []
    drawn = drawn_images.draw_images(folder_config(tmp_path), tmp_path)
    drawn.scan(ContentHashes(), lambda *each: told.append(each))
    assert [each for each in told if each[0] == "reading headers"] == [
        ("reading headers", done, 161) for done in (64, 128, 161)
    ]
    what, done, total = told[-1]
    assert what == "hashing files"
    assert done == total


def test_a_scan_leaves_pils_settings_as_they_were(pets):
    before = Image.MAX_IMAGE_PIXELS
    scan(pets)
    assert before == Image.MAX_IMAGE_PIXELS
