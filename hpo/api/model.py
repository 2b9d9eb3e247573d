"""An exported model in Python: ``hpo.Model``."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hpo.errors import DataError, join_names
from hpo.export.predict import Predictor

ImageSource = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class ImagePrediction:
    """What a model says of an image.

    Attributes:
        label: The most probable class.
        probability: Its probability, 0 to 1.
        probabilities: The probability of every class, the most probable first.
    """

    label: str
    probability: float
    probabilities: Mapping[str, float]


class Model:
    """A model in a folder that ``hpo export`` or ``Study.export`` wrote, on the CPU.

    Args:
        folder: The folder.

    Attributes:
        folder: The folder.
        labels: The classes.

    Raises:
        ArtifactError: The folder does not contain a complete model.
        DefinitionError: The model is a network of the user's own that cannot be built here.

    Examples:
        >>> model = hpo.Model("winner")
        >>> model.predict(["tom.jpg"])[0].label
        'cats'
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._predictor = Predictor(self.folder)
        self.labels = tuple(self._predictor.labels)

    def __repr__(self) -> str:
        found = self._predictor.description
        return f"hpo.Model({str(self.folder)!r}): {found.model}, {len(self.labels)} classes"

    def predict(self, images: ImageSource | Iterable[ImageSource]) -> list[ImagePrediction]:
        """Classify images; each is prepared as ``hpo predict`` prepares the same file.

        Args:
            images: Paths, images of PIL, or arrays; one, or several. An array is uint8 [H, W, 3], or
                [N, H, W, 3] for N images.

        Returns:
            A prediction for each image, in their order; also for a single image a list.

        Raises:
            DataError: Images cannot be read; the message names the first of them.

        Examples:
            >>> model.predict(np.zeros((32, 32, 3), np.uint8))[0].probability
            0.31
        """
        found: list[ImagePrediction] = []
        problems: list[str] = []
        for name, image in _each_image(images):
            try:
                found.append(self._predict(image))
            except DataError as error:
                text = str(error)
                problems.append(text if isinstance(image, Path) else f"{name}: {text}")
        if problems:
            more = f"{len(problems)} images cannot be used: " if len(problems) > 1 else ""
            raise DataError(f"{more}{join_names(problems)}")
        return found

    def _predict(self, image: Path | Image.Image) -> ImagePrediction:
        every = self._predictor.predict(image, len(self.labels))
        return ImagePrediction(
            label=every[0].label,
            probability=every[0].probability,
            probabilities={each.label: each.probability for each in every},
        )


def _each_image(images: Any) -> Iterator[tuple[str, Path | Image.Image]]:
    """Yield each image with a name for messages: a path as a path, an array as an image of PIL's."""
    is_one = isinstance(images, str | os.PathLike | Image.Image | np.ndarray)
    for index, image in enumerate([images] if is_one else images):
        name = f"images[{index}]"
        if isinstance(image, str | os.PathLike):
            yield name, Path(image)
        elif isinstance(image, Image.Image):
            yield name, image
        else:
            yield from ((name, each) for each in _images_of_array(image, name))


def _images_of_array(array: Any, name: str) -> Iterator[Image.Image]:
    """Yield the images of an array; a DataError says what it should be."""
    if not isinstance(array, np.ndarray):
        raise DataError(
            f"{name}: want a path, an image of PIL or an array of numpy, found {type(array).__name__}"
        )
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
        raise DataError(
            f"{name}: want an array of uint8 [H, W, 3] or [N, H, W, 3], found {array.dtype} "
            f"{list(array.shape)}"
        )
    for each in array if array.ndim == 4 else array[None]:
        yield Image.fromarray(np.ascontiguousarray(each))
