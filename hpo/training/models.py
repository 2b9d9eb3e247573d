"""Build a model with a new last layer, initial weights, and partly frozen layers.

The model is one of torchvision's, one of timm's, which ``timm_models`` builds, or a network of the user's
own, which ``user_network`` builds.

Initial weights come from ``weights``, which downloads torchvision's weights and reads files.

Shape suffixes: N images of a batch, C channels, H rows, W columns, K classes.
"""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hpo.errors import DefinitionError
from hpo.training import catalog, user_network, weights
from hpo.training.config import Config
from hpo.training.seeds import set_seed

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def build_model(config: Config, classes: int) -> nn.Module:
    """Build the model that ``config`` names, on the CPU.

    Random weights are drawn from torch's global generator, so seed it before. The new last layer has
    torch's default initialisation, unless ``config.weights`` is a file that has one with ``classes``
    outputs. May download a file into torch's folder. A network of the user's own has its own last layer.

    Args:
        config: The trial's settings.
        classes: Number of outputs.

    Returns:
        A module from preprocessed images float [N, 3, H, W] to logits [N, K].

    Raises:
        DefinitionError: If it is a network of the user's own that cannot be built, or does not say which
            layer ``tune = "head"`` trains.
        WeightsError: If the weights cannot be found, downloaded or read, or belong to another model.
    """
    return _apply_settings(_build_initial_model(config, classes), config)


def build_seeded_model(config: Config, classes: int, seed: int) -> nn.Module:
    """Build a model as ``build_model`` does, after seeding the generators of Python, numpy and torch.

    Args:
        config: The trial's settings.
        classes: Number of outputs.
        seed: Seed of the random weights.

    Raises:
        DefinitionError, WeightsError: As ``build_model`` does.
    """
    set_seed(seed)
    return build_model(config, classes)


def build_untrained_model(config: Config, classes: int, seed: int) -> nn.Module:
    """Build what ``build_seeded_model`` does, with random weights in place of pretrained ones.

    So it has the same layers, and nothing is downloaded.

    Args:
        config: The trial's settings.
        classes: Number of outputs.
        seed: Seed of the random weights.

    Raises:
        DefinitionError: As ``build_model`` does.
    """
    set_seed(seed)
    if catalog.is_user_network(config.model) or catalog.is_timm_model(config.model):
        return build_model(config.model_copy(update={"weights": "none"}), classes)
    sizes = catalog.size_options(config.model, config.weights)
    module = catalog.build_torchvision_model(config.model, sizes=sizes)
    _replace_head(module, classes)
    return _apply_settings(module, config)


class InitialModels:
    """A cache of initial models in the host's memory, so that a trial starts by copying one.

    The model used last is always kept, older ones only while all together take at most ``max_bytes``.
    Networks of the user's own are not kept: a copy of one may not work as it does, for example if a hook
    or a method that was set on the original refers to it.
    """

    def __init__(self, max_bytes: int = 2 * 2**30) -> None:
        self.max_bytes = max_bytes
        self.cached: OrderedDict[tuple[Any, ...], nn.Module] = OrderedDict()  # the one used last comes last

    def build_seeded(self, config: Config, classes: int, seed: int) -> nn.Module:
        """Return a model equal to that of ``build_seeded_model``; the caller may change it.

        The generators are seeded only if the model is not cached. A file of weights that has changed is
        read again.

        Args:
            config: The trial's settings.
            classes: Number of outputs.
            seed: Seed of the random weights.

        Raises:
            DefinitionError, WeightsError: As ``build_model`` does.
        """
        if catalog.is_user_network(config.model):
            return build_seeded_model(config, classes, seed)
        key: tuple[Any, ...] = (config.model, _weights_identity(config), classes, seed)
        if catalog.is_timm_model(config.model):  # built with these
            key += (config.image_size, config.dropout, config.drop_path)
        if key not in self.cached:
            set_seed(seed)
            self.cached[key] = _build_initial_model(config, classes)
        self.cached.move_to_end(key)
        while len(self.cached) > 1 and sum(map(_module_nbytes, self.cached.values())) > self.max_bytes:
            self.cached.popitem(last=False)
        return _apply_settings(copy.deepcopy(self.cached[key]), config)


def _weights_identity(config: Config) -> tuple[Any, ...]:
    """Return a key that differs between two files of weights, and before and after a file changes."""
    path = Path(config.weights).expanduser()
    if not catalog.is_weights_file(config.model, config.weights) or not path.is_file():
        return (config.weights,)
    return (config.weights, path.stat().st_mtime_ns, path.stat().st_size)


def _module_nbytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def _build_initial_model(config: Config, classes: int) -> nn.Module:
    """Build the model with its initial weights, before the settings that do not change the weights."""
    if catalog.is_user_network(config.model):
        module = user_network.build_user_network(config.model, classes)
        if config.weights != "none":
            head = user_network.find_head(module, config.model)
            path = Path(config.weights).expanduser()
            weights.load_weights_file(module, config.model, head and head[0], path)
        return module
    if catalog.is_timm_model(config.model):
        from hpo.training import timm_models

        return timm_models.build_initial_model(config, classes)
    if catalog.is_named_weights(config.model, config.weights):
        module = weights.build_with_named_weights(config.model, config.weights)
    else:
        module = catalog.build_torchvision_model(config.model)
    _replace_head(module, classes)
    if catalog.is_weights_file(config.model, config.weights):
        head_name, _ = get_head(module)
        weights.load_weights_file(module, config.model, head_name, Path(config.weights).expanduser())
    return module


def _apply_settings(module: nn.Module, config: Config) -> nn.Module:
    """Set dropout and stochastic depth, and freeze all layers but the last one if ``tune`` is "head"."""
    if not catalog.is_timm_model(config.model):  # which is built with them
        _set_dropout(module, config.dropout)
        _set_drop_path(module, config.drop_path)
    if config.tune == "head":
        module.requires_grad_(False)
        find_head(module, config)[1].requires_grad_(True)
    return module


def find_head(module: nn.Module, config: Config) -> tuple[str, nn.Module]:
    """Return the name and the module of a model's last layer.

    Args:
        module: What ``build_model`` returns for ``config``.
        config: The trial's settings.

    Raises:
        DefinitionError: If it is a network of the user's own that does not say which layer that is.
    """
    if catalog.is_timm_model(config.model):
        from hpo.training import timm_models

        return timm_models.find_head(module)
    if not catalog.is_user_network(config.model):
        return get_head(module)
    head = user_network.find_head(module, config.model)
    if head is None:
        raise DefinitionError(f"train.model: {user_network.describe_missing_head(config.model)}")
    return head


def get_head(module: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Return the name and the module of a torchvision model's last layer, which has one output per class.

    It is the last ``Linear``. Only SqueezeNet has none; it ends in a ``Conv2d``.
    """
    linears, convolutions = [
        [(name, layer) for name, layer in module.named_modules() if isinstance(layer, kind)]
        for kind in (nn.Linear, nn.Conv2d)
    ]
    return (linears or convolutions)[-1]


def frozen_names(module: nn.Module, config: Config) -> set[str]:
    """Return the names of parameters that training never changes; none with ``tune = "all"``.

    Args:
        module: What ``build_model`` returned for ``config``.
        config: The trial's settings.
    """
    if config.tune == "all":
        return set()
    return {name for name, each in module.named_parameters() if not each.requires_grad}


def set_train_mode(module: nn.Module, config: Config, *, is_body_frozen: bool = False) -> None:
    """Put the module into train mode, except the batch norms of frozen layers.

    Their running statistics belong to the frozen weights: with ``tune = "head"``, and while the body is
    frozen for the first epochs, they are used but not updated. timm does so; fastai goes on to train batch
    norms of frozen layers. Dropout and stochastic depth are active in either case.

    Args:
        module: What ``build_model`` returned for ``config``.
        config: The trial's settings.
        is_body_frozen: Whether only the last layer is trained at present, with any ``tune``.
    """
    module.train()
    if is_body_frozen or config.tune == "head":
        for layer in module.modules():
            if isinstance(layer, BATCH_NORMS):
                layer.eval()


def load_saved_weights(module: nn.Module, state: Mapping[str, Tensor], config: Config) -> None:
    """Load the weights of an earlier attempt of the same trial.

    Args:
        module: What ``build_model`` returned for ``config``.
        state: The state dict of the earlier attempt's model.
        config: The trial's settings.

    Raises:
        DefinitionError: If they belong to another network of the user's own: its function has changed.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        if not catalog.is_user_network(config.model):
            raise
        raise DefinitionError(
            f"train.model: '{config.model}' returns another network than when the trial was saved "
            f"({' '.join(str(error).split())[:200]}); restore its code, or begin a new study"
        ) from error


def _replace_head(module: nn.Module, classes: int) -> None:
    name, old = get_head(module)
    has_bias = old.bias is not None
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, classes, bias=has_bias)
    else:
        new = nn.Conv2d(old.in_channels, classes, kernel_size=1, bias=has_bias)
    module.set_submodule(name, new)


def _set_dropout(module: nn.Module, probability: float | None) -> None:
    if probability is None:
        return
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = probability


def _set_drop_path(module: nn.Module, probability: float | None) -> None:
    """Set the probability of stochastic depth for the last block, and for the others in proportion.

    The proportions are the model's own. They rise evenly from 0; EfficientNet's end one block before
    ``probability``.
    """
    if probability is None:
        return
    # Slow to import, and a worker with a custom objective needs neither.
    from torchvision.models import EfficientNet
    from torchvision.ops import StochasticDepth

    layers = [layer for layer in module.modules() if isinstance(layer, StochasticDepth)]
    own = [layer.p for layer in layers]
    if not layers:
        return
    if max(own) == 0:  # a network of the user's own that has it turned off
        own = [float(index) for index in range(len(own))] if len(own) > 1 else [1.0]
    share = 1 - 1 / len(layers) if isinstance(module, EfficientNet) else 1
    for layer, each in zip(layers, own, strict=True):
        layer.p = probability * share * each / max(own)
