"""Features: what frozen layers make of images, computed once for all epochs, trials and workers.

Where the last layer alone is trained, on images that are not augmented, all that lies before the model's
cut (``cut``) gives the same for an image in every epoch. Of each split it is computed once, in parts of
``PART`` images, each a file in the artifacts, so that a worker that is stopped loses but the part under
way::

    cache/features/<key>-0003.safetensors      the fourth part

The key is the SHA-256 of all that decides the features: the split's pixels, their size, the frozen layers
with their weights, the precision. So nothing here is ever out of date, and the folder may be deleted at
any time. A file holds a hash of its own content; one that is spoiled is computed again. Workers that
compute the same at the same time begin at parts of their own and take those that others have finished
meanwhile; where two write the same file, either's is right. A warm worker keeps the features in memory, as
far as their room goes, those used last the longest. Features too large for it are not computed at all:
images then pass through the whole model as ever.

The losses of a run on features are those of a run on images up to float rounding: a batch of another size
may be summed in another order. Dropout's draws are the same, since nothing before the cut draws.

Shape suffixes: N images of a split or a batch, C channels, H rows, W columns.
"""

import hashlib
import json
import logging
import os
import random
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import Tensor, nn

from hpo.artifacts.folders import Artifacts
from hpo.errors import ArtifactError
from hpo.training import devices, frozen
from hpo.training.config import Config

if TYPE_CHECKING:
    from hpo.training.datasets import Dataset, Split  # imports torchvision, which takes seconds

log = logging.getLogger("hpo")

FOLDER = "cache/features"
IMAGES_PER_PART = 1024  # images whose features make a file
BATCH_SIZES = {"cpu": 16, "cuda": 64}  # images at a time; between two batches a worker can be told to stop
KEY_VERSION = 1  # goes up with any change of the code that changes features

Preprocess = Callable[[Tensor], Tensor]  # images uint8 to what the model takes


def feature_memory_limit(device: torch.device) -> int:
    """Give how many bytes of features a worker may keep on a device.

    An eighth of a GPU's memory; of the machine's, half, shared by as many workers as there are cores.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 8
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 // devices.core_count()


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSplits:
    """What training reads in place of a data set, and runs in place of a model."""

    train: "Split"  # features in place of images, float [N, ...]
    selection: "Split"
    remaining_layers: nn.Module  # the layers behind the cut: features to logits


class FeatureCache:
    """One worker's way to the features: its memory, the artifacts' files, or computing them.

    ``room`` is how many bytes of them it may keep in the device's memory.
    """

    def __init__(self, artifacts: Artifacts, max_bytes: int) -> None:
        self.artifacts = artifacts
        self.max_bytes = max_bytes
        self.in_memory: OrderedDict[str, Tensor] = (
            OrderedDict()
        )  # by key, on the device; used last comes last
        self._frozen_parts: dict[tuple[str, float | None, int], frozen.FrozenPart | None] = {}
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
        """Give features of the splits that are trained and selected on, and the layers behind the cut.

        None where images have to pass through the whole model: it is not frozen or cannot be cut, images
        are augmented, the features do not fit into their room, or ``stop`` was set meanwhile.
        ``precision`` names that of the arithmetic, which the caller has set; ``fresh`` says that the
        module is as ``model.build`` gave it, and its weights none that a checkpoint brought. May leave the
        module in another mode, and files in the artifacts.
        """
        if config.tune != "head" or config.augmentation != "none":
            return None
        frozen_part = self._frozen_part(config, module, preprocess, device)
        splits = (dataset.train, dataset.selection)
        if frozen_part is None or sum(map(len, splits)) * frozen_part.bytes_per_image > self.max_bytes:
            return None
        before, after = frozen_part.split_module(module)
        module.eval()
        layers = self._layers_digest(config, frozen_part, before, is_initial)
        found = []
        for split in splits:
            key = self._features_key(config, frozen_part, layers, split, precision)
            work = _FeatureComputation(split.images, before, preprocess, device, stop)
            features = self._split_features(key, work)
            if features is None:
                return None
            found.append(replace(split, images=features, labels=split.labels.to(device)))
        self._evict()
        return FeatureSplits(train=found[0], selection=found[1], remaining_layers=after)

    def _frozen_part(
        self, config: Config, module: nn.Module, preprocess: Preprocess, device: torch.device
    ) -> frozen.FrozenPart | None:
        kind = (config.model, config.dropout, config.image_size)
        if kind not in self._frozen_parts:
            images_NCHW = torch.zeros(2, 3, *2 * [config.image_size], dtype=torch.uint8, device=device)
            self._frozen_parts[kind] = frozen.find_frozen_part(module, config, preprocess(images_NCHW))
        return self._frozen_parts[kind]

    def _features_key(
        self, config: Config, frozen_part: frozen.FrozenPart, layers: str, split: "Split", precision: str
    ) -> str:
        if split not in self._pixel_digests:
            self._pixel_digests[split] = _tensor_digest(split.images)
        parts = {
            "version": KEY_VERSION,
            "model": config.model,
            "cut": frozen_part.name,
            "layers": layers,
            "image_size": config.image_size,
            "pixels": self._pixel_digests[split],
            "precision": precision,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _layers_digest(
        self, config: Config, frozen_part: frozen.FrozenPart, before: nn.Module, is_initial: bool
    ) -> str:
        """Give a digest of the frozen layers' weights, which a file's name does not vouch for."""
        seed = config.seed if config.weights == "none" else None
        kind = (config.model, config.weights, seed, frozen_part.name)
        trusted = is_initial and config.weights in ("imagenet", "none")
        if trusted and kind in self._weight_digests:
            return self._weight_digests[kind]
        digest = hashlib.sha256()
        for name, tensor in before.state_dict().items():
            digest.update(f"{name} {_tensor_digest(tensor)}\n".encode())
        if trusted:
            self._weight_digests[kind] = digest.hexdigest()
        return digest.hexdigest()

    def _split_features(self, key: str, work: "_FeatureComputation") -> Tensor | None:
        """Give a split's features from memory, from files, or by computing them; None if told to stop."""
        if key not in self.in_memory:
            whole = torch.empty(0)
            first = random.randrange(work.parts)
            for part in (*range(first, work.parts), *range(first)):
                features = self._read_part(key, part)
                if features is None:
                    features = work.compute_part(part)
                    if features is None:
                        return None
                    self._write_part(key, part, features)
                if part == first:
                    size = (len(work.images_NCHW), *features.shape[1:])
                    whole = torch.empty(size, dtype=features.dtype, device=work.device)
                whole[part * IMAGES_PER_PART : (part + 1) * IMAGES_PER_PART] = features
            self.in_memory[key] = whole
        self.in_memory.move_to_end(key)
        return self.in_memory[key]

    def _evict(self) -> None:
        """Drop the features not used for longest, until the others fit."""
        while sum(each.nbytes for each in self.in_memory.values()) > self.max_bytes:
            self.in_memory.popitem(last=False)

    def _read_part(self, key: str, part: int) -> Tensor | None:
        """Read a part's file; None if there is none, or if its content is not what it was."""
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
            if bytes(stored["sha256"]).hex() == _tensor_digest(stored["features"], _part_name(key, part)):
                return stored["features"]
        except Exception:  # a damaged file may raise anything
            pass
        log.warning("%s is spoiled; computed again", self.artifacts.path(name))
        return None

    def _write_part(self, key: str, part: int, features: Tensor) -> None:
        name = _part_name(key, part)
        proof = torch.frombuffer(bytearray.fromhex(_tensor_digest(features, name)), dtype=torch.uint8)
        content = safetensors.torch.save({"features": features.cpu().contiguous(), "sha256": proof})
        try:
            self.artifacts.write(name, content)
        except (OSError, ArtifactError) as error:  # others compute it again then, and that is all
            log.warning("%s cannot be written (%s)", self.artifacts.path(name), error)


class _FeatureComputation:
    """The computing of a split's features."""

    def __init__(
        self,
        images_NCHW: Tensor,
        before: nn.Module,
        preprocess: Preprocess,
        device: torch.device,
        stop: threading.Event,
    ) -> None:
        self.images_NCHW = images_NCHW
        self.before = before
        self.preprocess = preprocess
        self.device = device
        self.stop = stop
        self.parts = -(-len(images_NCHW) // IMAGES_PER_PART)
        self.has_begun = False

    @torch.no_grad()
    def compute_part(self, part: int) -> Tensor | None:
        """Compute a part's features; None if told to stop meanwhile."""
        if not self.has_begun:
            log.info("computing the features of %d images, once for all trials", len(self.images_NCHW))
            self.has_begun = True
        done = []
        end = min((part + 1) * IMAGES_PER_PART, len(self.images_NCHW))
        size = BATCH_SIZES[self.device.type]
        for first in range(part * IMAGES_PER_PART, end, size):
            if self.stop.is_set():
                return None
            images_NCHW = self.images_NCHW[first : min(first + size, end)].to(self.device)
            done.append(self.before(self.preprocess(images_NCHW)))
        return torch.cat(done)


def _part_name(key: str, part: int) -> str:
    return f"{FOLDER}/{key}-{part:04d}.safetensors"


def _tensor_digest(tensor: Tensor, name: str = "") -> str:
    """Give the SHA-256 of a tensor's type, shape and numbers, and of the name that they stand under."""
    digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
