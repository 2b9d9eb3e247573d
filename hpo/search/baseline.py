"""Whether a trial is no better than guessing, which no comparison with other trials tells so soon.

Who always names the largest class is right as often as that class occurs in the selection split: a share
p of its n images. A trial is no better while every accuracy it has reported is at most ::

    p + 2 * sqrt(p * (1 - p) / n) + min(0.02, p / 5, (1 - p) / 5)

The second term is two standard errors of an accuracy of p on n images. The third is what a trial that
learns has to add in its first epochs: 0.02 at ten classes, and less where guessing is almost never, or
almost always, right. Where the sum reaches 1, the split is too small to tell, and nothing is pruned.
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
    """What guessing gives on a trial's selection split, and how long the trial has to do better."""

    largest_class_share: float  # of the largest class
    images: int
    min_epochs: int  # that a trial has, its warm-up among them

    @property
    def ceiling(self) -> float:
        """The accuracy up to which a trial is no better than guessing."""
        error = math.sqrt(self.largest_class_share * (1 - self.largest_class_share) / self.images)
        return (
            self.largest_class_share
            + 2 * error
            + min(0.02, self.largest_class_share / 5, (1 - self.largest_class_share) / 5)
        )

    def prune_reason(self, accuracies: Iterable[float]) -> str | None:
        """Say why a trial with these accuracies, one of each epoch, is pruned; None if it is not."""
        reported = list(accuracies)
        if len(reported) < self.min_epochs or self.ceiling >= 1 or max(reported) > self.ceiling:
            return None
        return (
            f"no better than guessing in {len(reported)} epochs: accuracy {max(reported):.4f} at best, "
            f"where the largest class alone gives {self.largest_class_share:.4f} (no better: up to {self.ceiling:.4f})"
        )


def baseline_of(labels: Tensor, config: Config, search: Search) -> Baseline | None:
    """Give what guessing gives on a split with these labels; None where the study wants nothing pruned.

    A trial has ``search.chance_epochs`` after its warm-up, and at least the pruner's ``min_epochs``.
    """
    if not search.chance_epochs or search.pruner.name == "none":
        return None
    return Baseline(
        largest_class_share=int(labels.cpu().bincount().max()) / len(labels),
        images=len(labels),
        min_epochs=max(
            search.chance_epochs + schedules.warmup_epoch_count(config), search.pruner.min_epochs
        ),
    )
