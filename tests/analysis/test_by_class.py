"""Precision, recall and F1 of each class, and where they are read from."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from hpo.analysis import by_class
from hpo.artifacts.folders import Artifacts
from hpo.training.confusion import Confusion
from hpo.workers.weights import Weights

NAMES = ("a", "b", "c", "d")


def confusion_of(labels: list[int], answers: list[int]) -> Confusion:
    matrix_KK = confusion_matrix(labels, answers, labels=range(len(NAMES)))
    return Confusion.from_matrix("valid", NAMES, matrix_KK)


@pytest.mark.parametrize(
    ("labels", "answers"),
    [
        ([0, 0, 1, 1, 2, 3], [0, 1, 1, 1, 2, 0]),
        ([0, 0, 1], [0, 0, 0]),  # b is never found, c and d are absent
        ([0, 0, 1], [2, 2, 2]),  # c is answered without being there
        (np.random.default_rng(0).integers(0, 4, 200), np.random.default_rng(1).integers(0, 4, 200)),
    ],
)
def test_the_figures_of_each_class_are_those_of_scikit_learn(labels, answers):
    expected = precision_recall_fscore_support(labels, answers, labels=range(4), zero_division=0)
    found = by_class.class_results(confusion_of(labels, answers))
    assert [each.name for each in found] == list(NAMES)
    columns = zip(*((each.precision, each.recall, each.f1, each.images) for each in found), strict=True)
    for column, theirs in zip(columns, expected, strict=True):
        assert column == pytest.approx(theirs)


def test_pairs_are_listed_from_the_most_to_the_least_confused():
    confusion = confusion_of([0, 0, 0, 0, 1, 1, 2], [0, 1, 1, 2, 0, 1, 2])
    pairs = by_class.confused_pairs(confusion)
    assert [(each.name, each.answer, each.images, each.share) for each in pairs] == [
        ("a", "b", 2, 0.5),
        ("a", "c", 1, 0.25),
        ("b", "a", 1, 0.5),
    ]


def write_weights(artifacts: Artifacts, confusion: Confusion | None) -> str:
    folder = artifacts.open_folder("study-0123abcd/0000")
    name = Weights(3, {"w": torch.ones(2, 3)}, confusion=confusion).write(folder, 1)
    folder.publish()
    folder.close()
    return name


@pytest.mark.parametrize("root", ["local", "memory://by-class"])
def test_the_matrix_is_read_from_the_header_of_the_weights_alone(root, tmp_path):
    artifacts = Artifacts(str(tmp_path) if root == "local" else root)
    confusion = confusion_of([0, 1, 2], [0, 2, 2])
    name = write_weights(artifacts, confusion)
    assert by_class.read_confusion(artifacts, name) == confusion
    whole = artifacts.read(name)
    assert torch.equal(safetensors.torch.load(whole)["w"], torch.ones(2, 3))
    header = whole[: 8 + int.from_bytes(whole[:8], "little")]
    artifacts.write(name, header)
    assert by_class.read_confusion(artifacts, name) == confusion, "the tensors were read, too"


def test_what_is_missing_or_damaged_is_said_in_one_sentence(tmp_path):
    artifacts = Artifacts(str(tmp_path))
    missing = by_class.read_confusion(artifacts, "study-0123abcd/0000/weights-0001-001.safetensors")
    assert isinstance(missing, str)
    assert "no such file" in missing
    old = by_class.read_confusion(artifacts, write_weights(artifacts, None))
    assert isinstance(old, str)
    assert "earlier version" in old
    damaged = (
        b"",
        b"\xff" * 8,
        (5).to_bytes(8, "little") + b"nojson",
        header_with({"confusion": '{"split": "train"}'}),
        header_with({"confusion": 7}),
        header_with(["confusion"]),
    )
    for content in damaged:
        artifacts.write("study-0123abcd/0000/weights-0003-001.safetensors", content)
        found = by_class.read_confusion(artifacts, "study-0123abcd/0000/weights-0003-001.safetensors")
        assert isinstance(found, str), content
        assert found.endswith(" is damaged."), content
    for content in (b"", b"[]", b"\xff", b'{"classes": ["a"]}'):
        artifacts.write("study-0123abcd/data.json", content)
        found = by_class.read_data_facts(artifacts, "study-0123abcd")
        assert isinstance(found, str)
        assert found.endswith(" is damaged."), content
    absent = by_class.read_data_facts(artifacts, "other-0123abcd")
    assert isinstance(absent, str)
    assert absent.endswith("there is no file " + str(tmp_path / "other-0123abcd/data.json") + ".")


def header_with(metadata: object) -> bytes:
    text = json.dumps({"__metadata__": metadata}).encode()
    return len(text).to_bytes(8, "little") + text
