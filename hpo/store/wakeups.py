"""How a waiting worker learns that there may be a trial to claim, or that its study is over.

It asks the database with one statement whether something has changed since it last tried to claim a trial.
When it asks depends on the database. On Postgres a transaction that may give workers something to do
notifies those that listen (NOTIFY): it ends or releases a trial or reports at a rung, or somebody queues,
retries, extends, pauses or resumes. Nobody can listen on SQLite, or through a pooler such as PgBouncer;
there the worker asks again and again, after pauses that double up to ``ASK_SECONDS``.

It also asks when the first lease would expire, or when a process of this machine dies that holds one. What
no transaction of ours brings about (a deadline, another tool) it notices when it tries again in any case.
"""

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, Self

import psycopg
import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.store import control, database, plan, process
from hpo.store.lease_table import database_time
from hpo.store.notifications import CHANNEL
from hpo.store.rows import dialect_of, reports, trials
from hpo.store.storage import Storage, retrying
from hpo.store.tables import events, leases

LOOK_SECONDS = 0.5  # between two checks whether to ask, which cost no statement
ASK_SECONDS = {"sqlite": 2.0, "postgresql": 12.0}
TRY_SECONDS, LISTEN_SECONDS = 60.0, 600.0  # after which a wait ends anyway: if the worker asks, or listens

log = logging.getLogger("hpo")


class ChangeWatch:
    """Waits until a study changes; as a context, it ends its connection. For use by one thread.

    Args:
        storage: The storage that the study is in.
        study_id: Optuna's id of the study.
    """

    def __init__(self, storage: Storage, study_id: int) -> None:
        self._storage, self._study_id = storage, study_id
        self._answer: tuple[Any, ...] | None = None  # to the last question
        self._processes: list[str] = []  # that held leases then, and lived
        self._expiry_seconds = 0.0  # from then until the first lease would expire
        self._listener: _Listener | None = None
        self._has_told = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_listening()

    def wait(
        self, stop: threading.Event, tell_alive: Callable[[], None], rungs: Iterable[int] = ()
    ) -> None:
        """Wait until the study has changed since the last wait ended, or ``stop`` is set.

        The first wait ends at once: only from then on is known what a change is.

        Args:
            stop: Ends the wait.
            tell_alive: Called twice a second, so that others see that the worker lives.
            rungs: The study's rungs, in epochs, where reports of others may promote a paused trial.

        Raises:
            StoreUnavailable: The database stays unavailable.
            StoreError: The database refuses the request.
        """
        if self._listener is None:
            self._listener = _listen(self._storage, self._study_id)
        waited, ask_at, pause = 0.0, 0.0, LOOK_SECONDS
        while waited < (TRY_SECONDS if self._listener is None else LISTEN_SECONDS):
            if waited >= ask_at or self._has_news():
                if self._is_changed(rungs):
                    return
                pause = min(2 * pause, ASK_SECONDS[self._storage.engine.dialect.name])
                known = self._expiry_seconds if self._listener else min(pause, self._expiry_seconds)
                ask_at = waited + max(known, LOOK_SECONDS)
            if not self._has_told:
                self._tell_wait()
            tell_alive()
            if stop.wait(LOOK_SECONDS):
                return
            waited += LOOK_SECONDS

    def _tell_wait(self) -> None:
        """Log once what the worker waits for."""
        if control.read_order(self._storage, self._study_id) == plan.ORDER_PAUSED:
            log.info("the study is paused; this worker waits until somebody resumes it")
        else:
            log.info("no trial is free; this worker waits for one")
        self._has_told = True

    def _has_news(self) -> bool:
        """Return whether a notification has come, its connection is lost, or a lease's owner has died."""
        try:
            if self._listener is not None and self._listener.has_news():
                return True
        except psycopg.Error:
            self._stop_listening()
            return True
        return any(map(process.is_dead, self._processes))

    def _is_changed(self, rungs: Iterable[int]) -> bool:
        """Ask the database, and return whether the answer is not the last one."""
        before, found = self._answer, _ask(self._storage, self._study_id, rungs)
        owners = (found.processes or "").split("\n")
        self._processes = [owner for owner in owners if not process.is_dead(owner)]
        self._expiry_seconds = LISTEN_SECONDS if found.expiry is None else found.expiry
        self._answer = (*found[:-2], len(owners) - len(self._processes))
        return self._answer != before

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._listener = None


@retrying(reads=True)
def _ask(storage: Storage, study_id: int, rungs: Iterable[int]) -> sa.Row[Any]:
    with storage.transaction() as session:
        values = {"study": study_id, "rungs": list(rungs)}
        return session.execute(_question(dialect_of(session)), values).one()


@functools.cache
def _question(dialect: str) -> Any:
    """Return the SELECT of what changes whenever a trial may be claimed; its last two columns are no part.

    Those are the unique names of the processes that hold leases, a line each, and the seconds until the
    first lease expires.
    """
    study: Any = sa.bindparam("study")
    held, time = (leases.c.study_id == study) & leases.c.owner.is_not(None), database_time(dialect)
    count, lives = sa.func.count(), leases.c.expires > time
    reported = reports.join(trials, trials.c.trial_id == reports.c.trial_id)
    at_rung = reports.c.step.in_(sa.bindparam("rungs", expanding=True, type_=sa.Integer))
    columns = {
        "waiting": sa.select(count).where(trials.c.study_id == study, trials.c.state == TrialState.WAITING),
        "claims": sa.select(sa.func.sum(leases.c.token)).where(leases.c.study_id == study),
        "held": sa.select(count).select_from(leases).where(held),
        "expired": sa.select(count).select_from(leases).where(held, ~lives),
        "event": sa.select(sa.func.max(events.c.event_id)).where(events.c.study_id == study),
        "reports": sa.select(count).select_from(reported).where(trials.c.study_id == study, at_rung),
        "processes": sa.select(sa.func.aggregate_strings(leases.c.process, "\n")).where(held),
        "expiry": sa.select(sa.func.min(leases.c.expires) - time).where(held, lives),
    }
    return sa.select(*(each.scalar_subquery().label(name) for name, each in columns.items()))


class _Listener:
    """A connection to Postgres that listens to the notifications about one study."""

    def __init__(self, connection: sa.Connection, study_id: int) -> None:
        self._connection, self._study_id = connection, study_id
        driver: Any = connection.connection.driver_connection
        self._driver: psycopg.Connection[Any] = driver
        connection.exec_driver_sql(f"LISTEN {CHANNEL}")
        connection.commit()

    def has_news(self) -> bool:
        """Return whether a notification about the study has come; it asks the server nothing.

        Raises:
            psycopg.Error: The connection is lost.
        """
        come = [each.payload for each in self._driver.notifies(timeout=0)]
        return str(self._study_id) in come

    def close(self) -> None:
        """Close the connection without another word to the server, which may be gone."""
        self._connection.invalidate()
        self._connection.close()


def _listen(storage: Storage, study_id: int) -> _Listener | None:
    """Return a listener; None on SQLite, behind a pooler, or while no other connection can be opened."""
    if storage.engine.dialect.name == "sqlite":
        return None
    with contextlib.suppress(sa.exc.SQLAlchemyError):
        connection = database.create_engine(storage.location).connect()
        if not connection.info["pooled"]:
            return _Listener(connection, study_id)
        connection.close()
    return None
