"""What a study does while it runs, as text: events as lines, the live view, workers and what waits."""

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpo.analysis.formatting import describe_test_split, format_params, format_seconds
from hpo.analysis.health import Problem
from hpo.analysis.records import TrialRecord
from hpo.analysis.results import SettingResult, describe_value, name_place
from hpo.store.status import Status
from hpo.training.events import DataLoaded, EpochReported, TrialEnded, TrialEvent, TrialStarted

COLORS = {"complete": "green", "running": "cyan", "pruned": "yellow", "failed": "red", "waiting": "dim"}


def open_stderr_console() -> Console:
    """Return a console on standard error, which is a terminal only if that is one.

    Variables such as FORCE_COLOR, which a notebook's kernel sets for all its processes, do not make it one:
    a live view would fill a pipe or a log with its frames.
    """
    is_terminal = sys.stderr.isatty()
    return Console(stderr=True, markup=False, highlight=False, force_terminal=is_terminal)


def event_line(event: TrialEvent) -> str:
    """Return an event as one line of plain text; of an epoch, only what it measured.

    Args:
        event: What a study's images are, the start of a trial, an epoch's report, or the end of a trial.
    """
    if isinstance(event, DataLoaded):
        return f"data: {event.summary}"
    if isinstance(event, TrialStarted):
        going = f", continues after epoch {event.epochs_done}" if event.epochs_done else ""
        again = f", attempt {event.attempt}" if event.attempt > 1 else ""
        params = format_params(event.params)
        epochs = f"{event.epochs} epoch{'s' * (event.epochs != 1)}"
        return f"trial {event.trial} starts: {params}, {epochs}{again}{going}"
    if isinstance(event, EpochReported):
        e = event.epoch
        parts = [f"{event.metric} {e.value:.4f}"] if e.value is not None else []
        split = "test" if event.metric.startswith("test") else "validation"
        loss = f"{split} loss"
        parts += [f"{loss} {e.loss:.4f}"] if e.loss is not None and event.metric != loss else []
        parts += [f"training loss {e.train_loss:.4f}"] if e.train_loss is not None else []
        parts += [f"lr {e.lr:.4g}"] if e.lr is not None else []
        speed = f" ({e.images_per_second:.0f} images/s)" if e.images_per_second is not None else ""
        text = ", ".join([*parts, f"{e.seconds:.1f} s"])
        return f"trial {event.trial} epoch {e.number}/{event.epochs}: {text}{speed}"
    assert isinstance(event, TrialEnded)
    value = "" if event.value is None else f", {event.metric} {event.value:.4f}"
    return f"trial {event.trial} {event.state}{value}{f' ({event.reason})' if event.reason else ''}"


def live_view(
    status: Status,
    found: Sequence[TrialRecord],
    best: SettingResult | None,
    rows: int,
    *,
    starting: int = 0,
    stopping: bool = False,
) -> RenderableType:
    """Return the live view: a headline, the running trials with their epochs, and the last that ended.

    Args:
        status: The status of the study.
        found: All trials of the study.
        best: The best setting so far; None if no trial is complete.
        rows: Number of lines that the view may take. It always shows at least one trial.
        starting: How many workers are starting, which the headline then says.
        stopping: Whether the user has asked to stop, which the headline then says.
    """
    parts = [status.state] if status.state in ("paused", "stopped") else []
    parts += [f"{status.ended} of {status.budget} trials"]
    parts += [f"{status.trials[s]} {s}" for s in ("pruned", "failed") if status.trials[s]]
    if best is not None:
        split = describe_test_split(status.selection)
        parts.append(f"{name_place(best)} {describe_value(best)}{split} (trial {best.trial.number})")
    if status.seconds_left:
        parts.append(f"about {format_seconds(status.seconds_left)} left")
    parts += [describe_starting(starting)] if starting else []
    if stopping:
        parts.append("stopping: workers save and exit; press Ctrl-C again to kill them")
    running = [each for each in found if each.state == "running"]
    done = [each for each in found if each.state in ("complete", "pruned", "failed")]
    done.sort(key=lambda each: each.ended or each.started or datetime.min, reverse=True)
    table = Table(box=None, padding=(0, 1), expand=True)
    for name, width in (("trial", 5), ("state", 8), ("epochs", 14), ("best", 6)):
        table.add_column(name, width=width, no_wrap=True)
    table.add_column("settings", ratio=1, overflow="fold")  # in full, on a narrow terminal on several lines
    for each in [*running, *done][: max(rows - 3, 1)]:
        table.add_row(*_live_row(each))
    return Group(Text(f"{status.study}: {', '.join(parts)}", style="bold"), table)


def describe_starting(workers: int) -> str:
    """Return how many workers are starting, as a phrase; "" if none is."""
    return f"{workers} worker{'s' * (workers > 1)} starting" if workers else ""


def _live_row(each: TrialRecord) -> tuple[RenderableType, ...]:
    total = each.planned_epochs or each.epochs
    bar = Table.grid(padding=(0, 1))
    bar.add_row(Bar(size=max(total, 1), begin=0, end=each.epochs, width=7), f"{each.epochs}/{total}")
    stopped = f"; {each.end_reason}" if each.state == "complete" and each.end_reason else ""
    return (
        str(each.number),
        Text(each.state, style=COLORS[each.state]),
        bar,
        "" if each.best_value is None else f"{each.best_value:.4f}",
        f"{format_params(each.params)}{stopped}",
    )


def status_headline(found: Status) -> str:
    """Return the state of a study, its trial counts other than 0 and its budget as one line."""
    counts = ", ".join(f"{count} {state}" for state, count in found.trials.items() if count)
    return f"study {found.study} is {found.state}: {counts} (budget {found.budget})"


def problem_lines(problems: Iterable[Problem]) -> list[RenderableType]:
    """Return a line for each thing that is wrong with a study."""
    return [Text.assemble(("problem: ", "bold red"), str(each)) for each in problems]


def workers_view(found: Status, problems: Iterable[Problem]) -> list[RenderableType]:
    """Return the table of workers and a line for each thing that waits; empty if there is neither.

    Args:
        found: The status of the study.
        problems: What is shown as wrong: trials that wait for what its advice says have no line.
    """
    said = tuple(each.advice for each in problems)
    waits = [Text(f"waits: {wait}", style="dim") for wait in found.waits if not wait.endswith(said)]
    has_workers = found.holders or found.waiting_workers
    return [*([_workers_table(found)] if has_workers else []), *waits]


def _workers_table(found: Status) -> Table:
    """Return the workers, with the last heartbeat and, of those that hold trials, the rest of the lease."""
    names = ("worker", "device", "trial", "attempt", "epoch", "heartbeat", "lease")
    table = Table(*names, box=None, padding=(0, 1))
    for worker in found.holders:
        seconds_left = worker.expires_in_seconds
        table.add_row(
            worker.owner,
            worker.device,
            str(worker.trial),
            str(worker.attempt),
            str(worker.epoch),
            f"{worker.silent_seconds:.0f} s ago",
            f"{seconds_left:.0f} s" if seconds_left > 0 else Text("expired", style="red"),
        )
    for idle in found.waiting_workers:
        table.add_row(idle.owner, idle.device, "none", "", "", f"{idle.silent_seconds:.0f} s ago", "")
    return table
