"""The question that ``hpo run`` asks on a terminal before a study that will take days.

Most studies are seen to be short without a measurement: ``is_short``. Of the others ``hpo plan`` is run, in
a process of its own: torch, and a GPU's memory, would stay with this one as long as the study runs.
"""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer

from hpo import logs
from hpo.api.creation import CreatedStudy
from hpo.errors import HpoError
from hpo.store.status import Status
from hpo.study.definition import Definition
from hpo.training.config import Config
from hpo.training.shapes import known_shape
from hpo.workers.supervisor import HPO_COMMAND

LONG_HOURS = 24.0
ESTIMATE_SECONDS = 60.0  # that an estimate may take
# More than a core takes to train any model of torchvision on one image, per megapixel. ResNet18 takes 4.
MAX_SECONDS_PER_MEGAPIXEL = 200.0


def ask_before_long_run(
    created: CreatedStudy, now: Status, study: str, sets: Sequence[str], devices: str, data: Path
) -> None:
    """Ask whether to start a new study that will take more than a day; nothing if nobody can answer.

    Not asked about are a custom objective, whose epochs may take any time, a study with a budget of time,
    and one of which a trial has begun.

    Args:
        created: The study.
        now: Its status.
        study: STUDY, as it was given.
        sets: The texts of ``--set``.
        devices: As ``--devices`` takes them.
        data: The data folder.

    Raises:
        HpoError: The answer was no.
    """
    has_begun = any(count for state, count in now.trials.items() if state != "waiting")
    if has_begun or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    definition = created.study.definition()
    if definition.search.device_hours or definition.search.deadline or is_short(definition, created.files):
        return
    words = [study, *(word for each in sets for word in ("--set", each))]
    with _signals_end_process():
        hours = _estimate_hours(words, devices, data)
        if hours is not None and hours[0] > LONG_HOURS and not _confirm(definition.name, *hours):
            name = definition.name
            raise HpoError(f"not started; study '{name}' is stored, 'hpo delete {name}' removes it")


@contextlib.contextmanager
def _signals_end_process() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end this process within the block: they are no request to stop workers yet."""
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, terminate)


def _confirm(name: str, most_hours: float, least_hours: float) -> bool:
    most, least = (f"{hours / 24:.1f}" for hours in (most_hours, least_hours))
    pruned = f" ({least} if the pruner stops all that it may)" if least != most else ""
    logs.tell(f"study '{name}' will take about {most} days here{pruned}")
    return typer.confirm("Start it?", err=True)


def is_short(definition: Definition, files: int) -> bool:
    """Return whether a study cannot take a day on one device, whatever its models are.

    Args:
        definition: The study.
        files: How many image files of the user's own it uses; 0 if none.
    """
    config = definition.trial_config({})
    if not isinstance(config, Config):
        return True  # nothing is known of it
    settings = [point.setting for point in definition.listed_points]
    sides = [value for each in settings if isinstance(value := each.get("image_size"), int)]
    for parameter in definition.space:
        if parameter.name == "image_size":
            sides += [value for value in parameter.choices_or_bounds() if isinstance(value, int)]
    epochs = [value for each in settings if isinstance(value := each.get("epochs"), int)]
    shape = known_shape(config)
    images = files if shape is None else shape.train + shape.selection
    passes = definition.setting_count * definition.search.replicates * images
    passes *= max(definition.max_epochs(), config.epochs, *epochs, 0)
    megapixels = max(config.image_size, *sides, 0) ** 2 / 1e6
    return passes * megapixels * MAX_SECONDS_PER_MEGAPIXEL <= LONG_HOURS * 3600


def _estimate_hours(study: Sequence[str], devices: str, data: Path) -> tuple[float, float] | None:
    """Return the hours that a study takes without pruning and with it; None if that is not soon known."""
    logs.tell("estimating how long this takes; --yes skips that")
    words = [*HPO_COMMAND, "plan", *study, "--devices", devices, "--data", str(data), "--json"]
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, timeout=ESTIMATE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        logs.tell(f"no estimate within {ESTIMATE_SECONDS:.0f} s; 'hpo plan' takes longer")
        return None
    if done.returncode:
        return None  # it has said why; workers will say it again
    found = json.loads(done.stdout)
    return found["hours"], found["pruned_hours"]
