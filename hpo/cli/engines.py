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
from hpo.errors import EngineError, shown
from hpo.store import database, status, studies
from hpo.store.studies import Store
from hpo.workers import ray, slurm
from hpo.workers.supervisor import Crew

Engine = Literal["local", "slurm", "ray"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What ``hpo launch`` was asked for besides its study."""

    engine: Engine
    devices: str
    workers_per_device: int
    workers: int | None
    options: Iterable[str]  # KEY=VALUE, or a flag's KEY
    show: bool  # show the script instead of submitting it


def launch(
    opened: Store, name: str, asked: Request, settings: Mapping[str, str], stop: progress.Stop
) -> None:
    """Have a study's workers run as asked; local ones and Ray's until they leave, Slurm's from then on.

    Raises EngineError for a request that does not fit its engine.
    """
    crew = _crew(name, asked, settings)
    now = status.status(opened, name)
    if now.state == "complete":
        progress.tell_idle(now)
    elif crew is None:
        progress.workers(opened, name, asked.devices, asked.workers_per_device, settings, stop)
    elif progress.may_work(opened, name):
        if asked.engine == "slurm":
            _by_slurm(opened, crew, asked.show)
        else:
            progress.crew(opened, name, lambda tell: ray.supervise(crew, stop.event, tell), stop)


def _refuse_for_local(asked: Request) -> None:
    flags = {"--workers": asked.workers, "--option": asked.options, "--print": asked.show}
    for flag, given in flags.items():
        if given:
            advice = "--devices cpu:4 says how many" if flag == "--workers" else "name an --engine"
            engines = "slurm" if flag == "--print" else "slurm or ray"
            raise EngineError(f"{flag} is for workers by {engines}; {advice}")


def _crew(name: str, asked: Request, settings: Mapping[str, str]) -> Crew | None:
    """Give what a scheduler is to be asked for, if it is one; refuse what does not fit the engine."""
    if asked.engine == "local":
        _refuse_for_local(asked)
        return None
    if asked.devices not in ("auto", "cpu"):
        raise EngineError(
            f"--devices {asked.devices}: {asked.engine} chooses devices itself; want auto (a GPU for each "
            "worker) or cpu, and --workers N"
        )
    if asked.workers_per_device != 1:
        way = "num_gpus=0.5" if asked.engine == "ray" else "gres=shard:1, where your Slurm shares GPUs"
        raise EngineError(f"--workers-per-device is for local workers; with {asked.engine}: --option {way}")
    crew = Crew(
        study=name,
        workers=asked.workers or 1,
        gpus=False if asked.devices == "cpu" else None,
        settings=settings,
        options=dict(map(_option, asked.options)),
    )
    if asked.engine == "slurm":
        _refuse_sqlite(crew, "--engine slurm", "on one node 'hpo launch' within a job of yours will do")
        return crew
    if asked.show:
        raise EngineError("--print is for workers by slurm; ray has no script")
    where = ray.address(crew.options)
    if where is not None:
        _refuse_sqlite(crew, f"--engine ray, cluster {where}", "without an address Ray runs here alone")
    return crew


def _option(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name) or not value.isprintable():
        raise EngineError(
            f"--option {shown(text)}: want KEY=VALUE, as partition=gpu, without dashes in front"
        )
    return name, value


def _by_slurm(opened: Store, crew: Crew, show: bool) -> None:
    place = Artifacts(crew.settings["HPO_ARTIFACTS"])
    logs = place.logs(studies.folder_of(opened, crew.study)).absolute()
    text = slurm.script(crew, Path.cwd(), logs)
    if show:
        print(text, end="")
        return
    job = slurm.submit(text, crew, logs)
    print(f"job {job}: {crew.workers} worker{'s' * (crew.workers > 1)} of study {crew.study}; logs: {logs}")
    progress.say(
        f"hpo: 'hpo status {crew.study}' follows them; 'hpo stop {crew.study}' or 'scancel {job}' ends them"
    )


def _refuse_sqlite(crew: Crew, where: str, otherwise: str) -> None:
    if database.file_of(database.parse_url(crew.settings["HPO_STORE"])) is not None:
        raise EngineError(
            f"{where}: an SQLite store is for one machine; workers on several want "
            f"--store postgresql://user@host/db, and {otherwise}"
        )
