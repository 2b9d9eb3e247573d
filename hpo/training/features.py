"""Features: the outputs of frozen layers, computed once for all epochs, trials and workers.

If only the last layer is trained, and images are not augmented, then everything before the model's cut (see
``frozen``) gives the same output for an image in every epoch. This output, the image's features, is
computed once for each split. A split is processed in parts of ``IMAGES_PER_PART`` images. Each part is a
file in the artifacts, so that a worker that is stopped loses only the part it is working on::

    cache/features/<key>-0003.safetensors      the fourth part

**Validity.** The key is the SHA-256 of everything that determines the features: the split's pixels, the
image size, the preset (see ``presets``), the frozen layers with their weights, the precision. So a file
never becomes outdated, and the folder may be deleted at any time. A file contains a hash of its own
content; a damaged file is computed again. The code of a network of the user's own may change at any time:
its features have no files.

**Concurrency.** Workers that compute the same features at the same time start at different random parts,
and take parts that others have finished meanwhile from the files. If two workers write the same file,
either one is right.

**Memory.** A worker keeps features in memory between trials, up to a limit; those that were not used for
longest are dropped first, but only after new ones are complete. Features that exceed the limit are not
computed at all: images then pass through the whole model as usual.

**Results.** The losses of a run on features equal those of a run on images up to floating-point rounding,
because a batch of another size may be summed in another order. Dropout draws the same random numbers,
because no operation before the cut draws any.

Shape suffixes: N images of a split or a batch, C channels, H rows, W columns, F... the dimensions of one
image's features.
"""

import hashlib
import json
import logging
import random
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from hpo.artifacts.folders import Artifacts
from hpo.errors import ArtifactError
from hpo.training import catalog, devices, frozen
from hpo.training.config import Config, is_augmented
from hpo.training.presets import preset_of

if TYPE_CHECKING:
    # They import torchvision, which takes seconds.
    from hpo.training.batches import Split
    from hpo.training.datasets import Dataset

log = logging.getLogger("hpo")

FOLDER = "cache/features"
IMAGES_PER_PART = 1024
BATCH_SIZES = {"cpu": 16, "cuda": 64}  # images computed at once; a worker can stop between two batches
KEY_VERSION = 1  # increased with any change of the code that changes features

Preprocess = Callable[[Tensor], Tensor]  # uint8 [N, C, H, W] to the model's input, float [N, 3, S, S]


def feature_memory_limit(device: torch.device) -> int:
    """Return how many bytes of features one worker may keep on a device.

    On a GPU that is an eighth of its memory. On the CPU it is half of the machine's memory, shared by as
    many workers as there are cores.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 8
    return devices.memory_bytes() // 2 // devices.core_count()


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSplits:
    """Features instead of images, and the layers that they pass through instead of the whole model."""

    train: "Split"  # its ``images`` are features, float [N, F...]
    selection: "Split"
    remaining_layers: nn.Module  # features [N, F...] to logits [N, K]


class FeatureCache:
    """One worker's source of features: its memory, then the files in the artifacts, then computation.

    A file that cannot be read or written is only logged.

    Args:
        artifacts: Where the files are.
        max_bytes: How many bytes of features may be kept in the device's memory; twice as many while new
            ones are computed.
    """

    def __init__(self, artifacts: Artifacts, max_bytes: int) -> None:
        self.artifacts = artifacts
        self.max_bytes = max_bytes
        self.in_memory: OrderedDict[str, Tensor] = OrderedDict()  # by key, on the device; used last is last
        self._frozen_parts: dict[tuple[Any, ...], frozen.FrozenPart | None] = {}
        self._weight_digests: dict[tuple[str, str, int | None, str], str] = {}
        self._pixel_digests: weakref.WeakKeyDictionary[Split, str] = weakref.WeakKeyDictionary()

    def load_or_compute(
        self,
        config: Config,
        dataset: "Dataset",
        module: nn.Module,
        device: torch.device,
        *,
        preprocess: Preprocess,
        precision: str,
        is_initial: bool,
        stop: threading.Event,
    ) -> FeatureSplits | None:
        """Return the features of the training and selection splits, and the layers behind the cut.

        Each part that is computed becomes a file. May leave the module in another mode.

        Args:
            config: The trial's settings.
            dataset: The images.
            module: The model, on ``device``.
            device: Where the features are computed and kept.
            preprocess: What turns a batch of images into the model's input.
            precision: fp32, tf32, bf16 or fp16; the caller has already activated it.
            is_initial: Whether the module has its initial weights, not those of a checkpoint.
            stop: When set, the computation ends at the next batch; finished parts are kept.

        Returns:
            None if images have to pass through the whole model: all layers are trained, the model cannot be
            cut, images are augmented, both splits together exceed ``max_bytes``, or ``stop`` was set.
        """
        if config.tune != "head" or is_augmented(config):
            return None
        frozen_part = self._frozen_part(config, module, preprocess, device)
        splits = (dataset.train, dataset.selection)
        if frozen_part is None or sum(map(len, splits)) * frozen_part.bytes_per_image > self.max_bytes:
            return None
        frozen_layers, remaining_layers = frozen_part.split_module(module)
        module.eval()
        layers_digest = self._layers_digest(config, frozen_part, frozen_layers, is_initial)
        feature_splits = []
        for split in splits:
            key = self._features_key(config, frozen_part, layers_digest, split, precision)
            computation = _FeatureComputation(split.images, frozen_layers, preprocess, device, stop)
            features = self._split_features(config, key, computation)
            if features is None:
                return None
            feature_splits.append(_replace_images(split, features))
        self._evict()
        train, selection = feature_splits
        return FeatureSplits(train=train, selection=selection, remaining_layers=remaining_layers)

    def _frozen_part(
        self, config: Config, module: nn.Module, preprocess: Preprocess, device: torch.device
    ) -> frozen.FrozenPart | None:
        # A function of the user's own may draw the form of its network at random.
        seed = config.seed if catalog.is_user_network(config.model) else None
        key = (config.model, config.dropout, config.drop_path, config.image_size, seed)
        if key not in self._frozen_parts:
            images_NCHW = torch.zeros(2, 3, *2 * [config.image_size], dtype=torch.uint8, device=device)
            self._frozen_parts[key] = frozen.find_frozen_part(module, config, preprocess(images_NCHW))
        return self._frozen_parts[key]

    def _features_key(
        self,
        config: Config,
        frozen_part: frozen.FrozenPart,
        layers_digest: str,
        split: "Split",
        precision: str,
    ) -> str:
        if split not in self._pixel_digests:
            self._pixel_digests[split] = _tensor_digest(split.images)
        parts = {
            "version": KEY_VERSION,
            "model": config.model,
            "cut": frozen_part.name,
            "layers": layers_digest,
            "image_size": config.image_size,
            "preset": asdict(preset_of(config)),
            "pixels": self._pixel_digests[split],
            "precision": precision,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _layers_digest(
        self, config: Config, frozen_part: frozen.FrozenPart, frozen_layers: nn.Module, is_initial: bool
    ) -> str:
        """Return a digest of the frozen layers' weights.

        It is remembered only for weights that their name determines. A file of weights may change, and a
        function of the user's own may return any weights.
        """
        seed = config.seed if config.weights == "none" else None
        key = (config.model, config.weights, seed, frozen_part.name)
        is_determined = is_initial and not catalog.is_weights_file(config.model, config.weights)
        is_determined = is_determined and not catalog.is_user_network(config.model)
        if is_determined and key in self._weight_digests:
            return self._weight_digests[key]
        digest = hashlib.sha256()
        for name, tensor in frozen_layers.state_dict().items():
            digest.update(f"{name} {_tensor_digest(tensor)}\n".encode())
        if is_determined:
            self._weight_digests[key] = digest.hexdigest()
        return digest.hexdigest()

    def _split_features(
        self, config: Config, key: str, computation: "_FeatureComputation"
    ) -> Tensor | None:
        """Return a split's features from memory, from files, or by computing them; None once stopped."""
        has_files = not catalog.is_user_network(config.model)
        if key not in self.in_memory:
            whole = torch.empty(0)
            first = random.randrange(computation.parts)
            for part in (*range(first, computation.parts), *range(first)):
                features = self._read_part(key, part) if has_files else None
                if features is None:
                    features = computation.compute_part(part)
                    if features is None:
                        return None
                    if has_files:
                        self._write_part(key, part, features)
                if part == first:
                    size = (len(computation.images_NCHW), *features.shape[1:])
                    whole = torch.empty(size, dtype=features.dtype, device=computation.device)
                whole[part * IMAGES_PER_PART : (part + 1) * IMAGES_PER_PART] = features
            self.in_memory[key] = whole
        self.in_memory.move_to_end(key)
        return self.in_memory[key]

    def _evict(self) -> None:
        """Drop the features that were not used for longest, until the others fit."""
        while sum(features.nbytes for features in self.in_memory.values()) > self.max_bytes:
            self.in_memory.popitem(last=False)

    def _read_part(self, key: str, part: int) -> Tensor | None:
        """Read the file of a part; None if there is none, or if it is damaged or unreadable."""
        name = _part_name(key, part)
        try:
            content = self.artifacts.read_or_none(name)
        except (OSError, ArtifactError) as error:
            log.warning("%s cannot be read (%s); computed again", self.artifacts.path(name), error)
            return None
        if content is None:
            return None
        try:
            stored = safetensors.torch.load(content)
            if bytes(stored["sha256"]).hex() == _tensor_digest(stored["features"], name):
                return stored["features"]
        except Exception:  # a damaged file may raise anything
            pass
        log.warning("%s is damaged; computed again", self.artifacts.path(name))
        return None

    def _write_part(self, key: str, part: int, features: Tensor) -> None:
        name = _part_name(key, part)
        digest = bytearray.fromhex(_tensor_digest(features, name))
        sha256 = torch.frombuffer(digest, dtype=torch.uint8)
        content = safetensors.torch.save({"features": features.cpu().contiguous(), "sha256": sha256})
        try:
            self.artifacts.write(name, content)
        except (OSError, ArtifactError) as error:  # harmless: other workers compute the part themselves
            log.warning("%s cannot be written (%s)", self.artifacts.path(name), error)


class _FeatureComputation:
    """Computes the features of one split, part by part."""

    def __init__(
        self,
        images_NCHW: Tensor,
        frozen_layers: nn.Module,
        preprocess: Preprocess,
        device: torch.device,
        stop: threading.Event,
    ) -> None:
        self.images_NCHW = images_NCHW
        self.frozen_layers = frozen_layers
        self.preprocess = preprocess
        self.device = device
        self.stop = stop
        self.parts = -(-len(images_NCHW) // IMAGES_PER_PART)
        self.has_begun = False

    @torch.no_grad()
    def compute_part(self, part: int) -> Tensor | None:
        """Return the features [N, F...] of a part; None if ``stop`` was set."""
        if not self.has_begun:
            log.info("computing the features of %d images, once for all trials", len(self.images_NCHW))
            self.has_begun = True
        batches = []
        end = min((part + 1) * IMAGES_PER_PART, len(self.images_NCHW))
        size = BATCH_SIZES[self.device.type]
        for first in range(part * IMAGES_PER_PART, end, size):
            if self.stop.is_set():
                return None
            images_NCHW = self.images_NCHW[first : min(first + size, end)].to(self.device)
            batches.append(self.frozen_layers(self.preprocess(images_NCHW)))
        return torch.cat(batches)


def _replace_images(split: "Split", features: Tensor) -> "Split":
    """Return a split on the device of its features, which take the place of its images."""
    if split.mapping is not None:
        split.mapping.give_back()  # the images are not read again
    return replace(split, images=features, labels=split.labels.to(features.device), mapping=None)


def _part_name(key: str, part: int) -> str:
    return f"{FOLDER}/{key}-{part:04d}.safetensors"


def _tensor_digest(tensor: Tensor, name: str = "") -> str:
    """Return the SHA-256 of a name and of a tensor's dtype, shape and values."""
    digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
