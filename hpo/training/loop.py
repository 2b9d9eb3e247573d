"""Training as an iterator: no callbacks, no trainer; pruning is leaving the loop.

::

    run = train.Run(config, dataset, device, state=state, stop=stop)
    for epoch in run.epochs():
        ...                      # a finished epoch; leave the loop to end the run
    run.state()                  # all that is needed to go on from here, even within an epoch

A run is a function of its settings and its data: initial weights, the order of images, augmentation and
dropout are drawn from generators seeded anew from (the trial's seed, epoch, step). So no generator's state
has to be kept, and a run that goes on from a state is, on the CPU with the same number of threads,
bit-identical to one that was never interrupted.

Shapes: N images of a batch, C channels, H and W pixels, K classes.
"""

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from hpo.training import events, features, models, optimizers, schedules, transforms
from hpo.training.config import Config, FinalConfig
from hpo.training.datasets import Dataset, Split
from hpo.training.events import Diverged, Epoch
from hpo.training.precision import ComputeSettings

MIN_LAST_BATCH = 4  # images of a last batch


def batch_bounds(images: int, size: int) -> list[tuple[int, int]]:
    """Give each batch's first and past-last place; the last one may be smaller.

    Fewer than ``FEWEST`` images left over join the batch before them. Batch norm cannot normalise one
    value, and two or three make statistics, and a step, that spoil the model: ResNet18 on digits of 32
    pixels fell from 0.9 to 0.1.
    """
    starts = list(range(0, images, size))
    if len(starts) > 1 and images - starts[-1] < min(MIN_LAST_BATCH, size):
        starts.pop()
    return list(zip(starts, [*starts[1:], images], strict=True))


def derive_seed(*parts: int) -> int:
    """Derive a seed below 2**63 from the trial's seed and a place in its training."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class TrainingRun:
    """One training run, from its start or from a state."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        device: torch.device,
        *,
        state: Mapping[str, Any] | None = None,
        stop: threading.Event | None = None,
        wants_pause: Callable[[], bool] = lambda: False,
        compute_settings: ComputeSettings | None = None,
        build_model: Callable[[Config, int, int], nn.Module] = models.build_seeded_model,
        feature_cache: features.FeatureCache | None = None,
    ) -> None:
        self.config = config
        self.device = device
        self.stop = stop or threading.Event()
        self.wants_pause = wants_pause  # asked after every step: whether to leave the loop for a moment
        self.compute_settings = compute_settings or ComputeSettings()
        near = dataset.to_if_it_fits(device)  # itself, where a warm worker has brought it there
        self.train_split, self.selection_split = near.train, near.selection
        self._dataset, self._feature_cache, self._is_initial = dataset, feature_cache, state is None
        self._remaining_layers: nn.Module | None = (
            None  # the layers that features pass through, where there are some
        )
        module = build_model(config, len(dataset.classes), derive_seed(config.seed))
        self.model = self.compute_settings.prepare_model(module.to(device))
        self._compiled_model = self.compute_settings.compile_model(self.model)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.compute_settings.precision == "fp16")
        self.optimizer = optimizers.build_optimizer(config, self.model.parameters())
        self.loss = optimizers.loss_function(config)
        self.batches = batch_bounds(len(self.train_split), config.batch_size)
        self.history: list[Epoch] = []
        self.step = 0  # steps done of the epoch under way
        self.seconds = 0.0  # spent on them
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, correct
        self._first_bad_step = torch.full((), -1, device=device)  # the first step whose loss is not finite
        self._bad_step_reader = _AsyncReader(self._first_bad_step)
        if state is not None:
            self._restore(state)

    @property
    def finished(self) -> bool:
        """Tell whether all epochs are done."""
        return len(self.history) >= self.config.epochs

    @property
    def best_epoch(self) -> Epoch:
        """The epoch of the best accuracy, the first of several."""
        return events.best_epoch(self.history)

    def epochs(self) -> Iterator[Epoch | None]:
        """Train, and give each epoch as it ends, and None within an epoch when it is asked to pause.

        Ends early, at a step's boundary, once told to stop. Raises Diverged, with epoch and step, when the
        loss is no longer finite. That is looked at some twenty times an epoch, at what has come over from
        the device since the last look: nobody waits.
        """
        if not self.finished:
            self._use_features()
        while not self.finished:
            for _ in self._train_epoch():
                yield None
            if self.step < len(self.batches):
                return
            loss_sum, correct = self._sums.tolist()  # the one wait of the epoch's training
            number, count = len(self.history) + 1, len(self.train_split)
            self._raise_if_diverged(number, bad=int(self._first_bad_step))
            started = time.perf_counter()
            measured = number == self.config.epochs or not isinstance(self.config, FinalConfig)
            loss, accuracy = self.evaluate(self.selection_split) if measured else (None, None)
            epoch = Epoch(
                number=number,
                train_loss=loss_sum / count,
                train_accuracy=correct / count,
                loss=loss,
                accuracy=accuracy,
                lr=self._learning_rate(0),
                train_seconds=self.seconds,
                evaluation_seconds=time.perf_counter() - started,
                images_per_second=count / self.seconds,
            )
            self.history.append(epoch)
            self.step, self.seconds = 0, 0.0
            self._sums.zero_()
            yield epoch

    def _use_features(self) -> None:
        """Put features in the place of images, if the frozen layers give the same for an image each time.

        Features that have to be computed first are part of the training: of the epoch under way.
        """
        if self._feature_cache is None:
            return
        started = time.perf_counter()
        with self.compute_settings.precision_context(self.device):
            feed = self._feature_cache.load_or_compute(
                self.config,
                self._dataset,
                self.model,
                self.device,
                preprocess=self._preprocess,
                precision=self.compute_settings.precision,
                is_initial=self._is_initial,
                stop=self.stop,
            )
        if feed is not None:
            self.train_split, self.selection_split, self._remaining_layers = (
                feed.train,
                feed.selection,
                feed.remaining_layers,
            )
            self.seconds += time.perf_counter() - started

    def _train_epoch(self) -> Iterator[None]:
        """Train to the end of the epoch under way, or until told to stop; pause when asked to."""
        number = len(self.history) + 1
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed, number))
        order = torch.randperm(len(self.train_split), generator=generator).to(
            self.train_split.labels.device
        )
        steps = len(self.batches)
        look = min(max(steps // 20, 1), 50)
        models.set_train_mode(self.model, self.config)
        started = time.perf_counter()
        while self.step < steps and not self.stop.is_set():
            first, end = self.batches[self.step]
            self._train_step(number, self.step, order[first:end])
            self.step += 1
            if self.step % look == 0:
                self._raise_if_diverged(number, self._bad_step_reader.read())
            if self.step < steps and self.wants_pause():
                self.seconds += time.perf_counter() - started
                yield
                started = time.perf_counter()
        self.seconds += time.perf_counter() - started

    def _train_step(self, number: int, step: int, chosen: Tensor) -> None:
        seed = derive_seed(self.config.seed, number, step + 1)
        # Dropout, and whatever else a model draws. torch.manual_seed would note a stack trace for each kind
        # of device that is not in use, which takes a third of a head's step.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)
        generator = torch.Generator().manual_seed(seed)
        images_NCHW, labels_N = self.train_split.batch(chosen, self.device)
        augmented = transforms.augment(images_NCHW, self.config.augmentation, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        self.optimizer.zero_grad(set_to_none=True)  # before the forward pass needs memory
        with self.compute_settings.precision_context(self.device):
            whole = len(chosen) == self.config.batch_size
            logits_NK = self._logits(augmented, self._compiled_model if whole else self.model)
            loss = self.loss(logits_NK, labels_N)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch has not annotated it
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            correct = (logits_NK.argmax(1) == labels_N).sum()
            self._sums += torch.stack([loss.double() * len(chosen), correct.double()])
            first_bad = (self._first_bad_step < 0) & ~torch.isfinite(loss)
            self._first_bad_step.masked_fill_(first_bad, step + 1)

    def _logits(self, given: Tensor, module: Callable[[Tensor], Tensor]) -> Tensor:
        """Give logits_NK of images by a form of the model, or of their features by the rest of it."""
        logits_NK: Tensor = (
            module(self._preprocess(given))
            if self._remaining_layers is None
            else self._remaining_layers(given)
        )
        return logits_NK

    def _preprocess(self, images_NCHW: Tensor) -> Tensor:
        resized = transforms.resize(images_NCHW, self.config.image_size)
        return transforms.normalise(self.compute_settings.prepare_batch(resized))

    def _learning_rate(self, step: int) -> float:
        return schedules.learning_rate(self.config, len(self.history) + 1, step, len(self.batches))

    def _raise_if_diverged(self, number: int, bad: int) -> None:
        if bad >= 0:
            raise Diverged(f"loss not finite at epoch {number}, step {bad} of {len(self.batches)}")

    @torch.inference_mode()
    def evaluate(self, split: Split) -> tuple[float, float]:
        """Give mean loss and accuracy (a fraction) over a split, in about four million pixels at a time."""
        size = max(self.config.batch_size, 2**22 // self.config.image_size**2)
        self.model.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        for first, end in batch_bounds(len(split), size):
            images_NCHW, labels_N = split.batch(slice(first, end), self.device)
            with self.compute_settings.precision_context(self.device):
                logits_NK = self._logits(images_NCHW, self.model)
                loss = self.loss(logits_NK, labels_N)
            correct = (logits_NK.argmax(1) == labels_N).sum()
            sums += torch.stack([loss.double() * len(labels_N), correct.double()])
        loss_sum, correct_sum = sums.tolist()
        # A loss of a finished epoch can still overflow in evaluation; a report must be a number.
        return loss_sum / len(split) if math.isfinite(loss_sum) else math.inf, correct_sum / len(split)

    def weights(self) -> Mapping[str, Tensor]:
        """Give the model's weights as they stand, not a copy."""
        return self.model.state_dict()

    def frozen_weights(self) -> set[str]:
        """Give the names of those weights that stay as they are."""
        if self.config.tune == "all":
            return set()
        trained = {name for name, each in self.model.named_parameters() if each.requires_grad}
        return self.weights().keys() - trained

    def state(self) -> dict[str, Any]:
        """Give all that is needed to go on from here: tensors (not copies) and plain values."""
        return {
            "epoch": len(self.history),
            "step": self.step,
            "seconds": self.seconds,
            "sums": self._sums,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),  # empty but under fp16
            "history": [asdict(epoch) for epoch in self.history],
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.step = state["step"]
        self.seconds = state["seconds"]
        self._sums = state["sums"].to(self.device)


class _AsyncReader:
    """What the host has seen of a number on the device: it comes over while the device goes on."""

    def __init__(self, number: Tensor) -> None:
        self.number = number
        if number.is_cuda:
            self._copy = torch.full((), -1, dtype=number.dtype).pin_memory()
            self._arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has not annotated it
            self._under_way = False

    def read(self) -> int:
        """Give the number, on a GPU as it was when last looked at; -1 while that is under way."""
        if not self.number.is_cuda:
            return int(self.number)
        if self._under_way and not self._arrival.query():  # type: ignore[no-untyped-call]  # nor this
            return -1
        seen = int(self._copy)
        self._copy.copy_(self.number, non_blocking=True)
        self._arrival.record()
        self._under_way = True
        return seen
