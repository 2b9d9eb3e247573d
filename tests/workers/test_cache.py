"""What a worker caches between trials."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from hpo.artifacts.folders import Artifacts
from hpo.errors import DeviceError, ImagesChanged
from hpo.store import studies
from hpo.study.definition import Definition
from hpo.study.search_options import Search
from hpo.training import catalog, datasets, devices, drawn_images, models, precision, sources
from hpo.training.config import Config
from hpo.training.data_facts import DataFacts
from hpo.training.used_files import ContentHashes
from hpo.workers import cache
from tests.support.file_sets import write_file_set
from tests.support.images import write_images

CPU = torch.device("cpu")


def settings(**options) -> Config:
    return Config(**({"dataset": "digits", "image_size": 32, "weights": "none", "limit": 64} | options))


@pytest.fixture
def worker_cache(tmp_path) -> cache.WorkerCache:
    return cache.WorkerCache(tmp_path, Artifacts(str(tmp_path / "artifacts")), CPU)


def test_a_dataset_is_read_once_and_image_size_matters_only_for_folders(worker_cache):
    assert worker_cache.load_dataset(settings()) is worker_cache.load_dataset(
        settings(image_size=64, batch_size=8)
    )
    assert worker_cache.load_dataset(settings()) is not worker_cache.load_dataset(settings(limit=65))


@pytest.mark.parametrize("dataset", ["folder:{}/pets", "eurosat"])
def test_image_files_are_read_anew_for_each_way_to_read_them(worker_cache, tmp_path, monkeypatch, dataset):
    write_images(tmp_path / "pets", {"cat": 5, "dog": 5})
    write_file_set("eurosat", tmp_path, monkeypatch)
    here = {"dataset": dataset.format(tmp_path), "limit": None}
    found = worker_cache.load_dataset(settings(**here))
    assert worker_cache.load_dataset(settings(**here, batch_size=8)) is found
    others = {
        "image_size": 16,
        "resize": "pad",
        "transparency": "drop",
        "corrupt": "skip",
        "max_pixels": 9999,
    }
    for option in ({name: value} for name, value in others.items()):
        assert worker_cache.load_dataset(settings(**(here | option))) is not found, option
    swin = here | {"model": "swin_t", "weights": "imagenet"}  # whose filter is bicubic
    assert worker_cache.load_dataset(settings(**swin)) is not found
    assert worker_cache.load_dataset(settings(**swin, preprocessing="imagenet")) is found


def test_published_image_files_are_listed_once_and_not_decoded_to_prepare_a_study(
    worker_cache, url, tmp_path, monkeypatch
):
    write_file_set("eurosat", tmp_path, monkeypatch)
    storage = studies.open_storage(url, create=True)
    definition = Definition(name="study", train=settings(dataset="eurosat").model_dump())
    studies.create_study(storage, definition, "text")
    monkeypatch.setattr(datasets, "load_dataset", None)
    for _ in range(2):
        worker_cache.prepare_study(storage, studies.find_study_id(storage, "study"), definition)
        shutil.rmtree(tmp_path / "eurosat", ignore_errors=True)
    other = cache.WorkerCache(tmp_path, worker_cache.artifacts, CPU)
    monkeypatch.setattr(sources, "read_published", lambda name, root: pytest.fail(f"{name} is looked for"))
    with pytest.raises(pytest.fail.Exception, match="eurosat is looked for"):
        other.prepare_study(storage, studies.find_study_id(storage, "study"), definition)


def test_pictures_that_change_while_a_worker_runs_are_refused_when_they_are_read(
    worker_cache, tmp_path, url
):
    write_images(tmp_path / "pets", {"cat": 5, "dog": 5})
    config = settings(dataset=f"folder:{tmp_path / 'pets'}", limit=None)
    definition = Definition(name="pets", train=config.model_dump(), search=Search(trials=1))
    storage = studies.open_storage(url, create=True)
    studies.create_study(storage, definition, "")
    study_id = studies.find_study_id(storage, "pets")
    worker_cache.prepare_study(storage, study_id, definition)
    found = worker_cache.load_dataset(config)
    (tmp_path / "pets/cat/002.png").write_bytes((tmp_path / "pets/cat/001.png").read_bytes())
    assert worker_cache.load_dataset(config) is found  # read before the change
    with pytest.raises(ImagesChanged, match=r"changed while the study ran: 1 changed \('cat/002.png'\)\."):
        worker_cache.load_dataset(config.model_copy(update={"image_size": 16}))
    other = cache.WorkerCache(worker_cache.data, worker_cache.artifacts, CPU)
    with pytest.raises(ImagesChanged, match=r"study 'pets' began with: 1 changed \('cat/002.png'\)\."):
        other.prepare_study(storage, study_id, definition)
    images = drawn_images.list_used_files(config, Path(), ContentHashes())
    studies.create_study(storage, definition, "", images.fingerprint)  # no trial has begun
    worker_cache.prepare_study(storage, study_id, definition)
    assert worker_cache.load_dataset(config) is not found


@pytest.mark.parametrize(
    "options",
    [
        {"model": "shufflenet_v2_x0_5"},
        {"model": "shufflenet_v2_x0_5", "tune": "head"},
        {"model": "squeezenet1_1", "dropout": 0.1},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"model": "alexnet", "dropout": 0.1}, marks=pytest.mark.slow),
    ],
)
def test_a_cached_initial_model_equals_a_built_one_bit_for_bit(options, monkeypatch):
    config = settings(image_size=64, **options)
    initial_models = models.InitialModels()
    first = initial_models.build_seeded(config, 10, 7)
    with torch.no_grad():
        next(iter(first.parameters())).zero_()  # a trial that changes its module changes no other
    monkeypatch.setattr(catalog, "build_torchvision_model", None)  # no model is built again
    second = initial_models.build_seeded(config, 10, 7)
    monkeypatch.undo()
    built = models.build_seeded_model(config, 10, 7)
    for (name, cached), fresh in zip(second.named_parameters(), built.parameters(), strict=True):
        assert torch.equal(cached, fresh), name
        assert cached.requires_grad == fresh.requires_grad
    for cached, fresh in zip(second.modules(), built.modules(), strict=True):
        assert getattr(cached, "p", None) == getattr(fresh, "p", None)
    other = initial_models.build_seeded(config, 10, 8)
    assert not torch.equal(models.get_head(other)[1].weight, models.get_head(built)[1].weight)


def test_cached_initial_models_stay_within_their_memory_limit_but_the_last_one_is_kept():
    initial_models = models.InitialModels(max_bytes=4 * 2**20)
    for name in ("shufflenet_v2_x0_5", "squeezenet1_1", "shufflenet_v2_x1_0"):  # 1.4, 2.9, 5.1 MB
        initial_models.build_seeded(settings(model=name), 10, 0)
        assert name in [key[0] for key in initial_models.cached]
    assert [key[0] for key in initial_models.cached] == ["shufflenet_v2_x1_0"]


def test_weights_are_read_again_after_their_file_changed(tmp_path):
    small = {"model": "shufflenet_v2_x0_5"}
    config = settings(weights=str(tmp_path / "own.pt"), **small)
    initial_models, found = models.InitialModels(), []
    for seed in (1, 2):
        torch.save(models.build_seeded_model(settings(**small), 10, seed).state_dict(), tmp_path / "own.pt")
        found.append(initial_models.build_seeded(config, 10, 0).conv1[0].weight)
    assert not torch.equal(*found)


def test_a_memory_format_is_measured_once_for_all_workers_and_only_for_long_trials(
    worker_cache, monkeypatch
):
    calls = []

    def measured(step, device):
        for name in precision.MEMORY_FORMATS:
            step(name)
        calls.append(device)
        return "channels_last", {"contiguous": 2.0, "channels_last": 1.0}

    monkeypatch.setattr(precision, "faster_memory_format", measured)
    brief, long = settings(epochs=1), settings(epochs=250)
    assert worker_cache.choose_memory_format(brief, "fp32") == "contiguous"
    assert calls == []
    assert worker_cache.choose_memory_format(long, "fp32") == "channels_last"
    assert worker_cache.choose_memory_format(brief, "fp32") == "channels_last", (
        "a known format is used without measuring"
    )
    other = cache.WorkerCache(worker_cache.data, worker_cache.artifacts, CPU)
    assert other.choose_memory_format(long, "fp32") == "channels_last"
    assert len(calls) == 1
    (file,) = worker_cache.data.glob("artifacts/cache/memory_format/*.json")
    stored = json.loads(file.read_text())
    assert stored["step_seconds"] == {"contiguous": 2.0, "channels_last": 1.0}
    assert stored["device"] == devices.device_name(CPU) != "cpu", "another processor measures for itself"
    chosen = long.model_copy(update={"memory_format": "contiguous"})
    assert worker_cache.choose_memory_format(chosen, "fp32") == "contiguous"


def test_a_memory_format_that_could_not_be_measured_is_not_stored_for_other_workers(
    worker_cache, monkeypatch
):
    def without_memory(step, device):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(precision, "faster_memory_format", without_memory)
    assert worker_cache.choose_memory_format(settings(epochs=250), "fp32") == "contiguous"
    assert not list(worker_cache.data.glob("artifacts/cache/memory_format/*.json"))


def test_the_first_worker_sets_a_studys_precision_and_a_worker_without_it_is_refused(
    worker_cache, url, monkeypatch
):
    storage = studies.open_storage(url, create=True)
    train = settings().model_dump()
    definition = Definition(name="study", train=train)
    studies.create_study(storage, definition, "text")
    study_id = studies.find_study_id(storage, "study")
    worker_cache.prepare_study(storage, study_id, definition)
    assert worker_cache.precision == "fp32"
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(precision, "default_precision", lambda device: "tf32")
        better = cache.WorkerCache(worker_cache.data, worker_cache.artifacts, CPU)
        better.prepare_study(storage, study_id, definition)
    assert better.precision == "fp32", "a worker with a better device uses the study's precision"
    other = Definition(name="other", train=train)
    studies.create_study(storage, other, "text")
    monkeypatch.setattr(precision, "default_precision", lambda device: "tf32")
    with pytest.raises(DeviceError, match="tf32 on cpu"):
        worker_cache.prepare_study(storage, studies.find_study_id(storage, "other"), other)


def test_what_is_known_of_the_images_is_written_once_by_whoever_finds_it_missing(worker_cache, tmp_path):
    file = tmp_path / "artifacts/study-0123abcd/data.json"
    worker_cache.write_data_facts("study-0123abcd", settings())
    written = file.read_bytes()
    assert len(DataFacts.model_validate_json(written).samples) == 40
    file.write_text("kept")
    other = cache.WorkerCache(tmp_path, Artifacts(str(tmp_path / "artifacts")), CPU)
    other.write_data_facts("study-0123abcd", settings())
    assert file.read_text() == "kept"
    file.unlink()
    another = cache.WorkerCache(tmp_path, Artifacts(str(tmp_path / "artifacts")), CPU)
    another.write_data_facts("study-0123abcd", settings())
    assert file.read_bytes() == written
    file.unlink()
    another.write_data_facts("study-0123abcd", settings(image_size=64))
    assert not file.exists(), "each trial of a worker looks for the file"
