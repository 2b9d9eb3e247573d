"""Optuna's storage with a fence before every write, and patience with a database that is away.

This module, and all that write in its transactions, lean on what Optuna keeps semi-private: its table
models, and the session that each thread has, so that what we write about a trial and what Optuna writes can
commit in one transaction; ``history`` leans on Optuna's cache. ``tests/store/test_studies.py`` holds the
contract that we rely on, and pyproject.toml keeps Optuna's version range narrow.

A database may be away for a while: restarted, cut off, locked. What a worker asks is asked again until the
database is back, so a worker holds where it wants to read or write, and loses nothing. A transaction whose
acknowledgement got lost may have been made, so all that is asked again does no harm twice. What would (a
setting queued by hand would run twice), or what somebody waits for at a terminal, is asked once.

Locks are taken in one order, so that nobody waits in a circle: a lease, then its trial, then the study. A
claim, which has to find its trial before it knows the lease, passes by a lease that it cannot lock at once.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpo.errors import StoreError, StoreUnavailable
from hpo.retry import MAX_WAIT_SECONDS as MAX_WAIT_SECONDS
from hpo.retry import STOPPING_WAIT_SECONDS as STOPPING_WAIT_SECONDS
from hpo.retry import retry_until
from hpo.store import database

P = ParamSpec("P")
R = TypeVar("R")

LONGEST_PAUSE_SECONDS = (
    0.5  # between two tries; with the connection's three seconds it bounds how late a heal is noticed
)


class _Intent(threading.local):
    """What this thread's next transaction is for."""

    reads = False


def retrying(
    *, reads: bool = False, max_wait_seconds: float = MAX_WAIT_SECONDS
) -> Callable[[Callable[Concatenate["Storage", P], R]], Callable[Concatenate["Storage", P], R]]:
    """Make a function whose first argument is a store outlast an absent database: ``Store.outlast``.

    With ``reads`` it hinders no writer. What must not happen twice wants a ``patience`` of 0.
    """

    def decorate(work: Callable[Concatenate["Storage", P], R]) -> Callable[Concatenate["Storage", P], R]:
        @functools.wraps(work)
        def asked(store: "Storage", /, *args: P.args, **kwargs: P.kwargs) -> R:
            with store.read_only_transactions() if reads else contextlib.nullcontext():
                return store.retry(lambda: work(store, *args, **kwargs), max_wait_seconds)

        return asked

    return decorate


class Storage(RDBStorage):
    """Optuna's storage, where every write to a trial that a fence is set for passes the fence first.

    A fence is a function that gets the session of the transaction in which the write will commit, and
    raises to refuse it. A store that is ``read_only`` has a connection that refuses every write.
    """

    def __init__(self, url: sa.URL, *, read_only: bool = False) -> None:
        self.location = url
        self.read_only = read_only
        self.fences: dict[int, Callable[[Session], object]] = {}
        self.max_wait_seconds = MAX_WAIT_SECONDS  # for whatever is asked
        self.stop = threading.Event()  # whoever sets it wants no more than GRACE spent on waiting
        self._intent = _Intent()
        connection_url = database.read_only_url(url) if read_only else url
        super().__init__(
            # Optuna passes URLs through str.format, which would choke on braces; here they are %7B and %7D.
            connection_url.render_as_string(hide_password=False),
            engine_kwargs=database.engine_kwargs(url),
            skip_table_creation=True,
        )
        self.engine.dispose()  # the listeners are to see every connection
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", database.sync_every_commit)
            sa.event.listen(self.engine, "begin", self._begin_transaction)
        else:
            database.set_up_postgres(self.engine, read_only=read_only)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Storage, read_only=self.read_only), (self.location,)

    def _begin_transaction(self, connection: sa.Connection) -> None:
        # Taking the write lock at once keeps two workers from reading the same WAITING trial and both
        # claiming it, and a transaction from failing where it turns from reading to writing.
        connection.exec_driver_sql("BEGIN" if self._intent.reads else "BEGIN IMMEDIATE")

    def transaction(self) -> contextlib.AbstractContextManager[Session]:
        """Open this thread's session; leaving the block commits it, an exception rolls it back."""
        return _create_scoped_session(self.scoped_session)

    @contextlib.contextmanager
    def read_only_transactions(self) -> Iterator[None]:
        """Let this thread's transactions hinder no writer, and work on a file that is read-only."""
        before, self._intent.reads = self._intent.reads, True
        try:
            yield
        finally:
            self._intent.reads = before

    def retry(self, work: Callable[[], R], max_wait_seconds: float = MAX_WAIT_SECONDS) -> R:
        """Do ``work``, a transaction that does no harm twice, again until the database takes it.

        Raises StoreAway when ``patience`` (in seconds) is over, StoreError at once where waiting mends
        nothing (rights, a full disk). A bug of ours keeps its own exception.
        """

        def met(error: Exception, waited: float) -> str:
            nonlocal max_wait_seconds
            if not isinstance(error, sa.exc.SQLAlchemyError | StorageInternalError):
                raise error
            away = database.is_unavailable(error)
            if not away and not database.is_refusal(error):
                raise error
            message = f"store {database.hide_password(self.location)}: {database.driver_message(error)}"
            if not away:
                raise StoreError(message) from error
            if database.is_deadlock(error):  # nothing was done, whatever it was
                max_wait_seconds = max(max_wait_seconds, STOPPING_WAIT_SECONDS)
            if waited >= min(
                max_wait_seconds,
                self.max_wait_seconds,
                STOPPING_WAIT_SECONDS if self.stop.is_set() else MAX_WAIT_SECONDS,
            ):
                raise StoreUnavailable(message) from error
            return message

        return retry_until(work, met, what="the store", longest_pause_seconds=LONGEST_PAUSE_SECONDS)

    def _write_fenced(self, write: Callable[..., R], trial_id: int, *args: Any) -> R:
        """Let Optuna write about a trial, in one transaction with the trial's fence."""
        fence = self.fences.get(trial_id)
        if fence is not None:
            session = self.scoped_session()  # this thread's; Optuna's writer uses and commits the same
            try:
                fence(session)
            except BaseException:
                session.rollback()
                session.close()
                raise
        return write(trial_id, *args)

    def _set_trial_param(
        self, trial_id: int, name: str, value: float, known: BaseDistribution, *previous: Any
    ) -> None:
        write = super()._set_trial_param
        self.retry(lambda: self._write_fenced(write, trial_id, name, value, known, *previous))

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Write a report, fenced."""
        write = super().set_trial_intermediate_value
        self.retry(lambda: self._write_fenced(write, trial_id, step, intermediate_value))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write a user attribute, fenced."""
        write = super().set_trial_user_attr
        self.retry(lambda: self._write_fenced(write, trial_id, key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write a system attribute, fenced."""
        write = super().set_trial_system_attr
        self.retry(lambda: self._write_fenced(write, trial_id, key, value))

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Write a state, fenced; asked once, since done twice it says that another process was faster."""
        write = super().set_trial_state_values
        return self.retry(lambda: self._write_fenced(write, trial_id, state, values), max_wait_seconds=0.0)

    # What a worker asks Optuna for, besides.
    get_trial = retrying(reads=True)(RDBStorage.get_trial)
    _get_trials = retrying(reads=True)(RDBStorage._get_trials)
    _get_best_trial_id = retrying(reads=True)(RDBStorage._get_best_trial_id)
    get_all_studies = retrying(reads=True)(RDBStorage.get_all_studies)
    get_study_id_from_name = retrying(reads=True)(RDBStorage.get_study_id_from_name)
    get_study_name_from_id = retrying(reads=True)(RDBStorage.get_study_name_from_id)
    get_study_directions = retrying(reads=True)(RDBStorage.get_study_directions)
    get_study_user_attrs = retrying(reads=True)(RDBStorage.get_study_user_attrs)
    get_study_system_attrs = retrying(reads=True)(RDBStorage.get_study_system_attrs)
    get_trial_id_from_study_id_trial_number = retrying(reads=True)(
        RDBStorage.get_trial_id_from_study_id_trial_number
    )
    set_study_user_attr = retrying()(RDBStorage.set_study_user_attr)
    set_study_system_attr = retrying()(RDBStorage.set_study_system_attr)
