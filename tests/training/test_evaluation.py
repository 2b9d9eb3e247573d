"""Metrics of a split: the figures of scikit-learn."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from hpo.training.evaluation import Answers, Metrics, mean_auroc

CPU = torch.device("cpu")


def evaluate(logits: list[list[float]], labels: list[int], batch: int = 3) -> Metrics:
    """Return the metrics of logits, collected in batches; the loss of each batch is its cross entropy."""
    logits_NK, labels_N = torch.tensor(logits), torch.tensor(labels)
    answers = Answers(*logits_NK.shape, CPU)
    for first in range(0, len(labels_N), batch):
        part = slice(first, first + batch)
        loss = torch.nn.functional.cross_entropy(logits_NK[part], labels_N[part])
        answers.add(first, logits_NK[part], labels_N[part], loss)
    return answers.metrics()


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[list[float]], list[int]]:
    """Draw logits with many ties, and labels that leave out some classes."""
    classes, images = draw(st.integers(2, 8)), draw(st.integers(1, 12))
    row = st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.5, 3.0]), min_size=classes, max_size=classes)
    labels = st.lists(st.integers(0, classes - 1), min_size=images, max_size=images)
    return draw(st.lists(row, min_size=images, max_size=images)), draw(labels)


@given(answers())
def test_every_metric_is_that_of_scikit_learn(drawn):
    logits, labels = drawn
    found, scores = evaluate(logits, labels), torch.tensor(logits).softmax(1).numpy()
    answered = np.argmax(logits, 1)
    classes = scores.shape[1]
    assert found.loss == pytest.approx(
        torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels)).item(), rel=1e-5
    )
    assert found.accuracy == pytest.approx(sklearn_metrics.accuracy_score(labels, answered))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of classes that the labels leave out
        assert found.balanced_accuracy == pytest.approx(
            sklearn_metrics.balanced_accuracy_score(labels, answered)
        )
    assert found.f1 == pytest.approx(
        sklearn_metrics.f1_score(labels, answered, average="macro", zero_division=0)
    )
    expected = sklearn_metrics.confusion_matrix(labels, answered, labels=range(classes))
    assert found.confusion.tolist() == expected.tolist()
    if classes > 5:
        top = sklearn_metrics.top_k_accuracy_score(labels, scores, k=5, labels=range(classes))
        assert found.top5_accuracy == pytest.approx(top)
    else:
        assert found.top5_accuracy is None
    if len(set(labels)) == 1:
        assert found.auroc is None
    elif classes == 2:
        assert found.auroc == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores[:, 1]))
    else:
        areas = [
            sklearn_metrics.roc_auc_score(np.array(labels) == label, scores[:, label])
            for label in sorted(set(labels))
        ]
        assert found.auroc == pytest.approx(np.mean(areas))


def test_the_area_is_scikit_learns_own_mean_where_every_class_is_present():
    generator = np.random.default_rng(0)
    scores = generator.dirichlet(np.ones(4), 40)
    labels = np.arange(40) % 4
    expected = sklearn_metrics.roc_auc_score(labels, scores, multi_class="ovr")
    assert mean_auroc(labels, scores) == pytest.approx(expected)


def test_a_model_whose_scores_are_no_numbers_is_not_called_good():
    found = evaluate([[math.nan] * 7] * 14, [0, 1, 2, 3, 4, 5, 6] * 2)
    assert found.loss == math.inf
    assert found.accuracy == pytest.approx(1 / 7)
    assert found.auroc == pytest.approx(0.5)
    assert found.top5_accuracy == pytest.approx(5 / 7)
    assert found.figures().keys() == {
        *("loss", "accuracy", "balanced_accuracy", "f1", "auroc", "top5_accuracy")
    }
