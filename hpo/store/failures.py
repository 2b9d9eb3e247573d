"""Trials that did not complete: how many failed or were pruned, the commonest reason, and what to do.

If the first trials of a study all fail, the next one will most likely fail, too. So no trial is claimed any
more once ``search.max_failures`` have failed and none did better: that follows from the trials' rows, and
ends when ``hpo retry`` sets them back to WAITING.

A reason is the first line of what the trial's attributes say. Reasons that differ in their numbers only,
such as "by median after epoch 3" and "by median after epoch 5", are told as one: "after epochs 3 to 5".
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from hpo.search.asha import PAUSED_AT_RUNG
from hpo.store import rows
from hpo.store.lease_table import living_lease_statement
from hpo.store.rows import dialect_of
from hpo.store.storage import Storage, retrying

MAX_REASON_LENGTH = 300  # characters of a reason that a line shows
# Classes of failures that are no exceptions of the training, so that no traceback was written.
_WITHOUT_TRACEBACK = ("lost", "out_of_memory", "diverged", "")
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)")


@dataclass(frozen=True, kw_only=True)
class EarlyEnd:
    """The trials of a study that ended in one of the states ``failed`` and ``pruned``.

    Attributes:
        state: The state.
        count: Number of trials in this state.
        trials: Number of all trials of the study.
        reason: The commonest reason; "" if none is recorded.
        reason_count: Number of trials with this reason.
        first_trial: The first of these trials.
        has_traceback: Whether this trial wrote a ``traceback.txt``.
    """

    state: str
    count: int
    trials: int
    reason: str
    reason_count: int
    first_trial: int
    has_traceback: bool

    def __str__(self) -> str:
        ended = "failed" if self.state == "failed" else "stopped early (pruned)"
        was = "" if self.state == "failed" else "were " if self.count > 1 else "was "
        text = f"{self.count} of {self.trials} trial{'s' * (self.trials > 1)} {was}{ended}"
        reason = self.reason or "no reason is recorded"
        if self.reason_count < self.count:
            return f"{text}, most often ({self.reason_count} times): {reason}"
        return f"{text}{', each time' if self.count > 1 else ''}: {reason}"

    def traceback_path(self, files: str) -> str:
        """Return where the traceback of ``first_trial`` is, in the study's files."""
        return f"{files}/{self.first_trial:04d}/traceback.txt"

    def document(self) -> dict[str, Any]:
        """Return the fields for JSON, without those that the study's counts give."""
        return {
            "count": self.count,
            "reason": self.reason,
            "reason_count": self.reason_count,
            "first_trial": self.first_trial,
        }


def find_early_ends(trials: Iterable[FrozenTrial]) -> tuple[EarlyEnd, ...]:
    """Return what is to be said about the trials that failed and those that were pruned.

    Args:
        trials: All trials of a study, by number.

    Returns:
        One record for each of the states ``failed`` and ``pruned`` that a trial is in, in this order.
    """
    every = list(trials)
    states = {"failed": TrialState.FAIL, "pruned": TrialState.PRUNED}
    ended = {name: [trial for trial in every if trial.state == state] for name, state in states.items()}
    return tuple(_early_end(name, found, len(every)) for name, found in ended.items() if found)


def _early_end(state: str, ended: list[FrozenTrial], trials: int) -> EarlyEnd:
    (reason, alike), *_ = group_reasons([describe_end(trial) for trial in ended])
    first = ended[alike[0]]
    return EarlyEnd(
        state=state,
        count=len(ended),
        trials=trials,
        reason=reason,
        reason_count=len(alike),
        first_trial=first.number,
        has_traceback=state == "failed" and _failure(first)[0] not in _WITHOUT_TRACEBACK,
    )


def group_reasons(reasons: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Return the different reasons, the commonest first, each with the positions where it is given."""
    groups: dict[str, list[int]] = {}
    for index, reason in enumerate(reasons):
        groups.setdefault(_NUMBER.sub("#", reason), []).append(index)
    by_count = sorted(groups.values(), key=len, reverse=True)
    return [(_merge_reasons([reasons[index] for index in group]), group) for group in by_count]


def _merge_reasons(reasons: Sequence[str]) -> str:
    """Return one text for reasons that differ in their numbers only, each with its range."""
    parts = zip(*(_NUMBER.split(reason) for reason in reasons), strict=True)
    merged = "".join(each[0] if len(set(each)) == 1 else _describe_range(each) for each in parts)
    return _first_line(re.sub(r"\bepoch (?=\d+ to )", "epochs ", merged))


def _describe_range(numbers: Iterable[str]) -> str:
    found = sorted(numbers, key=float)
    return f"{found[0]} to {found[-1]}"


def _failure(trial: FrozenTrial) -> tuple[str, str]:
    """Return the class and the message of a trial's failure; empty where the store has none."""
    stored = trial.user_attrs.get("failure")
    if not isinstance(stored, Mapping):
        return "", ""
    return str(stored.get("class", "")), str(stored.get("message", ""))


def describe_end(trial: FrozenTrial) -> str:
    """Return why a trial was pruned or failed, as one line; the message of an exception with its class."""
    text = trial.user_attrs.get("pruned") if trial.state == TrialState.PRUNED else None
    return describe_failure(*_failure(trial)) if text is None else _first_line(str(text))


def describe_failure(kind: str, message: str) -> str:
    """Return why a trial failed, as one line: the first one of its message, an exception's after its class.

    Args:
        kind: The ``class`` of the failure, as it is stored.
        message: Its message.
    """
    line = _first_line(message)
    return line if kind in _WITHOUT_TRACEBACK else _first_line(f"{kind}: {line}" if line else kind)


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= MAX_REASON_LENGTH else f"{line[: MAX_REASON_LENGTH - 3]}..."


def advice_lines(name: str, found: Iterable[EarlyEnd], files: str | None) -> Iterator[str]:
    """Yield lines about trials that ended early: how many and why, the traceback, how to try again.

    Args:
        name: The study's name.
        found: The result of ``find_early_ends``; nothing is said about a study without such trials.
        files: Path or URL of the study's files; None where no place is named.
    """
    for each in found:
        yield str(each)
        yield from traceback_lines([each], files)
        if each.state == "failed":
            yield f"  once the cause is gone: hpo retry {name} --failed, then run the study again"


def traceback_lines(found: Iterable[EarlyEnd], files: str | None) -> Iterator[str]:
    """Yield a line that says where a traceback is, for trials that wrote one.

    Args:
        found: As for ``advice_lines``.
        files: Path or URL of the study's files; None where no place is named.
    """
    for each in found:
        if each.has_traceback:
            where = (
                " is in traceback.txt of its folder" if files is None else f": {each.traceback_path(files)}"
            )
            yield f"  traceback of trial {each.first_trial}{where}"


_trial, _attribute = rows.trials, rows.system_attributes
_OF_STUDY = _trial.c.study_id == sa.bindparam("study")
_DID_BETTER = sa.exists().where(_OF_STUDY, _trial.c.state.in_([TrialState.COMPLETE, TrialState.PRUNED]))
_FAILED = sa.select(sa.func.count()).where(_OF_STUDY, _trial.c.state == TrialState.FAIL)
_FIRST_FAILURES = sa.select(sa.case((_DID_BETTER, 0), else_=_FAILED.scalar_subquery()))
_REACHED_A_RUNG = sa.select(
    sa.exists().where(
        _OF_STUDY,
        _trial.c.state != TrialState.FAIL,
        _attribute.c.trial_id == _trial.c.trial_id,
        _attribute.c.key == PAUSED_AT_RUNG,
    )
)


def have_only_failures(session: Session, study_id: int, most: int) -> bool:
    """Return whether so many trials of a study failed, and none completed, was pruned or reached a rung.

    Args:
        session: The session of the caller's transaction.
        study_id: Optuna's id of the study.
        most: ``search.max_failures``; 0 is no limit.
    """
    study = {"study": study_id}
    if not most or session.execute(_FIRST_FAILURES, study).scalar_one() < most:
        return False
    return not session.execute(_REACHED_A_RUNG, study).scalar_one()


@retrying(reads=True)
def have_stopped_study(storage: Storage, study_id: int, most: int) -> bool:
    """Return whether a study has stopped because only failures came, and no worker runs a trial of it.

    A trial that still runs may do better; then the study continues.

    Args:
        storage: The storage that the study is in.
        study_id: Optuna's id of the study.
        most: ``search.max_failures``; 0 is no limit.

    Raises:
        StoreUnavailable: The database stays unavailable.
        StoreError: The database refuses the request.
    """
    with storage.transaction() as session:
        if not have_only_failures(session, study_id, most):
            return False
        living = living_lease_statement(dialect_of(session))
        return not session.execute(living, {"study": study_id}).scalar_one()
