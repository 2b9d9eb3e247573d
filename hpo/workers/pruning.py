"""The verdict on a trial, asked for in the transaction that commits the report it is about.

The study's pruner, or its rungs, compare a trial with others; ``chance`` says whether it is any better than
guessing. Where a study has rungs, a free worker is told here, too, which paused trial goes on.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from sqlalchemy.orm import Session

from hpo.search.asha import PAUSED_AT_RUNG, PROMOTED_PAST_RUNG, RungDecision, RungTable, is_prunable
from hpo.search.baseline import Baseline
from hpo.store.history import History
from hpo.store.lease_table import HAS_UNPAUSED_OPEN_TRIALS, LOCK_PAUSED_TRIAL, ClaimableTrial
from hpo.study.definition import Definition


class TrialPrunedByRule(optuna.TrialPruned):
    """The verdict against a trial, with the rung that it wrote down for the trials to come.

    Both are committed together: who died between them would find the rung done, and never be pruned.
    """

    def __init__(self, text: str, attributes: Mapping[str, Any]) -> None:
        super().__init__(text)
        self.attributes = attributes


class TrialPruner:
    """Judges the worker's own trial, by a study's pruner and by what guessing gives, if that is known.

    Listed points are its matter only if the study says so, and replicates never.
    """

    def __init__(
        self,
        study: optuna.Study,
        history: History,
        definition: Definition,
        baseline: Baseline | None = None,
    ) -> None:
        self.study, self.history, self.baseline = study, history, baseline
        self._is_prunable = is_prunable(history.own_trial, definition.search.prune_points)
        self.pause_decision: RungDecision | None = None  # that of a rung at which the trial is to wait
        self._pruner_name = definition.search.pruner.name
        self._reason: str | None = None  # to prune the trial
        self._epoch = history.own_trial.last_step

    def is_rung(self, epoch: int) -> bool:
        """Tell whether an epoch is a rung, behind which most trials do not go on at once."""
        ladder = self.history.rungs
        return self._is_prunable and ladder is not None and epoch in ladder.epochs

    def note_report(self, epoch: int, accuracy: float) -> None:
        """Note a report, about to be committed."""
        self._epoch = epoch
        self.history.own_trial.intermediate_values[epoch] = accuracy

    def decide(self, session: Session) -> Mapping[str, Any]:
        """Ask within the report's transaction; give the rungs to commit with it, if the trial goes on.

        Asked again, because the transaction failed, it forgets what it said before.
        """
        if not self._is_prunable:
            return {}
        own = self.history.own_trial
        self.pause_decision = self._reason = None
        with self.history.read_within(session):
            if (board := self.history.rung_table) is not None and board.rungs.is_at_rung(own):
                self.history.trials()
                self._at_rung(board.decide(own))
            elif self.study.pruner.prune(self.study, own):
                self._reason = f"by {self._pruner_name} after epoch {self._epoch}"
        if self.baseline is not None:
            self._reason = self.baseline.prune_reason(own.intermediate_values.values()) or self._reason
        return {} if self._reason else self.history.unwritten_attributes

    def _at_rung(self, found: RungDecision) -> None:
        if found.kind == "promoted":
            self.history.set_trial_system_attr(
                self.history.own_trial._trial_id, PROMOTED_PAST_RUNG, found.rung
            )
        elif found.kind == "pruned":
            self._reason = f"by {self._pruner_name}: {found}"
        else:
            self.pause_decision = found

    def raise_if_pruned(self) -> None:
        """Raise Pruned if that was the verdict; to be called once the transaction is committed."""
        if self._reason:
            raise TrialPrunedByRule(self._reason, self.history.unwritten_attributes)
        self.history.mark_written()


@dataclass(frozen=True)
class Promotions:
    """Says which of a study's paused trials a free worker goes on with, or ends."""

    history: History
    rung_table: RungTable

    def lock_next_trial(
        self, session: Session, taken: Collection[int], waits: bool
    ) -> ClaimableTrial | None:
        """Give the paused trial that is next, locked, within the transaction that claims it.

        None if there is none. ``taken`` are the ids of trials that other workers are claiming at this
        moment, and ``waits`` tells whether a trial that never began could be claimed instead. Where nothing
        but paused ones is left, nothing is promoted any more in the end, and they are to be ended.
        """
        self.history.read_between_trials(session)
        busy = {trial.number for trial in self.history.trials() if trial._trial_id in taken}
        others = (
            waits
            or session.execute(HAS_UNPAUSED_OPEN_TRIALS, {"study": self.history.study_id}).scalar_one()
        )
        while (found := self._next(busy, last=not others and not busy)) is not None:
            number, attributes = found
            row = session.execute(
                LOCK_PAUSED_TRIAL, {"trial": self.history.trial(number)._trial_id}
            ).first()
            if row is not None:
                return ClaimableTrial(row=row, system_attributes=attributes)
            busy.add(number)
        return None

    def _next(self, busy: set[int], *, last: bool) -> tuple[int, dict[str, Any]] | None:
        """Give the number of the trial that is next, with what promotes it; nothing for one to be ended."""
        found = self.rung_table.next_promotion(taken=busy, last=last)
        if found is not None:
            return found[0], {PAUSED_AT_RUNG: None, PROMOTED_PAST_RUNG: found[1]}
        left = self.rung_table.first_paused() if last else None
        return None if left is None else (left, {})
