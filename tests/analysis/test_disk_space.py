"""The disk space that a plan tells."""

from dataclasses import replace

import pytest

from hpo.analysis import cost, disk_space
from hpo.study.file import load_study_text
from hpo.training.config import Config
from hpo.training.shapes import DatasetShape

STUDY = """
name = "s"
[train]
dataset = "digits"
epochs = 9
[space]
lr = [0.1, 0.01]
model = ["resnet18", "vgg16"]
momentum = { low = 0.1, high = 0.9 }
[search]
trials = 20
"""


def make_parts() -> list[cost.CostPart]:
    """Return the parts of ten trials each, with weights of 45 and 540 bytes."""
    known = {"point": None, "setting": {}, "trials": 10.0, "epochs": 9, "epoch_seconds": 1.0}
    known |= {"peak_gib": 1.0, "original_epoch_seconds": None, "original_seconds": None}
    return [cost.CostPart(**known, weights_bytes=size, checkpoint_bytes=3 * size) for size in (45, 540)]


def space(search: str, workers: int = 2) -> disk_space.DiskSpace:
    found = disk_space.disk_space(load_study_text(STUDY + search, "s.toml"), make_parts(), workers, 0)
    assert found is not None
    return found


def test_the_best_five_searched_trials_keep_their_weights_unless_the_study_says_how_many():
    everything, limited = space("pruner = 'none'\nkeep_weights = 'all'"), space("pruner = 'none'")
    assert (everything.weights_bytes, everything.weights_files) == (10 * 45 + 10 * 540, 20)
    assert (limited.weights_bytes, limited.weights_files) == (5 * 540, 5)
    assert next(everything.lines()).endswith("for the weights of 20 trials")
    assert "the best 5 of 20 searched trials (search.keep_weights)" in next(limited.lines())


def test_listed_points_keep_their_weights_beside_the_best_searched_trials():
    searched, _ = make_parts()
    listed = replace(searched, point=1, trials=3.0, weights_bytes=7)
    definition = load_study_text(STUDY + "keep_weights = 2", "s.toml")
    found = disk_space.disk_space(definition, [listed, searched], 1, 0)
    assert (found.weights_bytes, found.weights_files, found.listed_files) == (3 * 7 + 2 * 45, 5, 3)
    assert "the best 2 of 10 searched trials, and of 3 listed" in next(found.lines())


def test_unfinished_trials_take_checkpoints_and_the_weights_that_are_not_kept():
    assert space("pruner = 'none'\nkeep_weights = 'all'").checkpoints_bytes == 2 * 3 * 3 * 540
    assert space("pruner = 'none'").checkpoints_bytes == 2 * 3 * 3 * 540 + 2 * 540
    waiting = (2 * 3 + 18 * 2) * 3 * 540
    assert space("pruner = 'asha'").checkpoints_bytes == waiting + 15 * 540


def test_nothing_is_told_of_files_of_unknown_size():
    assert disk_space.disk_space(load_study_text(STUDY, "s.toml"), [], 1, 0) is None


@pytest.mark.parametrize(
    ("options", "images"),
    [
        ([{"dataset": "digits"}], 0),
        ([{"dataset": "flowers102", "cache": "memory"}], 0),
        ([{"dataset": "flowers102"}, {"dataset": "flowers102"}], 8189 * 3 * 32**2),
        (
            [{"dataset": "flowers102"}, {"dataset": "flowers102", "image_size": 64}],
            8189 * 3 * (32**2 + 64**2),
        ),
    ],
)
def test_image_files_are_decoded_once_for_each_size(options, images):
    configs = [Config(**({"image_size": 32} | each)) for each in options]
    shape = DatasetShape(train=1020, selection=1020, pixels=32, channels=3, classes=102)
    assert disk_space.decoded_bytes(configs, shape, None) == images
