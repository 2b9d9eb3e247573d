"""What a stored study will cost on this machine, measured as ``hpo plan`` measures it."""

from hpo.analysis.cost import Forecast
from hpo.api import images, progress
from hpo.api.locations import Locations
from hpo.study.definition import Definition


def plan_study(definition: Definition, spec: str, places: Locations) -> Forecast:
    """Measure a few training steps of each kind of training in a study, and compute its cost.

    What is being measured is printed to stderr.

    Args:
        definition: The study.
        spec: Devices, as ``--devices`` takes them.
        places: Where its data are.

    Raises:
        DeviceError: There is no such device, or it cannot run the study's precision or compilation.
        DataError: The study's images are missing or cannot be used.
    """
    import torch

    from hpo.analysis import cost
    from hpo.original import prices
    from hpo.training.devices import worker_devices
    from hpo.workers.hardware import find_device

    checked = images.check_images(definition, places.data, needed_here=True)
    group = worker_devices(spec, 1, definition.setting_count)
    device, threads = find_device(group[0].name), torch.get_num_threads()
    scan = checked.scan if checked else None
    try:
        return cost.forecast_cost(
            definition, group, device, places.data, progress.print_stderr, prices.known_cost, scan
        )
    finally:
        torch.set_num_threads(threads)
