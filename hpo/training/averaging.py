"""The moving average of a model's weights over the steps of the optimizer.

After each step the average moves towards the weights: average = decay * average + (1 - decay) * weights. It
begins with the initial weights, and has no warm-up, as timm's ModelEmaV3 has none by default. The running
statistics of batch norms are averaged in the same way; whole numbers, such as their counters, are copied.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """The moving average of the weights of one model, on its device.

    Args:
        model: The model, with its initial weights.
        decay: Above 0 and below 1; the average spans about 1 / (1 - decay) steps.
        frozen: Names of parameters that do not change, which are left out.
    """

    def __init__(self, model: nn.Module, decay: float, frozen: Collection[str]) -> None:
        self._current = {name: each for name, each in model.state_dict().items() if name not in frozen}
        self.tensors = {name: each.clone() for name, each in self._current.items()}
        # In pairs: the average, and the model's own tensor.
        pairs = list(zip(self.tensors.values(), self._current.values(), strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]
        self._step = 1 - decay

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the model's weights; does not wait for a GPU."""
        averages, weights = map(list, zip(*self._averaged, strict=True))
        torch._foreach_lerp_(averages, weights, self._step)
        for average, value in self._copied:
            average.copy_(value)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from the ``tensors`` of an earlier average of the same model."""
        _copy_all(tensors, self.tensors)

    @contextlib.contextmanager
    def in_model(self) -> Iterator[None]:
        """Let the model have the averaged weights within the block; its own ones come back after it.

        The model's tensors stay the same and get other values, so whatever shares them sees the average.
        """
        own = {name: each.clone() for name, each in self._current.items()}
        _copy_all(self.tensors, self._current)
        try:
            yield
        finally:
            _copy_all(own, self._current)


@torch.no_grad()
def _copy_all(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, each in target.items():
        each.copy_(source[name])
