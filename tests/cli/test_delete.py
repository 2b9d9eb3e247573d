"""``hpo delete`` removes the files of its study, and nothing else."""

import optuna
import pytest

from tests.support.workplace import load

OWN = """
def climb(config, state):
    yield config.speed, {}
"""
STUDY = """
[train]
objective = "own:climb"
epochs = 1
[search]
sampler = "grid"
[[points]]
speed = 1
"""


@pytest.fixture
def study(workplace):
    """Store a study with its module, and files in its folder and beside it; return the study's folder."""
    (workplace.path / "own.py").write_text(OWN)
    workplace.here("create", workplace.study(STUDY))
    root = workplace.path / "storage/artifacts"
    folder = root / load(workplace).user_attrs["folder"]
    for path in (folder / "0000/a", root / "other-0123abcd/0000/a", workplace.path / "victim/a"):
        path.parent.mkdir(parents=True)
        path.write_text("x")
    return folder


def files(workplace):
    return sorted(
        str(path.relative_to(workplace.path)) for path in workplace.path.rglob("a") if path.is_file()
    )


def test_a_copy_of_a_study_is_deleted_without_the_files_of_its_original(workplace, study):
    url = f"sqlite:///{workplace.path}/storage/hpo.db"
    optuna.copy_study(from_study_name="small", from_storage=url, to_storage=url, to_study_name="copy")
    before = files(workplace)
    out = workplace.here("delete", "copy", "--yes").out
    assert out == (
        f"study copy deleted; its files in {study} were kept, since study 'small' names them, too\n"
    )
    assert files(workplace) == before
    assert workplace.here("delete", "small", "--yes").out == "study small deleted\n"
    assert not study.exists()
    assert files(workplace) == ["storage/artifacts/other-0123abcd/0000/a", "victim/a"]


@pytest.mark.parametrize("folder", ["", ".", "..", "../../victim", "other-0123abcd/0000", "/", 5, None, []])
def test_a_folder_that_hpo_did_not_name_is_kept(workplace, study, folder):
    load(workplace).set_user_attr("folder", folder)
    before = files(workplace)
    out = workplace.here("delete", "small", "--yes").out
    assert out == ("study small deleted; no files were deleted, since it named no folder that hpo made\n")
    assert files(workplace) == before


def test_a_study_whose_definition_cannot_be_read_is_a_row_and_can_be_deleted(workplace, study):
    workplace.here("create", workplace.study(STUDY, "good"))
    broken = load(workplace)
    broken._storage.set_study_system_attr(broken._study_id, "hpo:definition", "{}")
    done = workplace.here("studies")
    assert [line.split()[:2] for line in done.out.splitlines()[1:]] == [
        ["good", "idle"],
        ["small", "unreadable"],
    ]
    (line,) = done.err.splitlines()
    assert line.startswith("hpo: study 'small': the stored definition's name is unknown here")
    rows = workplace.here("studies", "--json").json()
    assert [(row["study"], row["state"], row["trials"]) for row in rows] == [
        ("good", "idle", {"waiting": 1, "running": 0, "complete": 0, "pruned": 0, "failed": 0}),
        ("small", "unreadable", {}),
    ]
    assert workplace.here("delete", "small", "--yes").out == "study small deleted\n"
    assert not study.exists()
