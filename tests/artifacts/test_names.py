"""Names in the artifacts are input: no operation leaves the root or follows a link out of it."""

import uuid
from pathlib import Path

import pytest
from optuna.artifacts.exceptions import ArtifactNotFound

from hpo.artifacts import names
from hpo.artifacts.folders import Artifacts
from hpo.artifacts.optuna_store import FolderArtifactStore
from hpo.errors import ArtifactError

STUDY = "study-0123abcd"
OUTSIDE = (
    "../victim",
    "..",
    ".",
    "/etc/hostname",
    f"{STUDY}/../../victim",
    f"{STUDY}//a",
    "a\\..\\b",
    "a\0b",
)


@pytest.mark.parametrize("kind", ["local", "url"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_no_operation_leaves_the_root(name, kind, tmp_path):
    artifacts = Artifacts(str(tmp_path / "root") if kind == "local" else f"memory://{uuid.uuid4().hex}")
    (tmp_path / "victim").mkdir()
    for operation in (
        artifacts.read,
        artifacts.remove,
        artifacts.list_names,
        artifacts.open_folder,
        artifacts.delete_study_folder,
        lambda each: artifacts.write(each, b"x"),
        lambda each: artifacts.download(each, tmp_path / "copy"),
    ):
        with pytest.raises(ArtifactError, match="not the name of a file below"):
            operation(name)
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]


@pytest.mark.parametrize("name", ["", "cache", "study", f"{STUDY}/0001"])
def test_only_the_folder_of_a_study_is_deleted_with_its_content(name, tmp_path):
    artifacts = Artifacts(str(tmp_path))
    artifacts.write(f"{STUDY}/0001/a", b"x")
    with pytest.raises(ArtifactError, match="nothing is deleted"):
        artifacts.delete_study_folder(name)
    assert artifacts.read(f"{STUDY}/0001/a") == b"x"
    artifacts.delete_study_folder(STUDY)
    assert artifacts.list_names("") == []


def test_a_link_out_of_a_studys_folder_is_not_followed(tmp_path):
    artifacts, victim = Artifacts(str(tmp_path / "root")), tmp_path / "victim"
    (tmp_path / "root" / STUDY).mkdir(parents=True)
    victim.mkdir()
    (victim / "a").write_text("x")
    (tmp_path / "root" / STUDY / "0001").symlink_to(victim)
    (tmp_path / "root" / "other-0123abcd").symlink_to(victim)
    for operation in (
        artifacts.read,
        artifacts.remove,
        FolderArtifactStore(artifacts, read_only=True).open,
    ):
        with pytest.raises((ArtifactError, ArtifactNotFound)):
            operation(f"{STUDY}/0001/a")
    with pytest.raises(ArtifactError, match="by hand"):
        artifacts.delete_study_folder("other-0123abcd")
    assert artifacts.read("other-0123abcd/a") == b"x", "a study's folder may be on another disk"
    artifacts.delete_study_folder(STUDY)
    assert (victim / "a").exists()


@pytest.mark.parametrize("artifact_id", ["../victim", "", "x/y", "..", "é"])
def test_an_attached_file_is_found_by_its_id_alone(artifact_id, tmp_path):
    (tmp_path / "victim").write_text("x")
    attached = FolderArtifactStore(Artifacts(str(tmp_path / "root")), read_only=False)
    for operation in (attached.open_reader, attached.remove):
        with pytest.raises(ArtifactNotFound):
            operation(artifact_id)
    with pytest.raises(ArtifactNotFound), Path("/dev/null").open("rb") as content:
        attached.write(artifact_id, content)
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]


def test_weights_are_only_those_in_the_trials_own_folder():
    own = f"{STUDY}/0007/weights-0003-001.safetensors"
    assert names.is_weights_of(own, STUDY, 7)
    assert names.epoch_of_weights(own) == 3
    for name, folder, number in (
        (own, STUDY, 8),
        (own, "other-0123abcd", 7),
        (own, None, 7),
        (f"{STUDY}/0007/settings.json", STUDY, 7),
        (f"{STUDY}/0007/../0007/weights-0003-001.pt", STUDY, 7),
        (f"../{own}", STUDY, 7),
        (["weights"], STUDY, 7),
        (3, STUDY, 7),
    ):
        assert not names.is_weights_of(name, folder, number)


def test_a_folder_is_known_to_be_named_for_its_study():
    folder = names.new_study_folder("ä study")
    assert names.is_study_folder(folder)
    assert names.is_folder_of(folder, "ä study")
    assert not names.is_folder_of(folder, "a copy")
    assert not any(map(names.is_study_folder, ["", "..", f"{folder}/", f"x/{folder}", "x" * 300, None, 3]))
