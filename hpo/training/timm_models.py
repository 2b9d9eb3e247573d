"""Models of timm, which studies name ``timm/NAME``: what they are, and how they are built.

Everything that hpo knows of timm is in this file. It is imported inside the functions that meet such a
name, because that takes seconds, and because timm is optional: without it the import raises a
``DefinitionError``.

**Names.** ``timm/resnet18`` is an architecture. ``timm/resnet18.a1_in1k`` also names pretrained weights, by
timm's tag: those that ``weights = "imagenet"`` stands for, in place of the first that timm has. The option
``weights`` takes a tag as well.

**Image sizes.** A model that is built for one image size, such as a ViT with its position embedding
(``fixed_input_size`` in timm), is built for that of the trial. timm resamples what pretrained weights have
for another size.

**Weights.** timm downloads named weights into the folder of the Hugging Face hub, or of torch. A file goes
through timm's loader, too: it knows the names that a model's authors gave its tensors.

Shape suffixes: N images of a batch, K classes.
"""

import contextlib
import functools
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpo import errors
from hpo.training import catalog, libraries
from hpo.training.config import Config
from hpo.training.weights import FROM_SCRATCH, MissingFile, path_of_url, read_state_dict

try:
    import huggingface_hub
    import timm
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from timm.layers._fx import get_notrace_functions, get_notrace_modules
    from timm.layers.drop import DropPath
    from timm.models import clean_state_dict, get_arch_pretrained_cfgs, group_parameters
    from timm.optim._param_groups import auto_group_layers
except ImportError as missing:
    raise errors.DefinitionError(
        "models of timm need the library timm, which is not installed; install it with: "
        "pip install 'hpo-vision[timm]', or in a checkout: pip install '.[timm]'"
    ) from missing

log = logging.getLogger(__name__)

PROBE_CLASSES = 7  # outputs of a model that is only checked
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # what timm reads in a repository, in this order
REASON_LENGTH = 300  # characters of timm's reason why a file does not fit


def split_name(model: str) -> tuple[str, str]:
    """Return the architecture that ``timm/NAME`` or ``timm/NAME.TAG`` names, and the tag or nothing."""
    architecture, _, tag = model.removeprefix(catalog.TIMM_PREFIX).partition(".")
    return architecture, tag


@functools.cache
def model_names() -> tuple[str, ...]:
    """Return the names of all models, as studies have them, without tags."""
    return tuple(f"{catalog.TIMM_PREFIX}{name}" for name in timm.list_models())


def has_model(model: str) -> bool:
    """Return whether timm has an architecture of this name, which a tag may follow."""
    return f"{catalog.TIMM_PREFIX}{split_name(model)[0]}" in model_names()


def current_name(model: str) -> str | None:
    """Return what timm calls a model now whose name it has given up; None for all others."""
    architecture, tag = split_name(model)
    current = timm.models.get_deprecated_models().get(architecture)
    return f"{catalog.TIMM_PREFIX}{current}" if current and not tag else None


def weights_names(model: str) -> tuple[str, ...]:
    """Return the tags of the weights that timm has for a model; of one that names a tag, this one."""
    architecture, wanted = split_name(model)
    described = get_arch_pretrained_cfgs(architecture).values()
    tags = [each.tag for each in described if each.tag and each.has_weights]
    return tuple(tag for tag in tags if tag == (wanted or tag))


@functools.cache
def all_weights_names() -> frozenset[str]:
    """Return all tags of weights that timm has for any model."""
    return frozenset(name.partition(".")[2] for name in timm.list_pretrained())


def find_weights(model: str, weights: str) -> Any | None:
    """Return timm's description of a model's weights, or None if it has none of this name.

    Args:
        model: One of ``model_names``, which a tag may follow.
        weights: ``imagenet``, or a tag. If the model has a tag, other tags are not its weights.

    Returns:
        A ``PretrainedCfg``.
    """
    architecture, tag = split_name(model)
    if weights == "imagenet":
        found = _described(architecture, tag)
    elif weights in weights_names(model):
        found = _described(architecture, weights)
    else:
        found = None
    return found if found is not None and found.has_weights else None


def _described(architecture: str, tag: str) -> Any | None:
    """Return timm's description of an architecture's weights; of the first ones if there is no tag."""
    if tag:
        return get_arch_pretrained_cfgs(architecture).get(f"{architecture}.{tag}")
    return timm.get_pretrained_cfg(architecture)


def has_dropout(model: str) -> bool:
    """Return whether timm builds the model with dropout before its classifier."""
    return _takes(model, "drop_rate")


def has_stochastic_depth(model: str) -> bool:
    """Return whether timm builds the model with blocks that training leaves out at random."""
    return _takes(model, "drop_path_rate")


@functools.cache
def _takes(model: str, option: str) -> bool:
    try:
        build_on_meta(model, **{option: 0.5})
    except TypeError:
        return False
    return True


@functools.cache
def head_problem(model: str) -> str | None:
    """Return why a model has no last layer that could be replaced, or None if it has one."""
    module = build_on_meta(model)
    if not hasattr(module, "get_classifier"):
        return "is no classifier; use another one"
    heads = module.get_classifier()  # type: ignore[operator]  # a method
    if isinstance(heads, tuple | list):
        return f"has {len(heads)} heads, and hpo trains models with one; use another one"
    return None


def find_head(module: nn.Module) -> tuple[str, nn.Module]:
    """Return the name and the module of a model's last layer, which has one output per class."""
    head = module.get_classifier()  # type: ignore[operator]  # a method of every classifier
    return next((name, each) for name, each in module.named_modules() if each is head)


def build_trained_model(model: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build the layers of a trained model with random weights, as a model card does.

    Args:
        model: One of ``model_names``, which a tag may follow.
        arguments: From ``builder_arguments``.
    """
    module: nn.Module = timm.create_model(split_name(model)[0], **arguments)
    return module


@functools.cache
def image_size_problem(
    model: str, image_size: int, batch_size: int = 2, weights: str = "none"
) -> str | None:
    """Return why a model cannot be trained on such batches, in one line, or None if it can.

    Args:
        model: One of ``model_names``, which a tag may follow.
        image_size: Side of the square images in pixels.
        batch_size: Images per batch.
        weights: The option ``weights``, which decides nothing here.
    """
    try:
        module = build_on_meta(model, **size_options(model, image_size)).train()
        with torch.no_grad():
            logits_NK = module(torch.empty(batch_size, 3, image_size, image_size, device="meta"))
    except Exception as error:  # each model checks its images in its own way
        return str(error).partition("\n")[0] or type(error).__name__
    is_one = isinstance(logits_NK, Tensor) and logits_NK.shape == (batch_size, PROBE_CLASSES)
    return None if is_one else "in training it returns something else than one row of logits per image"


def build_on_meta(model: str, **options: Any) -> nn.Module:
    """Build a model with ``PROBE_CLASSES`` outputs on the meta device: shapes without data.

    Args:
        model: One of ``model_names``, which a tag may follow.
        options: Arguments for timm's builder.
    """
    with warnings.catch_warnings(), catalog.meta_device():
        warnings.simplefilter("ignore")
        module = timm.create_model(split_name(model)[0], num_classes=PROBE_CLASSES, **options)
    return module.to("meta")


def size_options(model: str, image_size: int) -> dict[str, int]:
    """Return the argument of a model's builder that an image size asks for; of most models none."""
    described = timm.get_pretrained_cfg(split_name(model)[0])
    return {"img_size": image_size} if described is not None and described.fixed_input_size else {}


def builder_arguments(
    model: str, classes: int, weights: str = "none", image_size: int = 224
) -> dict[str, bool | int]:
    """Return the arguments with which ``timm.create_model`` makes the layers of a trained model.

    Args:
        model: One of ``model_names``, which a tag may follow.
        classes: Number of outputs.
        weights: The option ``weights``, which decides nothing here.
        image_size: Side of the square images in pixels.
    """
    return {"num_classes": classes, **size_options(model, image_size)}


def described_weights(model: str, weights: str) -> Any | None:
    """Return timm's description of the weights that a trial begins with; None if it has none.

    A file is taken for the weights that the name of the model stands for.

    Args:
        model: One of ``model_names``, which a tag may follow.
        weights: ``imagenet``, a tag or a file.

    Raises:
        WeightsError: If timm has no weights of this name for the model.
    """
    if catalog.is_weights_file(model, weights):
        return _described(*split_name(model))
    return libraries.require_weights(model, weights)


def build_untrained_model(config: Config, classes: int) -> nn.Module:
    """Build the model of a trial with random weights, as timm draws them.

    Args:
        config: The trial's settings.
        classes: Number of outputs.
    """
    return _create(config, num_classes=classes)


def build_initial_model(config: Config, classes: int) -> nn.Module:
    """Build the model of a trial with its initial weights; downloads them if they are missing.

    The last layer is a new one with torch's initialisation. With random weights it has timm's, and a file
    whose last layer has ``classes`` outputs keeps it.

    Args:
        config: The trial's settings.
        classes: Number of outputs.

    Raises:
        WeightsError: If the weights cannot be found, downloaded or read, or belong to another model.
    """
    if config.weights == "none":
        return build_untrained_model(config, classes)
    if catalog.is_weights_file(config.model, config.weights):
        module, outputs = _build_from_file(config, Path(config.weights).expanduser())
    else:
        module, outputs = _build_with_named_weights(config), None
    if outputs != classes:
        module.reset_classifier(classes)  # type: ignore[operator]  # a method
    return module


def _create(config: Config, **options: Any) -> nn.Module:
    """Build a model with the dropout and the stochastic depth of a trial."""
    rates = {"drop_rate": config.dropout, "drop_path_rate": config.drop_path or None}
    options |= {name: rate for name, rate in rates.items() if rate is not None}
    architecture, _ = split_name(config.model)
    options |= size_options(config.model, config.image_size)
    module = timm.create_model(architecture, **options)
    if config.drop_path == 0:
        for layer in module.modules():
            if isinstance(layer, DropPath):  # of a model that has stochastic depth by default
                layer.drop_prob = 0.0
    return module


def _build_with_named_weights(config: Config) -> nn.Module:
    described = libraries.require_weights(config.model, config.weights)
    stored = _stored_file(described)
    # What is there already is not asked for at the hub again.
    overlay = {"file": str(stored)} if stored is not None else {}
    missing = missing_file(config.model, config.weights)
    if missing is not None:
        log.info("downloading %s to %s", missing.url, missing.path.parent)
    source = {"pretrained_cfg": described.tag, "pretrained_cfg_overlay": overlay}
    try:
        with _quiet_hub():
            return _create(config, pretrained=True, **source)
    except Exception as error:  # a damaged file may raise anything
        if missing is None:
            text = (
                f"{stored} is damaged or does not belong to {config.model} ({_reason(error)}); "
                "remove it to download it again"
            )
        elif isinstance(error, OSError):
            text = (
                f"no weights for {config.model}: {missing.path.name} is not in {missing.path.parent} and "
                f"could not be downloaded ({_reason(error.__cause__ or error)}); get {missing.url} and use "
                f"it as a file (--set train.weights=FILE); {FROM_SCRATCH}"
            )
        else:
            raise
        raise errors.WeightsError(text) from error


def _build_from_file(config: Config, path: Path) -> tuple[nn.Module, int]:
    """Return the model with all tensors of a file, and how many outputs the file's last layer has."""
    state = clean_state_dict(read_state_dict(path))
    architecture, tag = split_name(config.model)
    described = _described(architecture, tag)
    layers = getattr(described, "classifier", None) or ()
    names = [f"{layer}.weight" for layer in ([layers] if isinstance(layers, str) else layers)]
    outputs = next((len(state[name]) for name in names if name in state), 0)
    overlay = {"state_dict": state, "num_classes": outputs, "label_offset": 0}
    try:
        module = _create(config, pretrained=True, pretrained_cfg=tag, pretrained_cfg_overlay=overlay)
    except Exception as error:  # timm's filters of old files may raise anything
        raise errors.WeightsError(f"{path} does not fit {config.model}: {_reason(error)}") from error
    del module.pretrained_cfg["state_dict"]  # type: ignore[union-attr, operator]  # a dict
    return module, outputs


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """Hide the hub's progress bars, and what it logs of each attempt: the error at the end says enough."""
    disable_progress_bars()
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """Return why something failed in one line, which for tensors that do not fit may be very long."""
    text = re.sub(r"^Error\(s\) in loading state_dict for \w+: ", "", " ".join(str(error).split()))
    return errors.shorten(text, REASON_LENGTH) or type(error).__name__


def missing_file(model: str, weights: str) -> MissingFile | None:
    """Return the file of a model's named weights if a trial would download it; else None."""
    described = find_weights(model, weights)
    if described is None or _stored_file(described) is not None:
        return None
    if described.hf_hub_id:
        repository, _, revision = described.hf_hub_id.partition("@")
        folder = f"models--{repository.replace('/', '--')}"
        return MissingFile(
            url=huggingface_hub.hf_hub_url(repository, HUB_FILES[0], revision=revision or None),
            path=Path(huggingface_hub.constants.HF_HUB_CACHE, folder),
        )
    return MissingFile(url=described.url, path=path_of_url(described.url))


def _stored_file(described: Any) -> Path | None:
    """Return the file of named weights, or None if it has not been downloaded."""
    if not described.hf_hub_id:
        path = path_of_url(described.url)
        return path if path.exists() else None
    repository, _, revision = described.hf_hub_id.partition("@")
    found = [
        huggingface_hub.try_to_load_from_cache(repository, name, revision=revision or None)
        for name in HUB_FILES
    ]
    return next((Path(each) for each in found if isinstance(each, str)), None)


def layer_depths(module: nn.Module) -> dict[str, int]:
    """Return the layer of each parameter, counted from the stem, as ``param_groups_layer_decay`` does."""
    matcher = getattr(module, "group_matcher", None)
    if matcher is None:
        return dict(auto_group_layers(module))  # type: ignore[no-untyped-call]
    return dict(group_parameters(module, matcher(coarse=False), reverse=True))


def whole_operations() -> tuple[tuple[type[nn.Module], ...], tuple[Callable[..., Any], ...]]:
    """Return the modules and functions that cannot be looked into when a model is traced (``torch.fx``)."""
    modules, functions = get_notrace_modules(), get_notrace_functions()  # type: ignore[no-untyped-call]
    return tuple(modules), tuple(functions)
