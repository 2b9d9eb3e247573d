"""Rungs: the epochs at which a study compares its trials, and lets only the best of them go on.

This is asynchronous successive halving with promotion (Li et al. 2020, "A System for Massively Parallel
Hyperparameter Tuning", arXiv 1810.05934). A trial that reaches a rung, and is not among the best one in
``factor`` of all that have reached it, is paused: it keeps its checkpoint. As more trials come it may turn
out to be among the best after all; then it is promoted, and goes on from there in whatever worker is free.
A free worker promotes where it can, from the highest rung down, before it begins a new trial.

What a trial has at a rung is its best accuracy up to there. Nothing here writes: a ``Board``, which is told
of a study's trials as Optuna gives them, says what becomes of one that has just reported, and which paused
one goes on next. It goes by two system attributes: ``PAUSED`` is the rung at which a trial waits, or null;
``PROMOTED`` the highest rung that it may pass, whatever comes after.
"""

import copy
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from hpo.search.ranking import Ranking
from hpo.search.replicates import REPLICATE_OF
from hpo.study.definition import Definition
from hpo.training.config import Config

PAUSED_AT_RUNG, PROMOTED_PAST_RUNG = "hpo:paused", "hpo:promoted"
LISTED_ATTRIBUTES = {"grid_id", "fixed_params"}  # system attributes of trials that nobody searched


@dataclass(frozen=True, kw_only=True)
class RungDecision:
    """What becomes of a trial at a rung; one that goes on was promoted, at once."""

    kind: str  # promoted, paused or pruned
    rung: int  # epochs
    rank: int  # among those that have reached the rung, from 1
    trials: int  # that have reached it

    def __str__(self) -> str:
        return f"place {self.rank} of {self.trials} after epoch {self.rung}"


@dataclass(frozen=True, kw_only=True)
class Rungs:
    """The rungs of a study."""

    epochs: tuple[int, ...]  # epochs, from the lowest
    factor: int  # one in so many goes on
    max_trials: int  # trials that may ever begin
    includes_points: bool  # listed points take part
    shows_running: bool = False  # the sampler knows what to make of a trial that runs

    def is_at_rung(self, trial: FrozenTrial) -> bool:
        """Tell whether a trial takes part, and has just reported at a rung."""
        return trial.last_step in self.epochs and self.is_compared(trial)

    def as_sampler_sees(self, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """Give the trials as a sampler is to see them: an open one with what it has come to, if anything.

        TPE takes a trial that runs for a bad one, lest others try the like. But one that has passed a rung
        is among the best there are, and one that has not got there may just be slow.
        """
        found = []
        for trial in trials:
            if trial.state.is_finished() or (self.shows_running and trial.state == TrialState.RUNNING):
                found.append(trial)
            elif (trial.last_step or 0) >= self.epochs[0]:
                found.append(_as_pruned(trial))
        return found

    def is_compared(self, trial: FrozenTrial) -> bool:
        """Tell whether a trial is compared with others."""
        return is_prunable(trial, self.includes_points)

    def best_accuracy(self, rung: int, trial: FrozenTrial) -> float | None:
        """Give what a trial has at a rung; None if it has not reached it, or takes no part."""
        if (trial.last_step or 0) < rung or not self.is_compared(trial):
            return None
        return max(value for step, value in trial.intermediate_values.items() if step <= rung)


class RungTable:
    """Where a study's trials stand at each rung, kept as they come and go.

    ``put`` is to be told of each trial that is new, or has changed; what it says of one is as it was then.
    """

    def __init__(self, rungs: Rungs, trials: Iterable[FrozenTrial] = ()) -> None:
        self.rungs = rungs
        self._reached = {rung: Ranking() for rung in rungs.epochs}  # all that have reached it, best first
        self._paused = {rung: Ranking() for rung in rungs.epochs}  # of these, those paused there
        self._pruned = Ranking()  # by the epochs that they had
        self._completed: set[int] = set()  # those that take part and are complete
        for trial in trials:
            self.update(trial)

    def update(self, trial: FrozenTrial) -> None:
        """Note how a trial stands."""
        number, resting, epochs = trial.number, paused_rung(trial), trial.last_step or 0
        for rung in self.rungs.epochs:
            best = self.rungs.best_accuracy(rung, trial)
            key = None if best is None else -best
            self._reached[rung].put(number, key)
            self._paused[rung].put(number, key if resting == rung else None)
        judged = self.rungs.is_compared(trial)
        self._pruned.put(number, epochs if judged and trial.state == TrialState.PRUNED else None)
        if judged and trial.state == TrialState.COMPLETE:
            self._completed.add(number)

    def decide(self, own: FrozenTrial) -> RungDecision:
        """Say what becomes of a trial that has just reported at a rung, by its place there.

        It is pruned where so many are better that, with all trials that are still to come, it could
        not be promoted any more. All may come that have not been pruned below: early on, more are promoted
        than their rung would promote in the end.
        """
        rung = own.last_step
        assert rung in self.rungs.epochs
        self.update(own)
        there, factor = self._reached[rung], self.rungs.factor
        place = 1 + there.place(own.number)
        arriving = self.rungs.max_trials - self._pruned.below(rung)
        if place <= len(there) // factor or own.system_attrs.get(PROMOTED_PAST_RUNG, 0) >= rung:
            kind = "promoted"
        else:
            kind = "pruned" if place > max(arriving // factor, 1) else "paused"
        return RungDecision(kind=kind, rung=rung, rank=place, trials=len(there))

    def next_promotion(self, *, taken: Collection[int] = (), last: bool = False) -> tuple[int, int] | None:
        """Give the number of the paused trial that goes on next, and its rung; None if there is none.

        Those of the numbers ``taken`` are being promoted by others. With ``last`` no trial will come or go
        on besides: then the best paused one goes on if not even one of them all has completed.
        """
        for rung in reversed(self.rungs.epochs):
            there, waiting = self._reached[rung], self._paused[rung]
            best = next((number for number in waiting if number not in taken), None)
            if best is not None and there.place(best) < len(there) // self.rungs.factor:
                return best, rung
        if last and not self._completed:
            for rung in reversed(self.rungs.epochs):
                for number in self._paused[rung]:
                    return number, rung
        return None

    def first_paused(self) -> int | None:
        """Give the first number of those that wait at a rung; None if none does."""
        return min((min(each) for each in self._paused.values() if len(each)), default=None)


def is_prunable(trial: FrozenTrial, include_points: bool) -> bool:
    """Tell whether a study may end a trial early: no replicate, and of listed ones only with ``points``."""
    marks = trial.system_attrs.keys()
    return REPLICATE_OF not in marks and (include_points or not LISTED_ATTRIBUTES & marks)


def rungs_of(definition: Definition) -> Rungs | None:
    """Give a study's rungs; None where its pruner has none, or none below a trial's last epoch."""
    settings = definition.search.pruner
    rungs = _rung_epochs(definition, settings.min_epochs, settings.reduction_factor)
    if settings.name != "asha" or not rungs:
        return None
    points = definition.search.prune_points
    searched = definition.search.trials if definition.searches else 0
    most = searched + len(definition.listed_points) * points
    return Rungs(
        epochs=rungs,
        factor=settings.reduction_factor,
        max_trials=most,
        includes_points=points,
        shows_running=definition.search.sampler.name == "gp",
    )


def _rung_epochs(definition: Definition, lowest: int, factor: int) -> tuple[int, ...]:
    """Give the epochs that grow by ``factor``, each moved behind a decay of the learning rate at hand.

    Accuracy leaps where a step schedule lowers the rate, and shortly before it does the settings that
    began with a low one look better than they are. So a rung in the second half of the epochs between two
    steps, if all trials have them in common, moves to the first epoch after the second step.
    """
    longest, found = definition.max_epochs(), []
    decay = _decay_interval(definition)
    rung = lowest
    while rung < longest:
        behind = (rung - 1) % decay + 1 if decay else 0  # epochs since the last step
        moved = rung - behind + decay + 1 if 2 * behind > decay else rung
        found.append(moved if moved < longest else rung)
        rung *= factor
    return tuple(dict.fromkeys(found))


def _decay_interval(definition: Definition) -> int:
    """Give the epochs between two steps of the learning rate, where all trials have the same; else 0."""
    settings = definition.trial_config({})
    searched = {"schedule", "step_size", "warmup_epochs"} & {p.name for p in definition.space}
    if not isinstance(settings, Config) or settings.schedule != "step" or searched:
        return 0
    return settings.step_size if settings.warmup_epochs == 0 else 0


def paused_rung(trial: FrozenTrial) -> int | None:
    """Give the rung at which a trial waits for its promotion; None if it does not."""
    rung: int | None = trial.system_attrs.get(PAUSED_AT_RUNG)
    return rung if trial.state == TrialState.WAITING else None


def _as_pruned(trial: FrozenTrial) -> FrozenTrial:
    """Give an open trial as if it had been pruned where it is."""
    ended = copy.copy(trial)
    ended.state, ended.value = TrialState.PRUNED, trial.intermediate_values[trial.last_step or 0]
    return ended
