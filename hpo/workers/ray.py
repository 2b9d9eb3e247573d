"""Workers by Ray: each is an actor that supervises one worker process, on whatever node Ray places it.

The actor does what ``hpo launch`` does on one machine: it starts a worker that dies again, unless no
restart mends the error. Only text passes through Ray: no tensor, no trial. Settings travel as an argument.
Ray writes arguments to no log and shows them on no page, unlike the variables of a runtime environment.

* An actor's process dies, or its node: Ray starts the actor again where there is room, as long as this
  command runs. The actor's worker reads the end of its standard input, saves and exits. If it cannot, on a
  node that was cut off, its lease expires.
* This command ends: Ray ends the actors, and their workers exit likewise.
"""

import contextlib
import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hpo import log_records
from hpo.errors import EngineError, HpoError, WorkerStartError
from hpo.training.devices import WorkerDevice
from hpo.workers import supervisor
from hpo.workers.supervisor import Supervision, WorkerGroup

NUMERIC_OPTIONS = ("num_cpus", "num_gpus", "memory")  # what an actor takes of its node; memory in bytes
OPTIONS = ("address", "accelerator_type", *NUMERIC_OPTIONS)
POLL_SECONDS = 1.0  # that an actor waits for a line of its worker
LEAVE_SECONDS = 5  # after the workers' own time to save and exit: for nodes to answer
# Prefixes of variables in which libraries find the password of a store and the keys of an object store.
FORWARDED_PREFIXES = ("PG", "AWS_")


class WorkerActor:
    """The actor: keeps one worker running on its node."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.records: queue.Queue[logging.LogRecord] = queue.Queue()

    def supervise(
        self,
        study: str,
        device: WorkerDevice,
        settings: Mapping[str, str],
        folder: str,
        logs_folder: Path,
        supervision: Supervision,
    ) -> str:
        """Run the worker until it has exited for good.

        Args:
            study: The name of the study.
            device: The device of the worker.
            settings: The worker's environment (HPO_STORE and so on).
            folder: The folder to run in, which every node must have.
            logs_folder: The folder of the worker's log file on its node.
            supervision: How long the supervisor waits for the worker.

        Returns:
            The error, if no restart mends it, the folder is missing or no worker can be started; otherwise
            an empty string.
        """
        try:
            os.chdir(folder)
        except OSError as error:
            return f"{socket.gethostname()}: {folder}: {error.strerror}; every node needs the same folders"
        try:
            for _ in supervisor.supervise_processes(
                study, [device], settings, logs_folder, self.stop, self.records.put, supervision
            ):
                pass
        except WorkerStartError as error:
            return f"{socket.gethostname()}: {error}"
        except HpoError as error:
            return str(error)
        return ""

    def read_records(self) -> list[logging.LogRecord]:
        """Return the records since the last call; wait ``POLL_SECONDS`` at most if there is none.

        They are what ``supervise_processes`` tells.
        """
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self.records.get(timeout=POLL_SECONDS))
            while True:
                found.append(self.records.get_nowait())
        return found

    def stop_worker(self) -> None:
        """Let the worker save and exit."""
        self.stop.set()


def cluster_address(options: Mapping[str, str]) -> str | None:
    """Return the address of the requested cluster; None means one of our own, on this machine.

    It is the option ``address``, or else the variable RAY_ADDRESS.
    """
    return options.get("address") or os.environ.get("RAY_ADDRESS") or None


def supervise_actors(
    group: WorkerGroup, logs_folder: Path, stop: threading.Event, tell: log_records.Tell
) -> Iterator[int]:
    """Run a group's workers by Ray until they have exited for good.

    When the first worker exits for good, because nothing is left to do or after an error that no restart
    mends, the others stop, too, even those that still wait for a device. Leaving the iterator ends the
    actors.

    Args:
        group: The workers, with Ray's options.
        logs_folder: The folder of each worker's log file on its node.
        stop: Once set, the workers save and exit; nobody waits longer than the time that they have for it.
        tell: Gets one record at the start, one if no node has room, and what the actors'
            ``supervise_processes`` tell.

    Yields:
        0, about four times a second: how many workers are starting is not known here.

    Raises:
        EngineError: If Ray is not installed, an option is wrong, or the cluster fails.
        HpoError: With the first error of a worker that no restart mends.
    """
    ray = _import_ray()
    resources = _parse_resources(group.options)
    address = cluster_address(group.options)
    with _connect(ray, address):
        where = address or "this machine"
        text = f"study '{group.study}': {group} by Ray on {where}; logs on each node: {logs_folder}"
        tell(log_records.new_record(text))
        device, resources = _place_worker(ray, group, resources, tell)
        # Three calls at once: one supervises the worker, one waits for lines, one asks it to stop.
        actor_class = ray.remote(WorkerActor).options(
            max_restarts=-1, max_task_retries=-1, max_concurrency=3, **resources
        )
        actors = [actor_class.remote() for _ in range(group.workers)]
        forwarded = {key: value for key, value in os.environ.items() if key.startswith(FORWARDED_PREFIXES)}
        folder, settings = str(Path.cwd()), {**group.settings, **forwarded}
        wait = group.supervision
        runs = [
            actor.supervise.remote(group.study, device, settings, folder, logs_folder, wait)
            for actor in actors
        ]
        try:
            leave_seconds = wait.grace_seconds + LEAVE_SECONDS
            yield from _follow_actors(ray, actors, runs, stop, tell, leave_seconds)
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise EngineError(f"--engine ray: the cluster failed: {last}") from error


def _follow_actors(
    ray: Any,
    actors: list[Any],
    runs: list[Any],
    stop: threading.Event,
    tell: log_records.Tell,
    leave_seconds: float,
) -> Iterator[int]:
    reads = {actor.read_records.remote(): actor for actor in actors}
    stopped_at: float | None = None
    errors = []
    while runs and (stopped_at is None or time.monotonic() < stopped_at + leave_seconds):
        calls = [*runs, *reads]
        done = ray.wait(calls, num_returns=len(calls), timeout=0.25)[0]
        for call in [call for call in done if call in reads]:
            actor = reads.pop(call)
            reads[actor.read_records.remote()] = actor
            for record in ray.get(call):
                tell(record)
        ended = [call for call in done if call in runs]
        runs = [call for call in runs if call not in ended]
        errors += [error for error in ray.get(ended) if error]
        if (stop.is_set() or ended) and stopped_at is None:
            stopped_at = time.monotonic()
            for actor in actors:
                actor.stop_worker.remote()
        yield 0
    for call in ray.wait([*reads], num_returns=len(reads), timeout=2 * POLL_SECONDS)[0]:
        for record in ray.get(call):
            tell(record)
    if errors:
        raise HpoError(errors[0])


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
def _connect(ray: Any, address: str | None) -> Iterator[None]:
    """Join a cluster, or start one here; the handlers of SIGINT and SIGTERM stay as they were."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    own: dict[str, Any] = {} if address else {"include_dashboard": False, "object_store_memory": 80 * 2**20}
    # Without this Ray warns of a change in a future version.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(address or "local", logging_level="ERROR", log_to_driver=False, **own)
    except Exception as error:  # each kind of address fails differently
        raise EngineError(f"--engine ray: no cluster at {address or 'this machine'}: {error}") from error
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        yield
    finally:
        ray.shutdown()


def _parse_resources(options: Mapping[str, str]) -> dict[str, Any]:
    """Parse what each actor takes of its node.

    Raises:
        EngineError: If an option is unknown, or not a number where one is needed.
    """
    resources: dict[str, Any] = {}
    for name, value in options.items():
        if name not in OPTIONS or not value:
            raise EngineError(f"--option {name}: want KEY=VALUE of {', '.join(OPTIONS)}")
        try:
            resources[name] = float(value) if name in NUMERIC_OPTIONS else value
        except ValueError as error:
            raise EngineError(f"--option {name}={value}: want a number, as num_gpus=0.5") from error
    resources.pop("address", None)
    return resources


def _place_worker(
    ray: Any, group: WorkerGroup, resources: dict[str, Any], tell: log_records.Tell
) -> tuple[WorkerDevice, dict[str, Any]]:
    """Return each worker's device and what its actor takes; say so if no node has that at present."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = any(node.get("GPU") for node in nodes) if group.gpus is None else group.gpus
    resources = {"num_cpus": 1, "num_gpus": 1 if gpus else 0, **resources}
    amounts = {"CPU": resources["num_cpus"], "GPU": resources["num_gpus"]}
    if not any(all(node.get(name, 0) >= amount for name, amount in amounts.items()) for node in nodes):
        wanted = " and ".join(f"{amount:g} {name}" for name, amount in amounts.items() if amount)
        text = f"no node of the Ray cluster has {wanted}: workers wait until one comes"
        tell(log_records.new_record(text, logging.WARNING))
    threads = max(int(amounts["CPU"]), 1)
    return WorkerDevice(name="cuda:0" if gpus else "cpu", threads=threads), resources
