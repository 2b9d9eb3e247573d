"""Follow running workers: a live view on a terminal or in a notebook, elsewhere a line per event."""

import contextlib
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.live import Live

from hpo import log_records, logs
from hpo.analysis import health
from hpo.api.display_threads import print_beside, read_beside
from hpo.api.html import study_html
from hpo.api.live_study import LiveStudy
from hpo.api.live_view import open_stderr_console, status_headline
from hpo.api.shown_records import show_workers
from hpo.api.stop_signal import StopSignal
from hpo.artifacts.folders import Artifacts
from hpo.retry import MAX_WAIT_SECONDS
from hpo.store import folders, status
from hpo.store.status import Status
from hpo.store.storage import Storage
from hpo.store.trial_cache import TrialCache
from hpo.training import devices
from hpo.workers import supervisor

# Starts workers and yields while they run: how many of them are starting. Its argument receives what they
# say, in other threads, too.
Supervise = Callable[[log_records.Tell], Iterator[int]]
_MORE_WORKERS = (
    f"auto counts {devices.WORKER_MEMORY_BYTES / 1e9:.1f} GB for each, --devices cpu:N starts N anyway"
)


@dataclass(frozen=True, kw_only=True)
class LocalWorkers:
    """Workers to run on this machine."""

    devices: str  # as ``--devices`` takes them
    per_device: int = 1  # workers that share a device
    settings: Mapping[str, str]  # environment variables of the workers
    supervision: supervisor.Supervision = supervisor.DEFAULT_SUPERVISION


@dataclass(frozen=True, kw_only=True)
class Display:
    """How running workers are shown."""

    shows_progress: bool = True  # of trials; whatever else they print is shown in any case
    again: str = "run the same command again"  # what continues the study, for messages


TERMINAL = Display()


def run_workers(
    storage: Storage, name: str, workers: LocalWorkers, stop: StopSignal, display: Display = TERMINAL
) -> None:
    """Run local workers until the study ends or stops, a budget is used up, or the user stops them.

    A terminal shows the study live; anything else gets the lines that the workers print. There are no more
    workers than open trials, but at least one.

    Args:
        storage: The store.
        name: The study.
        workers: The workers.
        stop: Is set when the user asks to stop.
        display: How they are shown.

    Raises:
        ArtifactError: The artifacts are behind a URL and cannot be reached or written.
        DeviceError: A device does not exist.
        StoreError: There is no such study, or it is another tool's.
        StoreUnavailable: The database cannot be reached.
        HpoError: A worker met an error that no restart mends; the text is its last line.
    """
    spec, per_device, settings = workers.devices, workers.per_device, workers.settings
    artifacts = Artifacts(settings["HPO_ARTIFACTS"])
    artifacts.check_access()  # fail here; a worker would wait for them
    now = status.read_status(storage, name)
    still_open = now.trials["waiting"] + now.trials["running"]
    assigned = devices.worker_devices(spec, per_device, still_open)
    wanted = min(devices.core_count() * per_device, still_open)
    if spec == "auto" and assigned[0].name == "cpu" and len(assigned) < wanted:
        logs.tell(f"there is free memory for {len(assigned)} of {wanted} workers; {_MORE_WORKERS}")
    names = ", ".join(dict.fromkeys(each.name for each in assigned))
    folder = artifacts.logs_folder(folders.own_folder(storage, name))
    count = f"{len(assigned)} worker{'s' * (len(assigned) > 1)}"
    logs.tell(f"study '{name}': {count} on {names}; logs: {folder}")
    follow_workers(
        storage,
        name,
        lambda tell: supervisor.supervise_processes(
            name, assigned, settings, folder, stop.event, tell, workers.supervision
        ),
        stop,
        display,
    )


def has_work(now: Status) -> bool:
    """Return whether workers that start now would run trials; if not, print why, in one line.

    Args:
        now: The status of the study.
    """
    name = now.study
    why = {
        "complete": f"is complete{_what_ran(now)}",
        "stopped": f"is stopped; run 'hpo resume {name}' first",
        "paused": f"is paused; run 'hpo resume {name}' first",
    }.get(now.state)
    if why is not None:
        logs.tell(f"study '{name}' {why}")
        print_notes(now)
        return False
    explain_end(now)
    return now.used_up_budget is None and now.failure_stop is None


def _what_ran(now: Status) -> str:
    if now.budget and not now.trials["complete"]:
        return f", but none of its {now.budget} trials succeeded"
    return f", all {now.budget} trials have run; nothing to do"


def follow_workers(
    storage: Storage, name: str, supervise: Supervise, stop: StopSignal, display: Display = TERMINAL
) -> None:
    """Run ``supervise`` until its workers have exited, then print how to continue an incomplete study.

    Args:
        storage: The store. From now on it is waited for; a stop request shortens that.
        name: The study.
        supervise: Starts the workers and yields while they run. What it raises passes through.
        stop: Is set when the user asks to stop.
        display: How they are shown.

    Raises:
        StoreError: The study was deleted meanwhile.
        StoreUnavailable: The database cannot be reached after the workers' exit.
    """
    storage.stop, storage.max_wait_seconds = stop.event, MAX_WAIT_SECONDS
    console = open_stderr_console()
    if display.shows_progress and console.is_jupyter:
        with notebook_view(storage, name) as tell:
            for _ in supervise(tell):
                pass
    elif display.shows_progress and console.is_terminal:
        _follow_live(storage, name, console, supervise, stop)
    else:
        with print_beside(show_workers(news_only=not display.shows_progress)) as tell:
            for _ in supervise(tell):
                pass
    tell_end(storage, name, stop, display)


def tell_end(storage: Storage, name: str, stop: StopSignal, display: Display) -> None:
    """Print how to continue a study that its workers have left incomplete.

    Args:
        storage: The store.
        name: The study.
        stop: Is set if the user has asked to stop.
        display: How the workers were shown.

    Raises:
        StoreError: The study was deleted meanwhile.
        StoreUnavailable: The database cannot be reached.
    """
    if stop.event.is_set():
        now = status.read_status(storage, name)
        ended = now.budget - now.trials["waiting"] - now.trials["running"]
        first = f"run 'hpo resume {name}', then " if now.state in ("paused", "stopped") else ""
        logs.tell(f"stopped with {ended} of {now.budget} trials done; {first}{display.again} to continue")
    elif (now := status.read_status(storage, name)).state == "stopped":
        logs.tell(f"study '{name}' was stopped; run 'hpo resume {name}' and this command to continue")
    else:
        explain_end(now)
        print_notes(now)


def print_notes(now: Status) -> None:
    """Print what a reader of a study's counts should know.

    Args:
        now: The status of the study.
    """
    for note in now.notes:
        logs.tell(note)


def explain_end(now: Status) -> None:
    """Print what ends a study that is not complete, if anything does: its first failures, a used-up budget.

    Args:
        now: The status of the study.
    """
    if now.failure_stop:
        logs.tell(f"study '{now.study}' {now.failure_stop}")
    if now.used_up_budget:
        logs.tell(f"study '{now.study}': {now.used_up_budget.advice}")


def watch_study(storage: Storage, name: str, artifacts: Artifacts) -> None:
    """Show a study until it is complete, wherever its workers run.

    A terminal shows a live view; anything else gets a line for each change of state or trial counts.

    Args:
        storage: The store.
        name: The study.
        artifacts: Where its files are.

    Raises:
        StoreError: There is no such study, it is another tool's, or it was deleted meanwhile.
        StoreUnavailable: The database cannot be reached.
    """
    storage.max_wait_seconds = MAX_WAIT_SECONDS
    console = Console(stderr=False, markup=False, highlight=False)
    if not console.is_terminal:
        _print_changes(storage, name)
        return
    study = LiveStudy(storage, name)
    with _no_echo(), Live(console=console, refresh_per_second=4, screen=False) as screen:
        while True:
            read = study.read()
            screen.update(study.watch_view(console.height, health.find_problems(read.snapshot, artifacts)))
            if read.status.state == "complete":
                return
            time.sleep(1.0)


def _print_changes(storage: Storage, name: str) -> None:
    before = ""
    while True:
        now = status.read_status(storage, name)
        if (line := status_headline(now)) != before:
            print(line, flush=True)
            before = line
        if now.state == "complete":
            return
        time.sleep(1.0)


def _follow_live(
    storage: Storage, name: str, console: Console, supervise: Supervise, stop: StopSignal
) -> None:
    study = LiveStudy(storage, name)

    def view() -> RenderableType:
        return study.running_view(max(console.height - 4, 3), stopping=stop.event.is_set())

    with (
        _no_echo(),
        Live(console=console, refresh_per_second=4, get_renderable=view),
        logs.shown_by(lambda text: console.print(text, soft_wrap=True)),  # four times as fast as wrapping
        print_beside(show_workers(news_only=True)) as tell,
        read_beside(lambda: storage.retry(study.read, max_wait_seconds=0.0)),
    ):
        for starting in supervise(tell):
            study.starting = starting


@contextlib.contextmanager
def notebook_view(storage: Storage, name: str) -> Iterator[log_records.Tell]:
    """Within the block, show a study below its cell as it shows itself, and draw it again and again.

    Args:
        storage: The store.
        name: The study.

    Yields:
        A function that takes a worker's record and returns at once; it prints what the view does not show.
    """
    from IPython.display import HTML, display

    screen, cache = display(HTML(""), display_id=True), TrialCache()

    def draw() -> None:
        read = status.read_snapshot(storage, name, cache)
        screen.update(HTML(study_html(read, health.find_problems(read))))

    with (
        print_beside(show_workers(news_only=True)) as tell,
        read_beside(lambda: storage.retry(draw, max_wait_seconds=0.0)),
    ):
        yield tell


@contextlib.contextmanager
def _no_echo() -> Iterator[None]:
    """Keep the terminal from echoing ^C into the live table."""
    try:
        before = termios.tcgetattr(sys.stdin)
    except (termios.error, OSError, ValueError):  # standard input is not a terminal
        yield
        return
    after = [*before]
    after[3] &= ~termios.ECHOCTL
    termios.tcsetattr(sys.stdin, termios.TCSANOW, after)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)
