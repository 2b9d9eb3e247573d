"""Starting and supervising workers on this machine, each a process ``hpo worker NAME``.

A worker that dies is started again, with growing pauses if it soon dies again; its trial is taken up by
whoever is free. A worker that leaves with exit code 78 met something no restart can mend, and all stop.
Workers stop by themselves, saving first, when their supervisor is gone: they read the end of their standard
input. They run in sessions of their own, so that a Ctrl-C reaches the supervisor alone, which tells them.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from hpo.errors import HpoError
from hpo.training.devices import WorkerDevice

HPO_COMMAND = (sys.executable, "-m", "hpo")
EXIT_FATAL = 78  # exit code of a worker that no restart can mend (sysexits.h: EX_CONFIG)
MAX_PAUSE_SECONDS = 30.0  # seconds before a worker that keeps dying is started again
GRACE_SECONDS = 10.0  # seconds that a worker told to stop has to save and leave


@dataclass(frozen=True, kw_only=True)
class WorkerGroup:
    """Workers that a scheduler is asked for, on whatever machines it has."""

    study: str
    workers: int
    gpus: bool | None  # whether each has a GPU; None: where there are some
    settings: Mapping[str, str]  # the workers' environment (HPO_STORE and so on)
    options: Mapping[str, str]  # as the scheduler knows them; an empty value is a flag's


@dataclass(kw_only=True)
class WorkerProcess:
    """A running worker process, or one that waits to be started again."""

    slot: WorkerDevice
    process: subprocess.Popen[str]
    deaths: int = 0  # in a row, each soon after a start
    started: float = field(default_factory=time.monotonic)
    restart_at: float | None = None
    last_line: str = ""
    reader: threading.Thread = field(default_factory=threading.Thread)


def supervise_processes(
    name: str,
    where: list[WorkerDevice],
    settings: Mapping[str, str],
    stop: threading.Event,
    tell: Callable[[str], None],
) -> Iterator[None]:
    """Run workers until each has left for good, yielding some four times a second.

    ``settings`` are the workers' environment (HPO_STORE and so on); ``tell`` gets every line they write.
    Once ``stop`` is set they are told to save and leave, and killed if they have not after ``GRACE``.
    Closing the iterator early kills them. Raises HpoError with a worker's last line where no restart can
    mend it.
    """
    workers = [_start_worker(name, slot, settings, tell) for slot in where]
    told: float | None = None
    try:
        while True:
            workers = [_restart_if_dead(name, worker, settings, stop, tell) for worker in workers]
            if not any(worker.process.poll() is None or worker.restart_at for worker in workers):
                break
            if stop.is_set() and told is None:
                told = time.monotonic()
                _send_signal(workers, signal.SIGTERM)
            if told is not None and time.monotonic() > told + GRACE_SECONDS:
                _send_signal(workers, signal.SIGKILL)
            yield
            time.sleep(0.25)
        for worker in workers:
            worker.reader.join(5)
            if worker.process.returncode == EXIT_FATAL:
                raise HpoError(_last_error(worker) or "a worker gave up")
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()


def _start_worker(
    name: str, slot: WorkerDevice, settings: Mapping[str, str], tell: Callable[[str], None], deaths: int = 0
) -> WorkerProcess:
    # A number of threads that the user set stays as it is.
    environment = {"OMP_NUM_THREADS": str(slot.threads), **os.environ, **settings}
    if slot.cuda_visible_devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = slot.cuda_visible_devices
    process = subprocess.Popen(
        [*HPO_COMMAND, "worker", name, "--device", slot.device, "--supervised", slot.name],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    worker = WorkerProcess(slot=slot, process=process, deaths=deaths)
    worker.reader = threading.Thread(target=_forward_stderr, args=(worker, tell), daemon=True)
    worker.reader.start()
    return worker


def _forward_stderr(worker: WorkerProcess, tell: Callable[[str], None]) -> None:
    assert worker.process.stderr is not None
    for line in worker.process.stderr:
        worker.last_line = line.rstrip("\n")
        if not worker.last_line.startswith("hpo: "):  # its last word, which the supervisor passes on
            tell(worker.last_line)


def _restart_if_dead(
    name: str,
    worker: WorkerProcess,
    settings: Mapping[str, str],
    stop: threading.Event,
    tell: Callable[[str], None],
) -> WorkerProcess:
    """Give the worker as it goes on: itself, or its successor if it died and its pause is over."""
    code = worker.process.poll()
    if code is None or code == 0:
        return worker
    if code == EXIT_FATAL:
        stop.set()  # what stops one stops all; the error is raised when they have left
    if stop.is_set():
        worker.restart_at = None
        return worker
    if worker.restart_at is None:
        if time.monotonic() - worker.started > MAX_PAUSE_SECONDS:
            worker.deaths = 0
        cause = signal.Signals(-code).name if code < 0 else _last_error(worker) or f"exit code {code}"
        pause = _schedule_restart(worker)
        tell(f"a worker on {worker.slot.name} died of {cause}; starting it again in {pause:.0f} s")
    if worker.restart_at is None or time.monotonic() < worker.restart_at:
        return worker
    worker.deaths += 1
    try:
        return _start_worker(name, worker.slot, settings, tell, worker.deaths)
    except OSError as error:  # no memory or no process left, maybe what the worker died of; it passes
        pause = _schedule_restart(worker)
        tell(f"no worker starts on {worker.slot.name} ({error.strerror}); trying again in {pause:.0f} s")
        return worker


def _schedule_restart(worker: WorkerProcess) -> float:
    """Let a worker wait until it is started again; give for how many seconds."""
    pause = min(2.0**worker.deaths, MAX_PAUSE_SECONDS)
    worker.restart_at = time.monotonic() + pause
    return pause


def _last_error(worker: WorkerProcess) -> str:
    return worker.last_line.removeprefix("hpo: ").strip() if worker.last_line.startswith("hpo: ") else ""


def _send_signal(workers: list[WorkerProcess], number: signal.Signals) -> None:
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.send_signal(number)
