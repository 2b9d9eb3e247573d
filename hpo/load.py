"""The model of an exported folder, by torch and torchvision alone.

model, transform, labels = load()
logits = model(transform(PIL.Image.open("image.png"))[None])[0]
print(labels[logits.argmax()])
"""

import json
from collections import OrderedDict
from math import prod
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision import models, transforms

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


def load(folder: Path = Path(__file__).parent) -> tuple[torch.nn.Module, transforms.Compose, list[str]]:
    """Give the model, ready to predict; what makes its input of a PIL image; and its classes' names."""
    config = json.loads((folder / "config.json").read_text())
    labels = (folder / "labels.txt").read_text(encoding="utf-8").split("\n")[:-1]
    model = models.get_model(config["model"], weights=None, **config["arguments"])
    model.load_state_dict(tensors((folder / "model.safetensors").read_bytes()))
    seen = config["preprocessing"]
    side, size = seen["pixels"], seen["image_size"]
    steps = [upright, transforms.Resize(side), transforms.CenterCrop(side)]
    steps += [transforms.Grayscale(3)] if seen["grey"] else []
    steps += [transforms.Resize((size, size)), transforms.ToTensor()]
    steps += [transforms.Normalize(seen["mean"], seen["std"])]
    return model.eval(), transforms.Compose(steps), labels


def tensors(content: bytes) -> OrderedDict[str, torch.Tensor]:
    """Read a .safetensors file: the length of a JSON header in 8 bytes, the header, the tensors' bytes."""
    start = 8 + int.from_bytes(content[:8], "little")
    found: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__":
            shape, (begin, end) = entry["shape"], entry["data_offsets"]
            data = bytearray(content[start + begin : start + end])
            dtype = DTYPES[entry["dtype"]]
            found[name] = torch.frombuffer(data, dtype=dtype, count=prod(shape)).view(shape)
    found._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]  # MNASNet asks for it
    return found


def upright(image: Image.Image) -> Image.Image:
    """Turn an image as its camera was held, and make it red, green and blue."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # PIL cuts 16-bit grey off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")
