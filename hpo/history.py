"""A study's trials as its samplers and pruners see them, kept by a worker from trial to trial.

Optuna's own cache asks for every unfinished trial, and so for the study's whole budget, whenever a sampler
or a pruner looks at its study, and writes each parameter in a transaction of its own. This one gives the
same trials at the price of what is new:

* A trial that has finished is read once.
* The database is asked at most once for a proposal and once for a verdict, and only if the sampler or
  pruner wants to see other trials: at most epochs no pruner does.
* A trial that waits and that nobody has had yet holds nothing to learn from, and is left out; so are user
  attributes, which no sampler or pruner looks at.
* A trial that waits at a rung is read once for each time that it comes to wait.
* A sampler sees no more trials than ``samplers.shown`` gives, however many there are.
* The worker's own trial is kept in memory, since only the worker writes about it. What a sampler or pruner
  writes about it is kept back, for the worker to commit with whatever else is due.
"""

import contextlib
import copy
from collections.abc import Callable, Container, Iterator
from typing import Any, TypeVar

import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.storages._cached_storage import _CachedStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from hpo import replicates, rows, samplers
from hpo.errors import StoreError
from hpo.leases import leases
from hpo.rows import trials
from hpo.rungs import Ladder
from hpo.storage import Store, asking

R = TypeVar("R")

_study: Any = sa.bindparam("study")
_after: Any = sa.bindparam("after")
_TOUCHED = (
    sa.select(trials.c.trial_id, trials.c.number, trials.c.state, leases.c.token)
    .outerjoin(leases, leases.c.trial_id == trials.c.trial_id)
    .where(
        trials.c.study_id == _study,
        trials.c.trial_id > _after,
        (trials.c.state != TrialState.WAITING) | leases.c.token.is_not(None),
    )
)


class History(_CachedStorage):
    """One study of a store; the storage behind the Study that samplers and pruners get.

    ``begin`` says which trial is the worker's own. Not for several threads at once.
    """

    ladder: Ladder | None = None  # the study's rungs

    def __init__(self, store: Store, study_id: int, name: str) -> None:
        super().__init__(store)
        self.store, self.study_id, self.name = store, study_id, name
        self.parameters: dict[str, tuple[float, BaseDistribution]] = {}  # of the own trial, kept back
        self.attributes: dict[str, Any] = {}  # of the own trial, kept back: system attributes
        self._own: FrozenTrial | None = None
        self.precedents: list[FrozenTrial] = []  # other studies' trials, which samplers see before ours
        self._first: list[FrozenTrial] = []  # the study's first trials, as far as all of them have finished
        self._finished: dict[int, FrozenTrial] = {}  # those after them, by number
        self._repeats: dict[int, int] = {}  # replicates, by number: of the first trial of their setting
        self._resting: dict[int, tuple[int, FrozenTrial]] = {}  # by number, with the last attempt's token
        self._standing: dict[int, tuple[float, float]] = {}  # by number, as last read
        self._trials: list[FrozenTrial] | None = None  # as last read, by number; None: to be read again
        self._shown: list[FrozenTrial] | None = None  # of these, to a sampler; None: to be chosen anew
        self._session: Session | None = None  # lent by whoever asks for a verdict

    def begin(self, trial_id: int) -> FrozenTrial:
        """Make a claimed trial the worker's own, and give it with all its attributes.

        Raises StoreError if its study was deleted meanwhile.
        """
        found = _reading(self.store, lambda session: rows.read(session, [trial_id], user=True))
        if not found:
            raise StoreError(f"study '{self.name}' was deleted while a trial of it was about to start")
        self._own = found[0]
        self._repeats |= replicates.repeats(found)
        self.parameters, self.attributes, self._trials, self._shown = {}, {}, None, None
        self._finished.pop(self.own.number, None)  # it may have failed, and been put back
        for trial in self._first[self.own.number + 1 :]:
            self._finished[trial.number] = trial
        del self._first[self.own.number :]
        return self.own

    @property
    def own(self) -> FrozenTrial:
        """The worker's own trial."""
        assert self._own is not None
        return self._own

    def between(self, session: Session) -> list[FrozenTrial]:
        """Give the study's trials within a transaction, while the worker has none of its own."""
        self._own = None
        return self._update(session)

    @contextlib.contextmanager
    def looking(self, session: Session) -> Iterator[None]:
        """Look at the study anew, within a session's transaction."""
        self._session, self._trials, self._shown, self.attributes = session, None, None, {}
        try:
            yield
        finally:
            self._session = None

    def settle(self) -> None:
        """Take what was kept back for written."""
        self.own.system_attrs.update(self.attributes)
        self.parameters, self.attributes = {}, {}

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Give the study's trials as a sampler or pruner is to see them.

        Other studies' come first, but not to a verdict: their epochs are no rungs of this one's.
        """
        assert study_id == self.study_id
        found = replicates.merged(self.trials(), self._repeats)
        if self._session is None:
            if self._shown is None:
                self._shown = samplers.shown(found, lambda trial: self._standing[trial.number])
            found = self._shown
        if self.ladder is not None:
            found = self.ladder.seen(found)
        if self._session is None:
            found = [*self.precedents, *found]
        if states is not None:
            found = [trial for trial in found if trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def trials(self) -> list[FrozenTrial]:
        """Give the study's trials by number, but for those that wait and were never claimed."""
        if self._trials is None and self._session is not None:
            self._trials = self._update(self._session)
        elif self._trials is None:
            self._trials = _reading(self.store, self._update)
        return self._trials

    def _update(self, session: Session) -> list[FrozenTrial]:
        known, rested = self._finished, self._resting
        after = self._first[-1]._trial_id if self._first else 0
        found = session.execute(_TOUCHED, {"study": self.study_id, "after": after}).all()
        tokens = {row.number: row.token for row in found if row.state == TrialState.WAITING}
        self._resting = {n: rested[n] for n, t in tokens.items() if n in rested and rested[n][0] == t}
        seen = {number: trial for number, (_, trial) in self._resting.items()}
        if self._own is not None:
            seen[self._own.number] = self._own
        new = [row.trial_id for row in found if row.number not in known and row.number not in seen]
        for trial in rows.read(session, new):
            self._repeats |= replicates.repeats([trial])
            self._standing[trial.number] = samplers.standing(trial)
            if trial.state.is_finished():
                known[trial.number] = trial
                continue
            seen[trial.number] = trial
            if trial.state == TrialState.WAITING and trial.number in tokens:
                self._resting[trial.number] = tokens[trial.number], trial
        while len(self._first) in known:
            self._first.append(known.pop(len(self._first)))
        seen |= known
        return [*self._first, *(seen[number] for number in sorted(seen))]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Give a trial; the own one as it is in memory."""
        return copy.deepcopy(self.own) if trial_id == self.own._trial_id else super().get_trial(trial_id)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Keep back a parameter of the own trial."""
        assert trial_id == self.own._trial_id
        self.parameters[param_name] = (param_value_internal, distribution)
        self.own.params[param_name] = distribution.to_external_repr(param_value_internal)
        self.own.distributions[param_name] = distribution

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Keep back a system attribute of the own trial; until it is written, nobody sees it."""
        assert trial_id == self.own._trial_id
        self.attributes[key] = value

    def get_study_id_from_name(self, study_name: str) -> int:
        """Give the study's id from memory."""
        return self.study_id

    def get_study_name_from_id(self, study_id: int) -> str:
        """Give the study's name from memory."""
        return self.name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Give the direction of every study of ours."""
        return [StudyDirection.MAXIMIZE]


@asking(reads=True)
def _reading(store: Store, work: Callable[[Session], R]) -> R:
    with store.transaction() as session:
        return work(session)
