"""The optimizer and the loss that a configuration names.

Shape suffixes: N images of a batch, K classes.
"""

import functools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpo.config import Config

Loss = Callable[[Tensor, Tensor], Tensor]


def build(config: Config, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Give the optimizer over those of ``parameters`` that are trained, at ``config.lr``.

    What no option names is torch's default. Nesterov's step needs momentum, and is left out without.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    rate, decay, momentum = config.lr, config.weight_decay, config.momentum
    match config.optimizer:
        case "sgd":
            nesterov = config.nesterov and momentum > 0
            return torch.optim.SGD(
                trained, lr=rate, momentum=momentum, nesterov=nesterov, weight_decay=decay
            )
        case "adam":
            return torch.optim.Adam(trained, lr=rate, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(trained, lr=rate, weight_decay=decay)
        case "rmsprop":
            return torch.optim.RMSprop(trained, lr=rate, momentum=momentum, weight_decay=decay)


def loss(config: Config) -> Loss:
    """Give the function from logits_NK and labels_N to the mean loss of the batch, a scalar."""
    if config.loss == "multi_margin":
        return functional.multi_margin_loss
    return functools.partial(functional.cross_entropy, label_smoothing=config.label_smoothing)
