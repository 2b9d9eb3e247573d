"""The confusion matrix of a split, as it is stored with the weights that were chosen by it.

This module imports neither torch nor torchvision, so that a report which only shows the matrix starts at
once.

Shape suffixes: K classes.
"""

from collections.abc import Iterable
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hpo.errors import escape_surrogates
from hpo.training.data_facts import SplitName

HEADER_KEY = "confusion"  # in the header of a weights file
Count = Annotated[int, Field(ge=0)]


class Confusion(BaseModel):
    """How many images of each class a model answered with each class.

    Only the cells with images are kept: of 1000 classes, a matrix has a million cells.
    """

    model_config = ConfigDict(frozen=True)

    split: SplitName  # that the model was evaluated on
    classes: tuple[str, ...] = Field(min_length=1)
    cells: tuple[tuple[Count, Count, Count], ...]  # class, answer (indices) and number of images

    @classmethod
    def from_matrix(cls, split: SplitName, classes: Iterable[str], matrix_KK: NDArray[np.int64]) -> Self:
        """Return a matrix without its empty cells.

        Args:
            split: The split that the model was evaluated on.
            classes: The names of the classes.
            matrix_KK: Number of images by class and answer.
        """
        rows, columns = np.nonzero(matrix_KK)
        cells = zip(rows.tolist(), columns.tolist(), matrix_KK[rows, columns].tolist(), strict=True)
        return cls(split=split, classes=tuple(map(escape_surrogates, classes)), cells=tuple(cells))

    @model_validator(mode="after")
    def _check_indices(self) -> Self:
        if any(max(label, answer) >= len(self.classes) for label, answer, _ in self.cells):
            raise ValueError("a cell names a class that does not exist")
        return self

    def matrix(self) -> NDArray[np.int64]:
        """Return the number of images by class and answer, int64 [K, K]."""
        matrix_KK = np.zeros((len(self.classes), len(self.classes)), np.int64)
        for label, answer, images in self.cells:
            matrix_KK[label, answer] = images
        return matrix_KK
