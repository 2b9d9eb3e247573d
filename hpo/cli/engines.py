"""Where ``hpo launch`` runs workers: on this machine, or on the machines of Slurm or Ray.

An engine only makes sure that the requested number of workers exists, each an ordinary ``hpo worker``. The
lease decides which worker owns a trial. So it does no harm if an engine starts a worker twice or believes a
living worker dead. Pause, stop and status go through the store, and so work alike for all engines.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpo import logs
from hpo.api import progress
from hpo.api.stop_signal import StopSignal
from hpo.artifacts.folders import Artifacts
from hpo.errors import EngineError, quote_value
from hpo.store import database, folders, status
from hpo.store.storage import Storage
from hpo.workers import ray, slurm
from hpo.workers.supervisor import Supervision, WorkerGroup

Engine = Literal["local", "slurm", "ray"]


@dataclass(frozen=True, kw_only=True)
class LaunchRequest:
    """The options of ``hpo launch``."""

    engine: Engine
    devices: str  # as --devices takes them; for a scheduler auto or cpu
    workers_per_device: int  # for a scheduler 1
    workers: int | None  # for a scheduler only, where None means 1
    options: Iterable[str]  # KEY=VALUE, or a flag's KEY
    print_script: bool  # print the script instead of submitting it
    supervision: Supervision  # not for Slurm, whose script supervises its worker


def launch_workers(
    storage: Storage,
    name: str,
    request: LaunchRequest,
    settings: Mapping[str, str],
    stop: StopSignal,
) -> None:
    """Run the workers of a study, unless it is complete, stopped, paused or has used up a budget.

    That is then printed.

    Local and Ray workers are followed until they exit. Slurm workers are submitted as a job, which this
    function does not wait for, or their script is printed.

    Args:
        storage: The store.
        name: The study.
        request: The options of ``hpo launch``.
        settings: Environment variables of the workers.
        stop: Is set when the user asks to stop.

    Raises:
        EngineError: The options do not fit the engine, or the scheduler is missing, refuses the workers or
            fails, or the folder for the logs of Slurm workers cannot be created.
        DeviceError: A local device does not exist.
        ArtifactError: The artifacts are behind a URL and cannot be reached or written.
        StoreError: There is no such study, or it is another tool's.
        StoreUnavailable: The database cannot be reached.
        HpoError: A followed worker met an error that no restart mends; the text is its last line.
    """
    group = _worker_group(name, request, settings)
    if not progress.has_work(status.read_status(storage, name)):
        return
    if group is None:
        workers = progress.LocalWorkers(
            devices=request.devices,
            per_device=request.workers_per_device,
            settings=settings,
            supervision=request.supervision,
        )
        progress.run_workers(storage, name, workers, stop)
        return
    place = Artifacts(settings["HPO_ARTIFACTS"])
    folder = place.logs_folder(folders.own_folder(storage, name)).absolute()
    if request.engine == "slurm":
        _submit_to_slurm(group, folder, request.print_script)
    else:
        progress.follow_workers(
            storage, name, lambda tell: ray.supervise_actors(group, folder, stop.event, tell), stop
        )


def _refuse_scheduler_options(request: LaunchRequest) -> None:
    flags = {"--workers": request.workers, "--option": request.options, "--print": request.print_script}
    for flag, given in flags.items():
        if given:
            advice = (
                "for local workers use --devices cpu:4" if flag == "--workers" else "choose an --engine"
            )
            engines = "slurm" if flag == "--print" else "slurm or ray"
            raise EngineError(f"{flag} is only for engine {engines}; {advice}")


def _worker_group(name: str, request: LaunchRequest, settings: Mapping[str, str]) -> WorkerGroup | None:
    """Return the workers to request from a scheduler, None for local ones; check the options."""
    if request.engine == "local":
        _refuse_scheduler_options(request)
        return None
    if request.devices not in ("auto", "cpu"):
        raise EngineError(
            f"--devices {request.devices}: {request.engine} chooses devices itself; use auto (one GPU per "
            "worker) or cpu, and --workers N"
        )
    if request.workers_per_device != 1:
        way = "num_gpus=0.5" if request.engine == "ray" else "gres=shard:1, where your Slurm shares GPUs"
        raise EngineError(
            f"--workers-per-device is only for local workers; with {request.engine} use --option {way}"
        )
    group = WorkerGroup(
        study=name,
        workers=request.workers or 1,
        gpus=False if request.devices == "cpu" else None,
        settings=settings,
        options=dict(map(_parse_option, request.options)),
        supervision=request.supervision,
    )
    if request.engine == "slurm":
        if request.supervision != Supervision():
            raise EngineError(
                "--grace-seconds and --backoff-seconds are not for engine slurm: its time to save is "
                "--option signal=B:TERM@SECONDS"
            )
        _refuse_sqlite(group, "--engine slurm", "on one node, run 'hpo launch' within your own job")
        return group
    if request.print_script:
        raise EngineError("--print is only for engine slurm; ray has no script")
    where = ray.cluster_address(group.options)
    if where is not None:
        _refuse_sqlite(
            group, f"--engine ray, cluster {where}", "without an address, Ray runs on this machine only"
        )
    return group


def _parse_option(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name) or not value.isprintable():
        raise EngineError(
            f"--option {quote_value(text)}: want KEY=VALUE without leading dashes, as partition=gpu"
        )
    return name, value


def _submit_to_slurm(group: WorkerGroup, folder: Path, print_script: bool) -> None:
    text = slurm.build_script(group, Path.cwd(), folder)
    if print_script:
        print(text, end="")
        return
    job = slurm.submit_script(text, group, folder)
    print(f"job {job}: {group} of study {group.study}; logs: {folder}")
    show, stop = f"'hpo status {group.study}'", f"'hpo stop {group.study}' or 'scancel {job}'"
    logs.tell(f"{show} shows them; {stop} stops them")


def _refuse_sqlite(group: WorkerGroup, where: str, otherwise: str) -> None:
    if database.sqlite_file(database.parse_url(group.settings["HPO_STORE"])) is not None:
        raise EngineError(
            f"{where}: an SQLite store works on one machine only; for several machines use "
            f"--store postgresql://user@host/db; {otherwise}"
        )
