"""What a worker keeps between trials, so that each trial starts with its arithmetic.

Kept in memory: data sets, on the device if they fit; features of frozen layers; models in their initial
state; the study's precision; what saving a checkpoint costs. Kept in the artifacts, below ``cache/``, for
all workers: decoded images, and which memory format is faster, which is measured once.
"""

import functools
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hpo.artifacts.folders import Artifacts
from hpo.errors import ArtifactError, ImagesChanged
from hpo.store import folders, plan, studies, study_images
from hpo.store.storage import Storage
from hpo.study.definition import Definition
from hpo.training import catalog, data_facts, devices, features, precision
from hpo.training.config import PRECISIONS, SPLIT_OPTIONS, Config, has_own_images, reads_files
from hpo.training.custom_config import CustomConfig
from hpo.training.used_files import ContentHashes, UsedFiles
from hpo.workers.loaded_datasets import LoadedDatasets

if TYPE_CHECKING:
    # torchvision takes a second or two to import. A worker with a custom objective does not need it.
    from hpo.training.datasets import Dataset
    from hpo.training.decoded_cache import DecodedCache
    from hpo.training.models import InitialModels

MIN_STEPS_TO_MEASURE = 1000  # a trial this long is worth the dozen steps that measure the memory formats
LISTING_SHARE = 0.05  # of a waiting worker's time, at most, that goes into listing a folder again
MAX_UNLISTED_SECONDS = 60.0

log = logging.getLogger("hpo")


class WorkerCache:
    """What one worker keeps between trials.

    Args:
        data: The folder of the published data sets.
        artifacts: Where features and measurements are kept for all workers.
        device: The worker's device.
        cache_gb: Gigabytes that the decoded images of all studies may take on this machine's disk.
    """

    def __init__(
        self,
        data: Path,
        artifacts: Artifacts,
        device: torch.device,
        cache_gb: float = devices.DEFAULT_CACHE_GB,
    ) -> None:
        self.data = data
        self.artifacts = artifacts
        self.device = device
        self.cache_gb = cache_gb
        self.precision = "fp32"  # the study's, once prepared
        self.features = features.FeatureCache(artifacts, features.feature_memory_limit(device))
        self._save_seconds: dict[str, float] = {}  # by model: what saving a checkpoint took last
        self._datasets = LoadedDatasets(device)
        self._templates: InitialModels | None = None
        self._formats: dict[str, str] = {}  # by what decides it, as JSON: the memory format
        self._precisions: dict[int, str] = {}  # by study: the precision that its first worker chose
        self._described: set[str] = set()  # names of files about a study's images that exist
        self._listed: set[str] = set()  # published sets of image files that have been found
        self._hashes = ContentHashes()
        # The files that the study has, once they were checked. Their list is JSON: as objects they would
        # take ten times as much memory.
        self._fingerprint: str | None = None
        self._file_list = b""
        self._list_again_at = 0.0  # by the monotonic clock

    def prepare_study(self, storage: Storage, study_id: int, definition: Definition) -> None:
        """Check and load what all trials of a study share, before one is claimed.

        The first worker of a study with the precision ``auto`` chooses one, and stores it for all as an
        attribute of the study. Image files are only listed: they are read at each trial's own size. The
        user's own are compared with those that the study began with, which the first worker stores if
        nobody has. For a custom objective nothing is done. Networks of the user's own are imported.

        Raises:
            DefinitionError: If a network of the user's own cannot be imported here.
            ImagesChanged: If a folder or list has other images than those that the study began with.
            DataError: If the data set cannot be loaded.
            DeviceError: If the device does not support the study's precision, or compiling.
            StoreError: If the chosen precision, or which images there are, cannot be stored.
            ArtifactError: If the list of the images cannot be written.
        """
        settings = definition.trial_config({})
        if isinstance(settings, CustomConfig):
            return
        for model in sorted(filter(catalog.is_user_network, definition.models())):
            from hpo.training import user_network

            user_network.check_importable(model)
        self.precision = self._study_precision(storage, study_id, settings)
        precision.check_precision(self.precision, self.device)
        precision.check_compile(settings, self.device)
        if not reads_files(settings.dataset):
            self.load_dataset(settings)
        elif has_own_images(settings.dataset):
            self._check_files(storage, definition, settings)
        elif settings.dataset not in self._listed:
            from hpo.training import drawn_images

            drawn_images.find_source(settings, self.data)
            self._listed.add(settings.dataset)

    def _check_files(self, storage: Storage, definition: Definition, settings: Config) -> None:
        """Compare the user's own files with those that the study began with; list them if nobody has.

        A waiting worker comes here twice a second. Many files are not listed again each time; should they
        change in between, ``load_dataset`` notices.
        """
        from hpo.training import drawn_images

        known, began = study_images.read_images(storage, definition), time.monotonic()
        is_known = self._fingerprint is not None and known.fingerprint == self._fingerprint
        if is_known and began < self._list_again_at:
            return
        found = drawn_images.list_used_files(settings, self.data, self._hashes)
        took = time.monotonic() - began
        self._list_again_at = began + took + min(took / LISTING_SHARE, MAX_UNLISTED_SECONDS)
        if known.fingerprint in (None, found.fingerprint) and known.study == definition.name:
            self._write_list(folders.own_folder(storage, definition.name), found)
        if known.fingerprint is None:
            known = study_images.set_images_once(storage, definition, found.fingerprint)
        if known.fingerprint != found.fingerprint:
            raise study_images.changed_error(storage, self.artifacts, definition, found)
        if not is_known:  # those that were read may be others, of which the study had run no epoch
            self._datasets.clear()
        self._fingerprint, self._file_list = found.fingerprint, found.dump()

    def _write_list(self, study_folder: str, files: UsedFiles) -> None:
        name = study_images.list_name(study_folder, files.fingerprint)
        try:
            if self.artifacts.read_or_none(name, end=1) is None:
                self.artifacts.write(name, files.dump())
        except OSError as error:
            raise ArtifactError(f"{self.artifacts.path(name)}: {error.strerror or error}") from error

    def _study_precision(self, storage: Storage, study_id: int, settings: Config) -> str:
        if settings.precision != "auto":
            return settings.precision
        if study_id not in self._precisions:  # asked once: it locks the study, and idle workers come here
            own = precision.default_precision(self.device)
            self._precisions[study_id] = studies.set_attribute_once(
                storage, study_id, plan.PRECISION, own, PRECISIONS
            )
        return self._precisions[study_id]

    def expected_save_seconds(self, config: Config | CustomConfig) -> float:
        """Return the seconds that saving a trial of the same model took last; 0 if unknown.

        The states of a custom objective may have any size, so their cost is unknown before the first save.
        """
        return 0.0 if isinstance(config, CustomConfig) else self._save_seconds.get(config.model, 0.0)

    def note_save_seconds(self, config: Config | CustomConfig, seconds: float) -> None:
        """Remember how many seconds the last save of a trial took, for later trials of the same model.

        The cost of a custom objective's saves is not remembered.
        """
        if not isinstance(config, CustomConfig):
            self._save_seconds[config.model] = seconds

    def fetch_weights(self, config: Config | CustomConfig) -> None:
        """Download the named weights of a trial's model unless they are here.

        So a trial that cannot have them fails before its images are decoded, which may take minutes.

        Raises:
            WeightsError: If they cannot be downloaded or read.
        """
        if isinstance(config, CustomConfig):
            return
        from hpo.training import models, weights

        if weights.missing_files([(config.model, config.weights)]):
            models.build_model(config, classes=2)

    def load_dataset(self, config: Config) -> "Dataset":
        """Return a trial's data set, on the device if it fits there; it stays in memory for later trials.

        Raises:
            ImagesChanged: If a folder's images changed since ``prepare_study``.
            DataError: If it cannot be loaded.
            CacheUnusable: If the study demands that decoded images are on the disk, and they cannot be.
            StopRequested: If the worker is asked to stop while images are decoded.
        """
        from hpo.training import datasets, image_files

        key: tuple[Any, ...] = tuple(getattr(config, name) for name in ("dataset", *SPLIT_OPTIONS))
        if reads_files(config.dataset):  # weights may decide how files are read
            key += (config.corrupt, *image_files.readings_of(config))
        if (found := self._datasets.find(key)) is None:
            loaded = datasets.load_dataset(config, self.data, self._decoded_cache)
            if self._fingerprint is not None and has_own_images(config.dataset):
                self._check_unchanged(config, self._fingerprint)
            found = self._datasets.add(key, loaded)
        return found

    @functools.cached_property
    def _decoded_cache(self) -> "DecodedCache":
        from hpo.training.decoded_cache import DecodedCache, cache_folder

        max_bytes = int(self.cache_gb * 1e9)
        return DecodedCache(cache_folder(self.artifacts), max_bytes, self._hashes, self.artifacts.stop)

    def _check_unchanged(self, config: Config, fingerprint: str) -> None:
        """Refuse a folder of which a file changed since the check, so that what was read may be another."""
        from hpo.training import drawn_images

        now = drawn_images.list_used_files(config, self.data, self._hashes)
        if now.fingerprint == fingerprint:
            return
        before = UsedFiles.load(self._file_list, fingerprint)
        assert before is not None
        raise ImagesChanged(
            f"{config.dataset}: its images changed while the study ran: "
            f"{before.describe_changes(now)}. Results on different images cannot be compared: restore "
            "the images"
        )

    def write_data_facts(self, study_folder: str, config: Config) -> None:
        """Write what a report says about a study's images to its folder, unless it is there.

        Each worker asks for the file once.

        Args:
            study_folder: The folder of the study in the artifacts.
            config: The settings of a trial of the study.

        Raises:
            ArtifactError: If artifacts behind a URL cannot be read or written.
            OSError: If local artifacts cannot be read or written.
            DataError: If the data set cannot be loaded.
        """
        from hpo.training import samples

        name = f"{study_folder}/{data_facts.FILE_NAME}"
        if name in self._described:
            return
        if self.artifacts.read_or_none(name, end=1) is None:
            facts = samples.describe_images(self.load_dataset(config), config)
            self.artifacts.write(name, facts.model_dump_json().encode())
        self._described.add(name)

    @property
    def templates(self) -> "InitialModels":
        """The models in their initial state, of which each trial gets a copy."""
        if self._templates is None:
            from hpo.training import models

            self._templates = models.InitialModels()
        return self._templates

    def choose_memory_format(self, config: Config, trial_precision: str) -> str:
        """Return the memory format of a new trial: the one it asks for, or the faster one.

        A trial of fewer than ``MIN_STEPS_TO_MEASURE`` steps takes a known measurement, or else
        ``contiguous``. A longer one measures the formats unless that is known, and writes the result to the
        artifacts. Where the measurement runs out of memory the result is ``contiguous``, for this worker
        alone: another one may have more memory left.

        Args:
            config: The settings of the trial.
            trial_precision: The precision that the trial computes in.

        Returns:
            ``contiguous`` or ``channels_last``.

        Raises:
            ArtifactError: If artifacts behind a URL cannot be read or written.
            OSError: If local artifacts cannot be read or written.
            DataError: If the data set cannot be loaded.
            WeightsError: If the initial weights of the model to measure cannot be loaded.
        """
        if config.memory_format != "auto":
            return config.memory_format
        kind = self._measurement_kind(config, trial_precision)
        text = json.dumps(kind)
        if text not in self._formats:
            name = f"cache/memory_format/{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
            known = self.artifacts.read_or_none(name)
            if known is None:
                steps = math.ceil(len(self.load_dataset(config).train) / config.batch_size) * config.epochs
                if steps < MIN_STEPS_TO_MEASURE:
                    return "contiguous"
                try:
                    chosen, seconds = self._measure_formats(config, trial_precision)
                except torch.OutOfMemoryError:  # two models at once; the trial itself may fit
                    self._formats[text] = "contiguous"
                    return "contiguous"
                known = json.dumps({**kind, "step_seconds": seconds, "memory_format": chosen}).encode()
                self.artifacts.write(name, known)
            self._formats[text] = str(json.loads(known)["memory_format"])
        return self._formats[text]

    def _measurement_kind(self, config: Config, trial_precision: str) -> dict[str, Any]:
        """Return everything that may decide which memory format is faster."""
        return {
            "model": config.model,
            "image_size": config.image_size,
            "batch_size": config.batch_size,
            "tune": config.tune,
            "precision": trial_precision,
            "device": devices.device_name(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def _measure_formats(self, config: Config, trial_precision: str) -> tuple[str, dict[str, float]]:
        """Return the faster memory format, and the seconds of a step in each."""
        return precision.faster_memory_format(self._build_step(config, trial_precision), self.device)

    def _build_step(self, config: Config, trial_precision: str) -> Callable[[str], None]:
        """Return a function that makes one forward and backward pass in the memory format of a name."""
        from hpo.training import models, optimizers

        classes = len(self.load_dataset(config).classes)
        settings, modules = {}, {}
        for name in precision.MEMORY_FORMATS:
            settings[name] = precision.ComputeSettings(precision=trial_precision, memory_format=name)
            module = self.templates.build_seeded(config, classes, 0).to(self.device)
            modules[name] = settings[name].prepare_model(module)
            models.set_train_mode(module, config)
        size = (config.batch_size, 3, config.image_size, config.image_size)
        images_NCHW = torch.rand(size, device=self.device)
        labels_N = torch.zeros(config.batch_size, dtype=torch.int64, device=self.device)
        loss_function = optimizers.loss_function(config)

        def step(name: str) -> None:
            modules[name].zero_grad(set_to_none=True)
            with settings[name].precision_context(self.device):
                logits_NK = modules[name](settings[name].prepare_batch(images_NCHW))
                loss_function(logits_NK, labels_N).backward()  # type: ignore[no-untyped-call]  # not annotated in torch

        return step
