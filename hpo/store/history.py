"""A worker's cache of its study's trials, as samplers and pruners see them.

Optuna's own cache reads every unfinished trial, and so the study's whole budget, whenever a sampler or
pruner reads the study, and it writes each parameter in a transaction of its own. This cache returns the
same trials at the cost of what is new:

* The database is read at most once for a proposal and once for a pruning decision, and only if the sampler
  or pruner wants to see other trials: at most epochs no pruner does.
* Only changes are read (``changes``). User attributes are left out in a study with one objective, where no
  sampler or pruner reads them, unless a model of the curves needs the seconds in them.
* A sampler sees no more trials than ``samplers.select_trials`` selects, however many there are. Their
  ranking, and that at the study's rungs, is kept in order as the trials change.
* The worker's own trial is kept in memory, because only the worker writes about it. What a sampler or
  pruner writes about it is held back until the worker commits it together with what else is due.
"""

import bisect
import contextlib
import copy
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution
from optuna.storages._cached_storage import _CachedStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sortedcontainers import SortedKeyList
from sqlalchemy.orm import Session

from hpo.errors import StoreError
from hpo.search import pruners, replicates, sampler_views, samplers
from hpo.search.asha import Rungs, RungTable, rungs_of
from hpo.search.curve_model import Prior
from hpo.search.freeze_thaw import CurveTable, build_table
from hpo.search.objectives import Objectives
from hpo.store import rows
from hpo.store.changes import StudyChanges
from hpo.store.rows import Parameters
from hpo.store.storage import Storage, retrying
from hpo.study.definition import Definition
from hpo.training.metric import Metric

R = TypeVar("R")


class History(_CachedStorage):
    """One study of a storage, as the storage of the Optuna study that samplers and pruners get.

    ``begin_trial`` sets the worker's own trial; what was held back about the previous one is dropped. Not
    for use by several threads at once.

    Attributes:
        storage: The storage that the study is in.
        study_id: Optuna's id of the study.
        name: The study's name.
        metric: What the study's trials report.
        objectives: What they are compared by.
        unwritten_parameters: Held back of the own trial: internal value and distribution, by name.
        unwritten_attributes: System attributes of the own trial that are held back.
        warm_start_trials: Other studies' trials, which a sampler sees before this study's.
        priors: What the order of other studies' trials says of settings, to the sampler freeze_thaw.
        rung_table: The study's rungs, and the trials that reached them; None if it has no rungs.
    """

    def __init__(
        self, storage: Storage, study_id: int, name: str, metric: Metric, objectives: Sequence[Metric] = ()
    ) -> None:
        """Start with an empty cache; nothing is read yet."""
        super().__init__(storage)
        self.storage, self.study_id, self.name, self.metric = storage, study_id, name, metric
        self.objectives = tuple(objectives) or (metric,)
        self.unwritten_parameters: dict[str, tuple[float, BaseDistribution]] = {}
        self.unwritten_attributes: dict[str, Any] = {}
        self.warm_start_trials: list[FrozenTrial] = []
        self.priors: tuple[Prior, ...] = ()
        self.rung_table: RungTable | CurveTable | None = None
        self._own_trial: FrozenTrial | None = None
        self._left_trial_id = 0  # id of the previous own trial, which is to be read again
        self._trials: list[FrozenTrial] = []  # as last read, by number
        self._numbers: list[int] = []  # of these trials
        self._changes = StudyChanges(
            study_id=study_id,
            objectives=len(self.objectives),
            with_user_attributes=len(self.objectives) > 1,
        )
        self._rank_keys: dict[int, tuple[float, float]] = {}  # by number, of the informative trials
        # The numbers of these trials, the best first.
        self._ranking: SortedKeyList[int, tuple[tuple[float, float], int]] = SortedKeyList(
            key=lambda number: (self._rank_keys[number], number)
        )
        self._replicates: dict[int, int] = {}  # number of each replicate: that of its setting's first trial
        self._is_current = False  # whether the trials need no further read for now
        self._sampler_trials: list[FrozenTrial] | None = None  # what a sampler sees; None: select again
        self._session: Session | None = None  # of the transaction in which the pruner is asked

    @property
    def rungs(self) -> Rungs | None:
        """The study's rungs; None if it has none.

        Setting them for the first time, or with other epochs, ranks the trials read so far. None removes
        the ranking.
        """
        return None if self.rung_table is None else self.rung_table.rungs

    @rungs.setter
    def rungs(self, rungs: Rungs | None) -> None:
        known = None if self.rung_table is None else self.rung_table.rungs.epochs
        if self.rung_table is not None and rungs is not None and rungs.epochs == known:
            self.rung_table.rungs = rungs
        elif self.rung_table is not None or rungs is not None:
            self.rung_table = None if rungs is None else build_table(rungs, self._trials)
            has_model = isinstance(self.rung_table, CurveTable)
            is_seen_at_rungs = rungs is not None and not has_model and not rungs.shows_running
            self._changes.rungs = rungs.epochs if rungs is not None and is_seen_at_rungs else None
            self._changes.with_user_attributes = has_model or len(self.objectives) > 1
            self._changes.forget_all()

    def follow(self, definition: Definition) -> None:
        """Look at the trials as a study's definition demands; the next one may differ."""
        self.rungs = rungs_of(definition, self.priors)
        if self.rungs is None and self._changes.rungs != (epochs := pruners.epochs_of_interest(definition)):
            self._changes.rungs = epochs
            self._changes.forget_all()

    def begin_trial(self, trial_id: int) -> FrozenTrial:
        """Make a claimed trial the worker's own.

        Args:
            trial_id: Optuna's id of the trial.

        Returns:
            The trial with all its attributes. This object stays the cache's own.

        Raises:
            StoreUnavailable: The database stays unavailable.
            StoreError: The study was deleted meanwhile, or the database refuses the request.
        """
        found = _read(
            self.storage, lambda session: rows.read_trials(session, [trial_id], len(self.objectives))
        )
        if not found:
            raise StoreError(f"study '{self.name}' was deleted while a trial of it was about to start")
        if self._own_trial is not None:
            self.leave_own_trial()
        self._own_trial, self._sampler_trials = found[0], None
        self._put_trial(self._own_trial)
        self._changes.forget(self._own_trial.number)
        self.unwritten_parameters, self.unwritten_attributes = {}, {}
        return self._own_trial

    def leave_own_trial(self) -> None:
        """Have no own trial any more; the next read shows what became of the last one."""
        if self._own_trial is not None:
            self._left_trial_id = self._own_trial._trial_id
            index = self._index(self._own_trial.number)
            self._unrank(self._numbers[index])
            del self._trials[index], self._numbers[index]
        self._own_trial, self._is_current, self._sampler_trials = None, False, None

    @property
    def own_trial(self) -> FrozenTrial:
        """The worker's own trial, as the cache's own object; there must be one (``begin_trial``)."""
        assert self._own_trial is not None
        return self._own_trial

    def read_again(self) -> None:
        """Read the study's changes in a transaction of its own."""
        self._is_current = False
        self.trials()

    def read_between_trials(self, session: Session) -> bool:
        """Leave the own trial, if there is one, and read the study's changes in a transaction.

        Returns:
            Whether the whole study was read.
        """
        self.leave_own_trial()
        self._read_changes(session)
        return self._changes.has_read_all

    @contextlib.contextmanager
    def read_within(self, session: Session) -> Iterator[None]:
        """Within the block, show the study as a pruner sees it, read again when that is needed.

        It is read in the transaction of ``session``, whose errors come out as they are. System attributes
        that were held back before are dropped: the pruner is asked again.
        """
        self._session, self._is_current, self._sampler_trials = session, False, None
        self.unwritten_attributes = {}
        try:
            yield
        finally:
            self._session = None

    def replace_parameters(self, parameters: Parameters) -> None:
        """Show the own trial with other parameters than it was given, as they have been committed."""
        own = self.own_trial
        own.params = {name: known.to_external_repr(value) for name, (value, known) in parameters.items()}
        own.distributions = {name: known for name, (_, known) in parameters.items()}

    def mark_written(self) -> None:
        """Record that the own trial's held-back parameters and system attributes have been committed.

        The attributes become visible in the own trial, and nothing is held back any more.
        """
        self.own_trial.system_attrs.update(self.unwritten_attributes)
        self.unwritten_parameters, self.unwritten_attributes = {}, {}

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the study's trials as a pruner sees them within ``read_within``, else as a sampler does.

        A pruner sees all of ``trials()``, a sampler those of them that ``samplers.select_trials`` selects.
        For both, the first trial of a setting stands for its replicates, and rungs change what is shown of
        unfinished trials (``Rungs.as_sampler_sees``). A sampler sees other studies' trials first
        (``warm_start``). A pruner does not see them: their epochs are not rungs of this study.

        Args:
            study_id: Optuna's id of the study, which must be this one.
            deepcopy: Return copies rather than the cache's own objects.
            states: Return only trials in these states; None for all.

        Returns:
            The trials, by number.

        Raises:
            StoreUnavailable: The database stays unavailable.
            StoreError: The database refuses the request.
        """
        assert study_id == self.study_id
        found = self.trials()
        if self._session is not None:
            found = self._as_shown(replicates.merge_replicates(found, self._replicates))
        else:
            if self._sampler_trials is None:
                self._sampler_trials = self._as_shown(self._choose_for_sampler(found))
            found = [*self.warm_start_trials, *self._sampler_trials]
        found = [trial for trial in found if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def _as_shown(self, found: list[FrozenTrial]) -> list[FrozenTrial]:
        return found if self.rungs is None else self.rungs.as_sampler_sees(found)

    def _choose_for_sampler(self, found: list[FrozenTrial]) -> list[FrozenTrial]:
        """Return the trials that a sampler sees, one for each setting."""
        ranked: Iterator[FrozenTrial] = map(self.trial, self._ranking)
        if len(self.objectives) > 1:
            informative = list(filter(self._is_informative, found))
            ranked = sampler_views.best_first(Objectives(self.objectives), informative)
        if not self._replicates:
            return samplers.select_trials(found, self.metric, ranked, self._is_informative)
        firsts = [trial for trial in found if trial.number not in self._replicates]
        others = [trial for trial in found if trial.number in self._replicates]
        chosen = samplers.select_trials(firsts, self.metric, ranked, self._is_informative)
        return replicates.merge_replicates([*chosen, *others], self._replicates)

    def trials(self) -> list[FrozenTrial]:
        """Return the study's trials by number, without those that wait and were never claimed.

        The list and its trials are the cache's own. The database is read only if that is due; the own trial
        is as it is in memory. It raises what ``get_all_trials`` raises.
        """
        if not self._is_current and self._session is not None:
            self._read_changes(self._session)
        elif not self._is_current:
            _read(self.storage, self._read_changes)
        return self._trials

    def trial(self, number: int) -> FrozenTrial:
        """Return the trial with this number, which must be one of ``trials()``."""
        return self._trials[self._index(number)]

    def _index(self, number: int) -> int:
        return bisect.bisect_left(self._numbers, number)

    def _put_trial(self, trial: FrozenTrial) -> None:
        """Add a trial, or replace what was known about it."""
        index = self._index(trial.number)
        is_known = index < len(self._numbers) and self._numbers[index] == trial.number
        self._trials[index : index + is_known] = [trial]
        self._numbers[index : index + is_known] = [trial.number]
        self._replicates |= replicates.first_trial_numbers([trial])
        self._rank_trial(trial)
        if self.rung_table is not None:
            self.rung_table.update(trial)

    def _rank_trial(self, trial: FrozenTrial) -> None:
        """Move a trial to its present rank, or remove it if samplers learn nothing from it."""
        number = trial.number
        self._unrank(number)
        if self._is_informative(trial) and number not in self._replicates:
            epochs, score = samplers.rank_key(trial, self.metric)
            self._rank_keys[number] = -epochs, -score
            self._ranking.add(number)

    def _unrank(self, number: int) -> None:
        if number in self._rank_keys:  # removed first: the ranking finds it by its old key
            self._ranking.remove(number)
            del self._rank_keys[number]

    def _is_informative(self, trial: FrozenTrial) -> bool:
        """Return whether a sampler learns from a trial: also from one that is shown as pruned at a rung."""
        return samplers.is_informative(trial) or (
            self.rungs is not None and self.rungs.is_shown_as_pruned(trial)
        )

    def _read_changes(self, session: Session) -> None:
        """Read what has changed in the study since the last read."""
        for trial in self._changes.read(session, self.trial, self._own_trial, self._left_trial_id):
            if trial.state == TrialState.COMPLETE and trial.values is None:
                trial.state = TrialState.FAIL  # another tool's, or changed: no sampler can learn from it
            self._put_trial(trial)
        self._left_trial_id, self._is_current = 0, True

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a copy of the own trial as it is in memory, or read another one from the database.

        Raises:
            KeyError: There is no such trial.
            StoreUnavailable: The database stays unavailable.
            StoreError: The database refuses the request.
        """
        if trial_id == self.own_trial._trial_id:
            return copy.deepcopy(self.own_trial)
        return super().get_trial(trial_id)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Set a parameter of the own trial in memory, and hold it back from the database."""
        assert trial_id == self.own_trial._trial_id
        self.unwritten_parameters[param_name] = (param_value_internal, distribution)
        self.own_trial.params[param_name] = distribution.to_external_repr(param_value_internal)
        self.own_trial.distributions[param_name] = distribution

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Hold back a system attribute of the own trial; until it is written, nobody sees it."""
        assert trial_id == self.own_trial._trial_id
        self.unwritten_attributes[key] = value

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return the id of this history's study from memory, whatever the name."""
        return self.study_id

    def get_study_name_from_id(self, study_id: int) -> str:
        """Return the name of this history's study from memory, whatever the id."""
        return self.name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Return the directions of this history's study, whatever the id."""
        return [StudyDirection[each.direction.upper()] for each in self.objectives]


@retrying(reads=True)
def _read(storage: Storage, work: Callable[[Session], R]) -> R:
    with storage.transaction() as session:
        return work(session)
