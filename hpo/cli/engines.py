"""Workers by other programs than ours: Slurm and Ray keep them going on whatever machines they have.

An engine only sees to it that so many workers are there, each an ordinary ``hpo worker``. Whose a trial is
decides the lease, whatever an engine does: what it starts twice, or believes dead, breaks nothing. Pausing,
stopping and looking speak through the store, and so work for all of them alike.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpo.artifacts.folders import Artifacts
from hpo.cli import progress
from hpo.errors import EngineError, quote_value
from hpo.store import database, status, studies
from hpo.store.storage import Storage
from hpo.workers import ray, slurm
from hpo.workers.supervisor import WorkerGroup

Engine = Literal["local", "slurm", "ray"]


@dataclass(frozen=True, kw_only=True)
class LaunchRequest:
    """What ``hpo launch`` was asked for besides its study."""

    engine: Engine
    devices: str
    workers_per_device: int
    workers: int | None
    options: Iterable[str]  # KEY=VALUE, or a flag's KEY
    print_script: bool  # show the script instead of submitting it


def launch_workers(
    storage: Storage,
    name: str,
    request: LaunchRequest,
    settings: Mapping[str, str],
    stop: progress.StopSignal,
) -> None:
    """Have a study's workers run as asked; local ones and Ray's until they leave, Slurm's from then on.

    Raises EngineError for a request that does not fit its engine.
    """
    crew = _worker_group(name, request, settings)
    now = status.read_status(storage, name)
    if now.state == "complete":
        progress.explain_idle(now)
    elif crew is None:
        progress.run_workers(storage, name, request.devices, request.workers_per_device, settings, stop)
    elif progress.has_work(storage, name):
        if request.engine == "slurm":
            _submit_to_slurm(storage, crew, request.print_script)
        else:
            progress.follow_workers(
                storage, name, lambda tell: ray.supervise_actors(crew, stop.event, tell), stop
            )


def _refuse_scheduler_options(request: LaunchRequest) -> None:
    flags = {"--workers": request.workers, "--option": request.options, "--print": request.print_script}
    for flag, given in flags.items():
        if given:
            advice = "--devices cpu:4 says how many" if flag == "--workers" else "name an --engine"
            engines = "slurm" if flag == "--print" else "slurm or ray"
            raise EngineError(f"{flag} is for workers by {engines}; {advice}")


def _worker_group(name: str, request: LaunchRequest, settings: Mapping[str, str]) -> WorkerGroup | None:
    """Give what a scheduler is to be asked for, if it is one; refuse what does not fit the engine."""
    if request.engine == "local":
        _refuse_scheduler_options(request)
        return None
    if request.devices not in ("auto", "cpu"):
        raise EngineError(
            f"--devices {request.devices}: {request.engine} chooses devices itself; want auto (a GPU for each "
            "worker) or cpu, and --workers N"
        )
    if request.workers_per_device != 1:
        way = "num_gpus=0.5" if request.engine == "ray" else "gres=shard:1, where your Slurm shares GPUs"
        raise EngineError(
            f"--workers-per-device is for local workers; with {request.engine}: --option {way}"
        )
    group = WorkerGroup(
        study=name,
        workers=request.workers or 1,
        gpus=False if request.devices == "cpu" else None,
        settings=settings,
        options=dict(map(_parse_option, request.options)),
    )
    if request.engine == "slurm":
        _refuse_sqlite(group, "--engine slurm", "on one node 'hpo launch' within a job of yours will do")
        return group
    if request.print_script:
        raise EngineError("--print is for workers by slurm; ray has no script")
    where = ray.cluster_address(group.options)
    if where is not None:
        _refuse_sqlite(group, f"--engine ray, cluster {where}", "without an address Ray runs here alone")
    return group


def _parse_option(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name) or not value.isprintable():
        raise EngineError(
            f"--option {quote_value(text)}: want KEY=VALUE, as partition=gpu, without dashes in front"
        )
    return name, value


def _submit_to_slurm(storage: Storage, group: WorkerGroup, print_script: bool) -> None:
    place = Artifacts(group.settings["HPO_ARTIFACTS"])
    logs = place.logs_folder(studies.artifacts_folder(storage, group.study)).absolute()
    text = slurm.build_script(group, Path.cwd(), logs)
    if print_script:
        print(text, end="")
        return
    job = slurm.submit_script(text, group, logs)
    print(
        f"job {job}: {group.workers} worker{'s' * (group.workers > 1)} of study {group.study}; logs: {logs}"
    )
    progress.print_stderr(
        f"hpo: 'hpo status {group.study}' follows them; 'hpo stop {group.study}' or 'scancel {job}' ends them"
    )


def _refuse_sqlite(group: WorkerGroup, where: str, otherwise: str) -> None:
    if database.sqlite_file(database.parse_url(group.settings["HPO_STORE"])) is not None:
        raise EngineError(
            f"{where}: an SQLite store is for one machine; workers on several want "
            f"--store postgresql://user@host/db, and {otherwise}"
        )
