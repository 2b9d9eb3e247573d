"""How a trained model answers, class by class, and what is known of a study's images.

Both come from the artifacts: the confusion matrix from the header of a weights file, of which nothing else
is read, and the images from the file that a worker wrote once for the study. Where a file is missing, or
the artifacts cannot be reached, there is a sentence in its place: a report can be made without them.

The formulas are scikit-learn's, with ``zero_division=0``.

Shape suffixes: K classes.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hpo.artifacts.folders import Artifacts
from hpo.errors import ArtifactError
from hpo.training.confusion import HEADER_KEY, Confusion
from hpo.training.data_facts import FILE_NAME, DataFacts

MAX_HEADER_BYTES = 100_000_000  # that the safetensors format allows

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """How well a model tells one class from the others; the figures are between 0 and 1."""

    name: str
    images: int  # of the class, in the split
    precision: float  # which part of the images with this answer is of the class; 0 if there is none
    recall: float  # which part of the class's images has this answer; 0 if there is none
    f1: float  # their harmonic mean; 0 if both are 0


@dataclass(frozen=True, kw_only=True)
class ConfusedPair:
    """Images of one class that got the answer of another."""

    name: str
    answer: str
    images: int
    share: float  # of the images of the class


def read_confusion(artifacts: Artifacts, weights: str) -> Confusion | str:
    """Return the confusion matrix of the evaluation by which weights were chosen.

    Args:
        artifacts: Where the weights are. Only the header of their file is read.
        weights: Their name in the artifacts.

    Returns:
        The matrix; or why there is none, as a sentence.
    """

    def read() -> Confusion | str:
        length = int.from_bytes(artifacts.read(weights, 0, 8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError("its header is too long")
        header = json.loads(artifacts.read(weights, 8, 8 + length))
        stored = header.get("__metadata__", {}).get(HEADER_KEY)
        if stored is None:
            return (
                "The weights do not say how each class was answered: an earlier version of hpo wrote them."
            )
        return Confusion.model_validate_json(stored)

    return _read_or_explain(read, "How each class was answered is not known", artifacts.path(weights))


def read_data_facts(artifacts: Artifacts, study_folder: str) -> DataFacts | str:
    """Return what is known of a study's images; or why nothing is, as a sentence.

    Args:
        artifacts: Where the study's files are.
        study_folder: The name of its folder.
    """

    def read() -> DataFacts | str:
        name = f"{study_folder}/{FILE_NAME}"
        content = artifacts.read_or_none(name)
        if content is None:
            return f"What the images are is not stored: there is no file {artifacts.path(name)}."
        return DataFacts.model_validate_json(content)

    return _read_or_explain(read, "What the images are is not known", artifacts.path(study_folder))


def _read_or_explain(read: Callable[[], R | str], what: str, path: str) -> R | str:
    """Return what ``read`` returns; if it fails, a sentence that says why."""
    try:
        return read()
    except (ArtifactError, OSError) as error:
        return f"{what}: {error}."
    except (ValueError, AttributeError, TypeError, RecursionError):  # pydantic's errors are ValueErrors
        return f"{what}: {path} is damaged."


def class_results(confusion: Confusion) -> list[ClassResult]:
    """Return the precision, the recall and the F1 of each class, in the order of the classes."""
    classes = range(len(confusion.classes))
    images, answers, correct = ([0 for _ in classes] for _ in range(3))
    for label, answer, count in confusion.cells:
        images[label] += count
        answers[answer] += count
        correct[label] += count if label == answer else 0
    return [
        ClassResult(
            name=confusion.classes[k],
            images=images[k],
            precision=correct[k] / max(answers[k], 1),
            recall=correct[k] / max(images[k], 1),
            f1=2 * correct[k] / max(images[k] + answers[k], 1),
        )
        for k in classes
    ]


def confused_pairs(confusion: Confusion) -> list[ConfusedPair]:
    """Return the pairs of a class and a wrong answer, the most frequent first."""
    results = class_results(confusion)
    wrong = [(images, label, answer) for label, answer, images in confusion.cells if label != answer]
    return [
        ConfusedPair(
            name=confusion.classes[label],
            answer=confusion.classes[answer],
            images=images,
            share=images / results[label].images,
        )
        for images, label, answer in sorted(wrong, key=lambda each: (-each[0], each[1:]))
    ]
