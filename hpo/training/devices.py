"""Devices, and how workers are spread over them: ``--devices auto``, ``cpu``, ``cpu:4``, ``cuda:0,cuda:1``.

A GPU's worker sees that GPU alone, by its UUID in CUDA_VISIBLE_DEVICES: CUDA and the driver number cards in
different orders, and a person's own objective that says "cuda" gets the right one. ``cuda:1`` is the second
of those that the user lets be seen.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpo.errors import DeviceError


@dataclass(frozen=True, kw_only=True)
class WorkerDevice:
    """Room for one worker."""

    name: str  # as people know it: cpu, cuda:1
    threads: int
    cuda_visible_devices: str | None = None  # what CUDA_VISIBLE_DEVICES says to its worker; None: as it is

    @property
    def device(self) -> str:
        """The device as the worker knows it."""
        return self.name if self.cuda_visible_devices is None else "cuda:0"


def core_count() -> int:
    """Count the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_devices(spec: str, per_device: int, max_workers: int) -> list[WorkerDevice]:
    """Give the slots that ``spec`` names, ``per_device`` on each GPU, and at most ``most`` in all.

    ``auto`` is every GPU, or a worker per core where there is none. The cores are shared out among the
    workers. Raises DeviceError for a spec that says nothing, and for GPUs that are not there.
    """
    gpus = visible_gpu_uuids(os.environ, installed_gpu_uuids())
    if spec == "auto":
        spec = ",".join(f"cuda:{index}" for index in range(len(gpus))) or f"cpu:{core_count()}"
    kind, _, count = spec.partition(":")
    if kind == "cpu" and (not count or (count.isdecimal() and int(count) > 0)):
        workers = min(int(count or 1) * per_device, max(max_workers, 1))
        return [WorkerDevice(name="cpu", threads=max(core_count() // workers, 1))] * workers
    names = [name for name in spec.split(",") for _ in range(per_device)][: max(max_workers, 1)]
    threads = max(core_count() // len(names), 1)
    return [
        WorkerDevice(name=name, threads=threads, cuda_visible_devices=_gpu_uuid(name, spec, gpus))
        for name in names
    ]


def _gpu_uuid(name: str, spec: str, gpus: Sequence[str]) -> str:
    kind, _, index = name.partition(":")
    if kind != "cuda" or not index.isdecimal():
        raise DeviceError(f"--devices {spec}: want auto, cpu, cpu:4 or cuda:0,cuda:1")
    if int(index) >= len(gpus):
        there = f"there are {len(gpus)} GPUs" if gpus else "this machine shows no GPU"
        raise DeviceError(f"--devices {spec}: {there}; 'hpo doctor' says more, --devices cpu works")
    return gpus[int(index)]


def installed_gpu_uuids() -> list[str]:
    """Give the UUIDs of the machine's NVIDIA GPUs in the driver's order; none without a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        found = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
        return [uuid.decode() if isinstance(uuid, bytes) else str(uuid) for uuid in found]
    finally:
        pynvml.nvmlShutdown()


def visible_gpu_uuids(environment: Mapping[str, str], uuids: Sequence[str]) -> list[str]:
    """Give those of the GPUs that CUDA_VISIBLE_DEVICES lets be seen, in its order.

    Like CUDA, it stops at the first entry that names no GPU. An entry is an index, a UUID or the
    beginning of one; a slice of a card ("MIG-...") is passed on as it is.
    """
    told = environment.get("CUDA_VISIBLE_DEVICES")
    if told is None:
        return list(uuids)
    found: list[str] = []
    for entry in (part.strip() for part in told.split(",")):
        matches = [uuid for uuid in uuids if entry and uuid.startswith(entry)]
        if entry.isdecimal() and int(entry) < len(uuids):
            found.append(uuids[int(entry)])
        elif len(matches) == 1:
            found += matches
        elif entry.startswith("MIG-") and uuids:
            found.append(entry)
        else:
            break
    return found
