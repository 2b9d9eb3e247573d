"""Checkpoints: everything a training run needs to go on, in one file that proves itself.

A name holds epoch, step, attempt and the content's SHA-256::

    checkpoint-0003-000000-002-9f86d081....pt     after epoch 3, by the second attempt

The protocol: the file is made durable under its final name first; only then is the name committed to the
store. A crash between the two leaves a file that no row names. A reader checks the hash before it
unpickles anything, since a flipped byte loads without complaint, and falls back to the file before; two
are kept for that, until the trial ends. An attempt writes under its own number, and removes no file of a
later one, so a worker that lost its trial without knowing cannot spoil what its successor relies on.

``torch.save`` takes anything; loading takes tensors and plain values alone, so that no file can run code.
So what a person's own objective yields is loaded again before its file appears, and its trial fails at its
first save, not once it is interrupted.
"""

import copy
import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from hpo.artifacts import durable

CHECKPOINT_NAME = re.compile(r"checkpoint-(\d{4,})-(\d{6,})-(\d{3,})-([0-9a-f]{64})\.pt")
KEPT_CHECKPOINTS = 2
LOADABLE_TYPES = (
    "tensors (torch.as_tensor makes one of an array), numbers, texts, None, "
    "and lists, tuples, sets and dicts of them"
)

State = Mapping[str, Any]


class _HashingWriter:
    """A file that only gets longer, the SHA-256 of what was written to it, and what kept it from more."""

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
    """Write tensors and plain values to a file, and give the content's SHA-256.

    Raises OSError where the file takes no more, which torch.save by itself turns into something else.
    """
    hashed = _HashingWriter(file)
    try:
        torch.save(state, hashed)  # type: ignore[arg-type]  # it asks for write and flush alone
    except Exception:
        if hashed.error is not None:
            raise hashed.error from None
        raise
    return hashed.hash.hexdigest()


def snapshot(state: Any) -> Any:
    """Copy a state, its tensors into the CPU's memory, so that training may go on changing it.

    NumPy's scalars, which a mean or a maximum gives and which loading refuses, become Python's.
    """
    if isinstance(state, np.generic):
        return state.item()
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        copied = copy.copy(state)  # of its own type: a model's state carries versions besides
        copied.clear()  # a key that is equal would stay as it is
        copied.update({snapshot(key): snapshot(value) for key, value in state.items()})
        return copied
    if type(state) in (list, tuple, set):
        return type(state)(map(snapshot, state))
    return copy.deepcopy(state)


def check_loadable(draft: durable.Draft, objective: str) -> None:
    """Raise TypeError, for the person whose objective it is, if what was dumped could not be loaded.

    Only the file's structure is read: its tensors are mapped.
    """
    draft.file.flush()
    try:
        torch.load(draft.path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError:
        named = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(draft.path))
        types = [name for name in named if "._" not in name] or named  # rather than what builds them
        raise TypeError(
            f"{objective} yielded a state that could not be loaded again: it holds {', '.join(types)}; "
            f"want {LOADABLE_TYPES}"
        ) from None


def save(folder: Path, state: State, *, attempt: int, objective: str | None = None) -> str:
    """Save a state (tensors and plain values, with "epoch" and "step") durably; give its file's name.

    That of a person's own ``objective`` is proved first; raises TypeError if it could not be loaded.
    """
    with durable.atomic_file(folder) as draft:
        digest = dump_state(dict(state), draft.file)
        if objective is not None:
            check_loadable(draft, objective)
        draft.name = f"checkpoint-{state['epoch']:04d}-{state['step']:06d}-{attempt:03d}-{digest}.pt"
    return draft.name


def load(path: Path) -> State | None:
    """Load a checkpoint on the CPU; None if it is gone or its content is not what its name says."""
    match = CHECKPOINT_NAME.fullmatch(path.name)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if match is None or digest != match[4]:
                return None
            file.seek(0)
            state: State = torch.load(file, map_location="cpu", weights_only=True)
            return state
    except FileNotFoundError:
        return None


def load_latest(folder: Path, name: str | None) -> State | None:
    """Load the committed checkpoint ``name``, or the newest sound one before it; None for the start."""
    if name is None:
        return None
    for older in [name, *(n for n in reversed(list_checkpoints(folder)) if _sort_key(n) < _sort_key(name))]:
        state = load(folder / older)
        if state is not None:
            return state
    return None


def prune(folder: Path, name: str) -> None:
    """Remove all checkpoints but the committed ``name``, the newest before it, and later attempts' own."""
    *_, attempt = _sort_key(name)
    ours = [n for n in list_checkpoints(folder) if _sort_key(n)[-1] <= attempt]
    before = [n for n in ours if _sort_key(n) < _sort_key(name)]
    for other in ours:
        if other != name and other not in before[1 - KEPT_CHECKPOINTS :]:
            (folder / other).unlink(missing_ok=True)


def list_checkpoints(folder: Path) -> list[str]:
    """Give the names of a folder's checkpoints, oldest first."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((p.name for p in found if CHECKPOINT_NAME.fullmatch(p.name)), key=_sort_key)


def _sort_key(name: str) -> tuple[int, ...]:
    match = CHECKPOINT_NAME.fullmatch(name)
    return tuple(int(part) for part in match.groups()[:3]) if match else ()
