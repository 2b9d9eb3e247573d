"""The lease: whose a trial is.

A trial is run by one worker at a time, and by another if that one dies. Who may run it is a row in
``hpo_leases``: owner, token, expiry. Owner and token decide: the token grows by one with every attempt, and
a worker that does not find both in the row has lost the trial, whatever it believes. The expiry, in the
database's time alone, only says from when on others need not wait for a silent owner. The protocol:

1. **Claim.** One transaction (in ``queue``) picks a WAITING trial, or a RUNNING one whose lease has run
   out, locks it, raises its token, writes owner and expiry, and sets it RUNNING. On SQLite it holds the
   write lock from its first statement on. On Postgres it locks the trial, passing by those that others have
   locked, then the lease, passing by one that is just being renewed, and then reads the lease again: it may
   have been renewed since it was looked for. A crash before the commit has done nothing; one after it
   leaves a lease that runs out. If only the acknowledgement got lost, the worker, asking again, finds its
   claim.
2. **Fence.** Every write about a claimed trial first renews the lease *where owner and token are ours*,
   and share-locks the trial, in the same transaction. If the row is another's, or the trial is not RUNNING
   any more, nothing is written and ``LeaseLost`` is raised. So a worker that was stopped, or cut off, for
   longer than its lease can wake at any time and do no harm: it drops the trial and takes the next.
3. **Renew.** A thread with a connection of its own renews a lease that no commit has renewed for a third
   of its time, whatever fails in between. It does not ask for the expiry: a lease that ran out but
   that nobody took is still ours.
4. **Commit.** What is written about a running trial goes in one fenced transaction each time: all its
   parameters, before it starts; an epoch's report, with attributes and, if the trial goes on, what the
   pruner writes down for others to compare with; a checkpoint's name, with the next report or alone,
   after its file is durable. A crash between file and transaction leaves a file that no row names, which
   is garbage; what followed the checkpoint before it is run, and reported, again. The pruner is asked
   within the report's transaction: a crash before the commit leaves neither, one after it both, and a
   verdict against the trial, which writes nothing down before the end, is asked for again.
5. **End.** State, value, attributes and the giving up of the lease are one fenced transaction. A crash
   before it repeats nothing but what follows the last checkpoint; one after it finds the trial finished.
6. **Release.** A worker told to stop saves, sets its trial back to WAITING and gives up the lease. The
   trial keeps its number, parameters and reported epochs, and is the next to be claimed. One that is to
   pause at a rung is released with a mark, by which only its promotion, itself a claim, takes it up.

While the database is away, commit, end and release wait for it (``Store.outlast``); training goes on, since
a thread of its own commits (``recorder``). Done twice, since an acknowledgement got lost, they do no harm:
the same values are written again under the same token, and an end that is there already is ours if the
token is. A worker that sleeps within a transaction keeps its locks. Postgres ends its session after some
seconds, and until then claims pass its trial by; on SQLite everybody waits for it.

A worker whose attempts die before they make a checkpoint would do so for ever: past a cap the trial FAILs.
An attempt that was released has not died.

The same trial goes on under its own number; nothing is ever cloned. A trial that RUNS without a lease
belongs to another tool and is left alone. Where an owner's process ran on this very machine and is gone,
its lease is over at once: there is nothing to wait for.
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpo.store import budgets, lease_table, plan, rows
from hpo.store.budgets import Limits
from hpo.store.process import Owner
from hpo.store.process import current_owner as current_owner
from hpo.store.rows import Parameters, dialect_of
from hpo.store.storage import STOPPING_WAIT_SECONDS, Storage

log = logging.getLogger("hpo")


class LeaseLost(Exception):
    """The trial is another's by now, or gone; nothing was written."""


class LastRenewal:
    """When a lease was last renewed, by its owner's monotonic clock: as the transaction began."""

    def __init__(self) -> None:
        self.at = time.monotonic()


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A trial that is ours, and the only way to write about it."""

    storage: Storage
    study_id: int
    trial_id: int
    number: int
    token: int
    owner: Owner
    lease_seconds: float
    checkpoint: str | None  # the last committed one's name; where the trial goes on
    limits: Limits = field(default_factory=dict)  # the study's budgets
    last_renewal: LastRenewal = field(default_factory=LastRenewal)

    def fence(
        self, session: Session, *, reported_epoch: int | None = None, checkpoint: str | None = None
    ) -> str | None:
        """Renew the lease inside the caller's transaction, or raise LeaseLost and let it roll back.

        An epoch reported, and a checkpoint's name, are noted with it. Until the transaction ends nobody
        claims the trial, and no other tool changes its state. Gives the order that its study is under.
        """
        values = {"seconds": self.lease_seconds, "reported": reported_epoch, "named": checkpoint}
        if not self._update_lease_if_ours(session, lease_table.renew_statement, values):
            raise LeaseLost(f"trial {self.number} is another's by now")
        return self._lock_running_trial(session)

    def _update_lease_if_ours(
        self, session: Session, change: Callable[[str], Any], values: dict[str, Any]
    ) -> bool:
        """Change the lease if it is ours, and tell whether it is."""
        ours: dict[str, Any] = {"trial": self.trial_id, "held": self.token}
        ours |= {"by": self.owner.name, "within": self.owner.process}
        changed: Any = session.execute(change(dialect_of(session)), ours | values)
        return bool(changed.rowcount == 1)

    def _lock_running_trial(self, session: Session) -> str | None:
        """Lock the trial, raise LeaseLost unless it is RUNNING, and give its study's order."""
        trial = session.execute(lease_table.LOCK_TRIAL, {"trial": self.trial_id}).first()
        if trial is None or trial.state != TrialState.RUNNING:
            raise LeaseLost(f"trial {self.number} was ended, or set back, by another tool")
        order: str | None = json.loads(trial.order or "null")
        return order

    def commit(
        self,
        *,
        report: tuple[int, float | None] | None = None,
        checkpoint: str | None = None,
        user_attributes: Mapping[str, Any] | None = None,
        system_attributes: Mapping[str, Any] | None = None,
        parameters: Parameters | None = None,
        ask_pruner: Callable[[Session], Mapping[str, Any]] | None = None,
    ) -> str | None:
        """Commit an epoch's report, a durable checkpoint's name and what else there is, in one fence.

        ``report`` is the epoch, counted from 1, and its accuracy; ``attributes`` are the trial's user
        attributes, ``system`` its others; ``judge`` reads within the transaction, and gives system
        attributes to be committed too. Gives the order that the study is under, if any, or after a report
        the budget that leaves no room for another epoch. Waits for a database that is away, and may then
        ask ``judge`` again. Raises LeaseLost; StoreError if it stays away.
        """

        def write() -> str | None:
            with self.storage.transaction() as session:
                order = self.fence(session, reported_epoch=report and report[0], checkpoint=checkpoint)
                if report is not None:
                    rows.write_report(session, self.trial_id, *report)
                if parameters:
                    planned = plan.with_current_distributions(session, self.study_id, parameters)
                    rows.write_parameters(session, self.trial_id, planned)
                rows.write_attributes(session, self.trial_id, user_attributes or {})
                judged = ask_pruner(session) if ask_pruner else {}
                rows.write_attributes(
                    session, self.trial_id, {**(system_attributes or {}), **judged}, system=True
                )
                if order is None and report is not None:
                    order = budgets.blocking_reason(session, self.study_id, self.limits, has_lease=True)
                return order

        begun = time.monotonic()
        order = self.storage.retry(write)
        self.last_renewal.at = begun
        return order

    def end(
        self,
        state: TrialState,
        *,
        value: float | None = None,
        user_attributes: Mapping[str, Any] | None = None,
        system_attributes: Mapping[str, Any] | None = None,
        forget_checkpoint: bool = False,
        in_transaction: Callable[[Session], None] | None = None,
    ) -> None:
        """End the trial: state, value, user and system attributes, lease, in one fenced transaction.

        With ``forget`` no checkpoint is known of the trial any more, and its files may go; ``then`` does
        what else belongs to the end, in the same transaction.

        Waits for a database that is away. Raises LeaseLost; StoreError if it stays away.
        """
        forgotten = {"checkpoint": None} if forget_checkpoint else {}

        def write() -> None:
            with self.storage.transaction() as session:
                if self._release_lease(session, state, forget_checkpoint=forget_checkpoint):
                    rows.write_attributes(session, self.trial_id, {**(user_attributes or {}), **forgotten})
                    rows.write_attributes(session, self.trial_id, system_attributes or {}, system=True)
                    rows.write_state(session, self.trial_id, state, value)
                    if in_transaction is not None:
                        in_transaction(session)

        self.storage.retry(write)

    def _release_lease(
        self,
        session: Session,
        state: TrialState,
        *,
        forget_checkpoint: bool = False,
        unused_attempts: int = 0,
    ) -> bool:
        """Give the lease up within a transaction that sets ``state``, or raise LeaseLost.

        Tells whether there is more to do: False if we have done it before, without getting to know it.
        """
        if self._update_lease_if_ours(
            session, lease_table.release_statement, {"forget": forget_checkpoint, "unused": unused_attempts}
        ):
            self._lock_running_trial(session)
            return True
        before = session.execute(
            lease_table.STATE_AFTER_RELEASE, {"trial": self.trial_id, "held": self.token}
        ).scalar_one_or_none()
        if before != state:
            raise LeaseLost(f"trial {self.number} is another's by now")
        return False

    def release(self, *, system_attributes: Mapping[str, Any] | None = None) -> None:
        """Set the trial back to WAITING for whoever is free; quietly, if it is no longer ours.

        ``system`` are attributes to go with that, such as the rung at which it is paused. Waits a little
        for a database that is away; then it is StoreError, and the lease runs out.
        """

        def write() -> None:
            with self.storage.transaction() as session:
                if self._release_lease(session, TrialState.WAITING, unused_attempts=1):
                    rows.write_attributes(session, self.trial_id, system_attributes or {}, system=True)
                    rows.write_state(session, self.trial_id, TrialState.WAITING)

        with contextlib.suppress(LeaseLost):
            self.storage.retry(write, STOPPING_WAIT_SECONDS)


@contextlib.contextmanager
def keep_lease(claim: Claim) -> Iterator[None]:
    """Fence Optuna's own writes to the claimed trial, and renew the lease in a thread meanwhile."""
    done = threading.Event()
    thread = threading.Thread(target=_renew_until_done, args=(claim, done), name="lease", daemon=True)
    claim.storage.fences[claim.trial_id] = claim.fence
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        del claim.storage.fences[claim.trial_id]


def _renew_until_done(claim: Claim, done: threading.Event) -> None:
    """Renew a lease until it is lost or ``done``, in a thread: its session is a connection of its own."""
    failing = False
    every = claim.lease_seconds / 3
    due = every
    while not done.wait(due):
        begun = time.monotonic()
        due = every - (begun - claim.last_renewal.at)  # a commit has renewed it meanwhile
        if due > 0:
            continue
        due = every
        try:
            with claim.storage.transaction() as session:
                claim.fence(session)
            claim.last_renewal.at = begun
            failing = False
        except LeaseLost:
            return
        except Exception as error:
            # Whatever it was, the next round tries again: while nobody took the trial, it stays ours.
            if not failing:
                log.warning("lease of trial %d not renewed, trying again: %r", claim.number, error)
            failing = True
