"""What a worker keeps between trials, so that each starts where its arithmetic does.

Data sets, decoded and on the device; features of frozen layers; models as they start; the study's
precision; and which memory format is faster, which is measured once for all workers and remembered in the
artifacts, below ``cache/``.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hpo.artifacts.folders import Artifacts
from hpo.store import plan, studies
from hpo.store.storage import Storage
from hpo.study.definition import Definition
from hpo.training import features
from hpo.training import precision as numerics
from hpo.training.config import Config, CustomConfig

if TYPE_CHECKING:
    # torchvision takes a second or two, which a worker of a person's own objective does without.
    from hpo.training.datasets import Dataset
    from hpo.training.models import InitialModels

MIN_STEPS_TO_MEASURE = (
    1000  # of a trial, from which on it is worth some twelve to find the faster memory format
)

log = logging.getLogger("hpo")


class WorkerCache:
    """What one worker keeps."""

    def __init__(self, data: Path, artifacts: Artifacts, device: torch.device) -> None:
        self.data = data
        self.artifacts = artifacts
        self.device = device
        self.precision = "fp32"  # the study's, once prepared
        self.save_seconds: dict[str, float] = {}  # by model: what writing a checkpoint of it took last
        self.features = features.FeatureCache(artifacts, features.feature_memory_limit(device))
        self._datasets: dict[tuple[Any, ...], Dataset] = {}
        self._templates: InitialModels | None = None
        self._formats: dict[str, str] = {}
        self._precisions: dict[int, str] = {}  # by study: the precision that its first worker chose

    def prepare_study(self, storage: Storage, study_id: int, definition: Definition) -> None:
        """Make sure of what all trials of a study share, before one is claimed.

        Raises DataError if the data cannot be had, DeviceError if the device is not for its precision. Of
        pictures in a folder, which are read at each trial's own size, only the folder is looked for.
        """
        settings = definition.trial_config({})
        if isinstance(settings, CustomConfig):
            return
        wanted: str = settings.precision
        if wanted == "auto":
            if study_id not in self._precisions:  # asked once: it locks the study, and a worker idles here
                usual = numerics.default_precision(self.device)
                self._precisions[study_id] = studies.set_attribute_once(
                    storage, study_id, plan.PRECISION, usual
                )
            wanted = self._precisions[study_id]
        numerics.check_precision(wanted, self.device)
        numerics.check_compile(settings, self.device)
        self.precision = wanted
        if settings.dataset.startswith("folder:"):
            from hpo.training import datasets

            datasets.check_folder(settings)
        else:
            self.load_dataset(settings)

    def load_dataset(self, config: Config) -> "Dataset":
        """Give a trial's data set, on the device if it fits there; raises DataError if it cannot be had."""
        from hpo.training import datasets

        size = config.image_size if config.dataset.startswith("folder:") else None
        key = (
            config.dataset,
            config.limit,
            config.valid_fraction,
            config.split_seed,
            config.selection,
            size,
        )
        if key not in self._datasets:
            self._datasets[key] = datasets.load_dataset(config, self.data).to_if_it_fits(self.device)
        return self._datasets[key]

    @property
    def templates(self) -> "InitialModels":
        """The models as they start."""
        if self._templates is None:
            from hpo.training import models

            self._templates = models.InitialModels()
        return self._templates

    def choose_memory_format(self, config: Config, precision: str) -> str:
        """Give a new trial its memory format: the faster one, if the trial is long enough to measure it."""
        if config.memory_format != "auto":
            return config.memory_format
        kind = {
            "model": config.model,
            "image_size": config.image_size,
            "batch_size": config.batch_size,
            "tune": config.tune,
            "precision": precision,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        text = json.dumps(kind)
        if text not in self._formats:
            name = f"cache/memory_format/{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
            known = self.artifacts.read_or_none(name)
            if known is None:
                steps = math.ceil(len(self.load_dataset(config).train) / config.batch_size) * config.epochs
                if steps < MIN_STEPS_TO_MEASURE:
                    return "contiguous"
                chosen, seconds = self._measure_formats(config, precision)
                known = json.dumps({**kind, "step_seconds": seconds, "memory_format": chosen}).encode()
                self.artifacts.write(name, known)
            self._formats[text] = str(json.loads(known)["memory_format"])
        return self._formats[text]

    def _measure_formats(self, config: Config, precision: str) -> tuple[str, dict[str, float]]:
        try:
            return numerics.faster_memory_format(self._build_step(config, precision), self.device)
        except torch.OutOfMemoryError:  # two models at once; the trial itself may fit
            return "contiguous", {}

    def _build_step(self, config: Config, precision: str) -> Callable[[str], None]:
        """Give a function that makes one forward and backward pass in a format."""
        from hpo.training import models, optimizers

        classes = len(self.load_dataset(config).classes)
        ways, modules = {}, {}
        for name in numerics.MEMORY_FORMATS:
            ways[name] = numerics.ComputeSettings(precision=precision, memory_format=name)
            module = self.templates.build_seeded(config, classes, 0).to(self.device)
            modules[name] = ways[name].prepare_model(module)
            models.set_train_mode(module, config)
        size = (config.batch_size, 3, config.image_size, config.image_size)
        images_NCHW = torch.rand(size, device=self.device)
        labels_N = torch.zeros(config.batch_size, dtype=torch.int64, device=self.device)
        loss = optimizers.loss_function(config)

        def step(name: str) -> None:
            modules[name].zero_grad(set_to_none=True)
            with ways[name].precision_context(self.device):
                loss(modules[name](ways[name].prepare_batch(images_NCHW)), labels_N).backward()  # type: ignore[no-untyped-call]  # torch has not annotated it

        return step
