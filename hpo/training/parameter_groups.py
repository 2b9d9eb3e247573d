"""The groups of a model's parameters that the optimizer treats alike: learning rate and weight decay."""

from dataclasses import dataclass, field

from torch import nn

from hpo.training import catalog, layers, models
from hpo.training.config import Config


@dataclass(frozen=True, kw_only=True, eq=False)
class ParameterGroup:
    """Parameters with the same learning rate and weight decay."""

    lr_factor: float  # by which the learning rate of the schedule is multiplied
    weight_decay: float
    parameters: list[nn.Parameter] = field(default_factory=list)


def group_parameters(module: nn.Module, config: Config) -> list[ParameterGroup]:
    """Group the parameters that are trained, in the order of the model.

    The head has ``config.head_lr_multiplier`` times the learning rate, and with ``config.layer_decay`` each
    layer has that part of the rate of the layer behind it. With ``decay_norms = false``, parameters with
    less than two dimensions, which are those of norms and biases, have no weight decay. These are the rules
    of timm's ``param_groups_layer_decay``.

    Args:
        module: What ``models.build_model`` returned for ``config``.
        config: The trial's settings.

    Returns:
        The groups, which together have each trained parameter once.
    """
    factors = _lr_factors(module, config)
    groups: dict[tuple[float, float], ParameterGroup] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = factors.get(name, 1.0)
        decay = config.weight_decay if config.decay_norms or parameter.ndim > 1 else 0.0
        group = groups.setdefault((factor, decay), ParameterGroup(lr_factor=factor, weight_decay=decay))
        group.parameters.append(parameter)
    return list(groups.values())


def _lr_factors(module: nn.Module, config: Config) -> dict[str, float]:
    """Return the factors on the learning rate by name of the parameter; empty if all are 1."""
    if config.tune == "head" or config.layer_decay == config.head_lr_multiplier == 1:
        return {}
    head, _ = models.find_head(module, config)
    if catalog.is_timm_model(config.model):
        from hpo.training import timm_models

        depths = timm_models.layer_depths(module)
    else:
        depths = layers.layer_depths(module, head)
    last = max(depths.values())
    return {
        name: config.layer_decay ** (last - depth)
        * (config.head_lr_multiplier if name.startswith(f"{head}.") else 1)
        for name, depth in depths.items()
    }
