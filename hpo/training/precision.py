"""How numbers are computed: precision, the order of a batch's values in memory, and compiled steps.

All change a trial's bits, so what its first attempt used is stored with the trial and kept to. Precision
belongs to the study: trials that differ in it are not to be compared.

Shape suffixes: N images of a batch, C channels, H and W pixels.
"""

import contextlib
import ctypes
import dataclasses
import gc
import logging
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hpo.errors import DeviceError
from hpo.training.config import Config

log = logging.getLogger("hpo")

# Options of mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

MAX_MEASURED_STEPS = 5  # of steps, one in each format, that a measurement takes at most
MEASURE_SECONDS = 3.0  # after which it takes no further pair
MIN_SPEEDUP = 1.02  # by which channels_last has to be faster to be chosen, in every pair


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeSettings:
    """How one trial computes."""

    precision: str = "fp32"  # fp32, tf32, bf16 or fp16
    memory_format: str = "contiguous"  # or channels_last
    compile: bool = False
    cuda_graphs: bool = False  # of what is compiled then, asked for or not

    def prepare_model(self, module: nn.Module) -> nn.Module:
        """Put a module's weights into the format, in place, and give it."""
        return module.to(memory_format=MEMORY_FORMATS[self.memory_format])

    def prepare_batch(self, images_NCHW: Tensor) -> Tensor:
        """Give a batch in the format; itself where it has it."""
        return images_NCHW.contiguous(memory_format=MEMORY_FORMATS[self.memory_format])

    def compile_model(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        """Give the module, or its compiled form, for batches of one size; the weights are the same.

        The code is made at the first batch and serves every later module of the kind in this process: a
        warm worker's trials share it. The optimizer's fused kernel is left out, and with it the learning
        rate, of which a schedule would make new code each time.
        """
        if not (self.compile or self.cuda_graphs):
            return module
        # Code for the sizes at hand and no other: what serves several sizes has other bits than what serves
        # one, and which a worker has would depend on the trials before. Beyond torch's limit of eight per
        # model it would fall back to plain steps, with other bits again.
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 10_000
        mode = "reduce-overhead" if self.cuda_graphs else None
        form: Callable[[Tensor], Tensor] = torch.compile(module, dynamic=False, mode=mode)
        return form

    @contextlib.contextmanager
    def precision_context(self, device: torch.device) -> Iterator[None]:
        """Compute in the precision within the block, on a device that ``refuse`` lets pass.

        Weights stay in 32 bits. Under bf16 and fp16 torch's autocast chooses the operations that gain by it
        and lose nothing; tf32 is for convolutions and matrix products alike.
        """
        with contextlib.ExitStack() as stack:
            if device.type == "cuda":
                stack.enter_context(_tf32(self.precision != "fp32"))
            if self.precision in AUTOCAST_DTYPES:
                stack.enter_context(torch.autocast(device.type, AUTOCAST_DTYPES[self.precision]))
            yield


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    places: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]  # torch sets it when imported
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = "tf32" if allowed else "ieee"
    try:
        yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


def default_precision(device: torch.device) -> str:
    """Give the precision of a study that names none: tf32 where the device has it, else fp32."""
    return "fp32" if precision_problem("tf32", device) else "tf32"


def check_precision(precision: str, device: torch.device) -> None:
    """Raise DeviceError where the device lacks a precision, or is slower with it than without."""
    if reason := precision_problem(precision, device):
        raise DeviceError(
            f"train.precision: {precision} on {device}: {reason}; a study keeps to one precision: "
            'run it on other devices, or start one with precision = "fp32"'
        )


def check_compile(wanted: Config, device: torch.device) -> None:
    """Raise DeviceError where steps cannot be compiled as wanted, or made into graphs."""
    if wanted.cuda_graphs and device.type != "cuda":
        raise DeviceError(f"train.cuda_graphs: {device} has none; leave it out, or run the study on a GPU")
    compiler = os.environ.get("CXX", "g++")
    if (wanted.compile or wanted.cuda_graphs) and shutil.which(compiler) is None:
        raise DeviceError(
            f"train.compile: torch.compile needs a C++ compiler, and there is no '{compiler}' here; "
            "install one (Debian: g++), name yours in CXX, or leave the option out"
        )


def precision_problem(precision: str, device: torch.device) -> str | None:
    """Say why a device should not compute in a precision; None if it should."""
    if precision == "fp32":
        return None
    if device.type == "cpu":
        # Without such instructions oneDNN falls back to conversions: 11 to 60 times slower where measured.
        fast = {
            "bf16": torch.ops.mkldnn._is_mkldnn_bf16_supported,
            "fp16": torch.ops.mkldnn._is_mkldnn_fp16_supported,
        }
        if precision in fast and fast[precision]():
            return None
        return f"this processor has no {precision} instructions, and would only be slower"
    major, _ = torch.cuda.get_device_capability(device)
    least = {"tf32": 8, "bf16": 8, "fp16": 7}[precision]
    name = torch.cuda.get_device_name(device)
    return None if major >= least else f"{name} has no fast {precision} (compute capability {least}.0 has)"


def faster_memory_format(step: Callable[[str], None], device: torch.device) -> tuple[str, dict[str, float]]:
    """Choose a memory format by measuring training steps; give it with each format's median seconds.

    ``step`` makes one training step in a format, on weights of its own. The two formats take turns, since
    machines swing; channels_last has to win every pair by ``GAIN``, or what is usual stays.
    """
    seconds: dict[str, list[float]] = {name: [] for name in MEMORY_FORMATS}
    for name in MEMORY_FORMATS:
        step(name)  # to warm up
    begun = time.perf_counter()
    while len(seconds["contiguous"]) < MAX_MEASURED_STEPS and time.perf_counter() - begun < MEASURE_SECONDS:
        for name, each in seconds.items():
            started = synchronized_time(device)
            step(name)
            each.append(synchronized_time(device) - started)
    pairs = zip(seconds["contiguous"], seconds["channels_last"], strict=True)
    won = all(plain > MIN_SPEEDUP * last for plain, last in pairs)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return ("channels_last" if won else "contiguous"), medians


def synchronized_time(device: torch.device) -> float:
    """Give a time in seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next step, rather than give it back to the kernel.

    By default glibc gives large blocks back, so that each step's gradients are made of new pages, which the
    kernel has to find and clear first: on one core here AlexNet (64 px, batch 16) made 57 images per second
    so, and 79 when it kept them. On the CPU alone; a GPU's memory torch keeps anyway.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library has no such options
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def return_freed_memory() -> None:
    """Give the kernel back what is free, even if it is kept otherwise."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
