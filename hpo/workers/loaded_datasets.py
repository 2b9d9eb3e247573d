"""The data sets that a worker keeps loaded between trials, within one limit for all of them together.

A search over image sizes has a data set of its own for each size. Those that were not used for longest are
dropped when another one needs the room. Images that are mapped from the disk take none: the system's page
cache holds them, for all workers of the machine.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING

import torch

from hpo.training import devices

if TYPE_CHECKING:
    # torchvision takes a second or two to import. A worker with a custom objective does not need it.
    from hpo.training.datasets import Dataset

GPU_SHARE = 0.5  # of the GPU memory that is free before the first data set is loaded
HOST_SHARE = 0.5  # of the machine's memory, for as many workers as there are cores


class LoadedDatasets:
    """One worker's data sets, on the device if they fit there.

    Args:
        device: The worker's device.
        max_host_bytes: How much images in the worker's own memory may take, but for the data set that was
            loaded last, which stays in any case.
        max_gpu_bytes: How much may be on a GPU; None: ``GPU_SHARE`` of what is free at the first use.
    """

    def __init__(
        self, device: torch.device, max_host_bytes: int | None = None, max_gpu_bytes: int | None = None
    ) -> None:
        self.device = device
        self.max_gpu_bytes = max_gpu_bytes
        if max_host_bytes is None:
            max_host_bytes = int(HOST_SHARE * devices.memory_bytes()) // devices.core_count()
        self.max_host_bytes = max_host_bytes
        self.by_key: OrderedDict[Hashable, Dataset] = OrderedDict()  # used last is last

    def find(self, key: Hashable) -> "Dataset | None":
        """Return the data set with a key; None if it is not loaded."""
        if key not in self.by_key:
            return None
        if key != next(reversed(self.by_key)):
            self._rest_mapped()
            self.by_key.move_to_end(key)
        return self.by_key[key]

    def add(self, key: Hashable, dataset: "Dataset") -> "Dataset":
        """Keep a data set, drop others for it where needed, and return it on the device if it fits there.

        Args:
            key: What decides its images.
            dataset: On the CPU.
        """
        self._rest_mapped()
        if self.device.type == "cuda" and dataset.nbytes <= self._gpu_limit():
            self._drop(self._gpu_limit() - dataset.nbytes, on_gpu=True)
            dataset = dataset.to(self.device)
        elif dataset.own_bytes:
            self._drop(self.max_host_bytes - dataset.nbytes, on_gpu=False)
        self.by_key[key] = dataset
        return dataset

    def clear(self) -> None:
        """Drop all data sets."""
        self.by_key.clear()

    def _gpu_limit(self) -> int:
        if self.max_gpu_bytes is None:
            self.max_gpu_bytes = int(GPU_SHARE * torch.cuda.mem_get_info(self.device)[0])
        return self.max_gpu_bytes

    def _drop(self, limit: int, *, on_gpu: bool) -> None:
        """Drop data sets in one kind of memory, until those left take at most so many bytes."""
        held = {key: each for key, each in self.by_key.items() if each.is_on_gpu == on_gpu}
        total = sum(each.own_bytes for each in held.values())
        for key, each in held.items():
            if total <= limit:
                break
            if each.own_bytes:
                total -= each.own_bytes
                del self.by_key[key]

    def _rest_mapped(self) -> None:
        """Give back the pages of mapped images that were used last; another data set is used now."""
        for each in self.by_key.values():
            for split in each.splits.values():
                if split.mapping is not None:
                    split.mapping.give_back()
