"""The verdict on a trial, asked for in the transaction that commits the report it is about.

The study's pruner, or its rungs, compare a trial with others; ``chance`` says whether it is any better than
guessing. Where a study has rungs, a free worker is told here, too, which paused trial goes on.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from sqlalchemy.orm import Session

from hpo.search.asha import PAUSED, PROMOTED, Board, Verdict, is_judged
from hpo.search.baseline import Chance
from hpo.store.history import History
from hpo.store.lease_table import OTHERS, RESTING, Turn
from hpo.study.definition import Definition


class Pruned(optuna.TrialPruned):
    """The verdict against a trial, with the rung that it wrote down for the trials to come.

    Both are committed together: who died between them would find the rung done, and never be pruned.
    """

    def __init__(self, text: str, attributes: Mapping[str, Any]) -> None:
        super().__init__(text)
        self.attributes = attributes


class Judge:
    """Judges the worker's own trial, by a study's pruner and by what guessing gives, if that is known.

    Listed points are its matter only if the study says so, and replicates never.
    """

    def __init__(
        self, study: optuna.Study, history: History, definition: Definition, chance: Chance | None = None
    ) -> None:
        self.study, self.history, self.chance = study, history, chance
        self._asks = is_judged(history.own, definition.search.prune_points)
        self.paused: Verdict | None = None  # that of a rung at which the trial is to wait
        self._name = definition.search.pruner.name
        self._reason: str | None = None  # to prune the trial
        self._epoch = history.own.last_step

    def compares(self, epoch: int) -> bool:
        """Tell whether an epoch is a rung, behind which most trials do not go on at once."""
        ladder = self.history.ladder
        return self._asks and ladder is not None and epoch in ladder.rungs

    def report(self, epoch: int, accuracy: float) -> None:
        """Note a report, about to be committed."""
        self._epoch = epoch
        self.history.own.intermediate_values[epoch] = accuracy

    def ask(self, session: Session) -> Mapping[str, Any]:
        """Ask within the report's transaction; give the rungs to commit with it, if the trial goes on.

        Asked again, because the transaction failed, it forgets what it said before.
        """
        if not self._asks:
            return {}
        own = self.history.own
        self.paused = self._reason = None
        with self.history.looking(session):
            if (board := self.history.board) is not None and board.ladder.stands(own):
                self.history.trials()
                self._at_rung(board.verdict(own))
            elif self.study.pruner.prune(self.study, own):
                self._reason = f"by {self._name} after epoch {self._epoch}"
        if self.chance is not None:
            self._reason = self.chance.verdict(own.intermediate_values.values()) or self._reason
        return {} if self._reason else self.history.attributes

    def _at_rung(self, found: Verdict) -> None:
        if found.kind == "promoted":
            self.history.set_trial_system_attr(self.history.own._trial_id, PROMOTED, found.rung)
        elif found.kind == "pruned":
            self._reason = f"by {self._name}: {found}"
        else:
            self.paused = found

    def obey(self) -> None:
        """Raise Pruned if that was the verdict; to be called once the transaction is committed."""
        if self._reason:
            raise Pruned(self._reason, self.history.attributes)
        self.history.settle()


@dataclass(frozen=True)
class Promotions:
    """Says which of a study's paused trials a free worker goes on with, or ends."""

    history: History
    board: Board

    def next(self, session: Session, taken: Collection[int], waits: bool) -> Turn | None:
        """Give the paused trial that is next, locked, within the transaction that claims it.

        None if there is none. ``taken`` are the ids of trials that other workers are claiming at this
        moment, and ``waits`` tells whether a trial that never began could be claimed instead. Where nothing
        but paused ones is left, nothing is promoted any more in the end, and they are to be ended.
        """
        self.history.between(session)
        busy = {trial.number for trial in self.history.trials() if trial._trial_id in taken}
        others = waits or session.execute(OTHERS, {"study": self.history.study_id}).scalar_one()
        while (found := self._next(busy, last=not others and not busy)) is not None:
            number, attributes = found
            row = session.execute(RESTING, {"trial": self.history.trial(number)._trial_id}).first()
            if row is not None:
                return Turn(row=row, attributes=attributes)
            busy.add(number)
        return None

    def _next(self, busy: set[int], *, last: bool) -> tuple[int, dict[str, Any]] | None:
        """Give the number of the trial that is next, with what promotes it; nothing for one to be ended."""
        found = self.board.promotable(taken=busy, last=last)
        if found is not None:
            return found[0], {PAUSED: None, PROMOTED: found[1]}
        left = self.board.waiting() if last else None
        return None if left is None else (left, {})
