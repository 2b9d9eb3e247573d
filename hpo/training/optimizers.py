"""The optimizer and the loss that a configuration names.

Shape suffixes: N images of a batch, K classes.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from hpo.training.config import Config
from hpo.training.parameter_groups import ParameterGroup

LossFunction = Callable[[Tensor, Tensor], Tensor]  # (logits_NK, labels_N) to the batch's mean loss


def build_optimizer(config: Config, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
    """Return the optimizer that ``config`` names, with the learning rate ``config.lr`` for all groups.

    Settings without an option have torch's defaults, with one exception: one fused kernel updates all
    tensors, which is four to six times as fast on a CPU. Its results differ from those of the plain
    kernels by units in the last place. RMSprop has no such kernel. Nesterov's step needs momentum; without
    momentum it is turned off.

    Args:
        config: The trial's settings.
        groups: The parameters that are trained, and their weight decay.
    """
    trained = [{"params": group.parameters, "weight_decay": group.weight_decay} for group in groups]
    rate, decay, momentum = config.lr, config.weight_decay, config.momentum
    match config.optimizer:
        case "sgd":
            nesterov = config.nesterov and momentum > 0
            sgd = torch.optim.SGD(
                trained, lr=rate, momentum=momentum, nesterov=nesterov, weight_decay=decay, fused=True
            )
            for parameter in itertools.chain(*(group.parameters for group in groups)) if momentum else ():
                # torch's first step creates this buffer. But if fp16's scaler skips that step, the fused
                # kernel leaves the buffer uninitialised.
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            return sgd
        case "adam":
            return torch.optim.Adam(trained, lr=rate, weight_decay=decay, fused=True)
        case "adamw":
            return torch.optim.AdamW(trained, lr=rate, weight_decay=decay, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(trained, lr=rate, momentum=momentum, weight_decay=decay)


def loss_function(config: Config, weights_K: Tensor | None = None) -> LossFunction:
    """Return the loss that ``config`` names.

    Args:
        config: The trial's settings.
        weights_K: How much an image of each class counts, float32; None: all count the same.

    Returns:
        A function of logits_NK (float) and labels_N (int64) that returns the mean loss of the batch, a
        scalar tensor. With weights it is the weighted mean; for ``multi_margin``, as in torch, the sum of
        the weighted losses by the number of images.
    """
    match config.loss:
        case "multi_margin":
            return functools.partial(functional.multi_margin_loss, weight=weights_K)
        case "focal":
            return functools.partial(focal_loss, gamma=config.focal_gamma, weights_K=weights_K)
        case "cross_entropy":
            return functools.partial(
                functional.cross_entropy, weight=weights_K, label_smoothing=config.label_smoothing
            )


def focal_loss(
    logits_NK: Tensor, labels_N: Tensor, *, gamma: float, weights_K: Tensor | None = None
) -> Tensor:
    """Return the mean of (1 - p) ** gamma * -log(p), where p is the probability of an image's class.

    Images that are classified well count little. Source: Lin et al. 2017, Focal Loss for Dense Object
    Detection, arXiv 1708.02002.

    Args:
        logits_NK: The model's outputs.
        labels_N: Class indices, int64.
        gamma: 0 gives the cross entropy.
        weights_K: How much an image of each class counts; None: all count the same.
    """
    log_p_N = functional.log_softmax(logits_NK.float(), 1).gather(1, labels_N[:, None])[:, 0]
    # 1 - p without rounding; the root of 0, for a gamma below 1, would have no gradient.
    rest_N = (-torch.expm1(log_p_N)).clamp(min=torch.finfo(torch.float32).tiny)
    losses_N = rest_N**gamma * -log_p_N
    if weights_K is None:
        return losses_N.mean()
    weights_N = weights_K[labels_N]
    return (weights_N * losses_N).sum() / weights_N.sum()


def balanced_class_weights(counts_K: Tensor) -> Tensor:
    """Return the weights with which every class counts the same, as scikit-learn's "balanced".

    Args:
        counts_K: The number of training images of each class, int64.

    Returns:
        Float32 [K], N / (K' * images of the class), where K' classes have images; 0 for the others.
    """
    present = int((counts_K > 0).sum())
    return torch.where(counts_K > 0, int(counts_K.sum()) / (present * counts_K.clamp(min=1)), 0.0).float()
