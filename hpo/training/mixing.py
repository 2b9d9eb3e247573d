"""Mixup and CutMix: each image of a batch is mixed with another one, and so are their labels.

As in torchvision's reference training (``v2.MixUp``, ``v2.CutMix`` and, with both, ``v2.RandomChoice``): a
batch has one share, drawn from Beta(alpha, alpha), an image is mixed with the one before it, and with both
options each batch gets one of the two with probability 1/2.

Shape suffixes: N images of a batch, C channels, H rows, W columns, K classes.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hpo.training.config import Config
from hpo.training.optimizers import LossFunction


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """What a batch is compared with: one label for each image, or two with a share of each."""

    labels_N: Tensor  # int64
    others_N: Tensor | None = None  # labels of the images that were mixed in; None: nothing was
    share: float = 1.0  # of the first labels; the rest is that of the others

    def loss(self, function: LossFunction, logits_NK: Tensor) -> Tensor:
        """Return the mean loss of the batch: with two labels, the mean of both by their shares.

        For cross entropy, with or without smoothing and class weights, that is the loss for a target with
        both probabilities. The class weights of a batch have the same sum for both labels.
        """
        loss = function(logits_NK, self.labels_N)
        if self.others_N is None:
            return loss
        return self.share * loss + (1.0 - self.share) * function(logits_NK, self.others_N)

    @property
    def dominant_N(self) -> Tensor:
        """The label with the larger share."""
        return self.labels_N if self.others_N is None or self.share >= 0.5 else self.others_N


def mix(
    images_NCHW: Tensor, labels_N: Tensor, config: Config, generator: torch.Generator
) -> tuple[Tensor, Targets]:
    """Mix each image with the one before it, as ``mixup_alpha`` and ``cutmix_alpha`` say.

    Args:
        images_NCHW: uint8, on any device.
        labels_N: int64.
        config: The trial's settings.
        generator: On the CPU; nothing is drawn from it if both options are 0.

    Returns:
        uint8 [N, C, H, W], and what to compare the model's answers with.
    """
    mixup, cutmix = config.mixup_alpha, config.cutmix_alpha
    if not mixup and not cutmix:
        return images_NCHW, Targets(labels_N=labels_N)
    # torch's Beta distribution takes no generator.
    rng = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))
    does_cut = bool(cutmix) and (not mixup or rng.random() < 0.5)
    alpha = cutmix if does_cut else mixup
    share = float(rng.beta(alpha, alpha))
    if does_cut:
        mixed, share = _cut_in(images_NCHW, share, rng)
    else:
        # Rounded, because images stay uint8.
        mixed = (images_NCHW * share + images_NCHW.roll(1, 0) * (1.0 - share)).round().to(torch.uint8)
    return mixed, Targets(labels_N=labels_N, others_N=labels_N.roll(1, 0), share=share)


def _cut_in(images_NCHW: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Replace a box by that of the image before; return also the share that is left of the image."""
    height, width = images_NCHW.shape[2:]
    x, y = int(rng.integers(width)), int(rng.integers(height))
    half = 0.5 * math.sqrt(1.0 - share)
    top, bottom = max(y - int(half * height), 0), min(y + int(half * height), height)
    left, right = max(x - int(half * width), 0), min(x + int(half * width), width)
    mixed = images_NCHW.clone()
    mixed[..., top:bottom, left:right] = images_NCHW.roll(1, 0)[..., top:bottom, left:right]
    return mixed, 1.0 - (bottom - top) * (right - left) / (height * width)
