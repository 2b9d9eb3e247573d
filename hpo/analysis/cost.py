"""The cost of a study before it is started: ``hpo plan``.

Each kind of training (model, optimizer, image size, batch size, and which layers are tuned) makes a few
steps and evaluates a batch, on random images of the data set's shape, on this device and with a worker's
threads (``step_timing``). No weights are downloaded, and no image of a published data set is read. Then::

    seconds per epoch = steps x median step + images evaluated x seconds to evaluate one image

``epoch_cost`` says what else counts: epochs with a frozen body, and images that are augmented.

Where steps are slow, they are made with few images (``epoch_cost.CostsByBatchSize``). Not included are the
time to read the data and the time that several workers on one CPU take from each other. The forecast is an
upper bound where trials may end early or features are computed only once (``Forecast.at_most``). Of a
custom objective, one epoch is run as it is, for the study's first setting.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from hpo.analysis import disk_space, step_timing
from hpo.analysis.disk_space import DiskSpace
from hpo.analysis.epoch_cost import AUGMENTATION_OPTIONS, KIND_OPTIONS, EpochCosts
from hpo.analysis.pruned_share import run_share
from hpo.search import untried
from hpo.study import space
from hpo.study.definition import Definition
from hpo.study.search_options import Search
from hpo.study.strategy import describe_strategy
from hpo.training import custom, datasets, precision, weights
from hpo.training.config import Config, is_augmented
from hpo.training.custom_config import CustomConfig, TrialPlace
from hpo.training.devices import WorkerDevice
from hpo.training.folder_scan import FolderScan
from hpo.training.shapes import DatasetShape
from hpo.training.weights import MissingFile

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
    pass_seconds: float = 0.0  # to compute the output of frozen layers once; 0 if that is not kept
    weights_bytes: int = 0  # of a trial's weights; 0 if they are not known
    checkpoint_bytes: int = 0

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
    disk: DiskSpace | None = None  # None: what a custom objective stores is not known
    sampler: str = ""
    pruner: str = ""
    strategy: str | None = None  # why these two, in a line; None if the study file names them
    missing_files: tuple[MissingFile, ...] = ()  # weights that trials will download

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
    def missing_weights(self) -> list[str]:
        """The URLs of the weights that trials will download."""
        return [each.url for each in self.missing_files]

    @property
    def at_most(self) -> list[str]:
        """The options in ``SAVINGS`` for which the totals are an upper bound, sorted."""
        return sorted({name for part in self.parts for name in part.at_most})

    @property
    def pass_seconds(self) -> float:
        """Seconds in which the output of frozen layers is computed, once for all trials of each model."""
        once = {
            tuple(map(part.setting.get, ("model", "image_size"))): part.pass_seconds for part in self.parts
        }
        return sum(once.values())

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
            **{key: value for key, value in asdict(self).items() if key != "missing_files"},
            "device_hours": self.device_hours,
            "hours": self.wall_hours(self.device_hours),
            "pruned_device_hours": self.pruned_device_hours,
            "pruned_hours": self.wall_hours(self.pruned_device_hours),
            "original_hours": self.original_hours,
            "at_most": self.at_most,
            "missing_weights": self.missing_weights,
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
    """Measure each kind of training with a worker's number of threads; compute the cost on all workers.

    Args:
        definition: The study.
        workers: The devices and threads of the workers, at least one.
        device: Where to measure.
        root: The folder with data sets; only a set whose size is not known beforehand is read from it.
        tell: Gets a text that says what is being measured, each time that it changes.
        known_cost: Returns what the original report spent on a setting; None if it has no such point.
        scan: What the headers of the study's files say, if they were read already.

    Raises:
        DataError: A data set that has to be read cannot be.
        DeviceError: The device cannot run the study's precision or compilation.
        DefinitionError: There is no such custom objective.
    """
    _act_as_worker(workers[0], device)
    if isinstance(definition.trial_config({}), CustomConfig):
        counts, parts, images_bytes = (0, 0), tuple(_custom_parts(definition)), 0
    else:
        shape = _checked_shape(definition, device, root, scan)
        counts, builder = (shape.train, shape.selection), _PartBuilder(definition, known_cost)
        parts = tuple(builder.parts(EpochCosts(shape, device, tell, builder.configs)))
        images_bytes = disk_space.decoded_bytes(builder.ways, shape, scan)
    search = definition.search
    return Forecast(
        study=definition.name,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        workers=len(workers),
        images=counts[0],
        selection=counts[1],
        parts=parts,
        share=_mean_share(search, parts),
        prune_points=search.prune_points,
        left_out_trials=definition.searched_trials - _searched_trials(definition),
        disk=disk_space.disk_space(definition, parts, len(workers), images_bytes),
        sampler=search.sampler.name,
        pruner=search.pruner.name,
        strategy=describe_strategy(definition),
        missing_files=tuple(weights.missing_files(sorted(definition.model_weights()))),
    )


def _mean_share(search: Search, parts: Sequence[CostPart]) -> float:
    """Return the share of the epochs that are run if the pruner stops all that it may."""
    return fmean([run_share(search.pruner, each.epochs, search.replicates) for each in parts] or [1.0])


def _checked_shape(
    definition: Definition, device: torch.device, root: Path, scan: FolderScan | None
) -> DatasetShape:
    """Return the size of a study's data set, once it is clear that the device can run the study."""
    config = definition.trial_config({})
    assert isinstance(config, Config)
    precision.check_precision("fp32" if config.precision == "auto" else config.precision, device)
    precision.check_compile(config, device)
    return datasets.dataset_shape(config, root, scan)


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


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """A part before it is measured."""

    config: Config
    ways: Sequence[Config]  # of augmenting its images
    point: int | None
    trials: float
    setting: dict[str, Any]


class _PartBuilder:
    """Makes the parts of a study without a custom objective."""

    def __init__(self, definition: Definition, known_cost: FindKnownCost) -> None:
        self.definition, self.known_cost = definition, known_cost
        self._planned = tuple(self._plan())
        self.configs = [each.config for each in self._planned]
        self.ways = [way for each in self._planned for way in each.ways]

    def parts(self, costs: EpochCosts) -> Iterator[CostPart]:
        """Yield the measured parts."""
        return (self._part(each, costs) for each in self._planned)

    def _plan(self) -> Iterator[_Planned]:
        """Yield a part for each listed point, then one for each kind of training that a search may use."""
        definition, replicates = self.definition, self.definition.search.replicates
        for number, point in enumerate(definition.listed_points, 1):
            params = definition.complete_hyperparameters(point)
            attributes = {key: value for key, value in point.attributes.items() if key not in params}
            config, setting = self._config(point.setting), params | attributes
            yield _Planned(
                config=config, ways=[config], point=number, trials=float(replicates), setting=setting
            )
        if definition.searches and definition.search.trials:
            names = space.with_dependencies(definition.space, (*KIND_OPTIONS, "epochs"))
            kinds = space.combinations(names, definition.train)
            for setting, trials in zip(kinds, _trials_by_kind(definition, kinds), strict=True):
                yield _Planned(
                    config=self._config(setting),
                    ways=self._augmented_ways(setting),
                    point=None,
                    trials=replicates * trials,
                    setting=setting,
                )

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

    def _part(self, planned: _Planned, costs: EpochCosts) -> CostPart:
        found, known = costs.find(planned.config, planned.ways), self.known_cost(planned.setting)
        at_most = tuple(self._savings(planned.config, planned.ways, planned.point))
        return CostPart(
            point=planned.point,
            setting=planned.setting,
            trials=planned.trials,
            epochs=planned.config.epochs,
            epoch_seconds=None if found is None else found.seconds,
            peak_gib=None if found is None else found.peak_gib,
            original_epoch_seconds=None if known is None else known.epoch_seconds,
            original_seconds=None if known is None else known.epoch_seconds * known.epochs,
            at_most=at_most,
            pass_seconds=found.pass_seconds if found and "tune" in at_most else 0.0,
            weights_bytes=0 if found is None else found.weights_bytes,
            checkpoint_bytes=0 if found is None else found.checkpoint_bytes,
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
