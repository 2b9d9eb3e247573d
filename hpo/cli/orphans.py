"""The inventory: what lies in the artifacts, and what of it no row of the store names.

A crash between a file and its row leaves a file that nobody will ever look for, and a store that was
deleted by hand leaves whole folders. Nothing here removes anything: whoever knows may.
"""

from collections.abc import Iterable
from pathlib import PurePosixPath

from optuna.trial import FrozenTrial, TrialState

from hpo.artifacts import checkpoint, optuna_store
from hpo.artifacts.folders import LOGS, Artifacts
from hpo.workers import metrics

ALWAYS_KNOWN = ("settings.json", "traceback.txt", metrics.CSV_NAME)
TENSORBOARD_PREFIX = "events.out.tfevents."  # how TensorBoard's files begin


def unknown_folders(artifacts: Artifacts, folders: Iterable[str]) -> list[str]:
    """Give the top folders that are none of ``folders``, the studies' own: perhaps another store's."""
    known = {*folders, "cache", optuna_store.ADDED_FOLDER}
    return sorted(
        name for name in artifacts.list_names("") if name not in known and not name.startswith(".")
    )


def unknown_files(artifacts: Artifacts, folder: str, trials: Iterable[FrozenTrial]) -> list[str]:
    """Give the files of a study's folder that no trial of it knows; those of running trials come and go."""
    by_number = {f"{trial.number:04d}": trial for trial in trials}
    unknown = []
    for name in artifacts.list_names(folder):
        trial = by_number.get(name)
        if name == LOGS:
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
        return bool(trial.user_attrs.get("checkpoint"))  # the one named, and the one before it
    return file == PurePosixPath(trial.user_attrs.get("weights") or "").name
