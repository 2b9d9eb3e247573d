"""Weights with their own mean, deviation and resize filter, as torchvision's metadata has them."""

import pytest
import torch
from PIL import Image

from hpo.artifacts.folders import Artifacts
from hpo.errors import WeightsError
from hpo.training import catalog, datasets, features, image_files, loop, models, presets, transforms
from hpo.training.config import Config
from tests.support.images import random_images
from tests.support.models import has_state
from tests.support.networks import name, of_ten

SIZE = 32
CPU = torch.device("cpu")


def config(**options) -> Config:
    return Config(**({"dataset": "digits", "image_size": SIZE, "limit": 8} | options))


def torchvision_input(model: str, weights: str, image: Image.Image) -> torch.Tensor:
    """Return what torchvision's own preset of the weights makes of an image of ``SIZE`` pixels."""
    preset = catalog.find_weights(model, weights).transforms()
    preset.resize_size = preset.crop_size = [SIZE]
    return preset(image)


def test_every_file_becomes_the_input_that_torchvisions_preset_makes_of_it(tmp_path):
    image = Image.fromarray(random_images(1, 41, 60, 3)[0])
    image.save(tmp_path / "image.png")
    seen = set()
    for model in catalog.model_names():
        for weights in ("imagenet", *catalog.weights_names(model)):
            settings = config(model=model, weights=weights)
            preset = presets.preset_of(settings)
            picture = image_files.read_image(tmp_path / "image.png", image_files.reading_of(settings))
            (found,) = transforms.normalise(torch.from_numpy(picture.pixels)[None], preset)
            expected = torchvision_input(model, weights, image)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6, msg=f"{model} {weights}")
            seen.add(preset)
    half = (0.5, 0.5, 0.5)
    assert seen == {
        presets.IMAGENET,
        presets.Preset(interpolation="bicubic"),
        presets.Preset(mean=half, std=half, interpolation="bicubic"),
    }


@pytest.mark.parametrize(
    "options",
    [
        {"preprocessing": "imagenet"},
        {"weights": "none"},
        {"weights": "/somewhere/weights.pt"},
        {"model": name(of_ten), "weights": "none"},
    ],
)
def test_without_weights_of_torchvisions_it_is_imagenets_preset(options):
    settings = config(**({"model": "efficientnet_v2_l"} | options))
    assert presets.preset_of(settings) == presets.IMAGENET
    assert image_files.reading_of(settings).interpolation == "bilinear"


def test_weights_that_the_installed_torchvision_lacks_are_no_reason_for_another_preset():
    with pytest.raises(
        WeightsError, match="torchvision has no weights 'IMAGENET1K_V9' for resnet18; use IM"
    ):
        presets.preset_of(config(weights="IMAGENET1K_V9"))


@pytest.mark.parametrize("preprocessing", ["weights", "imagenet"])
def test_a_model_is_evaluated_on_the_input_that_its_weights_expect(preprocessing, tmp_path):
    settings = config(model="efficientnet_b0", preprocessing=preprocessing)
    images = datasets.load_dataset(settings, tmp_path)
    run = loop.TrainingRun(settings, images, CPU, build_model=models.build_untrained_model)
    inputs = []
    run.model.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    run.evaluate(run.selection_split)
    filter_name = {"weights": "bicubic", "imagenet": "bilinear"}[preprocessing]
    resized = transforms.resize(images.selection.images, SIZE, filter_name)
    assert torch.equal(torch.cat(inputs), transforms.normalise(resized))


def test_an_untrained_model_is_that_of_random_weights_and_downloads_nothing(monkeypatch):
    monkeypatch.setattr(torch.hub, "urlopen", None)  # a download would fail
    named, random = (
        config(model="squeezenet1_1", tune="head", weights=each) for each in ("DEFAULT", "none")
    )
    found, expected = models.build_untrained_model(named, 3, 1), models.build_seeded_model(random, 3, 1)
    assert str(found) == str(expected)
    assert has_state(found, expected.state_dict())
    assert [each.requires_grad for each in found.parameters()].count(True) == 2


def test_features_are_not_shared_between_presets(tmp_path):
    cache = features.FeatureCache(Artifacts(str(tmp_path)), max_bytes=2**30)
    large = {"model": "regnet_y_16gf", "weights": "IMAGENET1K_SWAG_LINEAR_V1"}  # whose filter is bicubic
    small = config(model="regnet_y_400mf", tune="head")  # a network that is trained in its place
    for preprocessing, files in (("weights", 2), ("imagenet", 4), ("weights", 4)):
        settings = config(**large, tune="head", epochs=1, preprocessing=preprocessing)
        run = loop.TrainingRun(
            settings,
            datasets.load_dataset(settings, tmp_path),
            CPU,
            build_model=lambda _, classes, seed: models.build_untrained_model(small, classes, seed),
            feature_cache=cache,
        )
        assert len(list(run.epochs())) == 1
        assert len([*(tmp_path / features.FOLDER).iterdir()]) == files
