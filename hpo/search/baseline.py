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
class Chance:
    """What guessing gives on a trial's selection split, and how long the trial has to do better."""

    share: float  # of the largest class
    images: int
    epochs: int  # that a trial has, its warm-up among them

    @property
    def ceiling(self) -> float:
        """The accuracy up to which a trial is no better than guessing."""
        error = math.sqrt(self.share * (1 - self.share) / self.images)
        return self.share + 2 * error + min(0.02, self.share / 5, (1 - self.share) / 5)

    def verdict(self, accuracies: Iterable[float]) -> str | None:
        """Say why a trial with these accuracies, one of each epoch, is pruned; None if it is not."""
        reported = list(accuracies)
        if len(reported) < self.epochs or self.ceiling >= 1 or max(reported) > self.ceiling:
            return None
        return (
            f"no better than guessing in {len(reported)} epochs: accuracy {max(reported):.4f} at best, "
            f"where the largest class alone gives {self.share:.4f} (no better: up to {self.ceiling:.4f})"
        )


def of(labels: Tensor, config: Config, search: Search) -> Chance | None:
    """Give what guessing gives on a split with these labels; None where the study wants nothing pruned.

    A trial has ``search.chance_epochs`` after its warm-up, and at least the pruner's ``min_epochs``.
    """
    if not search.chance_epochs or search.pruner.name == "none":
        return None
    return Chance(
        share=int(labels.cpu().bincount().max()) / len(labels),
        images=len(labels),
        epochs=max(search.chance_epochs + schedules.warmup(config), search.pruner.min_epochs),
    )
