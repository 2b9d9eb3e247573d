"""A study's trials as its samplers and pruners see them, kept by a worker from trial to trial.

Optuna's own cache asks for every unfinished trial, and so for the study's whole budget, whenever a sampler
or a pruner looks at its study, and writes each parameter in a transaction of its own. This one gives the
same trials at the price of what is new:

* The database is asked at most once for a proposal and once for a verdict, and only if the sampler or
  pruner wants to see other trials: at most epochs no pruner does.
* It is asked for what has changed: every change of a claimed trial renews its lease, so a look gives the
  leases renewed since the last one. State, attempt and epoch then tell what is new of a trial, and its
  parameters are read once. Now and then a look takes in the whole study, and with it what other tools do.
* A trial that waits and that nobody has had yet holds nothing to learn from, and is left out; so are user
  attributes, which no sampler or pruner looks at.
* A sampler sees no more trials than ``samplers.shown`` gives, however many there are. What ranks them for
  it, and at the study's rungs, is kept in order as they change.
* The worker's own trial is kept in memory, since only the worker writes about it. What a sampler or pruner
  writes about it is kept back, for the worker to commit with whatever else is due.
"""

import bisect
import contextlib
import copy
import math
import time
from collections.abc import Callable, Container, Iterator
from typing import Any, TypeVar

import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.storages._cached_storage import _CachedStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from hpo.errors import StoreError
from hpo.search import replicates, samplers
from hpo.search.asha import Rungs, RungTable
from hpo.search.ranking import Ranking
from hpo.store import rows
from hpo.store.lease_table import leases
from hpo.store.rows import HEAD_COLUMNS, HEAD_TABLES, trials
from hpo.store.storage import Storage, retrying

R = TypeVar("R")

FULL_READ_SECONDS = 60.0  # from one look at a whole study to the next
# A lease says when it was renewed, not when the transaction that renewed it was committed. What took longer
# than this is seen with the whole study.
LATE_COMMIT_SECONDS = 2.0

_study: Any = sa.bindparam("study")
_of_lease = leases.c.trial_id == trials.c.trial_id
_VERSION = (leases.c.token, leases.c.epoch, leases.c.renewed)
_ALL_STARTED = (
    sa.select(*HEAD_COLUMNS, *_VERSION)
    .select_from(HEAD_TABLES.outerjoin(leases, _of_lease))
    .where(
        trials.c.study_id == _study,
        (trials.c.state != TrialState.WAITING) | leases.c.token.is_not(None),
    )
    .order_by(trials.c.trial_id)
)
_CHANGED = (
    sa.select(*HEAD_COLUMNS, *_VERSION)
    .select_from(HEAD_TABLES.join(leases, _of_lease))
    .where(
        leases.c.study_id == _study,
        (leases.c.renewed > sa.bindparam("since")) | (leases.c.trial_id == sa.bindparam("left")),
    )
    .order_by(trials.c.trial_id)
)


class History(_CachedStorage):
    """One study of a store; the storage behind the Study that samplers and pruners get.

    ``begin`` says which trial is the worker's own. Not for several threads at once.
    """

    def __init__(self, storage: Storage, study_id: int, name: str) -> None:
        super().__init__(storage)
        self.storage, self.study_id, self.name = storage, study_id, name
        self.unwritten_parameters: dict[
            str, tuple[float, BaseDistribution]
        ] = {}  # of the own trial, kept back
        self.unwritten_attributes: dict[str, Any] = {}  # of the own trial, kept back: system attributes
        self.warm_start_trials: list[
            FrozenTrial
        ] = []  # other studies' trials, which samplers see before ours
        self.rung_table: RungTable | None = None  # the study's rungs, and who stands there
        self._own_trial: FrozenTrial | None = None
        self._left_trial_id = 0  # id of the trial that was the own one before, to be read anew
        self._trials: list[FrozenTrial] = []  # as last read, by number
        self._numbers: list[int] = []  # of these
        self._versions: dict[int, tuple[Any, ...]] = {}  # by number, of those read: state, attempt, epoch
        self._ranking = Ranking()  # of those that have come to something, the best first
        self._replicates: dict[int, int] = {}  # replicates, by number: of the first trial of their setting
        self._newest_renewal = 0.0  # the newest renewal seen
        self._last_full_read = -math.inf  # when the whole study was last read, by the worker's clock
        self._is_current = False  # whether the trials are those to be seen now
        self._sampler_trials: list[FrozenTrial] | None = (
            None  # of these, to a sampler; None: to be chosen anew
        )
        self._session: Session | None = None  # lent by whoever asks for a verdict

    @property
    def rungs(self) -> Rungs | None:
        """The study's rungs."""
        return None if self.rung_table is None else self.rung_table.rungs

    @rungs.setter
    def rungs(self, ladder: Rungs | None) -> None:
        if self.rung_table is not None and ladder is not None:
            self.rung_table.rungs = ladder  # more trials may begin than before; the rungs are the same
        else:
            self.rung_table = None if ladder is None else RungTable(ladder, self._trials)

    def begin_trial(self, trial_id: int) -> FrozenTrial:
        """Make a claimed trial the worker's own, and give it with all its attributes.

        Raises StoreError if its study was deleted meanwhile.
        """
        found = _read(self.storage, lambda session: rows.read_trials(session, [trial_id]))
        if not found:
            raise StoreError(f"study '{self.name}' was deleted while a trial of it was about to start")
        self._leave_own_trial()
        self._own_trial = found[0]
        self._put_trial(self._own_trial)
        self._versions.pop(self._own_trial.number, None)
        self.unwritten_parameters, self.unwritten_attributes = {}, {}
        return self._own_trial

    def _leave_own_trial(self) -> None:
        """Have no trial of one's own any more: what has become of it is for the next look to say."""
        if self._own_trial is not None:
            self._left_trial_id = self._own_trial._trial_id
            place = self._index(self._own_trial.number)
            del self._trials[place], self._numbers[place]
        self._own_trial, self._is_current, self._sampler_trials = None, False, None

    @property
    def own_trial(self) -> FrozenTrial:
        """The worker's own trial."""
        assert self._own_trial is not None
        return self._own_trial

    def read_between_trials(self, session: Session) -> None:
        """Look at the study within a transaction, while the worker has no trial of its own."""
        self._leave_own_trial()
        self._read_changes(session)

    @contextlib.contextmanager
    def read_within(self, session: Session) -> Iterator[None]:
        """Look at the study anew, within a session's transaction."""
        self._session, self._is_current, self._sampler_trials, self.unwritten_attributes = (
            session,
            False,
            None,
            {},
        )
        try:
            yield
        finally:
            self._session = None

    def mark_written(self) -> None:
        """Take what was kept back for written."""
        self.own_trial.system_attrs.update(self.unwritten_attributes)
        self.unwritten_parameters, self.unwritten_attributes = {}, {}

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Give the study's trials as a sampler or pruner is to see them.

        Other studies' come first, but not to a verdict: their epochs are no rungs of this one's.
        """
        assert study_id == self.study_id
        found = self.trials()
        if self._session is None:
            if self._sampler_trials is None:
                self._sampler_trials = self._choose_for_sampler(found)
            found = self._sampler_trials
        else:
            found = replicates.merge_replicates(found, self._replicates)
        if self.rungs is not None:
            found = self.rungs.as_sampler_sees(found)
        if self._session is None:
            found = [*self.warm_start_trials, *found]
        found = [trial for trial in found if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def _choose_for_sampler(self, found: list[FrozenTrial]) -> list[FrozenTrial]:
        """Give the trials that a sampler is shown, one for each setting."""
        firsts = (
            [trial for trial in found if trial.number not in self._replicates]
            if self._replicates
            else found
        )
        chosen = samplers.select_trials(firsts, (self.trial(number) for number in self._ranking))
        if not self._replicates:
            return chosen
        others = [trial for trial in found if trial.number in self._replicates]
        return replicates.merge_replicates([*chosen, *others], self._replicates)

    def trials(self) -> list[FrozenTrial]:
        """Give the study's trials by number, but for those that wait and were never claimed."""
        if not self._is_current and self._session is not None:
            self._read_changes(self._session)
        elif not self._is_current:
            _read(self.storage, self._read_changes)
        return self._trials

    def trial(self, number: int) -> FrozenTrial:
        """Give a trial of those by its number."""
        return self._trials[self._index(number)]

    def _index(self, number: int) -> int:
        return bisect.bisect_left(self._numbers, number)

    def _put_trial(self, trial: FrozenTrial) -> None:
        """Keep a trial as it is now, in its place."""
        place = self._index(trial.number)
        known = self._numbers[place : place + 1] == [trial.number]
        self._trials[place : place + known], self._numbers[place : place + known] = [trial], [trial.number]
        self._replicates |= replicates.first_trial_numbers([trial])
        ranks = samplers.is_informative(trial) and trial.number not in self._replicates
        whole, accuracy = samplers.rank_key(trial)
        self._ranking.put(trial.number, (-whole, -accuracy) if ranks else None)
        if self.rung_table is not None:
            self.rung_table.update(trial)

    def _read_changes(self, session: Session) -> None:
        """Read what has changed in the study since the last look."""
        now = time.monotonic()
        whole = now - self._last_full_read > FULL_READ_SECONDS
        given = {"study": self.study_id}
        since = {"since": self._newest_renewal - LATE_COMMIT_SECONDS, "left": self._left_trial_id}
        found = session.execute(*((_ALL_STARTED, given) if whole else (_CHANGED, given | since))).all()
        changed, versions, known, renewed = [], {}, {}, self._newest_renewal
        for row in found:
            renewed = max(renewed, row.renewed or 0.0)
            if self._own_trial is not None and row.number == self._own_trial.number:
                continue
            version, before = (row.state, row.token, row.epoch), self._versions.get(row.number)
            trial = None if before is None or row.token is None else self.trial(row.number)
            begun = trial is not None and bool(trial.params)  # which a trial gets all at once
            if version == before and (begun or row.state != TrialState.RUNNING):
                continue
            changed.append(row)
            versions[row.number] = version
            if trial is not None and begun:
                known[row.trial_id] = trial
        for trial in rows.build_trials(session, changed, known=known):
            self._put_trial(trial)
        self._versions |= versions
        self._newest_renewal = renewed
        self._last_full_read = now if whole else self._last_full_read
        self._left_trial_id, self._is_current = 0, True

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Give a trial; the own one as it is in memory."""
        return (
            copy.deepcopy(self.own_trial)
            if trial_id == self.own_trial._trial_id
            else super().get_trial(trial_id)
        )

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Keep back a parameter of the own trial."""
        assert trial_id == self.own_trial._trial_id
        self.unwritten_parameters[param_name] = (param_value_internal, distribution)
        self.own_trial.params[param_name] = distribution.to_external_repr(param_value_internal)
        self.own_trial.distributions[param_name] = distribution

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Keep back a system attribute of the own trial; until it is written, nobody sees it."""
        assert trial_id == self.own_trial._trial_id
        self.unwritten_attributes[key] = value

    def get_study_id_from_name(self, study_name: str) -> int:
        """Give the study's id from memory."""
        return self.study_id

    def get_study_name_from_id(self, study_id: int) -> str:
        """Give the study's name from memory."""
        return self.name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Give the direction of every study of ours."""
        return [StudyDirection.MAXIMIZE]


@retrying(reads=True)
def _read(storage: Storage, work: Callable[[Session], R]) -> R:
    with storage.transaction() as session:
        return work(session)
