"""How a trial computes: precision, the memory layout of batches, and compiled steps.

Each of these changes the bits of a trial's results. So the choices of a trial's first attempt are stored
with the trial, and later attempts use the same. The precision belongs to the study: trials that differ in
it must not be compared.

Shape suffixes: N images of a batch, C channels, H rows, W columns.
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

# Options of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

MAX_MEASURED_STEPS = 5  # in each memory format
MEASURE_SECONDS = 3.0  # no further step is measured after this time
MIN_SPEEDUP = 1.02  # channels_last is chosen only if it is faster by this factor in every comparison


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeSettings:
    """The settings by which one trial computes."""

    precision: str = "fp32"  # fp32, tf32, bf16 or fp16
    memory_format: str = "contiguous"  # or channels_last
    compile: bool = False
    cuda_graphs: bool = False  # implies compiled steps, even where compile is False

    def prepare_model(self, module: nn.Module) -> nn.Module:
        """Convert a module's weights to the memory format, in place, and return the module."""
        return module.to(memory_format=MEMORY_FORMATS[self.memory_format])

    def prepare_batch(self, images_NCHW: Tensor) -> Tensor:
        """Return a batch in the memory format; the same tensor if it already has it.

        Args:
            images_NCHW: Any dtype.
        """
        return images_NCHW.contiguous(memory_format=MEMORY_FORMATS[self.memory_format])

    def compile_model(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the module's compiled form for batches of a single size, with the same weights.

        Without ``compile`` and ``cuda_graphs`` that is the module itself. The code is generated at the
        first batch. It serves every later module of the same model in this process, so the trials of a
        worker share it; torch's recompile limits are raised for the whole process. The optimizer's fused
        kernel is not compiled: the learning rate would become part of the code, and a schedule would cause
        a new compilation each time.
        """
        if not (self.compile or self.cuda_graphs):
            return module
        # dynamic=False: code for exactly one size. Code for several sizes gives other bits, and which of
        # the two a worker had would depend on its earlier trials. Beyond the recompile limit (by default
        # eight per model) torch would fall back to uncompiled steps, again with other bits.
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 10_000
        mode = "reduce-overhead" if self.cuda_graphs else None
        compiled: Callable[[Tensor], Tensor] = torch.compile(module, dynamic=False, mode=mode)
        return compiled

    @contextlib.contextmanager
    def precision_context(self, device: torch.device) -> Iterator[None]:
        """Compute in the precision within the block.

        Weights stay float32. For bf16 and fp16, torch's autocast selects the operations that become faster
        without losing accuracy. tf32 applies to a GPU's convolutions and matrix products; bf16 and fp16
        allow it for those that autocast leaves in float32.

        Args:
            device: One that ``check_precision`` accepts.
        """
        with contextlib.ExitStack() as stack:
            if device.type == "cuda":
                stack.enter_context(_tf32(self.precision != "fp32"))
            if self.precision in AUTOCAST_DTYPES:
                stack.enter_context(torch.autocast(device.type, AUTOCAST_DTYPES[self.precision]))
            yield


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    backends: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]  # torch sets it when imported
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "tf32" if allowed else "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def default_precision(device: torch.device) -> str:
    """Return the precision of a study that names none: tf32 where the device supports it, else fp32."""
    return "fp32" if precision_problem("tf32", device) else "tf32"


def check_precision(precision: str, device: torch.device) -> None:
    """Check that a device supports a precision and is not slower with it than without.

    Args:
        precision: fp32, tf32, bf16 or fp16.
        device: Where the trial is to be trained.

    Raises:
        DeviceError: If it should not be used; the message says why.
    """
    if reason := precision_problem(precision, device):
        raise DeviceError(
            f"train.precision: {precision} on {device}: {reason}; all trials of a study use one precision: "
            'run it on other devices, or start a study with precision = "fp32"'
        )


def check_compile(config: Config, device: torch.device) -> None:
    """Check that training steps can be compiled, or captured as CUDA graphs, if ``config`` asks for it.

    Args:
        config: The trial's settings.
        device: Where the trial is to be trained.

    Raises:
        DeviceError: If the device has no CUDA graphs, or there is no C++ compiler.
    """
    if config.cuda_graphs and device.type != "cuda":
        raise DeviceError(f"train.cuda_graphs: {device} has none; leave it out, or run the study on a GPU")
    compiler = os.environ.get("CXX", "g++")
    option = "compile" if config.compile else "cuda_graphs"
    if (config.compile or config.cuda_graphs) and shutil.which(compiler) is None:
        raise DeviceError(
            f"train.{option}: torch.compile needs a C++ compiler, and there is no '{compiler}' here; "
            "install one (Debian: g++), name yours in CXX, or leave the option out"
        )


def precision_problem(precision: str, device: torch.device) -> str | None:
    """Return the reason why a device should not compute in a precision, or None if it should.

    Args:
        precision: fp32, tf32, bf16 or fp16.
        device: Where the trial is to be trained.
    """
    if precision == "fp32":
        return None
    if device.type == "cpu":
        # Without these instructions oneDNN falls back to conversions: measured 11 to 60 times slower.
        is_fast = {
            "bf16": torch.ops.mkldnn._is_mkldnn_bf16_supported,
            "fp16": torch.ops.mkldnn._is_mkldnn_fp16_supported,
        }
        if precision in is_fast and is_fast[precision]():
            return None
        return f"this processor has no {precision} instructions, and would only be slower"
    major, _ = torch.cuda.get_device_capability(device)
    required = {"tf32": 8, "bf16": 8, "fp16": 7}[precision]
    if major >= required:
        return None
    name = torch.cuda.get_device_name(device)
    return f"{name} has no fast {precision} (that needs compute capability {required}.0)"


def faster_memory_format(step: Callable[[str], None], device: torch.device) -> tuple[str, dict[str, float]]:
    """Choose a memory format by measuring training steps.

    After one step in each to warm up, the two formats alternate, because the speed of a machine varies over
    time: up to ``MAX_MEASURED_STEPS`` steps of each, and no new pair after ``MEASURE_SECONDS``.
    channels_last is chosen only if it wins every comparison by the factor ``MIN_SPEEDUP``.

    Args:
        step: Makes one training step in the memory format that it gets, on its own copy of the weights.
        device: Where ``step`` computes.

    Returns:
        The memory format, and the median seconds of a step by format.
    """
    seconds: dict[str, list[float]] = {name: [] for name in MEMORY_FORMATS}
    for name in MEMORY_FORMATS:
        step(name)  # to warm up
    begun = time.perf_counter()
    while len(seconds["contiguous"]) < MAX_MEASURED_STEPS and time.perf_counter() - begun < MEASURE_SECONDS:
        for name, measured in seconds.items():
            started = synchronized_time(device)
            step(name)
            measured.append(synchronized_time(device) - started)
    comparisons = zip(seconds["contiguous"], seconds["channels_last"], strict=True)
    is_faster = all(contiguous > MIN_SPEEDUP * last for contiguous, last in comparisons)
    medians = {name: statistics.median(measured) for name, measured in seconds.items()}
    return ("channels_last" if is_faster else "contiguous"), medians


def synchronized_time(device: torch.device) -> float:
    """Return the time of ``time.perf_counter``, in seconds, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def keep_freed_memory() -> None:
    """Make the C library keep freed memory for the next step instead of returning it to the kernel.

    By default glibc returns large blocks. Then each step's gradients consist of new pages, which the kernel
    has to find and clear first. On one core, AlexNet (64 px, batch size 16) processed 57 images per second
    that way, and 79 when the memory was kept. This concerns the CPU only; torch keeps a GPU's memory
    anyway. It lasts as long as the process, and does nothing where the C library is not glibc.
    """
    with contextlib.suppress(AttributeError, OSError):  # other C libraries have no such options
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def return_freed_memory() -> None:
    """Return free memory to the kernel, even if ``keep_freed_memory`` keeps it otherwise.

    Python's garbage is collected first. Where the C library is not glibc, that is all.
    """
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
