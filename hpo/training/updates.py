"""From gradients to new weights: everything of a training step that follows the backward pass.

The gradients of ``config.accumulate_steps`` batches make one step of the optimizer. Each batch counts by
its number of images, so the gradient is that of the mean loss of all these images, as if they were one
batch; where the loss weights classes, each batch is weighted in itself. Batch norms see one batch at a
time. The last batches of an epoch may make a smaller step; no step reaches into the next epoch.

Nothing here waits for a GPU. Where a norm is not finite, the gradients become NaN; with fp16 the scaler has
seen that before and leaves the step out, otherwise the next loss tells.
"""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hpo.training import averaging, models, optimizers, parameter_groups, schedules
from hpo.training.config import Config
from hpo.training.precision import ComputeSettings


class Updates:
    """The optimizer of one training run, with what happens to gradients before it.

    Args:
        config: The trial's settings.
        model: The model, on its device and in its memory format.
        device: Where it is trained.
        compute_settings: Its precision; with fp16 the loss is scaled.
        batches: The bounds of the batches of an epoch, which are the same in every epoch.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        device: torch.device,
        compute_settings: ComputeSettings,
        batches: Sequence[tuple[int, int]],
    ) -> None:
        self.config = config
        self.model = model
        self.compute_settings = compute_settings
        self.scaler = torch.amp.GradScaler(device.type, enabled=compute_settings.precision == "fp16")
        groups = parameter_groups.group_parameters(model, config)
        self._lr_factors = [group.lr_factor for group in groups]
        self.optimizer = optimizers.build_optimizer(config, groups)
        self._batches = batches
        self._freeze_epochs = config.freeze_epochs if config.tune == "all" else 0
        # Without what a network of the user's own has frozen for good.
        self._body: list[nn.Parameter] = []
        if self._freeze_epochs:
            head = set(models.find_head(model, config)[1].parameters())
            trained = itertools.chain(*(group.parameters for group in groups))
            self._body = [parameter for parameter in trained if parameter not in head]
        self.average: averaging.WeightAverage | None = None
        if config.ema_decay is not None:
            frozen = models.frozen_names(model, config)
            self.average = averaging.WeightAverage(model, config.ema_decay, frozen)

    def learning_rate(self, epoch: int, step: int) -> float:
        """Return the learning rate of a batch, before the factors of layers.

        Args:
            epoch: Counted from 1.
            step: The batch, counted from 0 within the epoch.
        """
        size = self.config.accumulate_steps
        return schedules.learning_rate(self.config, epoch, step // size, -(-len(self._batches) // size))

    def begin_epoch(self, epoch: int) -> bool:
        """Freeze the model's body in the first ``config.freeze_epochs`` epochs, and thaw it after them.

        Frozen parameters have no gradients, so the optimizer leaves them and what it knows of them alone.

        Args:
            epoch: Counted from 1.

        Returns:
            Whether the body is frozen.
        """
        is_frozen = epoch <= self._freeze_epochs
        for parameter in self._body:
            parameter.requires_grad_(not is_frozen)
        return is_frozen

    def begin(self, epoch: int, step: int) -> None:
        """Prepare for the forward pass of a batch: set learning rates, and drop gradients that are used up.

        Args:
            epoch: Counted from 1.
            step: The batch, counted from 0 within the epoch.
        """
        if step % self.config.accumulate_steps:
            return
        rate = self.learning_rate(epoch, step)
        for group, factor in zip(self.optimizer.param_groups, self._lr_factors, strict=True):
            group["lr"] = rate * factor
        self.optimizer.zero_grad(set_to_none=True)  # before the forward pass needs memory

    def backward(self, loss: Tensor, step: int) -> None:
        """Add the gradients of a batch.

        Args:
            loss: The mean loss of its images, a scalar tensor.
            step: The batch, counted from 0 within the epoch.
        """
        share = self._share(step)
        weighted = loss if share == 1 else loss * share
        self.scaler.scale(weighted).backward()  # type: ignore[no-untyped-call]  # torch has not annotated it
        is_first = step % self.config.accumulate_steps == 0
        if is_first and share != 1 and self.compute_settings.cuda_graphs:
            # The next replay of the graph would overwrite them; to copies it adds.
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.clone()

    def finish(self, step: int) -> None:
        """Make a step of the optimizer if the batch is the last one of it.

        Args:
            step: The batch, counted from 0 within the epoch.
        """
        if not self._is_last(step):
            return
        if self.config.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update()

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Let the model have the averaged weights within a block, if weights are averaged."""
        return contextlib.nullcontext() if self.average is None else self.average.in_model()

    def _group_bounds(self, step: int) -> tuple[int, int]:
        """Return the first and the past-the-end batch of the optimizer step that a batch belongs to."""
        size = self.config.accumulate_steps
        first = step - step % size
        return first, min(first + size, len(self._batches))

    def _is_last(self, step: int) -> bool:
        return step + 1 == self._group_bounds(step)[1]

    def _share(self, step: int) -> float:
        """Return the share of a batch in the images of its optimizer step."""
        first, end = self._group_bounds(step)
        count = self._batches[step][1] - self._batches[step][0]
        return count / (self._batches[end - 1][1] - self._batches[first][0])

    def state(self, step: int) -> dict[str, Any]:
        """Return what is needed to resume: tensors (not copies) and plain values.

        Args:
            step: The number of finished batches of the epoch. Within an optimizer step there are gradients.
        """
        found: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),  # empty except with fp16
        }
        if self.average is not None:
            found["average"] = self.average.tensors
        if step % self.config.accumulate_steps and step < len(self._batches):
            named = self.model.named_parameters()
            found["gradients"] = {name: each.grad for name, each in named if each.grad is not None}
        return found

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state`` returned; other keys of the mapping are ignored."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load(state["average"])
        parameters = dict(self.model.named_parameters())
        for name, gradient in state.get("gradients", {}).items():
            parameters[name].grad = gradient.to(parameters[name].device, copy=True)
