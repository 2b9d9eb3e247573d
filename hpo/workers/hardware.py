"""What a trial runs on: the device and its name, the host, threads, precision and memory format."""

import platform
import socket
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import torch

from hpo.errors import DeviceError, DeviceLost
from hpo.training import devices
from hpo.training.config import Config
from hpo.training.custom_config import CustomConfig
from hpo.workers.cache import WorkerCache


def find_device(name: str) -> torch.device:
    """Return the device of a name.

    Args:
        name: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        DeviceError: If the name is none of these, or the GPU is not on this machine.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"--device {name}: want cpu or cuda:N") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            there = f"there are {count} GPUs" if count else "this machine shows no GPU"
            raise DeviceError(f"--device {name}: {there}; 'hpo doctor' says more, --device cpu works")
    elif device.type != "cpu" or device.index is not None:
        raise DeviceError(f"--device {name}: want cpu or cuda:N")
    return device


def program_versions() -> dict[str, str]:
    """Return the versions of hpo, PyTorch and Python that this process runs, by name."""
    python = platform.python_version()
    return {"hpo": metadata.version("hpo-vision"), "torch": torch.__version__, "python": python}


def check_device(device: torch.device, trial: int) -> None:
    """Check that a GPU still answers this process.

    After an illegal memory access or a failed assertion in a kernel, CUDA refuses every later call of the
    process. The trials to come would fail one by one, through no fault of theirs.

    Args:
        device: The device; the CPU always answers.
        trial: The number of the trial, for the message.

    Raises:
        DeviceLost: If the GPU does not answer.
    """
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        said = str(error).partition("\n")[0]
        raise DeviceLost(
            f"trial {trial} waits for another worker: the GPU is lost to this one ({said})"
        ) from error


def choose_hardware(
    stored: Mapping[str, Any], config: Config | CustomConfig, cache: WorkerCache
) -> dict[str, Any]:
    """Decide how a trial computes, set PyTorch's threads, and return the facts to store with the trial.

    A resumed trial keeps what an earlier attempt chose and the bits of its weights depend on: threads,
    precision and memory format. A custom objective decides on precision and memory format itself.

    Args:
        stored: What an earlier attempt stored; empty if none did.
        config: The trial's settings.
        cache: The worker's cache, which knows the device and the study's precision.

    Returns:
        ``device``, ``host`` and ``torch`` (the version), all of this attempt, and ``threads``; for built-in
        training also ``precision`` and ``memory_format``. If earlier attempts ran on other devices, these
        are ``earlier_devices``: the trial's time is then that of several kinds of hardware.

    Raises:
        ArtifactError, OSError, DataError, WeightsError: As ``WorkerCache.choose_memory_format``, for a
            trial without a stored memory format.
    """
    threads = int(stored.get("threads", torch.get_num_threads()))
    torch.set_num_threads(threads)
    facts = {
        "device": devices.device_name(cache.device),
        "host": socket.gethostname(),
        "torch": torch.__version__,
        "threads": threads,
        **_earlier_devices(stored, devices.device_name(cache.device)),
    }
    if isinstance(config, CustomConfig):
        return facts
    precision = str(stored.get("precision") or cache.precision)
    memory_format = stored.get("memory_format") or cache.choose_memory_format(config, precision)
    return facts | {"precision": precision, "memory_format": str(memory_format)}


def _earlier_devices(stored: Mapping[str, Any], device: str) -> dict[str, str]:
    """Return the devices of earlier attempts as a fact to store; none if all ran on this device."""
    names = (stored.get("earlier_devices"), stored.get("device"))
    others = "; ".join(str(name) for name in names if name and name != device)
    return {"earlier_devices": others} if others else {}
