"""What guessing gives by each metric, compared with simulated guessers."""

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn import metrics

from hpo.search import baseline
from hpo.study.search_options import Search
from hpo.training.config import Config
from hpo.training.metric import METRICS

EPOCHS = 3
COUNTS = {"two": [90, 10], "three": [40, 20, 10], "ten": [50] * 10, "hundred": [5] * 100}
OF_SCORES = ("auroc", "top5_accuracy", "loss")
CASES = [
    (name, case)
    for name in METRICS
    for case, counts in COUNTS.items()
    if name != "top5_accuracy" or len(counts) > 5
]


def measure(name, labels_N, scores_NK, answers_N):
    """Return a metric; scikit-learn's functions take many times as long."""
    count, classes = scores_NK.shape
    if name == "top5_accuracy":
        first_five = np.argpartition(-scores_NK, 5, axis=1)[:, :5]
        return (first_five == labels_N[:, None]).any(1).mean()
    if name == "loss":
        return -np.log(scores_NK[np.arange(count), labels_N]).mean()
    inside_NK = labels_N[:, None] == np.arange(classes)
    images_K = inside_NK.sum(0)
    if name == "auroc":
        ranks_K = (rankdata(scores_NK, axis=0) * inside_NK).sum(0)
        return ((ranks_K - images_K * (images_K + 1) / 2) / images_K / (count - images_K)).mean()
    correct_K = np.bincount(labels_N[labels_N == answers_N], minlength=classes)
    if name == "accuracy":
        return correct_K.sum() / count
    if name == "balanced_accuracy":
        return (correct_K / images_K).mean()
    return (2 * correct_K / (images_K + np.bincount(answers_N, minlength=classes))).mean()


def measured_by_scikit_learn(name, labels_N, scores_NK, answers_N):
    classes = range(scores_NK.shape[1])
    if name == "top5_accuracy":
        return metrics.top_k_accuracy_score(labels_N, scores_NK, k=5, labels=classes)
    if name == "loss":
        return metrics.log_loss(labels_N, scores_NK, labels=classes)
    if name == "auroc":
        own = scores_NK[:, 1] if len(classes) == 2 else scores_NK
        return metrics.roc_auc_score(labels_N, own, multi_class="ovr")
    if name == "f1":
        return metrics.f1_score(labels_N, answers_N, average="macro", labels=classes, zero_division=0)
    if name == "accuracy":
        return metrics.accuracy_score(labels_N, answers_N)
    return metrics.balanced_accuracy_score(labels_N, answers_N)


def random_values(name, labels_N, shares_K):
    """Return the values [guessers, epochs] of random answers that have these shares."""
    generator = np.random.default_rng(0)
    classes = len(shares_K)
    values = np.empty((min(max(1000 // classes, 30), 300) if name in OF_SCORES else 600, EPOCHS))
    scores_NK, answers_N = np.empty((len(labels_N), classes)), np.empty_like(labels_N)
    for guesser, epoch in np.ndindex(*values.shape):
        if name in OF_SCORES:
            scores_NK = generator.dirichlet(10 * classes * shares_K, len(labels_N))
        else:
            answers_N = generator.choice(classes, len(labels_N), p=shares_K)
        values[guesser, epoch] = measure(name, labels_N, scores_NK, answers_N)
    expected = measured_by_scikit_learn(name, labels_N, scores_NK, answers_N)
    assert values[-1, -1] == pytest.approx(expected, abs=1e-6), "the last one"
    return values


@pytest.mark.parametrize(("name", "case"), CASES)
def test_guessing_gives_what_the_best_guessers_reach_and_luck_stays_within_the_ceiling(name, case):
    counts_K, metric = np.array(COUNTS[case]), METRICS[name]
    config = Config(metric=name)
    guess = baseline.guess(config, COUNTS[case])
    found = baseline.baseline_of(guess, config, Search())
    assert guess is not None
    assert found is not None
    labels_N = np.repeat(np.arange(len(counts_K)), counts_K)
    shares_K, even_K = counts_K / len(labels_N), np.full(len(counts_K), 1 / len(counts_K))

    same_NK = np.tile(shares_K, (len(labels_N), 1))  # always the shares, and the largest class
    constant = measured_by_scikit_learn(name, labels_N, same_NK, np.full_like(labels_N, counts_K.argmax()))
    by_chance = [random_values(name, labels_N, each) for each in (shares_K, even_K)]
    best = metric.best([constant, *(float(values.mean()) for values in by_chance)])
    deviation = max(float(values.std()) for values in by_chance) if name != "loss" else 0.0
    assert guess.value == pytest.approx(best, abs=4 * deviation / by_chance[0].size ** 0.5 + 1e-3)
    for values in by_chance:
        lucky = [metric.score(metric.best(row)) <= metric.score(found.ceiling) for row in values]
        assert np.mean(lucky) >= 0.95
    assert metric.score(constant) <= metric.score(found.ceiling)
