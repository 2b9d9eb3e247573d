"""What a model costs, apart from the quality of its answers: parameters and latency.

Both are known before the first epoch, and training does not change them.
"""

import statistics
import time
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from hpo.training.loop import TrainingRun

WARM_UP_PASSES = 5  # that are not counted: the first ones choose kernels and fill caches
MEASURED_PASSES = 30


def measure_costs(run: TrainingRun, names: Iterable[str], known: Mapping[str, float]) -> dict[str, float]:
    """Return those costs of a run's model that are not known yet.

    Draws no random numbers. The model is left in eval mode; training sets its own mode.

    Args:
        run: The run.
        names: Any of ``parameters`` and ``latency_ms``; other names are left out.
        known: Costs that an earlier attempt measured, perhaps on another machine, by name.

    Returns:
        The costs, by name.
    """
    wanted, found = set(names) - known.keys(), dict[str, float]()
    if "parameters" in wanted:
        found["parameters"] = count_parameters(run.model)
    if "latency_ms" in wanted:
        found["latency_ms"] = latency_ms(run)
    return found


def count_parameters(model: nn.Module) -> int:
    """Return the number of a model's parameters, frozen ones included."""
    return sum(each.numel() for each in model.parameters())


@torch.inference_mode()
def latency_ms(run: TrainingRun) -> float:
    """Return the median time in milliseconds in which a run's model answers for a single image.

    The image is on the device already, of the trial's size, in its precision and memory format.

    Args:
        run: The run.
    """
    size, settings = run.config.image_size, run.compute_settings
    image_1CHW = settings.prepare_batch(torch.zeros(1, 3, size, size, device=run.device))
    run.model.eval()
    seconds = []
    for _ in range(WARM_UP_PASSES + MEASURED_PASSES):
        started = time.perf_counter()
        with settings.precision_context(run.device):
            run.model(image_1CHW)
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[WARM_UP_PASSES:])
