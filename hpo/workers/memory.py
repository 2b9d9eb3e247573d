"""Running out of memory: what the trial's failure says, and how the next trial gets the memory back."""

import gc
from collections.abc import Mapping
from typing import Any

import torch

from hpo.errors import error_text
from hpo.training import devices

GIB = 2**30


def out_of_memory_message(setting: Mapping[str, Any], device: torch.device, error: BaseException) -> str:
    """Return what took too much memory, how much it was, and what to try.

    Args:
        setting: The trial's settings; its model, image and batch size are named if it has them. A batch of
            two images or more makes the message suggest half of it.
        device: The device that the trial ran on.
        error: The error that ended the trial; its first line is quoted, 300 characters at most.
    """
    peak, total = peak_memory(device)
    size = {key: setting[key] for key in ("model", "image_size", "batch_size") if key in setting}
    text = f"out of memory on {device}: peak {peak / GIB:.1f} of {total / GIB:.1f} GiB"
    text += f" with {', '.join(f'{key} {value}' for key, value in size.items())}" if size else ""
    if isinstance(size.get("batch_size"), int) and size["batch_size"] > 1:
        text += f"; batch_size {size['batch_size'] // 2} takes about half, and so do smaller images"
    return f"{text} ({error_text(error).partition(chr(10))[0][:300]})"


def peak_memory(device: torch.device) -> tuple[int, int]:
    """Return the most memory that this process has used of a device, and what the device has, in bytes.

    Of a GPU this is what PyTorch has reserved since ``free_memory``; of the CPU, the peak of the resident
    set size since the process began.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return torch.cuda.max_memory_reserved(device), total
    return devices.peak_memory_bytes(), devices.memory_bytes()


def free_memory(device: torch.device) -> None:
    """Collect garbage; on a GPU also give unused memory back to the driver, and count its peak anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
