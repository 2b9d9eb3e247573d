"""Which files a study uses, and when two folders have the same images."""

import os
import re
import shutil
from pathlib import Path

import pytest

from hpo.errors import DataError
from hpo.training import drawn_images
from hpo.training.config import Config, FinalConfig
from hpo.training.used_files import ContentHashes, UsedFiles
from tests.support.data_sets import folder_config
from tests.support.disks import folder_without_rights
from tests.support.images import write_images


def list_files(folder, hashes=None, **options) -> UsedFiles:
    return drawn_images.list_used_files(folder_config(folder, **options), Path(), hashes or ContentHashes())


@pytest.fixture
def pets(tmp_path):
    write_images(tmp_path / "pets", {"cat": 10, "dog": 10})
    return tmp_path / "pets"


def test_the_same_files_elsewhere_are_the_same_images(pets, tmp_path):
    found = list_files(pets)
    assert found.fingerprint.startswith("20 images, blake2b ")
    assert {entry.split()[0] for entry in found.files.values()} == {"train", "valid", "test"}
    shutil.copytree(pets, tmp_path / "copy")
    assert list_files(tmp_path / "copy") == found
    assert UsedFiles.load(found.dump(), found.fingerprint) == found
    assert UsedFiles.load(found.dump() + b" ", found.fingerprint) is None


def test_a_changed_file_is_noticed_although_size_and_time_are_as_before(pets):
    hashes = ContentHashes()
    before, file = list_files(pets, hashes), pets / "cat/003.png"
    stat, content = file.stat(), file.read_bytes()
    assert list_files(pets, hashes) == before
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for known in (hashes, ContentHashes()):
        assert before.describe_changes(list_files(pets, known)) == "1 changed ('cat/003.png')"
    file.unlink()
    file.symlink_to("nowhere")
    assert list_files(pets, hashes).files["cat/003.png"].endswith(" -")
    assert before.describe_changes(list_files(pets, hashes)) == "1 changed ('cat/003.png')"


def test_only_the_files_that_are_used_count(pets):
    found = list_files(pets, limit=5)
    assert 5 < len(found.files) < 20
    used = sorted(list_files(pets).files.keys() - found.files.keys())
    (pets / used[0]).write_bytes(b"x")
    assert list_files(pets, limit=5) == found
    other_split = list_files(pets, split_seed=1)
    assert re.match(r"\d+ in another split \('", list_files(pets).describe_changes(other_split))


def test_a_trial_of_finish_uses_the_files_of_the_studys_trials(pets):
    options = {"dataset": f"folder:{pets}", "limit": 12}
    study, final = Config(**options), FinalConfig(**options)
    assert drawn_images.list_used_files(study, Path(), ContentHashes()) == drawn_images.list_used_files(
        final, Path(), ContentHashes()
    )


def test_names_of_any_kind_are_listed(pets, tmp_path):
    odd = os.fsdecode(b"tab\tline\nlatin\xe4 '.png")
    (pets / "cat/000.png").rename(pets / "cat" / odd)
    found = list_files(pets)
    assert f"cat/{odd}" in found.files
    assert UsedFiles.load(found.dump(), found.fingerprint) == found
    text = UsedFiles(files={}).describe_changes(found)
    assert "20 added (" in text
    assert "\n" not in text


def test_a_folder_whose_files_may_not_be_read_is_listed_without_their_content():
    with folder_without_rights() as folder:
        write_images(folder, {"a": 3, "b": 3})
        (folder / "a/000.png").chmod(0)
        assert list_files(folder).files["a/000.png"].endswith(" -")


def test_a_file_system_that_fails_is_told_in_one_line(pets):
    (pets / "cat/odd.png").symlink_to("/proc/self/mem")  # whose first page is an I/O error
    with pytest.raises(DataError, match=r"Input/output error; its content must be readable"):
        list_files(pets)
