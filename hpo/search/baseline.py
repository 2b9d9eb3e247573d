"""The baseline rule: prune a trial that is no better than guessing.

A comparison with other trials cannot tell this so early. A model that always names the largest class has
the accuracy p on the selection split, where p is the share of that class among its n images. A trial is no
better than guessing while every accuracy that it has reported is at most ::

    ceiling = p + 2 * sqrt(p * (1 - p) / n) + min(0.02, p / 5, (1 - p) / 5)

The second term is two standard errors of an accuracy of p on n images (normal approximation of the binomial
distribution). The third is what a trial that learns gains at least in its first epochs: 0.02 at ten
classes, and less where guessing is almost never, or almost always, right. Where the sum reaches 1 the split
is too small to tell luck from skill. The ceiling is p itself then: a trial is pruned only if it was never
better than the largest class.

The rule is applied after ``search.chance_epochs`` epochs after the warm-up, and not before the pruner's
``min_epochs``.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from hpo.study.definition import Search
from hpo.training import schedules
from hpo.training.config import Config


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The accuracy of guessing on a trial's selection split, and when a trial must exceed it."""

    largest_class_share: float  # of the images of the split, above 0 and at most 1
    images: int  # in the split
    min_epochs: int  # a trial has so many, its warm-up included, before it can be pruned

    @property
    def ceiling(self) -> float:
        """The highest accuracy that is no better than guessing."""
        share = self.largest_class_share
        error = math.sqrt(share * (1 - share) / self.images)
        ceiling = share + 2 * error + min(0.02, share / 5, (1 - share) / 5)
        return ceiling if ceiling < 1 else share

    def prune_reason(self, accuracies: Iterable[float]) -> str | None:
        """Return why a trial is pruned by the baseline rule; None if it is not.

        It is not before ``min_epochs``, nor if the split has one class only.

        Args:
            accuracies: The trial's accuracies on the selection split, one of each epoch, in [0, 1].
        """
        reported = list(accuracies)
        if len(reported) < self.min_epochs or self.largest_class_share == 1 or max(reported) > self.ceiling:
            return None
        return (
            f"no better than guessing in {len(reported)} epochs: accuracy {max(reported):.4f} at best, "
            f"where the largest class alone gives {self.largest_class_share:.4f} "
            f"(no better: up to {self.ceiling:.4f})"
        )


def largest_class_share(labels: Tensor) -> float:
    """Return the accuracy of a model that always answers with the largest class.

    Args:
        labels: The class indices of a split, int64 of shape (N,), N > 0, on any device.
    """
    return int(labels.cpu().bincount().max()) / len(labels)


def baseline_of(labels: Tensor, config: Config, search: Search) -> Baseline | None:
    """Return the baseline of a trial.

    Args:
        labels: The class indices of the selection split, int64 of shape (N,), N > 0, on any device.
        config: The settings of the trial, which say how long it warms up.
        search: The settings of the study's search.

    Returns:
        The baseline, or None if the study prunes nothing or has switched the rule off.
    """
    if not search.chance_epochs or search.pruner.name == "none":
        return None
    return Baseline(
        largest_class_share=largest_class_share(labels),
        images=len(labels),
        min_epochs=max(
            search.chance_epochs + schedules.warmup_epoch_count(config), search.pruner.min_epochs
        ),
    )
