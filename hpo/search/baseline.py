"""The baseline rule: prune a trial that is no better than guessing.

A comparison with other trials cannot tell this so early. ``guess`` says what a model reaches that has
learned nothing but how large the classes are. A trial is no better than guessing while none of its values
is better than ::

    ceiling = p + 2 * s + min(0.02, p / 5, (1 - p) / 5)

where p is the value of guessing and s its standard error on the n images of the selection split. The third
term is what a trial that learns gains at least in its first epochs: 0.02 at ten classes, and less where
guessing is almost never, or almost always, right. Where the sum is halfway from p to 1, or beyond, the
split is too small to tell luck from skill. The ceiling is p itself then: a trial is pruned only if it was
never better than guessing. For a loss, which is better the lower it is, the ceiling is
p - 2 * s - min(0.02, p / 5), or p if that is half of p or less.

The rule is applied after ``search.chance_epochs`` epochs after the warm-up, and not before the pruner's
``min_epochs``.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpo.study.search_options import Search
from hpo.training import schedules
from hpo.training.config import Config
from hpo.training.metric import METRICS, TOP, Metric

LEARNED = 0.02  # what a trial that learns gains at least in its first epochs


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What a model reaches on a split that knows only how large its classes are."""

    value: float
    error: float  # the standard error of the value of random answers


def guess(config: Config, counts_K: Sequence[int]) -> Guess | None:
    """Return what guessing gives on a split, as a study's metric measures it.

    It is the best of these: for ``accuracy``, always answering with the largest class; for
    ``top5_accuracy``, always naming the five largest ones; for ``balanced_accuracy`` and ``auroc``, random
    answers; for ``f1``, random answers that have the shares of the classes, with which precision and recall
    of a class are its share, and so F1; for ``loss``, always predicting the shares of the classes, whose
    cross entropy is their entropy.

    Standard errors: of a fraction of images sqrt(p (1 - p) / n); of a mean of recalls the root of the sum
    of their variances, divided by their number; of F1 the same, which is a little too large. An area under
    the ROC curve has the variance of the Mann-Whitney statistic without ties, (a + b + 1) / (12 a b). The
    areas of K classes by one score sum to K / 2, so two of them correlate by -1 / (K - 1). The mean over
    classes whose scores have either sign then has, at worst, their mean variance divided by K - 1. A cross
    entropy whose logarithms vary by chance from image to image, with variance v, is v / 2 too large on
    average, and two standard errors below that at 2 sqrt(v / n) - v / 2, which is at most 2 / n.

    Args:
        config: The trial's settings.
        counts_K: The number of images of each class of the split; at least one image in all.

    Returns:
        The guess; None if it is not known, which is so for a loss other than plain cross entropy.
    """
    images, present = sum(counts_K), [count for count in counts_K if count]
    shares, classes = [count / images for count in present], len(present)
    of_recalls = math.sqrt(sum((1 - 1 / classes) / classes / count for count in present)) / classes
    if config.metric == "accuracy":
        return _guess_fraction(max(shares), images)
    if config.metric == "top5_accuracy":
        return _guess_fraction(math.fsum(sorted(shares)[-TOP:]), images)
    if config.metric in ("balanced_accuracy", "f1"):
        return Guess(value=1 / classes, error=of_recalls)
    if config.metric == "auroc":
        variances = [(images + 1) / (12 * a * (images - a)) for a in present if a < images]
        return Guess(value=0.5, error=math.sqrt(math.fsum(variances) / classes / max(classes - 1, 1)))
    if config.loss != "cross_entropy" or config.label_smoothing:
        return None
    return Guess(value=-math.fsum(share * math.log(share) for share in shares), error=1 / images)


def _guess_fraction(share: float, images: int) -> Guess:
    share = min(share, 1.0)
    return Guess(value=share, error=math.sqrt(share * (1 - share) / images))


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What guessing gives on a trial's selection split, and when a trial must be better than that."""

    metric: Metric
    guess: Guess
    min_epochs: int  # a trial has so many, its warm-up included, before it can be pruned

    @property
    def ceiling(self) -> float:
        """The best value that is no better than guessing."""
        return self.guess.value if self.is_split_small else self._lucky_value

    @property
    def is_split_small(self) -> bool:
        """Whether the split has too few images to tell luck from skill: luck is halfway to perfect."""
        halfway = (self.guess.value + self._perfect) / 2
        return self.metric.score(self._lucky_value) >= self.metric.score(halfway)

    @property
    def _perfect(self) -> float:
        """The value that none is better than."""
        return 0.0 if self.metric.is_minimized else 1.0

    @property
    def _lucky_value(self) -> float:
        """What luck and the first epochs of a trial that learns may reach; on a small split any value."""
        value, luck = self.guess.value, 2 * self.guess.error
        if self.metric.is_minimized:
            return value - luck - min(LEARNED, value / 5)
        return value + luck + min(LEARNED, value / 5, (1 - value) / 5)

    @property
    def can_tell(self) -> bool:
        """Whether a value can be better than guessing; not if the split has one class only."""
        return self.guess.value != self._perfect

    def prune_reason(self, values: Iterable[float]) -> str | None:
        """Return why a trial is pruned by the baseline rule; None if it is not.

        It is not before ``min_epochs``, nor if the split has one class only.

        Args:
            values: The trial's values, one of each epoch.
        """
        reported = list(values)
        if len(reported) < self.min_epochs or not self.can_tell:
            return None
        best = max(reported, key=self.metric.score)
        if self.metric.score(best) > self.metric.score(self.ceiling):
            return None
        gives = "the largest class alone" if self.metric.name == "accuracy" else "guessing"
        reach = "down" if self.metric.is_minimized else "up"
        return (
            f"no better than guessing in {len(reported)} epochs: {self.metric.label} {best:.4f} at best, "
            f"where {gives} gives {self.guess.value:.4f} (no better: {reach} to {self.ceiling:.4f})"
        )


def baseline_of(guessing: Guess | None, config: Config, search: Search) -> Baseline | None:
    """Return the baseline of a trial.

    Args:
        guessing: What guessing gives on its selection split; None if that is not known.
        config: The settings of the trial, which say how long it warms up.
        search: The settings of the study's search.

    Returns:
        The baseline, or None if guessing is not known, or if the study prunes nothing or has switched the
        rule off.
    """
    if guessing is None or not search.chance_epochs or search.pruner.name == "none":
        return None
    return Baseline(
        metric=METRICS[config.metric],
        guess=guessing,
        min_epochs=max(
            search.chance_epochs + schedules.warmup_epoch_count(config), search.pruner.min_epochs
        ),
    )


def describe_limits(guessing: Guess | None, config: Config, search: Search) -> str:
    """Return a phrase if the baseline rule cannot apply to trials, or only in part, and why; else "".

    It is empty, too, for a study that prunes nothing or has switched the rule off.

    Args:
        guessing: What guessing gives on the selection split; None if that is not known.
        config: The settings of a trial.
        search: The settings of the study's search.
    """
    if not search.chance_epochs or search.pruner.name == "none":
        return ""
    never = "no trial is pruned for guessing:"
    baseline = baseline_of(guessing, config, search)
    if baseline is None:
        return f"{never} it is not known what guessing gives for this loss"
    if not baseline.can_tell:
        return f"{never} the images to measure it on have one class only"
    if baseline.min_epochs >= config.epochs:
        return f"{never} the rule begins after epoch {baseline.min_epochs}, and trials have {config.epochs}"
    if baseline.is_split_small:
        return (
            f"a trial is pruned for guessing only if it is never better than {baseline.guess.value:.4f}: "
            "the images to measure it on are too few to tell luck from skill"
        )
    return ""
