"""Initial weights of a model: torchvision's ImageNet weights, downloaded once, or a file of the user's.

What a model of timm's makes of them is in ``timm_models``.

**ImageNet weights** are kept where torchvision keeps them, in ``$TORCH_HOME/hub/checkpoints``. The protocol
for workers that start together: a worker that does not find the file takes the lock on ``FILE.lock``
(flock, so the kernel releases it if the worker dies), checks again, and downloads only if the file is still
missing. torch writes to a temporary name, checks the SHA-256 prefix that the file's name contains, and
renames the file. A worker that is killed while it downloads leaves a ``.partial`` file, which nothing
reads.

**Files** are ``.safetensors`` or saved by ``torch.save``. They hold a state dict, or a dict that has one
under "state_dict" or "model".
"""

import argparse
import fcntl
import hashlib
import http.client
import logging
import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from hpo import errors
from hpo.training import catalog, libraries

log = logging.getLogger(__name__)

# What to do without pretrained weights: a frozen body of random weights would learn next to nothing.
FROM_SCRATCH = "to train all layers from scratch instead: --set train.weights=none --set train.tune=all"

# torchvision's DenseNet files are older than the rule that the name of a module contains no dot.
DENSENET_KEY = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)")


def build_with_named_weights(model: str, weights: str) -> nn.Module:
    """Build a model with torchvision's weights and its 1000-class head; downloads them if missing.

    A download leaves the file and ``FILE.lock`` in torch's folder.

    Args:
        model: One of ``catalog.model_names()``.
        weights: ``imagenet``, or torchvision's name.

    Raises:
        WeightsError: If there are none of this name, or they cannot be downloaded, or the file cannot be
            loaded and its hash is wrong. If the hash is right, torch's error passes through.
    """
    entry = libraries.require_weights(model, weights)
    path = path_of_url(entry.url)
    if not path.exists():
        _download_weights(model, entry.url, path)
    try:
        return catalog.build_torchvision_model(model, entry)
    except Exception as error:  # a damaged pickle may raise anything
        if _has_right_hash(path):
            raise
        raise errors.WeightsError(
            f"{path} is damaged or does not belong to {model} ({_first_sentence(error)}); remove it to "
            "download it again"
        ) from error


@dataclass(frozen=True, kw_only=True)
class MissingFile:
    """A file of named weights that is not on this machine yet."""

    url: str
    path: Path  # where a trial puts it: the file, or a folder of the Hugging Face hub
    megabytes: float | None = None  # None: not known


def missing_files(kinds: Iterable[tuple[str, str]]) -> list[MissingFile]:
    """Return the files of weights that trials will download.

    Args:
        kinds: Models with their option ``weights``; what is no name of weights, or not one of the model's,
            is skipped.
    """
    named = [each for each in kinds if catalog.is_named_weights(*each)]
    found = [_missing_file(model, weights) for model, weights in named]
    return list(dict.fromkeys(each for each in found if each is not None))


def _missing_file(model: str, weights: str) -> MissingFile | None:
    if catalog.is_timm_model(model):
        from hpo.training import timm_models

        return timm_models.missing_file(model, weights)
    entry = catalog.find_weights(model, weights)
    if entry is None or (path := path_of_url(entry.url)).exists():
        return None
    return MissingFile(url=entry.url, path=path, megabytes=entry.meta["_file_size"])


def describe_missing(missing: Sequence[MissingFile]) -> str:
    """Return in one line which files are missing, how large they are, and where each belongs."""
    folders: dict[Path, list[str]] = {}
    for each in missing:
        size = "" if each.megabytes is None else f" ({each.megabytes:,.0f} MB)"
        folders.setdefault(each.path.parent, []).append(f"{each.path.name}{size}")
    listed = (f"not yet in {folder}: {errors.join_names(files, 10)}" for folder, files in folders.items())
    return "; ".join(listed)


def path_of_url(url: str) -> Path:
    """Return where torch keeps the file that it downloads from a URL."""
    return Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])


def _download_weights(model: str, url: str, path: Path) -> None:
    """Download ``url`` to ``path``, unless another worker did so while this one waited for the lock."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                log.info("downloading %s to %s", url, path)
                torch.hub.download_url_to_file(url, str(path), _hash_prefix(path), progress=False)
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        raise errors.WeightsError(
            f"no ImageNet weights for {model}: {path.name} is not in {path.parent} and could not be "
            f"downloaded ({_first_sentence(error)}); get {url} and put it there; {FROM_SCRATCH}"
        ) from error


def _has_right_hash(path: Path) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(_hash_prefix(path))


def _hash_prefix(path: Path) -> str:
    return path.stem.rpartition("-")[2]


NO_HEAD_HINT = "let the network have get_classifier(), so that a file may have another last layer"

# torch names so the first type in a file that only a pickle that may run code can load.
_REFUSED_TYPE = re.compile(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)")


def load_weights_file(module: nn.Module, model: str, head_name: str | None, path: Path) -> None:
    """Load a state dict into a module, but for a last layer that is missing or has other outputs.

    The module's last layer then keeps its new weights.

    Args:
        module: The model, with a last layer for its own number of classes; not to be used after an error.
        model: Name of the model, for messages.
        head_name: Name of the last layer within ``module``; None if it is not known: the file must then
            have all tensors.
        path: A file of weights.

    Raises:
        WeightsError: If the file does not exist, cannot be read, or holds no state dict; or if this lacks
            or adds tensors, or has other shapes.
    """
    own = module.state_dict()
    state = read_state_dict(path, own.keys())
    head = {key: tensor for key, tensor in own.items() if head_name and key.startswith(f"{head_name}.")}
    shared = [key for key in head if key in state]
    if not shared or any(state[key].shape[:1] != own[key].shape[:1] for key in shared):
        state.update(head)
    wrong = [
        f"{key} is {_shape_text(tensor)} instead of {_shape_text(own[key])}"
        for key, tensor in state.items()
        if key in own and tensor.shape != own[key].shape
    ]
    hint = "" if head_name else f"; {NO_HEAD_HINT}"
    if wrong:
        raise errors.WeightsError(f"{path} does not fit {model}: {errors.join_names(wrong)}{hint}")
    missing, unexpected = module.load_state_dict(state, strict=False)
    faults = [f"it lacks {errors.join_names(missing)}"] if missing else []
    faults += [f"it has unexpected {errors.join_names(unexpected)}"] if unexpected else []
    if faults:
        raise errors.WeightsError(f"{path} does not fit {model}: {'; '.join(faults)}{hint}")


def read_state_dict(path: Path, own_keys: Collection[str] = ()) -> OrderedDict[str, Tensor]:
    """Read a state dict, and rename keys that the model lacks to those of the current libraries.

    Args:
        path: A file of weights.
        own_keys: The names of the model's tensors.

    Raises:
        WeightsError: If the file does not exist, cannot be read, or holds no state dict.
    """
    if not path.is_file():
        near = errors.suggestion(str(path), ("imagenet", "DEFAULT", "none")) or ";"
        raise errors.WeightsError(
            f"weights: no file {path}{near} allowed: imagenet, none, a name of torchvision's, or a file"
        )
    try:
        content = _read_weights_file(path)
    except Exception as error:  # a damaged pickle may raise anything
        if refused := _REFUSED_TYPE.search(str(error)):
            raise errors.WeightsError(
                f"{path} contains a {refused[1]}, which is not loaded because it could run code; "
                "save the tensors alone: torch.save(model.state_dict(), FILE)"
            ) from error
        raise errors.WeightsError(
            f"{path} cannot be read ({_first_sentence(error)}); "
            "it must be .safetensors or saved by torch.save"
        ) from error
    if not _is_state_dict(content):
        raise errors.WeightsError(
            f"{path} holds no state dict: it must be one, or a dict with one as 'state_dict' or 'model'"
        )
    state = OrderedDict(
        (key if key in own_keys else DENSENET_KEY.sub(r"\1\2", key), tensor)
        for key, tensor in content.items()
    )
    # Layers recognise old files by a version. MNASNet rejects a state dict without one, and .safetensors
    # cannot contain any: such a file is assumed to have version 2, that of torchvision's own files.
    state._metadata = getattr(content, "_metadata", {"": {"version": 2}})  # type: ignore[attr-defined]
    return state


def _read_weights_file(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    # timm's checkpoints contain the arguments that they were trained with.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    for name in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            return content[name]
    return content


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, Mapping) and all(
        isinstance(key, str) and isinstance(entry, Tensor) for key, entry in content.items()
    )


def _shape_text(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _first_sentence(error: Exception) -> str:
    """Return the first sentence of torch's message, which may be very long."""
    return str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
