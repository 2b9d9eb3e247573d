"""Names in the artifacts, and which of them are ours.

Names reach the program from the store's attributes and from requests, so they are input. One that is not of
our own form never becomes a path::

    STUDY-1a2b3c4d/0007/weights-0003-001.safetensors     a study's folder, a trial's folder, a file

``Artifacts`` refuses every name that could leave its root. The functions here say whether a name is that of
a certain study or trial.
"""

import re
import uuid
from typing import Any

STUDY_FOLDER = re.compile(r"[A-Za-z0-9._-]{1,240}-[0-9a-f]{8}")
WEIGHTS_NAME = re.compile(r"weights-(\d{4,9})-(\d{3,9})\.(safetensors|pt)")
ATTACHMENT_ID = re.compile(r"[0-9a-fA-F-]{1,64}")  # of a file that a user attached to a trial or study


def new_study_folder(study: str) -> str:
    """Return a new name for the folder of a study; it contains the study's name and is random."""
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', study)}-{uuid.uuid4().hex[:8]}"


def is_folder_of(folder: str, study: str) -> bool:
    """Return whether a folder was named for a study, not for another one of which that is a copy."""
    return folder.rpartition("-")[0] == new_study_folder(study).rpartition("-")[0]


def is_study_folder(value: Any) -> bool:
    """Return whether a stored value is a name that ``new_study_folder`` could have returned."""
    return isinstance(value, str) and STUDY_FOLDER.fullmatch(value) is not None


def trial_folder(study_folder: str, number: int) -> str:
    """Return the name of a trial's folder.

    Args:
        study_folder: The folder of the study.
        number: The trial's number.
    """
    return f"{study_folder}/{number:04d}"


def is_file_of(value: Any, study_folder: str | None, number: int) -> bool:
    """Return whether a stored value names a file directly in a trial's own folder.

    Args:
        value: The value; anything that JSON can hold.
        study_folder: The folder of the study; None if it has none, then no name is right.
        number: The trial's number.
    """
    if not isinstance(value, str) or study_folder is None:
        return False
    return value.rpartition("/")[0] == trial_folder(study_folder, number) and is_contained(value)


def is_weights_of(value: Any, study_folder: str | None, number: int) -> bool:
    """Return whether a stored value names a weights file directly in a trial's own folder."""
    own = is_file_of(value, study_folder, number)
    return own and WEIGHTS_NAME.fullmatch(value.rpartition("/")[2]) is not None


def epoch_of_weights(name: str) -> int:
    """Return the epoch of a weights file; ``is_weights_of`` must hold for its name."""
    found = WEIGHTS_NAME.fullmatch(name.rpartition("/")[2])
    assert found, name
    return int(found[1])


def epoch_of_checkpoint(name: str) -> int:
    """Return the epoch after which a checkpoint was saved.

    Args:
        name: The name of its file, with or without folders, as ``checkpoint.save`` returns it.
    """
    return int(name.rpartition("/")[2].split("-")[1])


def is_contained(name: str) -> bool:
    """Return whether a name stays below a root that it is appended to, on every file system."""
    parts = name.split("/")
    return all(part not in ("", ".", "..") and part.isprintable() and "\\" not in part for part in parts)
