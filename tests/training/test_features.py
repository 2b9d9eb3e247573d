"""Features of frozen layers: the losses of a run on images, computed once, shared, not trusted blindly."""

import logging
import os
import threading
import types
import uuid
from pathlib import Path

import fsspec
import pytest
import safetensors.torch
import torch

from hpo.artifacts import checkpoint
from hpo.artifacts.folders import Artifacts
from hpo.training import datasets, features, loop, models, transforms
from hpo.training.config import Config
from hpo.training.precision import ComputeSettings

CPU = torch.device("cpu")
ROOM = 2**30
SIZE = 4 * 512 * (64 + 10)  # bytes of the features of config()'s training and validation images
# Relative, of losses: a batch of another size may be summed in another order.
TOLERANCES = {"fp32": 1e-5, "bf16": 1e-2}


@pytest.fixture(autouse=True)
def _told(caplog):
    caplog.set_level(logging.INFO, "hpo")


@pytest.fixture
def cache(tmp_path) -> features.FeatureCache:
    return features.FeatureCache(Artifacts(str(tmp_path)), ROOM)


def config(**settings) -> Config:
    small = {"dataset": "digits", "image_size": 32, "weights": "none", "limit": 64, "epochs": 2, "lr": 0.01}
    return Config(**(small | {"model": "squeezenet1_1", "tune": "head"} | settings))


def dataset(settings: Config) -> datasets.Dataset:
    return datasets.load_dataset(settings, Path())  # digits come with a library


def start(settings: Config, cache: features.FeatureCache | None, **more) -> loop.TrainingRun:
    return loop.TrainingRun(settings, dataset(settings), CPU, feature_cache=cache, **more)


def done(settings: Config, cache: features.FeatureCache | None, **more) -> loop.TrainingRun:
    run = start(settings, cache, **more)
    list(run.epochs())
    return run


def numbers(run: loop.TrainingRun) -> list[float | None]:
    of_each = ((e.number, e.lr, e.train_loss, e.train_accuracy, e.loss, e.accuracy) for e in run.history)
    return [number for epoch in of_each for number in epoch]


def calibrated(settings: Config) -> dict[str, torch.Tensor]:
    """Give random weights whose batch norms know the images; else the features of many models vanish."""
    torch.manual_seed(1)
    module = models.build_model(settings.model_copy(update={"weights": "none", "dropout": 0.0}), 10)
    for layer in module.modules():
        if isinstance(layer, models.BATCH_NORMS):
            layer.momentum = None  # the mean over all batches
    split = dataset(settings).train
    module.train()
    with torch.no_grad():
        module(transforms.normalise(transforms.resize(split.images, settings.image_size)))
    return {key: tensor.contiguous() for key, tensor in module.state_dict().items()}


def same(one: loop.TrainingRun, other: loop.TrainingRun) -> bool:
    return numbers(one) == pytest.approx(numbers(other), rel=TOLERANCES["fp32"])


def files(tmp_path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tmp_path / "cache/features").iterdir()}


def computed(caplog) -> int:
    """Count how often features were computed, and forget what was told."""
    count = sum("computing the features" in record.message for record in caplog.records)
    caplog.clear()
    return count


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("alexnet", {"image_size": 64, "weights": "none"}),
        pytest.param("vgg16", {"limit": 33, "epochs": 1, "weights": "none"}, marks=pytest.mark.slow),
        ("resnet18", {}),
        ("densenet121", {"limit": 32, "epochs": 1}),
        ("googlenet", {}),
        ("mobilenet_v2", {"optimizer": "adam"}),
        ("mobilenet_v3_small", {"loss": "multi_margin"}),
        ("mnasnet0_5", {"weight_decay": 0.01}),
        ("regnet_y_400mf", {"schedule": "onecycle"}),
        ("shufflenet_v2_x0_5", {"optimizer": "rmsprop"}),
        ("squeezenet1_1", {"batch_size": 9}),
        pytest.param(
            "vit_b_32",
            {"image_size": 224, "limit": 20, "epochs": 1, "weights": "none"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_on_features_gives_what_a_run_on_images_gives(name, settings, cache, tmp_path):
    file = tmp_path / "own.safetensors"
    settings = config(**{"model": name, "weights": str(file)} | settings)
    if settings.weights == str(file):
        safetensors.torch.save_file(calibrated(settings), file)
    on_images = done(settings, None)
    assert on_images._remaining_layers is None
    for _ in range(2):  # computed, then from memory
        on_features = done(settings, cache)
        assert on_features._remaining_layers is not None
        assert on_features.train_split.images.std() > 0.01  # vanishing features could be any
        assert same(on_features, on_images)
        weights, expected = on_features.weights(), on_images.weights()
        assert list(weights) == list(expected)
        for key in weights:
            torch.testing.assert_close(weights[key], expected[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_features_are_of_the_runs_own_precision_in_any_memory_format(memory_format, cache, caplog):
    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        how = ComputeSettings(precision=precision, memory_format=memory_format)
        on_features = done(config(), cache, compute_settings=how)
        assert on_features.train_split.images.dtype == kind
        expected = pytest.approx(
            numbers(done(config(), None, compute_settings=how)), rel=TOLERANCES[precision]
        )
        assert numbers(on_features) == expected
    assert computed(caplog) == 4


def test_features_are_computed_once_for_all_settings_of_the_head(cache, caplog, tmp_path):
    done(config(), cache)
    assert computed(caplog) == 2  # of train and valid
    for settings in ({"lr": 0.1}, {"optimizer": "adam"}, {"batch_size": 8}, {"epochs": 1}):
        assert done(config(**settings), cache)._remaining_layers is not None
    assert computed(caplog) == 0
    assert len(files(tmp_path)) == 2


def test_another_worker_takes_them_from_the_files(cache, caplog, tmp_path):
    first = done(config(), cache)
    there = files(tmp_path)
    computed(caplog)
    second = done(config(), features.FeatureCache(Artifacts(str(tmp_path)), ROOM))
    assert computed(caplog) == 0
    assert numbers(second) == numbers(first)
    assert files(tmp_path) == there


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 1},  # of the random weights
        {"image_size": 40},
        {"limit": 65},
        {"split_seed": 1},
        {"model": "squeezenet1_0"},
    ],
)
def test_what_decides_the_features_has_features_of_its_own(settings, cache, caplog):
    done(config(), cache)
    computed(caplog)
    assert same(done(config(**settings), cache), done(config(**settings), None))
    assert computed(caplog) >= 1


@pytest.mark.parametrize(
    "settings",
    [{"tune": "all"}, {"augmentation": "flip"}, {"model": "efficientnet_b0"}],
    ids=["trained", "augmented", "random"],
)
def test_images_pass_through_the_whole_model_where_nothing_stays_the_same(settings, cache, tmp_path):
    assert done(config(**settings), cache)._remaining_layers is None
    assert list(tmp_path.iterdir()) == []


def test_features_without_room_are_not_computed(tmp_path):
    place = Artifacts(str(tmp_path))
    assert done(config(), features.FeatureCache(place, SIZE - 1))._remaining_layers is None
    assert done(config(), features.FeatureCache(place, SIZE))._remaining_layers is not None


def test_memory_keeps_the_features_used_last(tmp_path, caplog):
    cache = features.FeatureCache(Artifacts(str(tmp_path)), 2 * SIZE)
    for seed in (0, 1, 0, 2):  # 2 takes the place of 1
        done(config(seed=seed), cache)
    kept = list(cache.in_memory)
    assert len(kept) == 4
    done(config(seed=0), cache)
    assert sorted(cache.in_memory) == sorted(kept)
    assert computed(caplog) == 6
    done(config(seed=1), cache)
    assert sorted(cache.in_memory) != sorted(kept)
    assert computed(caplog) == 0  # the files are still there


SPOIL = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-1],
    "length of the header": lambda content: b"\xff" * 8 + content[8:],
    "header": lambda content: content.replace(b'"F32"', b'"I32"'),
    "first number": lambda content: flipped(content, 8 + int.from_bytes(content[:8], "little")),
    "last byte": lambda content: flipped(content, len(content) - 1),
    "another's": lambda content: safetensors.torch.save({"features": torch.zeros(64, 1024)}),
}


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("spoil", SPOIL.values(), ids=SPOIL)
def test_a_spoiled_file_is_noticed_and_computed_again(spoil, cache, caplog, tmp_path):
    sound = done(config(), cache)
    there = files(tmp_path)
    for name, content in there.items():
        (tmp_path / "cache/features" / name).write_bytes(spoil(content))
    computed(caplog)
    again = done(config(), features.FeatureCache(Artifacts(str(tmp_path)), ROOM))
    assert numbers(again) == numbers(sound)
    assert sum("is damaged" in record.message for record in caplog.records) == 2
    assert files(tmp_path) == there


def test_a_sound_file_under_anothers_name_is_not_taken(cache, caplog, tmp_path):
    done(config(), cache)
    one, other = sorted((tmp_path / "cache/features").iterdir())
    other.write_bytes(one.read_bytes())
    again = done(config(), features.FeatureCache(Artifacts(str(tmp_path)), ROOM))
    assert "is damaged" in caplog.text
    assert same(again, done(config(), None))


def test_the_folder_may_be_deleted_at_any_time(cache, tmp_path):
    run = start(config(), cache)
    epochs = run.epochs()
    next(epochs)
    for path in (tmp_path / "cache/features").iterdir():
        path.unlink()
    next(epochs)
    assert same(run, done(config(), features.FeatureCache(Artifacts(str(tmp_path)), ROOM)))


def test_a_folder_that_cannot_be_written_is_no_hindrance(cache, caplog, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    assert same(done(config(), cache), done(config(), None))
    assert "cannot be written" in caplog.text


def test_behind_a_url_features_are_shared_alike(caplog):
    root = f"memory://{uuid.uuid4().hex}"
    first = done(config(), features.FeatureCache(Artifacts(root), ROOM))
    memory = fsspec.filesystem("memory")
    paths = memory.ls(f"{root}/cache/features", detail=False)
    assert len(paths) == 2
    assert computed(caplog) == 2
    second = done(config(), features.FeatureCache(Artifacts(root), ROOM))
    assert computed(caplog) == 0
    memory.pipe_file(paths[0], memory.cat_file(paths[0])[:-1])
    third = done(config(), features.FeatureCache(Artifacts(root), ROOM))
    assert computed(caplog) == 1
    assert numbers(first) == numbers(second) == numbers(third)


def test_weights_in_a_file_count_by_their_content(cache, tmp_path):
    def write(seed: int) -> None:
        run = start(config(seed=seed), None)
        safetensors.torch.save_file(dict(run.weights()), tmp_path / "own.safetensors")

    settings = config(weights=str(tmp_path / "own.safetensors"))
    write(1)
    one, expected = done(settings, cache), done(settings, None)
    assert same(one, expected)
    write(2)
    other, expected = done(settings, cache), done(settings, None)
    assert same(other, expected)
    assert not same(other, one)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_run_on_features_goes_on_from_a_state_to_the_same_bits(steps, cache, tmp_path):
    settings = config(model="mobilenet_v3_small", optimizer="adam", epochs=3)  # it has dropout
    whole = done(settings, cache)
    stop = threading.Event()
    first = start(settings, cache, stop=stop, wants_pause=lambda: True)
    for epoch in first.epochs():
        if epoch is None and len(first.history) == 1 and first.step == steps:
            stop.set()
        if epoch is not None and steps == 0:
            stop.set()
    assert (len(first.history), first.step) == (1, steps)
    name = checkpoint.save(tmp_path, first.state(), attempt=1)
    state = checkpoint.load(tmp_path / name)
    second = done(settings, features.FeatureCache(Artifacts(str(tmp_path)), ROOM), state=state)
    assert second._remaining_layers is not None
    assert numbers(second) == numbers(whole)
    for key, value in whole.weights().items():
        assert torch.equal(value, second.weights()[key]), key
    state = checkpoint.load(tmp_path / name)
    assert same(done(settings, None, state=state), whole)  # and the other way round: on images


def test_a_run_that_goes_on_uses_the_weights_of_its_state(cache, tmp_path):
    """Not those that its file of weights has meanwhile."""
    path = tmp_path / "own.safetensors"
    settings = config(weights=str(path), epochs=2)
    safetensors.torch.save_file(dict(start(config(seed=1), None).weights()), path)
    first = start(settings, cache)
    next(first.epochs())
    state = checkpoint.snapshot(first.state())
    expected = done(settings, None, state=checkpoint.snapshot(state))
    safetensors.torch.save_file(dict(start(config(seed=2), None).weights()), path)
    done(settings, cache)  # which computes the features of the new ones
    assert same(done(settings, cache, state=state), expected)


def test_weights_that_only_a_state_has_are_not_taken_for_those_of_its_seed(cache):
    first = start(config(), cache)
    next(first.epochs())
    state = checkpoint.snapshot(first.state())
    state["model"]["features.0.weight"] *= 2  # as another version of torch would have drawn it
    expected = done(config(), None, state=checkpoint.snapshot(state))
    assert same(done(config(), cache, state=state), expected)


class After(threading.Event):
    """An event that happens once it was asked for so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def is_set(self) -> bool:
        self.times -= 1
        return self.times < 0


def test_a_worker_asked_to_stop_leaves_within_a_batch_and_loses_at_most_one_part(cache, tmp_path, caplog):
    settings = config(limit=None, epochs=1)
    count = len(dataset(settings).train)
    assert features.IMAGES_PER_PART < count < 2 * features.IMAGES_PER_PART  # two parts
    batches = -(-features.IMAGES_PER_PART // features.BATCH_SIZES["cpu"])
    run = start(settings, cache, stop=After(batches))
    assert list(run.epochs()) == []
    assert run._remaining_layers is None
    there = files(tmp_path)
    assert len(there) <= 1  # one, unless the part that is smaller came first, then the other was under way
    run = done(settings, cache)
    assert len(files(tmp_path)) == 3
    assert files(tmp_path).items() >= there.items()
    assert same(run, done(settings, None))


def test_the_time_for_features_belongs_to_the_epoch_under_way(cache, monkeypatch):
    real, seconds = cache.load_or_compute, [0.0]

    def slow(*args, **options):
        seconds[0] += 1000.0
        return real(*args, **options)

    monkeypatch.setattr(cache, "load_or_compute", slow)
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(perf_counter=lambda: seconds[0]))
    (epoch,) = done(config(epochs=1), cache).history
    assert epoch.train_seconds == 1000.0


STUDY = """
[train]
dataset = "digits"
image_size = 32
limit = 96
weights = "none"
model = "resnet18"
tune = "head"
epochs = 3

[space]
lr = [0.01, 0.02, 0.03, 0.04]

[search]
sampler = "grid"
"""


def test_workers_share_features_and_deleting_a_study_leaves_them_to_the_next(workplace):
    workplace.hpo("run", workplace.study(STUDY, "one"), "--devices", "cpu:2")
    folder = workplace.path / "storage/artifacts/cache/features"
    there = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    assert len(there) == 2
    first = workplace.here("trials", "one", "--json").json()
    assert "unknown in" not in workplace.hpo("doctor", code=None).out
    workplace.here("delete", "one", "--yes")
    workplace.here("create", workplace.study(STUDY, "two"))
    workplace.here("worker", "two")
    again = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    assert again == there
    second = workplace.here("trials", "two", "--json").json()

    def by_setting(trials):
        return {trial["params"]["lr"]: trial["intermediate_values"] for trial in trials}

    assert len(by_setting(first)) == 4
    assert by_setting(first) == by_setting(second)
    for trial in second:
        weights = safetensors.torch.load_file(
            workplace.path / "storage/artifacts" / trial["user_attrs"]["weights"]
        )
        assert "layer1.0.conv1.weight" in weights
        assert os.path.getsize(workplace.path / "storage/artifacts" / trial["user_attrs"]["weights"]) > 4e7
