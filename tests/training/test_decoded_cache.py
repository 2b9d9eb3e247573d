"""Images that are decoded once per machine."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from hpo.artifacts.folders import Artifacts
from hpo.errors import CacheUnusable, DataError, ImagesUnreadable, StopRequested
from hpo.training import datasets, decoded_cache, decoding
from hpo.training.config import FinalConfig
from hpo.training.decoded_cache import DecodedCache, cache_folder
from tests.support.data_sets import folder_config
from tests.support.disks import fill, mounted_disk
from tests.support.images import write_images
from tests.support.processes import wait_for

IMAGE_BYTES = 3 * 16 * 16


@pytest.fixture
def pictures(tmp_path) -> Path:
    write_images(tmp_path / "pictures", {"cat": 20, "dog": 20})
    return tmp_path / "pictures"


@pytest.fixture
def cache(tmp_path) -> DecodedCache:
    return DecodedCache(tmp_path / "cache")


def files_of(cache: DecodedCache) -> list[str]:
    return sorted(path.name for path in cache.folder.glob("*")) if cache.folder.exists() else []


def load(pictures: Path, cache: DecodedCache | None, /, **options) -> datasets.Dataset:
    return datasets.load_dataset(folder_config(pictures, **options), pictures, cache)


def assert_same(one: datasets.Dataset, other: datasets.Dataset) -> None:
    assert one.splits.keys() == other.splits.keys()
    for name, split in one.splits.items():
        assert torch.equal(split.images, other.splits[name].images)
        assert torch.equal(split.labels, other.splits[name].labels)
    assert one.skipped == other.skipped


@pytest.mark.parametrize("options", [{}, {"selection": "test"}, {"limit": 9}, {"image_size": 24}])
def test_cached_images_are_those_that_decoding_into_memory_gives(pictures, cache, options):
    expected = load(pictures, None, **options)
    for _ in range(2):
        found = load(pictures, cache, **options)
        assert_same(found, expected)
        assert all(split.mapping is not None for split in found.splits.values())
    assert len(files_of(cache)) == 1


def test_copies_are_in_local_artifacts_and_else_in_the_users_cache_folder(tmp_path, monkeypatch):
    assert cache_folder(Artifacts(str(tmp_path))) == tmp_path / "cache/images"
    remote = Artifacts("memory://bucket")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(remote) == tmp_path / "hpo/cache/images"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder(remote) == Path("/home/me/.cache/hpo/cache/images")


def test_with_memory_nothing_is_written(pictures, cache):
    assert load(pictures, cache, cache="memory").train.mapping is None
    assert files_of(cache) == []


def test_a_copy_is_used_and_not_made_again(pictures, cache, monkeypatch):
    load(pictures, cache)
    monkeypatch.setattr(decoding, "decode", None)
    assert len(load(pictures, DecodedCache(cache.folder)).train) == 32


def test_the_copy_of_a_study_serves_the_runs_that_finish_it(pictures, cache):
    load(pictures, cache)
    config = folder_config(pictures).model_dump() | {"selection": "final"}
    found = datasets.load_dataset(FinalConfig(**config), pictures, cache)
    assert len(found.train) == 36
    assert len(files_of(cache)) == 1


@pytest.mark.parametrize("option", [{"image_size": 24}, {"resize": "pad"}, {"transparency": "drop"}])
def test_every_way_to_read_files_has_its_own_copy(pictures, cache, option):
    load(pictures, cache)
    load(pictures, cache, **option)
    assert len(files_of(cache)) == 2


def test_another_content_under_the_same_name_is_decoded(pictures, cache):
    before = load(pictures, cache)
    for path in pictures.rglob("*.png"):
        Image.new("RGB", (20, 20), "red").save(path)
    after = load(pictures, cache)
    assert not torch.equal(before.train.images, after.train.images)
    assert after.train.images[0, :, 0, 0].tolist() == [255, 0, 0]


def test_a_file_that_changes_while_it_is_decoded_leaves_no_copy(pictures, cache, monkeypatch):
    original = decoding.decode

    def decode_and_change(job, write):
        report = original(job, write)
        Image.new("RGB", (20, 20), "red").save(job.files[0].path)
        return report

    monkeypatch.setattr(decoding, "decode", decode_and_change)
    with pytest.raises(DataError, match="changed while they were decoded"):
        load(pictures, cache)
    assert files_of(cache) == []


def test_unreadable_files_are_left_out_of_a_copy_and_noted_each_time(pictures, cache):
    (pictures / "cat/000.png").write_bytes(b"no image")
    broken = pictures / "dog/001.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    expected = load(pictures, None, corrupt="skip")
    for _ in range(2):
        found = load(pictures, cache, corrupt="skip")
        assert_same(found, expected)
        assert found.notes == expected.notes
        assert "left out 2 of 40 images" in found.notes[0]
    with pytest.raises(ImagesUnreadable, match="2 of 40 images cannot be read"):
        load(pictures, cache)


def test_a_damaged_copy_is_made_again(pictures, cache):
    expected = load(pictures, cache)
    [name] = files_of(cache)
    for content in (b"", b"\0" * 100, (cache.folder / name).read_bytes()[:-5]):
        (cache.folder / name).unlink()
        (cache.folder / name).write_bytes(content)
        assert_same(load(pictures, cache), expected)
    assert files_of(cache) == [name]


def test_a_copy_that_appears_while_its_draft_is_opened_is_used(pictures, cache, monkeypatch):
    load(pictures, cache)
    original, tries = decoded_cache.MappedImages, []

    def fail_twice(file, size):
        tries.append(file)
        if len(tries) <= 2:
            raise ValueError("not there yet")
        return original(file, size)

    monkeypatch.setattr(decoded_cache, "MappedImages", fail_twice)
    monkeypatch.setattr(decoding, "decode", None)
    assert len(load(pictures, cache).train) == 32
    assert len(files_of(cache)) == 1


def test_a_stop_ends_decoding_and_leaves_nothing(pictures, cache):
    cache.stop.set()
    with pytest.raises(StopRequested):
        load(pictures, cache)
    assert files_of(cache) == []


def start_process(pictures: Path, cache: DecodedCache, gate: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.decoding_process"]
    return subprocess.Popen(
        [*command, *map(str, (pictures, cache.folder, gate))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_maker_leaves_a_draft_that_the_next_one_replaces(pictures, cache, tmp_path):
    with start_process(pictures, cache, tmp_path / "gate") as process:
        wait_for(lambda: files_of(cache))
        other = DecodedCache(cache.folder)
        other.stop.set()
        with pytest.raises(StopRequested, match="another worker"):  # which is alive and holds the lock
            load(pictures, other)
        process.send_signal(signal.SIGKILL)
    [draft] = files_of(cache)
    assert draft.endswith(".images.draft")
    assert_same(load(pictures, cache), load(pictures, None))
    assert files_of(cache) == [draft.removesuffix(".draft")]


def test_processes_that_start_together_make_one_copy_and_read_the_same(pictures, cache, tmp_path):
    running = [start_process(pictures, cache, tmp_path / "gate") for _ in range(2)]
    wait_for(lambda: files_of(cache))
    (tmp_path / "gate").touch()
    printed = sorted(process.stdout.readline().split() for process in running)  # both are alive still
    for process in running:
        process.communicate()
    expected = str(load(pictures, None).train.images.sum().item())
    assert printed == [["0", expected], ["40", expected]]
    assert len(files_of(cache)) == 1


def test_the_copies_that_were_not_used_for_longest_make_room(pictures, tmp_path):
    cache = DecodedCache(tmp_path / "cache", max_bytes=3 * 40 * IMAGE_BYTES)
    for number, size in enumerate((14, 15, 16)):
        load(pictures, cache, image_size=size)
        newest = max(cache.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    oldest, used = sorted(cache.folder.iterdir(), key=lambda path: path.stat().st_mtime)[:2]
    in_use = load(pictures, cache, image_size=15)  # now the newest
    load(pictures, cache, image_size=17)
    assert not oldest.exists()
    assert used.exists()
    assert in_use.train.mapping is not None
    assert cache.measure().nbytes <= cache.max_bytes


def test_a_copy_in_use_is_not_removed_and_an_abandoned_draft_is(pictures, cache):
    used = load(pictures, cache)
    (cache.folder / "0123.images.draft").write_bytes(bytes(1000))
    assert cache.measure().drafts == 1
    assert cache.clear() == 1000
    assert len(files_of(cache)) == 1
    expected = used.train.images.clone()
    del used
    assert cache.clear() > 0
    assert files_of(cache) == []
    assert len(expected) == 32


def test_a_data_set_larger_than_the_cache_is_kept_in_memory_or_refused(pictures, tmp_path, caplog):
    cache = DecodedCache(tmp_path / "cache", max_bytes=1000)
    assert load(pictures, cache).train.mapping is None
    assert (
        "30.7 kB are more than the 1.0 kB of --cache-gb; each worker keeps them in its own memory"
        in caplog.text
    )
    with pytest.raises(CacheUnusable, match="raise --cache-gb, or set train"):
        load(pictures, cache, cache="disk")


def test_a_full_disk_is_one_line_and_images_are_kept_in_memory_or_refused(pictures, tmp_path, caplog):
    with mounted_disk(tmp_path / "disk", 1) as disk:
        fill(disk)
        cache = DecodedCache(disk / "cache")
        assert_same(load(pictures, cache), load(pictures, None))
        assert len(caplog.records) == 1
        with pytest.raises(CacheUnusable) as raised:
            load(pictures, cache, cache="disk")
        assert "\n" not in str(raised.value)
        assert str(disk) in str(raised.value)
        assert files_of(cache) == []


def test_a_disk_that_fills_up_while_images_are_decoded_keeps_nothing(pictures, tmp_path, monkeypatch):
    with mounted_disk(tmp_path / "disk", 1) as disk:
        cache = DecodedCache(disk / "cache")
        original = decoding.decode

        def fill_and_decode(job, write):
            fill(disk)
            return original(job, write)

        monkeypatch.setattr(decoding, "decode", fill_and_decode)
        with pytest.raises(CacheUnusable, match="No space left on device"):
            load(pictures, cache, cache="disk", image_size=64)
        assert files_of(cache) == []


def test_images_that_do_not_fit_into_the_memory_are_refused_before_they_are_decoded(pictures, monkeypatch):
    monkeypatch.setattr(decoding, "free_memory_bytes", lambda: 40 * IMAGE_BYTES - 1)
    with pytest.raises(DataError, match=r"40 images take 30\.7 kB at 16 px, and 30\.7 kB of memory are"):
        load(pictures, None)
