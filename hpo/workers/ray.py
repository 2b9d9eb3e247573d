"""Workers by Ray: an actor each, which supervises one worker process on whatever node Ray puts it.

The actor does what ``hpo launch`` does on one machine: a worker that dies is started again, one that says
no restart can mend it is not. Nothing but text passes through Ray: no tensor, no trial. Settings travel as
an argument, which Ray writes to no log and shows on no page, unlike a runtime environment's variables.

* An actor's process dies, or its node: Ray starts the actor again where there is room, for as long as this
  command runs. Its worker reads the end of its standard input, saves, and leaves; one that cannot, on a
  node that was cut off, has its lease run out.
* This command ends: Ray ends the actors, and the workers leave likewise.
"""

import contextlib
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hpo.errors import EngineError, HpoError
from hpo.training.devices import WorkerDevice
from hpo.workers import supervisor
from hpo.workers.supervisor import WorkerGroup

NUMERIC_OPTIONS = ("num_cpus", "num_gpus", "memory")  # what an actor takes of its node; memory in bytes
OPTIONS = ("address", "accelerator_type", *NUMERIC_OPTIONS)
POLL_SECONDS = 1.0  # how long an actor waits for its worker to say something
LEAVE_SECONDS = supervisor.GRACE_SECONDS + 5  # for workers to save and leave, on nodes that answer
FORWARDED_PREFIXES = (
    "PG",
    "AWS_",
)  # variables by which libraries find a store's password and an object store's keys


class WorkerActor:
    """The actor: keeps one worker going on its node."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.lines: queue.Queue[str] = queue.Queue()

    def supervise(self, study: str, slot: WorkerDevice, settings: Mapping[str, str], folder: str) -> str:
        """Run the worker until it has left for good; give the reason if no restart can mend it."""
        try:
            os.chdir(folder)
            for _ in supervisor.supervise_processes(study, [slot], settings, self.stop, self.lines.put):
                pass
        except OSError as error:
            return f"{socket.gethostname()}: {folder}: {error.strerror}; every node wants the same folders"
        except HpoError as error:
            return str(error)
        return ""

    def read_lines(self) -> list[str]:
        """Give what the worker has said, or will say within a second."""
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self.lines.get(timeout=POLL_SECONDS))
            while True:
                found.append(self.lines.get_nowait())
        return found

    def stop_worker(self) -> None:
        """Let the worker save and leave."""
        self.stop.set()


def cluster_address(options: Mapping[str, str]) -> str | None:
    """Give the address of the cluster that is asked for; None: one of our own, on this machine."""
    return options.get("address") or os.environ.get("RAY_ADDRESS") or None


def supervise_actors(
    crew: WorkerGroup, stop: threading.Event, tell: Callable[[str], None]
) -> Iterator[None]:
    """Run a crew's workers by Ray until they have left for good, yielding some four times a second.

    ``tell`` gets every line that they write. Once ``stop`` is set they are told to save and leave. The
    first that leaves since nothing is left to do takes the others along, those too that wait for a device.
    Raises EngineError where Ray cannot be had, HpoError with a worker's last line where no restart can
    mend it.
    """
    ray = _import_ray()
    asks = _parse_resources(crew.options)
    where = cluster_address(crew.options)
    with _connect(ray, where):
        count = f"{crew.workers} worker{'s' * (crew.workers > 1)}"
        tell(f"hpo: study '{crew.study}': {count} by Ray on {where or 'this machine'}")
        slot, asks = _place_worker(ray, crew, asks, tell)
        # Three calls at once: one keeps the worker, one waits for news, one tells it to leave.
        actor = ray.remote(WorkerActor).options(
            max_restarts=-1, max_task_retries=-1, max_concurrency=3, **asks
        )
        keepers = [actor.remote() for _ in range(crew.workers)]
        handed_on = {key: value for key, value in os.environ.items() if key.startswith(FORWARDED_PREFIXES)}
        folder, settings = str(Path.cwd()), {**crew.settings, **handed_on}
        runs = [keeper.keep.remote(crew.study, slot, settings, folder) for keeper in keepers]
        try:
            yield from _follow_actors(ray, keepers, runs, stop, tell)
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise EngineError(f"--engine ray: the cluster gave the workers up: {last}") from error


def _follow_actors(
    ray: Any, keepers: list[Any], runs: list[Any], stop: threading.Event, tell: Callable[[str], None]
) -> Iterator[None]:
    news = {keeper.news.remote(): keeper for keeper in keepers}
    told: float | None = None
    reasons = []
    while runs and (told is None or time.monotonic() < told + LEAVE_SECONDS):
        calls = [*runs, *news]
        done = ray.wait(calls, num_returns=len(calls), timeout=0.25)[0]
        for call in [call for call in done if call in news]:
            keeper = news.pop(call)
            news[keeper.news.remote()] = keeper
            for line in ray.get(call):
                tell(line)
        left = [call for call in done if call in runs]
        runs = [call for call in runs if call not in left]
        reasons += [reason for reason in ray.get(left) if reason]
        if (stop.is_set() or left) and told is None:
            told = time.monotonic()
            for keeper in keepers:
                keeper.leave.remote()
        yield
    for call in ray.wait([*news], num_returns=len(news), timeout=2 * POLL_SECONDS)[0]:
        for line in ray.get(call):
            tell(line)
    if reasons:
        raise HpoError(reasons[0])


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise EngineError(
            "--engine ray: Ray is not installed; install it with: pip install 'hpo-vision[ray]', "
            "or in a checkout: pip install '.[ray]'"
        ) from error
    return ray


@contextlib.contextmanager
def _connect(ray: Any, where: str | None) -> Iterator[None]:
    """Join a cluster, or start one here; Ctrl-C and SIGTERM stay with whoever handled them."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    own: dict[str, Any] = {} if where else {"include_dashboard": False, "object_store_memory": 80 * 2**20}
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # else Ray warns of what it will do one day
    try:
        ray.init(where or "local", logging_level="ERROR", log_to_driver=False, **own)
    except Exception as error:  # each kind of address fails in a way of its own
        raise EngineError(f"--engine ray: no cluster at {where or 'this machine'}: {error}") from error
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        yield
    finally:
        ray.shutdown()


def _parse_resources(options: Mapping[str, str]) -> dict[str, Any]:
    """Read what each actor takes of its node; raises EngineError for what Ray, or hpo, does not know."""
    asks: dict[str, Any] = {}
    for name, value in options.items():
        if name not in OPTIONS or not value:
            raise EngineError(f"--option {name}: want KEY=VALUE of {', '.join(OPTIONS)}")
        try:
            asks[name] = float(value) if name in NUMERIC_OPTIONS else value
        except ValueError as error:
            raise EngineError(f"--option {name}={value}: want a number, as num_gpus=0.5") from error
    asks.pop("address", None)
    return asks


def _place_worker(
    ray: Any, crew: WorkerGroup, asks: dict[str, Any], tell: Callable[[str], None]
) -> tuple[WorkerDevice, dict[str, Any]]:
    """Give a worker's place and what its actor asks for; tell if no node has as much just now."""
    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = any(node.get("GPU") for node in there) if crew.gpus is None else crew.gpus
    asks = {"num_cpus": 1, "num_gpus": 1 if gpus else 0, **asks}
    names = {"CPU": asks["num_cpus"], "GPU": asks["num_gpus"]}
    if not any(all(node.get(name, 0) >= amount for name, amount in names.items()) for node in there):
        wanted = " and ".join(f"{amount:g} {name}" for name, amount in names.items() if amount)
        tell(f"no node of the Ray cluster has {wanted}: workers wait until one comes")
    threads = max(int(names["CPU"]), 1)
    return WorkerDevice(name="cuda:0" if gpus else "cpu", threads=threads), asks
