"""The model of an exported folder, by torch, torchvision and safetensors alone.

model, transform, labels = load()
logits = model(transform(PIL.Image.open("image.png"))[None])[0]
print(labels[logits.argmax()])
"""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torchvision import models, transforms


def load(folder: Path = Path(__file__).parent) -> tuple[torch.nn.Module, transforms.Compose, list[str]]:
    """Give the model, ready to predict; what makes its input of a PIL image; and its classes' names."""
    config = json.loads((folder / "config.json").read_text())
    labels = (folder / "labels.txt").read_text(encoding="utf-8").split("\n")[:-1]
    model = models.get_model(config["model"], weights=None, **config["arguments"])
    weights = OrderedDict(load_file(folder / "model.safetensors"))
    weights._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]  # MNASNet asks for it
    model.load_state_dict(weights)
    seen = config["preprocessing"]
    side, size = seen["pixels"], seen["image_size"]
    steps = [upright, transforms.Resize(side), transforms.CenterCrop(side)]
    steps += [transforms.Grayscale(3)] if seen["grey"] else []
    steps += [transforms.Resize((size, size)), transforms.ToTensor()]
    steps += [transforms.Normalize(seen["mean"], seen["std"])]
    return model.eval(), transforms.Compose(steps), labels


def upright(image: Image.Image) -> Image.Image:
    """Turn an image as its camera was held, and make it red, green and blue."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # PIL cuts 16-bit grey off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")
