"""What is wrong with a study, to be said before its counts: ``hpo status`` and whoever probes it.

A problem needs a person if the study cannot go on, or not well, before somebody does something. What mends
itself, and what did not keep a study from completing, is a problem that needs nobody now.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from hpo.analysis import disk_left
from hpo.analysis.formatting import format_seconds
from hpo.artifacts.folders import Artifacts
from hpo.errors import format_bytes
from hpo.store.lease_info import LeaseInfo
from hpo.store.status import Snapshot, Status
from hpo.store.waits import counted

STALL_EPOCHS = 5  # a report is late after so many times the longest epoch of the study,
STALL_SECONDS = 600.0  # but never before so long, in which a worker may load data;
FIRST_REPORT_SECONDS = 7200.0  # where no epoch was ever reported, after so long
IDLE_SECONDS = 60.0  # without a worker, as before a restart or a first start, before that is a problem
LONG_LEASE_SECONDS = 3600.0
CLOCK_SECONDS = 10.0  # by which clocks may differ


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is wrong with a study.

    Attributes:
        kind: ``failed``, ``no_workers``, ``stalled``, ``silent``, ``clock`` or ``disk``.
        text: What it is, as a clause.
        advice: What to do, or what happens by itself.
        needs_person: Whether the study cannot go on well before somebody does something.
    """

    kind: str
    text: str
    advice: str
    needs_person: bool = False

    def __str__(self) -> str:
        return f"{self.text}; {self.advice}"


def find_problems(read: Snapshot, artifacts: Artifacts | None = None) -> tuple[Problem, ...]:
    """Return what is wrong with a study.

    Args:
        read: The study with its trials.
        artifacts: Where its files are; only those in a local folder tell about the disk. None: unknown.
    """
    now = read.status
    files = None if artifacts is None or read.folder is None else artifacts.path(read.folder)
    found = list(_failures(now, files))
    if now.state == "complete":
        return tuple(found)
    found += _missing_workers(now)
    late_after = _late_after(read.trials)
    for lease in now.holders:
        found += _lease_problems(lease, late_after)
    found += _clock_problems(now)
    if artifacts is not None and artifacts.is_local:
        found += _disk_problems(read, artifacts)
    return tuple(found)


def _failures(now: Status, files: str | None) -> Iterator[Problem]:
    for each in now.early_ends:
        if each.state != "failed":
            continue
        trace = f"'hpo trials {now.study}' says why each did"
        if each.has_traceback and files is not None:
            trace = f"traceback: {each.traceback_path(files)}"
        yield Problem(
            kind="failed",
            text=str(each),
            advice=f"once the cause is gone: 'hpo retry {now.study} --failed'; {trace}",
            needs_person=now.stopped_after_failures
            or (now.state == "complete" and not now.trials["complete"]),
        )


def _missing_workers(now: Status) -> Iterator[Problem]:
    idle, changed = now.vitals.idle_seconds, now.vitals.changed_seconds
    is_brief = any(each is not None and each < IDLE_SECONDS for each in (idle, changed))
    has_ended = now.used_up_budget or now.stopped_after_failures
    if now.state != "idle" or now.waiting_workers or has_ended or is_brief:
        return
    count = now.trials["waiting"] + now.trials["running"]
    how_long = "" if idle is None else f" for {format_seconds(idle)}"
    yield Problem(
        kind="no_workers",
        text=f"{counted(count, 'trial')} wait{'s' * (count == 1)}, and no worker has run{how_long}",
        advice=now.how_to_start,
        needs_person=True,
    )


def _late_after(trials: Sequence[FrozenTrial]) -> float:
    """Return after how many seconds without a report a trial makes no progress."""
    recorded = (trial.user_attrs.get("epoch_seconds") for trial in trials)
    longest = max((max(seconds) for seconds in recorded if seconds), default=None)
    return FIRST_REPORT_SECONDS if longest is None else max(STALL_EPOCHS * longest, STALL_SECONDS)


def _lease_problems(lease: LeaseInfo, late_after: float) -> Iterator[Problem]:
    where = f"trial {lease.trial}, on {lease.host} ({lease.device})"
    left, silent = lease.expires_in_seconds, format_seconds(lease.silent_seconds)
    if not lease.is_alive:
        yield Problem(
            kind="silent",
            text=f"{where}: worker {lease.owner} is gone, or has been silent for {silent}",
            advice="the next worker that is free takes the trial over",
        )
    elif lease.silent_seconds > lease.lease_seconds / 2:
        yield Problem(
            kind="silent",
            text=f"{where}: worker {lease.owner} has been silent for {silent}",
            advice=f"another one may take the trial over in {_format_long(left)}",
            needs_person=left > STALL_SECONDS,
        )
    elif lease.report_seconds is not None and lease.report_seconds > late_after:
        yield Problem(
            kind="stalled",
            text=f"{where}: no epoch was reported for {format_seconds(lease.report_seconds)}",
            advice=f"see whether worker {lease.owner} hangs; once it is killed, another one continues",
            needs_person=True,
        )
    if lease.ahead_seconds > CLOCK_SECONDS:
        yield Problem(
            kind="clock",
            text=f"{where}: its lease was renewed {_format_long(lease.ahead_seconds)} in the future",
            advice="the database's clock was set back: check it; until then a dead worker goes unnoticed",
        )
    elif lease.is_alive and lease.lease_seconds > LONG_LEASE_SECONDS:
        yield Problem(
            kind="clock",
            text=f"{where}: its lease lasts {_format_long(lease.lease_seconds)}",
            advice="if its worker dies on another machine, nobody continues before; see --lease-seconds",
        )


def _format_long(seconds: float) -> str:
    return format_seconds(seconds) if math.isfinite(seconds) and seconds < 1e9 else "years"


def _clock_problems(now: Status) -> Iterator[Problem]:
    for host, offset in sorted(now.vitals.clock_offsets.items()):
        if abs(offset) > CLOCK_SECONDS:
            side = "ahead of" if offset > 0 else "behind"
            yield Problem(
                kind="clock",
                text=f"the clock of {host} is {_format_long(abs(offset))} {side} the database's",
                advice="the times of its trials and of its log lines are wrong: synchronize it (NTP)",
            )


def _disk_problems(read: Snapshot, artifacts: Artifacts) -> Iterator[Problem]:
    try:
        need = disk_left.space_to_come(read.definition, read.trials, artifacts)
        free = disk_left.free_bytes(artifacts)
    except OSError:  # the disk is away, which the workers say
        return
    if need is not None and free < need.in_all:
        left, needed = format_bytes(free), format_bytes(need.in_all)
        yield Problem(
            kind="disk",
            text=f"{artifacts.root} has {left} left, and the study may take {needed} more",
            advice="free some, or keep the weights of fewer trials: search.keep_weights",
            needs_person=free < need.soon,
        )
