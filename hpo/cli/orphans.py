"""Find files and folders among the artifacts that nothing in the store refers to.

A crash after a file was written, but before its row was committed, leaves a file that nothing will ever
read. A store that was deleted by hand leaves whole folders. This module only reports them; it deletes
nothing, because a folder may belong to another store.
"""

from collections.abc import Iterable
from pathlib import PurePosixPath

from optuna.trial import FrozenTrial, TrialState

from hpo.artifacts import checkpoint, optuna_store
from hpo.artifacts.folders import LOGS, Artifacts
from hpo.store.study_images import LIST_PREFIX
from hpo.training import data_facts
from hpo.workers import metrics

ALWAYS_KNOWN = ("settings.json", "traceback.txt", metrics.CSV_NAME)
TENSORBOARD_PREFIX = "events.out.tfevents."  # file names of TensorBoard start with this


def unknown_folders(artifacts: Artifacts, folders: Iterable[str]) -> list[str]:
    """Return the sorted names at the top level that belong to no study of this store.

    They may belong to another store. Hidden ones and those that all studies share are not reported.

    Args:
        artifacts: The artifacts.
        folders: The folders of all studies in this store.

    Raises:
        ArtifactError: The artifacts cannot be read, behind a URL.
        OSError: They cannot be read, in a local folder.
    """
    known = {*folders, "cache", optuna_store.ADDED_FOLDER}
    return sorted(
        name for name in artifacts.list_names("") if name not in known and not name.startswith(".")
    )


def unknown_files(artifacts: Artifacts, folder: str, trials: Iterable[FrozenTrial]) -> list[str]:
    """Return the files and trial folders in a study's folder that none of its trials refers to.

    Files of running trials are not reported, because they come and go. Nor are logs, and what is known
    about the study's images.

    Args:
        artifacts: The artifacts.
        folder: The folder of the study.
        trials: All trials of the study.

    Returns:
        Names within the artifacts, sorted.

    Raises:
        ArtifactError: The artifacts cannot be read, behind a URL.
        OSError: They cannot be read, in a local folder.
    """
    by_number = {f"{trial.number:04d}": trial for trial in trials}
    unknown = []
    for name in artifacts.list_names(folder):
        trial = by_number.get(name)
        if name in (LOGS, data_facts.FILE_NAME) or name.startswith(LIST_PREFIX):
            continue
        if trial is None:
            unknown.append(f"{folder}/{name}")
        elif trial.state != TrialState.RUNNING:
            there = artifacts.list_names(f"{folder}/{name}")
            unknown += [f"{folder}/{name}/{file}" for file in there if not _is_known(file, trial)]
    return sorted(unknown)


def _is_known(file: str, trial: FrozenTrial) -> bool:
    if file in ALWAYS_KNOWN or file.startswith(TENSORBOARD_PREFIX):
        return True
    if checkpoint.CHECKPOINT_NAME.fullmatch(file):
        return bool(trial.user_attrs.get("checkpoint"))  # the one that the trial names, and its predecessor
    return file == PurePosixPath(trial.user_attrs.get("weights") or "").name
