"""The doctor: devices, store, studies, artifacts, data, weights: what works, what does not, what to do."""

import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from optuna.trial import FrozenTrial

from hpo.artifacts.folders import Artifacts
from hpo.cli import orphans
from hpo.errors import DataError, HpoError
from hpo.store import database, lease_info, status, studies
from hpo.store.lease_info import LeaseInfo
from hpo.training import config, sources

FindingState = Literal["works", "absent", "doubtful", "broken"]

LOW_SPACE_BYTES = 5 * 2**30  # bytes: what two workers' checkpoints of VGG16 with its momentum take
FULL_DISK_BYTES = 100 * 2**20  # bytes: less than any network's checkpoint


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    state: FindingState
    message: str
    advice: str = ""


def run_checks(store_url: str, artifacts: str, data: Path) -> list[Finding]:
    """Look at everything a study needs here; changes nothing but for a probe file that it removes."""
    return [
        *_check_devices(),
        *_report_errors("store", lambda: _check_store(store_url)),
        *_report_errors("artifacts", lambda: _check_artifacts(artifacts)),
        *_report_errors("studies", lambda: _check_studies(store_url, artifacts)),
        *_check_data(data),
        *_check_weights(),
    ]


def _report_errors(what: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except (HpoError, OSError) as error:
        yield Finding(subject=what, state="broken", message=str(error).removeprefix(f"{what} "))


def _check_devices() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(subject="cpu", state="works", message=f"{cores} cores, torch {torch.__version__}")
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        size = f"{card.total_memory / 2**30:.0f} GiB"
        yield Finding(subject=f"cuda:{index}", state="works", message=f"{card.name}, {size}")
    if not torch.cuda.device_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = f"CUDA_VISIBLE_DEVICES is {visible!r}" if visible is not None else "no driver or no card"
        advice = "workers run on the CPU"
        yield Finding(subject="gpu", state="absent", message=f"none seen ({hidden})", advice=advice)


def _check_store(url: str) -> Iterator[Finding]:
    parsed = database.parse_url(url)
    where, path = database.hide_password(parsed), database.sqlite_file(parsed)
    if path is not None:
        yield from _check_sqlite(path)
        if not path.exists():
            yield _missing("store", where, path, "'hpo run STUDY' makes it")
            return
    opened = studies.open_storage(url, create=False)
    message = f"{where}, {len(status.study_names(opened))} studies"
    if path is not None and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        message, advice = f"{message}, can only be read", f"let workers write {path} and its folder"
        yield Finding(subject="store", state="doubtful", message=message, advice=advice)
        return
    yield Finding(subject="store", state="works", message=message)
    if path is not None:
        yield from _check_free_space("store", path.parent)


def _check_sqlite(path: Path) -> Iterator[Finding]:
    """Look at SQLite itself, at the file's journal, and at the kind of disk that it lies on."""
    version = f"version {sqlite3.sqlite_version}"
    if database.is_wal_sound(sqlite3.sqlite_version_info):
        yield Finding(subject="sqlite", state="works", message=version)
    elif database.journal_mode(path) != "wal":
        message = f"{version}, whose write-ahead log is not sound; the rollback journal is used instead"
        yield Finding(subject="sqlite", state="works", message=message)
    else:
        message = f"{version} can spoil {path}, which has a write-ahead log"
        advice = f"stop its workers, then: sqlite3 {path} 'PRAGMA journal_mode = DELETE'; or a newer SQLite"
        yield Finding(subject="sqlite", state="broken", message=message, advice=advice)
    if kind := database.network_disk(path):
        message = f"{path} lies on a network disk ({kind}), where SQLite's locks do not hold"
        advice = "move it to a local disk, or use Postgres"
        yield Finding(subject="sqlite", state="broken", message=message, advice=advice)


def _check_studies(url: str, artifacts: str) -> Iterator[Finding]:
    """Look at each study: leases, foreign trials, hardware, files that nobody knows."""
    path = database.sqlite_file(database.parse_url(url))
    if path is not None and not path.exists():
        return
    opened, place = studies.open_storage(url, create=False), Artifacts(artifacts)
    names = status.study_names(opened)
    for name in names:
        trials = status.read_trials(opened, name)
        held = lease_info.read_leases(opened, studies.find_study_id(opened, name))
        yield from _check_trials(name, trials, held)
        unknown = orphans.unknown_files(place, studies.artifacts_folder(opened, name), trials)
        yield from _report_unknown_files(
            f"study {name}", unknown, place, "no trial of it names them; remove them"
        )
    folders = [studies.artifacts_folder(opened, name) for name in names]
    unknown = orphans.unknown_folders(place, folders)
    yield from _report_unknown_files(
        "artifacts", unknown, place, "no study of this store has them; if no other store does, remove them"
    )


def _check_trials(name: str, trials: list[FrozenTrial], held: list[LeaseInfo]) -> Iterator[Finding]:
    what = f"study {name}"
    for worker in held:
        if not worker.is_alive:
            message = f"trial {worker.trial}'s worker {worker.owner} is gone, or silent for too long"
            advice = f"the next worker takes it up; 'hpo launch {name}' starts some"
            yield Finding(subject=what, state="doubtful", message=message, advice=advice)
    for number in status.foreign_trials(trials, held):
        advice = "hpo leaves it alone; if nobody runs it, end it with Optuna's study.tell"
        message = f"trial {number} runs under another tool"
        yield Finding(subject=what, state="doubtful", message=message, advice=advice)
    kinds = Counter(hardware for trial in trials if (hardware := _hardware_text(trial)))
    if len(kinds) > 1:
        listed = "; ".join(f"{count} on {kind}" for kind, count in kinds.most_common())
        advice = "compare wall times within one kind alone"
        yield Finding(subject=what, state="doubtful", message=f"mixed hardware: {listed}", advice=advice)


def _hardware_text(trial: FrozenTrial) -> str:
    found = trial.user_attrs.get("hardware") or {}
    return ", ".join(str(found[key]) for key in ("device", "precision", "threads") if key in found)


def _report_unknown_files(what: str, names: list[str], place: Artifacts, advice: str) -> Iterator[Finding]:
    if names:
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        message = f"{len(names)} unknown in {place.path('')}: {some}"
        yield Finding(subject=what, state="doubtful", message=message, advice=advice)


def _check_artifacts(root: str) -> Iterator[Finding]:
    place = Artifacts(root)
    if place.is_local and not Path(place.root).exists():
        yield _missing("artifacts", root, Path(place.root), "the first trial makes it")
        return
    place.probe()
    yield Finding(subject="artifacts", state="works", message=f"{root} can be written")
    yield from _check_free_space("artifacts", Path(place.root if place.is_local else tempfile.gettempdir()))


def _missing(what: str, name: str, path: Path, advice: str) -> Finding:
    """Say that something is not there yet, and whether it could be made."""
    above = next((each for each in path.absolute().parents if each.exists()), None)
    if above is not None and not os.access(above, os.W_OK):
        message = f"{name} is not there, and {above} cannot be written"
        return Finding(subject=what, state="broken", message=message, advice="name another place")
    return Finding(subject=what, state="absent", message=f"{name} is not there", advice=advice)


def _check_free_space(what: str, folder: Path) -> Iterator[Finding]:
    """Look at the room on a disk; only what may run out is worth a line."""
    free = shutil.disk_usage(folder).free
    if free < LOW_SPACE_BYTES:
        message = f"{free / 2**30:.1f} GiB free on the disk of {folder}"
        advice = "make room: a checkpoint of VGG16 takes 1.1 GiB, and two are kept of a trial"
        verdict: FindingState = "doubtful" if free > FULL_DISK_BYTES else "broken"
        yield Finding(subject=what, state=verdict, message=message, advice=advice)


def _check_data(root: Path) -> Iterator[Finding]:
    for name in config.DATASETS:
        try:
            there = sources.is_available(name, root)
        except DataError as error:
            yield Finding(subject=name, state="broken", message=str(error))
            continue
        if there:
            yield Finding(subject=name, state="works", message="here")
        else:
            advice = f"the first trial downloads it into {root}; --data names another folder"
            yield Finding(subject=name, state="absent", message="not here", advice=advice)


def _check_weights() -> Iterator[Finding]:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    found = sorted(path.name for path in folder.glob("*.pth"))
    advice = "" if found else "the first trial downloads what it needs; TORCH_HOME names another folder"
    yield Finding(
        subject="weights",
        state="works" if found else "absent",
        message=f"{', '.join(found) or 'none'} in {folder}",
        advice=advice,
    )
