"""A run ends before its last epoch once no value was better for long enough."""

import pytest
import torch

from hpo.artifacts import checkpoint
from hpo.training import datasets, events, loop
from hpo.training.config import Config, FinalConfig
from hpo.training.metric import METRICS

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("values", "metric", "patience", "expected"),
    [
        ((), "accuracy", 1, False),
        ((0.5,), "accuracy", 1, False),
        ((0.5, 0.5), "accuracy", 1, True),
        ((0.5, 0.5), "accuracy", 2, False),
        ((0.5, 0.6, 0.4, 0.6), "accuracy", 2, True),  # an equal value is not better
        ((0.5, 0.6, 0.4, 0.7), "accuracy", 2, False),
        ((0.5, 0.6), "loss", 1, True),
        ((0.6, 0.5), "loss", 1, False),
        ((0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4), "accuracy", 2, False),  # all epochs are done
        ((None, None, None), "auroc", 1, False),
        ((None, 0.5, None), "auroc", 1, True),
        ((0.5, 0.5), "accuracy", None, False),
    ],
)
def test_a_trial_stops_when_no_value_was_better_for_so_many_epochs(values, metric, patience, expected):
    by_epoch = dict(enumerate(values, start=1))
    assert events.stops_early(by_epoch, METRICS[metric], patience=patience, epochs=7) is expected


def config(kind: type[Config] = Config, **settings) -> Config:
    small = {"model": "shufflenet_v2_x0_5", "image_size": 32, "limit": 16, "batch_size": 8, "epochs": 6}
    # Nothing is learned at this rate, and without updates of the statistics no value changes.
    still = {"dataset": "digits", "weights": "none", "lr": 1e-12, "tune": "head"}
    return kind(**(small | still | settings))


def run_of(settings: Config, tmp_path, **options) -> loop.TrainingRun:
    return loop.TrainingRun(settings, datasets.load_dataset(settings, tmp_path), CPU, **options)


@pytest.mark.parametrize(("patience", "epochs"), [(1, 2), (3, 4), (5, 6), (9, 6), (None, 6)])
def test_a_run_without_progress_ends_early_with_its_first_epoch_as_the_best(patience, epochs, tmp_path):
    run = run_of(config(early_stopping=patience), tmp_path)
    assert len(list(run.epochs())) == epochs
    assert run.finished
    assert run.stopped_early is (epochs < 6)
    assert run.best_epoch.number == 1


def test_a_resumed_run_goes_on_counting_and_does_not_go_on_training(tmp_path):
    settings = config(early_stopping=3)
    first = run_of(settings, tmp_path)
    results = first.epochs()
    next(results)
    next(results)
    name = checkpoint.save(tmp_path, first.state(), attempt=1)
    resumed = run_of(settings, tmp_path, state=checkpoint.load(tmp_path / name))
    assert [epoch.number for epoch in resumed.epochs()] == [3, 4]
    name = checkpoint.save(tmp_path, resumed.state(), attempt=2)
    ended = run_of(settings, tmp_path, state=checkpoint.load(tmp_path / name))
    assert ended.stopped_early
    assert list(ended.epochs()) == []


def test_a_run_that_is_measured_only_once_trains_all_its_epochs(tmp_path):
    run = run_of(config(FinalConfig, selection="final", early_stopping=1, epochs=3), tmp_path)
    assert len(list(run.epochs())) == 3
    assert not run.stopped_early
