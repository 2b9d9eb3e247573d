"""What trials have reached at the rungs of a study with one objective, in a table of its own.

A trial that reports at a rung enters its loss there, in the transaction of the report, and asks how many
trials the rung has and how many of them are ahead. An index answers that, so a decision costs the same
however many trials have reported since the worker last read the study. A trial's entry is changed only by
its own report; what another trial does later, it writes itself.

Trials that have no entry by then get it from a worker that has just read the whole study, at most once a
minute: those that stopped early below the rung, and those of an older hpo or of other tools.
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from hpo.search.asha import Standing
from hpo.store import rows
from hpo.store.tables import rung_losses

_own = sa.tuple_(sa.bindparam("loss", type_=sa.Double), sa.bindparam("trial", type_=sa.Integer))
_is_ahead = sa.tuple_(rung_losses.c.loss, rung_losses.c.trial_id) < _own
_STANDING = sa.select(sa.func.count(), sa.func.count().filter(_is_ahead)).where(
    rung_losses.c.study_id == sa.bindparam("study"), rung_losses.c.rung == sa.bindparam("rung")
)
_ENTRIES = sa.select(rung_losses.c.rung, rung_losses.c.trial_id).where(
    rung_losses.c.study_id == sa.bindparam("study")
)


def enter(session: Session, study_id: int, trial_id: int, rung: int, loss: float) -> Standing:
    """Enter what a trial has reached at a rung, over what it may have entered before.

    Args:
        session: The session of the fenced transaction that commits its report.
        study_id: Optuna's id of the study.
        trial_id: Optuna's id of the trial.
        rung: The rung, in epochs.
        loss: Its lowest loss up to that epoch; infinite if it was not a number.

    Returns:
        Its place among the trials at the rung, itself included.
    """
    entry = {"trial_id": trial_id, "rung": rung, "study_id": study_id, "loss": loss}
    session.execute(_upsert(session), entry)
    given = {"study": study_id, "rung": rung, "loss": loss, "trial": trial_id}
    trials, ahead = session.execute(_STANDING, given).one()
    return Standing(trials=trials, ahead=ahead)


def complete(session: Session, study_id: int, reached: Mapping[int, Mapping[int, float]]) -> None:
    """Enter the trials that are at a rung and have no entry there.

    Args:
        session: The session of a transaction that may write.
        study_id: Optuna's id of the study.
        reached: The loss of each trial that has reached a rung, by the rung and the trial's id.
    """
    known = {(rung, trial_id) for rung, trial_id in session.execute(_ENTRIES, {"study": study_id})}
    missing = [
        {"trial_id": trial_id, "rung": rung, "study_id": study_id, "loss": loss}
        for rung, losses in reached.items()
        for trial_id, loss in sorted(losses.items())  # in one order, whoever does it
        if (rung, trial_id) not in known
    ]
    if missing:
        session.execute(_upsert(session), missing)


def _upsert(session: Session) -> Any:
    return rows.upsert_statement(rows.dialect_of(session), rung_losses, "rung")
