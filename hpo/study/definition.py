"""A study's definition: which options are fixed, searched and listed, and how it is stored.

A definition is a value. ``hpo.study.file`` reads one from TOML. It is stored with the study as JSON with
every default spelled out (``dump_definition``), and workers read it back (``load_definition``). Therefore
neither a moved file nor a new default in hpo changes a study that has begun. ``hpo.study.extension``
extends a stored definition by a changed file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from hpo.errors import DefinitionError
from hpo.study.search_options import SEARCH_VALUES_BEFORE, Search
from hpo.study.space import (
    Parameter,
    Scalar,
    Value,
    combinations,
    covering_parameter,
    is_active,
    with_dependencies,
)
from hpo.training import config, option_tables
from hpo.training.config import Config
from hpo.training.custom_config import CustomConfig
from hpo.training.metric import COSTS, METRICS, Metric, custom_metric
from hpo.training.presets import IMAGENET, preset_of_weights

# Options of [search] that end a study early.
BUDGETS = ("epochs", "device_hours", "deadline", "target")
# Options that decide whether a model can be trained at all.
MODEL_OPTIONS = ("model", "image_size", "weights", "tune", "dropout", "drop_path", "batch_size")
# User attributes of a trial that hpo writes, which the attributes of a point must not replace.
TRIAL_ATTRIBUTES = (
    *("point", "enqueued", "repeats", "attempts", "failure", "pruned", "weights", "checkpoint"),
    *("epochs", "best_epoch", "epoch_seconds", "wall_time_seconds", "hardware"),
    *("parameters", "latency_ms", "objective_code"),
)


@dataclass(frozen=True, kw_only=True)
class BudgetLimits:
    """The budgets of a study.

    Attributes:
        values: The limits that are set, by option of ``[search]``; a deadline in seconds since 1970.
        metric: What the target is a value of.
    """

    values: Mapping[str, float]
    metric: Metric


class Point(BaseModel):
    """One listed setting, which is run exactly once.

    Options that it leaves out come from ``[train]``. Its attributes are free facts: they become user
    attributes of its trial and do not affect training.
    """

    model_config = ConfigDict(frozen=True)

    setting: dict[str, Value]
    attributes: dict[str, Scalar] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_stored_site(cls, given: Any) -> Any:
        """Accept the field ``site`` of definitions that were stored before points had attributes."""
        if not isinstance(given, Mapping) or "site" not in given:
            return given
        rest = {name: value for name, value in given.items() if name != "site"}
        return rest if given["site"] is None else rest | {"attributes": {"site": given["site"]}}

    def hyperparameters(self) -> dict[str, Value]:
        """Return the options that are parameters of its trial: all but its epochs and seed."""
        return {k: v for k, v in self.setting.items() if k not in config.RUN_OPTIONS}

    def run_options(self) -> dict[str, Value]:
        """Return the options that are no parameters of its trial: its epochs and seed."""
        return {k: v for k, v in self.setting.items() if k in config.RUN_OPTIONS}


class Definition(BaseModel):
    """Everything that a worker needs to know about a study."""

    model_config = ConfigDict(frozen=True)

    name: str
    train: dict[str, Value]  # every option, with defaults spelled out: the fallback of a setting
    space: tuple[Parameter, ...] = ()  # each after those that its condition names
    search: Search = Search()
    points: tuple[Point, ...] = ()
    enqueued: tuple[Point, ...] = ()  # queued later by ``hpo enqueue``; no study file lists them
    left_out_trials: int = 0  # searched trials that were removed, since every possible setting had run
    finishes: str | None = None  # in a study made by ``hpo finish``: the study whose best settings it runs
    # Options of ``train`` that have their default because the study file leaves them out; not stored.
    left_out: frozenset[str] = Field(default=frozenset(), exclude=True, repr=False)

    def __eq__(self, other: object) -> bool:
        """Return whether both would be stored alike."""
        return isinstance(other, Definition) and self.model_dump() == other.model_dump()

    @property
    def metric(self) -> Metric:
        """What its trials are compared by; with several objectives the first metric among them."""
        if self.option_table is option_tables.CUSTOM_OPTIONS:
            return custom_metric(self.search.metric_name, self.search.direction)
        return METRICS[str(self.train["metric"])]

    @property
    def objectives(self) -> tuple[Metric, ...]:
        """What its trials are compared by: several metrics and costs, or the one metric."""
        known = METRICS | COSTS | {self.metric.name: self.metric}
        return tuple(known[name] for name in self.search.objectives or (self.metric.name,))

    @property
    def idle_options(self) -> tuple[str, ...]:
        """The options that change nothing about its trials.

        These are the options of files if its images are none, and ``preprocessing`` if the weights of every
        trial ask for ImageNet's.
        """
        if self.option_table is option_tables.CUSTOM_OPTIONS:
            return ()
        wanted = {preset_of_weights(model, weights) for model, weights in self.model_weights()}
        preprocessing = ("preprocessing",) if wanted <= {IMAGENET} else ()
        reads_files = config.reads_files(str(self.train["dataset"]))
        return preprocessing if reads_files else (*config.FILE_OPTIONS, *preprocessing)

    @property
    def budget_limits(self) -> BudgetLimits | None:
        """The study's budgets; None if it has none."""
        given = {name: getattr(self.search, name) for name in BUDGETS}
        values = {
            name: value.timestamp() if isinstance(value, datetime) else value
            for name, value in given.items()
            if value is not None
        }
        return BudgetLimits(values=values, metric=self.metric) if values else None

    @property
    def searches(self) -> bool:
        """Whether a sampler proposes settings (any but "grid"), even if ``search.trials`` is 0."""
        return self.search.sampler.name != "grid"

    @property
    def setting_count(self) -> int:
        """The number of settings that the study runs; without replicates, of trials."""
        return len(self.listed_points) + self.searched_trials

    @property
    def searched_trials(self) -> int:
        """The number of trials whose settings a sampler proposes, without those left out."""
        return self.search.trials - self.left_out_trials if self.searches else 0

    @property
    def listed_points(self) -> tuple[Point, ...]:
        """Every setting that is run exactly once: the file's points, then those queued by hand."""
        return self.points + self.enqueued

    def point_at(self, index: int | None) -> Point | None:
        """Return the point of the study file with an index; None if there is none with that index.

        Args:
            index: What a trial's attribute ``grid_id`` says; not negative, or None.
        """
        return self.points[index] if index is not None and index < len(self.points) else None

    def listed_setting(self, attributes: Mapping[str, Any]) -> Mapping[str, Value]:
        """Return the hyperparameters of a trial that gets none from the sampler; empty for any other.

        Args:
            attributes: The system attributes of the trial.
        """
        point = self.point_at(attributes.get("grid_id"))
        return attributes.get("fixed_params", {}) if point is None else self.complete_hyperparameters(point)

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """The names of all attributes of the points, in order of appearance."""
        return tuple(dict.fromkeys(name for point in self.listed_points for name in point.attributes))

    @property
    def option_table(self) -> option_tables.OptionTable:
        """The options that the study may use; ``hpo finish`` has its own table for built-in training."""
        options = option_tables.option_table(self.train)
        if self.finishes and options is option_tables.BUILT_IN_OPTIONS:
            return option_tables.FINAL_OPTIONS
        return options

    @property
    def script_function(self) -> str:
        """The name of an objective that only its own script or notebook can run; else empty."""
        module, _, function = str(self.train.get("objective", "")).partition(":")
        return function if module == "__main__" else ""

    def trial_config(self, setting: Mapping[str, Any]) -> Config | CustomConfig:
        """Return the complete settings of a trial that runs ``setting``; other options come from ``train``.

        Raises:
            ValidationError: If pydantic refuses a value; the checks of a study file exclude that.
        """
        return self.option_table.config_class.model_validate({**self.train, **setting})

    def complete_hyperparameters(self, point: Point) -> dict[str, Value]:
        """Return a point's hyperparameters, including searched ones that the point leaves out.

        Of these only those whose condition holds and that have a value in ``train``. If the study searches
        nothing, the trial of a point has only the parameters that the point names.
        """
        whole = self.train | point.setting
        active = [p.name for p in self.space if is_active(p, whole)]
        searched = {name: whole[name] for name in active if name in whole}
        return (searched if self.searches else {}) | point.hyperparameters()

    def models(self) -> set[str]:
        """Return the names of all models that trials may have; none for a custom objective."""
        if self.option_table is option_tables.CUSTOM_OPTIONS:
            return set()
        searched = [
            value for each in self.space if each.name == "model" for value in each.choices_or_bounds()
        ]
        listed = [point.setting["model"] for point in self.listed_points if "model" in point.setting]
        return {str(name) for name in (self.train["model"], *searched, *listed)}

    def model_configs(self) -> Iterator[tuple[str, Config]]:
        """Yield complete settings for every kind of model that the study can train.

        For searched trials these are all combinations of the options that decide whether a model accepts
        its images and weights (``MODEL_OPTIONS``); other options have their fallback value. A custom
        objective has none, since hpo does not know its models.

        Yields:
            The part of the study file that the settings come from ("" for ``[space]``, "setting" for one
            that was queued by hand), and the settings.

        Raises:
            OverflowError: If there are more than ``MAX_COMBINATIONS``.
        """
        if self.option_table is option_tables.CUSTOM_OPTIONS:
            return
        for section, setting in self._kinds_of(MODEL_OPTIONS):
            yield section, Config.model_validate({**self.train, **setting})

    def model_weights(self) -> set[tuple[str, str]]:
        """Return the models that trials may have, each with its option ``weights``; none if custom."""
        if self.option_table is option_tables.CUSTOM_OPTIONS:
            return set()
        settings = ({**self.train, **setting} for _, setting in self._kinds_of(("model", "weights")))
        return {(str(each["model"]), str(each["weights"])) for each in settings}

    def _kinds_of(self, options: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield every listed setting, and those that searched trials can have of these options."""
        for index, point in enumerate(self.points, 1):
            yield f"points[{index}]", point.setting
        for point in self.enqueued:
            yield "setting", point.setting
        if self.searches and self.search.trials:
            for setting in combinations(with_dependencies(self.space, options), self.train):
                yield "", setting

    def max_epochs(self) -> int:
        """Return the largest number of epochs that a trial can have which the pruner may end.

        Listed points count only with ``search.prune_points``.
        """
        listed = [point.setting.get("epochs") for point in self.listed_points if self.search.prune_points]
        return max([self._max_searched_epochs(), *(each for each in listed if isinstance(each, int))])

    def _max_searched_epochs(self) -> int:
        fallback = self.trial_config({}).epochs
        for parameter in self.space:
            if parameter.name == "epochs":
                values = [value for value in parameter.choices_or_bounds() if isinstance(value, int)]
                return max([*values, fallback] if parameter.condition() else values)
        return fallback

    def parameters(self) -> dict[str, Parameter]:
        """Return every parameter that a trial of this study can have, by name.

        These are the searched ones, and for other options of listed points what ``covering_parameter``
        makes of their values.
        """
        searched = {p.name: p for p in self.space} if self.searches else {}
        settings = [self.complete_hyperparameters(point) for point in self.listed_points]
        others = dict.fromkeys(n for setting in settings for n in setting if n not in searched)
        return searched | {
            name: covering_parameter(name, [s[name] for s in settings if name in s]) for name in others
        }


def dump_definition(definition: Definition) -> str:
    """Return a definition as the JSON text that is stored with its study."""
    return definition.model_dump_json()


def load_definition(text: str) -> Definition:
    """Read a stored definition.

    Raises:
        DefinitionError: If another version of hpo stored something that this one does not know.
    """
    try:
        found = Definition.model_validate_json(text, strict=False)
        found.trial_config({})  # raises for an option that is unknown here
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DefinitionError(
            f"the stored definition's {where} is unknown here ({first['msg']}); "
            "use the version of hpo that made the study"
        ) from error
    missing = SEARCH_VALUES_BEFORE.keys() - found.search.model_fields_set
    search = found.search.model_copy(update={name: SEARCH_VALUES_BEFORE[name] for name in missing})
    train = _options_before(found.option_table) | found.train
    return found.model_copy(update={"train": train, "search": search})


def _options_before(options: option_tables.OptionTable) -> dict[str, Value]:
    """Return the values of all options in studies that were stored before the options existed."""
    names = options.options or ()
    return {
        name: config.VALUES_BEFORE.get(name, options.config_class.model_fields[name].default)
        for name in names
    }
