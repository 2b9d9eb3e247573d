"""What a worker keeps between trials."""

import json

import pytest
import torch

from hpo.artifacts.folders import Artifacts
from hpo.errors import DeviceError
from hpo.store import studies
from hpo.study.definition import Definition
from hpo.training import datasets, models, precision
from hpo.training.config import Config
from hpo.workers import cache

CPU = torch.device("cpu")


def settings(**options) -> Config:
    return Config(**({"dataset": "digits", "image_size": 32, "weights": "none", "limit": 64} | options))


@pytest.fixture
def kept(tmp_path) -> cache.WorkerCache:
    return cache.WorkerCache(tmp_path, Artifacts(str(tmp_path / "artifacts")), CPU)


def test_a_data_set_is_read_once_and_by_size_only_from_a_folder(kept):
    assert kept.load_dataset(settings()) is kept.load_dataset(settings(image_size=64, batch_size=8))
    assert kept.load_dataset(settings()) is not kept.load_dataset(settings(limit=65))


@pytest.mark.parametrize("options", [{}, {"tune": "head"}, {"model": "alexnet", "dropout": 0.1}])
def test_a_template_gives_the_bits_that_building_gives(options, monkeypatch):
    config = settings(image_size=64, **options)
    templates = models.InitialModels()
    first = templates.build_seeded(config, 10, 7)
    with torch.no_grad():
        next(iter(first.parameters())).zero_()  # what a trial does to its module harms no other's
    monkeypatch.setattr(models, "_build_initial_model", None)  # nothing is built again
    second = templates.build_seeded(config, 10, 7)
    monkeypatch.undo()
    built = models.build_seeded_model(config, 10, 7)
    for (name, here), there in zip(second.named_parameters(), built.parameters(), strict=True):
        assert torch.equal(here, there), name
        assert here.requires_grad == there.requires_grad
    for here, there in zip(second.modules(), built.modules(), strict=True):
        assert getattr(here, "p", None) == getattr(there, "p", None)
    other = templates.build_seeded(config, 10, 8)
    assert not torch.equal(models.get_head(other)[1].weight, models.get_head(built)[1].weight)


def test_templates_take_no_more_memory_than_they_may_but_the_last_one_stays():
    templates = models.InitialModels(max_bytes=100 * 2**20)
    for name in ("resnet18", "resnet34", "resnet50"):  # 47, 87, 102 MB
        templates.build_seeded(settings(model=name), 10, 0)
        assert name in [key[0] for key in templates.cached]
    assert [key[0] for key in templates.cached] == ["resnet50"]


def test_weights_from_a_file_that_has_changed_are_read_again(tmp_path):
    config = settings(weights=str(tmp_path / "own.pt"))
    templates, found = models.InitialModels(), []
    for seed in (1, 2):
        torch.save(models.build_seeded_model(settings(), 10, seed).state_dict(), tmp_path / "own.pt")
        found.append(templates.build_seeded(config, 10, 0).conv1.weight)
    assert not torch.equal(*found)


def test_a_format_is_measured_once_for_all_workers_and_only_for_trials_that_are_long_enough(
    kept, monkeypatch
):
    calls = []

    def measured(step, device):
        for name in precision.MEMORY_FORMATS:
            step(name)
        calls.append(device)
        return "channels_last", {"contiguous": 2.0, "channels_last": 1.0}

    monkeypatch.setattr(precision, "faster_memory_format", measured)
    brief, long = settings(epochs=1), settings(epochs=250)
    assert kept.choose_memory_format(brief, "fp32") == "contiguous"
    assert calls == []
    assert kept.choose_memory_format(long, "fp32") == "channels_last"
    assert kept.choose_memory_format(brief, "fp32") == "channels_last", "what is known costs nothing"
    other = cache.WorkerCache(kept.data, kept.artifacts, CPU)
    assert other.choose_memory_format(long, "fp32") == "channels_last"
    assert len(calls) == 1
    (file,) = kept.data.glob("artifacts/cache/memory_format/*.json")
    assert json.loads(file.read_text())["step_seconds"] == {"contiguous": 2.0, "channels_last": 1.0}
    chosen = long.model_copy(update={"memory_format": "contiguous"})
    assert kept.choose_memory_format(chosen, "fp32") == "contiguous"


def test_the_first_worker_settles_a_studys_precision_and_who_lacks_it_is_refused(kept, url, monkeypatch):
    opened = studies.open_storage(url, create=True)
    train = settings().model_dump()
    definition = Definition(name="study", train=train)
    studies.create_study(opened, definition, "text")
    study_id = studies.find_study_id(opened, "study")
    kept.prepare_study(opened, study_id, definition)
    assert kept.precision == "fp32"
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(precision, "default_precision", lambda device: "tf32")
        better = cache.WorkerCache(kept.data, kept.artifacts, CPU)
        better.prepare_study(opened, study_id, definition)
    assert better.precision == "fp32", "a worker with a better device keeps to the study's"
    other = Definition(name="other", train=train)
    studies.create_study(opened, other, "text")
    monkeypatch.setattr(precision, "default_precision", lambda device: "tf32")
    with pytest.raises(DeviceError, match="tf32 on cpu"):
        kept.prepare_study(opened, studies.find_study_id(opened, "other"), other)


def test_batches_of_a_split_are_its_images_and_labels(kept):
    split = kept.load_dataset(settings()).train
    images, labels = split.batch(torch.tensor([3, 1]), CPU)
    assert torch.equal(images, split.images[[3, 1]])
    assert torch.equal(labels, split.labels[[3, 1]])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_data_that_does_not_fit_on_the_gpu_stays_pinned_and_gives_the_same_batches(kept, monkeypatch):
    gpu = torch.device("cuda")
    here = kept.load_dataset(settings())
    assert here.to_if_it_fits(gpu).train.images.is_cuda
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (here.size, here.size))
    there = here.to_if_it_fits(gpu)
    assert not there.train.images.is_cuda
    images, _ = there.train.batch(torch.tensor([3, 1]), gpu)
    assert torch.equal(images.cpu(), here.train.images[[3, 1]])
    assert isinstance(there, datasets.Dataset)
