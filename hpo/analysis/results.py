"""What a study has found: its settings, best first, and how far the value of each can be trusted.

Every place that shows a best result takes it from here. A setting's value is the mean over its complete
trials, one for each seed; without replicates it is the value of its one trial.
"""

import itertools
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hpo.analysis import guessing, intervals, records
from hpo.analysis.formatting import format_objective
from hpo.analysis.intervals import Interval
from hpo.analysis.records import TrialRecord
from hpo.errors import join_names
from hpo.search import replicates
from hpo.search.replicates import Noise, ReplicatedSetting
from hpo.store import status, studies
from hpo.store.status import Snapshot
from hpo.store.storage import Storage
from hpo.study.definition import Definition
from hpo.training import option_tables
from hpo.training.metric import Metric


@dataclass(frozen=True, kw_only=True)
class SettingResult:
    """A setting with its complete trials.

    Attributes:
        study: The study's name.
        trial: The setting's first complete trial, by which it is called. All facts on one run are its, but
            for the weights: those that ``hpo export`` takes are of the best one.
        runs: All its complete trials, one for each seed, the best first.
        diverged: Number of its replicates that diverged.
        is_repeated: Whether the study runs settings with several seeds.
        rank: Its place among the settings it is compared with, 1 for the best. Settings that are ranked by
            their order alone share the mean of their places.
        tied: Numbers of the trials by which the settings with the same value are called, this one's too;
            empty if there is no other.
        noise: How much the seed alone changes values in the study; None if it is not known.
        selection: The split that it is measured on; None for a custom objective.
        measure: The name of what it is measured by, in words.
        goals: What settings are compared by: several objectives, or the one metric.
        front: With several objectives, the number of settings on the Pareto front; else 0.
        is_on_front: With several objectives, whether it is one of these.
        is_knee: Whether it is the knee of the front (``pareto.knee``).
    """

    study: str
    trial: TrialRecord
    runs: tuple[TrialRecord, ...]
    diverged: int
    is_repeated: bool
    rank: float
    tied: tuple[int, ...]
    noise: Noise | None
    selection: str | None
    measure: str
    goals: tuple[Metric, ...]
    front: int = 0
    is_on_front: bool = False
    is_knee: bool = False

    @property
    def metric(self) -> Metric:
        """What its value is of."""
        return self.trial.metric

    @property
    def has_several_goals(self) -> bool:
        """Whether settings are compared by several objectives."""
        return len(self.goals) > 1

    @property
    def values(self) -> tuple[float, ...]:
        """The values of its complete trials, the best first."""
        return tuple(each.value for each in self.runs if each.value is not None)

    @property
    def value(self) -> float:
        """The mean of its values over its seeds."""
        return statistics.fmean(self.values)

    @property
    def objectives(self) -> tuple[float, ...]:
        """The mean of each objective over its seeds; with one objective that is its value."""
        return tuple(replicates.mean_values([each.values for each in self.runs]))

    @property
    def weights(self) -> str | None:
        """The name of the weights of its best trial; None if they were not kept."""
        return self.runs[0].weights

    @property
    def images(self) -> int | None:
        """How many images it is measured on; None if unknown."""
        return records.count_images(self.runs)

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of its value; see ``objective_interval``."""
        return self.objective_interval(self.goals.index(self.metric))

    def objective_interval(self, index: int) -> Interval | None:
        """Return the 95 % interval of its mean in one objective; None if unknown.

        With three seeds or more it says what other seeds would give, with one what other images would. The
        latter is known only of fractions of images.

        Args:
            index: The place of the objective in ``goals``.
        """
        goal, values = self.goals[index], [run.values[index] for run in self.runs]
        if len(values) > 1:
            return intervals.seeds_interval(values, intervals.least_step(goal, self.images), goal.limits)
        return intervals.images_interval(goal, values[0], self.images)

    @property
    def least_step(self) -> float:
        """The smallest difference of two values that are not equal; 0 if unknown."""
        return intervals.least_step(self.metric, self.images)


def rank_settings(definition: Definition, found: Sequence[TrialRecord]) -> list[ReplicatedSetting]:
    """Rank the settings of the complete trials, best first, as ``replicates.rank_by_dominance`` does.

    A setting that several trials ran without being replicates of each other is listed once, where the best
    of them ranks.

    Args:
        definition: The study's definition.
        found: All its trials.
    """
    by_number = {each.number: each for each in found}
    best: dict[str, ReplicatedSetting] = {}
    for each in _rank_replicated(definition, found):
        best.setdefault(by_number[each.trials[0]].setting_key, each)
    return list(best.values())


def _rank_replicated(definition: Definition, found: Sequence[TrialRecord]) -> list[ReplicatedSetting]:
    """Rank every complete trial, each together with its replicates, best first."""
    values = {each.number: each.values for each in records.complete_records(found)}
    repeats = {each.number: each.replicate_of for each in found if each.replicate_of is not None}
    pruned = [each.number for each in found if each.state == "pruned"]
    return replicates.rank_by_dominance(definition.objectives, definition.metric, values, repeats, pruned)


def best_settings(
    definition: Definition, found: Sequence[TrialRecord], count: int | None = None
) -> list[SettingResult]:
    """Return the best settings of a study, best first; of equal ones the earlier comes first.

    Args:
        definition: The study's definition.
        found: All its trials.
        count: How many to return at most; None for all.

    Returns:
        The settings; empty if no trial is complete.
    """
    return list(
        itertools.islice(_setting_results(definition, found, rank_settings(definition, found)), count)
    )


def all_settings(definition: Definition, found: Sequence[TrialRecord]) -> list[SettingResult]:
    """Return what each setting reached, by the number of the trial by which it is called.

    A complete trial and its replicates are one entry. Trials that ran the same setting without being
    replicates of each other have an entry each.

    Args:
        definition: The study's definition.
        found: All its trials.
    """
    every = _setting_results(definition, found, _rank_replicated(definition, found))
    return sorted(every, key=lambda each: each.trial.number)


def _setting_results(
    definition: Definition, found: Sequence[TrialRecord], ranked: Sequence[ReplicatedSetting]
) -> Iterator[SettingResult]:
    """Yield the results of ranked settings, in their order."""
    by_number = {each.number: each for each in found}
    noise, ahead = replicates.estimate_noise(ranked), 0
    goals = definition.objectives
    has_front = len(goals) > 1
    front = sum(each.is_on_front for each in ranked) if has_front else 0
    knee = replicates.find_knee(goals, {each.number: each.values for each in found}, ranked)
    for _, group in itertools.groupby(ranked, key=lambda each: each.rank):
        same = list(group)
        tied = tuple(sorted(min(each.trials) for each in same)) if len(same) > 1 else ()
        for each in same:
            yield SettingResult(
                study=definition.name,
                trial=by_number[min(each.trials)],
                runs=tuple(by_number[number] for number in each.trials),
                diverged=each.diverged,
                is_repeated=definition.search.replicates > 1 or definition.finishes is not None,
                rank=ahead + (len(same) + 1) / 2,
                tied=tied,
                noise=noise,
                selection=status.selection_of(definition),
                measure=status.metric_name(definition),
                goals=goals,
                front=front,
                is_on_front=has_front and each.is_on_front,
                is_knee=each is knee,
            )
        ahead += len(same)


def read_best(storage: Storage, name: str) -> list[SettingResult]:
    """Read the settings of a study, best first.

    Args:
        storage: The storage that the study is in.
        name: The study's name.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: There is no such study, another tool made it, or the database refuses the request.
        DefinitionError: Another version of hpo made the study.
    """
    definition = studies.read_definition(storage, name)
    found = records.trial_records(definition, status.read_trials(storage, name))
    return best_settings(definition, found)


def best_of(found: Snapshot) -> SettingResult | None:
    """Return the setting that stands for a study; None if no trial is complete.

    It is the best one; with several objectives the knee of the Pareto front.
    """
    return best_setting(found.definition, records.trial_records(found.definition, found.trials))


def best_setting(definition: Definition, found: Sequence[TrialRecord]) -> SettingResult | None:
    """Return the setting that stands for a study, as ``best_of`` does.

    Args:
        definition: The study's definition.
        found: All its trials.
    """
    return choose_one(best_settings(definition, found, 1 if len(definition.objectives) == 1 else None))


def choose_one(ranked: Sequence[SettingResult]) -> SettingResult | None:
    """Return the setting that stands for all: the knee of the Pareto front, or the best if there is none.

    Args:
        ranked: All settings of a study, best first.
    """
    return next((each for each in ranked if each.is_knee), next(iter(ranked), None))


def describe_value(found: SettingResult) -> str:
    """Return the value as text, with the number of seeds that it is the mean of if there are several.

    With several objectives it is the value of each, by name.
    """
    seeds, text = len(found.runs), f"{found.value:.4f}"
    if found.has_several_goals:
        text = ", ".join(describe_objectives(found))
    return f"{text}{f', mean of {seeds} seeds' if seeds > 1 else ''}"


def describe_objectives(found: SettingResult) -> Iterator[str]:
    """Yield the value of each objective with its name."""
    for goal, value in zip(found.goals, found.objectives, strict=True):
        yield f"{goal.name} {format_objective(goal.name, value)}"


def describe_front(found: SettingResult) -> str:
    """Return a phrase on the Pareto front; "" if the study has one objective."""
    if not found.has_several_goals:
        return ""
    if not found.is_on_front:
        return "not on the Pareto front"
    if found.front == 1:
        return "the only setting on the Pareto front"
    knee = ", its knee" if found.is_knee else ""
    return f"one of {found.front} settings on the Pareto front{knee}; 'hpo best {found.study}' shows all"


def name_place(found: SettingResult) -> str:
    """Return what ``choose_one`` has chosen, as a word: the knee of a front of several, or the best."""
    return "knee" if found.is_knee and found.front > 1 else "best"


def describe_precision(found: SettingResult) -> str:
    """Return the number of images behind a value and its 95 % interval; "" for a custom objective."""
    if found.selection is None:
        return ""
    unknown = "unknown, so there is no interval" if found.metric.counts_images else "unknown"
    images = unknown if found.images is None else str(found.images)
    interval = found.interval if len(found.runs) == 1 else None
    return f"{images}{f'; 95 % interval {interval.low:.4f} to {interval.high:.4f}' if interval else ''}"


def describe_seeds(found: SettingResult) -> str:
    """Return the spread over the seeds of a setting; "" if its study runs each with one seed."""
    if not found.is_repeated:
        return ""
    diverged = f"; {found.diverged} more diverged" if found.diverged else ""
    if len(found.runs) == 1:
        return f"one complete run{diverged or '; more seeds may follow'}"
    interval = found.interval
    limits = f"; 95 % interval of the mean {interval.low:.4f} to {interval.high:.4f}" if interval else ""
    spread = f"from {min(found.values):.4f} to {max(found.values):.4f}"
    return f"mean of {len(found.runs)} seeds, {spread}{limits}{diverged}"


def describe_baseline(found: SettingResult) -> str:
    """Return what guessing gives, as a phrase that says if the value is not better; "" if unknown."""
    baseline = found.trial.baseline
    if baseline is None:
        return ""
    doubt = guessing.compare_baseline(found.metric, found.value, baseline, found.images, found.interval)
    return doubt or guessing.describe_guessing(found.metric, baseline)


def describe_ties(found: SettingResult) -> str:
    """Return a phrase on the trials that share the value; "" if there is no other."""
    if not found.tied:
        return ""
    what = "settings share this value: those of trials" if found.is_repeated else "trials share this value:"
    named = join_names(map(str, found.tied), records.MAX_NAMED_TRIALS)
    return f"{len(found.tied)} {what} {named}"


def caveats(found: SettingResult) -> Iterator[tuple[str, str]]:
    """Yield what keeps a value from being taken for more than it is, as labels and phrases."""
    facts = {
        "seeds": describe_seeds(found),
        "images": describe_precision(found),
        "baseline": describe_baseline(found),
        "tied": describe_ties(found),
        "front": describe_front(found),
    }
    yield from ((label, text) for label, text in facts.items() if text)


def no_complete_trial_message(definition: Definition, found: Iterable[TrialRecord]) -> str:
    """Return a message that a study has no complete trial, and how to export the best of the others.

    The best is the one with the best value among those with weights. If there is none, or what the
    study's custom objective keeps is no image model, the message names the command that lists the trials.

    Args:
        definition: The study.
        found: Its trials, none of them complete.

    Returns:
        One line.
    """
    name, is_custom = definition.name, definition.option_table is option_tables.CUSTOM_OPTIONS
    reached = [each for each in found if each.weights is not None and each.best_value is not None]
    if not reached or is_custom:
        return f"study '{name}' has no complete trial yet; 'hpo trials {name}' lists the others"
    best = max(reached, key=lambda each: (each.metric.score(each.best_value or 0.0), -each.number))
    return (
        f"study '{name}' has no complete trial yet; 'hpo export {name} --trial {best.number}' takes "
        f"the best so far, which is {best.state} ({best.metric.label} {best.best_value:.4f})"
    )
