"""Checkpoints: everything that a training run needs to resume, in one file that can be verified.

The file name contains epoch, step, attempt and the SHA-256 of the content::

    checkpoint-0003-000000-002-9f86d081....pt     after epoch 3, by the second attempt

**Writing.** The file is first made durable under its final name. Only then is the name committed to the
store. A crash between the two leaves a file that no row names.

**Reading.** A reader checks the hash before it unpickles anything, because a file with a flipped byte loads
without an error. If the file is damaged, the reader falls back to the file before it. For this reason the
last two are kept until the trial ends.

**Lost leases.** Each attempt writes under its own number and removes no file of a later attempt. So a
worker that has lost its trial without knowing it cannot damage the files of its successor.

**Contents.** ``torch.save`` accepts any object, but loading accepts only tensors and plain values, so that
no file can run code. Therefore the state of a custom objective is loaded again before its file appears. If
that fails, the trial fails at its first save, not later when it is resumed.
"""

import copy
import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from hpo.artifacts import durable
from hpo.artifacts.folders import KEPT_CHECKPOINTS
from hpo.errors import join_names

CHECKPOINT_NAME = re.compile(r"checkpoint-(\d{4,})-(\d{6,})-(\d{3,})-([0-9a-f]{64})\.pt")
LOADABLE_TYPES = (
    "tensors (torch.as_tensor(x)), numbers (float(x) or x.item()), texts, None, "
    "and lists, tuples, sets and dicts of them"
)

State = Mapping[str, Any]


class _HashingWriter:
    """A file that is written sequentially, the SHA-256 of its content, and the error that writing met."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.hash = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def dump_state(state: Any, file: BinaryIO) -> str:
    """Write a state to a file in the format of ``torch.save``.

    Args:
        state: Tensors and plain values, in dicts and lists. Errors of pickle about other objects pass
            through.
        file: Open for writing bytes.

    Returns:
        The SHA-256 of the content, in hexadecimal digits.

    Raises:
        OSError: If the file cannot be written; ``torch.save`` alone would raise another error.
    """
    writer = _HashingWriter(file)
    try:
        torch.save(state, writer)  # type: ignore[arg-type]  # it needs only write and flush
    except Exception:
        if writer.error is not None:
            raise writer.error from None
        raise
    return writer.hash.hexdigest()


def snapshot(state: Any) -> Any:
    """Return a deep copy of a state with its tensors in the CPU's memory, so that training can go on.

    NumPy scalars, which a mean or a maximum returns and which loading would refuse, become Python numbers.
    Only dicts, lists, tuples and sets are searched for tensors and scalars. Other objects are deep-copied
    as they are.
    """
    if isinstance(state, np.generic):
        return state.item()
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        copied = copy.copy(state)  # of the same type: a model's state dict also carries versions
        copied.clear()  # otherwise keys that are equal would keep their old objects
        copied.update({snapshot(key): snapshot(value) for key, value in state.items()})
        return copied
    if type(state) in (list, tuple, set):
        return type(state)(map(snapshot, state))
    return copy.deepcopy(state)


def dump_own_state(state: Any, draft: durable.Draft, objective: str, own: Any) -> str:
    """Write a state as ``dump_state`` does, and check that it can be loaded again.

    To check it only the file's structure is read; its tensors are memory-mapped.

    Args:
        state: What is written.
        draft: The file; it is flushed.
        objective: Name of the custom objective, for the message.
        own: The part of the state that the objective has yielded.

    Returns:
        The SHA-256 of the content, in hexadecimal digits.

    Raises:
        TypeError: If it cannot be saved or loaded; the message says where in ``own`` the cause is.
        OSError: If the file cannot be written.
    """
    try:
        digest = dump_state(state, draft.file)
        draft.file.flush()
        torch.load(draft.path, map_location="cpu", mmap=True, weights_only=True)
    except OSError:
        raise
    except Exception:
        refused = join_names(
            f"{path} is a {type(value).__module__}.{type(value).__qualname__}"
            for path, value in _find_refused(own, "state")
        )
        if not refused:
            raise
        raise TypeError(
            f"{objective} yielded a state that could not be loaded again: {refused}; want {LOADABLE_TYPES}"
        ) from None
    return digest


def _find_refused(state: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield what in a state cannot be saved and loaded again, each with its path, such as state['a'][0]."""
    if isinstance(state, dict):
        inner = [(f"{path}[{key!r}]", each) for key, value in state.items() for each in (key, value)]
    elif isinstance(state, list | tuple | set):
        inner = [(f"{path}[{index}]", each) for index, each in enumerate(state)]
    else:
        inner = []
    found = [each for name, value in inner for each in _find_refused(value, name)]
    yield from found
    if not found and not _is_loadable(state):
        yield path, state


def _is_loadable(value: Any) -> bool:
    file = io.BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:
        return False
    return True


def save(folder: Path, state: State, *, attempt: int, objective: str | None = None) -> str:
    """Save a checkpoint durably, under the name described at the top of this file.

    Args:
        folder: The trial's folder; created if it does not exist.
        state: Tensors and plain values, with "epoch" and "step".
        attempt: Number of the attempt that saves.
        objective: Name of the custom objective, whose states are checked; None for built-in training.

    Returns:
        The name of the file, which the caller commits to the store.

    Raises:
        TypeError: If the state of a custom objective could not be loaded again.
        OSError: If the file cannot be written.
    """
    with durable.atomic_file(folder) as draft:
        if objective is None:
            digest = dump_state(dict(state), draft.file)
        else:
            digest = dump_own_state(dict(state), draft, objective, state["own"])
        draft.name = f"checkpoint-{state['epoch']:04d}-{state['step']:06d}-{attempt:03d}-{digest}.pt"
    return draft.name


def load(path: Path) -> State | None:
    """Load a checkpoint onto the CPU; None if it is missing or its content does not match its name.

    Raises:
        OSError: If the file exists but cannot be read.
    """
    match = CHECKPOINT_NAME.fullmatch(path.name)
    if match is None:
        return None
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != match[4]:
                return None
            file.seek(0)
            state: State = torch.load(file, map_location="cpu", weights_only=True)
            return state
    except FileNotFoundError:
        return None


def load_latest(folder: Path, name: str | None) -> State | None:
    """Load the committed checkpoint, or the newest undamaged one before it.

    Args:
        folder: The trial's folder.
        name: The committed checkpoint; None if there is none.

    Returns:
        The state to resume from, or None to start from the beginning: there is no committed checkpoint, or
        it and all before it are damaged or missing.

    Raises:
        OSError: If a file exists but cannot be read.
    """
    if name is None:
        return None
    older = [each for each in reversed(list_checkpoints(folder)) if _sort_key(each) < _sort_key(name)]
    for candidate in [name, *older]:
        state = load(folder / candidate)
        if state is not None:
            return state
    return None


def prune(folder: Path, name: str) -> None:
    """Remove all checkpoints except the committed one, the newest before it, and those of later attempts.

    Args:
        folder: The trial's folder.
        name: The committed checkpoint; its attempt is the one that calls.
    """
    *_, attempt = _sort_key(name)
    ours = [each for each in list_checkpoints(folder) if _sort_key(each)[-1] <= attempt]
    before = [each for each in ours if _sort_key(each) < _sort_key(name)]
    for other in ours:
        if other != name and other not in before[1 - KEPT_CHECKPOINTS :]:
            (folder / other).unlink(missing_ok=True)


def list_checkpoints(folder: Path) -> list[str]:
    """Return the names of a folder's checkpoints by epoch, step and attempt; none without a folder."""
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted((file.name for file in files if CHECKPOINT_NAME.fullmatch(file.name)), key=_sort_key)


def _sort_key(name: str) -> tuple[int, ...]:
    """Return (epoch, step, attempt)."""
    match = CHECKPOINT_NAME.fullmatch(name)
    return tuple(int(part) for part in match.groups()[:3]) if match else ()
