"""Training as an iterator: there are no callbacks and no trainer; to stop a run, leave the loop.

::

    run = loop.TrainingRun(config, dataset, device, state=state, stop=stop)
    for epoch in run.epochs():
        ...                      # a finished epoch; leave the loop to end the run
    run.state()                  # everything that is needed to resume, even within an epoch

**Reproducibility.** A run is a function of its settings and its data. Initial weights, the order of images,
augmentation and dropout use generators that are seeded from (the trial's seed, epoch, step). So no
state of a generator has to be saved. A resumed run on the CPU with the same number of threads is
bit-identical to one that was never interrupted.

Shape suffixes: N images of a batch, C channels, H rows, W columns, K classes.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from hpo.training import (
    augmentation,
    batches,
    events,
    features,
    mixing,
    models,
    optimizers,
    transforms,
    updates,
)
from hpo.training.batches import Split
from hpo.training.config import Config, FinalConfig
from hpo.training.confusion import Confusion
from hpo.training.datasets import Dataset
from hpo.training.evaluation import Answers, Metrics
from hpo.training.events import Diverged, Epoch
from hpo.training.metric import METRICS
from hpo.training.precision import ComputeSettings
from hpo.training.presets import preset_of
from hpo.training.seeds import derive_seed


class TrainingRun:
    """One training run, from its start or from a state.

    Args:
        config: The trial's settings.
        dataset: The images, on the device or on the CPU.
        device: Where the model is trained.
        state: What ``state()`` returned in an earlier attempt; None to start from the beginning.
        stop: When set, ``epochs()`` ends after the step that is running.
        wants_pause: Called after every step except the last of an epoch; if it returns True, ``epochs()``
            yields None.
        compute_settings: Precision, memory format and compilation; None: fp32, contiguous, not compiled.
        build_model: Builds the initial model from (config, number of classes, seed).
        feature_cache: Where the features of frozen layers come from; None: images always pass through the
            whole model.

    Raises:
        DefinitionError: If a network of the user's own cannot be built, or has changed since ``state``.
        WeightsError: If the initial weights cannot be found, downloaded or read.
    """

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
        self.metric = METRICS[config.metric]
        self.device = device
        self.stop = stop or threading.Event()
        self.wants_pause = wants_pause
        self.compute_settings = compute_settings or ComputeSettings()
        self.train_split, self.selection_split = dataset.train, dataset.selection
        self._dataset, self._feature_cache, self._is_initial = dataset, feature_cache, state is None
        self._remaining_layers: nn.Module | None = None  # what features pass through; None: images are used
        module = build_model(config, len(dataset.classes), derive_seed(config.seed))
        self.model = self.compute_settings.prepare_model(module.to(device))
        self._compiled_model = self.compute_settings.compile_model(self.model)
        self.loss = self.selection_loss = optimizers.loss_function(config)
        self._chances_N: Tensor | None = None  # how likely an image is drawn; None: each once an epoch
        if "balanced" in (config.class_weights, config.sampling):
            self._balance_classes()
        self.batches = batches.batch_bounds(len(self.train_split), config.batch_size)
        self.updates = updates.Updates(config, self.model, device, self.compute_settings, self.batches)
        self.history: list[Epoch] = []
        self.confusion: Confusion | None = None  # of the last evaluation in ``epochs()``; None before it
        self.step = 0  # finished steps of the current epoch
        self.seconds = 0.0  # spent on them
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, correct predictions
        # The first step of the epoch whose loss is not finite, counted from 1; -1: none.
        self._first_bad_step = torch.full((), -1, device=device)
        self._bad_step_reader = _AsyncReader(self._first_bad_step)
        if state is not None:
            self._restore(state)

    def _balance_classes(self) -> None:
        """Weight or sample the classes of the training images; ``selection_loss`` stays unweighted."""
        counts_K = self.train_split.count_classes(len(self._dataset.classes))
        weights_K = optimizers.balanced_class_weights(counts_K)
        if self.config.class_weights == "balanced":
            self.loss = optimizers.loss_function(self.config, weights_K.to(self.device))
        if self.config.sampling == "balanced":
            self._chances_N = weights_K[self.train_split.labels.cpu()]

    @property
    def finished(self) -> bool:
        """Whether all epochs are done that are to be trained."""
        return self.stopped_early or len(self.history) >= self.config.epochs

    @property
    def stopped_early(self) -> bool:
        """Whether training ended before its last epoch, since no value was better for long enough."""
        values = {epoch.number: epoch.value for epoch in self.history}
        patience, epochs = self.config.early_stopping, self.config.epochs
        return events.stops_early(values, self.metric, patience=patience, epochs=epochs)

    @property
    def best_epoch(self) -> Epoch:
        """The first epoch with the best value; the last one if none was measured.

        At least one epoch must be done.
        """
        return events.best_epoch(self.history, self.metric)

    def epochs(self) -> Iterator[Epoch | None]:
        """Train, until all epochs are done or, at the end of a step, ``stop`` is set.

        An epoch whose last step is done is evaluated and yielded even if ``stop`` is set. The loss is
        checked at the end of an epoch, and within it after each twentieth of its steps, but at least every
        50 steps. The checks within an epoch do not wait for a GPU: each uses the value that has arrived
        since the check before.

        Yields:
            Each epoch when it ends, and None within an epoch whenever ``wants_pause`` returns True.

        Raises:
            Diverged: If the loss is no longer finite; the message names the epoch and its first such step,
                of those that this run has made.
        """
        if not self.finished:
            self._use_features()
        while not self.finished:
            for _ in self._train_epoch():
                yield None
            if self.step < len(self.batches):
                return
            yield self._end_epoch()

    def _end_epoch(self) -> Epoch:
        """Evaluate, append the epoch to the history, and prepare the next one."""
        loss_sum, correct = self._sums.tolist()  # the only time that training waits for the device
        number, count = len(self.history) + 1, len(self.train_split)
        self._raise_if_diverged(number, bad=int(self._first_bad_step))
        started = time.perf_counter()
        is_measured = number == self.config.epochs or not isinstance(self.config, FinalConfig)
        measured: dict[str, Any] = self._measure_selection() if is_measured else {}
        epoch = Epoch(
            number=number,
            value=self._checked_value(measured, number),
            train_loss=loss_sum / count,
            train_accuracy=correct / count,
            lr=self.updates.learning_rate(number, 0),
            train_seconds=self.seconds,
            evaluation_seconds=time.perf_counter() - started,
            images_per_second=count / self.seconds,
            **measured,
        )
        self.history.append(epoch)
        self.step, self.seconds = 0, 0.0
        self._sums.zero_()
        return epoch

    def _measure_selection(self) -> dict[str, float | None]:
        """Evaluate the selection split, and return the metrics by name."""
        found = self.evaluate(self.selection_split)
        self.confusion = Confusion.from_matrix(
            self._dataset.selection_name, self._dataset.classes, found.confusion
        )
        return found.figures()

    def _checked_value(self, measured: Mapping[str, float | None], number: int) -> float | None:
        """Return what trials are compared by; raise Diverged if it is a loss that is not finite."""
        value = measured.get(self.metric.name)
        if value is not None and not math.isfinite(value):
            raise Diverged(f"loss on the selection split not finite after epoch {number}")
        return value

    def _use_features(self) -> None:
        """Replace images by features, if the frozen layers always give the same output for an image.

        The time to compute them counts as training time of the current epoch.
        """
        if self._feature_cache is None:
            return
        started = time.perf_counter()
        with self.compute_settings.precision_context(self.device):
            feature_splits = self._feature_cache.load_or_compute(
                self.config,
                self._dataset,
                self.model,
                self.device,
                preprocess=self._preprocess,
                precision=self.compute_settings.precision,
                is_initial=self._is_initial,
                stop=self.stop,
            )
        if feature_splits is not None:
            self.train_split, self.selection_split = feature_splits.train, feature_splits.selection
            self._remaining_layers = feature_splits.remaining_layers
            self.seconds += time.perf_counter() - started

    def _train_epoch(self) -> Iterator[None]:
        """Train to the end of the current epoch, or until ``stop`` is set; yield for every pause."""
        number = len(self.history) + 1
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed, number))
        order = self._draw_order(generator).to(self.train_split.labels.device)
        steps = len(self.batches)
        check_interval = min(max(steps // 20, 1), 50)
        is_body_frozen = self.updates.begin_epoch(number)
        models.set_train_mode(self.model, self.config, is_body_frozen=is_body_frozen)
        started = time.perf_counter()
        chosen = (order[first:end] for first, end in self.batches[self.step :])
        with contextlib.closing(batches.read_batches(self.train_split, chosen, self.device)) as read:
            while self.step < steps and not self.stop.is_set():
                self._train_step(number, self.step, *next(read))
                self.step += 1
                if self.step % check_interval == 0:
                    self._raise_if_diverged(number, self._bad_step_reader.read())
                if self.step < steps and self.wants_pause():
                    self.seconds += time.perf_counter() - started
                    yield
                    started = time.perf_counter()
        self.seconds += time.perf_counter() - started

    def _draw_order(self, generator: torch.Generator) -> Tensor:
        """Return the indices of an epoch's images in the order of training, int64 [N]."""
        count = len(self.train_split)
        if self._chances_N is None:
            return torch.randperm(count, generator=generator)
        return torch.multinomial(self._chances_N, count, replacement=True, generator=generator)

    def _train_step(self, number: int, step: int, images_NCHW: Tensor, labels_N: Tensor) -> None:
        """Make one step with a batch on the device; ``step`` is counted from 0."""
        seed = derive_seed(self.config.seed, number, step + 1)
        # For dropout and whatever else a model draws. torch.manual_seed would record a stack trace for each
        # kind of device that is not in use, which takes a third of the time of a step with tune = "head".
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)
        generator = torch.Generator().manual_seed(seed)
        augmented = augmentation.augment(images_NCHW, self.config, generator)
        inputs, targets = mixing.mix(augmented, labels_N, self.config, generator)
        self.updates.begin(number, step)
        with self.compute_settings.precision_context(self.device):
            is_whole = len(labels_N) == self.config.batch_size
            logits_NK = self._logits(inputs, self._compiled_model if is_whole else self.model)
            loss = targets.loss(self.loss, logits_NK)
            self.updates.backward(loss, step)
        self.updates.finish(step)
        with torch.no_grad():
            correct = (logits_NK.argmax(1) == targets.dominant_N).sum()
            self._sums += torch.stack([loss.double() * len(labels_N), correct.double()])
            is_first_bad = (self._first_bad_step < 0) & ~torch.isfinite(loss)
            self._first_bad_step.masked_fill_(is_first_bad, step + 1)

    def _logits(self, inputs: Tensor, module: Callable[[Tensor], Tensor]) -> Tensor:
        """Return logits_NK.

        Args:
            inputs: Images uint8 [N, C, H, W], or features [N, F...] if these are used.
            module: The model or its compiled form; not used for features.
        """
        if self._remaining_layers is None:
            return module(self._preprocess(inputs))
        logits_NK: Tensor = self._remaining_layers(inputs)
        return logits_NK

    def _preprocess(self, images_NCHW: Tensor) -> Tensor:
        """Return the model's input, float32 [N, 3, S, S], of uint8 images with any size."""
        preset = preset_of(self.config)
        resized = transforms.resize(images_NCHW, self.config.image_size, preset.interpolation)
        return transforms.normalise(self.compute_settings.prepare_batch(resized), preset)

    def _raise_if_diverged(self, number: int, bad: int) -> None:
        if bad >= 0:
            raise Diverged(f"training loss not finite at epoch {number}, step {bad} of {len(self.batches)}")

    @torch.inference_mode()
    def evaluate(self, split: Split) -> Metrics:
        """Evaluate the model on a split, with averaged weights if there are any, and leave it in eval mode.

        A batch has about four million pixels, but no fewer images than a training batch.

        Args:
            split: Images, or features if these are used; not empty.

        Returns:
            Its metrics.
        """
        size = max(self.config.batch_size, 2**22 // self.config.image_size**2)
        self.model.eval()
        answers = Answers(len(split), len(self._dataset.classes), self.device)
        parts = [slice(first, end) for first, end in batches.batch_bounds(len(split), size)]
        reading = contextlib.closing(batches.read_batches(split, parts, self.device))
        with self.updates.averaged(), reading as read:
            for part, (inputs, labels_N) in zip(parts, read, strict=True):
                with self.compute_settings.precision_context(self.device):
                    logits_NK = self._logits(inputs, self.model)
                    loss = self.selection_loss(logits_NK, labels_N)
                answers.add(part.start, logits_NK, labels_N, loss)
        return answers.metrics()

    def weights(self) -> Mapping[str, Tensor]:
        """Return the weights that are evaluated, as a state dict with all buffers; not a copy.

        They are the averaged ones if weights are averaged, else the model's own.
        """
        average = self.updates.average
        return self.model.state_dict() | (average.tensors if average is not None else {})

    def frozen_weights(self) -> set[str]:
        """Return the names of parameters that training does not change; none with ``tune = "all"``."""
        return models.frozen_names(self.model, self.config)

    def state(self) -> dict[str, Any]:
        """Return everything that is needed to resume: tensors (not copies) and plain values."""
        return {
            "epoch": len(self.history),
            "step": self.step,
            "seconds": self.seconds,
            "sums": self._sums,
            "first_bad_step": self._first_bad_step,
            "model": self.model.state_dict(),
            **self.updates.state(self.step),
            "history": [asdict(epoch) for epoch in self.history],
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        models.load_saved_weights(self.model, state["model"], self.config)
        self.updates.restore(state)
        self.history = [events.restore_epoch(epoch) for epoch in state["history"]]
        self.step = state["step"]
        self.seconds = state["seconds"]
        self._sums = state["sums"].to(self.device)
        if "first_bad_step" in state:  # version 0.1.0 did not save it
            self._first_bad_step.copy_(state["first_bad_step"])


class _AsyncReader:
    """Reads a number on the device from the host, without waiting for the device."""

    def __init__(self, number: Tensor) -> None:
        self.number = number
        if number.is_cuda:
            self._copy = torch.full((), -1, dtype=number.dtype).pin_memory()
            self._has_arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has not annotated it
            self._is_copying = False

    def read(self) -> int:
        """Return the number; on a GPU its value at the last read, or -1 while that copy is under way."""
        if not self.number.is_cuda:
            return int(self.number)
        if self._is_copying and not self._has_arrived.query():  # type: ignore[no-untyped-call]  # nor this
            return -1
        value = int(self._copy)
        self._copy.copy_(self.number, non_blocking=True)
        self._has_arrived.record()
        self._is_copying = True
        return value
