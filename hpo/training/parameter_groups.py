"""The groups of a model's parameters that the optimizer treats alike: learning rate and weight decay."""

from dataclasses import dataclass, field

from torch import nn

from hpo.training import models
from hpo.training.config import Config


@dataclass(frozen=True, kw_only=True, eq=False)
class ParameterGroup:
    """Parameters with the same learning rate and weight decay."""

    lr_factor: float  # by which the learning rate of the schedule is multiplied
    weight_decay: float
    parameters: list[nn.Parameter] = field(default_factory=list)


def group_parameters(module: nn.Module, config: Config) -> list[ParameterGroup]:
    """Group the parameters that are trained, in the order of the model.

    With ``decay_norms = false`` those of less than two dimensions, which are the ones of norms and biases,
    have no weight decay. That is timm's rule.

    Args:
        module: What ``models.build_model`` returned for ``config``.
        config: The trial's settings.

    Returns:
        The groups, which together have each trained parameter once.
    """
    head = models.find_head(module, config) if config.head_lr_multiplier != 1 else None
    groups: dict[tuple[float, float], ParameterGroup] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        is_head = head is not None and name.startswith(f"{head[0]}.")
        factor = config.head_lr_multiplier if is_head else 1.0
        decay = config.weight_decay if config.decay_norms or parameter.ndim > 1 else 0.0
        group = groups.setdefault((factor, decay), ParameterGroup(lr_factor=factor, weight_decay=decay))
        group.parameters.append(parameter)
    return list(groups.values())
