"""What a report says about a study's images: how many each class has, and some of them as pictures.

A worker writes this once per study, as ``data.json`` in the study's folder of the artifacts: whoever makes
the report may not have the images. This module does not import torch; ``samples`` makes the facts.
"""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from hpo.training.config import Resize, Transparency

FILE_NAME = "data.json"

SplitName = Literal["train", "valid", "test"]
SPLIT_WORDS: Mapping[str, str] = {"train": "training", "valid": "validation", "test": "test"}


def describe_share(used: int, available: int | None) -> str:
    """Return how many of the available images are used, as a phrase: ``60 images`` if it is all of them."""
    return f"{used} of {available} images" if used < (available or 0) else f"{used} images"


class Sample(BaseModel):
    """A picture of a class."""

    model_config = ConfigDict(frozen=True)

    label: NonNegativeInt  # index of its class
    png: Base64Bytes


class DataFacts(BaseModel):
    """The images of a study."""

    model_config = ConfigDict(frozen=True)

    classes: tuple[str, ...] = Field(min_length=1)
    images: Mapping[SplitName, tuple[NonNegativeInt, ...]] = Field(min_length=1)  # number by class
    selection: SplitName  # the split that trials are measured on
    available: NonNegativeInt | None = (
        None  # used or not; None: written by a worker that did not count them
    )
    skipped: NonNegativeInt  # unreadable files that were left out
    image_size: int = Field(ge=1)  # side that the model gets, in pixels, in the trial of the samples
    # What was done to the samples, in that trial; a worker of an earlier version wrote the first one alone.
    augmentation: str
    auto_augment: str = "none"
    random_erasing: float = 0.0  # probability
    # How files became squares; the defaults are for facts that were written without them, and for data sets
    # that are no files.
    resize: Resize | None = None
    transparency: Transparency = "drop"
    samples: tuple[Sample, ...]  # training images, sorted by class

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        classes = len(self.classes)
        if self.selection not in self.images or {len(each) for each in self.images.values()} != {classes}:
            raise ValueError("the counts are not those of the classes")
        if not sum(self.images[self.selection]):
            raise ValueError("a class of the selection split must have images")
        if any(each.label >= classes for each in self.samples):
            raise ValueError("a sample's class does not exist")
        return self

    def describe_samples(self) -> str:
        """Return a sentence on what was done to the samples."""
        how = {
            None: "resized",
            "crop": "cropped to its central square and resized",
            "pad": "resized and padded",
            "squash": "stretched",
        }[self.resize]
        color = self.transparency
        behind = "" if color == "drop" else f", with {color} behind transparent parts"
        size = f"{how} to {self.image_size} by {self.image_size} pixels (image_size){behind}"
        changes = {
            "augmentation": self.augmentation,
            "auto_augment": self.auto_augment,
            "random_erasing": f"{self.random_erasing:g}",
        }
        used = ", ".join(f"{name} {value}" for name, value in changes.items() if value not in ("none", "0"))
        if not used:
            return f"Each is {size}, without augmentation."
        if self.resize is None:  # a data set of pixels, which are resized last
            return f"Each is augmented as in training ({used}), then {size}."
        return f"Each is {size}, and augmented as in training ({used})."
