"""Training on images that are changed and mixed at random."""

import threading

import pytest
import torch

from hpo.artifacts import checkpoint
from hpo.training import datasets, loop, mixing, transforms
from hpo.training.config import Config

CPU = torch.device("cpu")
EVERYTHING = {
    "augmentation": "resized_crop",
    "auto_augment": "randaugment",
    "random_erasing": 0.5,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
}


def config(**settings) -> Config:
    small = {"model": "shufflenet_v2_x0_5", "image_size": 32, "limit": 32, "batch_size": 8, "epochs": 2}
    return Config(**({"dataset": "digits", "weights": "none"} | small | settings))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> datasets.Dataset:
    return datasets.load_dataset(config(), tmp_path_factory.mktemp("data"))


def train(settings: Config, images: datasets.Dataset, **options) -> loop.TrainingRun:
    run = loop.TrainingRun(settings, images, CPU, **options)
    list(run.epochs())
    return run


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_a_run_resumed_within_an_epoch_is_bit_identical(loss, images, tmp_path):
    settings = config(loss=loss, class_weights="balanced", **EVERYTHING)
    whole, stop = train(settings, images), threading.Event()

    def set_stop() -> bool:  # called after each step
        if (len(first.history), first.step) == (1, 2):
            stop.set()
        return False

    first = loop.TrainingRun(settings, images, CPU, stop=stop, wants_pause=set_stop)
    list(first.epochs())
    assert (len(first.history), first.step) == (1, 2)
    name = checkpoint.save(tmp_path, first.state(), attempt=1)
    torch.manual_seed(99)  # whatever else ran in between
    second = train(settings, images, state=checkpoint.load(tmp_path / name))
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key]), key
    assert [e.train_accuracy for e in second.history] == [e.train_accuracy for e in whole.history]


@pytest.mark.parametrize("option", EVERYTHING)
def test_each_option_changes_what_is_trained(option, images):
    plain, changed = (
        train(config(epochs=1, **settings), images) for settings in ({}, {option: EVERYTHING[option]})
    )
    assert changed.history[0].train_loss != plain.history[0].train_loss
    assert changed.history[0].train_loss < 10


def test_training_accuracy_counts_the_label_with_the_larger_share(images):
    settings = config(epochs=1, batch_size=32, mixup_alpha=1.0, seed=1)  # one step
    seed = loop.derive_seed(settings.seed, 1)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(loop.derive_seed(settings.seed, 1, 1))
    split = images.train
    mixed, targets = mixing.mix(split.images[order], split.labels[order], settings, generator)
    assert targets.share < 0.5
    run = loop.TrainingRun(settings, images, CPU)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.model.train()
    with torch.no_grad():
        answers_N = run.model(transforms.normalise(transforms.resize(mixed, 32))).argmax(1)
    run.model.load_state_dict(before)
    list(run.epochs())
    right, others = ((answers_N == each).float().mean() for each in (targets.others_N, targets.labels_N))
    assert right != others
    assert run.history[0].train_accuracy == pytest.approx(float(right))
