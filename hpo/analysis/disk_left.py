"""The disk space that is left, and that a study may still take: its files so far tell the sizes.

``disk_space`` tells it before a trial has run.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from optuna.trial import FrozenTrial, TrialState

from hpo.artifacts.folders import KEPT_CHECKPOINTS, Artifacts
from hpo.search import asha, replicates
from hpo.search.asha import LISTED_ATTRIBUTES
from hpo.study.definition import Definition

SIZED_FILES = 20  # of the newest trials, whose largest tells the size of those to come


@dataclass(frozen=True, kw_only=True)
class SpaceToCome:
    """The disk space that a study may still take in its artifacts, in bytes."""

    soon: int  # by the trials that run, for their next checkpoint and weights
    in_all: int


def space_to_come(
    definition: Definition, trials: Sequence[FrozenTrial], artifacts: Artifacts
) -> SpaceToCome | None:
    """Return the disk space that a study may still take; None if no trial has a file whose size tells it.

    Args:
        definition: The study.
        trials: All its trials, with checked attributes.
        artifacts: Where their files are, in a local folder.

    Raises:
        OSError: The sizes of the files cannot be read.
    """
    weights, checkpoints = _files(trials, "weights"), _files(trials, "checkpoint")
    weights_bytes, checkpoint_bytes = _largest(weights, artifacts), _largest(checkpoints, artifacts)
    running = sum(trial.state == TrialState.RUNNING for trial in trials)
    waiting = sum(trial.state == TrialState.WAITING for trial in trials)
    if not weights_bytes and not checkpoint_bytes:
        return None
    soon = running * (weights_bytes + checkpoint_bytes)
    kept = _count_kept(definition.search.keep_weights, trials)
    at_rungs = waiting if asha.rungs_of(definition) is not None else 0
    to_keep = max(running + at_rungs - len(checkpoints), 0) * KEPT_CHECKPOINTS
    later = max(kept - len(weights), 0) * weights_bytes + to_keep * checkpoint_bytes
    return SpaceToCome(soon=soon, in_all=soon + later)


def _count_kept(keep: int | Literal["all"], trials: Sequence[FrozenTrial]) -> int:
    """Return the number of trials that keep their weights when all have ended."""
    first_of = replicates.first_trial_numbers(trials)
    given = {trial.number for trial in trials if LISTED_ATTRIBUTES & trial.system_attrs.keys()}
    listed = given - first_of.keys()
    searched = sum(first_of.get(trial.number, trial.number) not in listed for trial in trials)
    return len(trials) - searched + (searched if keep == "all" else min(keep, searched))


def _files(trials: Sequence[FrozenTrial], attribute: str) -> list[str]:
    names = (trial.user_attrs.get(attribute) for trial in trials)
    return [name for name in names if name is not None]


def _largest(names: Sequence[str], artifacts: Artifacts) -> int:
    """Return the size of the largest of the newest files in bytes; 0 if none is there."""
    paths = [Path(artifacts.path(name)) for name in names[-SIZED_FILES:]]
    return max((path.stat().st_size for path in paths if path.exists()), default=0)


def free_bytes(artifacts: Artifacts) -> int:
    """Return the free space of the disk of local artifacts, whose folder need not exist yet.

    Raises:
        OSError: The disk cannot be asked.
    """
    root = Path(artifacts.root).absolute()
    return shutil.disk_usage(next(each for each in (root, *root.parents) if each.exists())).free
