"""What trials are compared by: every metric is an epoch's value, and chooses the best epoch."""

from dataclasses import replace

import pytest
import torch

from hpo.errors import DataError
from hpo.training import datasets, events, loop
from hpo.training.config import Config
from hpo.training.metric import METRICS, custom_metric

CPU = torch.device("cpu")


def without_seconds(history):
    return [replace(e, train_seconds=0.0, evaluation_seconds=0.0, images_per_second=None) for e in history]


@pytest.mark.parametrize("name", METRICS)
def test_a_run_is_about_its_metric_and_a_resumed_one_has_the_same_bits(tmp_path, name):
    settings = Config(
        **{"dataset": "digits", "image_size": 32, "limit": 64, "weights": "none", "metric": name},
        **{"model": "shufflenet_v2_x0_5", "batch_size": 16, "epochs": 3, "lr": 0.05},
    )
    images = datasets.load_dataset(settings, tmp_path)
    whole = loop.TrainingRun(settings, images, CPU)
    list(whole.epochs())
    assert [epoch.value for epoch in whole.history] == [getattr(e, name) for e in whole.history]
    best = (min if name == "loss" else max)(epoch.value for epoch in whole.history)
    assert whole.best_epoch == next(epoch for epoch in whole.history if epoch.value == best)

    begun = loop.TrainingRun(settings, images, CPU)
    next(begun.epochs())
    resumed = loop.TrainingRun(settings, images, CPU, state=begun.state())
    list(resumed.epochs())
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    assert resumed.best_epoch.number == whole.best_epoch.number
    for key, tensor in whole.weights().items():
        assert torch.equal(tensor, resumed.weights()[key])


def test_a_checkpoint_from_before_metrics_has_the_accuracy_as_its_value():
    stored = {"number": 1, "accuracy": 0.25, "train_seconds": 1.0}
    assert events.restore_epoch(stored).value == 0.25
    assert events.restore_epoch(stored | {"value": 0.5}).value == 0.5


def test_the_best_value_and_score_follow_the_direction():
    lower, higher = custom_metric("rmse", "minimize"), custom_metric("r2", "maximize")
    assert (lower.best([3, -1, 2]), higher.best([3, -1, 2])) == (-1, 3)
    assert (lower.score(2.0), higher.score(2.0)) == (-2.0, 2.0)
    assert (lower.direction, higher.direction) == ("minimize", "maximize")
    assert lower.best([], default=None) is None


def test_a_loss_on_the_selection_split_that_is_not_finite_ends_the_trial_only_if_it_is_the_metric(tmp_path):
    settings = Config(
        **{"dataset": "digits", "image_size": 32, "limit": 16, "weights": "none", "epochs": 1},
        **{"model": "shufflenet_v2_x0_5", "batch_size": 8},
    )
    images = datasets.load_dataset(settings, tmp_path)
    for metric in ("accuracy", "loss"):
        run = loop.TrainingRun(settings.model_copy(update={"metric": metric}), images, CPU)
        run.selection_loss = lambda logits, labels: logits.sum() * float("inf")
        if metric == "accuracy":
            assert next(run.epochs()).loss == float("inf")
        else:
            with pytest.raises(events.Diverged, match="on the selection split not finite after epoch 1"):
                next(run.epochs())


def test_a_metric_without_a_value_on_the_images_is_refused(tmp_path):
    settings = Config(dataset="digits", image_size=32, limit=64)
    images = datasets.load_dataset(settings, tmp_path)
    for name in METRICS:
        datasets.check_metric(name, images)
    five = replace(images, classes=images.classes[:5])
    with pytest.raises(DataError, match="top5_accuracy needs more than 5 classes; 'digits' has 5"):
        datasets.check_metric("top5_accuracy", five)
