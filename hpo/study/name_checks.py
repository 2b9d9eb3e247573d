"""Checks of names in a study file that are known only at run time: of data sets, models and weights.

Each check raises a ``DefinitionError`` of one line. Its arguments are the name, the study file as error
messages name it, and the full name of the option.
"""

import contextlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from hpo.errors import DefinitionError, most_similar, quote_value, suggestion
from hpo.training import catalog, config

DATASET_PATTERN = rf"^(?:{'|'.join(config.DATASETS)}|(?:{'|'.join(config.OWN_DATASETS)})[\s\S]+)$"
# The most common values of the option weights, to which misspelt ones are compared.
WEIGHTS = ("imagenet", "none", "IMAGENET1K_V1", "IMAGENET1K_V2", "DEFAULT")


def _check_dataset(name: str, where: str, key: str) -> None:
    if not re.fullmatch(DATASET_PATTERN, name):
        allowed = (*config.DATASETS, *config.OWN_DATASETS.values())
        if is_folder(name):
            hint = f"; did you mean {quote_value(f'folder:{name}')}?"
        else:
            hint = suggestion(config.OWN_DATASETS.get(name, name), allowed) or ";"
        raise DefinitionError(
            f"{where}: {key}: found {quote_value(name)}{hint} allowed: {', '.join(allowed)}"
        )


def _check_model_name(name: str, where: str, key: str) -> None:
    if catalog.is_user_network(name):
        if not re.fullmatch(config.FUNCTION_PATTERN, name):
            raise DefinitionError(
                f"{where}: {key}: found {quote_value(name)}; a network of your own is named "
                "package.module:function"
            )
        return  # check_trainable imports it
    if catalog.is_timm_model(name):
        _check_timm_name(name, where, key)
        return
    # The first condition alone is enough for most studies and does not import torchvision.
    if name not in catalog.SMALLEST_IMAGE_SIZES and name not in catalog.model_names():
        near = _most_similar_model(name)
        hint = f"; did you mean '{near}'?" if near else ";"
        raise DefinitionError(
            f"{where}: {key}: torchvision has no classification model {quote_value(name)}{hint} "
            "some it has: alexnet, vgg16, resnet18, resnet50, mobilenet_v3_small, efficientnet_b0, "
            "vit_b_16; a model of timm is named timm/NAME, a network of your own package.module:function"
        )


def _check_timm_name(name: str, where: str, key: str) -> None:
    try:
        from hpo.training import timm_models  # optional, and takes seconds
    except DefinitionError as error:
        raise DefinitionError(f"{where}: {key}: {error}") from error

    architecture, tag = timm_models.split_name(name)
    plain = f"{catalog.TIMM_PREFIX}{architecture}"
    if plain not in timm_models.model_names():
        near = timm_models.current_name(plain) or most_similar(plain, timm_models.model_names())
        hint = f"; did you mean '{near}'?" if near else ";"
        raise DefinitionError(
            f"{where}: {key}: timm has no model {quote_value(architecture)}{hint} "
            "timm.list_models() in Python lists those it has"
        )
    if tag and tag not in (tags := timm_models.weights_names(plain)):
        raise DefinitionError(
            f"{where}: {key}: timm has no weights {quote_value(tag)} for {plain}"
            f"{suggestion(tag, tags) or ';'} it has {', '.join(tags) or 'none'}"
        )


def _most_similar_model(name: str) -> str | None:
    """Return the most similar model of torchvision, or of timm if that is installed; None if none is."""
    names = {each: each for each in catalog.model_names()}
    with contextlib.suppress(DefinitionError):
        from hpo.training import timm_models

        timms = timm_models.model_names()
        short = {each.removeprefix(catalog.TIMM_PREFIX): each for each in timms}
        names = dict(zip(timms, timms, strict=True)) | short | names
    near = most_similar(name, names)
    return near and names[near]


def _check_weights(name: str, where: str, key: str) -> None:
    """Refuse what is neither a file nor a name that any model's weights may have."""
    if name in WEIGHTS or is_file(name) or re.fullmatch(catalog.WEIGHTS_PATTERN, name) or _is_tag(name):
        return
    raise DefinitionError(
        f"{where}: {key}: found {quote_value(name)}, and there is no such file"
        f"{suggestion(name, WEIGHTS) or ';'} allowed: imagenet, none, torchvision's name of weights "
        "(such as IMAGENET1K_V2 or DEFAULT), timm's tag, or the path of a file"
    )


def _is_tag(name: str) -> bool:
    """Return whether timm has weights of this name for any model; False if it is not installed."""
    if not re.fullmatch(catalog.TAG_PATTERN, name):
        return False
    try:
        from hpo.training import timm_models
    except DefinitionError:
        return False
    return name in timm_models.all_weights_names()


NAME_CHECKS: Mapping[str, Callable[[str, str, str], None]] = {
    "dataset": _check_dataset,
    "model": _check_model_name,
    "weights": _check_weights,
}


def is_file(path: str) -> bool:
    """Return whether there is a file at a path, which may begin with ``~``; False for unknown users."""
    try:
        return Path(path).expanduser().is_file()
    except (RuntimeError, OSError):
        return False


def is_folder(path: str) -> bool:
    """Return whether there is a folder at a path, which may begin with ``~``; False for unknown users."""
    try:
        return path != "" and Path(path).expanduser().is_dir()
    except (RuntimeError, OSError):
        return False
