"""The lease: whose a trial is.

A trial is run by one worker at a time, and by another if that one dies. Who may run it is a row in
``hpo_leases``: owner, token, expiry. The protocol:

1. **Claim.** One transaction picks a WAITING trial, or a RUNNING one whose lease has run out, locks it
   (Postgres: FOR UPDATE SKIP LOCKED; SQLite: BEGIN IMMEDIATE), raises its token by one, writes owner and
   expiry, and sets it RUNNING. A crash before the commit has done nothing; a crash after it leaves a
   lease that runs out.
2. **Fence.** Every write about a claimed trial first renews the lease *where the token is still ours*,
   in the same transaction. If no row matches, somebody else has the trial: nothing is written and
   ``LeaseLost`` is raised. So a worker that was stopped, or cut off, for longer than its lease can wake
   at any time and do no harm.
3. **Renew.** A thread with a connection of its own renews every third of the lease, whatever fails in
   between. It asks for the token alone: a lease that ran out but that nobody took is still ours.
4. **Commit.** An epoch's report, its checkpoint's name, its attributes and the renewal are one fenced
   transaction, made after the checkpoint's file is durable. A crash between file and transaction leaves a
   file that no row names, which is garbage, and the epoch is run again from the checkpoint before it.
5. **End.** State, value, attributes and the giving up of the lease are one fenced transaction. A crash
   before it repeats the last epoch, a crash after it finds the trial finished.
6. **Release.** A worker told to stop saves, sets its trial back to WAITING and gives up the lease. The
   trial keeps its number, parameters and reported epochs, and is the next to be claimed.

Time is the database's alone. The same trial goes on under its own number; nothing is ever cloned. A trial
that RUNS without a lease belongs to another tool and is left alone. Where an owner's process ran on this
very machine and is gone, its lease is over at once: there is nothing to wait for.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from hpo import store as stores
from hpo.store import Store, leases


class LeaseLost(Exception):
    """The trial is another worker's by now; nothing was written."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A worker, as the lease table knows it."""

    host: str
    pid: int
    process: str  # tells this process from every other on any machine, ever
    device: str

    @property
    def name(self) -> str:
        """The owner as people read it."""
        return f"{self.host}/{self.pid}"


@dataclass(frozen=True, kw_only=True)
class Held:
    """A lease as it stands in the table."""

    trial: int  # the trial's number
    owner: str
    host: str
    device: str
    attempt: int
    epoch: int
    expires_in_seconds: float


def owner(device: str) -> Owner:
    """Give this process as an owner."""
    pid = os.getpid()
    return Owner(host=socket.gethostname(), pid=pid, process=_process(pid), device=device)


def _space() -> str:
    """Name the set of processes that this one can see: this boot of this machine, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""  # not Linux: leases run out by time alone


def _process(pid: int) -> str:
    """Name a process of this machine; empty if there is none, or it cannot be told."""
    space = _space()
    try:
        # The 22nd field of stat is the start time; the 2nd, the command in brackets, may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{space}/{pid}/{fields[19]}" if space and fields[0] not in "ZX" else ""


def _now(session: Session) -> sa.ColumnElement[float]:
    if session.get_bind().dialect.name == "postgresql":
        return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)
    return (sa.func.julianday("now") - 2440587.5) * 86400.0


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A trial that is ours, and the only way to write about it."""

    store: Store
    trial_id: int
    number: int
    token: int
    seconds: float
    checkpoint: str | None  # the last committed one's name; where the trial goes on

    def fence(self, session: Session, **columns: Any) -> None:
        """Renew the lease inside the caller's transaction, or raise LeaseLost and let it roll back."""
        mine = (leases.c.trial_id == self.trial_id) & (leases.c.token == self.token)
        columns = {"expires": _now(session) + self.seconds, **columns}
        if session.execute(sa.update(leases).where(mine).values(columns)).rowcount != 1:  # type: ignore[attr-defined]  # an UPDATE gives a CursorResult
            raise LeaseLost(f"trial {self.number} is another worker's by now")

    def commit(
        self, *, checkpoint: str, report: tuple[int, float] | None, attributes: dict[str, Any]
    ) -> None:
        """Commit a durable checkpoint's name with the epoch it closes, in one fenced transaction.

        ``report`` is the epoch, counted from 1, and its accuracy; None where the checkpoint lies within
        an epoch. Raises LeaseLost.
        """
        with self.store.transaction() as session:
            columns = {"checkpoint": checkpoint, "attempts": 0}
            self.fence(session, **columns | ({"epoch": report[0]} if report else {}))
            if report is not None:
                self.store.stage_report(session, self.trial_id, *report)
            self.store.stage_attributes(session, self.trial_id, attributes)

    def end(
        self, state: TrialState, *, value: float | None = None, attributes: dict[str, Any] | None = None
    ) -> None:
        """End the trial: state, value, attributes and the lease, in one fenced transaction."""
        with self.store.transaction() as session:
            self.fence(session, owner=None, process=None, expires=0.0)
            self.store.stage_attributes(session, self.trial_id, attributes or {})
            self.store.stage_state(session, self.trial_id, state, value)

    def release(self) -> None:
        """Set the trial back to WAITING for whoever is free; quietly, if it is no longer ours."""
        with contextlib.suppress(LeaseLost):
            self.end(TrialState.WAITING)


def claim(store: Store, study_id: int, who: Owner, *, seconds: float, max_attempts: int) -> Claim | None:
    """Claim the next trial of a study: interrupted ones first, then listed settings, then by number.

    Gives None if there is nothing to claim now. A trial whose last ``max_attempts`` attempts made no
    checkpoint is ended as FAILED, with the reason, on the way.
    """
    _end_leases_of_the_dead(store, study_id)
    while True:
        with store.transaction() as session:
            found = session.execute(_claimable(session, study_id)).first()
            if found is None:
                return None
            trial_id, number = found.trial_id, found.number
            row = session.execute(
                sa.select(leases, _now(session).label("now"))
                .where(leases.c.trial_id == trial_id)
                .with_for_update()
            ).first()
            if row is not None and row.owner is not None and row.expires > row.now:
                continue  # somebody claimed it between our two statements (Postgres)
            if row is not None and row.attempts >= max_attempts:
                _give_up(store, session, trial_id, row.attempts)
                continue
            token = (row.token if row is not None else 0) + 1
            values = {
                "owner": who.name,
                "process": who.process,
                "host": who.host,
                "device": who.device,
                "token": token,
                "attempts": (row.attempts if row is not None else 0) + 1,
                "expires": _now(session) + seconds,
            }
            if row is None:
                new = {"trial_id": trial_id, "study_id": study_id, "epoch": 0, **values}
                session.execute(sa.insert(leases).values(new))
            else:
                session.execute(sa.update(leases).where(leases.c.trial_id == trial_id).values(values))
            store.stage_state(session, trial_id, TrialState.RUNNING)
            store.stage_attributes(session, trial_id, {"attempts": token})
        return Claim(
            store=store,
            trial_id=trial_id,
            number=number,
            token=token,
            seconds=seconds,
            checkpoint=row.checkpoint if row is not None else None,
        )


def _claimable(session: Session, study_id: int) -> sa.Select[tuple[int, int]]:
    trial, attribute = models.TrialModel, models.TrialSystemAttributeModel
    listed = sa.exists().where(
        attribute.trial_id == trial.trial_id, attribute.key.in_(["fixed_params", "grid_id"])
    )
    over = leases.c.owner.is_not(None) & (leases.c.expires <= _now(session))
    open_ = (trial.state == TrialState.WAITING) | ((trial.state == TrialState.RUNNING) & over)
    return (
        sa.select(trial.trial_id, trial.number)
        .outerjoin(leases, leases.c.trial_id == trial.trial_id)
        .where(trial.study_id == study_id, open_)
        .order_by(leases.c.token.is_(None), sa.not_(listed), trial.number)
        .limit(1)
        .with_for_update(of=trial, skip_locked=True)
    )


def _give_up(store: Store, session: Session, trial_id: int, attempts: int) -> None:
    message = f"{attempts} attempts in a row died without a new checkpoint"
    failure = {"class": "lost", "message": message}
    store.stage_attributes(session, trial_id, {"failure": failure})
    store.stage_state(session, trial_id, TrialState.FAIL)
    ended = sa.update(leases).where(leases.c.trial_id == trial_id)
    session.execute(ended.values(owner=None, process=None, expires=0.0))


def _end_leases_of_the_dead(store: Store, study_id: int) -> None:
    """End the leases whose owner ran on this machine and is gone."""
    space = _space()
    if not space:
        return
    with store.transaction() as session:
        held = session.execute(
            sa.select(leases.c.trial_id, leases.c.token, leases.c.process).where(
                leases.c.study_id == study_id, leases.c.process.like(f"{space}/%")
            )
        ).all()
        for trial_id, token, process in held:
            if process != _process(int(process.split("/")[-2])):
                mine = (leases.c.trial_id == trial_id) & (leases.c.token == token)
                session.execute(sa.update(leases).where(mine).values(expires=0.0))


def held(store: Store, study_id: int) -> list[Held]:
    """Give the leases of a study's RUNNING trials, by trial."""
    trial = models.TrialModel
    with store.transaction() as session:
        rows = session.execute(
            sa.select(trial.number, leases, _now(session).label("now"))
            .join(leases, leases.c.trial_id == trial.trial_id)
            .where(
                trial.study_id == study_id,
                trial.state == TrialState.RUNNING,
                leases.c.owner.is_not(None),
            )
            .order_by(trial.number)
        ).all()
    return [
        Held(
            trial=row.number,
            owner=row.owner,
            host=row.host,
            device=row.device,
            attempt=row.token,
            epoch=row.epoch,
            expires_in_seconds=round(float(row.expires) - float(row.now), 3),
        )
        for row in rows
    ]


def is_open(store: Store, study_id: int) -> bool:
    """Tell whether a study still has trials that wait, or that a worker has or had a lease on."""
    trial = models.TrialModel
    with store.transaction() as session:
        left = (
            sa.select(sa.func.count())
            .select_from(trial)
            .outerjoin(leases, leases.c.trial_id == trial.trial_id)
            .where(
                trial.study_id == study_id,
                (trial.state == TrialState.WAITING)
                | ((trial.state == TrialState.RUNNING) & leases.c.owner.is_not(None)),
            )
        )
        return bool(session.execute(left).scalar_one())


@contextlib.contextmanager
def kept(claim: Claim) -> Iterator[None]:
    """Fence Optuna's own writes to the claimed trial, and renew the lease in a thread meanwhile."""
    done = threading.Event()
    thread = threading.Thread(target=_renew, args=(claim, done), name="lease", daemon=True)
    claim.store.fences[claim.trial_id] = claim.fence
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        del claim.store.fences[claim.trial_id]


def _renew(claim: Claim, done: threading.Event) -> None:
    while not done.wait(claim.seconds / 3):
        # Sessions are per thread, so this is a connection of its own. Whatever went wrong, the next round
        # tries again: while nobody took the trial, it stays ours.
        try:
            with claim.store.transaction() as session:
                claim.fence(session)
        except LeaseLost:
            return
        except Exception:
            stores.log.warning("lease of trial %d not renewed; trying again", claim.number, exc_info=True)
