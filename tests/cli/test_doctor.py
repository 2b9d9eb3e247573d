"""``hpo doctor``: what it reports about the store, the artifacts and the disks."""

import contextlib
import errno
import fcntl
import hashlib
import os
import sqlite3
from pathlib import Path

import optuna
import pynvml
import pytest
from fsspec.implementations.local import LocalFileSystem
from optuna.trial import TrialState
from torchvision.datasets import CIFAR10

from hpo.cli import doctor
from hpo.errors import StoreError
from hpo.store import database, process, queue, studies
from hpo.training.config import DATASETS
from tests.support import lease_worker
from tests.support.databases import closed_engines
from tests.support.disks import folder_without_rights, mount, mounted_disk
from tests.support.file_sets import pack_file_set, write_file_set
from tests.support.lease_worker import NAME
from tests.support.network import require_root


@pytest.fixture
def storage(url):
    storage = studies.open_storage(url, create=True)
    studies.create_study(storage, lease_worker.definition(4), "text")
    return storage


def claim_trial(storage, seconds=60.0, **hardware):
    study_id = studies.find_study_id(storage, NAME)
    claim = queue.claim_trial(
        storage, study_id, process.current_owner("cpu"), lease_seconds=seconds, max_attempts=9
    )
    claim.commit(user_attributes={"hardware": hardware})
    return claim


def findings_about(url, tmp_path, subject):
    findings = doctor.run_checks(url, str(tmp_path / "artifacts"), tmp_path)
    return [finding for finding in findings if finding.subject == subject]


def test_a_healthy_study_has_no_line(storage, url, tmp_path):
    claim_trial(storage, device="a").end(TrialState.COMPLETE, value=0.5)
    assert findings_about(url, tmp_path, f"study {NAME}") == []
    (line,) = [each for each in findings_about(url, tmp_path, "store") if each.state == "works"]
    assert line.message.endswith("1 study")


def test_silent_workers_foreign_trials_and_mixed_hardware_are_reported(storage, url, tmp_path):
    claim_trial(storage, device="A100").end(TrialState.COMPLETE, value=0.5)
    claim_trial(storage, device="H100").end(TrialState.COMPLETE, value=0.5)
    claim_trial(storage, seconds=0.0, device="H100")
    optuna.load_study(study_name=NAME, storage=url).ask()
    silent, foreign, mixed = findings_about(url, tmp_path, f"study {NAME}")
    assert {each.state for each in (silent, foreign, mixed)} == {"doubtful"}
    assert silent.message.startswith("trial 2: worker ")
    assert f"'hpo launch {NAME}'" in silent.advice
    assert foreign.message == "trial 3 is run by another tool"
    assert mixed.message == "mixed hardware: 2 on H100; 1 on A100"


def test_orphaned_files_are_reported_except_those_of_running_trials(storage, url, tmp_path):
    folder = tmp_path / "artifacts" / studies.artifacts_folder(storage, NAME)
    names = {"old.draft", "weights-0001-001.safetensors", f"checkpoint-0001-000000-001-{'0' * 64}.pt"}
    for number in range(2):
        trial = folder / f"{number:04d}"
        trial.mkdir(parents=True)
        for name in (*names, "epochs.csv", "settings.json", "events.out.tfevents.1.host"):
            (trial / name).touch()
    (folder / "data.json").touch()
    ended, _running = claim_trial(storage), claim_trial(storage)
    ended.commit(user_attributes={"weights": f"{folder.name}/0000/weights-0001-001.safetensors"})
    ended.end(TrialState.COMPLETE, value=0.5)
    (tmp_path / "artifacts" / "another-0123abcd").mkdir()
    (line,) = findings_about(url, tmp_path, f"study {NAME}")
    assert line.message.startswith("2 unknown files or folders in ")
    assert f"{folder.name}/0000/checkpoint-" in line.message
    assert f"{folder.name}/0000/old.draft" in line.message
    (other,) = [each for each in findings_about(url, tmp_path, "artifacts") if each.state == "doubtful"]
    assert other.message.endswith(": another-0123abcd")
    assert "unless another store does" in other.advice


def test_an_sqlite_version_that_is_unsafe_with_the_journal_mode_is_reported(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/hpo.db"

    def results(journal, version):
        with contextlib.closing(sqlite3.connect(tmp_path / "hpo.db")) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal}")
        monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
        return [(each.state, each.advice) for each in findings_about(url, tmp_path, "sqlite")]

    with closed_engines():
        studies.open_storage(url, create=True).engine.dispose()
        assert results("DELETE", (3, 40, 1)) == [("works", "")]
        assert results("WAL", (3, 51, 3)) == [("works", "")]
        ((state, advice),) = results("WAL", (3, 40, 1))
        assert state == "broken"
        assert "'PRAGMA journal_mode = DELETE'" in advice


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/me/local\\040disk ext4 rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/srv/hpo.db", None), ("/home/me/hpo.db", "nfs4"), ("/home/me/local disk/hpo.db", None)],
)
def test_a_network_disk_is_recognised_by_its_mount(path, kind):
    assert database.network_disk(Path(path), MOUNTS) == kind


def test_no_sqlite_store_is_created_on_a_network_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "network_disk", lambda path: "nfs4")
    with pytest.raises(StoreError, match=r"a network disk \(nfs4\).*or use Postgres"):
        studies.open_storage(f"sqlite:///{tmp_path}/hpo.db", create=True)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def disk(tmp_path):
    """Mount a disk that has too little room for a checkpoint."""
    require_root("mount", "umount")
    with mounted_disk(tmp_path / "disk", 4) as path:
        yield path


def test_decoded_images_are_reported_and_cleared(tmp_path):
    cache = tmp_path / "artifacts/cache/images"
    assert not findings_about(f"sqlite:///{tmp_path}/hpo.db", tmp_path, "decoded images")
    assert (
        doctor.clear_cache(str(tmp_path / "artifacts")) == f"removed 0.0 kB of decoded images from {cache}"
    )
    cache.mkdir(parents=True)
    (cache / "0123.images").write_bytes(bytes(2_000_000))
    (cache / "4567.images.draft").write_bytes(bytes(500_000))
    (line,) = findings_about(f"sqlite:///{tmp_path}/hpo.db", tmp_path, "decoded images")
    assert line.message == f"2 copies, 1 of them unfinished, 2.5 MB in {cache}"
    with (cache / "0123.images").open("rb") as used:
        fcntl.flock(used, fcntl.LOCK_SH)
        assert doctor.clear_cache(str(tmp_path / "artifacts")) == (
            f"removed 500.0 kB of decoded images from {cache}; 1 copy, 2.0 MB in use are left"
        )
    assert "removed 2.0 MB" in doctor.clear_cache(str(tmp_path / "artifacts"))


def test_an_almost_full_disk_is_broken(disk, tmp_path):
    findings = doctor.run_checks(f"sqlite:///{tmp_path}/hpo.db", str(disk), tmp_path)
    (line,) = [each for each in findings if "free" in each.message]
    assert (line.subject, line.state) == ("artifacts", "broken")
    assert line.message == f"0.0 GiB free on the disk of {disk}"
    assert line.advice.startswith("free some space")


def test_a_read_only_store_is_doubtful(disk, tmp_path):
    url = f"sqlite:///{disk}/hpo.db"
    with closed_engines():
        studies.create_study(studies.open_storage(url, create=True), lease_worker.definition(1), "text")
    mount("-o", "remount,ro", disk)
    with closed_engines():
        (line,) = [each for each in findings_about(url, tmp_path, "store") if "stud" in each.message]
    assert (line.state, line.message) == ("doubtful", f"{url}, 1 study, read-only")
    assert line.advice == f"make {disk}/hpo.db and its folder writable for workers"


def test_a_location_that_cannot_be_created_is_broken_rather_than_absent(disk, tmp_path):
    findings = doctor.run_checks(f"sqlite:///{disk}/no/hpo.db", f"{disk}/no/artifacts", tmp_path)
    assert {each.state for each in findings if each.subject in ("store", "artifacts")} == {"absent"}
    mount("-o", "remount,ro", disk)
    findings = doctor.run_checks(f"sqlite:///{disk}/no/hpo.db", f"{disk}/no/artifacts", tmp_path)
    for line in (each for each in findings if each.subject in ("store", "artifacts")):
        assert (line.state, line.advice) == ("broken", "choose another location")
        assert line.message.endswith(f"does not exist, and {disk} is not writable")


def test_a_folder_that_may_not_be_entered_is_broken(monkeypatch):
    with folder_without_rights() as folder:
        (folder / "closed").mkdir(mode=0)
        store, artifacts, data = (folder / "closed" / name for name in ("hpo.db", "artifacts", "data"))
        monkeypatch.setenv("TORCH_HOME", str(folder / "closed"))
        found = doctor.run_checks(f"sqlite:///{store}", str(artifacts), data)
    weights = folder / "closed" / "hub" / "checkpoints"
    for subject, path in (("store", store), ("artifacts", artifacts), ("data", data), ("weights", weights)):
        (line,) = [each for each in found if each.subject == subject]
        assert line.state == "broken"
        assert (str(path) in line.message, "Permission denied" in line.message) == (True, True), line


def one_finding(subject, *, store="sqlite:///hpo.db", artifacts="artifacts", data="data"):
    (found,) = [each for each in doctor.run_checks(store, artifacts, Path(data)) if each.subject == subject]
    return found.state, found.message, found.advice


def test_a_database_without_tables_is_absent_on_every_system(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).touch()
    for each in doctor.run_checks(url, "artifacts", tmp_path):
        assert each.subject not in ("store", "studies") or each.state == "absent", each
    state, message, advice = one_finding("store", store=url)
    creator = "'hpo run STUDY' creates it" if url.startswith("sqlite") else "only the owner may"
    assert state == "absent"
    assert creator in advice
    assert message.endswith("holds no store yet")


def test_what_is_in_the_way_of_a_location_is_broken_with_advice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("text").write_text("no database, no folder\n")
    assert one_finding("store", store="sqlite:///folder") == (
        "broken",
        "sqlite:///folder: found a folder; name a file in it, such as folder/hpo.db",
        "",
    )
    assert one_finding("store", store="sqlite:///text")[:2] == (
        "broken",
        "sqlite:///text: file is not a database; choose another file, or restore a copy of it",
    )
    assert one_finding("artifacts", artifacts="text")[:2] == ("broken", "text is not a folder")
    state, message, _ = one_finding("artifacts", artifacts="text/below")
    assert (state, message.partition(", and ")[2]) == ("broken", f"{tmp_path}/text is not a folder")
    for data in ("text", "text/below"):
        state, message, advice = one_finding("data", data=data)
        assert (state, advice) == ("broken", "choose another location")
        assert "text is not a folder" in message
    assert Path("text").read_text() == "no database, no folder\n"


def test_what_the_user_may_not_read_or_write_is_broken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with closed_engines():
        studies.open_storage("sqlite:///hpo.db", create=True)
    Path("artifacts").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root nothing is refused
    assert one_finding("store") == ("broken", "sqlite:///hpo.db: you may not read this file", "")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)

    def refuse(self, path, *_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(LocalFileSystem, "pipe_file", refuse)
    state, message, advice = one_finding("artifacts")
    assert (state, advice) == ("broken", "choose another location")
    assert message.startswith(f"{tmp_path}/artifacts/.probe-")
    assert message.endswith(": Permission denied")


def test_the_data_sets_that_are_absent_share_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data", "cifar-10-python.tar.gz").write_bytes(b"damaged")
    found = doctor.run_checks("sqlite:///hpo.db", "artifacts", Path("data"))
    lines = {each.subject: each for each in found}
    assert {each.subject for each in found} & set(DATASETS) == {"cifar10", "digits"}
    where, _, names = lines["data"].message.partition(": ")
    assert (lines["data"].state, where) == ("absent", "not in data")
    assert {*names.split(", "), "cifar10", "digits"} == set(DATASETS)
    assert "the files to put there" in lines["data"].advice


def test_an_archive_that_is_still_to_be_unpacked_counts_as_present(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    content = b"an archive"
    Path("data", "cifar-10-python.tar.gz").write_bytes(content)
    state, message, advice = one_finding("cifar10")
    assert (state, message) == ("doubtful", "cifar-10-python.tar.gz in data is damaged")
    assert advice == "the first trial downloads it again"
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(content).hexdigest())
    assert one_finding("cifar10")[:2] == (
        "works",
        "present; the first trial unpacks cifar-10-python.tar.gz",
    )
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert one_finding("cifar10")[0] == "broken"


def test_image_files_and_their_archives_are_present_or_not_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_file_set("oxford_pets", Path("data"), monkeypatch)
    assert one_finding("oxford_pets")[:2] == ("works", "present")
    pack_file_set("oxford_pets", Path("data"), monkeypatch)
    archives = "oxford-iiit-pet/images.tar.gz and oxford-iiit-pet/annotations.tar.gz"
    assert one_finding("oxford_pets")[:2] == ("works", f"present; the first trial unpacks {archives}")
    Path("data/oxford-iiit-pet/annotations.tar.gz").write_bytes(b"half")
    assert one_finding("oxford_pets")[0] == "doubtful"
    Path("data/oxford-iiit-pet/annotations.tar.gz").unlink()
    state, message, _ = one_finding("data")
    assert (state, "oxford_pets" in message) == ("absent", True)
    write_file_set("eurosat", Path("data"), monkeypatch)
    next(Path("data/eurosat/2750/Forest").iterdir()).unlink()
    state, message, _ = one_finding("eurosat")
    assert state == "broken"
    assert "has 17 images, but 18 were published; remove eurosat/2750 there" in message


def test_a_home_folder_that_does_not_exist_is_refused(workplace, monkeypatch):
    for option in ("--data", "--artifacts"):
        done = workplace.here("doctor", option, "~nosuchuser/x", code=2)
        assert "'~nosuchuser/x': there is no such home folder; write the path out" in done.err
    assert list(workplace.path.iterdir()) == []
    (workplace.path / "home" / "artifacts").mkdir(parents=True)
    done = workplace.here("doctor", "--artifacts", "~/artifacts", HOME=str(workplace.path / "home"))
    assert f"{workplace.path}/home/artifacts is writable" in done.out


def test_a_broken_driver_is_one_finding(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def fail():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    state, message, _ = one_finding("gpu")
    assert state == "broken"
    assert message.startswith("the NVIDIA driver cannot read the GPUs: ")
