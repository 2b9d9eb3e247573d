"""The lease: which worker may run a trial, and the only way for it to write about the trial.

One worker at a time runs a trial; if it dies, another one goes on with the trial. The right to run it is a
row of ``hpo_leases`` with an owner, a token and an expiry time. Owner and token decide. The token grows by
one with every attempt, and a worker that does not find both its own name and its own token in the row has
lost the trial, whatever it believes. The expiry time, measured by the database's clock alone, only says
when other workers may stop waiting for a silent owner.

The protocol:

1. **Claim.** One transaction (in ``queue``) selects a WAITING trial, or a RUNNING one whose lease has
   expired. It locks the trial, raises its token, writes owner and expiry time, and sets the trial RUNNING.
   On SQLite the transaction holds the write lock from its first statement on. On Postgres it locks the
   trial and skips trials that others have locked; then it locks the lease and skips one that is just being
   renewed; then it reads the lease again, because the lease may have been renewed since the search. A
   crash before the commit changes nothing. A crash after it leaves a lease that expires. If only the
   acknowledgement of the commit is lost, the worker retries and finds its own claim.
2. **Fence.** Every write about a claimed trial first renews the lease *where owner and token are ours*, and
   share-locks the trial, in the same transaction. If the row belongs to another worker, or the trial is no
   longer RUNNING, nothing is written and ``LeaseLost`` is raised. So a worker that was suspended or cut off
   for longer than its lease can wake up at any time and do no harm: it drops the trial and claims the next.
3. **Renew.** A thread with a database connection of its own renews the lease whenever no commit has renewed
   it for a third of its time, whatever errors it meets. It does not check the expiry time: an expired lease
   that nobody has taken is still ours.
4. **Commit.** Everything that is written about a running trial goes into one fenced transaction at a time:
   all its parameters, before training starts; an epoch's report, with attributes and, if the trial
   continues, what the pruner stores for other trials to compare with; the name of a checkpoint, with the
   next report or alone, after the checkpoint's file is durable. A crash between file and transaction leaves
   a file that no row names, which is garbage; the epochs after the previous checkpoint are run and reported
   again. The pruner is asked within the transaction of the report: after a crash before the commit neither
   is stored, after a crash after the commit both are. A decision to prune stores nothing before the trial
   ends, so the pruner is asked again.
5. **End.** State, value, attributes and the release of the lease are one fenced transaction. After a crash
   before it, only what followed the last checkpoint is repeated. After a crash after it, the trial is
   found finished.
6. **Release.** A worker that is asked to stop saves a checkpoint, sets its trial back to WAITING and
   releases the lease. The trial keeps its number, parameters and reported epochs, and is the next to be
   claimed. A trial that pauses at a rung is released with a mark; only its promotion, which is itself a
   claim, resumes it.

While the database is unavailable, commit, end and release wait for it (``Storage.retry``). Training goes
on, because a separate thread commits (``workers.recorder``). Each may be done twice, if an acknowledgement
was lost, without harm: the same values are written again under the same token, and an end that is already
stored is ours if its token is. A worker that is suspended within a transaction keeps its locks. Postgres
closes its session after some seconds, and until then claims skip its trial; on SQLite everybody waits.

A trial whose attempts die before they reach a checkpoint would be tried without end: above a limit of
attempts the trial FAILs. An attempt that was released did not die.

An interrupted trial always continues under its own number; no trial is ever copied. A RUNNING trial without
a lease belongs to another tool and is left alone. If the owner's process ran on this very machine and is
dead, its lease expires at once: there is nothing to wait for.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpo.retry import STOPPING_WAIT_SECONDS
from hpo.store import attempts, attributes, budgets, database_errors, lease_table, plan, rows, tables
from hpo.store.process import Owner
from hpo.store.rows import Parameters, dialect_of
from hpo.store.storage import Storage
from hpo.study.definition import BudgetLimits

log = logging.getLogger("hpo")


class LeaseLost(Exception):
    """The trial belongs to another worker by now, or another tool ended, reset or deleted it.

    Nothing was written. It is no ``HpoError``: a worker drops the trial and claims another one.
    """


class LastRenewal:
    """When the owner last renewed its lease, and whether it was too late.

    Attributes:
        at: The start of that transaction, by ``time.monotonic()``; before the first, when this was made.
        found_lost: Whether ``keep_lease`` has found the lease to be another worker's.
    """

    def __init__(self) -> None:
        self.at, self.found_lost = time.monotonic(), False


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A trial that this worker holds the lease of, and the only way to write about the trial.

    Attributes:
        storage: The storage that the trial is in.
        study_id: Optuna's id of the study.
        trial_id: Optuna's id of the trial, unique in the storage.
        number: The trial's number within its study, from 0.
        token: The number of this attempt, from 1.
        owner: This worker, as the lease table stores it.
        lease_seconds: How long a renewal of the lease lasts.
        checkpoint: Name of the trial's last committed checkpoint, where this attempt starts; None if there
            is none.
        limits: The budgets of the study; None if it has none.
        last_renewal: When a transaction of ours last renewed the lease.
    """

    storage: Storage
    study_id: int
    trial_id: int
    number: int
    token: int
    owner: Owner
    lease_seconds: float
    checkpoint: str | None
    limits: BudgetLimits | None = None
    last_renewal: LastRenewal = field(default_factory=LastRenewal)

    def fence(
        self, session: Session, *, reported_epoch: int | None = None, checkpoint: str | None = None
    ) -> str | None:
        """Renew the lease within the caller's transaction, and lock the trial until it ends.

        Until then nobody claims the trial, and no other tool changes its state. The caller sets
        ``last_renewal`` once its transaction is committed.

        Args:
            session: The session of the transaction in which the caller writes about the trial.
            reported_epoch: Epoch to store in the lease as the last one reported; None keeps what is there.
            checkpoint: Name to store in the lease as the last committed checkpoint; None keeps what is
                there.

        Returns:
            ``plan.TRIAL_STOPPED`` if the trial is to end, or else the order that the study is under
            (``plan.ORDER_PAUSED``, ``plan.ORDER_STOPPED``), or None.

        Raises:
            LeaseLost: The lease is another worker's, or the trial is deleted or not RUNNING. The caller
                lets its transaction roll back.
            StoreError: A newer version of hpo has upgraded the store.
        """
        values = {"seconds": self.lease_seconds, "new_epoch": reported_epoch, "new_checkpoint": checkpoint}
        if not self._update_lease_if_ours(session, lease_table.renew_statement, values):
            raise LeaseLost(f"trial {self.number} belongs to another worker by now")
        trial = self._lock_running_trial(session)
        tables.check_version(trial.version)
        return plan.TRIAL_STOPPED if trial.is_stopped else attributes.parse_order(trial.order)

    def _update_lease_if_ours(
        self, session: Session, statement: Callable[[str], Any], values: dict[str, Any]
    ) -> bool:
        """Run an UPDATE of the lease that applies only if the lease is ours; tell whether it is."""
        ours: dict[str, Any] = {"trial": self.trial_id, "our_token": self.token}
        ours |= {"our_name": self.owner.name, "our_process": self.owner.process}
        changed: Any = session.execute(statement(dialect_of(session)), ours | values)
        return bool(changed.rowcount == 1)

    def _lock_running_trial(self, session: Session) -> sa.Row[Any]:
        """Share-lock the trial; return its study's order, too; raise LeaseLost unless it is RUNNING."""
        trial = session.execute(lease_table.LOCK_TRIAL, {"trial": self.trial_id}).first()
        if trial is None or trial.state != TrialState.RUNNING:
            raise LeaseLost(f"trial {self.number} was ended, or set back to waiting, by another tool")
        return trial

    def commit(
        self,
        *,
        report: tuple[int, float | None] | None = None,
        checkpoint: str | None = None,
        user_attributes: Mapping[str, Any] | None = None,
        system_attributes: Mapping[str, Any] | None = None,
        parameters: Parameters | Callable[[Session], Parameters] | None = None,
        ask_pruner: Callable[[Session], Mapping[str, Any]] | None = None,
    ) -> str | None:
        """Write about the running trial in one fenced transaction; retry while the database is unavailable.

        Without arguments it renews the lease.

        Args:
            report: Epoch, counted from 1, and its value. If that is None, as it was not measured, only
                the lease gets the epoch.
            checkpoint: Name of a checkpoint whose file is durable.
            user_attributes: User attributes of the trial.
            system_attributes: System attributes of the trial.
            parameters: The trial's parameters, by name, written with the study's present distributions; or
                what chooses them within the transaction. A retry calls functions again.
            ask_pruner: Reads within the transaction, and returns system attributes to write too.

        Returns:
            The order that the trial or the study is under, if any; after a report also the reason why a
            budget leaves no room for another epoch; otherwise None.

        Raises:
            LeaseLost: Nothing was written.
            StoreUnavailable: The database stays unavailable; the write may have been committed even so.
            StoreError: The database refuses the write.
            DefinitionError: A newer version of hpo has extended the study, and there are ``parameters``.
        """

        def write() -> str | None:
            epoch = report and report[0]
            with self.storage.transaction() as session:
                order = self.fence(session, reported_epoch=epoch, checkpoint=checkpoint)
                self._write_progress(session, report, user_attributes, parameters)
                system = {**(system_attributes or {}), **(ask_pruner(session) if ask_pruner else {})}
                rows.write_attributes(session, self.trial_id, system, system=True)
                if order is None and report is not None:
                    order = budgets.blocking_reason(session, self.study_id, self.limits, has_lease=True)
                return order

        began = time.monotonic()
        order = self.storage.retry(write)
        self.last_renewal.at = began
        return order

    def _write_progress(
        self,
        session: Session,
        report: tuple[int, float | None] | None,
        user_attributes: Mapping[str, Any] | None,
        parameters: Parameters | Callable[[Session], Parameters] | None,
    ) -> None:
        if report is not None:
            rows.write_report(session, self.trial_id, *report)
        if callable(parameters):
            parameters = parameters(session)
        if parameters:
            planned = plan.with_current_distributions(session, self.study_id, parameters)
            rows.write_parameters(session, self.trial_id, planned)
        rows.write_attributes(session, self.trial_id, user_attributes or {})

    def end(
        self,
        state: TrialState,
        *,
        value: float | Sequence[float] | None = None,
        reason: str = "",
        user_attributes: Mapping[str, Any] | None = None,
        system_attributes: Mapping[str, Any] | None = None,
        forget_checkpoint: bool = False,
        in_transaction: Callable[[Session], None] | None = None,
    ) -> None:
        """End the trial and release its lease in one fenced transaction; wait for the database if need be.

        If an earlier try has ended it already, and only the acknowledgement was lost, nothing is done.

        Args:
            state: A finished state: COMPLETE, PRUNED or FAIL.
            value: The trial's value, or one for each objective; None leaves it without one.
            reason: Why it ends, for the table of attempts; "" if the state says it all.
            user_attributes: User attributes to write with it.
            system_attributes: System attributes to write with it.
            forget_checkpoint: Remove the checkpoint's name from the database, so that its file may go.
            in_transaction: Does what else belongs to the end, within the same transaction. An exception
                from it undoes the end and comes out.

        Raises:
            LeaseLost: Nothing was written.
            StoreUnavailable: The database stays unavailable; the end may have been committed even so.
            StoreError: The database refuses the write.
        """
        forgotten = {"checkpoint": None} if forget_checkpoint else {}

        def write() -> None:
            with self.storage.transaction() as session:
                if self._release_lease(session, state, forget_checkpoint=forget_checkpoint):
                    attempts.end_attempt(
                        session, self.trial_id, self.token, rows.STATE_NAMES[state], reason
                    )
                    rows.write_attributes(session, self.trial_id, {**(user_attributes or {}), **forgotten})
                    rows.write_attributes(session, self.trial_id, system_attributes or {}, system=True)
                    rows.write_state(session, self.trial_id, state, value)
                    if in_transaction is not None:
                        in_transaction(session)

        self.storage.retry(write)

    def remove(self, in_transaction: Callable[[Session], int]) -> int:
        """Remove the trial in one fenced transaction; retry while the database is unavailable.

        Args:
            in_transaction: Removes it, and what else belongs to that. An exception from it comes out.

        Returns:
            What ``in_transaction`` returns.

        Raises:
            LeaseLost: Nothing was removed, or only the acknowledgement was lost.
            StoreUnavailable: The database stays unavailable.
            StoreError: The database refuses the write.
        """

        def write() -> int:
            with self.storage.transaction() as session:
                self.fence(session)
                return in_transaction(session)

        return self.storage.retry(write)

    def _release_lease(
        self,
        session: Session,
        state: TrialState,
        *,
        forget_checkpoint: bool = False,
        unused_attempts: int = 0,
    ) -> bool:
        """Release the lease within a transaction that will set ``state``, or raise LeaseLost.

        Returns False if an earlier try of ours did so already and only its acknowledgement was lost.
        """
        values = {"forget": forget_checkpoint, "unused": unused_attempts}
        if self._update_lease_if_ours(session, lease_table.release_statement, values):
            self._lock_running_trial(session)
            return True
        before = session.execute(
            lease_table.STATE_AFTER_RELEASE, {"trial": self.trial_id, "our_token": self.token}
        ).scalar_one_or_none()
        if before != state:
            raise LeaseLost(f"trial {self.number} belongs to another worker by now")
        return False

    def release(self, reason: str = "", *, system_attributes: Mapping[str, Any] | None = None) -> None:
        """Set the trial back to WAITING, for any worker to claim; do nothing if it is no longer ours.

        The attempt is not counted as one that died. Waits ``STOPPING_WAIT_SECONDS`` at most for a database
        that is unavailable. If that fails, the lease expires by itself.

        Args:
            reason: Why, for the table of attempts.
            system_attributes: System attributes to write with it: of the rung that the trial pauses at.

        Raises:
            StoreUnavailable: The database stays unavailable.
            StoreError: The database refuses the write.
        """
        outcome = "paused" if system_attributes else "released"

        def write() -> None:
            with self.storage.transaction() as session:
                if self._release_lease(session, TrialState.WAITING, unused_attempts=1):
                    attempts.end_attempt(session, self.trial_id, self.token, outcome, reason)
                    rows.write_attributes(session, self.trial_id, system_attributes or {}, system=True)
                    rows.write_state(session, self.trial_id, TrialState.WAITING)

        with contextlib.suppress(LeaseLost):
            self.storage.retry(write, STOPPING_WAIT_SECONDS)


@contextlib.contextmanager
def keep_lease(claim: Claim) -> Iterator[None]:
    """Within the block, renew a claim's lease in a thread, and fence Optuna's own writes to the trial.

    The thread never raises. If the lease is lost it says so (``LastRenewal``) and ends; the next fenced
    write raises ``LeaseLost``.
    After any other error it logs a warning and tries again. The end of the block waits for the thread.
    """
    done = threading.Event()
    thread = threading.Thread(target=renew_until_done, args=(claim, done), name="lease", daemon=True)
    claim.storage.fences[claim.trial_id] = claim.fence
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        del claim.storage.fences[claim.trial_id]


def renew_until_done(claim: Claim, done: threading.Event) -> None:
    """Renew a lease until it is lost or ``done`` is set; as a thread it has a connection of its own."""
    failing = False
    interval = claim.lease_seconds / 3
    due = interval
    while not done.wait(due):
        began = time.monotonic()
        due = interval - (began - claim.last_renewal.at)  # a commit may have renewed the lease meanwhile
        if due > 0:
            continue
        due = interval
        try:
            with claim.storage.transaction() as session:
                claim.fence(session)
            claim.last_renewal.at = began
            failing = False
        except LeaseLost:
            claim.last_renewal.found_lost = True
            return
        except Exception as error:
            # Whatever it was, the next round tries again: as long as nobody takes the trial it stays ours.
            if not failing:
                why = database_errors.driver_message(error)  # Optuna's text guesses at invalid data
                log.warning("lease of trial %d not renewed (%s); trying again", claim.number, why)
            failing = True
