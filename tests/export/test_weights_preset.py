"""A study with weights that have a preset of their own, from its file to the exported folder."""

import json

import torch
import torchvision

from hpo.export import predict
from hpo.training import catalog, image_files, presets
from tests.support.exported import card_code
from tests.support.images import draw_images

STUDY = """
[train]
dataset = "folder:images"
image_size = 32
model = "efficientnet_b0"
weights = "IMAGENET1K_V1"
selection = "test"
epochs = 1
[search]
sampler = "grid"
[[points]]
lr = 0.01
"""


def test_an_exported_model_reads_images_as_its_weights_ask(workplace):
    draw_images(workplace.path / "images", ("a", "b"), 6)
    home = {"TORCH_HOME": str(workplace.path / "torch")}
    place = workplace.path / "torch/hub/checkpoints"
    workplace.here("create", workplace.study(STUDY, "pictures"), **home)
    entry = catalog.find_weights("efficientnet_b0", "IMAGENET1K_V1")
    name = entry.url.rpartition("/")[2]

    def told(found: str) -> bool:
        return f"not yet in {place}: {name} (20 MB)" in found and entry.url in found

    assert told(workplace.here("doctor", code=None, **home).out)
    place.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.efficientnet_b0().state_dict(), place / name)
    assert not told(workplace.here("doctor", code=None, **home).out)
    workplace.here("worker", "pictures", **home)
    folder = workplace.path / "folder"
    workplace.here("export", "pictures", "--to", str(folder))
    description = json.loads((folder / "config.json").read_text())
    assert description["settings"]["weights"] == "IMAGENET1K_V1"
    assert description["preprocessing"]["interpolation"] == "bicubic"
    assert "InterpolationMode.BICUBIC" in card_code(folder)
    seen = predict.Predictor(folder).description.preprocessing
    assert seen.preset == presets.Preset(interpolation="bicubic")
    assert seen.reading == image_files.Reading(size=32, interpolation="bicubic")
