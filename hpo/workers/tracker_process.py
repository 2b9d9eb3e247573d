"""The tracker process: sends what one worker's trials have measured to an experiment tracker.

``python -m hpo.workers.tracker_process TRACKER`` is a process of its own beside each worker. So nothing
that the tracker's package does can delay training: loading it, threads, waiting for a server that does
not answer.

A thread reads records from standard input, always, and collects what is not sent yet (``Outbox``).
Meanwhile the main thread sends. What could not be sent is put back, and sent with what is new when the
tracker answers again. A record is complete in itself at the end of an attempt, so a lost one is made up
for.

When standard input ends, because the worker is done or was killed, the process sends the rest. It ends
when all is sent, or once the tracker has taken nothing for ``DRAIN_SECONDS``.
Standard output has a line for each change that the user should know of; whatever the tracker's
package prints goes to standard error, which the worker discards.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from typing import TextIO

from hpo.workers.trackers import TrackedTrial, Tracker, describe_error

INTERVAL_SECONDS = 1.0  # between two rounds of sending, so that short epochs go together
MAX_PAUSE_SECONDS = 60.0  # before the next try, if the tracker does not answer
LOAD_SECONDS = 120.0  # that the tracker's package may take to load
DRAIN_SECONDS = 30.0  # after the worker's last record, in which the tracker takes nothing
LAST_TRIES = 3  # after the worker's last record, if the tracker does not answer
MAX_WAITING = 1000  # trials; of more, the oldest are dropped


class Outbox:
    """What is to be sent, by trial, in the order in which it has waited."""

    def __init__(self) -> None:
        self.closing = threading.Event()  # no record follows
        self.dropped = 0  # trials of which something was never sent
        self._progress_at = time.monotonic() + LOAD_SECONDS - DRAIN_SECONDS
        self._waiting: dict[str, TrackedTrial] = {}
        self._lock = threading.Lock()

    def put(self, trial: TrackedTrial) -> None:
        """Add what is new about a trial."""
        with self._lock:
            earlier = self._waiting.get(trial.run)
            self._waiting[trial.run] = trial if earlier is None else earlier.updated(trial)
            if len(self._waiting) > MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]
                self.dropped += 1

    def take(self) -> TrackedTrial | None:
        """Return what has waited for longest, which then waits no more; None if nothing waits."""
        with self._lock:
            return self._waiting.pop(next(iter(self._waiting))) if self._waiting else None

    def put_back(self, trial: TrackedTrial) -> None:
        """Add what could not be sent, behind all others."""
        with self._lock:
            later = self._waiting.pop(trial.run, None)
            self._waiting[trial.run] = trial if later is None else trial.updated(later)

    def note_progress(self) -> None:
        """Note that the tracker is loaded, or has taken something."""
        self._progress_at = time.monotonic()

    def wait_for_standstill(self) -> None:
        """Wait until no record follows, and nothing was sent for ``DRAIN_SECONDS``."""
        self.closing.wait()
        closed_at = time.monotonic()
        while (left := max(closed_at, self._progress_at) + DRAIN_SECONDS - time.monotonic()) > 0:
            time.sleep(left)

    def __len__(self) -> int:
        """Return of how many trials something waits."""
        with self._lock:
            return len(self._waiting)


def send_all(outbox: Outbox, tracker: Tracker, name: str, messages: TextIO) -> None:
    """Send what is put into an outbox until it is closing, and empty or tried in vain.

    Args:
        outbox: What to send.
        tracker: Where to.
        name: The name of the tracker.
        messages: Gets a line when the tracker fails for the first time, and when it answers again.
    """
    failures = last_tries = 0
    while not (outbox.closing.is_set() and len(outbox) == 0):
        error = _send_waiting(outbox, tracker)
        if error is None:
            if failures:
                print(f"{name} answers again", file=messages, flush=True)
            failures = 0
            outbox.closing.wait(INTERVAL_SECONDS)
            continue
        if not failures:
            text = f"{name} takes nothing at the moment ({describe_error(error)})"
            print(f"{text}; the study goes on, and what it lacks is sent later", file=messages, flush=True)
        failures += 1
        if outbox.closing.is_set():
            last_tries += 1
            if last_tries == LAST_TRIES:
                return
            time.sleep(INTERVAL_SECONDS)
        outbox.closing.wait(min(2.0**failures, MAX_PAUSE_SECONDS))


def _send_waiting(outbox: Outbox, tracker: Tracker) -> Exception | None:
    """Send what waits, and return the error of what could not be sent; the rest then waits on."""
    while (trial := outbox.take()) is not None:
        try:
            tracker.send(trial)
            outbox.note_progress()
        except Exception as error:
            outbox.put_back(trial)
            return error
    return None


def read_records(lines: Iterable[str], outbox: Outbox) -> None:
    """Put the records of all lines into an outbox, which is closing at their end."""
    for line in lines:
        if line.endswith("\n"):  # else the worker was killed within it
            outbox.put(TrackedTrial.from_line(line))
    outbox.closing.set()


def load_tracker(name: str) -> Tracker:
    """Return a tracker by its name in ``search.track``; its package is imported now."""
    if name == "mlflow":
        from hpo.workers.mlflow_tracker import MlflowTracker

        return MlflowTracker()
    from hpo.workers.wandb_tracker import WandbTracker

    return WandbTracker()


def main() -> None:
    """Run the process; its argument is the name of the tracker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the worker, which then ends our input
    name, outbox = sys.argv[1], Outbox()
    messages = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    threading.Thread(target=read_records, args=(sys.stdin, outbox), daemon=True).start()
    threading.Thread(target=_end_in_time, args=(outbox, name, messages), daemon=True).start()
    try:
        tracker = load_tracker(name)
        outbox.note_progress()
        send_all(outbox, tracker, name, messages)
    except Exception as error:
        print(f"{name} cannot be used: {describe_error(error)}", file=messages, flush=True)
    _report_and_exit(outbox, name, messages)


def _end_in_time(outbox: Outbox, name: str, messages: TextIO) -> None:
    """End the process once nothing goes on, whatever the main thread waits for."""
    outbox.wait_for_standstill()
    _report_and_exit(outbox, name, messages)


def _report_and_exit(outbox: Outbox, name: str, messages: TextIO) -> None:
    """End the process at once: what packages do at a normal exit may wait, or end runs that go on."""
    if missing := len(outbox) + outbox.dropped:
        trials = "1 trial" if missing == 1 else f"{missing} trials"
        print(f"{name} lacks something of {trials}; the store has it", file=messages, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
