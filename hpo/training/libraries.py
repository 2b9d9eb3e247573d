"""The libraries that a study's models come from: torchvision (``catalog``) and timm (``timm_models``).

A network of the user's own comes from neither; where one may, ``catalog.is_user_network`` is asked first.
"""

from typing import Any, Protocol, cast

from hpo import errors
from hpo.training import catalog


class Library(Protocol):
    """What is asked of the module of a library. ``model`` is a name in a study, which the library has."""

    def has_model(self, model: str) -> bool:
        """Return whether the library has a classification model of this name, which may be any."""

    def has_dropout(self, model: str) -> bool:
        """Return whether the model has dropout."""

    def has_stochastic_depth(self, model: str) -> bool:
        """Return whether the model has blocks that training can leave out at random."""

    def find_weights(self, model: str, weights: str) -> Any | None:
        """Return the library's description of a model's named weights, or None if it has none."""

    def weights_names(self, model: str) -> tuple[str, ...]:
        """Return the library's names of the model's weights."""

    def image_size_problem(
        self, model: str, image_size: int, batch_size: int = 2, weights: str = "none"
    ) -> str | None:
        """Return in one line why the model cannot be trained on such batches, or None if it can."""

    def builder_arguments(
        self, model: str, classes: int, weights: str = "none", image_size: int = 224
    ) -> dict[str, bool | int]:
        """Return the arguments with which the library builds the layers of a trained model."""


def library_of(model: str) -> Library:
    """Return the module of the library that a model comes from.

    Raises:
        DefinitionError: If the model is one of timm's, and that is not installed.
    """
    if not catalog.is_timm_model(model):
        return cast(Library, catalog)
    from hpo.training import timm_models  # takes seconds

    return timm_models


def name_of(model: str) -> str:
    """Return the name of the library that a model comes from."""
    return "timm" if catalog.is_timm_model(model) else "torchvision"


def require_weights(model: str, weights: str) -> Any:
    """Return what ``find_weights`` does.

    Raises:
        WeightsError: If there are none of this name: the installed library may be another than where the
            study was checked.
    """
    library = library_of(model)
    entry = library.find_weights(model, weights)
    if entry is None:
        allowed = ", ".join([*library.weights_names(model), '"none" or a file'])
        raise errors.WeightsError(
            f"{name_of(model)} has no weights {errors.quote_value(weights)} for {model}; use {allowed}"
        )
    return entry


def first_accepted_image_size(model: str, weights: str = "none") -> int | None:
    """Return the first of the usual image sizes that a model accepts, or None if it accepts none."""
    find_problem = library_of(model).image_size_problem
    sizes = catalog.USUAL_IMAGE_SIZES
    return next((size for size in sizes if not find_problem(model, size, weights=weights)), None)
