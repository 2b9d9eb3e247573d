"""Work under the eyes of whoever started it: live on a terminal, a plain line per event elsewhere."""

import contextlib
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hpo.artifacts.folders import Artifacts
from hpo.cli import console as show
from hpo.errors import StoreError, StoreUnavailable
from hpo.retry import MAX_WAIT_SECONDS
from hpo.store import status, studies
from hpo.store.status import Status
from hpo.store.storage import Storage
from hpo.training import devices
from hpo.training.events import EpochReported, TrialEvent, TrialStarted
from hpo.workers import supervisor

# Starts workers and yields while they run; gets a function that takes what they say, line by line.
Supervise = Callable[[Callable[[str], None]], Iterator[None]]
DUPLICATE_SIGTERM_SECONDS = 3.0  # seconds within which a SIGTERM is the one before, come by another way


class StopSignal:
    """Turns the first Ctrl-C or SIGTERM into a request to stop, and lets a second one act at once.

    But a SIGTERM comes twice where a scheduler tells every process of a job and its script passes it on.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signal: int | None = None
        self.received_at = 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def _handle(self, number: int, frame: object) -> None:
        if self.signal is None:
            self.signal, self.received_at = number, time.monotonic()
            self.event.set()
            signal.signal(signal.SIGINT, signal.default_int_handler)
        elif time.monotonic() > self.received_at + DUPLICATE_SIGTERM_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def exit_code(self) -> int:
        """Give the exit code that says how the process was stopped."""
        return 128 + (self.signal or signal.SIGTERM)


def print_stderr(text: str) -> None:
    """Write a line to stderr; whoever read it may be gone, which must not keep a worker from saving."""
    try:
        sys.stderr.write(f"{text}\n")  # at once: a thread for each worker says its lines
        sys.stderr.flush()
    except OSError:
        pass


def run_workers(
    storage: Storage,
    name: str,
    spec: str,
    workers_per_device: int,
    settings: Mapping[str, str],
    stop: StopSignal,
) -> None:
    """Run workers on the devices that ``spec`` names until they are to stop, or have nothing left to do.

    That is when the study is complete, or a budget of it is used up. On a terminal the study is shown
    live, elsewhere what the workers say.
    """
    Artifacts(
        settings["HPO_ARTIFACTS"]
    ).check_access()  # what is away is told here; a worker would wait for it
    now = status.read_status(storage, name)
    where = devices.worker_devices(spec, workers_per_device, now.trials["waiting"] + now.trials["running"])
    names = ", ".join(dict.fromkeys(slot.name for slot in where))
    if has_work(storage, name):
        print_stderr(f"hpo: study '{name}': {len(where)} worker{'s' * (len(where) > 1)} on {names}")
        follow_workers(
            storage,
            name,
            lambda tell: supervisor.supervise_processes(name, where, settings, stop.event, tell),
            stop,
        )


def has_work(storage: Storage, name: str) -> bool:
    """Tell whether workers have something to do, or will have, and say so where they must wait.

    Raises StoreError if the study is stopped.
    """
    now = status.read_status(storage, name)
    if now.state == "stopped":
        raise StoreError(f"study '{name}' is stopped; 'hpo resume {name}' first")
    explain_used_up(now)
    explain_idle(now)
    return now.used_up_budget is None


def explain_idle(now: Status) -> None:
    """Say why workers have nothing to do, if a budget is not the reason."""
    if now.state == "complete":
        print_stderr(f"hpo: study '{now.study}' is complete; nothing to do")
    elif now.state == "stopped":
        print_stderr(f"hpo: study '{now.study}' is stopped; 'hpo resume {now.study}' first")
    elif now.state == "paused" and not now.used_up_budget:
        print_stderr(f"hpo: study '{now.study}' is paused; workers wait for 'hpo resume {now.study}'")


def follow_workers(storage: Storage, name: str, supervise: Supervise, stop: StopSignal) -> None:
    """Follow workers that ``supervise`` starts until they have left, and say how the study stands then."""
    storage.stop = stop.event
    console = Console(stderr=True, markup=False, highlight=False)
    if console.is_terminal:
        _follow_live(storage, name, console, supervise, stop)
    else:
        for _ in supervise(print_stderr):
            pass
    if stop.event.is_set():
        now = status.read_status(storage, name)
        ended = now.budget - now.trials["waiting"] - now.trials["running"]
        print_stderr(
            f"hpo: stopped with {ended} of {now.budget} trials done; the same command goes on from here"
        )
    elif (now := status.read_status(storage, name)).state == "stopped":
        print_stderr(
            f"hpo: study '{name}' was stopped; 'hpo resume {name}', then the same command, goes on"
        )
    else:
        explain_used_up(now)


def explain_used_up(now: Status) -> None:
    """Say which budget keeps a study from going on, if one does, and how it is raised."""
    if now.used_up_budget:
        print_stderr(f"hpo: study '{now.study}': {now.used_up_budget.advice}")


def watch_study(storage: Storage, name: str) -> None:
    """Show a study until it is complete, whoever runs it: live on a terminal, else a line per change."""
    console = Console(stderr=False, markup=False, highlight=False)
    if not console.is_terminal:
        _print_changes(storage, name)
        return
    with _no_echo(), Live(console=console, refresh_per_second=4, screen=False) as screen:
        while True:
            now = status.read_status(storage, name)
            screen.update(_watch_view(storage, now, console))
            if now.state == "complete":
                return
            time.sleep(1.0)


def _print_changes(storage: Storage, name: str) -> None:
    before = ""
    while True:
        now = status.read_status(storage, name)
        if (line := show.status_headline(now)) != before:
            print(line, flush=True)
            before = line
        if now.state == "complete":
            return
        time.sleep(1.0)


def _watch_view(storage: Storage, now: Status, console: Console) -> RenderableType:
    trials = status.read_trials(storage, now.study)
    planned = status.planned_epochs(studies.read_definition(storage, now.study), trials)
    rows = max(console.height - 7 - len(now.workers) - len(now.waits), 3)
    return Group(
        show.status_headline(now), *show.workers_view(now), show.live_view(now, trials, planned, rows)
    )


def _follow_live(
    storage: Storage,
    name: str,
    console: Console,
    supervise: Supervise,
    stop: StopSignal,
) -> None:
    storage.max_wait_seconds = (
        0.0  # while the store is away the table stands still, and workers are looked after
    )
    with _no_echo(), Live(console=console, refresh_per_second=4) as screen:

        def tell(line: str) -> None:
            if not line.startswith("trial "):  # the table has these
                console.print(line)

        for tick, _ in enumerate(supervise(tell)):
            if tick % 4 == 0:
                with contextlib.suppress(StoreUnavailable):
                    screen.update(_follow_view(storage, name, console, stop))
        with contextlib.suppress(StoreUnavailable):
            screen.update(_follow_view(storage, name, console, stop))
    storage.max_wait_seconds = MAX_WAIT_SECONDS


@contextlib.contextmanager
def _no_echo() -> Iterator[None]:
    """Keep the terminal from writing ^C into the live table."""
    try:
        before = termios.tcgetattr(sys.stdin)
    except (termios.error, OSError, ValueError):  # standard input is no terminal
        yield
        return
    after = [*before]
    after[3] &= ~termios.ECHOCTL
    termios.tcsetattr(sys.stdin, termios.TCSANOW, after)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def _follow_view(storage: Storage, name: str, console: Console, stop: StopSignal) -> RenderableType:
    trials = status.read_trials(storage, name)
    planned = status.planned_epochs(studies.read_definition(storage, name), trials)
    rows = max(console.height - 4, 3)
    return show.live_view(
        status.read_status(storage, name), trials, planned, rows, stopping=stop.event.is_set()
    )


def follow_events(stream: Iterable[TrialEvent]) -> None:
    """Follow one worker's events: a bar of the trial's epochs on a terminal, else a line per event."""
    console = Console(stderr=True, markup=False, highlight=False)
    if not console.is_terminal:
        for event in stream:
            print_stderr(show.event_line(event))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("waiting for a trial", total=None)
        for event in stream:
            if isinstance(event, EpochReported):
                progress.update(bar, completed=event.epoch.number)
                continue
            console.print(show.event_line(event))
            progress.remove_task(bar)
            if isinstance(event, TrialStarted):
                text = f"trial {event.trial}, epoch"
                bar = progress.add_task(text, total=event.epochs, completed=event.epochs_done)
            else:
                bar = progress.add_task("waiting for a trial", total=None)
