"""Load an exported model from its folder and predict with it.

The folder contains ``config.json`` (a ``Description``), ``labels.txt``, ``model.safetensors`` and, for
readers, ``README.md`` and ``metrics.json``. It contains no code. A network of the user's own is built by
the function that ``config.json`` names, which must be in the working directory or in the environment, but
not in the folder: to predict with somebody else's model must not run code that came with it.

Shape suffixes: N images, C channels, H rows, W columns, S side length of a square image, K classes.
"""

import importlib.machinery
import re
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError
from torch import Tensor, nn

from hpo.errors import ArtifactError, DataError, quote_value
from hpo.training import catalog, image_files, transforms, user_network
from hpo.training.config import FUNCTION_PATTERN, MAX_PIXELS, Resize, Transparency
from hpo.training.libraries import library_of
from hpo.training.presets import IMAGENET_MEAN, IMAGENET_STD, Channels, Interpolation, Preset

CONFIG, LABELS, WEIGHTS = "config.json", "labels.txt", "model.safetensors"
MAX_SIDE_PIXELS = 16_384  # of an image that a model takes; a larger one would not fit into memory
MAX_CLASSES = 1_000_000

# None of them downloads anything.
ARGUMENTS = ("num_classes", "image_size", "img_size", "aux_logits", "transform_input", "init_weights")


class Preprocessing(BaseModel):
    """How an image becomes the model's input, in this order; every resize has the same filter of PIL's.

    Before these steps it is turned upright (EXIF), 16-bit grey is cut to its high byte, transparent parts
    get a background, and it is converted to RGB. The defaults are what folders without a field mean.
    """

    model_config = ConfigDict(frozen=True)

    transparency: Transparency = "drop"  # the background; drop: the colour that is hidden there
    resize: Resize = "crop"  # how the image becomes a square
    pixels: int = Field(ge=1, le=MAX_SIDE_PIXELS)  # side of this square
    grey: bool  # convert to grey, because all images of the study were grey
    image_size: int = Field(ge=1, le=MAX_SIDE_PIXELS)  # the square is resized to this
    mean: Channels = IMAGENET_MEAN  # subtracted per channel, 0 to 1
    std: Channels = IMAGENET_STD  # then divides each channel
    interpolation: Interpolation = "bilinear"  # the filter
    max_pixels: int = Field(default=MAX_PIXELS, ge=1)  # a larger image is refused

    @property
    def reading(self) -> image_files.Reading:
        """The steps up to the square."""
        return image_files.Reading(
            size=self.pixels,
            resize=self.resize,
            transparency=self.transparency,
            max_pixels=self.max_pixels,
            interpolation=self.interpolation,
        )

    @property
    def preset(self) -> Preset:
        """The mean, the deviation and the filter."""
        return Preset(mean=self.mean, std=self.std, interpolation=self.interpolation)


class Description(BaseModel):
    """The content of ``config.json``."""

    model_config = ConfigDict(frozen=True)

    model: str  # name in torchvision, timm/NAME, or package.module:function
    arguments: Mapping[str, bool | int]  # of the library's model builder, or of the function
    preprocessing: Preprocessing
    settings: Mapping[str, Any]  # every option of the trial
    study: str
    trial: int

    @field_validator("model")
    @classmethod
    def _check_model(cls, model: str) -> str:
        if not re.fullmatch(FUNCTION_PATTERN, model) and not library_of(model).has_model(model):
            raise ValueError(
                "want the name of a classification model in torchvision, timm/NAME, or "
                "package.module:function"
            )
        return model

    @field_validator("arguments")
    @classmethod
    def _check_arguments(cls, arguments: Mapping[str, bool | int]) -> Mapping[str, bool | int]:
        classes = arguments.get("num_classes", 0)
        if not 1 <= classes <= MAX_CLASSES or not arguments.keys() <= set(ARGUMENTS):
            raise ValueError(
                f"want num_classes, 1 to {MAX_CLASSES}, and of others only {', '.join(ARGUMENTS[1:])}"
            )
        return arguments


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A class and its probability, 0 to 1."""

    label: str
    probability: float


class Predictor:
    """An exported model on the CPU.

    Args:
        folder: A folder that ``hpo export`` wrote.

    Raises:
        ArtifactError: The folder does not contain a complete model, its files do not fit together, or the
            code of its network is in the folder itself.
        DefinitionError: The model is a network of the user's own that cannot be built here, or timm, whose
            model it is, is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.description = _read_description(folder)
        try:
            self.model = _load_model(self.description, folder)
            self.labels = (folder / LABELS).read_text(encoding="utf-8").splitlines()
        except (OSError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ArtifactError(
                f"{folder}: cannot build {self.description.model} from it; export it again ({reason})"
            ) from error
        classes = self.description.arguments["num_classes"]
        if len(self.labels) != classes:
            raise ArtifactError(
                f"{folder / LABELS}: want {classes} lines, one per class, found {len(self.labels)}"
            )

    def predict(self, image: Path | Image.Image, count: int) -> list[Prediction]:
        """Return the most probable classes of an image, most probable first.

        Args:
            image: A file in a format that ``image_files.read_image`` reads, or an image of PIL's.
            count: How many classes to return, at most; not negative.

        Raises:
            DataError: The file does not exist, or is a folder or not a readable image.
        """
        pixels_1CSS = self._read(image) if isinstance(image, Path) else self._convert(image)
        probabilities_K = self.logits(pixels_1CSS)[0].softmax(0)
        best = probabilities_K.topk(min(count, len(self.labels)))
        found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [Prediction(label=self.labels[index], probability=value) for value, index in found]

    @torch.inference_mode()
    def logits(self, images_NCHW: Tensor) -> Tensor:
        """Return the logits of images, which are resized and normalised first.

        Args:
            images_NCHW: uint8 images as the data set of the study has them, of any size; C is 1 or 3.

        Returns:
            Logits [N, K], float32.
        """
        seen = self.description.preprocessing
        resized = transforms.resize(images_NCHW, seen.image_size, seen.interpolation)
        logits: Tensor = self.model(transforms.normalise(resized, seen.preset))
        return logits

    def _read(self, file: Path) -> Tensor:
        """Read an image in the form of the study's data set: uint8 [1, C, S, S]."""
        if _is_folder(file):
            raise DataError(f"{file}: is a folder; give the images in it, for example {file}/*.jpg")
        try:
            pixels = image_files.read_image(file, self.description.preprocessing.reading).pixels
        except image_files.ImageTooLarge as error:
            raise DataError(
                f"{file}: {error}; to predict it, raise that in {self.folder / CONFIG}"
            ) from error
        except ValueError as error:
            cause = error.__cause__
            reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else error
            raise DataError(f"{file}: not a readable image ({reason})") from error
        return self._with_channels(pixels)

    def _convert(self, image: Image.Image) -> Tensor:
        """Return an image of PIL's in the form of the study's data set: uint8 [1, C, S, S]."""
        try:
            pixels = image_files.convert_image(image, self.description.preprocessing.reading).pixels
        except ValueError as error:
            raise DataError(f"not a usable image ({error})") from error
        return self._with_channels(pixels)

    def _with_channels(self, pixels_CSS: NDArray[np.uint8]) -> Tensor:
        """Return the pixels of an image as a batch of one, in grey if the study's images are."""
        if self.description.preprocessing.grey:
            pixels_CSS = np.array(Image.fromarray(pixels_CSS.transpose(1, 2, 0)).convert("L"))[None]
        return torch.from_numpy(pixels_CSS)[None]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # such as a name that is too long
        raise DataError(f"{quote_value(str(path))}: {error.strerror}") from error


def _load_model(description: Description, folder: Path) -> nn.Module:
    """Build the model with its library only or with the user's own function, as the model card does."""
    model: nn.Module
    if catalog.is_user_network(description.model):
        _refuse_code_in(folder, description.model)
        classes = description.arguments["num_classes"]
        model = user_network.build_user_network(description.model, classes, f"{folder / CONFIG}: model")
    elif catalog.is_timm_model(description.model):
        from hpo.training import timm_models  # optional, and takes seconds

        model = timm_models.build_trained_model(description.model, description.arguments)
    else:
        model = torchvision.models.get_model(description.model, **description.arguments)
    state = OrderedDict(safetensors.torch.load_file(folder / WEIGHTS))
    # MNASNet requires the version metadata, which such a file cannot hold.
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(state)
    return model.eval()


def _refuse_code_in(folder: Path, model: str) -> None:
    package = model.partition(":")[0].partition(".")[0]
    spec = importlib.machinery.PathFinder.find_spec(package, [str(Path.cwd()), *sys.path])
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    for place in places:
        if place and Path(place).resolve().is_relative_to(folder.resolve()):
            raise ArtifactError(
                f"{folder}: contains {Path(place).name}, the code of its network, which is not run from "
                "there; if you trust it, copy it into another folder and run this command there"
            )


def _read_description(folder: Path) -> Description:
    try:
        return Description.model_validate_json((folder / CONFIG).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(f"{folder}: not a folder written by 'hpo export NAME --to FOLDER'") from error
    except OSError as error:
        raise ArtifactError(f"{folder / CONFIG}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(
            f"{folder / CONFIG}: {where or 'its text'}: {first['msg']}; export the model again"
        ) from error
