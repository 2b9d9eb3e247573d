"""Notifications of Postgres, which wake the workers that wait (``wakeups``) once a transaction commits.

SQLite has none, nor needs them: its workers ask.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from hpo.store.rows import dialect_of

CHANNEL = "hpo"  # of the notifications, each of which is a study's id


def notification(study_id: Any) -> sa.ColumnElement[Any]:
    """Return the SQL expression that notifies the waiting workers of a study.

    Args:
        study_id: Optuna's id of the study, or a column with it.
    """
    return sa.func.pg_notify(CHANNEL, sa.cast(study_id, sa.Text))


def notify_workers(session: Session, study_id: int) -> None:
    """Wake the waiting workers of a study when the caller's transaction commits; nothing on SQLite."""
    if dialect_of(session) == "postgresql":
        session.execute(sa.select(notification(study_id)))
