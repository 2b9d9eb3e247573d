"""What a study will cost on this machine: ``hpo plan`` and ``Study.plan``."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.analysis import cost
from hpo.analysis.cost import Forecast
from hpo.original import prices
from hpo.study.definition import Definition
from hpo.training.devices import worker_devices
from hpo.workers.hardware import find_device

if TYPE_CHECKING:
    from hpo.training.folder_scan import FolderScan


def plan_study(
    definition: Definition,
    spec: str,
    root: Path,
    scan: "FolderScan | None",
    tell: Callable[[str], None],
) -> Forecast:
    """Measure a few training steps of each kind of training in a study, and compute its cost.

    This process has afterwards as many threads of torch as before.

    Args:
        definition: The study.
        spec: Devices, as ``--devices`` takes them.
        root: The data folder.
        scan: The scan of the user's own images; None if the study has none.
        tell: Gets a text that says what is being measured, each time that it changes.

    Raises:
        DeviceError: There is no such device, or it cannot run the study's precision or compilation.
        DataError: A data set that has to be read cannot be.
        DefinitionError: There is no such custom objective.
    """
    import torch

    group = worker_devices(spec, 1, definition.setting_count)
    device, threads = find_device(group[0].name), torch.get_num_threads()
    try:
        return cost.forecast_cost(definition, group, device, root, tell, prices.known_cost, scan)
    finally:
        torch.set_num_threads(threads)
