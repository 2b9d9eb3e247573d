"""The events of one worker in this process: a bar on a terminal, the study in a notebook, else lines."""

import logging
from collections.abc import Iterable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hpo import log_records, logs
from hpo.api.live_view import event_line, open_stderr_console
from hpo.api.progress import Display, notebook_view, tell_end
from hpo.api.stop_signal import StopSignal
from hpo.store.storage import Storage
from hpo.training.events import EpochReported, TrialEnded, TrialEvent, TrialStarted


def follow_worker(
    storage: Storage, name: str, events: Iterable[TrialEvent], stop: StopSignal, display: Display
) -> None:
    """Show the events of a worker in this process, then print how to continue an incomplete study.

    Args:
        storage: The store.
        name: The study.
        events: The events, as the worker yields them while it runs. What it raises passes through.
        stop: Is set when the user asks to stop.
        display: How they are shown.
    """
    if display.shows_progress and open_stderr_console().is_jupyter:
        with notebook_view(storage, name) as tell:
            for event in events:
                tell(event_record(event))
    elif display.shows_progress:
        follow_events(events)
    for event in events:  # none is left where they were shown
        if isinstance(event, TrialEnded) and event.state == "failed":
            logs.show([event_record(event)])
    tell_end(storage, name, stop, display)


def follow_events(stream: Iterable[TrialEvent]) -> None:
    """Show the events of one worker: a bar of epochs on a terminal, a line per event elsewhere.

    Args:
        stream: The events, as the worker yields them while it runs. What it raises passes through.
    """
    console = open_stderr_console()
    if not console.is_terminal:
        for event in stream:
            logs.show([event_record(event)])
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, console=console) as progress,
        logs.shown_by(lambda text: console.print(text, soft_wrap=True)),
    ):
        bar = progress.add_task("waiting for a trial", total=None)
        for event in stream:
            if isinstance(event, EpochReported):
                progress.update(bar, completed=event.epoch.number)
                continue
            logs.show([event_record(event)])
            progress.remove_task(bar)
            if isinstance(event, TrialStarted):
                text = f"trial {event.trial}, epoch"
                bar = progress.add_task(text, total=event.epochs, completed=event.epochs_done)
            else:
                bar = progress.add_task("waiting for a trial", total=None)


def event_record(event: TrialEvent) -> logging.LogRecord:
    """Return the record of an event; that of a trial that failed is a warning."""
    failed = isinstance(event, TrialEnded) and event.state == "failed"
    level = logging.WARNING if failed else logging.INFO
    return log_records.new_record(event_line(event), level, log_records.PROGRESS)
