"""Decisions on trials, made within the transaction that commits what they are about.

``TrialPruner`` decides on a worker's own trial, after each report: the study's pruner or its rungs compare
the trial with others, and the baseline rule tells whether it is any better than guessing. ``Promotions``
tells a free worker which paused trial continues, within the transaction that claims it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import optuna
from sqlalchemy.orm import Session

from hpo.search.asha import (
    PAUSED_AT_RUNG,
    PROMOTED_PAST_RUNG,
    RUNG_DECISIONS,
    RungDecision,
    RungTable,
    is_prunable,
)
from hpo.search.baseline import Baseline
from hpo.search.freeze_thaw import CurveTable
from hpo.store import rung_losses
from hpo.store.history import History
from hpo.store.lease_table import HAS_UNPAUSED_OPEN_TRIALS, LOCK_PAUSED_TRIAL, PromotedTrial, rung_texts
from hpo.store.notifications import notify_workers
from hpo.study.definition import Definition


class TrialPrunedByRule(optuna.TrialPruned):
    """Ends a trial by a pruner, with the rungs that this one wrote down for later trials.

    Both are committed together. If a crash could separate them, the next attempt would find the rung done,
    and would never be pruned.

    Args:
        text: The reason, which is stored with the trial.
        attributes: The system attributes to commit with the trial's end.
    """

    def __init__(self, text: str, attributes: Mapping[str, Any]) -> None:
        super().__init__(text)
        self.attributes = attributes


class TrialPruner:
    """Decides whether the worker's own trial goes on, pauses at a rung, or is pruned.

    Replicates are never pruned, and listed points only if the study says so. This goes for the baseline
    rule, too.

    Args:
        study: The study with its pruner; its storage is ``history``.
        history: The study's trials. The trial is its own one.
        definition: The study.
        baseline: What guessing gives on the trial's selection split; None switches the baseline rule off.

    Attributes:
        pause_decision: The decision at the rung where the trial is to pause; None if it is not to pause.
    """

    def __init__(
        self,
        study: optuna.Study,
        history: History,
        definition: Definition,
        baseline: Baseline | None = None,
    ) -> None:
        self.study, self.history, self.baseline = study, history, baseline
        self.pause_decision: RungDecision | None = None  # at the rung where the trial is to pause
        self._is_prunable = is_prunable(history.own_trial, definition.search.prune_points)
        self._pruner_name = definition.search.pruner.name
        self._prune_reason: str | None = None
        self._epoch = history.own_trial.last_step

    def is_rung(self, epoch: int) -> bool:
        """Return whether an epoch is a rung of the trial: most trials do not train on at once after it.

        False for every epoch if the study has no rungs, or the trial is never pruned.
        """
        rungs = self.history.rungs
        return self._is_prunable and rungs is not None and epoch in rungs.epochs

    def note_report(
        self, epoch: int, value: float, attributes: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Take in a report that is about to be committed.

        Args:
            epoch: The number of the epoch, from 1.
            value: What trials are compared by, after the epoch.
            attributes: The user attributes that are committed with it, among them other metrics.
        """
        self._epoch = epoch
        self.history.own_trial.user_attrs.update(attributes)
        self.history.own_trial.intermediate_values[epoch] = value

    def prepare(self) -> None:
        """Do before the transaction of a report what takes too long for it: fit a model of the curves."""
        own, table = self.history.own_trial, self.history.rung_table
        if self._is_prunable and isinstance(table, CurveTable) and table.rungs.is_at_rung(own):
            self.history.read_again()
            table.prepare(own)

    def decide(self, session: Session) -> Mapping[str, Any]:
        """Decide on the trial within the transaction that commits its report.

        The decision is kept for ``raise_if_pruned`` and in ``pause_decision``. If the transaction fails,
        call this again: the decision before is forgotten.

        Args:
            session: The transaction.

        Returns:
            The system attributes to commit with the report: the rungs that a trial that trains on has
            passed. Empty if the trial is pruned; then they are committed with its end.
        """
        if not self._is_prunable:
            return {}
        own = self.history.own_trial
        self.pause_decision = self._prune_reason = None
        with self.history.read_within(session):
            if (table := self.history.rung_table) is not None and table.rungs.is_at_rung(own):
                self._apply_rung(self._decide_at_rung(session, table))
                notify_workers(session, self.history.study_id)  # a trial paused here may continue
            elif self.study.pruner.prune(self.study, own):
                self._prune_reason = f"by {self._pruner_name} after epoch {self._epoch}"
        if self.baseline is not None:
            no_better = self.baseline.prune_reason(own.intermediate_values.values())
            self._prune_reason = no_better or self._prune_reason
        return {} if self._prune_reason else self.history.unwritten_attributes

    def _decide_at_rung(self, session: Session, table: RungTable | CurveTable) -> RungDecision:
        """Decide at a rung; only models and several objectives need to know what others did since."""
        own = self.history.own_trial
        if isinstance(table, CurveTable) or len(table.rungs.objectives.metrics) > 1:
            self.history.trials()
            return table.decide(own)
        rung = own.last_step
        assert rung is not None
        losses = table.rungs.losses(rung, own)
        assert losses is not None  # it has just reported
        standing = rung_losses.enter(session, self.history.study_id, own._trial_id, rung, losses[0])
        return table.decide(own, standing)

    def _apply_rung(self, decision: RungDecision) -> None:
        own = self.history.own_trial
        if isinstance(self.history.rung_table, CurveTable):
            made = {each["rung"]: each for each in own.system_attrs.get(RUNG_DECISIONS, ())}
            # A resumed trial passes its rung again; the pause, and why, stays known.
            if made.get(decision.rung, {}).get("kind") != "paused":
                made[decision.rung] = decision.to_json()
                self.history.set_trial_system_attr(own._trial_id, RUNG_DECISIONS, [*made.values()])
        if decision.kind == "promoted":
            self.history.set_trial_system_attr(own._trial_id, PROMOTED_PAST_RUNG, decision.rung)
        elif decision.kind == "pruned":
            self._prune_reason = f"by {self._pruner_name}: {decision}"
        else:
            self.pause_decision = decision

    def raise_if_pruned(self) -> None:
        """Act on the decision, once its transaction is committed.

        If the trial is not pruned, the history records that its held-back attributes are written.

        Raises:
            TrialPrunedByRule: If the trial is pruned.
        """
        if self._prune_reason:
            raise TrialPrunedByRule(self._prune_reason, self.history.unwritten_attributes)
        self.history.mark_written()


@dataclass(frozen=True)
class Promotions:
    """Chooses which of a study's paused trials a free worker continues, or ends.

    Args:
        history: The study's trials.
        rung_table: The rungs of this history.
    """

    history: History
    rung_table: RungTable | CurveTable

    def lock_next_trial(
        self, session: Session, taken: Collection[int], waits: bool
    ) -> PromotedTrial | None:
        """Lock the paused trial that is next, within the transaction that claims it.

        When nothing but paused trials is left and no further one is promoted, they are claimed to be ended.
        Reads the study's changes; the history has no own trial afterwards.

        Args:
            session: The transaction.
            taken: Optuna's ids of trials to skip, because other workers are claiming them right now.
            waits: Whether a trial that has not begun could be claimed instead.

        Returns:
            The trial, with the system attributes that promote it (none if it is to be ended), or None if no
            paused trial can be claimed.
        """
        if self.history.read_between_trials(session) and isinstance(self.rung_table, RungTable):
            self._complete_losses(session, self.rung_table)
        busy = {trial.number for trial in self.history.trials() if trial._trial_id in taken}
        rungs = rung_texts(self.rung_table.rungs.epochs)
        given = {"study": self.history.study_id, "rungs": rungs}
        others = waits or session.execute(HAS_UNPAUSED_OPEN_TRIALS, given).scalar_one()
        while (found := self._next_number(busy, last=not others and not busy)) is not None:
            number, attributes = found
            trial_id = self.history.trial(number)._trial_id
            row = session.execute(LOCK_PAUSED_TRIAL, {"trial": trial_id, "rungs": rungs}).first()
            if row is not None:
                return PromotedTrial(row=row, system_attributes=attributes)
            busy.add(number)
        return None

    def _complete_losses(self, session: Session, table: RungTable) -> None:
        reached = {
            rung: {self.history.trial(number)._trial_id: loss for number, loss in losses.items()}
            for rung, losses in table.losses.items()
        }
        rung_losses.complete(session, self.history.study_id, reached)

    def _next_number(self, busy: set[int], *, last: bool) -> tuple[int, dict[str, Any]] | None:
        """Return the next trial's number and the attributes that promote it; none for one to be ended."""
        promotion = self.rung_table.next_promotion(taken=busy, last=last)
        if promotion is not None:
            number, rung = promotion
            return number, {PAUSED_AT_RUNG: None, PROMOTED_PAST_RUNG: rung}
        left = self.rung_table.first_paused() if last else None
        return None if left is None else (left, {})
