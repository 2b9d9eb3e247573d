"""The options of ``[search]``: how much is searched, how settings are chosen, when trials are stopped."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from hpo.study.space import STRICT_CONFIG


class Sampler(BaseModel):
    """How the next setting is chosen."""

    model_config = STRICT_CONFIG

    name: Annotated[
        Literal["tpe", "freeze_thaw", "gp", "nsgaii", "qmc", "random", "grid"],
        Field(description="grid runs the listed points, or every combination of the lists in [space]"),
    ] = "tpe"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class Pruner(BaseModel):
    """When a searched trial is stopped early."""

    model_config = STRICT_CONFIG

    name: Literal["asha", "freeze_thaw", "hyperband", "median", "percentile", "patient", "none"] = "asha"
    min_epochs: Annotated[
        int, Field(ge=1, le=100_000, description="epochs that every trial runs before it can be pruned")
    ] = Field(default_factory=lambda given: 1 if given.get("name") == "freeze_thaw" else 2)
    reduction_factor: Annotated[
        int, Field(ge=2, le=1000, description="hyperband and asha: one of this many trials continues")
    ] = 4
    startup_trials: Annotated[
        int, Field(ge=0, le=1_000_000, description="median and percentile: trials that run in full first")
    ] = 5
    percentile: Annotated[
        float, Field(gt=0, lt=100, description="percentile: the best trials that continue, in percent")
    ] = 25.0
    patience: Annotated[
        int,
        Field(ge=1, le=100_000, description="patient: epochs in a row that may be worse than the best"),
    ] = 5


def _to_utc(moment: datetime) -> datetime:
    try:
        return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).astimezone(UTC)
    except OverflowError as error:  # in the first or the last day of the calendar
        raise ValueError("not in the years 1 to 9999 of UTC") from error


def _list_to_tuple(given: Any) -> Any:
    return tuple(given) if isinstance(given, list) else given


class Search(BaseModel):
    """How much is searched, and how."""

    model_config = STRICT_CONFIG

    trials: Annotated[
        int, Field(ge=0, le=1_000_000, description="searched trials, in addition to listed points")
    ] = 20
    replicates: Annotated[
        int,
        Field(ge=1, le=1000, description="seeds that a setting runs with; settings compare by the mean"),
    ] = 1
    epochs: Annotated[int | None, Field(ge=1, description="epochs of all trials together")] = None
    device_hours: Annotated[
        float | None, Field(gt=0, description="hours that all workers together train and evaluate")
    ] = None
    deadline: Annotated[
        Annotated[datetime, AfterValidator(_to_utc)] | None,
        Field(description="date and time after which no epoch begins; without an offset, UTC"),
    ] = None
    target: Annotated[
        float | None, Field(allow_inf_nan=False, description="value of the metric that is enough")
    ] = None
    direction: Annotated[
        Literal["maximize", "minimize"],
        Field(description="custom objective: whether higher or lower values are better"),
    ] = "maximize"
    metric_name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z_][\w.-]*$",
            max_length=100,
            description="custom objective: the name of the value that it yields",
        ),
    ] = "accuracy"
    strategy: Annotated[
        Literal["auto"] | None,
        Field(description="auto chooses the sampler and the pruner where the file names neither"),
    ] = "auto"
    sampler: Sampler = Sampler()
    pruner: Pruner = Pruner()
    objectives: Annotated[
        tuple[str, ...],
        BeforeValidator(_list_to_tuple),
        Field(description="metrics and costs (epoch_seconds, parameters, latency_ms) to compare by"),
    ] = ()
    prune_points: Annotated[bool, Field(description="prune listed points, too")] = False
    chance_epochs: Annotated[
        int,
        Field(
            ge=0,
            le=100_000,
            description="epochs after warm-up within which a trial must beat guessing; 0: no limit",
        ),
    ] = 3
    max_attempts: Annotated[
        int, Field(ge=1, le=1000, description="attempts without a new checkpoint before a trial fails")
    ] = 10
    keep_weights: Annotated[
        int | None,
        Field(ge=1, description="number of best trials whose weights are kept; left out: all trials"),
    ] = None
    start_from: Annotated[
        tuple[str, ...],
        BeforeValidator(_list_to_tuple),
        Field(description="ended studies of the same store; the sampler learns from their trials"),
    ] = ()
