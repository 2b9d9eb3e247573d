"""The metrics of a model on a split, from one confusion matrix and from its scores.

The answers are collected on the device while the split is evaluated, without waiting for it. The formulas
are scikit-learn's, and tests compare the figures; its functions would take longer than a short epoch.

Shape suffixes: N images, K classes.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpo.training.metric import TOP


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The metrics of a model on a split; all but the loss are between 0 and 1, and better when higher.

    Attributes:
        loss: The mean over the images, infinite if it is not finite.
        accuracy: The fraction of images that are classified correctly.
        balanced_accuracy: The mean recall over the classes that the split has.
        f1: The harmonic mean of precision and recall, as the mean over the classes that are in the split or
            among the answers (macro F1).
        auroc: The area under the ROC curve, one class against the others, as the mean over the classes
            that a part of the images belongs to; None if there is no such class.
        top5_accuracy: The fraction of images whose class is among the five with the highest scores; None
            if there are five classes or fewer.
        confusion: Number of images by class and answer, int64 [K, K].
    """

    loss: float
    accuracy: float
    balanced_accuracy: float
    f1: float
    auroc: float | None
    top5_accuracy: float | None
    confusion: NDArray[np.int64]

    def figures(self) -> dict[str, float | None]:
        """Return the metrics by name, without the confusion matrix."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "confusion"}


class Answers:
    """A model's answers on a split, collected batch by batch.

    Args:
        images: Number of images of the split, N.
        classes: Number of classes, K.
        device: Where the model is; its scores are copied to the host without waiting for them.
    """

    def __init__(self, images: int, classes: int, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._scores_NK = torch.empty(images, classes, pin_memory=pinned)
        self._labels_N = torch.empty(images, dtype=torch.int64, pin_memory=pinned)
        self._confusion_KK = torch.zeros(classes, classes, dtype=torch.int64, device=device)
        # The sum of the losses, and how many images have their class among the first TOP.
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)

    def add(self, first: int, logits_NK: Tensor, labels_N: Tensor, loss: Tensor) -> None:
        """Add the answers to a batch.

        Args:
            first: Index of its first image in the split.
            logits_NK: The model's outputs, of any floating type.
            labels_N: The class indices, int64.
            loss: The mean loss of the batch, a scalar.
        """
        cells = labels_N * logits_NK.shape[1] + logits_NK.argmax(1)
        self._confusion_KK.view(-1).scatter_add_(0, cells, torch.ones_like(cells))
        logits_NK = logits_NK.float().nan_to_num(nan=-math.inf)  # a score that is no number is the lowest
        rows = slice(first, first + len(labels_N))
        self._scores_NK[rows].copy_(logits_NK.softmax(1), non_blocking=True)
        self._labels_N[rows].copy_(labels_N, non_blocking=True)
        # Of equal scores the class with the higher index counts first, as in scikit-learn.
        own_N1 = logits_NK.gather(1, labels_N[:, None])
        is_later = torch.arange(logits_NK.shape[1], device=logits_NK.device) > labels_N[:, None]
        before_N = ((logits_NK > own_N1) | ((logits_NK == own_N1) & is_later)).sum(1)
        top_hits = (before_N < TOP).sum()
        self._sums += torch.stack([loss.double() * len(labels_N), top_hits.double()])

    def metrics(self) -> Metrics:
        """Return the metrics of all answers; waits for the device."""
        loss_sum, top_hits = self._sums.tolist()  # the scores have arrived then, too
        confusion_KK: NDArray[np.int64] = self._confusion_KK.cpu().numpy()
        images, classes = self._scores_NK.shape
        correct_K, images_K, answers_K = confusion_KK.diagonal(), confusion_KK.sum(1), confusion_KK.sum(0)
        is_present_K, is_named_K = images_K > 0, images_K + answers_K > 0
        return Metrics(
            # Even if the epoch's training loss is finite, this one can overflow. A report must be a number,
            # so NaN becomes infinity.
            loss=loss_sum / images if math.isfinite(loss_sum) else math.inf,
            accuracy=int(correct_K.sum()) / images,
            balanced_accuracy=float((correct_K[is_present_K] / images_K[is_present_K]).mean()),
            f1=float((2 * correct_K[is_named_K] / (images_K + answers_K)[is_named_K]).mean()),
            auroc=mean_auroc(self._labels_N.numpy(), np.nan_to_num(self._scores_NK.numpy())),
            top5_accuracy=top_hits / images if classes > TOP else None,
            confusion=confusion_KK,
        )


def mean_auroc(labels_N: NDArray[np.int64], scores_NK: NDArray[np.float32]) -> float | None:
    """Return the mean over classes of the area under the ROC curve, one class against the others.

    The area is the probability that an image of the class has a higher score for it than one of another
    class, where equal scores count half. With two classes both have the same area, that of the second.

    Args:
        labels_N: Class indices.
        scores_NK: Scores of each class, without NaN.

    Returns:
        The mean over the classes that some images belong to, and some do not; None without such a class.
    """
    areas = []
    for label in range(scores_NK.shape[1]) if scores_NK.shape[1] != 2 else (1,):
        of_class = labels_N == label
        inside, outside = scores_NK[of_class, label], np.sort(scores_NK[~of_class, label])
        if len(inside) and len(outside):
            below, not_above = (np.searchsorted(outside, inside, side=side) for side in ("left", "right"))
            areas.append((below.mean() + not_above.mean()) / 2 / len(outside))
    return float(np.mean(areas)) if areas else None
