"""The doctor: devices, store, artifacts, data sets and weights: what works, what does not, what to do."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from hpo import config, sources, store
from hpo.artifacts import Artifacts
from hpo.errors import DataError, HpoError

LOW_SPACE = 5 * 2**30  # bytes; a checkpoint of VGG16 with its momentum takes 1.1 GiB, and two are kept


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    what: str
    verdict: Literal["works", "absent", "broken"]
    message: str
    advice: str = ""


def examine(store_url: str, artifacts: str, data: Path) -> list[Finding]:
    """Look at everything a study needs here; changes nothing but for a probe file that it removes."""
    return [
        *_devices(),
        *_guarded("store", lambda: _store(store_url)),
        *_guarded("artifacts", lambda: _artifacts(artifacts)),
        *_data(data),
        *_weights(),
    ]


def _guarded(what: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except (HpoError, OSError) as error:
        yield Finding(what=what, verdict="broken", message=str(error))


def _devices() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(what="cpu", verdict="works", message=f"{cores} cores, torch {torch.__version__}")
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        size = f"{card.total_memory / 2**30:.0f} GiB"
        yield Finding(what=f"cuda:{index}", verdict="works", message=f"{card.name}, {size}")
    if not torch.cuda.device_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = f"CUDA_VISIBLE_DEVICES is {visible!r}" if visible is not None else "no driver or no card"
        advice = "workers run on the CPU"
        yield Finding(what="gpu", verdict="absent", message=f"none seen ({hidden})", advice=advice)


def _store(url: str) -> Iterator[Finding]:
    parsed = store.parse_url(url)
    where = store.shown(parsed)
    path = Path(parsed.database or "")
    if parsed.drivername == "sqlite":
        yield Finding(what="sqlite", verdict="works", message=f"version {sqlite3.sqlite_version}")
        if not path.exists():
            advice = "'hpo run STUDY' makes it"
            yield Finding(what="store", verdict="absent", message=f"{where} is not there", advice=advice)
            return
    opened = store.open_(url, create=False)
    count = len(opened.get_all_studies())
    yield Finding(what="store", verdict="works", message=f"{where}, {count} studies")


def _artifacts(root: str) -> Iterator[Finding]:
    place = Artifacts(root)
    if not place.filesystem.exists(place.root):
        advice = "the first trial makes it"
        yield Finding(what="artifacts", verdict="absent", message=f"{root} is not there", advice=advice)
        return
    probe = f"{place.root}/.doctor-{os.getpid()}"
    place.filesystem.pipe_file(probe, b"hpo")
    place.filesystem.rm_file(probe)
    if not place.local:
        yield Finding(what="artifacts", verdict="works", message=f"{root} can be written")
        return
    free = shutil.disk_usage(place.root).free
    yield Finding(
        what="artifacts",
        verdict="works" if free > LOW_SPACE else "broken",
        message=f"{root} can be written, {free / 2**30:.1f} GiB free",
        advice="" if free > LOW_SPACE else "make room: checkpoints of VGG16 take 1.1 GiB each",
    )


def _data(root: Path) -> Iterator[Finding]:
    for name in config.DATASETS:
        try:
            there = sources.is_there(name, root)
        except DataError as error:
            yield Finding(what=name, verdict="broken", message=str(error))
            continue
        if there:
            yield Finding(what=name, verdict="works", message="here")
        else:
            advice = f"the first trial downloads it into {root}; --data names another folder"
            yield Finding(what=name, verdict="absent", message="not here", advice=advice)


def _weights() -> Iterator[Finding]:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    found = sorted(path.name for path in folder.glob("*.pth"))
    advice = "" if found else "the first trial downloads what it needs; TORCH_HOME names another folder"
    yield Finding(
        what="weights",
        verdict="works" if found else "absent",
        message=f"{', '.join(found) or 'none'} in {folder}",
        advice=advice,
    )
