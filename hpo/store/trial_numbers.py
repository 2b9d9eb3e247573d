"""Numbers that two trials have: how they come about, and how they are told apart.

Everything of ours knows a trial by its number, and its folder is named by it. hpo gives a new trial the
number after the highest one. Plain Optuna (``Study.enqueue_trial``, ``Study.ask``) gives it the count of
the trials before it, which is the same unless trials were removed. When every possible setting has a trial,
the waiting ones are removed (``untried_settings``). Where replicates or later points have higher numbers,
the count is then lower than these numbers, and Optuna gives a new trial the number of an existing one.

So a trial that another tool has made, and whose number is doubled, gets the next free number when a worker
claims it, before anything is stored under its number. Until then, and for trials that the other tool runs
itself, readers show it with that number.
"""

import copy
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from optuna.trial import FrozenTrial
from sqlalchemy.orm import Session

from hpo.search.replicates import REPLICATE_OF
from hpo.store import plan, rows
from hpo.store.rows import trials

_other = trials.alias()
_own: Any = sa.bindparam("trial")
_IS_OURS = sa.exists().where(
    rows.system_attributes.c.trial_id == _own, rows.system_attributes.c.key.in_([plan.PLAN, REPLICATE_OF])
)
_IS_DOUBLED = sa.exists().where(
    _other.c.study_id == sa.bindparam("study"),
    _other.c.number == sa.bindparam("number"),
    _other.c.trial_id != _own,
)
# The second condition reads all trials of the study, so it is left to trials that hpo has not made.
_HAS_FOREIGN_NUMBER = sa.select(sa.case((_IS_OURS, sa.false()), else_=_IS_DOUBLED))
_LAST_NUMBER = sa.select(sa.func.max(trials.c.number)).where(trials.c.study_id == sa.bindparam("study"))


def separate_number(session: Session, study_id: int, trial_id: int, number: int) -> int:
    """Give a trial that is about to be claimed the next free number, if another trial has its number too.

    Args:
        session: The session of the claim, which has locked the trial; this may lock the study's row.
        study_id: Optuna's id of the study.
        trial_id: Optuna's id of the trial, which was never claimed.
        number: Its number.

    Returns:
        The number that it has now.
    """
    asked = {"study": study_id, "trial": trial_id, "number": number}
    if not session.execute(_HAS_FOREIGN_NUMBER, asked).scalar_one():
        return number
    plan.lock_definition(session, study_id)
    free = int(session.execute(_LAST_NUMBER, {"study": study_id}).scalar_one()) + 1
    session.execute(sa.update(trials).where(trials.c.trial_id == trial_id).values(number=free))
    return free


def separate_numbers(found: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return trials by number; of two with one number the later one has the next free number, in a copy."""
    ordered = sorted(found, key=lambda trial: (trial.number, trial._trial_id))
    if len({trial.number for trial in ordered}) == len(ordered):
        return ordered
    free, seen = ordered[-1].number + 1, set[int]()
    for index, trial in enumerate(ordered):
        if trial.number in seen:
            ordered[index] = copy.copy(trial)
            ordered[index].number, free = free, free + 1
        seen.add(ordered[index].number)
    return sorted(ordered, key=lambda trial: trial.number)
