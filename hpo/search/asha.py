"""ASHA: asynchronous successive halving with promotion and paused trials.

Source: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, arXiv
1810.05934, algorithm 2. The rungs of a study are epochs at which it compares its trials and lets only the
best continue:

1. A trial reaches a rung when it reports that epoch. Its value there is its best one up to that epoch.
   Trials that reached the rung are ranked by this value; of equal ones the earlier trial is ahead. With
   several objectives a trial's values there are those of ``Objectives.losses``, and trials are ranked by
   dominance (``pareto_order``; Schmucker et al. 2021, "Multi-objective Asynchronous Successive Halving",
   arXiv 2106.12639).
2. The best ``floor(n / factor)`` of the n trials that reached the rung are promoted: they train on. Any
   other is paused: it keeps its checkpoint and gives its worker back.
3. More trials reach the rung later, so a paused trial may turn out to be among the best after all. A free
   worker takes such a trial, from the highest rung down, before it begins a new one.
4. A trial is pruned at once, instead of paused, if so many are ahead of it for good that it could not be
   promoted even after all trials that are still to come.
5. When nothing but paused trials is left and no trial has completed, the best trial of the highest rung is
   promoted, so that one completes. All others that are still paused are ended.

Nothing here writes to the database. ``RungTable`` gets a study's trials as Optuna gives them, and answers
what happens to a trial that has just reported, and which paused trial continues next. The caller stores the
answer in system attributes of the trial: ``PAUSED_AT_RUNG`` is the rung at which it waits, or null;
``PROMOTED_PAST_RUNG`` is the highest rung that it may pass, whatever trials come later. Where a model
decides, ``RUNG_DECISIONS`` has what it decided at each rung, and what it expected (``StoredDecision``).
"""

import copy
import itertools
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from hpo.search.curve_forecast import CurveSpace, curve_space
from hpo.search.curve_model import Prior
from hpo.search.early_stopping import has_stopped_early
from hpo.search.objectives import Objectives
from hpo.search.rankings import DominanceRanking, Losses, LossRanking, Ranking
from hpo.search.replicates import REPLICATE_OF
from hpo.study.definition import Definition
from hpo.training.config import Config

PAUSED_AT_RUNG, PROMOTED_PAST_RUNG, RUNG_DECISIONS = "hpo:paused", "hpo:promoted", "hpo:decisions"
DENSE_RUNGS = 1.5  # the ratio of the epochs of two rungs where a model decides what continues
LISTED_ATTRIBUTES = {"grid_id", "fixed_params"}  # system attributes of trials that no sampler proposed


@dataclass(frozen=True, kw_only=True)
class StoredDecision:
    """What happens to a trial at a rung, as it is stored with the trial if a model decided."""

    kind: str  # promoted, paused or pruned
    rung: int  # epochs
    reason: str = ""  # why it pauses, by a model; empty if ranks alone decide
    expected: tuple[float, float, float] | None = None  # lower end, median and upper end of a forecast

    def to_json(self) -> dict[str, Any]:
        """Return what is stored; ``stored_decisions`` reads it."""
        return {"rung": self.rung, "kind": self.kind, "reason": self.reason, "expected": self.expected}


@dataclass(frozen=True, kw_only=True)
class RungDecision(StoredDecision):
    """What happens to a trial at a rung, and its rank there."""

    rank: int  # among the trials that have reached the rung, from 1
    trials: int  # number of trials that it was compared with, itself included

    def __str__(self) -> str:
        place = f"place {self.rank} of {self.trials} after epoch {self.rung}"
        return f"after epoch {self.rung}: {self.reason}" if self.reason else place


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a trial stands among those that have reached a rung, by its loss."""

    trials: int  # that have reached it, itself included
    ahead: int  # of these, that are better


@dataclass(frozen=True, kw_only=True)
class Rungs:
    """The rungs of a study, and which trials are compared at them."""

    objectives: Objectives
    epochs: tuple[int, ...]  # ascending
    factor: int  # one trial in ``factor`` is promoted
    max_trials: int  # upper bound of the compared trials that can ever begin
    includes_points: bool  # whether listed points are compared, too
    shows_running: bool = False  # whether the sampler can make use of running trials
    curves: CurveSpace | None = None  # what a model of the curves is about; None if ranks alone decide

    def is_at_rung(self, trial: FrozenTrial) -> bool:
        """Return whether a trial is compared with others and its last report is at a rung."""
        return trial.last_step in self.epochs and self.is_compared(trial)

    def is_compared(self, trial: FrozenTrial) -> bool:
        """Return whether a trial is compared with others; replicates never are, listed points may be."""
        return is_prunable(trial, self.includes_points)

    def losses(self, rung: int, trial: FrozenTrial) -> Losses | None:
        """Return what a trial had reached at a rung; None if it is not compared or has not reached it.

        One that stopped early has reached all rungs.
        """
        return self.objectives.losses(trial, rung) if rung <= self.last_reached(trial) else None

    def last_reached(self, trial: FrozenTrial) -> float:
        """Return the epoch up to which a trial has reached all rungs; 0 if it is not compared."""
        if not self.is_compared(trial):
            return 0
        return math.inf if has_stopped_early(trial) else trial.last_step or 0

    def as_sampler_sees(self, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """Return the trials that a sampler is shown, in the form in which it sees them.

        Ended trials stay as they are, failed ones too. An unfinished trial that reached the first rung
        appears as a copy that is pruned, with its last value; others are left out. With
        ``shows_running``, every RUNNING trial stays as it is instead, whatever rung it reached.

        The reason: TPE treats a running trial as a bad one, to keep other workers from similar settings.
        But a trial that passed a rung is among the best, and one that has not reached the first rung may
        just be slow.
        """
        found = []
        for trial in trials:
            if self._is_shown_as_it_is(trial):
                found.append(trial)
            elif self.is_shown_as_pruned(trial):
                found.append(_as_pruned(trial))
        return found

    def is_shown_as_pruned(self, trial: FrozenTrial) -> bool:
        """Return whether a trial is unfinished and a sampler sees it as pruned (``as_sampler_sees``)."""
        return not self._is_shown_as_it_is(trial) and (trial.last_step or 0) >= self.epochs[0]

    def _is_shown_as_it_is(self, trial: FrozenTrial) -> bool:
        return trial.state.is_finished() or (self.shows_running and trial.state == TrialState.RUNNING)


class RungTable:
    """The ranking of a study's trials at each rung, updated as trials change.

    Call ``update`` for every trial that is new or has changed. With one objective an update or a query
    costs logarithmic time in the number of trials; only ``first_paused`` takes linear time in that of
    paused ones. With several, a query sorts the trials of a rung again if they have changed.

    Args:
        rungs: The rungs of the study.
        trials: The trials known at the beginning.
    """

    def __init__(self, rungs: Rungs, trials: Iterable[FrozenTrial] = ()) -> None:
        self.rungs = rungs
        kind = LossRanking if len(rungs.objectives.metrics) == 1 else DominanceRanking
        self._reached: dict[int, Ranking] = {rung: kind() for rung in rungs.epochs}
        self._unranked: set[int] = set()  # trials that wait at a rung without having reached it
        self._pruned_below: dict[int, set[int]] = {rung: set() for rung in rungs.epochs}
        self._completed: set[int] = set()
        for trial in trials:
            self.update(trial)

    def update(self, trial: FrozenTrial) -> None:
        """Take in the present state of a trial; one that is not compared is left out of all rankings."""
        number, waits_at = trial.number, paused_rung(trial)
        self._unranked.discard(number)
        compared, epochs = self.rungs.is_compared(trial), trial.last_step or 0
        last_rung = self.rungs.last_reached(trial)
        is_pruned = compared and trial.state == TrialState.PRUNED
        for rung, reached in self._reached.items():
            losses = self.rungs.objectives.losses(trial, rung) if rung <= last_rung else None
            if losses is not None:
                reached.put(number, losses, waits=waits_at == rung)
            else:
                reached.remove(number)
                if waits_at == rung:
                    self._unranked.add(number)
            if is_pruned and epochs < rung:
                self._pruned_below[rung].add(number)
            else:
                self._pruned_below[rung].discard(number)
        if compared and trial.state == TrialState.COMPLETE:
            self._completed.add(number)

    @property
    def losses(self) -> dict[int, Mapping[int, float]]:
        """What trials have reached, by rung and number; empty with several objectives."""
        return {rung: each.losses for rung, each in self._reached.items() if isinstance(each, LossRanking)}

    def decide(self, own: FrozenTrial, standing: Standing | None = None) -> RungDecision:
        """Take in a trial that has just reported at a rung; return what happens to it, by its rank there.

        It is promoted if it is among the best ``floor(n / factor)`` of the n trials that reached the rung,
        or was promoted past this rung before. It is pruned if it could not be promoted even after all
        trials that can still reach the rung; one that none is ahead of for good is never pruned. These are
        all trials but those pruned below it: early on, more trials are promoted from a lower rung than that
        rung would promote in the end. Otherwise it is paused.

        Args:
            own: The trial; ``Rungs.is_at_rung`` must hold for it. ``update`` is called for it here.
            standing: Where it stands at the rung, with one objective; None ranks it among the trials taken
                in here.
        """
        rung = own.last_step
        assert rung in self._reached
        self.update(own)
        reached, factor, number = self._reached[rung], self.rungs.factor, own.number
        may_reach = self.rungs.max_trials - len(self._pruned_below[rung])
        found = standing or Standing(trials=len(reached), ahead=reached.place(number))
        if found.ahead < found.trials // factor or own.system_attrs.get(PROMOTED_PAST_RUNG, 0) >= rung:
            kind = "promoted"
        else:
            always_ahead = found.ahead if standing else reached.always_ahead(number)
            kind = "pruned" if always_ahead >= max(may_reach // factor, 1) else "paused"
        return RungDecision(kind=kind, rung=rung, rank=found.ahead + 1, trials=found.trials)

    def next_promotion(self, *, taken: Collection[int] = (), last: bool = False) -> tuple[int, int] | None:
        """Return which paused trial continues next: the best one at the highest rung that promotes any.

        Args:
            taken: Numbers of trials that other workers are promoting right now; they are passed over.
            last: Whether nothing but paused trials is left. If then no trial has completed or is to be
                promoted, the best paused trial of the highest rung that has one continues.

        Returns:
            The number of the trial and its rung, or None if no trial is to be promoted.
        """
        for rung in reversed(self.rungs.epochs):
            reached = self._reached[rung]
            best = next((number for number in reached.waiting() if number not in taken), None)
            if best is not None and reached.place(best) < len(reached) // self.rungs.factor:
                return best, rung
        if last and not self._completed:
            for rung in reversed(self.rungs.epochs):
                for number in self._reached[rung].waiting():
                    return number, rung
        return None

    def first_paused(self) -> int | None:
        """Return the lowest number of a trial that waits at a rung; None if no trial does."""
        waiting = (reached.waiting() for reached in self._reached.values())
        return min(itertools.chain(self._unranked, *waiting), default=None)


def is_prunable(trial: FrozenTrial, include_points: bool) -> bool:
    """Return whether a study may end a trial early.

    Args:
        trial: The trial; False for a replicate.
        include_points: Whether listed points, and settings queued by hand, may be ended early.
    """
    marks = trial.system_attrs.keys()
    return REPLICATE_OF not in marks and (include_points or not LISTED_ATTRIBUTES & marks)


def paused_rung(trial: FrozenTrial) -> int | None:
    """Return the rung at which a trial waits for its promotion; None if it does not wait."""
    rung: int | None = trial.system_attrs.get(PAUSED_AT_RUNG)
    return rung if trial.state == TrialState.WAITING else None


def stored_decisions(trial: FrozenTrial) -> tuple[StoredDecision, ...]:
    """Return what a model decided on a trial at its rungs, in their order."""
    return tuple(
        StoredDecision(**{**made, "expected": made["expected"] and tuple(made["expected"])})
        for made in trial.system_attrs.get(RUNG_DECISIONS, ())
    )


def rungs_of(definition: Definition, priors: tuple[Prior, ...] = ()) -> Rungs | None:
    """Return the rungs of a study; None if its pruner has none or no rung lies below the last epoch.

    The last epoch is the largest that a searched trial can have.

    Args:
        definition: The study.
        priors: What earlier studies say of its settings, for a model of its curves.
    """
    settings = definition.search.pruner
    has_model = settings.name == "freeze_thaw"
    factor = DENSE_RUNGS if has_model else settings.reduction_factor
    epochs = _rung_epochs(definition, settings.min_epochs, factor)
    if settings.name not in ("asha", "freeze_thaw") or not epochs:
        return None
    includes_points = definition.search.prune_points
    curves = curve_space(definition, priors) if has_model else None
    return Rungs(
        objectives=Objectives(definition.objectives),
        epochs=epochs,
        factor=settings.reduction_factor,
        max_trials=definition.searched_trials + len(definition.listed_points) * includes_points,
        includes_points=includes_points,
        shows_running=definition.search.sampler.name in ("gp", "freeze_thaw"),
        curves=curves if curves and curves.encoder.parameters else None,
    )


def _rung_epochs(definition: Definition, lowest: int, factor: float) -> tuple[int, ...]:
    """Return epochs that grow by ``factor``, each moved behind a near decay of the learning rate.

    Accuracy leaps where a step schedule lowers the rate. Shortly before that, settings that began with a
    low rate look better than they are. So a rung in the second half of the epochs between two steps moves
    to the first epoch after the second step, if all trials have these steps in common.

    Args:
        definition: The study.
        lowest: The first rung, in epochs.
        factor: The ratio between two rungs.
    """
    last, found = definition.max_epochs(), []
    interval = _decay_interval(definition)
    exact = float(lowest)
    while (rung := round(exact)) < last:
        since = (rung - 1) % interval + 1 if interval else 0  # epochs since the last step
        moved = rung - since + interval + 1 if 2 * since > interval else rung
        found.append(moved if moved < last else rung)
        exact *= factor
    return tuple(dict.fromkeys(found))


def _decay_interval(definition: Definition) -> int:
    """Return the epochs between two steps of the learning rate; 0 if trials differ or have no steps."""
    settings = definition.trial_config({})
    searched = {"schedule", "step_size", "warmup_epochs"} & {p.name for p in definition.space}
    if not isinstance(settings, Config) or settings.schedule != "step" or searched:
        return 0
    return settings.step_size if settings.warmup_epochs == 0 else 0


def _as_pruned(trial: FrozenTrial) -> FrozenTrial:
    """Return an unfinished trial as if it had been pruned after its last report."""
    pruned = copy.copy(trial)
    pruned.state, pruned.value = TrialState.PRUNED, trial.intermediate_values[trial.last_step or 0]
    return pruned
