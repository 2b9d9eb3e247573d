"""Follow running workers: a live view on a terminal or in a notebook, elsewhere a line per event."""

import contextlib
import queue
import re
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live

from hpo.analysis import records, results
from hpo.api.html import study_html
from hpo.api.live_view import live_view, open_stderr_console, status_headline, workers_view
from hpo.api.stop_signal import StopSignal
from hpo.artifacts.folders import Artifacts
from hpo.errors import StoreUnavailable
from hpo.retry import MAX_WAIT_SECONDS
from hpo.store import status
from hpo.store.status import Status
from hpo.store.storage import Storage
from hpo.store.trial_cache import TrialCache
from hpo.training import devices
from hpo.workers import supervisor

# Starts workers and yields while they run. Its argument receives each line that they print.
Supervise = Callable[[Callable[[str], None]], Iterator[None]]
_MORE_WORKERS = (
    f"auto counts {devices.WORKER_MEMORY_BYTES / 1e9:.1f} GB for each, --devices cpu:N starts N anyway"
)
# The events of trials that a live view shows by itself. What an objective prints begins "trial N: ".
TRIAL_EVENT = re.compile(r"trial \d+ (starts:|epoch \d|complete|pruned|paused|removed|lost|released \()")
LINES_AT_ONCE = 2000  # that a live view prints at a time, which takes about 0.1 s


def print_stderr(text: str) -> None:
    """Write a line to stderr.

    The reader may be gone. That is ignored, since it must not keep a worker from saving.
    """
    try:
        sys.stderr.write(f"{text}\n")  # one call: several threads print lines
        sys.stderr.flush()
    except OSError:
        pass


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
    """Run local workers until the study ends or is stopped, a budget is used up, or the user stops them.

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
    Artifacts(settings["HPO_ARTIFACTS"]).check_access()  # fail here; a worker would wait for them
    now = status.read_status(storage, name)
    still_open = now.trials["waiting"] + now.trials["running"]
    assigned = devices.worker_devices(spec, per_device, still_open)
    wanted = min(devices.core_count() * per_device, still_open)
    if spec == "auto" and assigned[0].name == "cpu" and len(assigned) < wanted:
        print_stderr(f"hpo: there is free memory for {len(assigned)} of {wanted} workers; {_MORE_WORKERS}")
    names = ", ".join(dict.fromkeys(each.name for each in assigned))
    print_stderr(f"hpo: study '{name}': {len(assigned)} worker{'s' * (len(assigned) > 1)} on {names}")
    follow_workers(
        storage,
        name,
        lambda tell: supervisor.supervise_processes(
            name, assigned, settings, stop.event, tell, workers.supervision
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
        print_stderr(f"hpo: study '{name}' {why}")
        print_notes(now)
        return False
    explain_used_up(now)
    return now.used_up_budget is None


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
    if not display.shows_progress:
        for _ in supervise(_print_if_news):
            pass
    elif console.is_jupyter:
        _follow_in_notebook(storage, name, supervise)
    elif console.is_terminal:
        _follow_live(storage, name, console, supervise, stop)
    else:
        for _ in supervise(print_stderr):
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
        print_stderr(
            f"hpo: stopped with {ended} of {now.budget} trials done; {first}{display.again} to continue"
        )
    elif (now := status.read_status(storage, name)).state == "stopped":
        print_stderr(
            f"hpo: study '{name}' was stopped; run 'hpo resume {name}' and this command to continue"
        )
    else:
        explain_used_up(now)
        print_notes(now)


def print_notes(now: Status) -> None:
    """Print what a reader of a study's counts should know.

    Args:
        now: The status of the study.
    """
    for note in now.notes:
        print_stderr(f"hpo: {note}")


def explain_used_up(now: Status) -> None:
    """Print which used-up budget ends a study, if one does, and how to raise it.

    Args:
        now: The status of the study.
    """
    if now.used_up_budget:
        print_stderr(f"hpo: study '{now.study}': {now.used_up_budget.advice}")


def watch_study(storage: Storage, name: str) -> None:
    """Show a study until it is complete, wherever its workers run.

    A terminal shows a live view; anything else gets a line for each change of state or trial counts.

    Args:
        storage: The store.
        name: The study.

    Raises:
        StoreError: There is no such study, it is another tool's, or it was deleted meanwhile.
        StoreUnavailable: The database cannot be reached.
    """
    storage.max_wait_seconds = MAX_WAIT_SECONDS
    console = Console(stderr=False, markup=False, highlight=False)
    if not console.is_terminal:
        _print_changes(storage, name)
        return
    study = _LiveStudy(storage, name)
    with _no_echo(), Live(console=console, refresh_per_second=4, screen=False) as screen:
        while True:
            study.read()
            screen.update(_watch_view(study, console))
            if study.status.state == "complete":
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


class _LiveStudy:
    """What a live view shows of a study. A read after the first one reads only what has changed."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name
        self._cache, self._made = TrialCache(), records.MadeRecords()

    def read(self) -> None:
        """Read the study, and set ``status``, ``records`` and ``best``."""
        read = status.read_snapshot(self._storage, self._name, self._cache)
        self.status = read.status
        self.records = records.trial_records(read.definition, read.trials, self._made)
        self.best = results.best_setting(read.definition, self.records)


def _watch_view(study: _LiveStudy, console: Console) -> RenderableType:
    now = study.status
    rows = max(console.height - 7 - len(now.workers) - len(now.waits), 3)
    shown = live_view(now, study.records, study.best, rows)
    return Group(status_headline(now), *workers_view(now), shown)


def _follow_live(
    storage: Storage,
    name: str,
    console: Console,
    supervise: Supervise,
    stop: StopSignal,
) -> None:
    storage.max_wait_seconds = 0.0  # never wait for the store here: workers must be supervised meanwhile
    study = _LiveStudy(storage, name)
    # The view is drawn again below whatever is printed. Line by line, that would slow down the workers.
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    with _no_echo(), Live(console=console, refresh_per_second=4) as screen:
        next_draw = 0.0
        try:
            for _ in supervise(lines.put):
                _print_news(console, lines)
                if (began := time.monotonic()) >= next_draw:
                    with contextlib.suppress(StoreUnavailable):
                        screen.update(_follow_view(study, console, stop))
                    ended = time.monotonic()
                    next_draw = ended + redraw_pause(ended - began)
        finally:
            _print_news(console, lines, lines.qsize())
        with contextlib.suppress(StoreUnavailable):
            screen.update(_follow_view(study, console, stop))
    storage.max_wait_seconds = MAX_WAIT_SECONDS


def _follow_in_notebook(storage: Storage, name: str, supervise: Supervise) -> None:
    """Show the study below its cell as it shows itself, and draw it anew while its workers run."""
    from IPython.display import HTML, display

    storage.max_wait_seconds = 0.0  # as in ``_follow_live``

    def draw() -> HTML:
        return HTML(study_html(status.read_snapshot(storage, name)))

    screen, next_draw = display(draw(), display_id=True), 0.0
    for _ in supervise(_print_if_news):
        if (began := time.monotonic()) >= next_draw:
            with contextlib.suppress(StoreUnavailable):
                screen.update(draw())
            ended = time.monotonic()
            next_draw = ended + redraw_pause(ended - began)
    storage.max_wait_seconds = MAX_WAIT_SECONDS
    screen.update(draw())


def _print_news(console: Console, lines: "queue.SimpleQueue[str]", most: int = LINES_AT_ONCE) -> None:
    """Print the lines that have come meanwhile, together."""
    news = [line for line in (lines.get() for _ in range(min(lines.qsize(), most))) if is_news(line)]
    if news:
        console.print("\n".join(news), soft_wrap=True)  # rich takes four times as long to wrap them


def is_news(line: str) -> bool:
    """Return whether a live view leaves out what a worker's line says: anything but a trial's progress."""
    return not TRIAL_EVENT.match(line)


def _print_if_news(line: str) -> None:
    if is_news(line):
        print_stderr(line)


def redraw_pause(seconds: float) -> float:
    """Return how long to wait after a redraw that took so many seconds: nine times as long, at least 1 s.

    The first redraw reads all trials. Meanwhile no worker is restarted, and no signal reaches the workers.
    """
    return max(1.0, 9 * seconds)


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


def _follow_view(study: _LiveStudy, console: Console, stop: StopSignal) -> RenderableType:
    study.read()
    rows = max(console.height - 4, 3)
    return live_view(study.status, study.records, study.best, rows, stopping=stop.event.is_set())
