"""What the store's attributes say, checked where they are read.

An attribute is input: other tools write attributes too, and whoever may write to the store may write
anything. This module says which values hpo itself could have written. Everything else reads as absent, so
no reader has to expect a text where a number belongs, or a path that leads elsewhere.

Trials pass ``check_trial`` (``status.read_trials``, the dashboard) or its two parts (``rows``); a study's
attributes are read by ``parse_folder``, ``parse_images`` and ``parse_order``. Attributes that hpo does not
write stay as they are.
"""

import copy
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from optuna.trial import FrozenTrial

from hpo.artifacts import names
from hpo.search.asha import PAUSED_AT_RUNG, PROMOTED_PAST_RUNG, RUNG_DECISIONS
from hpo.search.early_stopping import STOPPED_EARLY
from hpo.search.replicates import REPLICATE_OF
from hpo.training.config import MEMORY_FORMATS, PRECISIONS

RUN_OPTIONS = "hpo:run"  # system attribute of a trial: options of its point other than hyperparameters
LAST_MOMENT = 250_000_000_000  # seconds since 1970, in the year 9892
ORDER_PAUSED, ORDER_STOPPED = "paused", "stopped"
MAX_COUNT = 10**9  # of epochs, attempts, trials
MAX_SECONDS = 1e12
MAX_THREADS = 1024
MAX_VALUE = 1e100  # of a trial: the squares of larger ones are infinite
# A JSON text that ``is_seconds`` accepts, as a regular expression for SQL.
SECONDS_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,30})?(e-[0-9]{1,3})?$"

# A media type or an encoding, which become headers of a response.
HEADER_TEXT = re.compile(r"[A-Za-z0-9!#$&^_.+*/;=\" -]{1,200}")

# What ``used_files.UsedFiles.fingerprint`` returns.
_IMAGES = re.compile(r"[0-9]{1,10} images, blake2b [0-9a-f]{32}")

Check = Callable[[Any], bool]


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT


def is_seconds(value: Any) -> bool:
    """Return whether a value is a duration: a finite number, not negative."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MAX_SECONDS


def is_text(value: Any) -> bool:
    """Return whether a value is a text that can be written to a file or a terminal."""
    return isinstance(value, str) and (value.isascii() or value == _printable(value))


def is_moment(value: Any) -> bool:
    """Return whether a value is a time, in seconds since 1970, in a year that a calendar can show."""
    return isinstance(value, int | float) and 0 <= value < LAST_MOMENT


def is_scalar(value: Any) -> bool:
    """Return whether a value is a text, a number that is finite, a truth value or None."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, int | bool) or is_text(value)


def _is_setting(value: Any) -> bool:
    """Return whether a value is a setting: scalars by name; epochs and seed are whole numbers."""
    return _is_object(value) and all(is_count(value[key]) for key in ("epochs", "seed") if key in value)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and all(is_text(key) and is_scalar(each) for key, each in value.items())


def _is_hardware(value: Any) -> bool:
    """Return whether a value describes hardware; a resumed trial uses its threads and the two choices."""
    if not _is_object(value) or not is_text(value.get("device")):
        return False
    threads, precision = value.get("threads", 1), value.get("precision", PRECISIONS[0])
    memory_format = value.get("memory_format", MEMORY_FORMATS[0])
    known = precision in PRECISIONS and memory_format in MEMORY_FORMATS
    return known and _is_positive(threads) and threads <= MAX_THREADS


def _is_failure(value: Any) -> bool:
    return _is_object(value) and all(isinstance(value.get(key, ""), str) for key in ("class", "message"))


def _is_list_of_seconds(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_seconds, value))


def _is_metrics(value: Any) -> bool:
    """Return whether a value is a list of finite numbers or None, one of each epoch, by a metric's name."""
    return isinstance(value, dict) and all(
        isinstance(each, list) and all(isinstance(x, int | float | None) and is_scalar(x) for x in each)
        for each in value.values()
    )


def _are_decisions(value: Any) -> bool:
    """Return whether a value is a list of the fields of a ``StoredDecision``."""
    return isinstance(value, list) and all(map(_is_decision, value))


def _is_decision(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"rung", "kind", "reason", "expected"}:
        return False
    expected = value["expected"]
    numbers = expected is None or (
        isinstance(expected, list)
        and len(expected) == 3
        and all(isinstance(each, int | float) and is_scalar(each) for each in expected)
    )
    return _is_positive(value["rung"]) and is_text(value["kind"]) and is_text(value["reason"]) and numbers


def _is_positive(value: Any) -> bool:
    return is_count(value) and value > 0


_USER: Mapping[str, Check] = {
    "point": is_count,
    "repeats": is_count,
    "attempts": is_count,
    "epochs": is_count,
    "best_epoch": _is_positive,
    "images": _is_positive,
    "baseline": is_seconds,
    "wall_time_seconds": is_seconds,
    "epoch_seconds": _is_list_of_seconds,
    "metrics": _is_metrics,
    "parameters": is_count,
    "latency_ms": is_seconds,
    "hardware": _is_hardware,
    "failure": _is_failure,
    "pruned": is_text,
    "objective_code": is_text,
}
_SYSTEM: Mapping[str, Check] = {
    RUN_OPTIONS: _is_setting,
    "fixed_params": _is_object,
    "grid_id": is_count,
    REPLICATE_OF: is_count,
    PAUSED_AT_RUNG: lambda value: value is None or _is_positive(value),
    PROMOTED_PAST_RUNG: is_count,
    STOPPED_EARLY: _is_positive,
    RUNG_DECISIONS: _are_decisions,
}


def check_user_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's user attributes without those that have a value which hpo does not write.

    Texts that cannot be written get backslashes. Paths are left for ``check_trial``, which knows the
    study's folder.
    """
    return with_printable_texts(
        {key: value for key, value in attributes.items() if key not in _USER or _USER[key](value)}
    )


def with_printable_texts(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes with backslashes in texts that cannot be written to a file or a terminal."""
    return {key: _printable(each) if isinstance(each, str) else each for key, each in attributes.items()}


def check_system_attributes(attributes: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return a trial's system attributes without those that have a value which hpo does not write.

    Args:
        attributes: The attributes, by key.
        number: The trial's number; the first trial of its setting has a lower one.
    """
    found = {key: each for key, each in attributes.items() if key not in _SYSTEM or _SYSTEM[key](each)}
    if found.get(REPLICATE_OF, -1) >= number:
        del found[REPLICATE_OF]
    return found


def check_value(value: float | None) -> float | None:
    """Return the value of a trial; None for one that no mean or variance can be computed with."""
    return value if value is not None and abs(value) <= MAX_VALUE else None


def check_trial(trial: FrozenTrial, folder: str | None) -> FrozenTrial:
    """Return a trial with checked attributes and value: itself, or a copy if something had to be left out.

    Args:
        trial: The trial as the store has it.
        folder: The folder of its study in the artifacts. Names of files anywhere but in the trial's own
            folder below it are left out; None leaves out all.
    """
    user = check_user_attributes(trial.user_attrs)
    for key, is_right in (("weights", names.is_weights_of), ("checkpoint", names.is_file_of)):
        if user.get(key) is not None and not is_right(user[key], folder, trial.number):
            del user[key]
    system = check_system_attributes(trial.system_attrs, trial.number)
    given = trial.values or ()
    values = [value for value in map(check_value, given) if value is not None]
    if user == trial.user_attrs and system == trial.system_attrs and len(values) == len(given):
        return trial
    checked = copy.copy(trial)
    checked.user_attrs, checked.system_attrs = user, system
    if len(values) < len(given):
        checked.values = None
    return checked


def parse_folder(text: str | None) -> str | None:
    """Return the folder that a study's attribute names.

    Args:
        text: The attribute as JSON; None if the study has none.

    Returns:
        The name of a folder directly in the artifacts; None if hpo could not have given it.
    """
    folder = parse_json(text)
    return folder if names.is_study_folder(folder) else None


def parse_images(text: str | None) -> str | None:
    """Return the fingerprint of a study's images from its attribute, given as JSON; None if it has none."""
    fingerprint = parse_json(text)
    return fingerprint if isinstance(fingerprint, str) and _IMAGES.fullmatch(fingerprint) else None


def parse_order(text: str | None) -> str | None:
    """Return the order that a study's attribute gives; None if it may continue.

    Args:
        text: The attribute as JSON; None if the study has none.
    """
    order = parse_json(text)
    return order if order in (ORDER_PAUSED, ORDER_STOPPED) else None


def parse_first_trial(text: str | None, number: int) -> int | None:
    """Return the number of the first trial of a replicate's setting; None if the trial is no replicate.

    Args:
        text: The attribute ``REPLICATE_OF`` as JSON; None if the trial has none.
        number: The trial's number.
    """
    first: int | None = check_system_attributes({REPLICATE_OF: parse_json(text)}, number).get(REPLICATE_OF)
    return first


def is_attachment_key(key: str) -> bool:
    """Return whether an attribute with a key records a file that a user has attached."""
    return key.startswith(("artifacts:", "dashboard:artifacts:"))


def parse_attachment(key: str, text: Any) -> str | None:
    """Return the id of a file that a user has attached to a study or trial, from its record.

    Args:
        key: The attribute's key, which ends in the file's id.
        text: The attribute's value: JSON again.

    Returns:
        The id; None if the value is none that optuna-dashboard or Optuna writes, which also holds a file
        name, a media type and an encoding, or if the file was removed.
    """
    found = parse_json(text) if isinstance(text, str) else None
    if not isinstance(found, dict) or found.get("artifact_id") != key.rpartition(":")[2]:
        return None
    given = str(found["artifact_id"])
    kind, encoding = found.get("mimetype"), found.get("encoding")
    is_right = names.ATTACHMENT_ID.fullmatch(given) and is_text(found.get("filename"))
    is_header = isinstance(kind, str) and HEADER_TEXT.fullmatch(kind)
    is_encoding = encoding is None or (isinstance(encoding, str) and HEADER_TEXT.fullmatch(encoding))
    return given if is_right and is_header and is_encoding else None


def parse_json(text: str | None) -> Any:
    """Return an attribute's value; None if there is none, or if its text is not JSON."""
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None


def _printable(text: str) -> str:
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
