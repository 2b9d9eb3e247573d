"""A small model of each of torchvision's families: trained, resumed, exported, and used without hpo."""

import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from hpo.artifacts import checkpoint
from hpo.export import predict
from hpo.training import datasets, loop, models, transforms
from hpo.training.config import Config
from tests.support.exported import card_code
from tests.support.models import has_state

CPU = torch.device("cpu")
State = dict[str, Tensor]
# A small model of each family, and the side in pixels of small images that it accepts.
SIZES = {
    **{"densenet121": 32, "efficientnet_b0": 32, "googlenet": 32, "mnasnet0_5": 32, "mobilenet_v2": 32},
    **{"mobilenet_v3_small": 32, "regnet_x_400mf": 32, "regnet_y_400mf": 32, "resnet18": 32},
    **{"shufflenet_v2_x0_5": 32, "squeezenet1_1": 32},
}
SLOW_SIZES = {
    **{"alexnet": 63, "convnext_tiny": 32, "efficientnet_v2_s": 32, "inception_v3": 75, "maxvit_t": 224},
    **{"resnext50_32x4d": 32, "swin_t": 32, "swin_v2_t": 32, "vgg11": 32, "vit_b_32": 224},
    **{"wide_resnet50_2": 32},
}
STUDY = """
[train]
dataset = "digits"
model = "{}"
image_size = {}
weights = "initial.pt"
limit = 4
batch_size = 4
epochs = 1
clip_grad_norm = 0.1
[search]
sampler = "grid"
[[points]]
lr = 0.01
"""


def inputs_of(images: Tensor, settings: Config) -> Tensor:
    return transforms.normalise(transforms.resize(images, settings.image_size))


def save_initial_weights(path: Path, settings: Config, images: Tensor) -> None:
    """Save random weights whose batch norms fit the images: without that, activations would vanish."""
    torch.manual_seed(0)
    module = models.build_model(settings.model_copy(update={"weights": "none"}), 10)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        module.train()(inputs_of(images, settings))
    torch.save(module.state_dict(), path)


def train_and_resume(settings: Config, dataset: datasets.Dataset, folder: Path) -> tuple[State, Tensor]:
    """Train two epochs, and the second one again after the first was saved, as after a kill.

    Returns:
        The weights after the first epoch, and the logits [N, K] that they give for the selection split.
    """
    whole = loop.TrainingRun(settings, dataset, CPU)
    epochs = whole.epochs()
    next(epochs)
    with torch.inference_mode():
        logits_NK = whole.model.eval()(inputs_of(dataset.selection.images, settings))
    saved = checkpoint.load(folder / checkpoint.save(folder, whole.state(), attempt=1))
    next(epochs)
    resumed = loop.TrainingRun(settings, dataset, CPU, state=saved)
    (epoch,) = resumed.epochs()
    assert epoch.loss == whole.history[1].loss
    assert has_state(resumed.model, whole.model.state_dict())
    return saved["model"], logits_NK


@pytest.mark.filterwarnings("ignore:unclosed file")  # the card's code leaves the file open
@pytest.mark.parametrize(
    ("model", "size"),
    [*SIZES.items(), *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW_SIZES.items())],
)
def test_a_model_of_any_family_is_resumed_exported_and_used_without_hpo(
    workplace, model, size, monkeypatch
):
    folder = workplace.path / "folder"
    monkeypatch.chdir(workplace.path)
    settings = Config(
        **{"dataset": "digits", "model": model, "image_size": size, "weights": "initial.pt"},
        **{"limit": 4, "batch_size": 4, "epochs": 2, "lr": 0.01, "clip_grad_norm": 0.1},
    )
    dataset = datasets.load_dataset(settings, workplace.path)
    images = dataset.selection.images
    save_initial_weights(workplace.path / "initial.pt", settings, images)
    trained, logits_NK = train_and_resume(settings, dataset, workplace.path)
    assert logits_NK.std(0).mean() > 1e-4  # images make a difference

    workplace.here("create", workplace.study(STUDY.format(model, size)))
    workplace.here("worker", "small")
    workplace.here("export", "small", "--to", "folder")
    weights = safetensors.torch.load_file(folder / predict.WEIGHTS)
    assert weights.keys() == trained.keys()
    assert [key for key in weights if not torch.equal(weights[key], trained[key])] == []
    predictor = predict.Predictor(folder)
    assert torch.equal(predictor.logits(images), logits_NK)

    monkeypatch.chdir(folder)
    Image.fromarray(images[0, 0].numpy()).save("image.png")
    expected = [each.probability for each in predictor.predict(Path("image.png"), 10)]
    for library in ("hpo", "optuna", "safetensors"):
        monkeypatch.setitem(sys.modules, library, None)
    names: dict[str, Any] = {}
    exec(card_code(Path()), names)
    assert sorted(names["probabilities"].tolist(), reverse=True) == pytest.approx(expected, abs=1e-4)
