"""The final evaluation: a study's best settings, run again over several seeds and scored on the test split.

``hpo finish NAME`` creates another study, ``NAME-finish``. It is an ordinary study of listed points, one
point for each setting and seed. A point trains on the train and validation images together, for as many
epochs as the setting needed to reach its best value, and is evaluated on the test images once, after the
last epoch. A custom objective has no splits that hpo knows of; there, a run's result is the value after
its last epoch.

Every setting runs with the same seeds, so that the first two can be compared seed by seed.

This file chooses the settings and creates the study. ``finish_result`` reads what its runs reached.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial

from hpo.analysis import records, results
from hpo.analysis.formatting import short_repr
from hpo.errors import StoreError
from hpo.store import status, studies
from hpo.store.plan import RUN_OPTIONS
from hpo.store.storage import Storage
from hpo.study.definition import Definition, Point
from hpo.study.search_options import Pruner, Sampler, Search
from hpo.study.space import Value
from hpo.training import option_tables

SEEDS = 2**31  # a seed is below


@dataclass(frozen=True, kw_only=True)
class ChosenSetting:
    """A setting to run again."""

    trial: int  # the number of its first trial, by which it is called
    best_run: int  # the number of its most accurate trial
    value: float  # by which the setting was chosen: the mean over its seeds
    params: Mapping[str, Value]
    options: Mapping[str, Value]  # of its points, without the seed; ``epochs`` is the best epoch

    def __repr__(self) -> str:
        return short_repr(self, "trial", "params")

    def point(self, seed: int) -> Point:
        """Return the point that runs this setting with a seed, up to the epoch that was its best."""
        return Point(setting={**self.options, "seed": seed})


@dataclass(frozen=True, kw_only=True)
class FinishPlan:
    """The settings and seeds to run and compare."""

    study: str  # whose settings they are
    name: str  # of the study that runs them
    settings: tuple[ChosenSetting, ...]  # best first
    seeds: tuple[int, ...]
    notes: tuple[str, ...]  # sentences on what the user may not expect

    @property
    def points(self) -> list[Point]:
        """Its runs: each setting with each seed."""
        return [setting.point(seed) for setting in self.settings for seed in self.seeds]


def plan_finish(storage: Storage, name: str, top: int, seeds: int) -> FinishPlan:
    """Choose a study's best settings and the seeds to run them with; nothing is stored.

    Settings are ranked, and called by a trial, as ``hpo best`` does. Trials that differ only in the seed
    are one setting, and so are those that differ only in planned epochs and had the same best epoch. Trials
    without a best epoch, which another tool wrote, are left out. The seeds are the first after the seed of
    [train] that the study does not use itself: a seed that helped to choose a setting is no evidence for
    it.

    Args:
        storage: Where the study is stored.
        name: The study's name.
        top: How many settings to choose, at most.
        seeds: How many seeds to run each setting with.

    Returns:
        The plan. Its notes say if the study is not complete, or has fewer than ``top`` settings.

    Raises:
        StoreError: The study does not exist or is another tool's, has no complete trial with a best epoch,
            was made by ``hpo finish``, or chose its trials on the test split.
        StoreUnavailable: The database cannot be reached.
        DefinitionError: Another version of hpo made the study.
    """
    definition = studies.read_definition(storage, name)
    _check_can_finish(definition)
    trials = status.read_trials(storage, name)
    settings = tuple(_best_settings(definition, trials))[:top]
    if not settings:
        found = records.trial_records(definition, trials)
        raise StoreError(results.no_complete_trial_message(definition, found))
    notes = []
    if (state := status.read_status(storage, name).state) != "complete":
        notes.append(f"study '{name}' is {state}, not complete: these are its best settings so far")
    if len(settings) < top:
        plural = "s" * (len(settings) > 1)
        notes.append(f"study '{name}' has {len(settings)} complete setting{plural}, not {top}")
    return FinishPlan(
        study=name,
        name=finish_name(name),
        settings=settings,
        seeds=tuple(itertools.islice(_unused_seeds(definition, trials), seeds)),
        notes=tuple(notes),
    )


def finish_name(study: str) -> str:
    """Return the name of the study that ``hpo finish`` makes of a study."""
    return f"{study}-finish"


def _unused_seeds(definition: Definition, trials: Iterable[FrozenTrial]) -> Iterator[int]:
    """Yield seeds after that of [train] that no trial of a study has, and no replicate of one can get."""
    own = int(definition.trial_config({}).seed)
    listed = (point.setting for point in (*definition.points, *definition.enqueued))
    firsts = {own, *(int(str(setting.get("seed", own))) for setting in listed)}
    used = {(seed + index) % SEEDS for seed in firsts for index in range(definition.search.replicates)}
    used |= {trial.system_attrs.get(RUN_OPTIONS, {}).get("seed", own) for trial in trials}
    following = ((own + index) % SEEDS for index in itertools.count(1))
    return (seed for seed in following if seed not in used)


def _check_can_finish(definition: Definition) -> None:
    name = definition.name
    if definition.finishes is not None:
        source = definition.finishes
        raise StoreError(
            f"study '{name}' was made by 'hpo finish {source}'; 'hpo finish {source}' reports it"
        )
    if status.selection_of(definition) == "test":
        raise StoreError(
            f"study '{name}' has chosen on the test split already (train.selection = 'test'), so no score "
            "there can judge its choice; search with selection = 'valid' to finish a study"
        )


def _best_settings(definition: Definition, trials: list[FrozenTrial]) -> Iterator[ChosenSetting]:
    """Yield the settings of the complete trials as ``hpo best`` ranks and calls them.

    Each has as many epochs as its best trial needed. Two settings count as one if they differ only
    in planned epochs and reached their best in the same epoch: they would run the same points.
    """
    seen: set[str] = set()
    for chosen, run in _ranked_settings(definition, trials):
        epoch = run.user_attrs.get("best_epoch")
        if epoch is None:
            continue  # a trial that another tool wrote
        options = {key: value for key, value in chosen.options.items() if key != "seed"}
        options |= {"epochs": int(epoch)}
        keys = {_setting_key(chosen.options), _setting_key(options)}
        if not keys & seen:
            yield replace(chosen, options=options)
        seen |= keys


def listed_settings(
    finish: Definition, source: Definition, trials: list[FrozenTrial]
) -> Iterator[ChosenSetting]:
    """Yield the settings that a study of ``hpo finish`` lists, each once.

    Args:
        finish: The definition of that study.
        source: The definition of the study whose settings they are.
        trials: The trials of ``source``. A setting that none of them has is left out.
    """
    chosen: dict[str, ChosenSetting] = {}
    for found, _ in _ranked_settings(source, trials):
        chosen.setdefault(_setting_key({**found.options, "epochs": None}), found)
    listed = [{k: v for k, v in point.setting.items() if k != "seed"} for point in finish.points]
    for options in {_setting_key(each): each for each in listed}.values():
        key = _setting_key(options | {"epochs": None})
        if key in chosen:
            yield replace(chosen[key], options=options)


def _ranked_settings(
    definition: Definition, trials: list[FrozenTrial]
) -> Iterator[tuple[ChosenSetting, FrozenTrial]]:
    """Yield the best settings, with all options of their best trials, and these trials."""
    by_number = {trial.number: trial for trial in trials}
    for each in results.best_settings(definition, records.trial_records(definition, trials)):
        run = by_number[each.runs[0].number]
        options = run.params | run.system_attrs.get(RUN_OPTIONS, {})
        yield (
            ChosenSetting(
                trial=each.trial.number,
                best_run=run.number,
                value=each.value,
                params=dict(run.params),
                options=options,
            ),
            run,
        )


def _setting_key(options: Mapping[str, Value]) -> str:
    return repr(sorted((key, value) for key, value in options.items() if key != "seed"))


def create_finish_study(storage: Storage, plan: FinishPlan) -> None:
    """Store the study that runs a plan, or add the points that it lacks if it exists.

    It takes over the options, ``max_attempts`` and ``max_failures`` of the plan's study. It prunes nothing.
    Unless the objective is custom, its ``selection`` is ``final``.

    Args:
        storage: Where to store it, and where the plan's study is.
        plan: The settings and seeds to run.

    Raises:
        StoreError: The plan's study no longer exists, or another study has the new one's name.
        DefinitionError: It exists, but with other options.
        StoreUnavailable: The database cannot be reached.
    """
    definition = studies.read_definition(storage, plan.study)
    points = _stored_points(storage, plan)
    is_custom = definition.option_table is option_tables.CUSTOM_OPTIONS
    finish = Definition(
        name=plan.name,
        train=definition.train | ({} if is_custom else {"selection": "final"}),
        search=Search(
            trials=0,
            sampler=Sampler(name="grid"),
            pruner=Pruner(name="none"),
            max_attempts=definition.search.max_attempts,
            max_failures=definition.search.max_failures,
            direction=definition.search.direction,
            metric_name=definition.search.metric_name,
            objectives=definition.search.objectives,
            track=definition.search.track,
        ),
        points=(*points, *(point for point in plan.points if point not in points)),
        finishes=plan.study,
    )
    studies.create_study(storage, finish, f"# hpo finish {plan.study}\n")


def has_run(storage: Storage, plan: FinishPlan) -> bool:
    """Return whether all runs of a plan are stored, and its study is complete.

    Raises:
        StoreError: Another study has the name of the plan's study.
        StoreUnavailable: The database cannot be reached.
    """
    points = _stored_points(storage, plan)
    return all(each in points for each in plan.points) and (
        status.read_status(storage, plan.name).state == "complete"
    )


def _stored_points(storage: Storage, plan: FinishPlan) -> tuple[Point, ...]:
    """Return the points of the plan's study; none if it does not exist."""
    if plan.name not in studies.study_names(storage):
        return ()
    found = studies.read_definition(storage, plan.name)
    if found.finishes != plan.study:
        raise StoreError(
            f"study '{plan.name}' exists, and was not made by 'hpo finish {plan.study}'; "
            f"'hpo delete {plan.name}' first"
        )
    return found.points
