"""The cost of a study before it is started: ``hpo plan``.

Each kind of training (model, optimizer, image size, batch size, and which layers are tuned) makes a few
steps and evaluates a batch, on random images of the data set's shape, on this device and with a worker's
threads (``step_timing``). No weights are downloaded, and no image of a published data set is read. Then::

    seconds per epoch = steps x median step + images evaluated x seconds to evaluate one image

``epoch_cost`` says what else counts: epochs with a frozen body, and images that are augmented.

Not included are the time to read the data and the time that several workers on one CPU take from each
other. The forecast is an upper bound where trials may end early or features are computed only once
(``Forecast.at_most``). Of a custom objective, one epoch is run as it is, for the study's first setting.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.table import Table

from hpo.analysis import step_timing
from hpo.analysis.epoch_cost import AUGMENTATION_OPTIONS, KIND_OPTIONS, EpochCosts
from hpo.analysis.formatting import format_seconds
from hpo.analysis.pruned_share import run_share
from hpo.search import untried
from hpo.study import space
from hpo.study.definition import Definition
from hpo.training import custom, datasets, precision
from hpo.training.config import Config, is_augmented
from hpo.training.custom_config import CustomConfig, TrialPlace
from hpo.training.devices import WorkerDevice
from hpo.training.folder_scan import FolderScan
from hpo.training.shapes import DatasetShape

# Why a trial may cost less than its forecast, by the option that is responsible.
SAVINGS = {
    "early_stopping": "a trial may end before its last epoch",
    "freeze_epochs": "epochs with a frozen body count in full where freeze_epochs is searched",
    "tune": "the output of frozen layers is computed only once",
}


@dataclass(frozen=True, kw_only=True)
class KnownCost:
    """What an earlier study spent on a setting."""

    epoch_seconds: float
    epochs: int


FindKnownCost = Callable[[Mapping[str, Any]], KnownCost | None]  # gets a setting


@dataclass(frozen=True, kw_only=True)
class CostPart:
    """The cost of a listed point, or of all trials that a search spends on one kind of training."""

    point: int | None  # from 1; None for a part of a search
    setting: dict[str, Any]
    trials: float  # replicates included; for a search, the expected number
    epochs: int  # of each trial
    epoch_seconds: float | None  # None: the training does not fit into the memory
    peak_gib: float | None
    original_epoch_seconds: float | None  # in the original report; None if it has no such point
    original_seconds: float | None  # of all epochs there, which may be another number than here
    at_most: tuple[str, ...] = ()  # options in SAVINGS for which the seconds are an upper bound

    @property
    def seconds(self) -> float:
        """Seconds on one device; 0 if the training does not fit into the memory."""
        return self.trials * self.epochs * (self.epoch_seconds or 0.0)

    @property
    def trial_seconds(self) -> float:
        """Seconds of one trial on one device; 0 if the training does not fit into the memory."""
        return self.epochs * (self.epoch_seconds or 0.0)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The cost of a study; parts that do not fit into the memory count as 0 in every total."""

    study: str
    device: str
    workers: int
    images: int  # trained on in an epoch; 0 for a custom objective
    selection: int  # evaluated on in an epoch; 0 for a custom objective
    parts: Sequence[CostPart]
    share: float  # of the epochs that are run if the pruner stops all that it may; mean over the parts
    prune_points: bool
    left_out_trials: int = 0  # searched trials for which the space has no setting; they do not run

    @property
    def device_hours(self) -> float:
        """Hours of one device for the whole study, if nothing is pruned.

        Parts that do not fit into the memory count as 0.
        """
        return sum(part.seconds for part in self.parts) / 3600

    @property
    def pruned_device_hours(self) -> float:
        """Hours of one device, if the pruner stops all that it may.

        Listed points count in full, unless the study prunes them too.
        """
        return sum(self._pruned_seconds(part) for part in self.parts) / 3600

    @property
    def at_most(self) -> list[str]:
        """The options in ``SAVINGS`` for which the totals are an upper bound, sorted."""
        return sorted({name for part in self.parts for name in part.at_most})

    def _pruned_seconds(self, part: CostPart) -> float:
        is_never_pruned = part.point is not None and not self.prune_points
        return part.seconds * (1.0 if is_never_pruned else self.share)

    def wall_hours(self, device_hours: float) -> float:
        """Return the hours from start to end if all workers share ``device_hours``.

        A trial is never divided among workers, so it is at least the time of the longest trial without
        pruning.
        """
        longest = max((part.trial_seconds for part in self.parts), default=0.0)
        return max(device_hours / self.workers, longest / 3600)

    @property
    def original_hours(self) -> float | None:
        """Hours of one device that the original report spent on the listed points.

        Each point counts once, whatever the replicates, with the report's own number of epochs. None if the
        report lacks a part of the study, as it does for every search and every custom objective.
        """
        found = [part.original_seconds for part in self.parts if part.original_seconds]
        return sum(found) / 3600 if len(found) == len(self.parts) else None

    def document(self) -> dict[str, Any]:
        """Return the forecast as a JSON document.

        Beside the fields it has the totals; ``hours`` and ``pruned_hours`` are those of all workers
        together, from start to end.
        """
        return {
            **{key: value for key, value in asdict(self).items() if key != "parts"},
            "parts": [asdict(part) for part in self.parts],
            "device_hours": self.device_hours,
            "hours": self.wall_hours(self.device_hours),
            "pruned_device_hours": self.pruned_device_hours,
            "pruned_hours": self.wall_hours(self.pruned_device_hours),
            "original_hours": self.original_hours,
            "at_most": self.at_most,
        }


def forecast_cost(
    definition: Definition,
    workers: Sequence[WorkerDevice],
    device: torch.device,
    root: Path,
    tell: Callable[[str], None] = lambda _: None,
    known_cost: FindKnownCost = lambda _: None,
    scan: FolderScan | None = None,
) -> Forecast:
    """Measure each kind of training on one device, and compute what the study costs on all workers.

    It sets this process's number of PyTorch threads to that of a worker. A custom objective runs for one
    epoch, on whatever device it uses; its errors pass through.

    Args:
        definition: The study.
        workers: The devices and threads of the workers, at least one.
        device: Where to measure.
        root: The folder with data sets. Only a data set whose size is not known beforehand is read from it.
        tell: Gets a text that says what is being measured, each time that it changes.
        known_cost: Returns what the original report spent on a setting; None if it has no such point.
        scan: What the headers of the study's files say, if they were read already.

    Raises:
        DataError: A data set that has to be read cannot be.
        DeviceError: The device cannot run the precision or compilation that the study asks for.
        DefinitionError: There is no such custom objective.
    """
    _act_as_worker(workers[0], device)
    config = definition.trial_config({})
    if isinstance(config, CustomConfig):
        counts, parts = (0, 0), tuple(_custom_parts(definition))
    else:
        precision.check_precision("fp32" if config.precision == "auto" else config.precision, device)
        precision.check_compile(config, device)
        shape = datasets.dataset_shape(config, root, scan)
        counts = (shape.train, shape.selection)
        parts = tuple(_PartBuilder(definition, shape, device, tell, known_cost).parts())
    search = definition.search
    return Forecast(
        study=definition.name,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        workers=len(workers),
        images=counts[0],
        selection=counts[1],
        parts=parts,
        share=fmean([run_share(search.pruner, each.epochs, search.replicates) for each in parts] or [1.0]),
        prune_points=search.prune_points,
        left_out_trials=definition.searched_trials - _searched_trials(definition),
    )


def _act_as_worker(worker: WorkerDevice, device: torch.device) -> None:
    torch.set_num_threads(worker.threads)
    if device.type == "cpu":
        precision.keep_freed_memory()


def _searched_trials(definition: Definition) -> int:
    """Return how many searched trials can run: a study ends early when every setting has a trial."""
    scarce = untried.scarce_settings(definition)
    return definition.searched_trials if scarce is None else len(scarce)


def _trials_by_kind(definition: Definition, kinds: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return how many searched trials are expected of each kind of training.

    If all settings that the space has are tried, these are counted, else each kind gets the same number.
    """
    scarce = untried.scarce_settings(definition)
    if scarce is not None:
        counts = [sum(kind.items() <= setting.items() for setting in scarce) for kind in kinds]
        if sum(counts) == len(scarce):  # it is not if a kind has a range, of which only the ends are kinds
            return [float(count) for count in counts]
    return [_searched_trials(definition) / len(kinds)] * len(kinds)


class _PartBuilder:
    """Makes the parts of a study without a custom objective."""

    def __init__(
        self,
        definition: Definition,
        shape: DatasetShape,
        device: torch.device,
        tell: Callable[[str], None],
        known_cost: FindKnownCost,
    ) -> None:
        self.definition, self.known_cost = definition, known_cost
        self.costs = EpochCosts(shape, device, tell)

    def parts(self) -> Iterator[CostPart]:
        """Yield a part for each listed point, then one for each kind of training that a search may use."""
        definition, replicates = self.definition, self.definition.search.replicates
        for number, point in enumerate(definition.listed_points, 1):
            params = definition.complete_hyperparameters(point)
            attributes = {key: value for key, value in point.attributes.items() if key not in params}
            config = self._config(point.setting)
            yield self._part(config, [config], number, float(replicates), params | attributes)
        if definition.searches and definition.search.trials:
            names = space.with_dependencies(definition.space, (*KIND_OPTIONS, "epochs"))
            kinds = space.combinations(names, definition.train)
            for setting, trials in zip(kinds, _trials_by_kind(definition, kinds), strict=True):
                ways = self._augmented_ways(setting)
                yield self._part(self._config(setting), ways, None, replicates * trials, setting)

    def _augmented_ways(self, setting: Mapping[str, Any]) -> list[Config]:
        """Return settings that complete ``setting`` with all ways to augment that the search may choose."""
        names = space.with_dependencies(self.definition.space, AUGMENTATION_OPTIONS)
        ways = space.combinations(names, {**self.definition.train, **setting})
        fitting = [way for way in ways if all(setting.get(key, way[key]) == way[key] for key in way)]
        return [self._config({**setting, **way}) for way in fitting]

    def _config(self, setting: Mapping[str, Any]) -> Config:
        config = self.definition.trial_config(setting)
        assert isinstance(config, Config)
        return config

    def _part(
        self,
        config: Config,
        ways: Sequence[Config],
        point: int | None,
        trials: float,
        setting: dict[str, Any],
    ) -> CostPart:
        found, known = self.costs.find(config, ways), self.known_cost(setting)
        return CostPart(
            point=point,
            setting=setting,
            trials=trials,
            epochs=config.epochs,
            epoch_seconds=None if found is None else found.seconds,
            peak_gib=None if found is None else found.peak_gib,
            original_epoch_seconds=None if known is None else known.epoch_seconds,
            original_seconds=None if known is None else known.epoch_seconds * known.epochs,
            at_most=tuple(self._savings(config, ways, point)),
        )

    def _savings(self, config: Config, ways: Sequence[Config], point: int | None) -> Iterator[str]:
        """Yield the options in ``SAVINGS`` because of which a trial may cost less than its forecast."""
        searched = () if point is not None else {each.name for each in self.definition.space}
        if config.early_stopping is not None or "early_stopping" in searched:
            yield "early_stopping"
        if config.tune == "all" and "freeze_epochs" in searched:
            yield "freeze_epochs"
        if config.tune == "head" and not all(map(is_augmented, ways)):
            yield "tune"


def _custom_parts(definition: Definition) -> Iterator[CostPart]:
    """Yield the parts of a study with a custom objective, after one epoch of its first setting."""
    first_values = {parameter.name: parameter.choices_or_bounds()[0] for parameter in definition.space}
    listed = definition.listed_points
    first = definition.trial_config({**first_values, **(listed[0].setting if listed else {})})
    assert isinstance(first, CustomConfig)
    with (
        tempfile.TemporaryDirectory(prefix="hpo-") as folder,
        step_timing.track_peak_memory(torch.device("cpu")) as peak,
    ):
        place = TrialPlace(device="cpu", trial=0, folder=Path(folder))
        epoch = next(custom.CustomRun(first, place=place).epochs())
    settings = [(number, point.setting) for number, point in enumerate(listed, 1)]
    searched = _searched_trials(definition)
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


def make_table(found: Forecast) -> Table:
    """Return the parts of a forecast as a table for the terminal.

    Its last column, the original report's seconds per epoch, is there only if one of the parts has them.
    """
    has_original = any(part.original_epoch_seconds for part in found.parts)
    columns = ["point", "setting", "trials", "epochs", "s/epoch", "GiB", "time"]
    table = Table(*columns, *(["s/epoch there"] if has_original else []), box=None, padding=(0, 1))
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
        table.add_row(*cells, *([f"{part.original_epoch_seconds or 0:g}"] if has_original else []))
    return table


def summary_lines(found: Forecast) -> Iterator[str]:
    """Yield the totals of a forecast as lines of text.

    Left out where they say nothing are the totals with pruning, why the totals are an upper bound, and the
    total of the original report. The last line counts the parts that do not fit into the memory, if any.
    """
    total, pruned = found.device_hours, found.pruned_device_hours
    workers = f"{found.workers} worker{'s' * (found.workers > 1)} on {found.device}"
    wall = _format_hours(found.wall_hours(total))
    at_most = "at most " if found.at_most else ""
    yield f"in all {at_most}{_format_hours(total)} of one device, {wall} with {workers}"
    if found.at_most:
        yield f"at most, because {'; '.join(SAVINGS[name] for name in found.at_most)}"
    if pruned < total:
        wall = _format_hours(found.wall_hours(pruned))
        yield f"with pruning at best {_format_hours(pruned)} of one device, {wall} with {workers}"
    if found.original_hours is not None:
        hours = _format_hours(found.original_hours)
        yield f"the original report spent {hours} of one device on these points"
    if found.left_out_trials:
        count, settings = found.left_out_trials, "the space has no setting left for them"
        yield f"not in these totals: {count} searched trial{'s' * (count > 1)}; {settings}"
    if misfits := [part for part in found.parts if part.epoch_seconds is None]:
        yield f"not in these totals: {len(misfits)} rows that do not fit into the memory"


def _format_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _format_hours(hours: float) -> str:
    if hours < 2 / 60:
        return f"{hours * 3600:.0f} seconds"
    return f"{hours * 60:.0f} minutes" if hours < 2 else f"{hours:,.1f} hours"
