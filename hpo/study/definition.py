"""A study's definition: what is fixed, searched and listed, how it is stored, and how it is extended.

A definition is a value. ``studyfile`` reads one from TOML; it is stored with the study as JSON with
every default spelled out (``dumps``) and read back by workers (``loads``), so that neither a moved
file nor a new default of ours changes a study under way.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hpo.errors import DefinitionError, quote_value
from hpo.study import space as spaces
from hpo.study.space import STRICT_CONFIG
from hpo.training import config
from hpo.training.config import Config, CustomConfig


class Sampler(BaseModel):
    """How the next setting is chosen."""

    model_config = STRICT_CONFIG

    name: Annotated[
        Literal["tpe", "gp", "qmc", "random", "grid"],
        Field(description="grid runs the listed points, or every combination of the lists in [space]"),
    ] = "tpe"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class Pruner(BaseModel):
    """When a searched trial is stopped early."""

    model_config = STRICT_CONFIG

    name: Literal["asha", "hyperband", "median", "percentile", "patient", "none"] = "asha"
    min_epochs: Annotated[
        int, Field(ge=1, le=100_000, description="epochs that every trial runs before it can be pruned")
    ] = 2
    reduction_factor: Annotated[
        int, Field(ge=2, le=1000, description="hyperband and asha: one in so many goes on")
    ] = 4
    startup_trials: Annotated[
        int, Field(ge=0, le=1_000_000, description="median and percentile: trials that run in full first")
    ] = 5
    percentile: Annotated[
        float, Field(gt=0, lt=100, description="percentile: the best so many percent go on")
    ] = 25.0
    patience: Annotated[
        int,
        Field(ge=1, le=100_000, description="patient: so many epochs in a row may be worse than the best"),
    ] = 5


def _to_utc(moment: datetime) -> datetime:
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).astimezone(UTC)


def _list_to_tuple(given: Any) -> Any:
    return tuple(given) if isinstance(given, list) else given


BUDGETS = ("epochs", "device_hours", "deadline", "target")  # options of [search] that end a study early


class Search(BaseModel):
    """How much is searched, and how."""

    model_config = STRICT_CONFIG

    trials: Annotated[
        int, Field(ge=0, le=1_000_000, description="searched trials; listed points run besides")
    ] = 20
    replicates: Annotated[
        int, Field(ge=1, le=1000, description="seeds that a setting runs with; their mean is what counts")
    ] = 1
    epochs: Annotated[int | None, Field(ge=1, description="epochs of all trials together")] = None
    device_hours: Annotated[
        float | None, Field(gt=0, description="hours that all workers together train and evaluate")
    ] = None
    deadline: Annotated[
        Annotated[datetime, AfterValidator(_to_utc)] | None,
        Field(description="date and time from which on no epoch begins; without an offset, UTC"),
    ] = None
    target: Annotated[
        float | None, Field(gt=0, le=1, description="accuracy that is enough, as a fraction")
    ] = None
    sampler: Sampler = Sampler()
    pruner: Pruner = Pruner()
    prune_points: Annotated[bool, Field(description="let listed points be pruned too")] = False
    chance_epochs: Annotated[
        int,
        Field(ge=0, le=100_000, description="epochs after warm-up to do better than guessing; 0: no limit"),
    ] = 3
    max_attempts: Annotated[
        int, Field(ge=1, le=1000, description="attempts without a new checkpoint before a trial fails")
    ] = 10
    keep_weights: Annotated[
        int | None, Field(ge=1, description="weights stay of the best so many trials; left out: of all")
    ] = None
    start_from: Annotated[
        tuple[str, ...],
        BeforeValidator(_list_to_tuple),
        Field(description="studies of the store that have ended, whose trials the sampler learns from"),
    ] = ()

    @property
    def budget_limits(self) -> dict[str, float]:
        """Give the budgets that are set, by option; a deadline in seconds since 1970."""
        given = {name: getattr(self, name) for name in BUDGETS}
        return {
            name: value.timestamp() if isinstance(value, datetime) else value
            for name, value in given.items()
            if value is not None
        }


class Point(BaseModel):
    """One listed setting, run exactly once; what it leaves out comes from ``[train]``."""

    model_config = ConfigDict(frozen=True)

    setting: dict[str, spaces.Value]
    site: str | None = None

    def hyperparameters(self) -> dict[str, spaces.Value]:
        """Give the options that are parameters of its trial: all but how long and with which seed."""
        return {k: v for k, v in self.setting.items() if k not in config.RUN_OPTIONS}

    def run_options(self) -> dict[str, spaces.Value]:
        """Give the options that say how its trial is run."""
        return {k: v for k, v in self.setting.items() if k in config.RUN_OPTIONS}


class Definition(BaseModel):
    """Everything a worker needs to know of a study."""

    model_config = ConfigDict(frozen=True)

    name: str
    train: dict[str, spaces.Value]  # every option, defaults spelled out: what a setting falls back to
    space: tuple[spaces.Parameter, ...] = ()  # each after those its condition names
    search: Search = Search()
    points: tuple[Point, ...] = ()
    enqueued: tuple[Point, ...] = ()  # queued by hand since; no study file lists them
    finishes: str | None = None  # the study whose best settings ``hpo finish`` runs once more in this one

    @property
    def searches(self) -> bool:
        """Tell whether settings are searched, rather than just listed."""
        return self.search.sampler.name != "grid"

    @property
    def setting_count(self) -> int:
        """How many settings the study runs in all; without replicates, trials."""
        return len(self.listed_points) + (self.search.trials if self.searches else 0)

    @property
    def listed_points(self) -> tuple[Point, ...]:
        """Every setting that is run exactly once: the file's points, then those queued by hand."""
        return self.points + self.enqueued

    @property
    def option_table(self) -> config.OptionTable:
        """The options that the study knows."""
        words = config.option_table(self.train)
        return config.FINAL_OPTIONS if self.finishes and words is config.BUILT_IN_OPTIONS else words

    def trial_config(self, setting: Mapping[str, Any]) -> Config | CustomConfig:
        """Give the complete settings of a trial that tries ``setting``."""
        return self.option_table.config_class.model_validate({**self.train, **setting})

    def complete_hyperparameters(self, point: Point) -> dict[str, spaces.Value]:
        """Give a point's hyperparameters, with those it left out although they are searched.

        Where nothing is searched, a point's trial has the parameters that the point names and no others.
        """
        settled = self.train | point.setting
        active = [p.name for p in self.space if spaces.is_active(p, settled)]
        searched = {name: settled[name] for name in active if name in settled}
        return (searched if self.searches else {}) | point.hyperparameters()

    def model_configs(self) -> Iterator[tuple[str, Config]]:
        """Give the settings of every kind of model that can be trained, each with its part of the file.

        Of what is searched ("") they are all that come of the options which decide whether a model takes
        its images and its weights; the others stand at what a setting falls back to. Raises
        OverflowError if there are too many. A person's own objective has none that we know.
        """
        if self.option_table is config.CUSTOM_OPTIONS:
            return
        for index, point in enumerate(self.points, 1):
            yield f"points[{index}]", Config.model_validate({**self.train, **point.setting})
        for point in self.enqueued:
            yield "setting", Config.model_validate({**self.train, **point.setting})
        if self.searches and self.search.trials:
            deciding = spaces.with_dependencies(
                self.space, ("model", "image_size", "weights", "dropout", "batch_size")
            )
            for setting in spaces.combinations(deciding, self.train):
                yield "", Config.model_validate({**self.train, **setting})

    def max_epochs(self) -> int:
        """Give the most epochs that a searched trial can have."""
        fallback = self.trial_config({}).epochs
        for parameter in self.space:
            if parameter.name == "epochs":
                values = [value for value in parameter.choices_or_bounds() if isinstance(value, int)]
                return max([*values, fallback] if parameter.condition() else values)
        return fallback

    def parameters(self) -> dict[str, spaces.Parameter]:
        """Give every parameter that a trial of this study can have, by name."""
        searched = {p.name: p for p in self.space} if self.searches else {}
        settings = [self.complete_hyperparameters(point) for point in self.listed_points]
        others = dict.fromkeys(n for setting in settings for n in setting if n not in searched)
        return searched | {
            name: spaces.covering_parameter(name, [s[name] for s in settings if name in s])
            for name in others
        }


def dump_definition(definition: Definition) -> str:
    """Give a definition as the JSON text that is stored with its study."""
    return definition.model_dump_json()


def load_definition(text: str) -> Definition:
    """Read a stored definition back.

    Raises DefinitionError where another version of hpo stored something that this one does not know.
    """
    try:
        found = Definition.model_validate_json(text, strict=False)
        found.trial_config({})  # every option is stored, so this meets one that is not known here
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DefinitionError(
            f"the stored definition's {where} is unknown here ({first['msg']}); "
            "use the version of hpo that made the study"
        ) from error
    return found


def extend_definition(stored: Definition, new: Definition) -> Definition:
    """Give the stored definition extended by a changed file, its points keeping their numbers.

    More trials, larger budgets and more points extend a study; a point is the same wherever in the file
    it stands, and one that is listed twice counts as two. Raises DefinitionError for any other
    difference, and names them all.
    """
    kept, wanted = Counter(map(_point_key, stored.points)), Counter(map(_point_key, new.points))
    differences = [
        *_list_differences({"of": stored.finishes}, {"of": new.finishes}, "finish"),
        *_list_differences(stored.train, new.train, "train"),
        *_list_differences(_values_by_name(stored.space), _values_by_name(new.space), "space"),
        *_list_differences(
            _fixed_search_options(stored.search), _fixed_search_options(new.search), "search"
        ),
        *_lowered_budgets(stored.search, new.search),
    ]
    if stored.searches and new.search.trials < stored.search.trials:
        differences.append(f"search.trials: {stored.search.trials} -> {new.search.trials}")
    if missing := kept - wanted:
        differences.append(f"points: {missing.total()} of {kept.total()} changed or taken out")
    if differences:
        raise DefinitionError(
            f"study '{stored.name}' is stored with another definition ({'; '.join(differences)}); "
            "only more search.trials, larger budgets and more points extend a study: "
            f"give this one a --name of its own, or 'hpo delete {stored.name}' first"
        )
    points = stored.points + tuple(_new_points(new.points, wanted - kept))
    return stored.model_copy(update={"search": new.search, "points": points})


def _new_points(points: Iterable[Point], left: Counter[str]) -> Iterator[Point]:
    """Give those of the points that are new, each as often as it is."""
    for point in points:
        if left[_point_key(point)] > 0:
            left[_point_key(point)] -= 1
            yield point


def _point_key(point: Point) -> str:
    return repr((sorted(point.setting.items()), point.site))


def _values_by_name(parameters: tuple[spaces.Parameter, ...]) -> dict[str, spaces.Choices | spaces.Range]:
    return {parameter.name: parameter.values for parameter in parameters}


def _fixed_search_options(search: Search) -> dict[str, Any]:
    return search.model_dump(exclude={"trials", *BUDGETS})


def _lowered_budgets(stored: Search, new: Search) -> Iterator[str]:
    """Give the budgets that are smaller than before; one that is taken away is larger."""
    for name in BUDGETS:
        before, after = getattr(stored, name), getattr(new, name)
        if after is not None and (before is None or after < before):
            yield f"search.{name}: {quote_value(before)} -> {quote_value(after)}"


def _list_differences(old: Mapping[str, Any], new: Mapping[str, Any], section: str) -> Iterator[str]:
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _list_differences(before, after, f"{section}.{key}")
        elif before != after or type(before) is not type(after):
            yield f"{section}.{key}: {_format_value(before)} -> {_format_value(after)}"


def _format_value(value: Any) -> str:
    return str(value) if isinstance(value, spaces.Choices | spaces.Range) else quote_value(value)
