"""An exported model, told from its folder alone: reading the folder, and predicting with it.

The folder holds ``config.json`` (a ``Description``), ``labels.txt``, ``model.safetensors``, and for people
``README.md`` and ``metrics.json``.

Shape suffixes: N images, C channels, H rows, W columns, S pixels of an image's side, K classes.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torchvision
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from hpo.errors import ArtifactError, DataError
from hpo.training import transforms

CONFIG, LABELS, WEIGHTS = "config.json", "labels.txt", "model.safetensors"


class Preprocessing(BaseModel):
    """How an image becomes the model's input: in this order, each resize PIL's bilinear one."""

    model_config = ConfigDict(frozen=True)

    pixels: int = Field(ge=1)  # its shorter side becomes so long, and the middle is cut out
    grey: bool  # it becomes grey, as all the study's images were
    image_size: int = Field(ge=1)  # the square becomes so large
    mean: tuple[float, float, float] = transforms.IMAGENET_MEAN  # taken from each channel, 0 to 1
    std: tuple[float, float, float] = transforms.IMAGENET_STD  # and what is left is divided by this


class Description(BaseModel):
    """What ``config.json`` holds."""

    model_config = ConfigDict(frozen=True)

    model: str  # torchvision's name of it
    arguments: Mapping[str, bool | int]  # of torchvision's builder
    preprocessing: Preprocessing
    settings: Mapping[str, Any]  # every option of its trial
    study: str
    trial: int


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A class, and how probable the model holds it, from 0 to 1."""

    label: str
    probability: float


class Predictor:
    """An exported model, on the CPU; raises ArtifactError if the folder does not hold a whole one."""

    def __init__(self, folder: Path) -> None:
        self.description = _read_description(folder)
        try:
            self.model = _load_model(self.description, folder / WEIGHTS)
            self.labels = (folder / LABELS).read_text(encoding="utf-8").splitlines()
        except (OSError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ArtifactError(
                f"{folder}: no {self.description.model} can be made of it; export it again ({reason})"
            ) from error
        classes = self.description.arguments["num_classes"]
        if len(self.labels) != classes:
            raise ArtifactError(
                f"{folder / LABELS}: want {classes} lines, one a class, found {len(self.labels)}"
            )

    def predict(self, file: Path, count: int) -> list[Prediction]:
        """Give the ``count`` most probable classes of an image, best first; DataError if it is none."""
        probabilities_K = self.logits(self._read(file))[0].softmax(0)
        best = probabilities_K.topk(min(count, len(self.labels)))
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [Prediction(label=self.labels[index], probability=value) for value, index in pairs]

    @torch.inference_mode()
    def logits(self, images_NCHW: Tensor) -> Tensor:
        """Give logits [N, K] of uint8 images as the study's data set has them, C 1 or 3."""
        size = self.description.preprocessing.image_size
        logits: Tensor = self.model(transforms.normalise(transforms.resize(images_NCHW, size)))
        return logits

    def _read(self, file: Path) -> Tensor:
        """Read an image as the study's data set would hold it: uint8 [1, C, S, S]."""
        if file.is_dir():
            raise DataError(f"{file}: a folder; name the images in it, as {file}/*.jpg")
        try:
            pixels = transforms.read_image(file, self.description.preprocessing.pixels)
        except ValueError as error:
            cause = error.__cause__
            reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else error
            raise DataError(f"{file}: not a readable image ({reason})") from error
        if self.description.preprocessing.grey:
            pixels = np.array(Image.fromarray(pixels.transpose(1, 2, 0)).convert("L"))[None]
        return torch.from_numpy(pixels)[None]


def _load_model(description: Description, weights: Path) -> nn.Module:
    """Build it by torchvision alone, as the model card does."""
    model: nn.Module = torchvision.models.get_model(description.model, **description.arguments)
    state = OrderedDict(safetensors.torch.load_file(weights))
    # Versions, which such a file cannot hold and MNASNet asks for.
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(state)
    return model.eval()


def _read_description(folder: Path) -> Description:
    try:
        return Description.model_validate_json((folder / CONFIG).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(f"{folder}: no folder that 'hpo export NAME --to FOLDER' made") from error
    except OSError as error:
        raise ArtifactError(f"{folder / CONFIG}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(
            f"{folder / CONFIG}: {where or 'its text'}: {first['msg']}; export the model again"
        ) from error
