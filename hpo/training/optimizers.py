"""The optimizer and the loss that a configuration names.

Shape suffixes: N images of a batch, K classes.
"""

import functools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpo.training.config import Config

LossFunction = Callable[[Tensor, Tensor], Tensor]


def build_optimizer(config: Config, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Give the optimizer over those of ``parameters`` that are trained, at ``config.lr``.

    What no option names is torch's default, but for one fused kernel for all tensors, four to six times
    as fast on a CPU. The results differ from the plain ones by units in the last place.
    Nesterov's step needs momentum, and is left out without.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    rate, decay, momentum = config.lr, config.weight_decay, config.momentum
    match config.optimizer:
        case "sgd":
            nesterov = config.nesterov and momentum > 0
            sgd = torch.optim.SGD(
                trained, lr=rate, momentum=momentum, nesterov=nesterov, weight_decay=decay, fused=True
            )
            for parameter in trained if momentum else ():
                # What torch's first step makes; but if fp16's scaler skips that one, torch's kernel leaves
                # the buffer as the memory was.
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            return sgd
        case "adam":
            return torch.optim.Adam(trained, lr=rate, weight_decay=decay, fused=True)
        case "adamw":
            return torch.optim.AdamW(trained, lr=rate, weight_decay=decay, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(trained, lr=rate, momentum=momentum, weight_decay=decay)


def loss_function(config: Config) -> LossFunction:
    """Give the function from logits_NK and labels_N to the mean loss of the batch, a scalar."""
    if config.loss == "multi_margin":
        return functional.multi_margin_loss
    return functools.partial(functional.cross_entropy, label_smoothing=config.label_smoothing)
