"""Search strategies, tried on recorded curves in virtual time (``virtual_time``).

The decisions are made by the same samplers, pruners and rungs that real workers use. Only the training is
replaced, by a surrogate.
"""

import random
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from hpo.analysis.recorded_curves import Curve, CurveSource
from hpo.analysis.virtual_time import SimulatedTrial, VirtualStudy
from hpo.search import asha, pruners, samplers, untried
from hpo.search.asha import PAUSED_AT_RUNG, PROMOTED_PAST_RUNG, Rungs
from hpo.search.curve_model import Prior
from hpo.search.freeze_thaw import CurveTable, build_table
from hpo.search.objectives import Objectives
from hpo.search.rankings import Losses
from hpo.search.untried import SettingKey
from hpo.study import space
from hpo.study.definition import Definition
from hpo.study.search_options import Pruner, Sampler
from hpo.study.space import Setting
from hpo.training.metric import Metric

FINALISTS = 3  # trials that continue after a screening


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A way to choose settings and to stop trials."""

    name: str
    sampler: Callable[[int, int], BaseSampler]  # gets a seed and a trial's number
    pruner: Callable[[int], BasePruner]  # gets the epochs of a trial
    rungs: Rungs | None = None
    screening_epochs: int | None = None  # every trial runs these before the best FINALISTS continue
    repeats: bool = True  # a setting may run again; hpo replaces it by the nearest that has not run


def study_strategy(
    definition: Definition, sampler: Sampler, pruner: Pruner, priors: tuple[Prior, ...] = ()
) -> Strategy:
    """Return hpo's own strategy with a sampler and a pruner as a study file names them.

    The number of trials is not limited. In a grid, the pruner may stop the listed points, too, and the
    sampler does not matter.

    Args:
        definition: The study whose space is searched, or whose points are run.
        sampler: Its ``seed`` is replaced by the seed of each simulated study.
        pruner: How trials are stopped.
        priors: What earlier studies say of the settings.
    """
    search = definition.search.model_copy(update={"sampler": sampler, "pruner": pruner, "trials": 10**6})

    def with_seed(seed: int) -> Definition:
        seeded = search.model_copy(update={"sampler": sampler.model_copy(update={"seed": seed})})
        return definition.model_copy(update={"search": seeded})

    if not definition.searches:
        search = search.model_copy(update={"prune_points": True, "trials": 0})
    return Strategy(
        name=f"hpo: {f'{sampler.name}, ' if definition.searches else ''}{_pruner_label(pruner)}",
        sampler=lambda seed, number: samplers.build_sampler(with_seed(seed), number, priors),
        pruner=lambda epochs: pruners.build_pruner(with_seed(0)),
        rungs=asha.rungs_of(with_seed(0), priors),
        repeats=False,
    )


def _pruner_label(pruner: Pruner) -> str:
    if pruner.name == "freeze_thaw":
        return f"{pruner.name} from epoch {pruner.min_epochs}"
    if pruner.name in ("asha", "hyperband"):
        return f"{pruner.name} from epoch {pruner.min_epochs} by {pruner.reduction_factor}"
    return pruner.name


def reference_strategies(definition: Definition, epochs: int) -> Iterator[Strategy]:
    """Yield the strategies to compare with: Optuna's own, and a screening of all trials.

    Args:
        definition: A study that searches, or one that only has listed points; the latter needs no sampler.
        epochs: The epochs of a trial.

    Yields:
        First the reference that all others are measured by: random search, or all points without a pruner.
        Last, screenings that run every trial for one epoch, and for a tenth of the epochs if that is more.
    """
    prune: dict[str, Callable[[int], BasePruner]] = {
        "no pruner": lambda epochs: NopPruner(),
        "median": lambda epochs: MedianPruner(),
        "halving": lambda epochs: SuccessiveHalvingPruner(),
        "hyperband": lambda epochs: HyperbandPruner(1, epochs, 3),
    }
    first = "random" if definition.searches else "no pruner"
    yield Strategy(name=first, sampler=_random_sampler, pruner=prune["no pruner"])
    named_samplers = (("random", _random_sampler), ("TPE", _tpe_sampler))
    for name, sampler in named_samplers if definition.searches else ():
        for pruner, build in prune.items():
            if (name, pruner) != ("random", "no pruner"):
                yield Strategy(name=f"Optuna: {name}, {pruner}", sampler=sampler, pruner=build)
    for pruner in ("median", "halving", "hyperband") if not definition.searches else ():
        yield Strategy(name=f"Optuna: {pruner}", sampler=_random_sampler, pruner=prune[pruner])
    for screening in sorted({1, max(epochs // 10, 1)}):
        yield Strategy(
            name=f"{screening} epoch{'s' * (screening > 1)} for all, then the best {FINALISTS}",
            sampler=_random_sampler,
            pruner=prune["no pruner"],
            screening_epochs=screening,
        )


def _random_sampler(seed: int, number: int) -> BaseSampler:
    return RandomSampler(seed=samplers.derive_seed(seed, number))


def _tpe_sampler(seed: int, number: int) -> BaseSampler:
    return TPESampler(seed=samplers.derive_seed(seed, number))


class _SimulatedStorage(InMemoryStorage):
    """A study in memory that shows a sampler its trials as the strategy's rungs prescribe."""

    def __init__(self, rungs: Rungs | None) -> None:
        super().__init__()
        self.rungs = rungs

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials for a sampler; overrides Optuna's method."""
        found = super().get_all_trials(study_id, deepcopy=False)
        if self.rungs is not None:
            found = self.rungs.as_sampler_sees(found)
        return [trial for trial in found if states is None or trial.state in states]


@dataclass(kw_only=True)
class _StoredTrial(SimulatedTrial):
    """A simulated trial that Optuna's storage in memory has, too."""

    trial: optuna.Trial


class Simulation(VirtualStudy[_StoredTrial]):
    """One simulated study of one strategy.

    With several objectives these are the metric and ``epoch_seconds``; a curve has no others.

    Args:
        surrogate: Gives the curve of each setting.
        strategy: Chooses the settings and stops trials.
        seed: Of the sampler, and of the order of a grid. With seed 0 a grid runs in its own order.
        workers: How many trials run at the same time.
        max_epochs: The budget: epochs of all trials together.
    """

    def __init__(
        self, surrogate: CurveSource, strategy: Strategy, *, seed: int, workers: int, max_epochs: int
    ) -> None:
        super().__init__(surrogate, workers=workers, max_epochs=max_epochs)
        self.strategy, self.seed = strategy, seed
        self.objectives = Objectives(surrogate.recorded.definition.objectives)
        self.storage = _SimulatedStorage(strategy.rungs)
        self.rung_table = None if strategy.rungs is None else build_table(strategy.rungs)
        pruner = strategy.pruner(surrogate.recorded.epochs)
        self.study = optuna.create_study(
            storage=self.storage,
            study_name=f"simulated-{seed}",  # hyperband hashes the name to assign brackets
            directions=[each.direction for each in self.objectives.metrics],
            pruner=pruner,
        )
        self.started: list[_StoredTrial] = []  # by number
        self.tried: set[SettingKey] = set()  # of a search that repeats no setting
        self.planned = self._plan_trials()

    def _plan_trials(self) -> list[Curve] | int:
        """Return a grid's curves in the order in which they run; of a search, the number of trials."""
        recorded, screening = self.known.recorded, self.strategy.screening_epochs
        if not recorded.definition.searches:
            order = list(recorded.curves)
            if self.seed:
                random.Random(self.seed).shuffle(order)
            return order
        if screening:
            for_all = self.max_epochs - FINALISTS * (recorded.epochs - screening)
            return max(for_all // screening, FINALISTS)
        every = None
        if not self.strategy.repeats:
            every = untried.possible_settings(recorded.definition, self.max_epochs)
        return self.max_epochs if every is None else len(every)

    def stored_trials(self) -> list[FrozenTrial]:
        """Return all trials by number, as they are stored (no copies), not as a sampler sees them."""
        return InMemoryStorage.get_all_trials(self.storage, self.study._study_id, deepcopy=False)

    def reached(self, number: int) -> Losses:
        """Return what a trial that has reported has reached so far: its loss in each objective."""
        trial = self.stored_trials()[number]
        losses = self.objectives.losses(trial, trial.last_step or 0)
        assert losses is not None
        return losses

    def report_epoch(self, current: _StoredTrial) -> bool:
        """Report an epoch, and store what follows from it; return whether the trial continues."""
        number, trial_id, rung_table = current.number, current.trial._trial_id, self.rung_table
        value = current.curve.values[current.epoch - 1]
        self.storage.set_trial_intermediate_value(trial_id, current.epoch, value)
        if len(self.objectives.metrics) > 1 or isinstance(rung_table, CurveTable):
            seconds = [current.epoch_seconds] * current.epoch
            self.storage.set_trial_user_attr(trial_id, "epoch_seconds", seconds)
        trial = self.stored_trials()[number]
        if current.epoch == len(current.curve.values):
            self._set_state(number, TrialState.COMPLETE, self.objectives.values(self.reached(number)))
        elif rung_table is not None and rung_table.rungs.is_at_rung(trial):
            if isinstance(rung_table, CurveTable):
                rung_table.prepare(trial)
            decision = rung_table.decide(trial)
            if decision.kind == "promoted":
                self._set_attribute(number, PROMOTED_PAST_RUNG, decision.rung)
                return True
            self._pause(number, current.epoch)
        elif (
            current.epoch == self.strategy.screening_epochs and PROMOTED_PAST_RUNG not in trial.system_attrs
        ):
            self._pause(number, current.epoch)
        elif self.study.pruner.prune(self.study, trial):
            self._set_state(number, TrialState.PRUNED, [value])
        else:
            return True
        return False

    def _pause(self, number: int, rung: int) -> None:
        self._set_attribute(number, PAUSED_AT_RUNG, rung)
        self._set_state(number, TrialState.WAITING)

    def next_trial(self, *, last: bool) -> _StoredTrial | None:
        """Return the trial that an idle worker takes: a promoted one, or a new one; None if there is none.

        ``last`` says that no other worker runs a trial, so that none can be waited for.
        """
        trials, planned = self.stored_trials(), self.planned
        is_left = len(trials) < (len(planned) if isinstance(planned, list) else planned)
        promotion = self._next_promotion(trials, last=last and not is_left, is_left=is_left)
        if promotion is not None:
            number, rung = promotion
            self._set_attribute(number, PAUSED_AT_RUNG, None)
            self._set_attribute(number, PROMOTED_PAST_RUNG, rung)
            self._set_state(number, TrialState.RUNNING)
            return self.started[number]
        return self._start_trial(len(trials)) if is_left else None

    def _start_trial(self, number: int) -> _StoredTrial:
        """Start a new trial: the grid's next point, or a setting that the sampler suggests."""
        is_grid = isinstance(self.planned, list)
        # A grid's points are listed, so its sampler has nothing to suggest.
        self.study.sampler = _random_sampler(0, 0) if is_grid else self.strategy.sampler(self.seed, number)
        self.study._thread_local.cached_all_trials = None
        trial = optuna.Trial(self.study, self.storage.create_new_trial(self.study._study_id))
        if isinstance(self.planned, list):
            curve = self.planned[trial.number]
        else:
            curve = self.known.predict_curve(self._choose_setting(trial))
        self.started.append(_StoredTrial(number=trial.number, curve=curve, trial=trial))
        return self.started[-1]

    def _choose_setting(self, trial: optuna.Trial) -> Setting:
        """Return the setting that the sampler suggests, or the nearest untried one if none may repeat."""
        definition = self.known.recorded.definition
        setting: Setting = space.suggest_setting(trial, definition.space, definition.train)
        if self.strategy.repeats or untried.setting_key(definition, setting) is None:
            return setting
        chosen = untried.nearest_untried(definition, setting, self.tried, seed=trial.number)
        assert chosen is not None, "no more trials are planned than there are settings"
        key = untried.setting_key(definition, chosen)
        assert key is not None
        self.tried.add(key)
        kinds = {parameter.name: parameter.distribution() for parameter in definition.space}
        stored = self.stored_trials()[trial.number]
        stored.params, stored.distributions = dict(chosen), {name: kinds[name] for name in chosen}
        return chosen

    def _next_promotion(
        self, trials: list[FrozenTrial], *, last: bool, is_left: bool
    ) -> tuple[int, int] | None:
        """Return the number of the paused trial that continues, and the epoch at which it paused."""
        screening = self.strategy.screening_epochs
        if self.rung_table is not None:
            if isinstance(self.rung_table, CurveTable):
                self.rung_table.prepare()
            return self.rung_table.next_promotion(last=last)
        if screening is None or is_left or any((trial.last_step or 0) < screening for trial in trials):
            return None
        metric = self.known.recorded.metric
        ranked = sorted(trials, key=lambda t: (-_best_score(t, screening, metric), t.number))[:FINALISTS]
        paused = [trial.number for trial in ranked if asha.paused_rung(trial) is not None]
        return (paused[0], screening) if paused else None

    def _set_attribute(self, number: int, key: str, value: int | None) -> None:
        self.storage.set_trial_system_attr(self.started[number].trial._trial_id, key, value)

    def _set_state(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        self.storage.set_trial_state_values(self.started[number].trial._trial_id, state, values)
        if self.rung_table is not None:
            self.rung_table.update(self.stored_trials()[number])


def _best_score(trial: FrozenTrial, epoch: int, metric: Metric) -> float:
    """Return the score of a trial's best value up to and including an epoch."""
    return max(metric.score(value) for step, value in trial.intermediate_values.items() if step <= epoch)
