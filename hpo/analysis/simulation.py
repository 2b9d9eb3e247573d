"""Search strategies, tried on recorded curves in virtual time.

A simulated study has workers, and an event for each epoch that one of them ends: the epoch's accuracy is
reported, the trial goes on, pauses, or ends, and a worker that is free takes the next. What decides are the
samplers, the pruners and the rungs that real workers ask; only the training is replaced, by a surrogate.
"""

import heapq
import random
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass

import optuna
from optuna import pruners
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from hpo.analysis.surrogate import Curve, Surrogate
from hpo.search import asha, samplers
from hpo.search.asha import PAUSED_AT_RUNG, PROMOTED_PAST_RUNG, Rungs, RungTable
from hpo.study import space
from hpo.study.definition import Definition, Pruner, Sampler

FINALISTS = 3  # of "k epochs for all, then the best three"


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A way to choose settings, and to stop trials."""

    name: str
    sampler: Callable[[int, int], BaseSampler]  # of a seed and a trial's number
    pruner: Callable[[int], pruners.BasePruner]  # of a trial's epochs
    rungs: Rungs | None = None
    screening_epochs: int | None = None  # epochs that every trial has before the best of them are chosen


@dataclass(frozen=True, kw_only=True)
class BestSoFar:
    """What a simulated study had found when an epoch ended."""

    epochs: int  # of all trials together
    seconds: float
    accuracy: float  # the best so far
    curve: Curve  # of the trial that has it


def study_strategy(definition: Definition, sampler: Sampler, pruner: Pruner) -> Strategy:
    """Give a strategy as a study file names it."""
    search = definition.search.model_copy(update={"sampler": sampler, "pruner": pruner, "trials": 10**6})

    def made(seed: int) -> Definition:
        seeded = search.model_copy(update={"sampler": sampler.model_copy(update={"seed": seed})})
        return definition.model_copy(update={"search": seeded})

    if not definition.searches:
        search = search.model_copy(update={"prune_points": True, "trials": 0})
    return Strategy(
        name=f"hpo: {f'{sampler.name}, ' if definition.searches else ''}{_pruner_label(pruner)}",
        sampler=lambda seed, number: samplers.build_sampler(made(seed), number),
        pruner=lambda epochs: samplers.build_pruner(made(0)),
        rungs=asha.rungs_of(made(0)),
    )


def _pruner_label(pruner: Pruner) -> str:
    if pruner.name in ("asha", "hyperband"):
        return f"{pruner.name} from epoch {pruner.min_epochs} by {pruner.reduction_factor}"
    return pruner.name


def reference_strategies(definition: Definition, epochs: int) -> Iterator[Strategy]:
    """Give what strategies of ours are compared with: Optuna's own, and screening all before the best."""
    prune: dict[str, Callable[[int], pruners.BasePruner]] = {
        "no pruner": lambda epochs: pruners.NopPruner(),
        "median": lambda epochs: pruners.MedianPruner(),
        "halving": lambda epochs: pruners.SuccessiveHalvingPruner(),
        "hyperband": lambda epochs: pruners.HyperbandPruner(1, epochs, 3),
    }
    first = "random" if definition.searches else "no pruner"
    yield Strategy(name=first, sampler=_random_sampler, pruner=prune["no pruner"])
    for name, sampler in (
        (("random", _random_sampler), ("TPE", _tpe_sampler)) if definition.searches else ()
    ):
        for pruner, made in prune.items():
            if (name, pruner) != ("random", "no pruner"):
                yield Strategy(name=f"Optuna: {name}, {pruner}", sampler=sampler, pruner=made)
    for pruner in ("median", "halving", "hyperband") if not definition.searches else ():
        yield Strategy(name=f"Optuna: {pruner}", sampler=_random_sampler, pruner=prune[pruner])
    for screened in sorted({1, max(epochs // 10, 1)}):
        name = f"{screened} epoch{'s' * (screened > 1)} for all, then the best {FINALISTS}"
        yield Strategy(
            name=name, sampler=_random_sampler, pruner=prune["no pruner"], screening_epochs=screened
        )


def _random_sampler(seed: int, number: int) -> BaseSampler:
    return RandomSampler(seed=samplers.derive_seed(seed, number))


def _tpe_sampler(seed: int, number: int) -> BaseSampler:
    return TPESampler(seed=samplers.derive_seed(seed, number))


class _SimulatedStorage(InMemoryStorage):
    """A study in memory; a sampler sees it as a strategy's rungs show it."""

    def __init__(self, ladder: Rungs | None) -> None:
        super().__init__()
        self.rungs = ladder

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        found = super().get_all_trials(study_id, deepcopy=False)
        if self.rungs is not None:
            found = self.rungs.as_sampler_sees(found)
        return [trial for trial in found if states is None or trial.state in states]


@dataclass
class _SimulatedTrial:
    """A trial of a simulated study."""

    trial: optuna.Trial
    curve: Curve
    epoch: int = 0


class Simulation:
    """One study of one strategy, in virtual time."""

    def __init__(
        self, surrogate: Surrogate, strategy: Strategy, *, seed: int, workers: int, most: int
    ) -> None:
        self.surrogate, self.strategy, self.seed, self.workers = surrogate, strategy, seed, workers
        self.max_epochs = most  # epochs of all trials together
        self.storage = _SimulatedStorage(strategy.rungs)
        self.rung_table = None if strategy.rungs is None else RungTable(strategy.rungs)
        pruner = strategy.pruner(surrogate.recorded.epochs)
        self.study = optuna.create_study(
            storage=self.storage,
            study_name=f"simulated-{seed}",  # which decides about hyperband's brackets
            direction="maximize",
            pruner=pruner,
        )
        self.started: list[_SimulatedTrial] = []  # by number
        self.planned = self._plan_trials()

    def _plan_trials(self) -> list[Curve] | int:
        """Give the curves of a grid in the order in which they are run, or how many trials are searched."""
        recorded, screened = self.surrogate.recorded, self.strategy.screening_epochs
        if not recorded.definition.searches:
            order = list(recorded.curves)
            if self.seed:  # the first time as the study lists them
                random.Random(self.seed).shuffle(order)
            return order
        if screened:
            return max((self.max_epochs - FINALISTS * (recorded.epochs - screened)) // screened, FINALISTS)
        return self.max_epochs

    def run(self) -> Iterator[BestSoFar]:
        """Give what is found with each epoch, until all are used, or nothing is left to run."""
        queue: list[tuple[float, int]] = []  # when a worker ends its epoch
        running: dict[int, _SimulatedTrial] = {}
        idle = list(range(self.workers))
        now, used, best, whose = 0.0, 0, 0.0, 0
        while used < self.max_epochs:
            while idle and (taken := self._next_trial(last=not running)):
                worker = idle.pop(0)
                running[worker] = taken
                heapq.heappush(queue, (now + self._epoch_seconds(taken), worker))
            if not queue:
                return
            now, worker = heapq.heappop(queue)
            own = running[worker]
            own.epoch += 1
            used += 1
            accuracy = own.curve.accuracies[own.epoch - 1]
            if accuracy > best:
                best, whose = accuracy, own.trial.number
            yield BestSoFar(epochs=used, seconds=now, accuracy=best, curve=self.started[whose].curve)
            if self._report_epoch(own, accuracy):
                del running[worker]
                idle.append(worker)
            else:
                heapq.heappush(queue, (now + self._epoch_seconds(own), worker))

    def _epoch_seconds(self, own: _SimulatedTrial) -> float:
        return own.curve.total_seconds / len(own.curve.accuracies)

    def _trials(self) -> list[FrozenTrial]:
        return InMemoryStorage.get_all_trials(self.storage, self.study._study_id, deepcopy=False)

    def _report_epoch(self, own: _SimulatedTrial, accuracy: float) -> bool:
        """Report an epoch, and tell whether the trial ends there, or pauses."""
        own.trial.report(accuracy, own.epoch)
        number, board, screened = own.trial.number, self.rung_table, self.strategy.screening_epochs
        trial = self._trials()[number]
        if own.epoch == len(own.curve.accuracies):
            self._set_state(number, TrialState.COMPLETE, [max(own.curve.accuracies)])
        elif board is not None and board.rungs.is_at_rung(trial):
            found = board.decide(trial)
            if found.kind == "promoted":
                self._set_attribute(number, PROMOTED_PAST_RUNG, found.rung)
                return False
            self._pause(number, own.epoch)
        elif own.epoch == screened and PROMOTED_PAST_RUNG not in trial.system_attrs:
            self._pause(number, own.epoch)
        elif own.trial.should_prune():
            self._set_state(number, TrialState.PRUNED, [accuracy])
        else:
            return False
        return True

    def _pause(self, number: int, rung: int) -> None:
        self._set_attribute(number, PAUSED_AT_RUNG, rung)
        self._set_state(number, TrialState.WAITING)

    def _next_trial(self, *, last: bool) -> _SimulatedTrial | None:
        """Give the trial that a free worker runs: a paused one, or a new one; None if there is none now."""
        trials, planned = self._trials(), self.planned
        left = len(trials) < (len(planned) if isinstance(planned, list) else planned)
        found = self._promotable(trials, last=last and not left, left=left)
        if found is not None:
            number, rung = found
            self._set_attribute(number, PAUSED_AT_RUNG, None)
            self._set_attribute(number, PROMOTED_PAST_RUNG, rung)
            self._set_state(number, TrialState.RUNNING)
            return self.started[number]
        if not left:
            return None
        listed = isinstance(planned, list)
        # A grid's points are listed: its sampler has nothing to say.
        self.study.sampler = (
            _random_sampler(0, 0) if listed else self.strategy.sampler(self.seed, len(trials))
        )
        self.study._thread_local.cached_all_trials = None
        trial = optuna.Trial(self.study, self.storage.create_new_trial(self.study._study_id))
        if isinstance(planned, list):
            curve = planned[trial.number]
        else:
            train = self.surrogate.recorded.definition.train
            curve = self.surrogate.predict_curve(space.suggest_setting(trial, self.surrogate.space, train))
        self.started.append(_SimulatedTrial(trial, curve))
        return self.started[-1]

    def _promotable(self, trials: list[FrozenTrial], *, last: bool, left: bool) -> tuple[int, int] | None:
        """Give the number of the paused trial that goes on, and its rung."""
        screened = self.strategy.screening_epochs
        if self.rung_table is not None:
            return self.rung_table.next_promotion(last=last)
        if screened is None or left or any((trial.last_step or 0) < screened for trial in trials):
            return None
        ranked = sorted(trials, key=lambda t: (-max(self._values_until(t, screened)), t.number))[:FINALISTS]
        waiting = [trial.number for trial in ranked if asha.paused_rung(trial) is not None]
        return (waiting[0], screened) if waiting else None

    def _values_until(self, trial: FrozenTrial, epoch: int) -> list[float]:
        return [value for step, value in trial.intermediate_values.items() if step <= epoch]

    def _set_attribute(self, number: int, key: str, value: int | None) -> None:
        self.storage.set_trial_system_attr(self.started[number].trial._trial_id, key, value)

    def _set_state(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        self.storage.set_trial_state_values(self.started[number].trial._trial_id, state, values)
        if self.rung_table is not None:
            self.rung_table.update(self._trials()[number])
