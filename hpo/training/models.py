"""A torchvision model with a new last layer: built, filled with weights, and partly frozen.

Shape suffixes: N images of a batch, C channels, H rows, W columns, K classes.

ImageNet weights lie where torchvision keeps them, in $TORCH_HOME/hub/checkpoints, and are downloaded
there once. The worker that finds none takes the lock of `FILE.lock` (flock, so the kernel frees it when
the worker dies), looks again, and only then downloads; torch writes to a file of its own name, checks
the SHA-256 prefix in the file's name, and renames. A worker killed while it downloads leaves a
`.partial` file, which nothing reads.
"""

import copy
import fcntl
import hashlib
import http.client
import logging
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from hpo import errors
from hpo.training import catalog
from hpo.training.config import Config

log = logging.getLogger(__name__)

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

# torchvision's DenseNet files are older than the rule that a module's name holds no dot.
DENSENET_KEY = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)")


def build_model(config: Config, classes: int) -> nn.Module:
    """Give ``config.model`` with ``classes`` outputs, on the CPU: images_NCHW to logits_NK.

    Random weights are drawn from torch's global generator: seed it before. The new last layer has
    torch's default initialisation, unless a file of weights has one with ``classes`` outputs. Raises
    ``WeightsError`` if the weights cannot be found, downloaded or read, or are not this model's. May
    download a file into torch's folder.
    """
    return _apply_settings(_build_initial_model(config, classes), config)


def build_seeded_model(config: Config, classes: int, seed: int) -> nn.Module:
    """Give ``build``'s module with what is random in it drawn from ``seed``."""
    torch.manual_seed(seed)
    return build_model(config, classes)


class InitialModels:
    """Modules as they start, kept in the host's memory, so that a trial starts by copying one.

    The one used last is kept in any case, others while all take less than ``most`` bytes.
    """

    def __init__(self, max_bytes: int = 2 * 2**30) -> None:
        self.max_bytes = max_bytes
        self.cached: OrderedDict[tuple[Any, ...], nn.Module] = (
            OrderedDict()
        )  # the one used last is the last

    def build_seeded(self, config: Config, classes: int, seed: int) -> nn.Module:
        """Give what ``model.seeded`` gives, a module of the caller's own."""
        key = (config.model, _weights_identity(config.weights), classes, seed)
        if key not in self.cached:
            torch.manual_seed(seed)
            self.cached[key] = _build_initial_model(config, classes)
        self.cached.move_to_end(key)
        while len(self.cached) > 1 and sum(map(_module_nbytes, self.cached.values())) > self.max_bytes:
            self.cached.popitem(last=False)
        return _apply_settings(copy.deepcopy(self.cached[key]), config)


def _weights_identity(weights: str) -> tuple[Any, ...]:
    """Tell a file of weights from another, or from itself after a change."""
    path = Path(weights).expanduser()
    if weights in ("imagenet", "none") or not path.is_file():
        return (weights,)
    return (weights, path.stat().st_mtime_ns, path.stat().st_size)


def _module_nbytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def _build_initial_model(config: Config, classes: int) -> nn.Module:
    """Give the module with the weights that it starts from: what all settings of it share."""
    module = (
        _build_with_imagenet_weights(config.model)
        if config.weights == "imagenet"
        else catalog.build_torchvision_model(config.model)
    )
    _replace_head(module, classes)
    if config.weights not in ("imagenet", "none"):
        _load_weights_file(module, config.model, Path(config.weights).expanduser())
    return module


def _apply_settings(module: nn.Module, config: Config) -> nn.Module:
    """Give the module with its setting's dropout, and frozen as it says."""
    _set_dropout(module, config.dropout)
    if config.tune == "head":
        module.requires_grad_(False)
        get_head(module)[1].requires_grad_(True)
    return module


def get_head(module: nn.Module) -> tuple[str, nn.Module]:
    """Give the name and the module of the last layer, the one that has an output for each class.

    That is the last ``Linear``; only SqueezeNet has none, and ends in a ``Conv2d``.
    """
    name, last = _head(module)
    return name, last


def set_train_mode(module: nn.Module, config: Config) -> None:
    """Put the module into train mode, but for the batch norms of a part that is frozen.

    Their running statistics belong to the frozen weights: with ``tune = "head"`` they are used, not
    changed. Dropout and stochastic depth are on in either case.
    """
    module.train()
    if config.tune == "head":
        for layer in module.modules():
            if isinstance(layer, BATCH_NORMS):
                layer.eval()


def _head(module: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    linears, convolutions = [
        [(name, layer) for name, layer in module.named_modules() if isinstance(layer, kind)]
        for kind in (nn.Linear, nn.Conv2d)
    ]
    return (linears or convolutions)[-1]


def _replace_head(module: nn.Module, classes: int) -> None:
    name, old = _head(module)
    biased = old.bias is not None
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, classes, bias=biased)
    else:
        new = nn.Conv2d(old.in_channels, classes, kernel_size=1, bias=biased)
    module.set_submodule(name, new)


def _set_dropout(module: nn.Module, probability: float | None) -> None:
    if probability is None:
        return
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = probability


# ImageNet weights


def _build_with_imagenet_weights(model: str) -> nn.Module:
    entry = catalog.imagenet_weights(model)
    if entry is None:
        raise errors.WeightsError(
            f'torchvision has no ImageNet weights of {model}; use weights = "none" or a file'
        )
    path = Path(torch.hub.get_dir(), "checkpoints", entry.url.rpartition("/")[2])
    if not path.exists():
        _download_weights(model, entry.url, path)
    try:
        return catalog.build_torchvision_model(model, entry)
    except Exception as error:  # a damaged pickle may raise anything
        if _has_right_hash(path):
            raise
        raise errors.WeightsError(
            f"{path} is damaged or not {model}'s ({_first_sentence(error)}); remove it, and it is downloaded again"
        ) from error


def _download_weights(model: str, url: str, path: Path) -> None:
    """Download ``url`` to ``path``, unless another worker has done so by the time it is our turn."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                log.info("downloading %s to %s", url, path)
                torch.hub.download_url_to_file(url, str(path), _hash_prefix(path), progress=False)
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        raise errors.WeightsError(
            f"no ImageNet weights of {model}: {path.name} is not in {path.parent} and could not be "
            f'downloaded ({_first_sentence(error)}); get {url} and put it there, or use weights = "none"'
        ) from error


def _has_right_hash(path: Path) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(_hash_prefix(path))


def _hash_prefix(path: Path) -> str:
    return path.stem.rpartition("-")[2]


# Weights from a file


def _load_weights_file(module: nn.Module, model: str, path: Path) -> None:
    """Load the state dict in ``path``; a last layer with another number of outputs stays new."""
    state = _read_state_dict(path)
    own = module.state_dict()
    name, _ = _head(module)
    weight, bias = f"{name}.weight", f"{name}.bias"
    if weight in state and state[weight].shape[:1] != own[weight].shape[:1]:
        state.update({key: own[key] for key in (weight, bias) if key in own})
    wrong = [
        f"{key} is {_shape_text(tensor)} instead of {_shape_text(own[key])}"
        for key, tensor in state.items()
        if key in own and tensor.shape != own[key].shape
    ]
    if wrong:
        raise errors.WeightsError(f"{path} does not fit {model}: {_join_first_three(wrong)}")
    missing, unexpected = module.load_state_dict(state, strict=False)
    faults = [f"it lacks {_join_first_three(missing)}"] if missing else []
    faults += [f"it has unexpected {_join_first_three(unexpected)}"] if unexpected else []
    if faults:
        raise errors.WeightsError(f"{path} does not fit {model}: {'; '.join(faults)}")


def _read_state_dict(path: Path) -> OrderedDict[str, Tensor]:
    """Read a state dict, its keys as today's torchvision has them."""
    if not path.is_file():
        near = errors.suggestion(str(path), ("imagenet", "none")) or ";"
        raise errors.WeightsError(f"weights: no file {path}{near} allowed: imagenet, none, or a file")
    try:
        content = _read_weights_file(path)
    except Exception as error:  # a damaged pickle may raise anything
        raise errors.WeightsError(
            f"{path} cannot be read ({_first_sentence(error)}); it must be .safetensors or saved by torch.save"
        ) from error
    if not _is_state_dict(content):
        raise errors.WeightsError(
            f"{path} holds no state dict: it must be one, or a dict with one as 'state_dict' or 'model'"
        )
    state = OrderedDict((DENSENET_KEY.sub(r"\1\2", key), tensor) for key, tensor in content.items())
    # Versions by which layers know old files. MNASNet refuses a state dict that names none, and
    # .safetensors cannot: those are taken for its version 2, the one of torchvision's files.
    state._metadata = getattr(content, "_metadata", {"": {"version": 2}})  # type: ignore[attr-defined]
    return state


def _read_weights_file(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    for name in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            return content[name]
    return content


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, Mapping) and all(
        isinstance(key, str) and isinstance(entry, Tensor) for key, entry in content.items()
    )


def _join_first_three(names: list[str]) -> str:
    """Name the first three, and say how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _shape_text(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _first_sentence(error: Exception) -> str:
    """Give the first sentence of torch's message, which may go on for a screen."""
    return str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
