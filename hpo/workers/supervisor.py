"""Starting and supervising workers on this machine, each a process ``hpo worker NAME``.

* A worker that dies is started again, after pauses that grow to ``MAX_PAUSE_SECONDS`` if it soon dies
  again. Any free worker resumes its trial once the lease has expired.
* A worker that exits with code 78 met an error that no restart mends. Then all workers stop.
* When the supervisor itself is gone, its workers read the end of their standard input, save and exit.
* Processes that a worker has started (loaders of data, forks of a custom objective) end with it.
* What a worker writes to stdout is read together with its stderr: only the supervisor writes results.
* Each line of a worker goes to its log file and is shown (``hpo.logs``). A worker that replaces another one
  continues its file.
* Workers run in sessions of their own. So a Ctrl-C reaches the supervisor alone, which sends them SIGTERM.
"""

import contextlib
import errno
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from hpo import log_records, logs
from hpo.errors import HpoError, WorkerStartError
from hpo.training.devices import WorkerDevice
from hpo.workers.log_files import LogFolder

HPO_COMMAND = (sys.executable, "-m", "hpo")
EXIT_FATAL = 78  # exit code of a worker whose error no restart mends (sysexits.h: EX_CONFIG)
EXIT_STOPPED = {130: "SIGINT", 143: "SIGTERM or SIGHUP"}  # of one that a signal asked to stop
MAX_PAUSE_SECONDS = 30.0  # before a worker that keeps dying is started again
GRACE_SECONDS = 10.0  # that a worker has to save and exit after SIGTERM
BACKOFF_SECONDS = 1.0  # before a worker that died for the first time is started again
CHILDREN_SECONDS = 1.0  # that the processes of a worker have to exit after it, before they are killed


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """How long a supervisor waits for its workers."""

    grace_seconds: float = GRACE_SECONDS
    backoff_seconds: float = BACKOFF_SECONDS


DEFAULT_SUPERVISION = Supervision()


@dataclass(frozen=True, kw_only=True)
class WorkerGroup:
    """Workers to request from a scheduler, on whatever machines it has."""

    study: str
    workers: int
    gpus: bool | None  # whether each worker gets a GPU; None: yes by Slurm, if a node has any by Ray
    settings: Mapping[str, str]  # the workers' environment (HPO_STORE and so on)
    options: Mapping[str, str]  # the scheduler's own; an empty value marks a flag
    supervision: Supervision = DEFAULT_SUPERVISION

    def __str__(self) -> str:
        return f"{self.workers} worker{'s' * (self.workers > 1)}"


@dataclass(kw_only=True)
class WorkerProcess:
    """A running worker process, or a dead one that waits to be started again."""

    device: WorkerDevice
    process: subprocess.Popen[str]
    log: logging.Handler  # writes its log file
    deaths: int = 0  # in a row, each soon after a start
    started_at: float = field(default_factory=time.monotonic)
    restart_at: float | None = None  # by the monotonic clock; None: it runs, or will not be restarted
    is_overdue: bool = False  # it was told to stop, and has not exited in time
    has_children: bool = True  # perhaps; False once they have been ended after its exit
    children_until: float | None = None  # by the monotonic clock; then those that outlive it are killed
    last_error: str = ""  # why it has ended, if it said so
    has_written: bool = False  # until then it is starting
    trial: int | None = None  # that its last line was about
    reader: threading.Thread = field(default_factory=threading.Thread)

    @property
    def is_starting(self) -> bool:
        """Whether it runs and has neither begun a trial nor said anything else."""
        return not self.has_written and self.process.poll() is None

    def schedule_restart(self, backoff_seconds: float) -> float:
        """Decide when the worker is started again, and return in how many seconds that is.

        The pause doubles with each death in a row, up to ``MAX_PAUSE_SECONDS`` if it began below.
        """
        pause = min(backoff_seconds * 2.0**self.deaths, max(MAX_PAUSE_SECONDS, backoff_seconds))
        self.restart_at = time.monotonic() + pause
        return pause


@dataclass(frozen=True, kw_only=True)
class _Launch:
    """What all workers of one launch have in common."""

    study: str
    settings: Mapping[str, str]
    stop: threading.Event
    tell: log_records.Tell
    supervision: Supervision

    @property
    def level(self) -> int:
        """The level of the least important records that are written and shown."""
        return logs.level_number(self.settings.get(logs.LEVEL, "info"))


def supervise_processes(
    study: str,
    devices: list[WorkerDevice],
    settings: Mapping[str, str],
    logs_folder: Path,
    stop: threading.Event,
    tell: log_records.Tell,
    supervision: Supervision = DEFAULT_SUPERVISION,
) -> Iterator[int]:
    """Run a worker on each device until all have exited for good: with 0, or asked to stop.

    Closing the iterator early kills the workers.

    Args:
        study: The name of the study.
        devices: The device of each worker.
        settings: The workers' environment (HPO_STORE and so on).
        logs_folder: The folder of the workers' log files; it is created.
        stop: Once set, the workers get SIGTERM, and some seconds later SIGKILL. Exit code 78 sets it.
        tell: Gets what the workers say, except why they end, and what happens to them; it is called in
            other threads, too.
        supervision: How long it waits for the workers.

    Yields:
        How many of the workers are starting, about four times a second.

    Raises:
        HpoError: With the error that no restart mends, once all have exited.
        WorkerStartError: If a worker cannot be started the first time; those that run are killed.
    """
    launch = _Launch(study=study, settings=settings, stop=stop, tell=tell, supervision=supervision)
    folder = LogFolder(logs_folder, settings.get(logs.FORMAT, "text"), tell)
    workers: list[WorkerProcess] = []
    try:
        for device in devices:
            workers.append(_start_first_worker(launch, device, folder.open_file()))
        yield from _keep_running(launch, workers)
        for worker in workers:
            worker.reader.join(5)
            if worker.process.returncode == EXIT_FATAL:
                raise HpoError(worker.last_error or "a worker met an error that no restart mends")
    finally:
        _kill_all(workers)


def _kill_all(workers: list[WorkerProcess]) -> None:
    """Kill the workers that still run, and end what they have started."""
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait()
        worker.log.close()
    while any(worker.has_children for worker in workers):
        for worker in workers:
            _end_children(worker)
        time.sleep(0.02)


def _keep_running(launch: _Launch, workers: list[WorkerProcess]) -> Iterator[int]:
    """Replace dead workers in the list until all have exited for good; stop them once asked to."""
    stopped_at: float | None = None
    while True:
        workers[:] = [_restart_if_dead(launch, worker) for worker in workers]
        if not any(worker.process.poll() is None or worker.restart_at for worker in workers):
            return
        if launch.stop.is_set() and stopped_at is None:
            stopped_at = time.monotonic()
            _tell_stopping(launch, workers)
            _send_signal(workers, signal.SIGTERM)
        if stopped_at is not None and time.monotonic() > stopped_at + launch.supervision.grace_seconds:
            _tell_killed(launch, workers)
            _send_signal(workers, signal.SIGKILL)
        yield sum(worker.is_starting for worker in workers)
        time.sleep(0.25)


def _tell_stopping(launch: _Launch, workers: list[WorkerProcess]) -> None:
    """Say in the log of each worker that runs why it is asked to stop."""
    why = "this command was asked to stop"
    for worker in workers:
        if worker.process.poll() == EXIT_FATAL:
            worker.reader.join(1)  # it reads why
            why = f"the one on {worker.device.name} (process {worker.process.pid}) has ended"
            why += f": {worker.last_error}" if worker.last_error else " with an error that no restart mends"
            break
    for worker in workers:
        if worker.process.poll() is None:
            text = f"the worker on {worker.device.name} is asked to stop: {why}"
            _tell(launch, worker, text, logging.INFO, log_records.PROGRESS)


def _tell_killed(launch: _Launch, workers: list[WorkerProcess]) -> None:
    """Say which workers have not saved in time, before they are killed."""
    for worker in workers:
        if worker.process.poll() is None and not worker.is_overdue:
            worker.is_overdue = True
            _tell(
                launch,
                worker,
                f"the worker on {worker.device.name} did not save and exit within "
                f"{launch.supervision.grace_seconds:g} s (--grace-seconds) and is killed; its trial will "
                "resume from its last checkpoint",
            )


def _tell(
    launch: _Launch,
    worker: WorkerProcess,
    text: str,
    level: int = logging.WARNING,
    name: str = log_records.SUPERVISOR,
) -> None:
    """Tell what happens to a worker, or what it prints without a context, also in its log file."""
    record = log_records.worker_record(
        text, level, name, process=worker.process.pid, study=launch.study, trial=worker.trial
    )
    _pass_on(launch, worker, record)


def _pass_on(launch: _Launch, worker: WorkerProcess, record: logging.LogRecord) -> None:
    """Write a record to a worker's log file and show it, except why it ends, which is reported then."""
    if record.levelno < launch.level:
        return
    worker.log.handle(record)
    if record.name != log_records.EXIT:
        launch.tell(record)


def _start_first_worker(launch: _Launch, device: WorkerDevice, log: logging.Handler) -> WorkerProcess:
    try:
        return _start_worker(launch, device, log)
    except OSError as error:
        log.close()
        raise WorkerStartError(
            f"no worker starts on {device.name}: {HPO_COMMAND[0]}: {error.strerror}; if memory or "
            "processes are short, start fewer workers with --devices"
        ) from error


def _start_worker(
    launch: _Launch, device: WorkerDevice, log: logging.Handler, deaths: int = 0
) -> WorkerProcess:
    """Start a worker; raises OSError if there is no process or no thread left for it."""
    # A number of threads that the user has set stays as it is.
    environment = {"OMP_NUM_THREADS": str(device.threads), **os.environ, **launch.settings}
    environment["PYTHONUNBUFFERED"] = "1"  # what a worker prints appears before it dies, not after
    if device.cuda_visible_devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device.cuda_visible_devices
    process = subprocess.Popen(
        [*HPO_COMMAND, "worker", launch.study, "--device", device.device, "--supervised", device.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    worker = WorkerProcess(device=device, process=process, log=log, deaths=deaths)
    worker.reader = threading.Thread(target=_forward_output, args=(launch, worker), daemon=True)
    try:
        worker.reader.start()
    except RuntimeError as error:  # no thread is left
        process.kill()
        process.wait()
        raise OSError(errno.EAGAIN, str(error)) from error
    _tell(launch, worker, f"a worker starts on {device.name}", logging.INFO, log_records.PROGRESS)
    return worker


def _forward_output(launch: _Launch, worker: WorkerProcess) -> None:
    assert worker.process.stdout is not None
    with worker.process.stdout as output:
        for line in output:
            worker.has_written = True
            _forward_line(launch, worker, line.rstrip("\n"))


def _forward_line(launch: _Launch, worker: WorkerProcess, line: str) -> None:
    printed, record = log_records.split_line(line)
    if printed or record is None:
        _tell(launch, worker, printed, logging.INFO, log_records.OUTPUT)
    if record is None:
        return
    if record.name == log_records.EXIT:
        worker.last_error = record.getMessage()
    worker.trial = log_records.trial_of(record)
    _pass_on(launch, worker, record)


def _end_children(worker: WorkerProcess) -> None:
    """Close the input of an exited worker, and end the processes left in its process group, its own.

    Call it until ``has_children`` is False. They get some time to end by themselves, as the process of
    ``multiprocessing`` that removes shared memory does, and then are killed; nobody waits for that here.
    """
    if not worker.has_children:
        return
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    now = time.monotonic()
    worker.children_until = worker.children_until or now + CHILDREN_SECONDS
    is_late = now >= worker.children_until
    try:
        os.killpg(worker.process.pid, signal.SIGKILL if is_late else 0)
        worker.has_children = not is_late
    except (ProcessLookupError, PermissionError):  # nobody is left whom we could end
        worker.has_children = False


def kill_descendants() -> None:
    """Kill the processes that this process has started, and theirs.

    The one of ``multiprocessing`` that removes shared memory stays. It ends by itself after this process.
    """
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "resource_tracker" not in " ".join(process.cmdline()):
                process.kill()


def _restart_if_dead(launch: _Launch, worker: WorkerProcess) -> WorkerProcess:
    """Return the worker, or the one that replaces it: it died, and its pause is over."""
    code = worker.process.poll()
    if code is not None:
        _end_children(worker)
    if code is None or code == 0:
        return worker
    if code == EXIT_FATAL:
        launch.stop.set()  # all others stop, too; the error is raised when they have exited
    if launch.stop.is_set():
        worker.restart_at = None
        return worker
    if worker.restart_at is None:
        _announce_restart(launch, worker, code)
    if worker.has_children or worker.restart_at is None or time.monotonic() < worker.restart_at:
        return worker
    worker.deaths += 1
    try:
        return _start_worker(launch, worker.device, worker.log, worker.deaths)
    except OSError as error:  # no memory or no process left, perhaps what the worker died of; it passes
        pause = worker.schedule_restart(launch.supervision.backoff_seconds)
        _tell(
            launch,
            worker,
            f"no worker starts on {worker.device.name} ({error.strerror}); trying again in {pause:g} s",
        )
        return worker


def _announce_restart(launch: _Launch, worker: WorkerProcess, code: int) -> None:
    if time.monotonic() - worker.started_at > MAX_PAUSE_SECONDS:
        worker.deaths = 0
    if code in EXIT_STOPPED:
        end = f"was asked to stop by {EXIT_STOPPED[code]}, not by this command, and has exited"
    else:
        cause = _signal_name(-code) if code < 0 else worker.last_error or f"exit code {code}"
        end = f"died of {cause}"
    pause = worker.schedule_restart(launch.supervision.backoff_seconds)
    trial = "" if worker.trial is None else f", trial {worker.trial}"
    which = f"a worker on {worker.device.name} (process {worker.process.pid}{trial})"
    _tell(launch, worker, f"{which} {end}; starting it again in {pause:g} s")


def _signal_name(number: int) -> str:
    """Return the name of a signal; real-time signals between the first and the last have only a number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _send_signal(workers: list[WorkerProcess], number: signal.Signals) -> None:
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.send_signal(number)
