"""A study's best settings run once more, over several seeds, and scored on the test split: which one wins.

``hpo finish NAME`` makes a study of its own, ``NAME-finish``: an ordinary one of listed points, a point for
each setting and seed. It trains on the train and validation images together, for as many epochs as did the
setting best, and looks at the test images once, after the last of them. A person's own objective knows no
splits; there a run comes to the accuracy after its last epoch.

The same seeds run under every setting, so the first two are compared seed by seed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from hpo.analysis import intervals, records
from hpo.analysis.formatting import end_reason, format_params
from hpo.analysis.intervals import Interval
from hpo.errors import StoreError
from hpo.search import replicates
from hpo.store import plan, status, studies
from hpo.store.storage import Storage
from hpo.study.definition import Definition, Point, Pruner, Sampler, Search
from hpo.study.space import Value
from hpo.training import config


@dataclass(frozen=True, kw_only=True)
class ChosenSetting:
    """A setting to run once more; the best trial of it stands for it."""

    trial: int
    accuracy: float  # by which the setting was chosen: the trial's, or the mean over its seeds
    params: Mapping[str, Value]
    options: Mapping[str, Value]  # what its points say, but for the seed; ``epochs`` is the best epoch

    def point(self, seed: int) -> Point:
        """Give the point that runs it with a seed."""
        return Point(setting={**self.options, "seed": seed})


@dataclass(frozen=True, kw_only=True)
class FinishPlan:
    """What is to be run and compared."""

    study: str  # whose settings they are
    name: str  # of the study that runs them
    settings: tuple[ChosenSetting, ...]  # best first
    seeds: tuple[int, ...]
    notes: tuple[str, ...]  # what a person may not expect


@dataclass(frozen=True, kw_only=True)
class SettingRuns:
    """What came of a setting."""

    setting: ChosenSetting
    accuracies: Mapping[int, float]  # of the runs that are complete, by seed
    mean: Interval | None  # None below two runs


@dataclass(frozen=True, kw_only=True)
class FinishResult:
    """What came of all of them."""

    plan: FinishPlan
    measure: str  # accuracy, or test accuracy
    is_test: bool  # measured on the test split; else as a person's own objective measures it
    runs: tuple[SettingRuns, ...]  # by their mean, best first
    difference: Interval | None  # of the first two, seed by seed; None below two seeds in common
    missing: tuple[str, ...]  # a sentence for each run that is not complete


def plan_finish(opened: Storage, name: str, top: int, seeds: int) -> FinishPlan:
    """Choose a study's ``top`` best settings and the seeds to run them with; nothing is stored.

    Trials that differ in nothing but the seed are one setting. The seeds are those that follow the study's.
    Raises StoreError if the study has no complete trial, or has looked at the test split already.
    """
    definition = studies.read_definition(opened, name)
    _check_can_finish(definition)
    trials = status.read_trials(opened, name)
    settings = tuple(_best_settings(trials))[:top]
    if not settings:
        raise StoreError(status.no_complete_trial_message(name, trials))
    notes = []
    if (state := status.read_status(opened, name).state) != "complete":
        notes.append(f"study '{name}' is {state}, not complete: these are its best settings so far")
    if len(settings) < top:
        plural = "s" * (len(settings) > 1)
        notes.append(f"study '{name}' has {len(settings)} complete setting{plural}, not {top}")
    first = int(definition.trial_config({}).seed) + 1
    return FinishPlan(
        study=name,
        name=f"{name}-finish",
        settings=settings,
        seeds=tuple((first + index) % 2**31 for index in range(seeds)),
        notes=tuple(notes),
    )


def _check_can_finish(definition: Definition) -> None:
    name = definition.name
    if definition.finishes is not None:
        of = definition.finishes
        raise StoreError(f"study '{name}' is what 'hpo finish {of}' made; 'hpo finish {of}' reports it")
    if status.selection_of(definition) == "test":
        raise StoreError(
            f"study '{name}' has chosen on the test split already (train.selection = 'test'), so no score "
            "there can judge its choice; search with selection = 'valid' to finish a study"
        )


def _best_settings(trials: list[FrozenTrial]) -> Iterator[ChosenSetting]:
    """Give the settings of the complete trials, each once, best first."""
    seen: set[str] = set()
    by_number = {trial.number: trial for trial in trials}
    for repeated in replicates.rank_trials(trials):
        trial = by_number[repeated.trials[0]]
        epoch = trial.user_attrs.get("best_epoch")
        if epoch is None:
            continue  # another tool's
        whole = trial.params | trial.system_attrs.get(plan.RUN_OPTIONS, {})
        options = {key: value for key, value in whole.items() if key != "seed"} | {"epochs": int(epoch)}
        keys = {_setting_key(whole), _setting_key(options)}
        if not keys & seen:
            yield ChosenSetting(
                trial=trial.number, accuracy=repeated.mean, params=dict(trial.params), options=options
            )
        seen |= keys


def _setting_key(options: Mapping[str, Value]) -> str:
    return repr(sorted((key, value) for key, value in options.items() if key != "seed"))


def create_finish_study(opened: Storage, plan: FinishPlan) -> None:
    """Store the study that runs a plan, or extend it by the points that it lacks.

    Raises StoreError if its name is taken, DefinitionError if the study it was made from was another.
    """
    definition = studies.read_definition(opened, plan.study)
    before = _stored_definition(opened, plan)
    listed = [setting.point(seed) for setting in plan.settings for seed in plan.seeds]
    there = () if before is None else before.points
    own = definition.option_table is config.CUSTOM_OPTIONS
    made = Definition(
        name=plan.name,
        train=definition.train | ({} if own else {"selection": "final"}),
        search=Search(
            trials=0,
            sampler=Sampler(name="grid"),
            pruner=Pruner(name="none"),
            max_attempts=definition.search.max_attempts,
            keep_weights=definition.search.keep_weights,
        ),
        points=(*there, *(point for point in listed if point not in there)),
        finishes=plan.study,
    )
    studies.create_study(opened, made, f"# hpo finish {plan.study}\n")


def _stored_definition(opened: Storage, plan: FinishPlan) -> Definition | None:
    if plan.name not in status.study_names(opened):
        return None
    found = studies.read_definition(opened, plan.name)
    if found.finishes != plan.study:
        raise StoreError(
            f"study '{plan.name}' is there, and not made by 'hpo finish {plan.study}'; "
            f"'hpo delete {plan.name}' first"
        )
    return found


def read_result(opened: Storage, plan: FinishPlan) -> FinishResult:
    """Read what came of a plan; raises StoreError if not one of its runs is complete."""
    definition, trials = studies.read_definition(opened, plan.name), status.read_trials(opened, plan.name)
    images = records.count_images(definition, records.trial_records(definition, trials))
    by_point = {
        _key_of_trial(definition, trial): trial for trial in trials if "grid_id" in trial.system_attrs
    }
    runs, missing = [], []
    for setting in plan.settings:
        found = {seed: by_point[_point_key(setting.point(seed))] for seed in plan.seeds}
        values = {seed: trial.value for seed, trial in found.items() if _is_complete(trial)}
        accuracies = {seed: value for seed, value in values.items() if value is not None}
        mean = (
            intervals.accuracy_interval(list(accuracies.values()), images) if len(accuracies) > 1 else None
        )
        runs.append(SettingRuns(setting=setting, accuracies=accuracies, mean=mean))
        missing += [
            _describe_missing(plan, setting, *each) for each in found.items() if not _is_complete(each[1])
        ]
    if not any(each.accuracies for each in runs):
        raise StoreError(f"study '{plan.name}' has no complete trial; 'hpo trials {plan.name}' says why")
    ranked, difference = _rank(runs, intervals.accuracy_step(images))
    return FinishResult(
        plan=plan,
        measure=status.metric_name(definition),
        is_test=definition.option_table is not config.CUSTOM_OPTIONS,
        runs=ranked,
        difference=difference,
        missing=tuple(missing),
    )


def _key_of_trial(definition: Definition, trial: FrozenTrial) -> str:
    return _point_key(definition.points[trial.system_attrs["grid_id"]])


def _point_key(point: Point) -> str:
    return repr(sorted(point.setting.items()))


def _is_complete(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE


def _describe_missing(plan: FinishPlan, setting: ChosenSetting, seed: int, trial: FrozenTrial) -> str:
    """Say what became of a run that is not complete."""
    state, why = status.STATE_NAMES[trial.state], end_reason(trial)
    again = f"; 'hpo retry {plan.name} --failed' tries again" if trial.state == TrialState.FAIL else ""
    told = f" ({why})" if why else ""
    return f"trial {setting.trial}'s setting lacks seed {seed}: its run is {state}{told}{again}"


def _mean_accuracy(runs: SettingRuns) -> float:
    found = runs.accuracies.values()
    return sum(found) / len(found) if found else float("-inf")


def _rank(runs: list[SettingRuns], least: float) -> tuple[tuple[SettingRuns, ...], Interval | None]:
    """Rank by the mean, and the first two by the seeds that both have, where there are several."""
    ranked = tuple(sorted(runs, key=lambda each: -_mean_accuracy(each)))
    if len(ranked) < 2:
        return ranked, None
    first, second = (each.accuracies for each in ranked[:2])
    pairs = [(first[seed], second[seed]) for seed in first if seed in second]
    if len(pairs) < 2:
        return ranked, None
    found = intervals.paired_difference(pairs, least)
    if found.value >= 0:
        return ranked, found
    turned = intervals.paired_difference([(b, a) for a, b in pairs], least)
    return (ranked[1], ranked[0], *ranked[2:]), turned


def document(found: FinishResult) -> dict[str, Any]:
    """Give it as its JSON document."""
    gap = found.difference
    return {
        "study": found.plan.study,
        "finish": found.plan.name,
        "split": "test" if found.is_test else None,
        "seeds": list(found.plan.seeds),
        "settings": [_runs_document(each) for each in found.runs],
        "difference": gap and {"mean": gap.value, "low": gap.low, "high": gap.high},
        "decided": bool(gap and gap.sign),
        "conclusion": conclusion(found),
        "missing": list(found.missing),
        "notes": list(found.plan.notes),
    }


def _runs_document(runs: SettingRuns) -> dict[str, Any]:
    return {
        "trial": runs.setting.trial,
        "params": dict(runs.setting.params),
        "epochs": runs.setting.options["epochs"],
        "chosen_by": runs.setting.accuracy,
        "accuracies": {str(seed): value for seed, value in runs.accuracies.items()},
        "mean": _mean_accuracy(runs) if runs.accuracies else None,
        "low": runs.mean and runs.mean.low,
        "high": runs.mean and runs.mean.high,
    }


def make_table(found: FinishResult) -> Table:
    """Give the settings as a table, best first."""
    heads = ("setting of", found.measure, "95 % interval", "runs", "chosen by", "epochs")
    result = Table(box=None, padding=(0, 1))
    for head in heads:
        result.add_column(head, no_wrap=True)
    result.add_column("settings")
    for runs in found.runs:
        between = f"{runs.mean.low:.4f} to {runs.mean.high:.4f}" if runs.mean else "not known"
        result.add_row(
            f"trial {runs.setting.trial}",
            f"{_mean_accuracy(runs):.4f}" if runs.accuracies else "",
            between,
            str(len(runs.accuracies)),
            f"{runs.setting.accuracy:.4f}",
            str(runs.setting.options["epochs"]),
            format_params(runs.setting.params),
        )
    return result


def summary_lines(found: FinishResult) -> Iterator[str]:
    """Give what a person should know of it as lines: who wins, how it was measured, what is missing."""
    yield conclusion(found)
    if found.is_test:
        yield (
            "Each run was trained on the train and validation images together, and scored on the test "
            "images once, after its last epoch."
        )
    else:
        yield (
            "Accuracy is as the study's own objective measures it, after each run's last epoch; "
            "hpo knows no test split of it."
        )
    if found.difference is not None:
        yield "Intervals say what other seeds would give, not what other images would."
    yield from found.missing


def conclusion(found: FinishResult) -> str:
    """Say which of the first two settings is better, and how sure that is."""
    if len(found.runs) < 2:
        return "There is one setting, and nothing to compare it with."
    first, second = (f"trial {each.setting.trial}'s setting" for each in found.runs[:2])
    gap = found.difference
    if gap is None:
        lack = "one run each" if len(found.plan.seeds) == 1 else "fewer than two complete seeds of both"
        return f"Which is better, {first} or {second}, is not decided: {lack} cannot tell; raise --seeds."
    between = f"({gap.low:+.4f} to {gap.high:+.4f}, {gap.how})"
    if gap.sign > 0:
        return f"The best is {first}: {gap.value:.4f} higher than {second} {between}."
    return (
        f"The order of {first} and {second} is not decided: the first is {gap.value:.4f} higher, and the "
        f"interval holds 0 {between}; more --seeds may tell."
    )
