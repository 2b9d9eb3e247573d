"""The doctor: checks devices, store, studies, artifacts, data and weights, and says what to do."""

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

from hpo.analysis.formatting import describe_device
from hpo.artifacts.folders import Artifacts
from hpo.cli import orphans
from hpo.errors import DataError, DefinitionError, HpoError, StoreMissing, format_bytes, join_names
from hpo.store import database, folders, lease_info, queue, status, studies, waits
from hpo.store.lease_info import LeaseInfo
from hpo.store.storage import Storage
from hpo.training import config, decoded_cache, devices, sources, weights

FindingState = Literal["works", "absent", "doubtful", "broken"]

LOW_SPACE_BYTES = 5 * 2**30  # what two workers' checkpoints of VGG16 with momentum take
OTHER_LOCATION = "choose another location"
FULL_DISK_BYTES = 100 * 2**20  # less than the checkpoint of any model takes


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    subject: str  # what was checked: cpu, store, a data set, "study NAME"
    state: FindingState  # absent: not here, but a study can run; doubtful: works, but look at it
    message: str
    advice: str = ""  # what to do


def run_checks(store_url: str, artifacts: str, data: Path) -> list[Finding]:
    """Check everything that a study needs on this machine.

    Creates no store and no folder. It writes a probe file to the artifacts and removes it; in the data
    folder it leaves the data sets' hidden lock files. Errors of the store, the artifacts and the data sets
    become findings.

    Args:
        store_url: URL of the store.
        artifacts: Folder or URL of the artifacts.
        data: Folder of the data sets.

    Returns:
        The findings, in the order in which they are shown.
    """
    store = list(_report_errors("store", lambda: _check_store(store_url)))
    place = list(_report_errors("artifacts", lambda: _check_artifacts(artifacts)))
    is_open = any(each.subject == "store" and each.state in ("works", "doubtful") for each in store)
    return [
        *_report_errors("gpu", _check_devices),
        *store,
        *place,
        *_report_errors("decoded images", lambda: _check_decoded_images(artifacts)),
        *(_report_errors("studies", lambda: _check_studies(store_url, artifacts)) if is_open else ()),
        *_report_errors("data", lambda: _check_data(data)),
        *_report_errors("weights", _check_weights),
    ]


def _report_errors(what: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except HpoError as error:
        yield Finding(subject=what, state="broken", message=str(error).removeprefix(f"{what} "))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}"
        yield Finding(subject=what, state="broken", message=message, advice=OTHER_LOCATION)


def clear_cache(artifacts: str) -> str:
    """Remove the decoded images that no worker uses; return what that did, in one line.

    Raises:
        ArtifactError: If the URL of the artifacts is not supported.
    """
    cache = _decoded_cache(artifacts)
    freed, left = cache.clear(), cache.measure()
    kept = f"; {left.describe()} in use are left" if left.nbytes else ""
    return f"removed {format_bytes(freed)} of decoded images from {cache.folder}{kept}"


def _check_decoded_images(artifacts: str) -> Iterator[Finding]:
    """Report how much the decoded images of this machine take."""
    cache = _decoded_cache(artifacts)
    if (found := cache.measure()).nbytes:
        yield Finding(
            subject="decoded images",
            state="works",
            message=f"{found.describe()} in {cache.folder}",
            advice="'hpo doctor --clear-cache' removes those that no worker uses",
        )


def _decoded_cache(artifacts: str) -> decoded_cache.DecodedCache:
    return decoded_cache.DecodedCache(decoded_cache.cache_folder(Artifacts(artifacts)))


def _check_devices() -> Iterator[Finding]:
    yield Finding(
        subject="cpu", state="works", message=f"{devices.core_count()} cores, torch {torch.__version__}"
    )
    devices.installed_gpu_uuids()  # raises if the driver is broken, where PyTorch would see no GPU
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        size = f"{card.total_memory / 2**30:.0f} GiB"
        yield Finding(subject=f"cuda:{index}", state="works", message=f"{card.name}, {size}")
    if not torch.cuda.device_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = f"CUDA_VISIBLE_DEVICES is {visible!r}" if visible is not None else "no driver or no GPU"
        advice = "workers run on the CPU"
        yield Finding(subject="gpu", state="absent", message=f"none found ({hidden})", advice=advice)


def _check_store(url: str) -> Iterator[Finding]:
    parsed = database.parse_url(url)
    where, path = database.hide_password(parsed), database.sqlite_file(parsed)
    if path is not None:
        yield from _check_sqlite(path)
        if not path.exists():
            yield _missing("store", where, path, "'hpo run STUDY' creates it")
            return
    try:
        storage = studies.open_storage(url, create=False)
    except StoreMissing:
        message, advice = f"{where} holds no store yet", "'hpo run STUDY' creates it"
        if path is None:
            advice = "'hpo create STUDY' creates it; where there are roles, only the owner may"
        yield Finding(subject="store", state="absent", message=message, advice=advice)
        return
    count = len(studies.study_names(storage))
    message = f"{where}, {count} {'study' if count == 1 else 'studies'}"
    if path is not None and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        message, advice = f"{message}, read-only", f"make {path} and its folder writable for workers"
        yield Finding(subject="store", state="doubtful", message=message, advice=advice)
        return
    yield Finding(subject="store", state="works", message=message)
    if path is not None:
        yield from _check_free_space("store", path.parent)


def _check_sqlite(path: Path) -> Iterator[Finding]:
    """Check the version of SQLite, the journal mode of the file and the kind of its disk."""
    version = f"version {sqlite3.sqlite_version}"
    if database.is_wal_sound(sqlite3.sqlite_version_info):
        yield Finding(subject="sqlite", state="works", message=version)
    elif database.journal_mode(path) != "wal":
        message = f"{version} has a bug in its write-ahead log; hpo uses the rollback journal instead"
        yield Finding(subject="sqlite", state="works", message=message)
    else:
        message = f"{version} can corrupt {path}, which uses a write-ahead log"
        change = f"sqlite3 {path} 'PRAGMA journal_mode = DELETE'"
        advice = f"stop its workers and run: {change}; or install a newer SQLite"
        yield Finding(subject="sqlite", state="broken", message=message, advice=advice)
    if kind := database.network_disk(path):
        message = f"{path} is on a network disk ({kind}), where SQLite's locks are not reliable"
        advice = "move it to a local disk, or use Postgres"
        yield Finding(subject="sqlite", state="broken", message=message, advice=advice)


def _check_studies(url: str, artifacts: str) -> Iterator[Finding]:
    """Check each study: leases, trials of other tools, hardware, and files that no trial refers to."""
    storage, place = studies.open_storage(url, create=False), Artifacts(artifacts)
    owned: list[str] = []
    for name in studies.study_names(storage):
        study_id, trials = studies.find_study_id(storage, name), status.read_trials(storage, name)
        held = lease_info.read_leases(storage, study_id)
        yield from _check_trials(name, trials, held)
        if queue.has_open_trials(storage, study_id):
            yield from _check_weights_of_study(storage, name)
        folder = folders.stored_folder(storage, study_id)
        if folder is None:
            message = "names no folder of its own in the artifacts, so its files cannot be found"
            yield Finding(subject=f"study {name}", state="broken", message=message)
            continue
        owned.append(folder)
        unknown = orphans.unknown_files(place, folder, trials)
        yield from _report_unknown_files(
            f"study {name}", unknown, place, "no trial refers to them; you can delete them"
        )
    unknown = orphans.unknown_folders(place, owned)
    yield from _report_unknown_files(
        "artifacts",
        unknown,
        place,
        "no study of this store owns them; delete them unless another store does",
    )


def _check_trials(name: str, trials: list[FrozenTrial], held: list[LeaseInfo]) -> Iterator[Finding]:
    what = f"study {name}"
    for worker in held:
        if not worker.is_alive:
            message = f"trial {worker.trial}: worker {worker.owner} died or sent no heartbeat for too long"
            advice = f"the next worker takes over the trial; 'hpo launch {name}' starts workers"
            yield Finding(subject=what, state="doubtful", message=message, advice=advice)
    for number in waits.foreign_trials(trials, held):
        advice = "hpo does not touch it; if nothing runs it any more, end it with Optuna's study.tell"
        message = f"trial {number} is run by another tool"
        yield Finding(subject=what, state="doubtful", message=message, advice=advice)
    kinds = Counter(hardware for trial in trials if (hardware := _hardware_text(trial)))
    if len(kinds) > 1:
        listed = "; ".join(f"{count} on {kind}" for kind, count in kinds.most_common())
        advice = "compare wall times only within one kind of hardware"
        yield Finding(subject=what, state="doubtful", message=f"mixed hardware: {listed}", advice=advice)


def _check_weights_of_study(storage: Storage, name: str) -> Iterator[Finding]:
    """Report the files of weights that an unfinished study would download here."""
    try:
        kinds = sorted(studies.read_definition(storage, name).model_weights())
    except DefinitionError:  # of another version of hpo, which its worker says
        return
    if missing := weights.missing_files(kinds):
        advice = "its trials download them; without a network, get " + join_names(
            (each.url for each in missing), 10
        )
        message = weights.describe_missing(missing)
        yield Finding(subject=f"weights for {name}", state="absent", message=message, advice=advice)


def _hardware_text(trial: FrozenTrial) -> str:
    found = trial.user_attrs.get("hardware")
    if not found:
        return ""
    more = (str(found[key]) for key in ("precision", "threads") if key in found)
    return ", ".join([describe_device(found), *more])


def _report_unknown_files(what: str, names: list[str], place: Artifacts, advice: str) -> Iterator[Finding]:
    if names:
        what_kind = "file or folder" if len(names) == 1 else "files or folders"
        message = f"{len(names)} unknown {what_kind} in {place.path('')}: {join_names(names)}"
        yield Finding(subject=what, state="doubtful", message=message, advice=advice)


def _check_artifacts(root: str) -> Iterator[Finding]:
    place = Artifacts(root)
    if place.is_local and not Path(place.root).exists():
        yield _missing("artifacts", root, Path(place.root), "the first trial creates it")
        return
    if place.is_local and not Path(place.root).is_dir():
        message = f"{root} is not a folder"
        yield Finding(subject="artifacts", state="broken", message=message, advice=OTHER_LOCATION)
        return
    place.probe()
    yield Finding(subject="artifacts", state="works", message=f"{root} is writable")
    yield from _check_free_space("artifacts", Path(place.root if place.is_local else tempfile.gettempdir()))


def _missing(what: str, name: str, path: Path, advice: str) -> Finding:
    """Report a missing file or folder, and whether it can be created."""
    above = next((each for each in path.absolute().parents if each.exists()), None)
    if above is not None and not (above.is_dir() and os.access(above, os.W_OK)):
        problem = "not writable" if above.is_dir() else "not a folder"
        message = f"{name} does not exist, and {above} is {problem}"
        return Finding(subject=what, state="broken", message=message, advice=OTHER_LOCATION)
    return Finding(subject=what, state="absent", message=f"{name} does not exist", advice=advice)


def _check_free_space(what: str, folder: Path) -> Iterator[Finding]:
    """Report a disk only if it may run out of space."""
    free = shutil.disk_usage(folder).free
    if free < LOW_SPACE_BYTES:
        message = f"{free / 2**30:.1f} GiB free on the disk of {folder}"
        advice = "free some space: a checkpoint of VGG16 takes 1.1 GiB, and each trial keeps two"
        verdict: FindingState = "doubtful" if free > FULL_DISK_BYTES else "broken"
        yield Finding(subject=what, state=verdict, message=message, advice=advice)


def _check_data(root: Path) -> Iterator[Finding]:
    place = root if root.exists() else next(each for each in root.absolute().parents if each.exists())
    if not place.is_dir():
        message = f"{place} is not a folder, so no data set can be in {root}"
        yield Finding(subject="data", state="broken", message=message, advice=OTHER_LOCATION)
        return
    absent = []
    for name in config.DATASETS:
        try:
            there = sources.has_copy(name, root)
            is_packed = None if there else sources.is_packed(name, root)
        except DataError as error:
            yield Finding(subject=name, state="broken", message=str(error))
            continue
        if there:
            yield Finding(subject=name, state="works", message="present")
        elif is_packed is not None:
            yield _report_archive(name, root, is_packed)
        else:
            absent.append(name)
    if absent:
        advice = (
            "the first trial downloads what it uses, or without a network names the files to put there; "
            "--data sets another folder"
        )
        message = f"not in {root}: {', '.join(absent)}"
        yield Finding(subject="data", state="absent", message=message, advice=advice)


def _report_archive(name: str, root: Path, is_sound: bool) -> Finding:
    """Report the archive of a data set that is still to be unpacked."""
    archive = sources.MANUAL_FILES[name]
    if not is_sound:
        message, advice = f"{archive} in {root} is damaged", "the first trial downloads it again"
        return Finding(subject=name, state="doubtful", message=message, advice=advice)
    if not os.access(root, os.W_OK):
        message, advice = f"{archive} in {root} cannot be unpacked there", f"make {root} writable"
        return Finding(subject=name, state="broken", message=message, advice=advice)
    return Finding(subject=name, state="works", message=f"present; the first trial unpacks {archive}")


def _check_weights() -> Iterator[Finding]:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    found = sorted(path.name for path in folder.glob("*.pth"))
    advice = "" if found else "the first trial downloads what it needs; TORCH_HOME sets another folder"
    yield Finding(
        subject="weights",
        state="works" if found else "absent",
        message=f"{', '.join(found) or 'none'} in {folder}",
        advice=advice,
    )
