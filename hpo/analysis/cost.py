"""What a study will cost, before it is started: ``hpo plan``.

Each kind of training (model, optimizer, image size, batch size, and what is tuned) makes a few steps, and
evaluates a batch, on random images of the data set's shape, on this device and with a worker's threads. No
weight is loaded, and of a published data set no image read, so nothing has to be downloaded to know the
price. An epoch is then so many steps and so many images to evaluate::

    seconds per epoch = steps x median step + images measured on x seconds to evaluate one

Left out: reading the data, what several workers on one processor take from each other, and the fact that a
frozen model's features are computed only once (``tune = "head"`` costs at most what it says). The first of
a person's own objective's epochs is run as it is, for the first setting of the study.
"""

import contextlib
import math
import resource
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from hpo.analysis.formatting import format_params, format_seconds
from hpo.study import space
from hpo.study.definition import Definition, Pruner
from hpo.training import custom, datasets, loop, models
from hpo.training import precision as numerics
from hpo.training.config import Config, CustomConfig
from hpo.training.datasets import Dataset, Split
from hpo.training.devices import WorkerDevice

MAX_STEPS = 6  # of each kind, at most; the first one only warms up
MAX_STEP_SECONDS = 3.0  # of steps, after which no further one is made


@dataclass(frozen=True, kw_only=True)
class MeasuredCost:
    """One kind of training on this device."""

    step_seconds: float
    image_seconds: float  # to evaluate one image
    peak_gib: float  # memory: of the GPU, or of this process


@dataclass(frozen=True, kw_only=True)
class KnownCost:
    """What an earlier study spent on a setting."""

    epoch_seconds: float
    epochs: int


@dataclass(frozen=True, kw_only=True)
class CostPart:
    """A listed point, or all trials that a search may spend on one kind of training."""

    point: int | None  # from 1
    setting: dict[str, Any]
    trials: float  # with replicates; of a search, its share
    epochs: int  # of each
    epoch_seconds: float | None  # None: it does not fit into the memory
    peak_gib: float | None
    original_epoch_seconds: float | None  # what the original report printed, or took to be the same
    original_seconds: float | None  # of all its epochs there, whose number need not be that here

    @property
    def seconds(self) -> float:
        """Seconds on one device; of what does not fit, none."""
        return self.trials * self.epochs * (self.epoch_seconds or 0.0)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The price of a study."""

    study: str
    device: str
    workers: int
    images: int  # trained on, an epoch
    selection: int  # measured on, an epoch
    parts: Sequence[CostPart]
    share: float  # of a searched trial's epochs that are run, if its pruner stops all that it may
    prune_points: bool

    @property
    def device_hours(self) -> float:
        """Hours of one device, if nothing is pruned."""
        return sum(part.seconds for part in self.parts) / 3600

    @property
    def pruned_device_hours(self) -> float:
        """Hours of one device, if the pruner stops all that it may."""
        return sum(self._pruned(part) for part in self.parts) / 3600

    def wall_hours(self, device_hours: float) -> float:
        """Give the hours that the workers take for it together: no trial is divided among them."""
        longest = max((part.epochs * (part.epoch_seconds or 0.0) for part in self.parts), default=0.0)
        return max(device_hours / self.workers, longest / 3600)

    @property
    def original_hours(self) -> float | None:
        """Hours that the original report spent on the same points; None if they are not all among its."""
        found = [part.original_seconds for part in self.parts if part.original_seconds]
        return sum(found) / 3600 if len(found) == len(self.parts) else None

    def _pruned(self, part: CostPart) -> float:
        stays = part.point is not None and not self.prune_points
        return part.seconds * (1.0 if stays else self.share)

    def document(self) -> dict[str, Any]:
        """Give it as a JSON document."""
        return {
            **{key: value for key, value in asdict(self).items() if key != "parts"},
            "parts": [asdict(part) for part in self.parts],
            "device_hours": self.device_hours,
            "hours": self.wall_hours(self.device_hours),
            "pruned_device_hours": self.pruned_device_hours,
            "pruned_hours": self.wall_hours(self.pruned_device_hours),
            "original_hours": self.original_hours,
        }


def forecast_cost(
    definition: Definition,
    slots: Sequence[WorkerDevice],
    device: torch.device,
    root: Path,
    tell: Callable[[str], None] = lambda _: None,
    known_cost: Callable[[Mapping[str, Any]], KnownCost | None] = lambda _: None,
) -> Forecast:
    """Measure on ``device``, with a slot's threads, and reckon what the study costs on all slots.

    ``tell`` gets what is being measured, each time it changes. ``known_cost`` says what the original report
    spent on a listed point's setting, or on the setting of a part of a search.
    Raises DataError if a folder of images, or the data set of a kind that is not counted beforehand, is
    not there; HpoError for what no trial could do either.
    """
    torch.set_num_threads(slots[0].threads)
    if device.type == "cpu":
        numerics.keep_freed_memory()  # as a worker does
    settings = definition.trial_config({})
    if isinstance(settings, CustomConfig):
        counts, parts = (0, 0), tuple(_custom_parts(definition))
    else:
        numerics.check_precision("fp32" if settings.precision == "auto" else settings.precision, device)
        numerics.check_compile(settings, device)
        shape = datasets.dataset_shape(settings, root)
        counts, parts = (
            (shape.train, shape.selection),
            tuple(_parts(definition, shape, device, tell, known_cost)),
        )
    search = definition.search
    shares = [run_share(search.pruner, part.epochs, search.replicates) for part in parts]
    return Forecast(
        study=definition.name,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        workers=len(slots),
        images=counts[0],
        selection=counts[1],
        parts=parts,
        share=statistics.fmean(shares) if parts else 1.0,
        prune_points=search.prune_points,
    )


def _parts(
    definition: Definition,
    shape: datasets.DatasetShape,
    device: torch.device,
    tell: Callable[[str], None],
    known_cost: Callable[[Mapping[str, Any]], KnownCost | None],
) -> Iterator[CostPart]:
    known: dict[tuple[Any, ...], MeasuredCost | None] = {}
    names = ("model", "optimizer", "image_size", "batch_size", "tune")
    replicates = definition.search.replicates

    def found(config: Config) -> MeasuredCost | None:
        kind = tuple(getattr(config, name) for name in names)
        if kind not in known:
            tell(f"measuring {format_params(dict(zip(names, kind, strict=True)))}")
            known[kind] = measure_cost(config, shape, device)
        return known[kind]

    def part(config: Config, point: int | None, trials: float, setting: dict[str, Any]) -> CostPart:
        seen = found(config)
        epoch = None
        if seen is not None:
            steps = len(loop.batch_bounds(shape.train, config.batch_size))
            epoch = steps * seen.step_seconds + shape.selection * seen.image_seconds
        earlier = known_cost(setting)
        return CostPart(
            point=point,
            setting=setting,
            trials=trials,
            epochs=config.epochs,
            epoch_seconds=epoch,
            peak_gib=None if seen is None else seen.peak_gib,
            original_epoch_seconds=None if earlier is None else earlier.epoch_seconds,
            original_seconds=None if earlier is None else earlier.epoch_seconds * earlier.epochs,
        )

    for number, point in enumerate(definition.listed_points, 1):
        params = definition.complete_hyperparameters(point)
        setting = params | {name: value for name, value in point.attributes.items() if name not in params}
        config = definition.trial_config(point.setting)
        assert isinstance(config, Config)
        yield part(config, number, float(replicates), setting)
    if definition.searches and definition.search.trials:
        kinds = space.combinations(
            space.with_dependencies(definition.space, (*names, "epochs")), definition.train
        )
        for setting in kinds:
            config = definition.trial_config(setting)
            assert isinstance(config, Config)
            yield part(config, None, replicates * definition.search.trials / len(kinds), setting)


def _custom_parts(definition: Definition) -> Iterator[CostPart]:
    """Give the parts of a study with a person's own objective, after one epoch of its first setting."""
    ends = {parameter.name: parameter.choices_or_bounds()[0] for parameter in definition.space}
    first = definition.trial_config(
        {**ends, **(definition.listed_points[0].setting if definition.listed_points else {})}
    )
    assert isinstance(first, CustomConfig)
    with _track_peak_memory(torch.device("cpu")) as peak:
        epoch = next(custom.CustomRun(first).epochs())
    settings = [(number, point.setting) for number, point in enumerate(definition.listed_points, 1)]
    searched = definition.search.trials if definition.searches else 0
    for number, setting in [*settings, *([(None, {})] if searched else [])]:
        yield CostPart(
            point=number,
            setting=dict(setting),
            trials=float((searched if number is None else 1) * definition.search.replicates),
            epochs=definition.trial_config(setting).epochs,
            epoch_seconds=epoch.seconds,
            peak_gib=peak[0],
            original_epoch_seconds=None,
            original_seconds=None,
        )


def measure_cost(config: Config, shape: datasets.DatasetShape, device: torch.device) -> MeasuredCost | None:
    """Time a few steps and the evaluation of a batch; None if they do not fit into the memory."""
    settings = config.model_copy(update={"weights": "none", "epochs": 1, "limit": None})
    generator = torch.Generator().manual_seed(0)

    def split(images: int) -> Split:
        size = (images, shape.channels, shape.pixels, shape.pixels)
        pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        return Split(images=pixels, labels=torch.arange(images) % shape.classes)

    names = tuple(map(str, range(shape.classes)))
    some = split(max(config.batch_size, 2))
    images = Dataset(
        name=config.dataset, classes=names, train=split((MAX_STEPS + 1) * len(some)), valid=some, test=some
    )
    precision = numerics.default_precision(device) if config.precision == "auto" else config.precision
    chosen = "contiguous" if config.memory_format == "auto" else config.memory_format
    how = numerics.ComputeSettings(
        precision=precision,
        memory_format=chosen,
        compile=config.compile,
        cuda_graphs=config.cuda_graphs,
    )
    try:
        with _track_peak_memory(device) as peak:
            run = loop.TrainingRun(
                settings,
                images,
                device,
                compute_settings=how,
                build_model=models.build_seeded_model,
                wants_pause=lambda: True,
            )
            steps = [
                seconds for _, seconds in zip(range(MAX_STEPS), _time_steps(run, device), strict=False)
            ]
            run.evaluate(run.selection_split)
            started = numerics.synchronized_time(device)
            run.evaluate(run.selection_split)
            evaluation = numerics.synchronized_time(device) - started
    except (torch.OutOfMemoryError, MemoryError):
        return None
    return MeasuredCost(
        step_seconds=statistics.median(steps[1:]),
        image_seconds=evaluation / len(some),
        peak_gib=peak[0],
    )


def _time_steps(run: loop.TrainingRun, device: torch.device) -> Iterator[float]:
    """Give the seconds of each step, until there have been enough."""
    spent, before = 0.0, numerics.synchronized_time(device)
    for count, _ in enumerate(run.epochs()):
        seconds = numerics.synchronized_time(device) - before
        yield seconds
        spent += seconds if count else 0.0
        if count and spent > MAX_STEP_SECONDS:
            return
        before = numerics.synchronized_time(device)


@contextlib.contextmanager
def _track_peak_memory(device: torch.device) -> Iterator[list[float]]:
    """Give a list that holds the highest memory within the block, in GiB, once that is left."""
    found: list[float] = []
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        numerics.return_freed_memory()  # of the kind of training before
        with contextlib.suppress(OSError):  # no Linux: what was highest so far
            Path("/proc/self/clear_refs").write_text("5")
    yield found
    if device.type == "cuda":
        found.append(torch.cuda.max_memory_reserved(device) / 2**30)
        return
    try:
        status = Path("/proc/self/status").read_text()
        found.append(int(status.split("VmHWM:")[1].split()[0]) / 2**20)
    except (OSError, IndexError):
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def run_share(pruner: Pruner, epochs: int, replicates: int = 1) -> float:
    """Give the share of a searched setting's epochs that are run if the pruner stops all that it may.

    asha: of all trials one in ``reduction_factor`` passes each rung; hyperband: the same, averaged over its
    brackets, whose first rungs lie ever later; median and percentile: the others stop at once after the
    first epochs. How well early ranks tell final ones does not come into it. Replicates run whole, of the
    better half of the trials that do.
    """
    if pruner.name == "none":
        return 1.0
    run, whole = _first_share(pruner, epochs)
    return (run + (replicates - 1) * whole / 2) / replicates


def _first_share(pruner: Pruner, epochs: int) -> tuple[float, float]:
    """Give the share of the epochs of settings' first trials that are run, and of trials that end whole."""
    first, factor = min(pruner.min_epochs, epochs), pruner.reduction_factor
    if pruner.name == "patient":
        return 1.0, 1.0
    if pruner.name in ("median", "percentile"):
        kept = 0.5 if pruner.name == "median" else pruner.percentile / 100
        return kept + (1 - kept) * first / epochs, kept
    brackets = int(math.log(epochs / first, factor) + 1e-9) + 1 if pruner.name == "hyperband" else 1
    halved = [_halving(first * factor**each, factor, epochs) for each in range(brackets)]
    run, whole = (statistics.fmean(each) for each in zip(*halved, strict=True))
    return run, whole


def _halving(first: int, factor: int, epochs: int) -> tuple[float, float]:
    rung = min(first, epochs)
    run, passed = float(rung), 1.0
    while rung < epochs:
        passed, first = passed / factor, first * factor
        run += passed * (min(first, epochs) - rung)
        rung = min(first, epochs)
    return run / epochs, passed


def make_table(found: Forecast) -> Table:
    """Give the parts as a table."""
    theirs = any(part.original_epoch_seconds for part in found.parts)
    heads = ["point", "setting", "trials", "epochs", "s/epoch", "GiB", "time"]
    result = Table(*heads, *(["s/epoch there"] if theirs else []), box=None, padding=(0, 1))
    for part in found.parts:
        fits = part.epoch_seconds is not None
        cells = [
            "" if part.point is None else str(part.point),
            ", ".join(f"{key} {value}" for key, value in part.setting.items()) or "searched",
            f"{part.trials:g}" if part.trials.is_integer() else f"{part.trials:.1f}",
            str(part.epochs),
            _format_number(part.epoch_seconds) if part.epoch_seconds else "-",
            f"{part.peak_gib:.1f}" if part.peak_gib else "does not fit",
            format_seconds(part.seconds) if fits else "-",
        ]
        result.add_row(*cells, *([f"{part.original_epoch_seconds or 0:g}"] if theirs else []))
    return result


def summary_lines(found: Forecast) -> Iterator[str]:
    """Give the totals as lines."""
    total, pruned = found.device_hours, found.pruned_device_hours
    crew = f"{found.workers} worker{'s' * (found.workers > 1)} on {found.device}"
    yield f"in all {_format_hours(total)} of one device, {_format_hours(found.wall_hours(total))} with {crew}"
    if pruned < total:
        together = _format_hours(found.wall_hours(pruned))
        yield f"with pruning at best {_format_hours(pruned)} of one device, {together} with {crew}"
    if found.original_hours is not None:
        yield f"the original report spent {_format_hours(found.original_hours)} of one device on these points"
    if misfits := [part for part in found.parts if part.epoch_seconds is None]:
        yield f"not in these totals: {len(misfits)} rows that do not fit into the memory"


def _format_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _format_hours(hours: float) -> str:
    if hours < 2 / 60:
        return f"{hours * 3600:.0f} seconds"
    return f"{hours * 60:.0f} minutes" if hours < 2 else f"{hours:,.1f} hours"
