"""Features of frozen layers: same losses as a run on images, computed once, shared, checked when read."""

import logging
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

MAX_BYTES = 2**30  # for features in memory

FEATURE_BYTES = 4 * 512 * (32 + 10)  # bytes of the features of config()'s training and validation images

# Relative tolerances of losses: a batch of another size may be summed in another order.
TOLERANCES = {"fp32": 1e-5, "bf16": 1e-2}


@pytest.fixture(autouse=True)
def _log_at_info(caplog):
    caplog.set_level(logging.INFO, "hpo")


@pytest.fixture
def cache(tmp_path) -> features.FeatureCache:
    return features.FeatureCache(Artifacts(str(tmp_path)), MAX_BYTES)


def config(**settings) -> Config:
    small = {"model": "squeezenet1_1", "image_size": 32, "limit": 32, "batch_size": 8, "epochs": 2}
    return Config(
        **({"dataset": "digits", "weights": "none", "tune": "head", "lr": 0.01} | small | settings)
    )


def dataset(settings: Config) -> datasets.Dataset:
    return datasets.load_dataset(settings, Path())  # digits come with a library


def new_run(settings: Config, cache: features.FeatureCache | None, **more) -> loop.TrainingRun:
    return loop.TrainingRun(settings, dataset(settings), CPU, feature_cache=cache, **more)


def finished_run(settings: Config, cache: features.FeatureCache | None, **more) -> loop.TrainingRun:
    run = new_run(settings, cache, **more)
    list(run.epochs())
    return run


def uses_features(run: loop.TrainingRun) -> bool:
    return run.train_split.images.dtype != torch.uint8  # the dtype of images


def epoch_values(run: loop.TrainingRun) -> list[float | None]:
    of_each = ((e.number, e.lr, e.train_loss, e.train_accuracy, e.loss, e.accuracy) for e in run.history)
    return [value for epoch in of_each for value in epoch]


def calibrated_weights(settings: Config) -> dict[str, torch.Tensor]:
    """Return random weights with batch norm statistics of the images.

    Without these statistics the features of many models vanish.
    """
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


def equal_values(one: loop.TrainingRun, other: loop.TrainingRun) -> bool:
    return epoch_values(one) == pytest.approx(epoch_values(other), rel=TOLERANCES["fp32"])


def feature_files(tmp_path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tmp_path / "cache/features").iterdir()}


def count_computed(caplog) -> int:
    """Return the number of times features were computed since the last call, and clear the log."""
    count = sum("computing the features" in record.message for record in caplog.records)
    caplog.clear()
    return count


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mobilenet_v3_small", {"loss": "multi_margin"}),
        ("mnasnet0_5", {"weight_decay": 0.01}),
        ("shufflenet_v2_x0_5", {"optimizer": "rmsprop"}),
        ("squeezenet1_1", {"batch_size": 9, "schedule": "onecycle"}),
        pytest.param("alexnet", {"image_size": 64, "weights": "none"}, marks=pytest.mark.slow),
        pytest.param("vgg16", {"limit": 33, "epochs": 1, "weights": "none"}, marks=pytest.mark.slow),
        pytest.param("resnet18", {}, marks=pytest.mark.slow),
        pytest.param("densenet121", {"limit": 32, "epochs": 1}, marks=pytest.mark.slow),
        pytest.param("googlenet", {}, marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", {"optimizer": "adam"}, marks=pytest.mark.slow),
        pytest.param("regnet_y_400mf", {"schedule": "onecycle"}, marks=pytest.mark.slow),
        ("efficientnet_b0", {}),
        pytest.param("efficientnet_v2_s", {"epochs": 1}, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", {"weights": "none"}, marks=pytest.mark.slow),
        pytest.param("swin_t", {"weights": "none"}, marks=pytest.mark.slow),
        pytest.param("swin_v2_t", {"weights": "none"}, marks=pytest.mark.slow),
        pytest.param("maxvit_t", {"image_size": 224, "limit": 8, "epochs": 1}, marks=pytest.mark.slow),
        pytest.param(
            "vit_b_32",
            {"image_size": 224, "limit": 20, "epochs": 1, "weights": "none"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_on_features_equals_a_run_on_images(name, settings, cache, tmp_path):
    file = tmp_path / "own.safetensors"
    settings = config(**{"model": name, "weights": str(file), "limit": 64, "batch_size": 16} | settings)
    if settings.weights == str(file):
        safetensors.torch.save_file(calibrated_weights(settings), file)
    on_images = finished_run(settings, None)
    assert not uses_features(on_images)
    for _ in range(2):  # first computed, then from memory
        on_features = finished_run(settings, cache)
        assert uses_features(on_features)
        assert on_features.train_split.images.std() > 0.01  # vanishing features would be equal in any case
        assert equal_values(on_features, on_images)
        weights, expected = on_features.weights(), on_images.weights()
        assert list(weights) == list(expected)
        for key in weights:
            torch.testing.assert_close(weights[key], expected[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_features_have_the_runs_precision_in_any_memory_format(memory_format, cache, caplog):
    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        compute_settings = ComputeSettings(precision=precision, memory_format=memory_format)
        on_features = finished_run(config(), cache, compute_settings=compute_settings)
        assert on_features.train_split.images.dtype == kind
        expected = pytest.approx(
            epoch_values(finished_run(config(), None, compute_settings=compute_settings)),
            rel=TOLERANCES[precision],
        )
        assert epoch_values(on_features) == expected
    assert count_computed(caplog) == 4


def test_features_are_computed_once_for_all_settings_of_the_head(cache, caplog, tmp_path):
    finished_run(config(), cache)
    assert count_computed(caplog) == 2  # of train and valid
    for settings in ({"lr": 0.1}, {"optimizer": "adam"}, {"batch_size": 16}, {"epochs": 1}):
        assert uses_features(finished_run(config(**settings), cache))
    assert count_computed(caplog) == 0
    assert len(feature_files(tmp_path)) == 2


def test_another_worker_reads_features_from_the_files(cache, caplog, tmp_path):
    first = finished_run(config(), cache)
    stored = feature_files(tmp_path)
    count_computed(caplog)
    second = finished_run(config(), features.FeatureCache(Artifacts(str(tmp_path)), MAX_BYTES))
    assert count_computed(caplog) == 0
    assert epoch_values(second) == epoch_values(first)
    assert feature_files(tmp_path) == stored


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 1},  # of the random weights
        {"image_size": 40},
        {"limit": 33},
        {"split_seed": 1},
        {"model": "squeezenet1_0"},
    ],
)
def test_settings_that_change_the_features_have_separate_features(settings, cache, caplog):
    finished_run(config(), cache)
    count_computed(caplog)
    assert equal_values(finished_run(config(**settings), cache), finished_run(config(**settings), None))
    assert count_computed(caplog) >= 1


@pytest.mark.parametrize(
    "settings",
    [{"tune": "all"}, {"augmentation": "flip"}, {"model": "efficientnet_b0", "drop_path": 0.2}],
    ids=["trained", "augmented", "random"],
)
def test_images_pass_through_the_whole_model_if_their_features_would_change(settings, cache, tmp_path):
    assert not uses_features(finished_run(config(**settings), cache))
    assert list(tmp_path.iterdir()) == []


def test_features_above_the_memory_limit_are_not_computed(tmp_path):
    artifacts = Artifacts(str(tmp_path))
    assert not uses_features(finished_run(config(), features.FeatureCache(artifacts, FEATURE_BYTES - 1)))
    assert uses_features(finished_run(config(), features.FeatureCache(artifacts, FEATURE_BYTES)))


def test_memory_keeps_the_most_recently_used_features(tmp_path, caplog):
    cache = features.FeatureCache(Artifacts(str(tmp_path)), 2 * FEATURE_BYTES)
    for seed in (0, 1, 0, 2):  # 2 evicts 1
        finished_run(config(seed=seed), cache)
    kept = list(cache.in_memory)
    assert len(kept) == 4
    finished_run(config(seed=0), cache)
    assert sorted(cache.in_memory) == sorted(kept)
    assert count_computed(caplog) == 6
    finished_run(config(seed=1), cache)
    assert sorted(cache.in_memory) != sorted(kept)
    assert count_computed(caplog) == 0  # the files are still there


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-1],
    "length of the header": lambda content: b"\xff" * 8 + content[8:],
    "header": lambda content: content.replace(b'"F32"', b'"I32"'),
    "first number": lambda content: flip_bit(content, 8 + int.from_bytes(content[:8], "little")),
    "last byte": lambda content: flip_bit(content, len(content) - 1),
    "another file's": lambda content: safetensors.torch.save({"features": torch.zeros(32, 1024)}),
}


def flip_bit(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_detected_and_computed_again(damage, cache, caplog, tmp_path):
    intact_run = finished_run(config(), cache)
    stored = feature_files(tmp_path)
    for name, content in stored.items():
        (tmp_path / "cache/features" / name).write_bytes(damage(content))
    count_computed(caplog)
    again = finished_run(config(), features.FeatureCache(Artifacts(str(tmp_path)), MAX_BYTES))
    assert epoch_values(again) == epoch_values(intact_run)
    assert sum("is damaged" in record.message for record in caplog.records) == 2
    assert feature_files(tmp_path) == stored


def test_an_intact_file_under_another_files_name_is_not_used(cache, caplog, tmp_path):
    finished_run(config(), cache)
    one, other = sorted((tmp_path / "cache/features").iterdir())
    other.write_bytes(one.read_bytes())
    again = finished_run(config(), features.FeatureCache(Artifacts(str(tmp_path)), MAX_BYTES))
    assert "is damaged" in caplog.text
    assert equal_values(again, finished_run(config(), None))


def test_the_folder_may_be_deleted_at_any_time(cache, tmp_path):
    run = new_run(config(), cache)
    epochs = run.epochs()
    next(epochs)
    for path in (tmp_path / "cache/features").iterdir():
        path.unlink()
    next(epochs)
    assert equal_values(
        run, finished_run(config(), features.FeatureCache(Artifacts(str(tmp_path)), MAX_BYTES))
    )


def test_a_run_goes_on_without_a_writable_folder(cache, caplog, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    assert equal_values(finished_run(config(), cache), finished_run(config(), None))
    assert "cannot be written" in caplog.text


def test_features_are_shared_at_a_url(caplog):
    root = f"memory://{uuid.uuid4().hex}"
    first = finished_run(config(), features.FeatureCache(Artifacts(root), MAX_BYTES))
    memory = fsspec.filesystem("memory")
    paths = memory.ls(f"{root}/cache/features", detail=False)
    assert len(paths) == 2
    assert count_computed(caplog) == 2
    second = finished_run(config(), features.FeatureCache(Artifacts(root), MAX_BYTES))
    assert count_computed(caplog) == 0
    memory.pipe_file(paths[0], memory.cat_file(paths[0])[:-1])
    third = finished_run(config(), features.FeatureCache(Artifacts(root), MAX_BYTES))
    assert count_computed(caplog) == 1
    assert epoch_values(first) == epoch_values(second) == epoch_values(third)


def test_weights_files_are_distinguished_by_their_content(cache, tmp_path):
    def write(seed: int) -> None:
        run = new_run(config(seed=seed), None)
        safetensors.torch.save_file(dict(run.weights()), tmp_path / "own.safetensors")

    settings = config(weights=str(tmp_path / "own.safetensors"))
    write(1)
    one, expected = finished_run(settings, cache), finished_run(settings, None)
    assert equal_values(one, expected)
    write(2)
    other, expected = finished_run(settings, cache), finished_run(settings, None)
    assert equal_values(other, expected)
    assert not equal_values(other, one)


@pytest.mark.parametrize("steps", [0, 1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_resumed_run_on_features_is_bit_identical(steps, cache, tmp_path):
    settings = config(model="mobilenet_v3_small", optimizer="adam", epochs=3)  # it has dropout
    whole = finished_run(settings, cache)
    stop = threading.Event()
    first = new_run(settings, cache, stop=stop, wants_pause=lambda: True)
    for epoch in first.epochs():
        if epoch is None and len(first.history) == 1 and first.step == steps:
            stop.set()
        if epoch is not None and steps == 0:
            stop.set()
    assert (len(first.history), first.step) == (1, steps)
    name = checkpoint.save(tmp_path, first.state(), attempt=1)
    state = checkpoint.load(tmp_path / name)
    second = finished_run(settings, features.FeatureCache(Artifacts(str(tmp_path)), MAX_BYTES), state=state)
    assert uses_features(second)
    assert epoch_values(second) == epoch_values(whole)
    for key, value in whole.weights().items():
        assert torch.equal(value, second.weights()[key]), key
    state = checkpoint.load(tmp_path / name)
    # A state of a run on features also resumes on images.
    assert equal_values(finished_run(settings, None, state=state), whole)


def test_a_resumed_run_uses_the_weights_of_its_state_not_of_the_changed_file(cache, tmp_path):
    path = tmp_path / "own.safetensors"
    settings = config(weights=str(path), epochs=2)
    safetensors.torch.save_file(dict(new_run(config(seed=1), None).weights()), path)
    first = new_run(settings, cache)
    next(first.epochs())
    state = checkpoint.snapshot(first.state())
    expected = finished_run(settings, None, state=checkpoint.snapshot(state))
    safetensors.torch.save_file(dict(new_run(config(seed=2), None).weights()), path)
    finished_run(settings, cache)  # computes the features of the new weights
    assert equal_values(finished_run(settings, cache, state=state), expected)


def test_weights_of_a_state_are_not_mistaken_for_those_of_its_seed(cache):
    first = new_run(config(), cache)
    next(first.epochs())
    state = checkpoint.snapshot(first.state())
    state["model"]["features.0.weight"] *= 2  # as if another version of torch had drawn it
    expected = finished_run(config(), None, state=checkpoint.snapshot(state))
    assert equal_values(finished_run(config(), cache, state=state), expected)


class SetAfterCalls(threading.Event):
    """An event that is set after ``is_set`` was called the given number of times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def is_set(self) -> bool:
        self.times -= 1
        return self.times < 0


def test_a_stop_takes_effect_within_a_batch_and_loses_at_most_one_part(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "IMAGES_PER_PART", 64)
    settings = config(limit=100, epochs=1)
    count = len(dataset(settings).train)
    assert features.IMAGES_PER_PART < count < 2 * features.IMAGES_PER_PART  # two parts
    batches = -(-features.IMAGES_PER_PART // features.BATCH_SIZES["cpu"])
    run = new_run(settings, cache, stop=SetAfterCalls(batches))
    assert list(run.epochs()) == []
    assert not uses_features(run)
    stored = feature_files(tmp_path)
    assert len(stored) <= 1  # the part that was being computed is lost
    run = finished_run(settings, cache)
    assert len(feature_files(tmp_path)) == 3
    assert feature_files(tmp_path).items() >= stored.items()
    assert equal_values(run, finished_run(settings, None))


def test_the_time_for_features_counts_for_the_current_epoch(cache, monkeypatch):
    real, seconds = cache.load_or_compute, [0.0]

    def slow(*args, **options):
        seconds[0] += 1000.0
        return real(*args, **options)

    monkeypatch.setattr(cache, "load_or_compute", slow)
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(perf_counter=lambda: seconds[0]))
    (epoch,) = finished_run(config(epochs=1), cache).history
    assert epoch.train_seconds == 1000.0
