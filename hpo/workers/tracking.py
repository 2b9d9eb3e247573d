"""Tracking: what a worker's trials measure also goes to an experiment tracker, as ``search.track`` says.

A worker follows the events of its own trials and hands records to a process beside it
(``tracker_process``). It never waits for that process, except at its own end. If the process dies, a line
says so, and nothing more is tracked. The study goes on in any case, and no result depends on the tracker.

An epoch is handed over when it has ended. The end of an attempt follows its commit, with everything that
the store and the trial's folder say by then.
"""

import contextlib
import csv
import io
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from hpo.artifacts import names
from hpo.errors import HpoError
from hpo.store.lease import Claim
from hpo.training.events import EpochReported, TrialEnded, TrialEvent, TrialStarted
from hpo.workers import metrics
from hpo.workers.context import WorkerContext
from hpo.workers.trackers import NO_TRACKER, RUNNING, TrackedTrial, hide_credentials

FILES = ("settings.json", metrics.CSV_NAME, "traceback.txt")  # of a trial, that the tracker gets
# User attributes that are nothing for a tracker: measurements of epochs, and the name of a passing file.
LEFT_OUT = ("epoch_seconds", "metrics", "checkpoint")
MAX_RECORDS = 1000  # that wait for the process to read them
POLL_SECONDS = 0.2  # between two checks whether the process has ended
STOP_SECONDS = 5.0  # that a worker that is asked to stop waits for the process

log = logging.getLogger("hpo")


class TrackerProcess:
    """The process that sends what a worker's trials measure, as a context manager.

    Args:
        tracker: The name of the tracker.
        stop: Once set, leaving waits for ``STOP_SECONDS`` at most; until then, for as long as the process
            has something to send.
    """

    def __init__(self, tracker: str, stop: threading.Event) -> None:
        self.tracker = tracker
        self._stop = stop
        self._closing = False
        self._records: queue.Queue[TrackedTrial | None] = queue.Queue(MAX_RECORDS)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hpo.workers.tracker_process", tracker],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith("HPO_")},
            text=True,
        )
        self._writer = threading.Thread(target=self._write, args=(self._process.stdin,), daemon=True)
        self._reader = threading.Thread(
            target=self._log_messages, args=(self._process.stdout,), daemon=True
        )

    def __enter__(self) -> "TrackerProcess":
        self._writer.start()
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        with contextlib.suppress(queue.Full, subprocess.TimeoutExpired):  # it no longer reads, or sends
            self._records.put(None, timeout=STOP_SECONDS)
            while self._process.poll() is None and not self._stop.wait(POLL_SECONDS):
                pass  # it ends by itself
            self._process.wait(STOP_SECONDS)
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._writer.join()

    def put(self, trial: TrackedTrial) -> None:
        """Hand over what is new about a trial, without waiting."""
        with contextlib.suppress(queue.Full):  # the end of the attempt makes up for it
            self._records.put_nowait(trial)

    def _write(self, stream: IO[str]) -> None:
        with contextlib.suppress(OSError), stream:  # the process has ended
            while (trial := self._records.get()) is not None:
                stream.write(trial.to_line())
                stream.flush()

    def _log_messages(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                log.warning("%s", line.rstrip())
        if not self._closing:
            log.warning("the process that sends to %s has ended; nothing more is tracked", self.tracker)


@contextlib.contextmanager
def open_tracker(context: WorkerContext) -> Iterator[TrackerProcess | None]:
    """Start the tracker process of a worker; None if its study is not tracked, or no process starts."""
    tracker = context.definition.search.track
    if tracker == NO_TRACKER:
        yield None
        return
    try:
        process = TrackerProcess(tracker, context.stop)
    except OSError as error:
        log.warning("%s gets nothing, since its process does not start: %s", tracker, error.strerror)
        yield None
        return
    with process:
        yield process


def track_trial(
    events: Iterable[TrialEvent], claim: Claim, context: WorkerContext, tracker: TrackerProcess | None
) -> Iterator[TrialEvent]:
    """Pass the events of a trial on, and hand the tracker what they say.

    Args:
        events: What ``run_trial`` yields. What it raises passes through.
        claim: The claim on the trial.
        context: What the worker provides.
        tracker: The tracker process; None: the study is not tracked.
    """
    if tracker is None:
        yield from events
        return
    follower = _TrialFollower(claim, context)
    try:
        for event in events:
            if (record := follower.record(event)) is not None:
                tracker.put(record)
            yield event
    except HpoError:  # the trial was released
        tracker.put(follower.new("released"))
        raise


class _TrialFollower:
    """Makes records of the events of one attempt at a trial."""

    def __init__(self, claim: Claim, context: WorkerContext) -> None:
        self._claim = claim
        self._context = context
        self._folder = names.trial_folder(context.study_folder, claim.number)

    def new(self, state: str, **fields: Any) -> TrackedTrial:
        return TrackedTrial(
            run=self._folder.replace("/", "-"),
            study=self._context.definition.name,
            number=self._claim.number,
            state=state,
            **fields,
        )

    def record(self, event: TrialEvent) -> TrackedTrial | None:
        if isinstance(event, TrialStarted):
            files = self._read_files() if event.epochs_done else {}
            place = {"artifacts": hide_credentials(self._context.artifacts.path(self._folder))}
            attributes = {"attempts": event.attempt, **place}
            epochs = _read_epochs(files)
            return self.new(RUNNING, params=dict(event.params), attributes=attributes, epochs=epochs)
        if isinstance(event, EpochReported):
            (row,) = metrics.curve_rows([event.epoch], self._context.definition.metric)
            return self.new(RUNNING, epochs={event.epoch.number: _numbers(row)})
        if isinstance(event, TrialEnded) and event.state != "removed":
            return self._end_record(event.state)
        return None

    def _end_record(self, state: str) -> TrackedTrial:
        """Return all that the store and the trial's folder say at the end of the attempt."""
        files = self._read_files()
        fields: dict[str, Any] = {"files": files, "epochs": _read_epochs(files)}
        with contextlib.suppress(HpoError, KeyError):  # the store is away, or the study deleted
            trial = self._claim.storage.get_trial(self._claim.trial_id)
            fields["params"] = trial.params
            fields["attributes"] = dict(
                _flatten({k: v for k, v in trial.user_attrs.items() if k not in LEFT_OUT})
            )
            objectives = self._context.definition.objectives
            keys = ["value"] if len(objectives) == 1 else [f"value.{each.name}" for each in objectives]
            fields["values"] = dict(zip(keys, trial.values or (), strict=False))
        return self.new(state, **fields)

    def _read_files(self) -> dict[str, str]:
        found = {}
        for name in FILES:
            with contextlib.suppress(HpoError, OSError):
                content = self._context.artifacts.read_or_none(f"{self._folder}/{name}")
                if content is not None:
                    found[name] = content.decode(errors="replace")
        return found


def _read_epochs(files: Mapping[str, str]) -> dict[int, dict[str, float]]:
    """Return the epochs of a trial's ``epochs.csv``; what is no number in it is left out."""
    rows = csv.DictReader(io.StringIO(files.get(metrics.CSV_NAME, "")))
    return {int(row["epoch"]): _numbers(row) for row in rows if (row.get("epoch") or "").isdecimal()}


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row of ``epochs.csv``, without the epoch itself."""
    found = {}
    for name, value in row.items():
        if name and name != "epoch" and value not in (None, ""):
            with contextlib.suppress(ValueError, TypeError):
                found[name] = float(value)
    return found


def _flatten(attributes: Mapping[str, Any]) -> Iterator[tuple[str, str | float]]:
    """Yield a trial's user attributes; what an object contains is named like ``hardware.device``."""
    for name, value in attributes.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", each) for key, each in _flatten(value))
        elif value is not None:
            yield name, value if isinstance(value, int | float) else str(value)
