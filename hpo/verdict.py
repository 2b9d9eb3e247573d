"""The verdict on a trial, asked for in the transaction that commits the report it is about.

The pruner compares a trial with others; ``chance`` says whether it is any better than guessing.
"""

from collections.abc import Mapping
from typing import Any

import optuna
from sqlalchemy.orm import Session

from hpo.chance import Chance
from hpo.definition import Definition
from hpo.history import History


class Pruned(optuna.TrialPruned):
    """The verdict against a trial, with the rung that it wrote down for the trials to come.

    Both are committed together: who died between them would find the rung done, and never be pruned.
    """

    def __init__(self, text: str, attributes: Mapping[str, Any]) -> None:
        super().__init__(text)
        self.attributes = attributes


class Judge:
    """Judges the worker's own trial, by a study's pruner and by what guessing gives, if that is known.

    Listed points are its matter only if the study says so.
    """

    def __init__(
        self, study: optuna.Study, history: History, definition: Definition, chance: Chance | None = None
    ) -> None:
        self.study, self.history, self.chance = study, history, chance
        listed = {"grid_id", "fixed_params"} & history.own.system_attrs.keys()
        self._asks = definition.search.prune_points or not listed
        self._name = definition.search.pruner.name
        self._reason: str | None = None  # to prune the trial
        self._epoch = history.own.last_step

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
        with self.history.looking(session):
            pruned = self.study.pruner.prune(self.study, own)
        self._reason = f"by {self._name} after epoch {self._epoch}" if pruned else None
        if self.chance is not None:
            self._reason = self.chance.verdict(own.intermediate_values.values()) or self._reason
        return {} if self._reason else self.history.attributes

    def obey(self) -> None:
        """Raise Pruned if that was the verdict; to be called once the transaction is committed."""
        if self._reason:
            raise Pruned(self._reason, self.history.attributes)
        self.history.settle()
