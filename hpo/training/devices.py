"""Devices, cores and memory, and how workers are spread over them.

``--devices`` takes ``auto``, ``cpu``, ``cpu:4`` or ``cuda:0,cuda:1``. The worker of a GPU sees only that
GPU: ``CUDA_VISIBLE_DEVICES`` holds its UUID, not its index, because CUDA and the driver number the cards in
different orders. So a custom objective that uses plain "cuda" gets the right card. ``cuda:1`` is the second
of the cards that the user's own ``CUDA_VISIBLE_DEVICES`` leaves visible.
"""

import os
import platform
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from hpo import errors
from hpo.errors import DeviceError

# What ``auto`` allows for a worker on a CPU. One was seen to peak at 1.2 GB.
WORKER_MEMORY_BYTES = 1_500_000_000
MAX_WORKERS_PER_CORE = 64  # more is a typing error; their start alone would stop the machine
DEFAULT_CACHE_GB = 50.0  # of decoded images on a machine's disk
CGROUP_ROOT = Path("/sys/fs/cgroup")

if TYPE_CHECKING:  # a supervisor does without torch
    import torch


@dataclass(frozen=True, kw_only=True)
class WorkerDevice:
    """The device and the threads of one worker."""

    name: str  # as the user knows it: cpu, cuda:1
    threads: int
    cuda_visible_devices: str | None = None  # value of the variable in the worker; None: leave it as it is

    @property
    def device(self) -> str:
        """The name of the device inside the worker's process."""
        return self.name if self.cuda_visible_devices is None else "cuda:0"


def core_count() -> int:
    """Return the number of cores that this process may run on (of the machine where that is not known)."""
    if hasattr(psutil.Process, "cpu_affinity"):  # not on macOS
        return len(psutil.Process().cpu_affinity())
    return psutil.cpu_count() or 1


def memory_bytes() -> int:
    """Return the size of the machine's main memory in bytes; limits of a container do not count."""
    return int(psutil.virtual_memory().total)


def free_memory_bytes() -> int:
    """Return how much main memory new processes can take: the machine's, or what a container leaves.

    Of a control group, memory of files that can be dropped counts as free.
    """
    free = int(psutil.virtual_memory().available)
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return free
    for _, kinds, group in (line.split(":", 2) for line in groups):
        if kinds in ("", "memory"):  # the second and the first version of control groups
            root = CGROUP_ROOT / kinds
            inner = root / group.lstrip("/")
            folders = [inner, *(parent for parent in inner.parents if parent.is_relative_to(root))]
            free = min([free, *(_cgroup_free_bytes(each, kinds) for each in folders)])
    return free


def _cgroup_free_bytes(folder: Path, version: str) -> int:
    """Return what a control group may still take; a very large number if it has no limit."""
    names = ("limit_in_bytes", "usage_in_bytes", "total_inactive_file")
    limit_name, used_name, dropped_name = names if version else ("max", "current", "inactive_file")
    try:
        limit = (folder / f"memory.{limit_name}").read_text().strip()
        used = int((folder / f"memory.{used_name}").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(int(limit) - used + int(stat.get(dropped_name, 0)), 0)
    except (OSError, ValueError):  # no such group, as in a container that hides its own, or "max"
        return sys.maxsize


def peak_memory_bytes() -> int:
    """Return the most main memory that this process has had, in bytes.

    On Linux this is since the process began, or since something wrote "5" to /proc/self/clear_refs.
    """
    if sys.platform == "linux":
        try:
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) * 1024
        except (OSError, IndexError):  # a kernel that does not say
            pass
    unit = 1 if sys.platform == "darwin" else 1024  # macOS says it in bytes, other systems in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name(device: "torch.device") -> str:
    """Return the product name of a GPU, or of the machine's processor; if unknown, the latter's type."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def send(tensor: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """Copy a tensor from the host's memory to a device, without waiting for what the device is doing.

    CUDA waits if the memory is not pinned, except for 64 KB or less.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def worker_devices(spec: str, per_device: int, max_workers: int) -> list[WorkerDevice]:
    """Return one device per worker, in the order of ``spec``, with the cores shared out equally.

    Args:
        spec: The value of ``--devices``. ``auto`` means every visible GPU; if there is none, one worker per
            core, but no more than there is free memory for, at ``WORKER_MEMORY_BYTES`` each. ``cpu:4``
            counts as four devices.
        per_device: Workers per device, at least 1.
        max_workers: Upper bound for the total; below 1 it counts as 1. Devices beyond it are left out.

    Returns:
        At least one worker, each with at least one thread.

    Raises:
        DeviceError: If one of the devices is malformed or a GPU that is not there, or for more than
            ``MAX_WORKERS_PER_CORE``; unless all are CPUs, also if the driver cannot say which GPUs there
            are, or ``CUDA_VISIBLE_DEVICES`` names one twice.
    """
    is_cpu = spec.partition(":")[0] == "cpu"
    gpus = [] if is_cpu else visible_gpu_uuids(os.environ, installed_gpu_uuids())
    most = max(max_workers, 1)
    if spec == "auto" and not gpus:
        return _cpu_workers(min(core_count() * per_device, most, auto_cpu_limit()))
    if spec == "auto":
        spec = ",".join(f"cuda:{index}" for index in range(len(gpus)))
    if found := re.fullmatch(r"cpu(?::0*([1-9][0-9]*))?", spec):
        asked = int((found[1] or "1")[:9]) * per_device
        _check_count(spec, asked)
        return _cpu_workers(min(asked, most))
    _check_count(spec, len(spec.split(",")) * per_device)
    found_gpus = [(name, _gpu_uuid(name, spec, gpus)) for name in spec.split(",")]  # all are checked
    chosen = [each for each in found_gpus for _ in range(per_device)][:most]
    threads = max(core_count() // len(chosen), 1)
    return [WorkerDevice(name=name, threads=threads, cuda_visible_devices=uuid) for name, uuid in chosen]


def _check_count(spec: str, workers: int) -> None:
    allowed = MAX_WORKERS_PER_CORE * core_count()
    if workers > allowed:
        raise DeviceError(
            f"--devices {errors.quote_value(spec)}: {workers} workers are too many for {core_count()} "
            f"cores; want at most {allowed}"
        )


def auto_cpu_limit() -> int:
    """Return how many workers fit into the free memory, at least one, as ``auto`` counts on CPUs."""
    return max(free_memory_bytes() // WORKER_MEMORY_BYTES, 1)


def _cpu_workers(count: int) -> list[WorkerDevice]:
    return [WorkerDevice(name="cpu", threads=max(core_count() // count, 1))] * count


def _gpu_uuid(name: str, spec: str, gpus: Sequence[str]) -> str:
    kind, _, index = name.partition(":")
    if kind != "cuda" or not re.fullmatch("[0-9]{1,9}", index):
        wanted = "want auto, cpu, cpu:4 (4 workers) or cuda:0,cuda:1"
        raise DeviceError(f"--devices {errors.quote_value(spec)}: {wanted}")
    if int(index) >= len(gpus):
        found = f"there are {len(gpus)} GPUs" if gpus else "this machine shows no GPU"
        raise DeviceError(
            f"--devices {errors.quote_value(spec)}: {found}; 'hpo doctor' says more, --devices cpu works"
        )
    return gpus[int(index)]


def installed_gpu_uuids() -> list[str]:
    """Return the UUIDs of the machine's NVIDIA GPUs ("GPU-..."), in the driver's order.

    ``CUDA_VISIBLE_DEVICES`` does not matter here. The list is empty if the machine has no driver.

    Raises:
        DeviceError: There is a driver, but it cannot read the GPUs.
    """
    import pynvml

    without_driver = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    try:
        pynvml.nvmlInit()
        try:
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        if error.value in without_driver:
            return []
        raise DeviceError(
            f"the NVIDIA driver cannot read the GPUs: {error}; 'nvidia-smi' says more, --devices cpu works"
        ) from error
    return [uuid.decode() if isinstance(uuid, bytes) else str(uuid) for uuid in uuids]


def visible_gpu_uuids(environment: Mapping[str, str], uuids: Sequence[str]) -> list[str]:
    """Return the GPUs that ``CUDA_VISIBLE_DEVICES`` leaves visible, in its order.

    Like CUDA, this stops at the first entry that names no GPU, or more than one. An entry is an index, a
    UUID or the beginning of one. A slice of a card ("MIG-...") is passed on unchecked and unchanged.

    Args:
        environment: Environment variables; without ``CUDA_VISIBLE_DEVICES`` all GPUs are visible.
        uuids: The machine's GPUs in the driver's order.

    Returns:
        UUIDs, or the entries of slices.

    Raises:
        DeviceError: A GPU is named twice: CUDA then shows none at all.
    """
    value = environment.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return list(uuids)
    visible: list[str] = []
    for entry in (part.strip() for part in value.split(",")):
        matches = [uuid for uuid in uuids if entry.startswith("GPU-") and uuid.startswith(entry)]
        if re.fullmatch("[0-9]{1,9}", entry) and int(entry) < len(uuids):
            visible.append(uuids[int(entry)])
        elif len(matches) == 1:
            visible += matches
        elif entry.startswith("MIG-") and uuids:
            visible.append(entry)
        else:
            break
    if len(set(visible)) < len(visible):
        raise DeviceError(
            f"CUDA_VISIBLE_DEVICES={errors.quote_value(value)} names a GPU twice, so CUDA shows none; name "
            "each once; for two workers on one GPU use --workers-per-device 2"
        )
    return visible
