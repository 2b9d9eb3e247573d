"""``hpo predict`` on folders: which images are in them, and how the answers are scored."""

import json
import shutil
from pathlib import Path

import pytest

from hpo.errors import DataError
from hpo.export import scoring

LABELS = ("cat", "dog", "owl")


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_images_of_class_folders_have_their_class():
    touch("x/cat/1.png", "x/cat/deeper/2.JPG", "x/dog/3.png", "x/misc/4.png", "x/5.png", "x/cat/notes.txt")
    found = scoring.find_images(Path("x"), LABELS)
    assert [(str(each.path), each.label) for each in found] == [
        ("x/5.png", None),
        *(("x/cat/1.png", "cat"), ("x/cat/deeper/2.JPG", "cat"), ("x/dog/3.png", "dog")),
        ("x/misc/4.png", None),
    ]
    line = "x: 2 of 5 images are not scored: no class is called '.', 'misc'"
    assert scoring.unscored_line(Path("x"), found) == line


def test_images_without_class_folders_have_no_class_and_nothing_is_said():
    touch("x/1.png", "x/y/2.png")
    found = scoring.find_images(Path("x"), LABELS)
    assert [each.label for each in found] == [None, None]
    assert scoring.unscored_line(Path("x"), found) is None
    assert scoring.score_answers([], LABELS) is None


def test_whatever_is_no_folder_is_an_image():
    assert scoring.find_images(Path("gone.xyz"), LABELS) == [scoring.GivenImage(path=Path("gone.xyz"))]


def test_a_file_that_is_named_like_a_class_has_none():
    touch("x/cat.png")
    (image,) = scoring.find_images(Path("x"), ("cat.png",))
    assert image.label is None


def test_a_folder_without_images_is_refused():
    touch("x/notes.txt")
    with pytest.raises(DataError, match=r"^x: no images in this folder; supported are \.png "):
        scoring.find_images(Path("x"), LABELS)


def test_a_score_counts_right_answers_and_has_the_classes_that_occur():
    score = scoring.score_answers([("cat", "cat"), ("cat", "dog"), ("dog", "dog")], LABELS)
    assert (score.right, score.images) == (2, 3)
    assert score.summary().startswith("accuracy 0.6667: 2 of 3 images of known classes are right (95 % ")
    assert score.classes.rows == (
        ("cat", 2, 1.0, 0.5, pytest.approx(2 / 3)),
        ("dog", 1, 0.5, 1.0, pytest.approx(2 / 3)),
    )


def test_a_score_says_how_many_images_it_leaves_out():
    score = scoring.score_answers([("cat", "cat"), ("cat", None), ("dog", None)], LABELS)
    assert score.summary().startswith("accuracy 1.0000: 1 of 1 images of known classes are right")
    assert score.summary().endswith("; 2 of 3 are left out as unreadable")
    assert scoring.score_answers([("cat", None)], LABELS) is None


def test_the_command_scores_class_folders_as_the_exported_model_was_measured(workplace, winner, labels):
    for file, label in labels.items():
        folder = workplace.path / "images" / label
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    done = workplace.here("predict", str(winner), "images", "--top", "1")
    lines = done.out.splitlines()
    assert len([line for line in lines if line.startswith("images/")]) == len(labels)
    measured = json.loads((winner / "metrics.json").read_text())["value"]
    assert f"accuracy {measured:.4f}: {round(measured * len(labels))} of {len(labels)} images" in done.out
    assert lines[-len(set(labels.values())) - 1].split() == ["class", "n", "precision", "recall", "F1"]
    documents = workplace.here("predict", str(winner), "images", "--json").json()
    right = sum(each["label"] == each["classes"][0]["label"] for each in documents)
    assert right == round(measured * len(labels))
    (workplace.path / "images" / next(iter(labels.values())) / "torn.png").write_text("no image")
    done = workplace.here("predict", str(winner), "images", "--top", "1", code=1)
    assert f"; 1 of {len(labels) + 1} are left out as unreadable" in done.out
