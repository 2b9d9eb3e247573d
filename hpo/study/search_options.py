"""The options of ``[search]``: how much is searched, how settings are chosen, when trials are stopped."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from hpo.study.space import STRICT_CONFIG


class Sampler(BaseModel):
    """How the next setting is chosen."""

    model_config = STRICT_CONFIG

    name: Literal["tpe", "freeze_thaw", "gp", "nsgaii", "qmc", "random", "grid"] = "tpe"
    """tpe, gp and nsgaii, as Optuna has them; freeze_thaw: a model of all learning curves decides what a
    free worker does next; qmc: a low-discrepancy sequence; random; grid: the points alone, or every
    combination of the lists in [space]. gp and nsgaii, and with several objectives tpe, treat a pruned
    trial as one that ended with the values that it had. freeze_thaw is for a single objective.
    """
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the sampler."""


class Pruner(BaseModel):
    """When a searched trial is stopped early."""

    model_config = STRICT_CONFIG

    name: Literal["asha", "freeze_thaw", "hyperband", "median", "percentile", "patient", "none"] = "asha"
    """Which trials are stopped: asha: those that are not among the best at a rung wait there, and end if
    that never changes; freeze_thaw: those that a model of all learning curves thinks unlikely to become
    the best; the others as Optuna has them; none: no trial, not even one that is no better than guessing.
    """
    min_epochs: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default_factory=lambda given: 1 if given.get("name") == "freeze_thaw" else 2
    )
    """Epochs that every trial runs before it can be pruned; 2, of freeze_thaw 1."""
    reduction_factor: Annotated[int, Field(ge=2, le=1000)] = 4
    """Of asha and hyperband: one of this many trials continues at each rung."""
    startup_trials: Annotated[int, Field(ge=0, le=1_000_000)] = 5
    """Of median and percentile: trials that run in full first."""
    percentile: Annotated[float, Field(gt=0, lt=100)] = 25.0
    """Of percentile: the best trials that continue, in percent."""
    patience: Annotated[int, Field(ge=1, le=100_000)] = 5
    """Of patient: epochs in a row that may be worse than the best."""


def _to_utc(moment: datetime) -> datetime:
    try:
        return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).astimezone(UTC)
    except OverflowError as error:  # in the first or the last day of the calendar
        raise ValueError("not in the years 1 to 9999 of UTC") from error


def _list_to_tuple(given: Any) -> Any:
    return tuple(given) if isinstance(given, list) else given


# Options of [search] that studies stored before them lack: the value that keeps those as they were.
SEARCH_VALUES_BEFORE: Mapping[str, Any] = {"max_failures": 0}


def _stored_none_to_all(given: Any) -> Any:
    """Return what None means in studies that were stored when it was the default of ``keep_weights``."""
    return "all" if given is None else given


class Search(BaseModel):
    """How much is searched, and how."""

    model_config = STRICT_CONFIG

    trials: Annotated[int, Field(ge=0, le=1_000_000)] = 20
    """Searched trials, each with a setting of its own; listed points run in addition. When every setting
    of a space without continuous ranges has a trial, the rest is left out.
    """
    replicates: Annotated[int, Field(ge=1, le=1000)] = 1
    """Seeds that each setting runs with; settings are compared by their mean."""
    epochs: Annotated[int | None, Field(ge=1)] = None
    """Budget: epochs of all trials together. Left out: no limit."""
    device_hours: Annotated[float | None, Field(gt=0)] = None
    """Budget: hours that all workers together spend on training and evaluation. Left out: no limit."""
    deadline: Annotated[datetime, AfterValidator(_to_utc)] | None = None
    """Budget: date and time after which no epoch begins, such as 2030-01-31T18:00:00+01:00; without an
    offset, UTC. Left out: none.
    """
    target: Annotated[float | None, Field(allow_inf_nan=False)] = None
    """Budget: a value of the metric that is good enough to stop, such as 0.95. Left out: none."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """Whether higher values of a custom objective are better, or lower ones."""
    metric_name: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.-]*$", max_length=100)] = "accuracy"
    """The name of the value that a custom objective yields, of letters, digits, "_", "." and "-"."""
    strategy: Literal["auto"] | None = "auto"
    """auto chooses sampler and pruner where the file names neither: freeze_thaw for both, and for several
    objectives nsgaii with asha. hpo run, create and plan say in one line what it chose.
    """
    sampler: Sampler = Sampler()
    """How the next setting is chosen: a name, or a table. Left out: what strategy chooses; where only a
    pruner is named, tpe, or nsgaii for several objectives.
    """
    pruner: Pruner = Pruner()
    """When a searched trial is stopped early: a name, or a table. Left out: what strategy chooses; where
    only a sampler is named, asha.
    """
    objectives: Annotated[tuple[str, ...], BeforeValidator(_list_to_tuple)] = ()
    """Several things to compare trials by, in place of one metric: any of the metrics, epoch_seconds
    (mean), parameters, latency_ms (one image). Left out: the metric alone.
    """
    prune_points: bool = False
    """Whether listed points can be pruned too."""
    chance_epochs: Annotated[int, Field(ge=0, le=100_000)] = 3
    """Epochs after warm-up within which a trial must become better than guessing, or it is pruned; 0, or
    the pruner none: no such rule.
    """
    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 10
    """Attempts in a row that may die without a new checkpoint before the trial fails."""
    max_failures: Annotated[int, Field(ge=0, le=1_000_000)] = 5
    """Failed trials after which the study stops, as long as none has completed, was pruned or waits at a
    rung; 0: it goes on. It may change while the study goes on.
    """
    keep_weights: Annotated[
        Annotated[int, Field(ge=1)] | Literal["all"], BeforeValidator(_stored_none_to_all)
    ] = 5
    """Number of searched settings, the best ones, whose weights are kept; the others' are deleted. "all"
    keeps those of all trials. Listed points, and settings queued by hand, always keep theirs. It may change
    while the study goes on; what is deleted does not come back.
    """
    start_from: Annotated[tuple[str, ...], BeforeValidator(_list_to_tuple)] = ()
    """Names of studies in the store that have ended, such as finetune; freeze_thaw, tpe, gp and nsgaii
    learn from their trials, freeze_thaw also from studies of other data sets.
    """
    track: Literal["none", "mlflow", "wandb"] = "none"
    """Experiment tracker that trials also go to: MLflow, or Weights & Biases. It may change while the study
    goes on; workers that start later use the new one.
    """
