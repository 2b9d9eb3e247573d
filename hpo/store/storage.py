"""Optuna's storage, with a fence before every write and retries while the database is unavailable.

**What this relies on.** This module, and everything that writes in its transactions, uses parts of Optuna
that are half private: its table models, and the session that each thread has, so that our writes about a
trial and Optuna's own can commit in one transaction. ``history`` uses Optuna's cache. A test in
``tests/store/test_storage.py`` holds the contract that we rely on, and pyproject.toml keeps the range of
Optuna versions narrow.

**Retries.** A database may be unavailable for a while: restarted, disconnected, locked. A worker's requests
are retried until the database is back, so the worker pauses where it wants to read or write, and loses
nothing. A transaction may have been committed although its acknowledgement was lost, so everything that is
retried does no harm if it is done twice. What would do harm (a setting queued by hand would run twice), and
what somebody waits for at a terminal, is tried once: a storage retries only where ``max_wait_seconds`` is
set, as a worker does, and a call within another one retries no longer than that one.

**Order of locks.** Locks are taken in one order, so that no deadlock can arise: a lease, then its trial,
then the study. A claim has to find its trial before it knows the lease; it skips a lease that it cannot
lock at once.
"""

import contextlib
import functools
import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from hpo.errors import StoreError, StoreUnavailable
from hpo.retry import MAX_WAIT_SECONDS, STOPPING_WAIT_SECONDS, retry_until
from hpo.store import database, database_errors, stored_values

P = ParamSpec("P")
R = TypeVar("R")

# Between two attempts. With the connection's timeout of three seconds it bounds how late a worker notices
# that the database is back.
LONGEST_PAUSE_SECONDS = 0.5


class _Intent(threading.local):
    """What this thread's next transaction is for."""

    reads = False
    max_wait_seconds = math.inf  # how long the call allows to retry that this one is part of


def retrying(
    *, reads: bool = False, max_wait_seconds: float = MAX_WAIT_SECONDS
) -> Callable[[Callable[Concatenate["Storage", P], R]], Callable[Concatenate["Storage", P], R]]:
    """Make a function whose first argument is a storage retry while the database is unavailable.

    The decorated function raises what ``Storage.retry`` raises. The storage cannot be a keyword argument.

    Args:
        reads: The function only reads: on SQLite its transactions take no write lock.
        max_wait_seconds: How long to retry. 0 for a function that must not be done twice; only after a
            deadlock, which undid it, is it done again.
    """

    def decorate(work: Callable[Concatenate["Storage", P], R]) -> Callable[Concatenate["Storage", P], R]:
        @functools.wraps(work)
        def retried(storage: "Storage", /, *args: P.args, **kwargs: P.kwargs) -> R:
            with storage.read_only_transactions() if reads else contextlib.nullcontext():
                return storage.retry(lambda: work(storage, *args, **kwargs), max_wait_seconds)

        return retried

    return decorate


def _is_long_number(error: Exception) -> bool:
    """Return whether an error says that JSON has a number of more digits than Python reads."""
    return isinstance(error, ValueError) and "integer string conversion" in str(error)


class Storage(RDBStorage):
    """Optuna's storage, in which every write about a trial with a fence passes the fence first.

    A fence is a function that gets the session of the transaction in which the write will commit; it raises
    to refuse the write. About a trial without a fence everything is written, as by Optuna's own storage.

    Attributes:
        location: The database's URL.
        read_only: Whether the connections refuse every write.
        fences: The fences, by trial id.
        max_wait_seconds: Upper bound of every wait for the database, whatever a single call allows; 0 until
            somebody sets it.
        stop: Once it is set, no wait for the database is longer than ``STOPPING_WAIT_SECONDS``.
    """

    def __init__(self, url: sa.URL, *, read_only: bool = False) -> None:
        """Connect to a database that has Optuna's tables already.

        Errors come out as SQLAlchemy and Optuna raise them. ``studies.open_storage`` translates them.

        Args:
            url: What ``database.parse_url`` returned.
            read_only: Open connections that refuse every write.
        """
        self.location = url
        self.read_only = read_only
        self.fences: dict[int, Callable[[Session], object]] = {}
        self.max_wait_seconds = 0.0
        self.stop = threading.Event()
        self._intent = _Intent()
        connection_url = database.existing_url(url, read_only=read_only)
        super().__init__(
            # Optuna passes URLs through str.format, which fails on braces; here they are %7B and %7D.
            connection_url.render_as_string(hide_password=False),
            engine_kwargs=database.engine_kwargs(url),
            skip_table_creation=True,
        )
        self.engine.dispose()  # so that the listeners see every connection
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", database.sync_every_commit)
            sa.event.listen(self.engine, "begin", self._begin_transaction)
        else:
            database.set_up_postgres(self.engine, read_only=read_only)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Storage, read_only=self.read_only), (self.location,)

    def _begin_transaction(self, connection: sa.Connection) -> None:
        # Taking the write lock at once keeps two workers from reading the same WAITING trial and both
        # claiming it. It also keeps a transaction from failing where it turns from reading to writing.
        connection.exec_driver_sql("BEGIN" if self._intent.reads else "BEGIN IMMEDIATE")

    def transaction(self) -> contextlib.AbstractContextManager[Session]:
        """Open this thread's session; leaving the block commits it, an exception rolls it back.

        The database's errors come out as Optuna's ``StorageInternalError``, or SQLAlchemy's
        ``IntegrityError``; ``retry`` understands them.
        """
        return _create_scoped_session(self.scoped_session)

    @contextlib.contextmanager
    def read_only_transactions(self) -> Iterator[None]:
        """Within the block, let this thread's transactions take no write lock on SQLite.

        They then hinder no writer, and work on a read-only file. On Postgres nothing changes.
        """
        before, self._intent.reads = self._intent.reads, True
        try:
            yield
        finally:
            self._intent.reads = before

    def retry(self, work: Callable[[], R], max_wait_seconds: float = MAX_WAIT_SECONDS) -> R:
        """Call ``work`` until the database accepts it.

        A deadlock is retried for ``STOPPING_WAIT_SECONDS`` at least, whatever is allowed: nothing of the
        transaction was done, so any work may be repeated.

        Args:
            work: One transaction that does no harm if it is done twice.
            max_wait_seconds: How long to retry; ``self.max_wait_seconds``, ``self.stop`` and a call of
                ``retry`` that this one is part of may shorten it.

        Returns:
            What ``work`` returned.

        Raises:
            StoreUnavailable: The database is still unavailable after that time. The work may have been
                committed all the same.
            StoreError: The database refuses the work, and waiting would not help (permissions, a wrong
                password, a full disk). Or an attribute that the work reads is not JSON.
            Exception: Anything else that ``work`` raises, at once and unchanged: a bug.
        """
        outer = self._intent.max_wait_seconds
        allowed = min(max_wait_seconds, outer)

        def handle_error(error: Exception, waited_seconds: float) -> str:
            if isinstance(error, json.JSONDecodeError | RecursionError) or _is_long_number(error):
                where = database.hide_password(self.location)
                raise StoreError(
                    f"store {where}: an attribute of a study or trial is not JSON ({error})"
                ) from error
            if not isinstance(error, sa.exc.SQLAlchemyError | StorageInternalError):
                raise error
            meaning = database_errors.store_error(self.location, error)
            if meaning is None:
                raise error
            longest = self._longest_wait(allowed, is_deadlock=database_errors.is_deadlock(error))
            if not isinstance(meaning, StoreUnavailable) or waited_seconds >= longest:
                raise meaning from error
            return str(meaning)

        self._intent.max_wait_seconds = allowed
        try:
            return retry_until(
                work, handle_error, what="the store", longest_pause_seconds=LONGEST_PAUSE_SECONDS
            )
        finally:
            self._intent.max_wait_seconds = outer

    def _longest_wait(self, allowed: float, *, is_deadlock: bool) -> float:
        most = STOPPING_WAIT_SECONDS if self.stop.is_set() else MAX_WAIT_SECONDS
        least = STOPPING_WAIT_SECONDS if is_deadlock else 0.0
        return max(min(allowed, self.max_wait_seconds, most), least)

    def _write_fenced(self, write: Callable[..., R], trial_id: int, *args: Any) -> R:
        """Let Optuna write about a trial, in one transaction with the trial's fence."""
        fence = self.fences.get(trial_id)
        if fence is not None:
            session = self.scoped_session()  # this thread's; Optuna's writer uses and commits the same one
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
        """Write a report behind the trial's fence; it raises what ``set_trial_user_attr`` raises."""
        write = super().set_trial_intermediate_value
        self.retry(lambda: self._write_fenced(write, trial_id, step, intermediate_value))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write a user attribute, behind the trial's fence if it has one; retry as ``retry`` does.

        Raises:
            LeaseLost: The fence refuses; nothing was written.
            StoreUnavailable: The database stays unavailable.
            StoreError: The database refuses the write.
            KeyError: There is no such trial.
            optuna.exceptions.UpdateFinishedTrialError: The trial has ended; it has no fence.
        """
        write = super().set_trial_user_attr
        self.retry(lambda: self._write_fenced(write, trial_id, key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write a system attribute as ``set_trial_user_attr`` writes a user attribute."""
        write = super().set_trial_system_attr
        self.retry(lambda: self._write_fenced(write, trial_id, key, value))

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Write a state, behind the trial's fence if it has one.

        Tried once, except after a deadlock, which wrote nothing: if it were done twice, the second time
        would answer that another process was faster.

        Args:
            trial_id: Optuna's id of the trial.
            state: The new state.
            values: The trial's values, one per objective; None if it has none.

        Returns:
            False if the trial was to be set RUNNING but is not WAITING: another process was faster.

        Raises:
            LeaseLost: The fence refuses; nothing was written.
            StoreUnavailable: The database is unavailable; the write may have been committed all the same.
            StoreError: The database refuses the write.
            KeyError: There is no such trial.
            optuna.exceptions.UpdateFinishedTrialError: The trial has ended; it has no fence.
        """
        write = super().set_trial_state_values
        return self.retry(lambda: self._write_fenced(write, trial_id, state, values), max_wait_seconds=0.0)

    def _build_frozen_trial_from_trial_model(self, trial: Any) -> FrozenTrial:
        """Build Optuna's record of a trial as ``rows`` does, but with all attributes as they are."""
        found = sorted(trial.params, key=lambda each: each.param_id)
        given, kinds = stored_values.parse_parameters(
            (each.param_name, each.param_value, each.distribution_json) for each in found
        )
        by_objective = sorted(trial.values, key=lambda each: each.objective)
        values = [stored_values.parse_value(each.value, each.value_type) for each in by_objective]
        return FrozenTrial(
            number=trial.number,
            state=trial.state,
            value=None,
            values=None if None in values else [each for each in values if each is not None] or None,
            datetime_start=trial.datetime_start,
            datetime_complete=trial.datetime_complete,
            params=given,
            distributions=kinds,
            user_attrs={each.key: json.loads(each.value_json) for each in trial.user_attributes},
            system_attrs={each.key: json.loads(each.value_json) for each in trial.system_attributes},
            intermediate_values=stored_values.parse_reports(
                (each.step, each.intermediate_value, each.intermediate_value_type)
                for each in trial.intermediate_values
            ),
            trial_id=trial.trial_id,
        )

    # The other requests that workers make of Optuna.
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
